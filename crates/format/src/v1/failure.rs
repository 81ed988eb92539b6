//! Failures: what a rank leaves in a step's folder when it gives its part of a checkpoint up.
//!
//! ```text
//! runs/<run>/checkpoints/<step, 12 digits>/failed-<attempt>-rank-<r>.json
//! ```
//!
//! Ranks that wait for that part find it where they look for the part, and stop waiting. It belongs to
//! one attempt; no other looks at it.

use forebay_types::{Key, Name, Nonce};
use serde::{Deserialize, Serialize};

use super::checkpoint::{RANKS_MAX, step_prefix};
use crate::record::Record;

/// The longest reason, in bytes.
pub const REASON_BYTES_MAX: usize = 1024;

/// A rank's word that its part of an attempt will not come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FailureRecord {
    /// The run.
    pub run: Name,
    /// The step.
    pub step: u64,
    /// The rank.
    pub rank: u32,
    /// The attempt that it gave up.
    pub attempt: Nonce,
    /// When it did, in milliseconds since 1970.
    pub failed_unix_ms: u64,
    /// Why, in words for people.
    pub reason: String,
}

impl Record for FailureRecord {
    const FORMAT: &'static str = "forebay.checkpoint.failure";
    const VERSION: u32 = 1;

    fn check(&self) -> Result<(), String> {
        if self.rank >= RANKS_MAX {
            return Err(format!("there is no rank {}", self.rank));
        }
        if self.reason.len() > REASON_BYTES_MAX {
            return Err(format!("its reason is longer than {REASON_BYTES_MAX} bytes"));
        }
        Ok(())
    }
}

impl FailureRecord {
    /// Where it lies.
    #[must_use]
    pub fn key(&self) -> Key {
        failure_key(&self.run, self.step, self.attempt, self.rank)
    }
}

/// Where the failure of a rank lies.
#[must_use]
pub fn failure_key(run: &Name, step: u64, attempt: Nonce, rank: u32) -> Key {
    let text = format!("{}failed-{attempt}-rank-{rank}.json", step_prefix(run, step));
    Key::new(text).expect("names, numbers and nonces make sound keys")
}

/// The attempt and rank in the name of a failure.
#[must_use]
pub fn failure_of(key: &Key) -> Option<(Nonce, u32)> {
    let name = key.file_name().strip_prefix("failed-")?.strip_suffix(".json")?;
    let (attempt, rank) = name.split_once("-rank-")?;
    let (attempt, number): (Nonce, u32) = (attempt.parse().ok()?, rank.parse().ok()?);
    // Reading is lenient; writing it again is not.
    (number.to_string() == rank).then_some((attempt, number))
}
