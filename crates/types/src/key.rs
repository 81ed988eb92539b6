//! Keys: the checked relative paths of objects in the lake.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// The longest key, in bytes: what S3 allows, so that a key valid in one store is valid in all.
const LEN_BYTES_MAX: usize = 1024;

/// The path of an object below the root of its store: `datasets/rfc/v1.json`.
///
/// Segments are made of ASCII letters, digits and `._-=+@,()~!`, are separated by `/`, are never
/// empty and never start with a dot; inside a segment, but not at its ends, there may be spaces.
/// So no key can leave its root, name a temporary file, or mean two things on two stores, and
/// objects that others named (`date=2026-01-02/part-0 (1).parquet`) can be read as they lie.
///
/// Left out are the bytes that some store, file system or URL gives another meaning: backslash,
/// colon, `%`, `?`, `#`, `*`, quotes, brackets, `&`, `;`, `$`, `<`, `>`, `|`, `^`, control bytes
/// and everything beyond ASCII, which has several spellings. Spaces at the ends of a segment are
/// lost by some stores.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(String);

/// A text that cannot be a key.
#[derive(Debug, thiserror::Error)]
#[error(
    "`{0}` is not an object key: expected segments of letters, digits, `._-=+@,()~!` and inner \
     spaces that do not start with a dot, joined by `/`"
)]
pub struct KeyError(String);

impl Key {
    /// Checks `text` and makes it a key.
    ///
    /// # Errors
    /// [`KeyError`] when it breaks the rule above.
    pub fn new(text: impl Into<String>) -> Result<Self, KeyError> {
        let text = text.into();
        let sound = |segment: &str| {
            !segment.is_empty()
                && !segment.starts_with('.')
                && !segment.starts_with(' ')
                && !segment.ends_with(' ')
                && segment
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"._-=+@,()~! ".contains(&b))
        };
        if text.len() <= LEN_BYTES_MAX && text.split('/').all(sound) {
            Ok(Self(text))
        } else {
            Err(KeyError(text.chars().take(80).collect()))
        }
    }

    /// The key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last segment.
    #[must_use]
    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl FromStr for Key {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        Self::new(text)
    }
}

impl Serialize for Key {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_could_escape_or_mislead_are_refused() {
        let long = "a".repeat(LEN_BYTES_MAX + 1);
        for text in [
            "", "/", "a//b", "../a", "a/..", "a/.tmp", " a", "a /b", "a\\b", "a/", "ä", "a%2fb",
            "a?b", "a#b", "a*b", "a:b", "a\nb", "a\0", "a\u{7f}", "a\"b", "a'b", "a&b", &long,
        ] {
            assert!(Key::new(text).is_err(), "{text}");
        }
    }

    #[test]
    fn names_that_others_gave_are_kept() {
        for text in ["date=2026-01-02/a+b@c,(1)~!.parquet", "part 0 of 2", "~/x", "!", "a..b"] {
            assert_eq!(Key::new(text).unwrap().as_str(), text);
        }
    }

    #[test]
    fn ordinary_keys_are_kept_as_they_are() {
        let key = Key::new("runs/day-1/checkpoints/00000010/rank-0.safetensors").unwrap();
        assert_eq!(key.file_name(), "rank-0.safetensors");
        assert_eq!(key.to_string().parse::<Key>().unwrap(), key);
    }
}
