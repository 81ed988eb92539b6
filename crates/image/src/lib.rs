//! Encoded images to tensors.
