//! The shelf: the shards that are open, mapped from the local tier.
//!
//! A record batch is verified by its checksum when it is first read through a mapping, so a byte
//! that flips on the node's disk is found before a row of it is handed out. A damaged shard is
//! fetched from the lake again, once; if it is damaged still, the error names it.
//!
//! A shard leaves the shelf when no stream needs it any more, so that a file the tier evicted does
//! not keep its blocks.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use forebay_format::v1::{
    dataset::{ShardEntry, TokenSchema},
    shard::ShardReader,
};
use forebay_local::CachedFile;
use forebay_transfer::{
    Transfer,
    dataset::{Shards, shard_object},
};

use crate::{Error, WaitCause, stats::Timeline};

pub(crate) struct Shelf {
    transfer: Transfer,
    shards: Shards,
    schema: TokenSchema,
    open: Mutex<HashMap<u32, Arc<OpenShard>>>,
    /// Held while a damaged shard is fetched again, so that it is once.
    repair: Mutex<()>,
    stopped: AtomicBool,
    hits: AtomicU64,
    misses: AtomicU64,
    refetches: AtomicU64,
}

/// A shard that can be read.
pub(crate) struct OpenShard {
    entry: Arc<ShardEntry>,
    pub reader: ShardReader<CachedFile>,
    verified: Box<[AtomicBool]>,
    /// The last run position at which a stream that met it needs it.
    needed_until: AtomicU64,
}

/// How a shelf was used: shards found on the node, brought from the lake, and repaired.
pub(crate) struct ShelfStats {
    pub hits: u64,
    pub misses: u64,
    pub refetches: u64,
}

impl Shelf {
    pub(crate) fn new(transfer: &Transfer, shards: &Shards, schema: TokenSchema) -> Self {
        Self {
            transfer: transfer.clone(),
            shards: shards.clone(),
            schema,
            open: Mutex::default(),
            repair: Mutex::default(),
            stopped: AtomicBool::new(false),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            refetches: AtomicU64::new(0),
        }
    }

    /// A shard whose record batches that hold `rows` were verified; kept open until the run
    /// position `needed_until` is passed.
    pub(crate) fn shard(
        &self,
        number: u32,
        rows: impl Iterator<Item = u32> + Clone,
        needed_until: u64,
        step: u64,
        timeline: &mut Timeline,
    ) -> Result<Arc<OpenShard>, Error> {
        let mut shard = match self.opened(number) {
            Some(shard) => shard,
            None => self.open(number, step, timeline)?,
        };
        let start = self.now();
        if shard.verify(rows.clone()).is_err() {
            shard = self.repair(number, shard.entry.clone(), Some(&shard), step)?;
            shard.verify(rows).map_err(|source| damaged(step, &shard.entry, source))?;
        }
        timeline.add(WaitCause::Local, start, self.now());
        shard.needed_until.fetch_max(needed_until, Ordering::Relaxed);
        Ok(shard)
    }

    /// Closes what nobody needs at `position` or later.
    pub(crate) fn close_before(&self, position: u64) {
        self.lock().retain(|_, shard| shard.needed_until.load(Ordering::Relaxed) >= position);
    }

