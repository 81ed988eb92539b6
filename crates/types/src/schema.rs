//! What a sample consists of: named fields.
//!
//! A value is plain bytes whatever its kind: little-endian elements one after the other, encoded
//! bytes as they are, UTF-8. So a batch is gathered by copying, and only its consumer gives the
//! bytes a type.

use serde::{Deserialize, Serialize};

use crate::Dtype;

/// What the values of one field are.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum FieldKind {
    /// A tensor of one type and shape in every sample; a number has the shape `[]`.
    Tensor {
        /// The type of its elements.
        dtype: Dtype,
        /// Its shape, outermost dimension first.
        shape: Vec<u32>,
    },
    /// As many elements as the sample has: a vector.
    Ragged {
        /// The type of its elements.
        dtype: Dtype,
    },
    /// Bytes of any length: an encoded image, a blob.
    Bytes,
    /// Text of any length, as UTF-8.
    Text,
}

impl FieldKind {
    /// The bytes of every value, if all have the same length and it can be stated.
    #[must_use]
    pub fn fixed_bytes(&self) -> Option<usize> {
        match self {
            Self::Tensor { dtype, shape } => shape
                .iter()
                .try_fold(dtype.bytes() as usize, |bytes, &size| bytes.checked_mul(size as usize)),
            Self::Ragged { .. } | Self::Bytes | Self::Text => None,
        }
    }

    /// The bytes of one element: a value's length is a multiple of it.
    #[must_use]
    pub const fn item_bytes(&self) -> usize {
        match self {
            Self::Tensor { dtype, .. } | Self::Ragged { dtype } => dtype.bytes() as usize,
            Self::Bytes | Self::Text => 1,
        }
    }
}

/// A named part of every sample.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Field {
    /// Its name, unique in the schema.
    pub name: String,
    /// What its values are.
    pub kind: FieldKind,
}

/// What a sample consists of, field by field.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Schema {
    /// The fields, in the order in which values are asked for.
    pub fields: Vec<Field>,
}

impl Schema {
    /// The number of the field of this name.
    #[must_use]
    pub fn position(&self, name: &str) -> Option<usize> {
        self.fields.iter().position(|field| field.name == name)
    }
}
