//! The records that could not be read: JSON lines, one a record (`docs/format/dataset.md`).

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Error;

/// The longest excerpt, in characters.
pub const EXCERPT_CHARACTERS_MAX: usize = 200;

/// A record that could not be read, or the lost tail of a source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quarantined {
    /// The source object.
    pub source: String,
    /// The record's number in it, from 0.
    pub record: u64,
    /// Where it starts in the source, decompressed.
    pub offset: u64,
    /// Its length there; of a lost tail, what could still be read.
    pub bytes: u64,
    /// Why, as one word for counting.
    pub reason: Reason,
    /// Why, for people.
    pub detail: String,
    /// Its beginning, at most [`EXCERPT_CHARACTERS_MAX`] characters, invalid bytes replaced.
    pub excerpt: String,
}

/// Why a record is in quarantine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Not a JSON object.
    InvalidJson,
    /// No text field, or a text field that holds no text.
    NoText,
    /// Bytes that are no UTF-8.
    InvalidUtf8,
    /// Longer than the recipe allows.
    TooLarge,
    /// The compressed stream breaks off or is damaged: the rest of the source is lost.
    DamagedStream,
}

impl Reason {
    /// The reason as one word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidJson => "invalid_json",
            Self::NoText => "no_text",
            Self::InvalidUtf8 => "invalid_utf8",
            Self::TooLarge => "too_large",
            Self::DamagedStream => "damaged_stream",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl Quarantined {
    /// The beginning of `bytes`, as far as people need it.
    #[must_use]
    pub fn excerpt(bytes: &[u8]) -> String {
        // Four bytes a character at most; cutting first keeps a huge record cheap.
        let head = &bytes[..bytes.len().min(4 * EXCERPT_CHARACTERS_MAX)];
        String::from_utf8_lossy(head).chars().take(EXCERPT_CHARACTERS_MAX).collect()
    }

    /// The line, with its line end.
    #[must_use]
    pub fn to_line(&self) -> String {
        let json = serde_json::to_string(self).expect("plain fields make JSON");
        json + "\n"
    }
}

/// Reads a quarantine file; `object` names it in errors.
///
/// # Errors
/// [`Error::Damaged`] at the first line that is no entry.
pub fn decode<'a>(
    text: &'a str,
    object: &'a str,
) -> impl Iterator<Item = Result<Quarantined, Error>> + 'a {
    text.lines().enumerate().map(move |(index, line)| {
        serde_json::from_str(line)
            .map_err(|error| Error::damaged(object, format!("line {}: {error}", index + 1)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Quarantined {
        Quarantined {
            source: "a/b.jsonl.gz".into(),
            record: 3,
            offset: 99,
            bytes: 7,
            reason: Reason::InvalidUtf8,
            detail: "at byte 2".into(),
            excerpt: Quarantined::excerpt(b"a\n\xff\"b"),
        }
    }

    #[test]
    fn an_entry_is_one_line_and_comes_back() {
        let text = entry().to_line().repeat(2);
        assert_eq!(text.lines().count(), 2);
        let read: Vec<_> = decode(&text, "q").collect::<Result<_, _>>().unwrap();
        assert_eq!(read, [entry(), entry()]);
        let error = decode("{}\n", "q").next().unwrap().unwrap_err();
        assert!(error.to_string().starts_with("q is damaged: line 1"), "{error}");
    }

    #[test]
    fn excerpts_are_short_whatever_the_record_is() {
        let long = "ä".repeat(10_000);
        assert_eq!(Quarantined::excerpt(long.as_bytes()).chars().count(), EXCERPT_CHARACTERS_MAX);
        assert!(Quarantined::excerpt(&[0xff; 10_000]).chars().count() <= EXCERPT_CHARACTERS_MAX);
    }

    #[test]
    fn the_word_for_a_reason_is_the_word_that_is_stored() {
        use Reason::{DamagedStream, InvalidJson, InvalidUtf8, NoText, TooLarge};
        for reason in [InvalidJson, NoText, InvalidUtf8, TooLarge, DamagedStream] {
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.as_str());
        }
    }
}
