//! A restored state: every tensor in it was verified.

use std::{collections::BTreeMap, fmt};

use forebay_format::v1::{checkpoint::CommitRecord, tensors::Dtype};
use forebay_types::Position;

/// Where a checkpoint was read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    /// This node's memory alone.
    Memory,
    /// This node's local tier, and perhaps its memory.
    Local,
    /// The lake, at least in part.
    Lake,
}

impl fmt::Display for Tier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Memory => "memory",
            Self::Local => "local",
            Self::Lake => "lake",
        })
    }
}

/// One restored tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorView<'a> {
    /// Its name.
    pub name: &'a str,
    /// The type of its elements.
    pub dtype: Dtype,
    /// Its dimensions.
    pub shape: &'a [u64],
    /// Its elements, little-endian.
    pub bytes: &'a [u8],
}

/// A tensor in memory.
#[derive(Clone)]
pub(crate) struct Held {
    pub dtype: Dtype,
    pub shape: Vec<u64>,
    pub bytes: Vec<u8>,
}

/// A restored checkpoint, or its weights.
#[derive(Clone)]
pub struct Restored {
    pub(crate) commit: CommitRecord,
    pub(crate) tier: Tier,
    pub(crate) tensors: BTreeMap<String, Held>,
}

impl Restored {
    /// Steps taken when it was captured.
    #[must_use]
    pub const fn step(&self) -> u64 {
        self.commit.step
    }

    /// Where the run stands in its data.
    #[must_use]
    pub const fn position(&self) -> Position {
        self.commit.position
    }

    /// What the trainer said of itself besides tensors.
    #[must_use]
    pub const fn metadata(&self) -> &serde_json::Value {
        &self.commit.metadata
    }

    /// The commit it was restored from.
    #[must_use]
    pub const fn commit(&self) -> &CommitRecord {
        &self.commit
    }

    /// Where it was read from.
    #[must_use]
    pub const fn tier(&self) -> Tier {
        self.tier
    }

    /// The tensor of this name.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<TensorView<'_>> {
        self.tensors.get_key_value(name).map(|(name, held)| view(name, held))
    }

    /// Every tensor, sorted by name.
    pub fn tensors(&self) -> impl Iterator<Item = TensorView<'_>> {
        self.tensors.iter().map(|(name, held)| view(name, held))
    }
}

fn view<'a>(name: &'a str, held: &'a Held) -> TensorView<'a> {
    TensorView { name, dtype: held.dtype, shape: &held.shape, bytes: &held.bytes }
}

impl fmt::Debug for Restored {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Restored")
            .field("run", &self.commit.run)
            .field("step", &self.commit.step)
            .field("tier", &self.tier)
            .field("tensors", &self.tensors.len())
            .finish_non_exhaustive()
    }
}
