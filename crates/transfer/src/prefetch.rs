//! Prefetching: objects land before they are needed, in the order in which they will be.
//!
//! A [`Plan`] knows the future: the needs in order of their first position, and when any object
//! is needed next. The consumer reports how far it is by [`Prefetcher::advance`]. Threads take
//! one need after the other and land it as soon as both hold:
//!
//! - what is landed and not yet reached stays within `lookahead_bytes`;
//! - the tier has room, or holds an object that is needed later (see [`crate::Foresight`]) and what
//!   is not yet reached takes at most an eighth of the tier: what lands early in a full tier takes
//!   the place of what could have stayed for the next epoch.
//!
//! A prefetch that fails is counted and forgotten: whoever needs the object fetches it himself,
//! waits for nobody here, and gets the error, if it lasts. So a prefetcher can make a consumer
//! faster, and can neither block it nor hide a fault from it.
//!
//! Dropping the prefetcher stops its threads at the next piece of a download and joins them.

use std::{
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use forebay_runtime::Task;
use forebay_types::Digest;

use crate::{Error, Foresight, Object, Transfer, fetch::Urgency};

/// How long a thread waits before it looks again whether the runtime was cancelled.
const PATIENCE: Duration = Duration::from_millis(100);

/// The part of a tier for which others may be evicted before it is needed. Without this bound
/// each epoch read up to half a percent more of the dataset, as `benches/eviction.rs` shows.
const TIER_SHARE: u64 = 8;

/// One object that will be needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    /// What.
    pub object: Object,
    /// The first position at which it may be needed.
    pub first: u64,
    /// The last position at which it may be needed.
    pub last: u64,
}

/// Needs in order of their first position. After an error the next call tries the same need again.
pub type Needs = Box<dyn Iterator<Item = Result<Need, Error>> + Send>;

/// A known future.
pub trait Plan: Send + Sync + 'static {
    /// What is needed from position `from` on.
    fn needs(self: Arc<Self>, from: u64) -> Needs;

    /// The first position from `after` on at which `digest` is needed, or an earlier one; `None`
    /// when it is not known to be needed again.
    fn next_use(&self, digest: Digest, after: u64) -> Option<u64>;
}

/// The limits of one prefetcher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrefetchSettings {
    /// Objects landing at the same time.
    pub threads: usize,
    /// Bytes landed for positions that the consumer has not reached.
    pub lookahead_bytes: u64,
}

/// What a prefetcher did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PrefetchStats {
    /// Needs that were on the node before the consumer reached them.
    pub ready: u64,
    /// Needs given up because everything in the tier was needed sooner.
    pub bypassed: u64,
    /// Prefetches that failed and were left to the consumer.
    pub failed: u64,
}

/// Threads that land what a plan says will be needed.
pub struct Prefetcher {
    shared: Arc<Shared>,
    threads: Vec<Task<()>>,
}

struct Shared {
    transfer: Transfer,
    plan: Arc<dyn Plan>,
    needs: Mutex<Needs>,
    settings: PrefetchSettings,
    progress: Mutex<Progress>,
    advanced: Condvar,
    stopped: AtomicBool,
    ready: AtomicU64,
    bypassed: AtomicU64,
    failed: AtomicU64,
}

struct Progress {
    at: u64,
    /// First position and bytes of every admitted need that the consumer has not reached.
    ahead: Vec<(u64, u64)>,
    /// The first position that a thread waits for.
    awaited: u64,
}

impl Progress {
    fn ahead_bytes(&self) -> u64 {
        self.ahead.iter().map(|&(_, bytes)| bytes).sum()
    }
}

impl Prefetcher {
    /// Starts to land what `plan` needs from position `from` on.
    #[must_use]
    pub fn start(
        transfer: &Transfer,
        plan: Arc<dyn Plan>,
        from: u64,
        settings: PrefetchSettings,
    ) -> Self {
        let shared = Arc::new(Shared {
            transfer: transfer.clone(),
            needs: Mutex::new(plan.clone().needs(from)),
            plan,
            settings,
            progress: Mutex::new(Progress { at: from, ahead: Vec::new(), awaited: u64::MAX }),
            advanced: Condvar::new(),
            stopped: AtomicBool::new(false),
            ready: AtomicU64::new(0),
            bypassed: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        });
        let foresight: Weak<Shared> = Arc::downgrade(&shared);
        transfer.foresee(foresight);
        let threads = (0..settings.threads)
            .map(|index| {
                let shared = shared.clone();
                let name = format!("prefetch-{index}");
                transfer.runtime().spawn(&name, move || while shared.land_one() {})
            })
            .collect();
        Self { shared, threads }
    }

