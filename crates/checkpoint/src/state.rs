//! The tensors a trainer hands over.

use std::borrow::Cow;

use forebay_format::v1::{
    checkpoint::TensorPart,
    tensors::{Dtype, TensorSpec},
};

use crate::Error;

/// One tensor of the training state, borrowed where the trainer has it as bytes.
///
/// Weights are named `model.…` and optimizer state `optimizer.…`. Across ranks names are unique, but
/// for tensors that several hold in parts.
#[derive(Clone, Debug, PartialEq)]
pub struct StateTensor<'a> {
    /// Its name.
    pub name: Cow<'a, str>,
    /// The type of its elements.
    pub dtype: Dtype,
    /// Its dimensions; none for a single number.
    pub shape: Vec<u64>,
    /// Its elements, little-endian, the last dimension fastest.
    pub bytes: Cow<'a, [u8]>,
    /// What of a larger tensor of this name it is; none when it is the whole.
    pub part: Option<TensorPart>,
}

impl StateTensor<'_> {
    /// The tensor without its bytes, if their number is right.
    pub(crate) fn spec(&self) -> Result<TensorSpec, Error> {
        let (name, shape) = (self.name.clone().into_owned(), self.shape.clone());
        let spec = TensorSpec { name, dtype: self.dtype, shape };
        let (found, expected) = (self.bytes.len() as u64, spec.bytes().unwrap_or(u64::MAX));
        if found == expected {
            Ok(spec)
        } else {
            Err(Error::Tensor { tensor: spec.name, found, expected })
        }
    }
}

#[cfg(test)]
impl StateTensor<'static> {
    /// Tensors of so many bytes, for tests.
    pub(crate) fn some(sizes: &[usize]) -> Vec<Self> {
        let tensor = |(index, &bytes): (usize, &usize)| Self {
            name: Cow::Owned(format!("t{index}")),
            dtype: Dtype::U8,
            shape: vec![bytes as u64],
            bytes: Cow::Owned((0..bytes).map(|at| (at * 7 + index) as u8).collect()),
            part: None,
        };
        sizes.iter().enumerate().map(tensor).collect()
    }
}
