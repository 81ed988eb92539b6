//! Arrays that carry their own type and shape, sample by sample.
//!
//! A field's kind is decided by looking at all of them: one dimension everywhere makes a vector of
//! any length, one shape everywhere a tensor; anything else cannot be batched and is refused.

use forebay_types::{Dtype, FieldKind};

/// One array as it lies in a sample.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Array {
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<u32>,
    /// Where its elements start; they end with the value.
    pub(crate) start: usize,
}

impl Array {
    /// Checks that the elements fill the value of `value_bytes` exactly.
    pub(crate) fn fits(self, value_bytes: usize) -> Option<Self> {
        let kind = FieldKind::Tensor { dtype: self.dtype, shape: self.shape.clone() };
        let bytes = kind.fixed_bytes()?;
        (self.start.checked_add(bytes)? == value_bytes).then_some(self)
    }

    /// Whether it can be a value of `kind`.
    pub(crate) fn is(&self, kind: &FieldKind) -> bool {
        match kind {
            FieldKind::Tensor { dtype, shape } => self.dtype == *dtype && self.shape == *shape,
            FieldKind::Ragged { dtype } => self.dtype == *dtype && self.shape.len() == 1,
            FieldKind::Bytes | FieldKind::Text => false,
        }
    }

    /// The kind that this array alone speaks for.
    pub(crate) fn kind(&self) -> FieldKind {
        if self.shape.len() == 1 {
            FieldKind::Ragged { dtype: self.dtype }
        } else {
            FieldKind::Tensor { dtype: self.dtype, shape: self.shape.clone() }
        }
    }
}

/// Takes one more array into account; false if it cannot be batched with those before it.
pub(crate) fn settle(found: &mut Option<FieldKind>, array: &Array) -> bool {
    match found {
        None => {
            *found = Some(array.kind());
            true
        }
        Some(kind) => array.is(kind),
    }
}
