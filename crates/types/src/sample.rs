//! The stable identity of one sample.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// The identity of one sample: the first 16 bytes of a BLAKE3 digest over what it was made from.
///
/// It does not depend on the shard the sample lies in, nor on the seed of any shuffle.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SampleId([u8; 16]);

impl SampleId {
    /// The id whose 16 bytes are already known.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The 16 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for SampleId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl fmt::Debug for SampleId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "SampleId({self})")
    }
}

/// A text that should be a sample id and is not.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a sample id: expected 32 lower-case hexadecimal digits")]
pub struct SampleIdError(String);

impl FromStr for SampleId {
    type Err = SampleIdError;

    fn from_str(text: &str) -> Result<Self, SampleIdError> {
        let mut bytes = [0; 16];
        crate::hexadecimal::decode(text, &mut bytes)
            .then_some(Self(bytes))
            .ok_or_else(|| SampleIdError(text.chars().take(80).collect()))
    }
}

impl Serialize for SampleId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SampleId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips() {
        let id = SampleId::from_bytes(*b"0123456789abcdef");
        assert_eq!(id.to_string().parse::<SampleId>().unwrap(), id);
        assert!("abc".parse::<SampleId>().is_err());
    }
}
