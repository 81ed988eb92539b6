//! Names that people give: of datasets, runs and models; and version numbers.

use std::{fmt, num::NonZeroU32, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

const LEN_BYTES_MAX: usize = 64;

/// The name of a dataset, a run or a model.
///
/// One to 64 lower-case ASCII letters, digits, `.`, `_` and `-`, the first a letter or digit: it
/// becomes part of keys and paths, so nothing else is let in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

/// A text that cannot be a name.
#[derive(Debug, thiserror::Error)]
#[error(
    "`{0}` is not a name: expected 1 to 64 lower-case letters, digits, `.`, `_` or `-`, starting \
     with a letter or digit"
)]
pub struct NameError(String);

impl Name {
    /// Checks `text` and makes it a name.
    ///
    /// # Errors
    /// [`NameError`] when it breaks the rule above.
    pub fn new(text: impl Into<String>) -> Result<Self, NameError> {
        let text = text.into();
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
        let first = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
        if first && text.len() <= LEN_BYTES_MAX && text.bytes().all(inner) {
            Ok(Self(text))
        } else {
            Err(NameError(text.chars().take(80).collect()))
        }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::new(text)
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// The number of a published dataset or package version: 1, 2, 3, …
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Version(NonZeroU32);

impl Version {
    /// The first version of anything.
    pub const FIRST: Self = Self(NonZeroU32::MIN);

    /// The version with this number, unless it is 0.
    #[must_use]
    pub const fn new(number: u32) -> Option<Self> {
        match NonZeroU32::new(number) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }

    /// The number.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0.get()
    }

    /// The version after this one.
    ///
    /// # Panics
    /// After 2^32 - 1 versions.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.checked_add(1).expect("a store holds fewer than 2^32 versions of one name"))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "v{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_no_path_segment_are_refused() {
        let long = "a".repeat(65);
        for text in ["", ".", "..", ".a", "-a", "A", "a/b", "a b", "a\n", "ü", &long] {
            assert!(Name::new(text).is_err(), "{text:?}");
        }
        for text in ["a", "rfc-tokens", "gpt_small.2", "7b"] {
            assert_eq!(Name::new(text).unwrap().as_str(), text);
        }
    }

    #[test]
    fn versions_count_from_one() {
        assert_eq!(Version::new(0), None);
        assert_eq!(Version::FIRST.next(), Version::new(2).unwrap());
        assert_eq!(Version::FIRST.to_string(), "v1");
    }
}
