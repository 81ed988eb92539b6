//! The handle that joins a lake and a local tier.

use std::{
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use forebay_lake::Lake;
use forebay_local::LocalTier;
use forebay_runtime::Runtime;

use crate::room::Foresights;

/// A lake, a local tier, and the way between them. Cloning is cheap and gives the same one.
#[derive(Clone)]
pub struct Transfer {
    shared: Arc<Shared>,
}

struct Shared {
    lake: Lake,
    local: LocalTier,
    runtime: Runtime,
    foresights: Mutex<Foresights>,
    counters: Counters,
}

#[derive(Default)]
pub(crate) struct Counters {
    pub hits: AtomicU64,
    pub fetched: AtomicU64,
    pub fetched_bytes: AtomicU64,
    pub damaged: AtomicU64,
    pub evicted: AtomicU64,
}

/// What the fetches of one [`Transfer`] came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FetchStats {
    /// Fetches that found the object on the node.
    pub hits: u64,
    /// Objects that this process brought from the lake.
    pub fetched: u64,
    /// Their bytes.
    pub fetched_bytes: u64,
    /// Downloads whose digest did not match and that were tried once more.
    pub damaged: u64,
    /// Cached objects that this process evicted to make room.
    pub evicted: u64,
}

impl Transfer {
    /// Joins `lake` and `local`.
    #[must_use]
    pub fn new(lake: &Lake, local: &LocalTier, runtime: &Runtime) -> Self {
        Self {
            shared: Arc::new(Shared {
                lake: lake.clone(),
                local: local.clone(),
                runtime: runtime.clone(),
                foresights: Mutex::default(),
                counters: Counters::default(),
            }),
        }
    }

    /// The lake.
    #[must_use]
    pub fn lake(&self) -> &Lake {
        &self.shared.lake
    }

    /// The local tier.
    #[must_use]
    pub fn local(&self) -> &LocalTier {
        &self.shared.local
    }

    /// The runtime whose threads and clock transfers use.
    #[must_use]
    pub fn runtime(&self) -> &Runtime {
        &self.shared.runtime
    }

    /// What its fetches came to so far.
    #[must_use]
    pub fn fetch_stats(&self) -> FetchStats {
        let counters = &self.shared.counters;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        FetchStats {
            hits: read(&counters.hits),
            fetched: read(&counters.fetched),
            fetched_bytes: read(&counters.fetched_bytes),
            damaged: read(&counters.damaged),
            evicted: read(&counters.evicted),
        }
    }

    pub(crate) fn foresights(&self) -> &Mutex<Foresights> {
        &self.shared.foresights
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.shared.counters
    }
}

impl fmt::Debug for Transfer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Transfer").field("lake", &self.lake().url()).finish_non_exhaustive()
    }
}
