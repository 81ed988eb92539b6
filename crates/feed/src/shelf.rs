//! The shelf: the extents that are open, mapped from the local tier.
//!
//! The bytes of a row are verified by checksum when they are first read through a mapping, so a
//! byte that flips on the node's disk is found before a row of it is handed out. A damaged extent
//! is fetched from the lake again, once; if it is damaged still, the error names it.
//!
//! An extent that no stream needs any more *rests*: a dataset that fits into the tier needs it again
//! in the next epoch, and to map and verify it anew costs as much as to read it. At most
//! [`RESTING_MAX`] rest, none for longer than [`REST_MAX`], and all leave when files come and go in
//! the tier, so that one which it evicted does not keep its blocks; what was opened before that does
//! not rest any more. A byte that flips under a mapping
//! is found when the extent is mapped next.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use forebay_local::CachedFile;
use forebay_transfer::{Object, Transfer};

use crate::{
    Error, WaitCause,
    source::{Damage, Extent, Source},
    stats::Timeline,
};

/// Extents that rest at once at most: each is a mapping, of which a process may have some ten
/// thousand.
const RESTING_MAX: usize = 4096;
/// How long an extent is trusted after nobody needs it any more.
const REST_MAX: Duration = Duration::from_secs(60);
/// How often the tier is asked whether its files changed.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// An extent's dataset and its number there.
pub(crate) type Slot = (usize, u64);

pub(crate) struct Shelf {
    transfer: Transfer,
    sources: Vec<Arc<dyn Source>>,
    state: Mutex<State>,
    /// Held while a damaged extent is fetched again, so that it is once.
    repair: Mutex<()>,
    stopped: AtomicBool,
    hits: AtomicU64,
    misses: AtomicU64,
}

#[derive(Default)]
struct State {
    open: HashMap<Slot, Arc<OpenExtent>>,
    /// Each with the time since which nobody needs it.
    resting: HashMap<Slot, (Arc<OpenExtent>, Duration)>,
    /// No open extent can be closed before this position.
    close_at: u64,
    /// When the tier was asked last, and the changes it knew of.
    looked: Duration,
    changes: Option<u64>,
    /// How often they were found to be others.
    era: u64,
}

/// Rows that are wanted of one extent.
#[derive(Clone)]
pub(crate) struct Group<Rows> {
    pub slot: Slot,
    pub rows: Rows,
    /// The extent is kept open until this run position was passed.
    pub needed_until: u64,
}

/// An extent that can be read, and how long it will be.
pub(crate) struct OpenExtent {
    pub rows: Box<dyn Extent>,
    pub object: Object,
    /// The shelf's era before its file was mapped.
    era: u64,
    /// The last run position at which a stream that met it needs it.
    needed_until: AtomicU64,
}

/// How a shelf was used: extents found on the node, and brought from the lake.
pub(crate) struct ShelfStats {
    pub hits: u64,
    pub misses: u64,
}

impl Shelf {
    pub(crate) fn new(transfer: &Transfer, sources: &[Arc<dyn Source>]) -> Self {
        Self {
            transfer: transfer.clone(),
            sources: sources.to_vec(),
            state: Mutex::default(),
            repair: Mutex::default(),
            stopped: AtomicBool::new(false),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        }
    }

    /// The extents of all groups, in which their rows were verified.
    pub(crate) fn extents<Rows: Iterator<Item = u32> + Clone>(
        &self,
        groups: impl Iterator<Item = Group<Rows>> + Clone,
        step: u64,
        timeline: &mut Timeline,
    ) -> Result<Vec<Arc<OpenExtent>>, Error> {
        let mut extents = Vec::new();
        let mut start = self.now();
        let open = self.opened(groups.clone().map(|group| group.slot));
        for (Group { slot, rows, needed_until }, open) in groups.zip(open) {
            if self.stopped.load(Ordering::SeqCst) {
                // Nobody waits for the batch: a feed that was moved before its first one, say.
                return Err(Error::Cancelled { step, source: forebay_runtime::Cancelled });
            }
            let mut extent = match open {
                Some(extent) => extent,
                None => self.open(slot, step, &mut start, timeline)?,
            };
            if extent.verify(rows.clone()).is_err() {
                extent = self.repair(slot, Some(&extent), step)?;
                extent.verify(rows).map_err(|source| damaged(step, &extent.object, source))?;
            }
            extent.needed_until.fetch_max(needed_until, Ordering::Relaxed);
            extents.push(extent);
        }
        timeline.add(WaitCause::Local, start, self.now());
        Ok(extents)
    }

    /// The extent of one verified row, kept open.
    pub(crate) fn extent_of(
        &self,
        slot: Slot,
        row: u32,
        step: u64,
    ) -> Result<Arc<OpenExtent>, Error> {
        let group = Group { slot, rows: std::iter::once(row), needed_until: u64::MAX };
        let extents = self.extents(std::iter::once(group), step, &mut Timeline::default())?;
        Ok(extents.into_iter().next().expect("one for each group"))
    }

    /// Whether all these extents are open.
    pub(crate) fn holds(&self, mut slots: impl Iterator<Item = Slot>) -> bool {
        let state = self.lock();
        slots.all(|slot| state.find(slot).is_some())
    }

    /// Lays to rest what nobody needs at `position` or later.
    pub(crate) fn close_before(&self, position: u64) {
        let now = self.now();
        self.look(now);
        let mut state = self.lock();
        if position >= state.close_at {
            state.rest_before(position, now);
        }
    }

