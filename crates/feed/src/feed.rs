//! The feed: batches in order, assembled ahead on threads.
//!
//! ```text
//! lake ──prefetch──► local tier ──map, verify──► shelf ──gather──► ready batches ──► next()
//!        (transfer)                               (threads, in any order)   (in order)
//! ```
//!
//! Threads claim steps in order and assemble them side by side; at most `buffer_bytes` of batches
//! exist at once, so a slow consumer stops them. The state of a feed is its [`Position`]: to open
//! one anywhere costs the same, because the order is a pure function.
//!
//! An error reaches the consumer at the step it belongs to. The position does not move then, and
//! the step is tried again, so a consumer may call `next` once more after an outage.
//!
//! Dropping a feed stops downloads at their next piece and joins its threads.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use forebay_format::v1::dataset::{DatasetManifest, SplitEntry};
use forebay_runtime::Task;
use forebay_transfer::{
    PrefetchSettings, Prefetcher, Transfer,
    dataset::{Shards, shard_object},
};
use forebay_types::{Position, Rank, SampleId, Split};

use crate::{
    Batch, Error, FeedSettings, FeedStats,
    assemble::{Assembled, Assembler},
    batch::Pool,
    course::Course,
    lookahead::Lookahead,
    shelf::Shelf,
};

/// How long a waiting thread goes without asking whether the runtime was cancelled.
const PATIENCE: Duration = Duration::from_millis(100);

/// A stream of batches.
pub struct Feed {
    transfer: Transfer,
    shared: Arc<Shared>,
    threads: Vec<Task<()>>,
    stats: FeedStats,
    fetched_bytes_before: u64,
}

struct Shared {
    assembler: Assembler,
    prefetcher: Prefetcher,
    steps: u64,
    /// Batches that may be claimed and not yet delivered.
    batches_max: u64,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// The step the consumer gets next.
    deliver: u64,
    /// The step a thread claims next.
    claim: u64,
    /// Steps that failed and are to be tried again.
    again: BTreeSet<u64>,
    busy: BTreeSet<u64>,
    ready: BTreeMap<u64, Result<Assembled, Error>>,
    stopped: bool,
    panicked: bool,
}

impl Feed {
    /// Opens the feed of one rank at any position.
    ///
    /// # Errors
    /// When a setting does not fit the dataset, the world size or the local tier's budget.
    pub fn open(
        transfer: &Transfer,
        manifest: &DatasetManifest,
        split: Split,
        settings: &FeedSettings,
        rank: Rank,
        from: Position,
    ) -> Result<Self, Error> {
        let entry = checked_split(manifest, split, settings)?;
        let course = Course::new(entry, settings, rank)?;
        Self::start(transfer, manifest, entry, settings, course, from)
    }

    pub(crate) fn start(
        transfer: &Transfer,
        manifest: &DatasetManifest,
        entry: &SplitEntry,
        settings: &FeedSettings,
        course: Course,
        from: Position,
    ) -> Result<Self, Error> {
        let schema = manifest.schema;
        let batches_max = batches_ahead(settings, schema.row_bytes(), &course)?;
        let (course, shards) = (Arc::new(course), Shards::new(transfer.lake(), entry));
        require_room(transfer, &course, &shards).map_err(|source| Error::Open {
            dataset: manifest.name.clone(),
            source: source.into(),
        })?;
        let fetched_bytes_before = transfer.fetch_stats().fetched_bytes;
        let lookahead = Lookahead { course: course.clone(), shards: shards.clone() };
        let prefetch = PrefetchSettings {
            threads: settings.prefetch_threads as usize,
            lookahead_bytes: settings.lookahead_bytes,
        };
        let steps = course.steps().unwrap_or(u64::MAX);
        let start = course.start(from.step.min(steps));
        let shared = Arc::new(Shared {
            prefetcher: Prefetcher::start(transfer, Arc::new(lookahead), start, prefetch),
            assembler: Assembler {
                course,
                shelf: Shelf::new(transfer, &shards, schema),
                schema,
                pool: Arc::new(Pool::new(batches_max as usize + 1)),
            },
            steps,
            batches_max,
            state: Mutex::new(State::at(from.step)),
            changed: Condvar::new(),
        });
        let threads = (0..settings.threads)
            .map(|index| {
                let shared = shared.clone();
                transfer.runtime().spawn(&format!("feed-{index}"), move || shared.work())
            })
            .collect();
        let stats = FeedStats::default();
        Ok(Self { transfer: transfer.clone(), shared, threads, stats, fetched_bytes_before })
    }

