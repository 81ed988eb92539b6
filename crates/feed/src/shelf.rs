//! The shelf: the extents that are open, mapped from the local tier.
//!
//! The bytes of a row are verified by checksum when they are first read through a mapping, so a
//! byte that flips on the node's disk is found before a row of it is handed out. A damaged extent
//! is fetched from the lake again, once; if it is damaged still, the error names it.
//!
//! An extent leaves the shelf when no stream needs it any more, so that a file the tier evicted
//! does not keep its blocks.

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

/// An extent's dataset and its number there.
pub(crate) type Slot = (usize, u64);

pub(crate) struct Shelf {
    transfer: Transfer,
    sources: Vec<Arc<dyn Source>>,
    open: Mutex<HashMap<Slot, Arc<OpenExtent>>>,
    /// Held while a damaged extent is fetched again, so that it is once.
    repair: Mutex<()>,
    stopped: AtomicBool,
    hits: AtomicU64,
    misses: AtomicU64,
}

/// An extent that can be read, and how long it will be.
pub(crate) struct OpenExtent {
    pub rows: Box<dyn Extent>,
    pub object: Object,
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
            open: Mutex::default(),
            repair: Mutex::default(),
            stopped: AtomicBool::new(false),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        }
    }

    /// An extent in which `rows` were verified; kept open until the run position `needed_until` is
    /// passed.
    pub(crate) fn extent(
        &self,
        slot: Slot,
        rows: impl Iterator<Item = u32> + Clone,
        needed_until: u64,
        step: u64,
        timeline: &mut Timeline,
    ) -> Result<Arc<OpenExtent>, Error> {
        let mut extent = match self.opened(slot) {
            Some(extent) => extent,
            None => self.open(slot, step, timeline)?,
        };
        let start = self.now();
        if extent.verify(rows.clone()).is_err() {
            extent = self.repair(slot, Some(&extent), step)?;
            extent.verify(rows).map_err(|source| damaged(step, &extent.object, source))?;
        }
        timeline.add(WaitCause::Local, start, self.now());
        extent.needed_until.fetch_max(needed_until, Ordering::Relaxed);
        Ok(extent)
    }

    /// Whether an extent is open.
    pub(crate) fn holds(&self, slot: Slot) -> bool {
        self.lock().contains_key(&slot)
    }

    /// Closes what nobody needs at `position` or later.
    pub(crate) fn close_before(&self, position: u64) {
        self.lock().retain(|_, extent| extent.needed_until.load(Ordering::Relaxed) >= position);
    }

    /// Stops downloads that are under way.
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

    fn lock(&self) -> MutexGuard<'_, HashMap<Slot, Arc<OpenExtent>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn opened(&self, slot: Slot) -> Option<Arc<OpenExtent>> {
        self.lock().get(&slot).cloned()
    }

    fn open(
        &self,
        slot: Slot,
        step: u64,
        timeline: &mut Timeline,
    ) -> Result<Arc<OpenExtent>, Error> {
        let start = self.now();
        let object = self.sources[slot.0].object(slot.1).map_err(unread(step))?;
        let (file, counter) = match self.transfer.cached(&object).map_err(unread(step))? {
            Some(file) => (file, &self.hits),
            None => {
                let file = self.transfer.fetch_unless(&object, &self.stopped);
                timeline.add(WaitCause::Lake, start, self.now());
                (file.map_err(unread(step))?, &self.misses)
            }
        };
        counter.fetch_add(1, Ordering::Relaxed);
        let mapping = self.now();
        let extent = match self.read(slot, object, file, step)? {
            Ok(extent) => self.keep(slot, extent),
            Err(_) => self.repair(slot, None, step)?,
        };
        timeline.add(WaitCause::Local, mapping, self.now());
        Ok(extent)
    }

    fn read(
        &self,
        slot: Slot,
        object: Object,
        file: CachedFile,
        step: u64,
    ) -> Result<Result<OpenExtent, Damage>, Error> {
        let rows = self.sources[slot.0].open(slot.1, file).map_err(unread(step))?;
        Ok(rows.map(|rows| OpenExtent { rows, object, needed_until: AtomicU64::new(0) }))
    }

    /// If two threads opened the same extent, both go on with the first one's.
    fn keep(&self, slot: Slot, extent: OpenExtent) -> Arc<OpenExtent> {
        self.lock().entry(slot).or_insert_with(|| Arc::new(extent)).clone()
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
        if let Some(current) = self.opened(slot).filter(other) {
            return Ok(current);
        }
        let object = self.sources[slot.0].object(slot.1).map_err(unread(step))?;
        let file = self.transfer.refetch(&object).map_err(unread(step))?;
        let extent = self
            .read(slot, object.clone(), file, step)?
            .map_err(|source| damaged(step, &object, source))?;
        // In the place of the damaged one, which another thread may have opened again meanwhile.
        let extent = Arc::new(extent);
        self.lock().insert(slot, extent.clone());
        Ok(extent)
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
