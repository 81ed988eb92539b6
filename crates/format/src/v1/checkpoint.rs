//! Checkpoints: what makes a training state exist.
//!
//! ```text
//! runs/<run>/checkpoints/<step, 12 digits>/
//!   rank-<r>-<digest>.safetensors     one rank's tensors, named by the digest of the file
//!   rank-<r>-<digest>.json            one rank's record, named by the digest of its body
//!   commit.json                       the commit: names the record of every rank
//! ```
//!
//! Everything but the commit is named by its content, so no attempt can overwrite what another
//! one wrote, and the commit says which of them belong together.

use forebay_types::{Digest, Key, Name, Nonce, Position};
use serde::{Deserialize, Serialize};

use super::{dataset::ObjectEntry, tensors::Dtype};
use crate::record::Record;

/// What one rank put into a checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RankRecord {
    /// The run.
    pub run: Name,
    /// Steps taken when it was captured.
    pub step: u64,
    /// The rank.
    pub rank: u32,
    /// The number of ranks that belong to this checkpoint.
    pub world_size: u32,
    /// The attempt all ranks of one checkpoint share; ranks of two attempts are never committed
    /// together.
    pub attempt: String,
    /// Where the run stood in its data.
    pub position: Position,
    /// What the trainer stored beside its tensors: schedule, random state, …
    pub metadata: serde_json::Value,
    /// The tensor file.
    pub file: ObjectEntry,
    /// Its tensors, in the order of their data.
    pub tensors: Vec<TensorEntry>,
}

/// One tensor of a rank.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorEntry {
    /// Its name.
    pub name: String,
    /// The type of its elements.
    pub dtype: Dtype,
    /// Its shape.
    pub shape: Vec<u64>,
    /// Where its values start in the file.
    pub offset: u64,
    /// How long they are.
    pub bytes: u64,
    /// The digest of its values.
    pub digest: Digest,
}

/// The record whose presence makes a checkpoint exist.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommitRecord {
    /// The run.
    pub run: Name,
    /// Steps taken when it was captured.
    pub step: u64,
    /// Where the run stood in its data.
    pub position: Position,
    /// The digest of each rank's record, from rank 0 on.
    pub ranks: Vec<Digest>,
    /// When it was committed, in milliseconds since 1970.
    pub created_unix_ms: u64,
    /// Made by its writer, who recognizes its own record by it.
    pub nonce: Nonce,
}

impl Record for RankRecord {
    const FORMAT: &'static str = "forebay.checkpoint.rank";
    const VERSION: u32 = 1;

    fn check(&self) -> Result<(), String> {
        if self.rank >= self.world_size {
            return Err(format!("rank {} of world size {}", self.rank, self.world_size));
        }
        let end = self.tensors.last().map(|last| last.offset.saturating_add(last.bytes));
        if end.is_some_and(|end| end != self.file.bytes) {
            return Err("its tensors do not fill its file".into());
        }
        Ok(())
    }
}

impl Record for CommitRecord {
    const FORMAT: &'static str = "forebay.checkpoint.commit";
    const VERSION: u32 = 1;

    fn check(&self) -> Result<(), String> {
        if self.ranks.is_empty() { Err("it names no rank".into()) } else { Ok(()) }
    }
}

/// Below this lie all checkpoints of `run`.
#[must_use]
pub fn checkpoints_prefix(run: &Name) -> String {
    format!("runs/{run}/checkpoints/")
}

/// Below this lies the checkpoint of `run` at `step`.
#[must_use]
pub fn step_prefix(run: &Name, step: u64) -> String {
    format!("{}{step:012}/", checkpoints_prefix(run))
}

/// Where a rank's tensors lie.
#[must_use]
pub fn tensors_key(run: &Name, step: u64, rank: u32, digest: Digest) -> Key {
    key(format!("{}rank-{rank}-{digest}.safetensors", step_prefix(run, step)))
}

/// Where a rank's record lies.
#[must_use]
pub fn rank_key(run: &Name, step: u64, rank: u32, digest: Digest) -> Key {
    key(format!("{}rank-{rank}-{digest}.json", step_prefix(run, step)))
}

/// Where the commit lies.
#[must_use]
pub fn commit_key(run: &Name, step: u64) -> Key {
    key(format!("{}commit.json", step_prefix(run, step)))
}

fn key(text: String) -> Key {
    Key::new(text).expect("names, numbers and digests make sound keys")
}
