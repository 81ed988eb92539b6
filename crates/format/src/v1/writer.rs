//! Writers of a run: each launch that saves into it claims the next number.
//!
//! ```text
//! runs/<run>/writers/<number, 12 digits>.json     one claim, created if absent
//! ```
//!
//! The highest number is the writer; whoever has a lower one has been replaced and commits no more.
//! Claims are small and stay: they say who wrote a run when.

use forebay_types::{Digest, Key, Name};
use serde::{Deserialize, Serialize};

use crate::record::Record;

/// A launch that became the writer of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WriterRecord {
    /// The run.
    pub run: Name,
    /// Its number, from 1 on.
    pub number: u64,
    /// What tells the launch from every other: all its ranks have it, and nobody else.
    pub launch: Digest,
    /// When it was claimed, in milliseconds since 1970.
    pub claimed_unix_ms: u64,
    /// The newest step that was committed then. What an earlier writer commits after it does not count.
    pub newest_step: Option<u64>,
}

impl Record for WriterRecord {
    const FORMAT: &'static str = "forebay.run.writer";
    const VERSION: u32 = 1;

    fn check(&self) -> Result<(), String> {
        if self.number == 0 { Err("writers are numbered from 1 on".into()) } else { Ok(()) }
    }
}

/// Below this lie all claims of `run`.
#[must_use]
pub fn writers_prefix(run: &Name) -> String {
    format!("runs/{run}/writers/")
}

/// Where a claim lies.
#[must_use]
pub fn writer_key(run: &Name, number: u64) -> Key {
    let text = format!("{}{number:012}.json", writers_prefix(run));
    Key::new(text).expect("names and numbers make sound keys")
}

/// The number of the claim at a key below [`writers_prefix`].
#[must_use]
pub fn number_of(run: &Name, key: &Key) -> Option<u64> {
    let number = key.file_name().strip_suffix(".json")?.parse().ok()?;
    (*key == writer_key(run, number)).then_some(number)
}