    /// The next batch; `None` after the last epoch.
    ///
    /// # Errors
    /// [`Error::Read`] or [`Error::Damaged`] when the step's samples cannot be had; the next call
    /// tries the same step again. [`Error::Cancelled`] when the runtime was cancelled.
    #[allow(clippy::should_implement_trait, reason = "an iterator of results hides the retry")]
    pub fn next(&mut self) -> Result<Option<Batch>, Error> {
        let start = self.transfer.runtime().elapsed();
        let mut state = self.shared.lock();
        let step = state.deliver;
        if step >= self.shared.steps {
            return Ok(None);
        }
        while !state.ready.contains_key(&step) {
            if let Err(source) = self.transfer.runtime().check() {
                return Err(Error::Cancelled { step, source });
            }
            if state.panicked {
                drop(state);
                return Err(self.broken(step));
            }
            state = self.shared.wait(state);
        }
        let end = self.transfer.runtime().elapsed();
        let outcome = state.ready.remove(&step).expect("just seen, under the same lock");
        match &outcome {
            Ok(_) => state.deliver += 1,
            Err(_) => state.retry(step),
        }
        drop(state);
        self.shared.changed.notify_all();
        outcome.map(|assembled| Some(self.deliver(step, assembled, start, end)))
    }

    fn deliver(
        &mut self,
        step: u64,
        assembled: Assembled,
        start: Duration,
        end: Duration,
    ) -> Batch {
        let Assembled { epoch, rows, buffer, timeline } = assembled;
        let waited = timeline.attribute(start, end);
        let stats = &mut self.stats;
        stats.batches += 1;
        stats.samples += rows as u64;
        stats.bytes += buffer.tokens.len() as u64;
        stats.waited += waited;
        let Assembler { schema, ref pool, .. } = self.shared.assembler;
        Batch { step, epoch, rows, schema, waited, buffer, pool: pool.clone() }
    }

    /// Waits until [`Feed::next`] would return at once, or for `patience`; says whether it would.
    ///
    /// For callers that must look up now and then, as Python does for Ctrl-C.
    #[must_use]
    pub fn wait(&self, patience: Duration) -> bool {
        let state = self.shared.lock();
        let is_ready = |state: &State| {
            let step = state.deliver;
            step >= self.shared.steps
                || state.ready.contains_key(&step)
                || state.panicked
                || self.transfer.runtime().check().is_err()
        };
        let waiting =
            self.shared.changed.wait_timeout_while(state, patience, |state| !is_ready(state));
        let (state, _) = waiting.unwrap_or_else(PoisonError::into_inner);
        is_ready(&state)
    }

    /// The steps of one epoch.
    #[must_use]
    pub fn steps_per_epoch(&self) -> u64 {
        self.shared.assembler.course.steps_per_epoch()
    }

    /// The steps of all epochs; `None` when they never end.
    #[must_use]
    pub fn steps(&self) -> Option<u64> {
        self.shared.assembler.course.steps()
    }

    /// Where the feed stands: a feed opened there goes on with the same batches.
    #[must_use]
    pub fn position(&self) -> Position {
        Position { step: self.shared.lock().deliver }
    }

    /// What it did so far.
    #[must_use]
    pub fn stats(&self) -> FeedStats {
        let mut stats = self.stats;
        let shelf = self.shared.assembler.shelf.stats();
        (stats.cache_hits, stats.cache_misses) = (shelf.hits, shelf.misses);
        stats.refetches = shelf.refetches;
        let fetched_bytes = self.transfer.fetch_stats().fetched_bytes;
        stats.lake_bytes = fetched_bytes - self.fetched_bytes_before;
        stats.add_prefetch(self.shared.prefetcher.stats());
        stats
    }