    /// Stops downloads that are under way.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
    }

    pub(crate) fn stats(&self) -> ShelfStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ShelfStats {
            hits: read(&self.hits),
            misses: read(&self.misses),
            refetches: read(&self.refetches),
        }
    }

    fn now(&self) -> Duration {
        self.transfer.runtime().elapsed()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u32, Arc<OpenShard>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn opened(&self, number: u32) -> Option<Arc<OpenShard>> {
        self.lock().get(&number).cloned()
    }

    fn open(
        &self,
        number: u32,
        step: u64,
        timeline: &mut Timeline,
    ) -> Result<Arc<OpenShard>, Error> {
        let read = |source| Error::Read { step, source: Box::new(source) };
        let start = self.now();
        let entry = self.shards.get(number).map_err(read)?;
        let object = shard_object(&entry);
        let (file, counter) = match self.transfer.cached(&object).map_err(read)? {
            Some(file) => (file, &self.hits),
            None => {
                let file = self.transfer.fetch_unless(&object, &self.stopped).map_err(read)?;
                timeline.add(WaitCause::Lake, start, self.now());
                (file, &self.misses)
            }
        };
        counter.fetch_add(1, Ordering::Relaxed);
        let mapping = self.now();
        let shard = match OpenShard::new(entry, file, self.schema) {
            Ok(shard) => self.keep(number, shard),
            Err(entry) => self.repair(number, entry, None, step)?,
        };
        timeline.add(WaitCause::Local, mapping, self.now());
        Ok(shard)
    }

    /// If two threads opened the same shard, both go on with the first one's.
    fn keep(&self, number: u32, shard: OpenShard) -> Arc<OpenShard> {
        self.lock().entry(number).or_insert_with(|| Arc::new(shard)).clone()
    }

    /// Fetches a damaged shard again, unless another thread just did: then the one that is open is
    /// not the one that was found `damaged`.
    fn repair(
        &self,
        number: u32,
        entry: Arc<ShardEntry>,
        damaged: Option<&Arc<OpenShard>>,
        step: u64,
    ) -> Result<Arc<OpenShard>, Error> {
        let _guard = self.repair.lock().unwrap_or_else(PoisonError::into_inner);
        let other = |open: &Arc<OpenShard>| damaged.is_none_or(|one| !Arc::ptr_eq(one, open));
        if let Some(current) = self.opened(number).filter(other) {
            return Ok(current);
        }
        self.refetch(number, entry, step)
    }

    fn refetch(
        &self,
        number: u32,
        entry: Arc<ShardEntry>,
        step: u64,
    ) -> Result<Arc<OpenShard>, Error> {
        self.refetches.fetch_add(1, Ordering::Relaxed);
        let file = self
            .transfer
            .refetch(&shard_object(&entry))
            .map_err(|source| Error::Read { step, source: Box::new(source) })?;
        let object = shard_object(&entry).key;
        let reader = ShardReader::new(file, self.schema, object.as_str())
            .and_then(|reader| reader.check(&entry).map(|()| reader))
            .map_err(|source| damaged(step, &entry, source))?;
        // In the place of the damaged one, which another thread may have opened again meanwhile.
        let shard = Arc::new(OpenShard::from(entry, reader));
        self.lock().insert(number, shard.clone());
        Ok(shard)
    }
}

fn damaged(step: u64, entry: &ShardEntry, source: forebay_format::Error) -> Error {
    Error::Damaged { step, object: shard_object(entry).key, source }
}

impl OpenShard {
    /// Gives the entry back when the file is not the shard that it describes.
    fn new(
        entry: Arc<ShardEntry>,
        file: CachedFile,
        schema: TokenSchema,
    ) -> Result<Self, Arc<ShardEntry>> {
        let object = shard_object(&entry).key;
        match ShardReader::new(file, schema, object.as_str()) {
            Ok(reader) if reader.check(&entry).is_ok() => Ok(Self::from(entry, reader)),
            _ => Err(entry),
        }
    }

    fn from(entry: Arc<ShardEntry>, reader: ShardReader<CachedFile>) -> Self {
        let verified = entry.batches.iter().map(|_| AtomicBool::new(false)).collect();
        Self { entry, reader, verified, needed_until: AtomicU64::new(0) }
    }

    /// Checks the record batches that hold `rows`, each once.
    fn verify(&self, rows: impl Iterator<Item = u32>) -> Result<(), forebay_format::Error> {
        for row in rows {
            let batch = self.reader.batch_of(row);
            if !self.verified[batch].load(Ordering::Acquire) {
                self.reader.verify_batch(batch, &self.entry.batches[batch])?;
                self.verified[batch].store(true, Ordering::Release);
            }
        }
        Ok(())
    }
}
