//! Telling how far a preparation has come.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A part of the work. They follow one another in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Digesting the raw files.
    Digest,
    /// Reading and cleaning records.
    Clean,
    /// Finding duplicates.
    Deduplicate,
    /// Tokenizing and packing rows.
    Tokenize,
    /// Shuffling the rows and writing shards.
    Write,
    /// Publishing the manifest.
    Publish,
}

impl Stage {
    /// Every stage, in order.
    pub const ALL: [Self; 6] =
        [Self::Digest, Self::Clean, Self::Deduplicate, Self::Tokenize, Self::Write, Self::Publish];

    /// The stage as one word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Digest => "digest",
            Self::Clean => "clean",
            Self::Deduplicate => "deduplicate",
            Self::Tokenize => "tokenize",
            Self::Write => "write",
            Self::Publish => "publish",
        }
    }

    /// What is counted in it.
    #[must_use]
    pub const fn unit(self) -> &'static str {
        match self {
            Self::Digest | Self::Clean => "bytes",
            Self::Deduplicate => "partitions",
            Self::Tokenize => "tasks",
            Self::Write => "rows",
            Self::Publish => "manifests",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// Who is told. Called from many threads, often: it must be quick.
pub trait Progress: Sync {
    /// `done` more of `total` of `stage` are done.
    fn add(&self, stage: Stage, done: u64, total: u64);
}

/// Tells nobody.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn add(&self, _: Stage, _: u64, _: u64) {}
}