    /// The panic that ended a thread.
    fn broken(&mut self, step: u64) -> Error {
        self.shared.stop();
        let panics = self.threads.drain(..).filter_map(|thread| thread.join().err());
        match panics.collect::<Vec<_>>().pop() {
            Some(source) => Error::Panicked { step, source },
            // Reported by an earlier call, which joined the threads.
            None => Error::Cancelled { step, source: forebay_runtime::Cancelled },
        }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.shared.stop();
        for thread in self.threads.drain(..) {
            // A panic there was printed where it happened.
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Feed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Feed").field("position", &self.position()).finish_non_exhaustive()
    }
}

impl State {
    fn at(step: u64) -> Self {
        Self {
            deliver: step,
            claim: step,
            again: BTreeSet::new(),
            busy: BTreeSet::new(),
            ready: BTreeMap::new(),
            stopped: false,
            panicked: false,
        }
    }

    /// The first step that is not assembled yet.
    fn front(&self) -> u64 {
        let waiting = self.busy.first().into_iter().chain(self.again.first());
        waiting.min().copied().unwrap_or(self.claim)
    }

    /// Tries `step` again, and every other that has failed: the cause is likely the same.
    fn retry(&mut self, step: u64) {
        self.again.insert(step);
        let failed = self.ready.iter().filter(|(_, outcome)| outcome.is_err());
        self.again.extend(failed.map(|(step, _)| *step));
        self.ready.retain(|_, outcome| outcome.is_ok());
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait_timeout(state, PATIENCE).unwrap_or_else(PoisonError::into_inner).0
    }

    fn stop(&self) {
        self.lock().stopped = true;
        self.assembler.shelf.stop();
        self.changed.notify_all();
    }

    /// A thread's life.
    fn work(&self) {
        let _farewell = Farewell(self);
        while let Some(step) = self.claim() {
            let outcome = self.assembler.assemble(step);
            let mut state = self.lock();
            state.busy.remove(&step);
            state.ready.insert(step, outcome);
            let front = state.front();
            drop(state);
            self.changed.notify_all();
            let position = self.assembler.course.start(front);
            self.prefetcher.advance(position);
            self.assembler.shelf.close_before(position);
        }
    }

    fn claim(&self) -> Option<u64> {
        let mut state = self.lock();
        loop {
            if state.stopped {
                return None;
            }
            let fresh = state.claim < self.steps && state.claim - state.deliver < self.batches_max;
            let step = state.again.pop_first().or_else(|| {
                state.claim += u64::from(fresh);
                fresh.then(|| state.claim - 1)
            });
            if let Some(step) = step {
                state.busy.insert(step);
                return Some(step);
            }
            state = self.wait(state);
        }
    }
}

/// Tells the consumer when a thread ends by a panic, so that it does not wait for ever.
struct Farewell<'a>(&'a Shared);

impl Drop for Farewell<'_> {
    fn drop(&mut self) {
        self.0.lock().panicked |= std::thread::panicking();
        self.0.changed.notify_all();
    }
}

/// The split's entry, after a look at what no dataset can satisfy.
pub(crate) fn checked_split<'a>(
    manifest: &'a DatasetManifest,
    split: Split,
    settings: &FeedSettings,
) -> Result<&'a SplitEntry, Error> {
    let counts = [
        ("batch_size", settings.batch_size),
        ("threads", settings.threads),
        ("canonical_streams", settings.canonical_streams),
        ("window_shards", settings.window_shards),
    ];
    if let Some((name, _)) = counts.into_iter().find(|(_, count)| *count == 0) {
        return Err(Error::Zero(name));
    }
    manifest
        .split(split)
        .filter(|entry| entry.rows > 0)
        .ok_or_else(|| Error::Empty { dataset: manifest.name.clone(), split })
}

fn batches_ahead(settings: &FeedSettings, row_bytes: usize, course: &Course) -> Result<u64, Error> {
    let rows = course.positions(0).len() as u64;
    let batch_bytes = rows * (row_bytes + size_of::<SampleId>()) as u64;
    let buffer_bytes = settings.buffer_bytes;
    match buffer_bytes / batch_bytes.max(1) {
        0 | 1 => Err(Error::BufferTooSmall { buffer_bytes, needed_bytes: 2 * batch_bytes }),
        batches => Ok(batches - 1),
    }
}

/// Checks that the shards which are read at once fit into the tier together: all shards but the
/// last have the same length, up to their heads.
fn require_room(
    transfer: &Transfer,
    course: &Course,
    shards: &Shards,
) -> Result<(), forebay_transfer::Error> {
    let in_use = course.shards_in_use().min(u64::from(shards.split().shards));
    transfer.require_room(in_use * shard_object(&*shards.get(0)?).bytes)
}
