//! The handle that joins a lake and a local tier.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use forebay_lake::Lake;
use forebay_local::LocalTier;
use forebay_runtime::Runtime;

use crate::{
    Error,
    room::{Candidates, Foresights},
};

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
    candidates: Mutex<Candidates>,
    counters: Counters,
    /// The process that made it.
    process: u32,
}

#[derive(Default)]
pub(crate) struct Counters {
    pub hits: AtomicU64,
    pub fetched: AtomicU64,
    pub fetched_bytes: AtomicU64,
    pub damaged: AtomicU64,
    pub refetched: AtomicU64,
    pub evicted: AtomicU64,
}

/// What the fetches of one [`Transfer`] came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FetchStats {
    /// Fetches that found the object on the node.
    pub hits: u64,
    /// Objects that this process brought from the lake.
    pub fetched: u64,
    /// The bytes read from the lake for them.
    pub fetched_bytes: u64,
    /// Downloads whose digest did not match and that were tried once more.
    pub damaged: u64,
    /// Cached files found damaged that this process downloaded again.
    pub refetched: u64,
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
                candidates: Mutex::default(),
                counters: Counters::default(),
                process: forebay_runtime::process_id(),
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
            refetched: read(&counters.refetched),
            evicted: read(&counters.evicted),
        }
    }

    /// Whether this process is a fork of the one that made it.
    pub(crate) fn is_forked(&self) -> bool {
        self.shared.process != forebay_runtime::process_id()
    }

    /// A forked child has none of the threads, and maybe locks that nobody will release.
    pub(crate) fn require_process(&self) -> Result<(), Error> {
        if self.is_forked() {
            let (opened, child) = (self.shared.process, forebay_runtime::process_id());
            return Err(Error::Forked { opened, child });
        }
        Ok(())
    }

    pub(crate) fn candidates(&self) -> MutexGuard<'_, Candidates> {
        self.shared.candidates.lock().unwrap_or_else(PoisonError::into_inner)
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
