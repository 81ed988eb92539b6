//! Counting what moves, by purpose.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Mutex, PoisonError},
};

/// What an object is read or written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Purpose {
    /// Raw data.
    Source,
    /// Small records that name other objects.
    Manifest,
    /// Prepared samples.
    Shard,
    /// Training state.
    Checkpoint,
    /// What a run did.
    Journal,
    /// Archived models.
    Package,
}

impl fmt::Display for Purpose {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Source => "source",
            Self::Manifest => "manifest",
            Self::Shard => "shard",
            Self::Checkpoint => "checkpoint",
            Self::Journal => "journal",
            Self::Package => "package",
        })
    }
}

/// What moved for one purpose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Requests that read.
    pub reads: u64,
    /// Requests that wrote.
    pub writes: u64,
    /// Bytes read.
    pub bytes_read: u64,
    /// Bytes written.
    pub bytes_written: u64,
    /// Requests made again after a passing failure.
    pub retries: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counters(Mutex<BTreeMap<Purpose, Traffic>>);

impl Counters {
    pub(crate) fn count(&self, purpose: Purpose, add: impl FnOnce(&mut Traffic)) {
        add(self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(purpose).or_default());
    }

    pub(crate) fn snapshot(&self) -> BTreeMap<Purpose, Traffic> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