    /// Reports that nothing before `position` will be asked for again.
    pub fn advance(&self, position: u64) {
        // A forked child has no threads to tell, and maybe a lock that nobody will release.
        if self.shared.transfer.is_forked() {
            return;
        }
        let mut progress = self.shared.lock();
        progress.at = progress.at.max(position);
        let (at, before) = (progress.at, progress.ahead.len());
        progress.ahead.retain(|&(first, _)| first > at);
        // A consumer advances thousands of times a second, and threads wait for few of them.
        if progress.ahead.len() < before || at >= progress.awaited {
            progress.awaited = u64::MAX;
            self.shared.advanced.notify_all();
        }
    }

    /// What it did so far.
    #[must_use]
    pub fn stats(&self) -> PrefetchStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Shared { ready, bypassed, failed, .. } = &*self.shared;
        PrefetchStats { ready: read(ready), bypassed: read(bypassed), failed: read(failed) }
    }
}

impl Drop for Prefetcher {
    fn drop(&mut self) {
        if self.shared.transfer.is_forked() {
            // The threads are the parent's: to join them would be to wait for ever.
            std::mem::forget(std::mem::take(&mut self.threads));
            return;
        }
        // The lock orders the flag before the wake-up, so no waiter misses it.
        let progress = self.shared.lock();
        self.shared.stopped.store(true, Ordering::SeqCst);
        drop(progress);
        self.shared.advanced.notify_all();
        for thread in self.threads.drain(..) {
            // A panic there was printed where it happened, and lost only a prefetch.
            let _ = thread.join();
        }
    }
}

impl Foresight for Shared {
    fn position(&self) -> u64 {
        self.lock().at
    }

    fn next_use(&self, digest: Digest, after: u64) -> Option<u64> {
        self.plan.next_use(digest, after)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stopping(&self) -> bool {
        self.stopped.load(Ordering::SeqCst) || self.transfer.runtime().check().is_err()
    }

    /// Waits until the consumer is at `position` or has reached something that landed; nothing
    /// when the work is over.
    fn wait<'a>(
        &self,
        mut progress: MutexGuard<'a, Progress>,
        position: u64,
    ) -> Option<MutexGuard<'a, Progress>> {
        if self.stopping() {
            return None;
        }
        progress.awaited = progress.awaited.min(position);
        let woken = self.advanced.wait_timeout(progress, PATIENCE);
        Some(woken.unwrap_or_else(PoisonError::into_inner).0)
    }

    /// Lands the next need; false when there is none or the work is over.
    fn land_one(&self) -> bool {
        if self.stopping() {
            return false;
        }
        // Reading a page of shards happens inside: the others would need the same page.
        let next = self.needs.lock().unwrap_or_else(PoisonError::into_inner).next();
        match next {
            None => false,
            Some(Ok(need)) => self.admit(&need) && self.land(&need),
            Some(Err(_)) => {
                self.failed.fetch_add(1, Ordering::Relaxed);
                self.wait(self.lock(), u64::MAX).is_some()
            }
        }
    }

    /// Waits until `need` fits into what may lie ahead; false when the work is over.
    fn admit(&self, need: &Need) -> bool {
        let mut progress = self.lock();
        loop {
            let bytes = need.object.bytes;
            if need.first <= progress.at {
                return !self.stopping();
            }
            if progress.ahead_bytes().saturating_add(bytes) <= self.settings.lookahead_bytes {
                progress.ahead.push((need.first, bytes));
                return !self.stopping();
            }
            match self.wait(progress, need.first) {
                Some(woken) => progress = woken,
                None => return false,
            }
        }
    }

    /// Lands an admitted need, or lets it be; false when the work is over.
    fn land(&self, need: &Need) -> bool {
        loop {
            let (at, ahead_bytes) = {
                let progress = self.lock();
                (progress.at, progress.ahead_bytes())
            };
            if need.last < at {
                return true;
            }
            let distance = need.first.saturating_sub(at);
            let share_bytes = self.transfer.local().budget_bytes() / TIER_SHARE;
            // Two objects may always be on their way, in however small a tier.
            let crowded = ahead_bytes > share_bytes.max(2 * need.object.bytes);
            let evicts = distance == 0 || !crowded;
            let urgency = Urgency::Ahead { distance, evicts, stop: &self.stopped };
            match self.transfer.fetch_when(&need.object, urgency) {
                Ok(Some(_)) => {
                    self.ready.fetch_add(u64::from(distance > 0), Ordering::Relaxed);
                    return true;
                }
                Ok(None) if distance == 0 => {
                    self.bypassed.fetch_add(1, Ordering::Relaxed);
                    return true;
                }
                Ok(None) => {
                    // The nearer it is, the more may go for it.
                    if self.wait(self.lock(), at + distance.div_ceil(8)).is_none() {
                        return false;
                    }
                }
                Err(_) => {
                    self.failed.fetch_add(1, Ordering::Relaxed);
                    return !self.stopping();
                }
            }
        }
    }
}
