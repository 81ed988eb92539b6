//! Encoded images to tensors.
//!
//! [`ImageDecoder::decode`] takes one JPEG, PNG or WebP image from memory to one tensor in memory:
//!
//! 1. The header says the image's size; more pixels than the settings allow are refused here,
//!    before anything is decoded.
//! 2. The crop is chosen ([`AugmentKey`] decides it), and the decoder asked for that region alone.
//!    JPEG is decoded at a half, a quarter or an eighth where the crop is that much larger than
//!    the output, so most of its pixels are never made.
//! 3. The region is resized straight to the output's size, antialiased.
//! 4. Jitter changes the colours in place; one last pass flips, normalizes and orders the
//!    dimensions.
//!
//! Pixels are red, green, blue and an unused byte throughout: four bytes a pixel suit SIMD, and
//! every decoder writes them at no extra cost. An alpha channel is dropped, 16 bits a channel keep
//! the upper 8, and palettes, greyscale and CMYK become RGB, as Pillow's `convert("RGB")` does.
//!
//! Everything here is a function of its arguments: no I/O, no clock, no thread, no ambient
//! randomness. A thread lends its [`Scratch`], whose buffers grow to the largest image met, at most
//! 4 bytes for each of `pixels_max`. Hostile bytes give an [`Error`].
//!
//! The C decoders are called in `jpeg.rs` and `webp.rs`, the only files with unsafe code;
//! docs/decisions/0006-image-decoders.md says why they are in C.

mod container;
mod decoder;
mod error;
mod geometry;
mod jitter;
mod jpeg;
mod key;
mod orientation;
mod png;
mod resize;
mod settings;
mod tensor;
mod webp;

pub use container::Format;
pub use decoder::{ImageDecoder, Scratch};
pub use error::Error;
pub use geometry::ImageSize;
pub use key::AugmentKey;
pub use settings::{Color, Crop, Filter, ImageSettings, Jitter, Layout, Normalize};
