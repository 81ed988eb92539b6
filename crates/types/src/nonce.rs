//! Nonces: how a writer recognizes its own record when the reply to its request was lost.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// 128 bits that no other record carries, written as 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Nonce(u128);

/// A text that should be a nonce and is not.
#[derive(Debug, thiserror::Error)]
#[error("a nonce is 32 lower-case hexadecimal digits")]
pub struct NonceError;

impl Nonce {
    /// The nonce with these bits; `forebay_runtime::Runtime::nonce` makes fresh ones.
    #[must_use]
    pub const fn from_bits(bits: u128) -> Self {
        Self(bits)
    }
}

impl fmt::Display for Nonce {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:032x}", self.0)
    }
}

impl fmt::Debug for Nonce {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Nonce({self})")
    }
}

impl std::str::FromStr for Nonce {
    type Err = NonceError;

    fn from_str(text: &str) -> Result<Self, NonceError> {
        let number = u128::from_str_radix(text, 16).map_err(|_| NonceError)?;
        // Parsing is lenient (case, sign, length); writing it again is not.
        let nonce = Self(number);
        if nonce.to_string() == text { Ok(nonce) } else { Err(NonceError) }
    }
}

impl Serialize for Nonce {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Nonce {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_written_form_is_read_back() {
        let nonce = Nonce::from_bits(0xabc);
        assert_eq!(nonce.to_string().parse::<Nonce>().unwrap(), nonce);
        for text in ["", "+1", "0", &nonce.to_string().to_uppercase(), &"0".repeat(33)] {
            assert!(text.parse::<Nonce>().is_err(), "{text}");
        }
    }
}
