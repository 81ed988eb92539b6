//! The types of a tensor's elements.

use serde::{Deserialize, Serialize};

/// The type of a tensor's elements, as safetensors spells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[allow(missing_docs, reason = "each is a letter and a number of bits")]
pub enum Dtype {
    #[serde(rename = "C64")]
    C64,
    #[serde(rename = "F64")]
    F64,
    #[serde(rename = "F32")]
    F32,
    #[serde(rename = "F16")]
    F16,
    #[serde(rename = "BF16")]
    BF16,
    #[serde(rename = "F8_E5M2")]
    F8E5M2,
    #[serde(rename = "F8_E4M3")]
    F8E4M3,
    #[serde(rename = "F8_E8M0")]
    F8E8M0,
    #[serde(rename = "I64")]
    I64,
    #[serde(rename = "I32")]
    I32,
    #[serde(rename = "I16")]
    I16,
    #[serde(rename = "I8")]
    I8,
    #[serde(rename = "U64")]
    U64,
    #[serde(rename = "U32")]
    U32,
    #[serde(rename = "U16")]
    U16,
    #[serde(rename = "U8")]
    U8,
    #[serde(rename = "BOOL")]
    Bool,
}

impl Dtype {
    /// The bytes of one element.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        match self {
            Self::C64 | Self::F64 | Self::I64 | Self::U64 => 8,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::F16 | Self::BF16 | Self::I16 | Self::U16 => 2,
            Self::F8E5M2 | Self::F8E4M3 | Self::F8E8M0 | Self::I8 | Self::U8 | Self::Bool => 1,
        }
    }
}