    /// Lets go of what rests if the tier's files changed, or for too long already.
    fn look(&self, now: Duration) {
        let mut state = self.lock();
        if now.saturating_sub(state.looked) < LOOK_EVERY {
            return;
        }
        state.looked = now;
        drop(state);
        // The tier locks and reads a file: whoever wants an extent does not wait for that. One that
        // cannot tell may have changed.
        let changes = self.transfer.local().cache_changes().ok();
        let mut state = self.lock();
        if changes.is_none() || changes != state.changes {
            state.resting.clear();
            state.era += 1;
        }
        state.changes = changes;
        state.resting.retain(|_, (_, since)| now.saturating_sub(*since) <= REST_MAX);
    }

    /// Stops what is under way: downloads, and the opening of further extents.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
    }

    pub(crate) fn stats(&self) -> ShelfStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ShelfStats { hits: read(&self.hits), misses: read(&self.misses) }
    }

    fn now(&self) -> Duration {
        self.transfer.runtime().elapsed()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those of `slots` that are open or rest.
    fn opened(&self, slots: impl Iterator<Item = Slot>) -> Vec<Option<Arc<OpenExtent>>> {
        let mut state = self.lock();
        slots.map(|slot| state.wake(slot, &self.hits)).collect()
    }

    /// Opens an extent. What went by since `start`, but for the time that the lake took, was the
    /// local tier's.
    fn open(
        &self,
        slot: Slot,
        step: u64,
        start: &mut Duration,
        timeline: &mut Timeline,
    ) -> Result<Arc<OpenExtent>, Error> {
        let object = self.sources[slot.0].object(slot.1).map_err(unread(step))?;
        let era = self.lock().era;
        let (file, counter) = match self.transfer.cached(&object).map_err(unread(step))? {
            Some(file) => (file, &self.hits),
            None => {
                // It may need the room of what rests.
                self.lock().resting.clear();
                let asked = self.now();
                timeline.add(WaitCause::Local, *start, asked);
                let file = self.transfer.fetch_unless(&object, &self.stopped);
                *start = self.now();
                timeline.add(WaitCause::Lake, asked, *start);
                (file.map_err(unread(step))?, &self.misses)
            }
        };
        counter.fetch_add(1, Ordering::Relaxed);
        match self.read(slot, object, file, era, step)? {
            Ok(extent) => Ok(self.lock().keep(slot, Arc::new(extent))),
            Err(_) => self.repair(slot, None, step),
        }
    }

    fn read(
        &self,
        slot: Slot,
        object: Object,
        file: CachedFile,
        era: u64,
        step: u64,
    ) -> Result<Result<OpenExtent, Damage>, Error> {
        let rows = self.sources[slot.0].open(slot.1, file).map_err(unread(step))?;
        Ok(rows.map(|rows| OpenExtent { rows, object, era, needed_until: AtomicU64::new(0) }))
    }

    /// Fetches a damaged extent again, unless another thread just did: then the one that is open is
    /// not the one that was found `damaged`.
    fn repair(
        &self,
        slot: Slot,
        found: Option<&Arc<OpenExtent>>,
        step: u64,
    ) -> Result<Arc<OpenExtent>, Error> {
        let _guard = self.repair.lock().unwrap_or_else(PoisonError::into_inner);
        let other = |open: &Arc<OpenExtent>| found.is_none_or(|one| !Arc::ptr_eq(one, open));
        if let Some(current) = self.lock().open.get(&slot).cloned().filter(other) {
            return Ok(current);
        }
        let object = self.sources[slot.0].object(slot.1).map_err(unread(step))?;
        let era = self.lock().era;
        let file = self.transfer.refetch(&object).map_err(unread(step))?;
        let extent = self
            .read(slot, object.clone(), file, era, step)?
            .map_err(|source| damaged(step, &object, source))?;
        // In the place of the damaged one, which another thread may have opened again meanwhile.
        let extent = Arc::new(extent);
        let mut state = self.lock();
        state.open.remove(&slot);
        Ok(state.keep(slot, extent))
    }
}

impl State {
    fn find(&self, slot: Slot) -> Option<&Arc<OpenExtent>> {
        self.open.get(&slot).or_else(|| self.resting.get(&slot).map(|(extent, _)| extent))
    }

    /// An extent that is open, or was until it is woken here.
    fn wake(&mut self, slot: Slot, hits: &AtomicU64) -> Option<Arc<OpenExtent>> {
        if let Some(extent) = self.open.get(&slot) {
            return Some(extent.clone());
        }
        let (extent, _) = self.resting.remove(&slot)?;
        hits.fetch_add(1, Ordering::Relaxed);
        Some(self.keep(slot, extent))
    }

    /// If two threads opened the same extent, both go on with the first one's.
    fn keep(&mut self, slot: Slot, extent: Arc<OpenExtent>) -> Arc<OpenExtent> {
        self.close_at = 0;
        self.open.entry(slot).or_insert(extent).clone()
    }

    fn rest_before(&mut self, position: u64, now: Duration) {
        for (slot, extent) in
            self.open.extract_if(|_, extent| extent.needed_until.load(Ordering::Relaxed) < position)
        {
            if extent.era == self.era && self.resting.len() < RESTING_MAX {
                self.resting.insert(slot, (extent, now));
            }
        }
        let needed = self.open.values().map(|extent| extent.needed_until.load(Ordering::Relaxed));
        self.close_at = needed.min().map_or(u64::MAX, |needed_until| needed_until + 1);
    }
}

fn unread(step: u64) -> impl FnOnce(forebay_transfer::Error) -> Error {
    move |source| Error::Read { step, source: Box::new(source) }
}

fn damaged(step: u64, object: &Object, source: Damage) -> Error {
    Error::Damaged { step, object: object.key.clone(), source }
}

impl OpenExtent {
    fn verify(&self, mut rows: impl Iterator<Item = u32>) -> Result<(), Damage> {
        rows.try_for_each(|row| self.rows.verify(row))
    }
}
