//! The feed: batches in order, assembled ahead on threads.
//!
//! ```text
//! lake ──prefetch──► local tier ──map, verify──► shelf ──gather──► ready batches ──► next()
//!        (transfer)                               (threads, in any order)   (in order)
//! ```
//!
//! Threads claim steps in order and assemble them side by side, until what is ready fills the
//! feed's *depth*; so a slow consumer stops them. They go on when half of it was taken, many batches
//! at a time: to be woken for each would cost more than to gather one. The depth begins at
//! [`DEPTH_START_BYTES`], so that batches are written where the caches hold them still, and doubles
//! up to `buffer_bytes` whenever the consumer had to wait although it had been full.
//!
//! The state of a feed is its [`Position`]: to open one anywhere costs the same, because the order
//! is a pure function.
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

use forebay_runtime::Task;
use forebay_transfer::{FetchStats, PrefetchSettings, Prefetcher, Transfer};
use forebay_types::{Position, Rank};

use crate::{
    Batch, Cursor, Error, FeedSettings, FeedStats,
    assemble::{Assembled, Assembler},
    batch::Pool,
    columns::Columns,
    course::Course,
    dataset::FeedDataset,
    ids::Identity,
    lookahead::Lookahead,
    mixture::by_samples,
    shelf::Shelf,
    source::Source,
};

/// What is assembled ahead at first, if the settings allow as much: what the caches of a core and
/// its share of the last level hold. Filling ever new memory instead costs half as much again as
/// to gather what is put there.
const DEPTH_START_BYTES: u64 = 4 << 20;
/// What the consumer waits before it is more than the machine's noise.
const WAIT_MIN: Duration = Duration::from_millis(1);
/// How long a waiting thread goes without asking whether the runtime was cancelled.
const PATIENCE: Duration = Duration::from_millis(100);

/// A stream of batches.
pub struct Feed {
    transfer: Transfer,
    shared: Arc<Shared>,
    threads: Vec<Task<()>>,
    stats: FeedStats,
    fetched_before: FetchStats,
    reads_before: u64,
    opened: Duration,
    /// When the consumer first asked for the batch it has not got yet.
    waiting_since: Option<Duration>,
}

/// What a wait for a batch came to.
#[derive(Debug)]
pub enum Next {
    /// The batch.
    Batch(Batch),
    /// The last epoch is over.
    End,
    /// It is not ready yet.
    Pending,
}

struct Shared {
    assembler: Assembler,
    prefetcher: Prefetcher,
    steps: u64,
    buffer_bytes: u64,
    threads: u32,
    state: Mutex<State>,
    /// The consumer waits for a batch.
    delivered: Condvar,
    /// Threads wait for something to do.
    freed: Condvar,
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
    /// Bytes of the batches in `ready`.
    ready_bytes: u64,
    /// The bytes that may be ready, if that is enough for every thread to have a batch under way.
    depth_bytes: u64,
    /// Whether so much was ready since the consumer waited last.
    was_full: bool,
    /// The largest batch met, or what the sizes of the dataset let expect.
    batch_bytes: u64,
    /// Threads that wait.
    idle: u32,
    /// Whether the consumer waits.
    awaited: bool,
    stopped: bool,
    panicked: bool,
}

impl Feed {
    /// Opens the feed of one rank at any step of a run that starts at sample 0.
    ///
    /// # Errors
    /// When a setting does not fit the datasets or the local tier's budget.
    pub fn open(
        transfer: &Transfer,
        datasets: &[FeedDataset<'_>],
        settings: &FeedSettings,
        rank: Rank,
        from: Position,
    ) -> Result<Self, Error> {
        Self::start(transfer, datasets, settings, rank, Cursor::default(), Some(from.step))
    }

    /// Opens the feed where another one stood, maybe one of another world size or batch size.
    ///
    /// # Errors
    /// As [`Feed::open`].
    pub fn open_at(
        transfer: &Transfer,
        datasets: &[FeedDataset<'_>],
        settings: &FeedSettings,
        rank: Rank,
        from: Cursor,
    ) -> Result<Self, Error> {
        Self::start(transfer, datasets, settings, rank, from, None)
    }

    fn start(
        transfer: &Transfer,
        datasets: &[FeedDataset<'_>],
        settings: &FeedSettings,
        rank: Rank,
        origin: Cursor,
        step: Option<u64>,
    ) -> Result<Self, Error> {
        settings.check(datasets.len())?;
        let sources: Vec<Arc<dyn Source>> =
            datasets.iter().map(|dataset| dataset.source(transfer)).collect::<Result<_, _>>()?;
        let schemas: Vec<_> = sources.iter().map(|source| source.schema()).collect();
        let names = datasets.iter().map(FeedDataset::name);
        let settings = &*by_samples(settings, names.zip(schemas.iter().copied()))?;
        let shapes: Vec<_> = sources.iter().map(|source| source.shape()).collect();
        let course = Arc::new(Course::new(&shapes, settings, rank, origin)?);
        let columns = Columns::resolve(&schemas, settings)?;
        let step = step.unwrap_or(origin.step);
        let batch_bytes = batch_bytes(&columns, &sources, settings, rank)?;
        require_room(transfer, &course, &sources).map_err(|source| Error::Open {
            dataset: datasets[0].name().clone(),
            source: source.into(),
        })?;
        let opened = transfer.runtime().elapsed();
        let fetched_before = transfer.fetch_stats();
        let reads_before = reads(transfer);
        let lookahead = Lookahead { course: course.clone(), sources: sources.clone() };
        let prefetch = PrefetchSettings {
            threads: settings.prefetch_threads as usize,
            lookahead_bytes: settings.lookahead_bytes,
        };
        let steps = course.steps().unwrap_or(u64::MAX);
        let start = course.start(step.min(steps));
        let spare_max = (settings.buffer_bytes / batch_bytes.max(1)).clamp(2, SPARE_MAX) as usize;
        let shared = Arc::new(Shared {
            prefetcher: Prefetcher::start(transfer, Arc::new(lookahead), start, prefetch),
            assembler: Assembler {
                course,
                shelf: Shelf::new(transfer, &sources),
                sources,
                columns,
                pool: Arc::new(Pool::new(spare_max)),
                seed: settings.seed,
                scratches: Mutex::default(),
            },
            steps,
            buffer_bytes: settings.buffer_bytes,
            threads: settings.threads,
            state: Mutex::new(State::at(step, batch_bytes)),
            delivered: Condvar::new(),
            freed: Condvar::new(),
        });
        let threads = (0..settings.threads)
            .map(|index| {
                let shared = shared.clone();
                transfer.runtime().spawn(&format!("feed-{index}"), move || shared.work())
            })
            .collect();
        let stats = FeedStats::default();
        let transfer = transfer.clone();
        Ok(Self {
            transfer,
            shared,
            threads,
            stats,
            fetched_before,
            reads_before,
            opened,
            waiting_since: None,
        })
    }

    /// The next batch; `None` after the last epoch.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Damaged`] or [`Error::Sample`] when the step's samples cannot be
    /// had; the next call tries the same step again. [`Error::Cancelled`] when the runtime was
    /// cancelled.
    #[allow(clippy::should_implement_trait, reason = "an iterator of results hides the retry")]
    pub fn next(&mut self) -> Result<Option<Batch>, Error> {
        match self.next_within(None)? {
            Next::Batch(batch) => Ok(Some(batch)),
            Next::End | Next::Pending => Ok(None),
        }
    }

    /// As [`Feed::next`], but gives up for now when `patience` has passed.
    ///
    /// # Errors
    /// As [`Feed::next`].
    pub fn next_within(&mut self, patience: Option<Duration>) -> Result<Next, Error> {
        let step = self.shared.lock().deliver;
        if step >= self.shared.steps {
            return Ok(Next::End);
        }
        let now = self.now();
        let start = *self.waiting_since.get_or_insert(now);
        let outcome = match self.shared.assemble_now(step) {
            Some(outcome) => outcome,
            None => {
                let deadline = patience.map(|patience| now + patience);
                match self.wait_for(step, start, deadline)? {
                    Some(outcome) => outcome,
                    None => return Ok(Next::Pending),
                }
            }
        };
        let end = self.now();
        self.waiting_since = None;
        outcome.map(|assembled| Next::Batch(self.deliver(step, assembled, start, end)))
    }

    fn now(&self) -> Duration {
        self.transfer.runtime().elapsed()
    }

    /// Waits until `step` is ready, as the consumer has since `start`; `None` when the deadline came
    /// first.
    fn wait_for(
        &mut self,
        step: u64,
        start: Duration,
        deadline: Option<Duration>,
    ) -> Result<Option<Result<Assembled, Error>>, Error> {
        let mut state = self.shared.lock();
        while !state.ready.contains_key(&step) {
            if let Err(source) = self.transfer.runtime().check() {
                return Err(Error::Cancelled { step, source });
            }
            if state.panicked {
                drop(state);
                return Err(self.broken(step));
            }
            let patience = match deadline {
                None => PATIENCE,
                Some(deadline) => deadline.saturating_sub(self.transfer.runtime().elapsed()),
            };
            if patience.is_zero() {
                return Ok(None);
            }
            state.awaited = true;
            state = wait(&self.shared.delivered, state, patience.min(PATIENCE));
            state.awaited = false;
        }
        let waited = self.transfer.runtime().elapsed().saturating_sub(start);
        state.deepen(waited, self.shared.buffer_bytes);
        let outcome = state.ready.remove(&step).expect("just seen, under the same lock");
        match &outcome {
            Ok(assembled) => {
                state.ready_bytes -= assembled.buffer.bytes();
                state.deliver += 1;
            }
            Err(_) => state.retry(step),
        }
        self.shared.wake(state);
        Ok(Some(outcome))
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
        stats.bytes += buffer.bytes();
        stats.waited += waited;
        let Assembler { ref course, ref columns, ref pool, .. } = self.shared.assembler;
        Batch {
            step,
            epoch,
            rows,
            global_rows: course.global_rows(step),
            after: course.cursor(step + 1),
            waited,
            layout: columns.layout.clone(),
            buffer,
            pool: pool.clone(),
        }
    }

    /// Where the feed stands: a feed opened there goes on with the same batches.
    #[must_use]
    pub fn position(&self) -> Position {
        Position { step: self.shared.lock().deliver }
    }

    /// Where the feed stands, independent of world size and batch size.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        self.shared.assembler.course.cursor(self.shared.lock().deliver)
    }

    /// The step after the last; `None` when the feed never ends.
    #[must_use]
    pub fn steps(&self) -> Option<u64> {
        self.shared.assembler.course.steps()
    }

    /// The columns of every batch, in order.
    #[must_use]
    pub fn columns(&self) -> &[(String, crate::ColumnKind)] {
        &self.shared.assembler.columns.layout.columns
    }

    /// The steps of a whole epoch.
    #[must_use]
    pub fn steps_per_epoch(&self) -> u64 {
        self.shared.assembler.course.steps_per_epoch()
    }

    /// What it did so far.
    #[must_use]
    pub fn stats(&self) -> FeedStats {
        let mut stats = self.stats;
        let shelf = self.shared.assembler.shelf.stats();
        (stats.cache_hits, stats.cache_misses) = (shelf.hits, shelf.misses);
        let (now, before) = (self.transfer.fetch_stats(), self.fetched_before);
        stats.refetches = now.refetched - before.refetched;
        stats.lake_bytes = now.fetched_bytes - before.fetched_bytes;
        stats.lake_requests = reads(&self.transfer) - self.reads_before;
        stats.buffer_bytes = self.shared.assembler.pool.bytes();
        stats.elapsed = self.now().saturating_sub(self.opened);
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
    fn at(step: u64, batch_bytes: u64) -> Self {
        Self {
            deliver: step,
            claim: step,
            again: BTreeSet::new(),
            busy: BTreeSet::new(),
            ready: BTreeMap::new(),
            ready_bytes: 0,
            depth_bytes: DEPTH_START_BYTES,
            was_full: false,
            batch_bytes,
            idle: 0,
            awaited: false,
            stopped: false,
            panicked: false,
        }
    }

    /// The first step that is not assembled yet.
    fn front(&self) -> u64 {
        let waiting = self.busy.first().into_iter().chain(self.again.first());
        waiting.min().copied().unwrap_or(self.claim)
    }

    /// Whether one more batch may be begun beside those that are ready, under way and in the
    /// consumer's hands.
    fn has_room(&self, bytes: u64) -> bool {
        let begun = self.busy.len() as u64 + 2;
        self.ready_bytes + begun * self.batch_bytes <= bytes
            || (self.ready.is_empty() && self.busy.is_empty())
    }

    /// The consumer waited so long for a batch: more ahead may spare it the next time.
    fn deepen(&mut self, waited: Duration, buffer_bytes: u64) {
        if waited >= WAIT_MIN && self.was_full {
            self.depth_bytes = self.depth_bytes.saturating_mul(2).min(buffer_bytes);
            self.was_full = false;
        }
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

    /// The bytes of batches that may exist now.
    fn depth_bytes(&self, state: &State) -> u64 {
        // One in the consumer's hands, one ready, and one under way on each thread.
        let least = (u64::from(self.threads) + 2) * state.batch_bytes;
        state.depth_bytes.max(least).min(self.buffer_bytes)
    }

    /// Wakes idle threads if there is enough for them to do.
    fn wake(&self, state: MutexGuard<'_, State>) {
        let half_taken = state.ready_bytes <= self.depth_bytes(&state) / 2;
        let is_due = state.idle > 0 && (half_taken || !state.again.is_empty());
        drop(state);
        if is_due {
            self.freed.notify_all();
        }
    }

    /// Assembles `step` on the consumer's own thread, if no other has begun it and all it needs is
    /// open: on a busy machine that is sooner done than waited for. Nothing blocks here.
    fn assemble_now(&self, step: u64) -> Option<Result<Assembled, Error>> {
        let mut state = self.lock();
        if state.stopped || state.panicked || state.ready.contains_key(&step) {
            return None;
        }
        match (state.again.remove(&step), state.claim == step) {
            (true, _) => {}
            (false, true) => state.claim += 1,
            (false, false) => return None,
        }
        state.busy.insert(step);
        drop(state);
        let outcome = self.assembler.assemble_if_open(step);
        let mut state = self.lock();
        state.busy.remove(&step);
        match &outcome {
            Some(Ok(_)) => state.deliver += 1,
            Some(Err(_)) | None => _ = state.again.insert(step),
        }
        let front = state.front();
        self.wake(state);
        self.pass(front);
        outcome
    }

    /// Nothing before `step` will be read again.
    fn pass(&self, step: u64) {
        let position = self.assembler.course.start(step.min(self.steps));
        self.prefetcher.advance(position);
        self.assembler.shelf.close_before(position);
    }

    fn stop(&self) {
        self.lock().stopped = true;
        self.assembler.shelf.stop();
        self.delivered.notify_all();
        self.freed.notify_all();
    }

    /// A thread's life.
    fn work(&self) {
        let _farewell = Farewell(self);
        while let Some(step) = self.claim() {
            let outcome = self.assembler.assemble(step);
            let mut state = self.lock();
            state.busy.remove(&step);
            if let Ok(assembled) = &outcome {
                let bytes = assembled.buffer.bytes();
                state.ready_bytes += bytes;
                state.batch_bytes = state.batch_bytes.max(bytes);
            }
            state.ready.insert(step, outcome);
            let (front, awaited) = (state.front(), state.awaited);
            drop(state);
            if awaited {
                self.delivered.notify_all();
            }
            self.pass(front);
        }
    }

    fn claim(&self) -> Option<u64> {
        let mut state = self.lock();
        loop {
            if state.stopped {
                return None;
            }
            let has_room = state.has_room(self.depth_bytes(&state));
            let fresh = state.claim < self.steps && has_room;
            let step = state.again.pop_first().or_else(|| {
                state.claim += u64::from(fresh);
                fresh.then(|| state.claim - 1)
            });
            if let Some(step) = step {
                state.busy.insert(step);
                return Some(step);
            }
            state.was_full |= !has_room && !state.ready.is_empty();
            state.idle += 1;
            state = wait(&self.freed, state, PATIENCE);
            state.idle -= 1;
        }
    }
}

fn wait<'a>(
    condition: &Condvar,
    state: MutexGuard<'a, State>,
    patience: Duration,
) -> MutexGuard<'a, State> {
    condition.wait_timeout(state, patience).unwrap_or_else(PoisonError::into_inner).0
}

/// Tells the consumer when a thread ends by a panic, so that it does not wait for ever.
struct Farewell<'a>(&'a Shared);

impl Drop for Farewell<'_> {
    fn drop(&mut self) {
        self.0.lock().panicked |= std::thread::panicking();
        self.0.delivered.notify_all();
    }
}

/// Buffers kept for later batches at most.
const SPARE_MAX: u64 = 1024;

/// The bytes that one rank's batch takes, as far as the schemas say; two must fit.
fn batch_bytes(
    columns: &Columns,
    sources: &[Arc<dyn Source>],
    settings: &FeedSettings,
    rank: Rank,
) -> Result<u64, Error> {
    let sample_bytes = sources.iter().map(|source| source.sample_bytes()).max().unwrap_or(0);
    let row_bytes = columns.row_bytes(sample_bytes) + size_of::<Identity>() as u64;
    let rows = u64::from(settings.batch_size.div_ceil(rank.world_size()));
    let batch_bytes = rows * row_bytes;
    let (buffer_bytes, needed_bytes) = (settings.buffer_bytes, 2 * batch_bytes);
    if buffer_bytes < needed_bytes {
        return Err(Error::BufferTooSmall { buffer_bytes, needed_bytes });
    }
    Ok(batch_bytes)
}

/// Checks that the extents which are read at once fit into the tier together.
fn require_room(
    transfer: &Transfer,
    course: &Course,
    sources: &[Arc<dyn Source>],
) -> Result<(), forebay_transfer::Error> {
    let mut bytes = 0_u64;
    for (dataset, source) in sources.iter().enumerate() {
        bytes = bytes.saturating_add(source.bytes_in_use(course.shards_in_use(dataset))?);
    }
    transfer.require_room(bytes)
}

/// Requests to the lake so far, for whatever.
fn reads(transfer: &Transfer) -> u64 {
    transfer.lake().traffic().values().map(|traffic| traffic.reads).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// More ahead helps a consumer that waited for a batch although enough had been ready, up to
    /// the setting; it does not help one whose threads never catch up.
    #[test]
    fn the_depth_grows_when_a_full_buffer_did_not_spare_a_wait() {
        let most = 3 * DEPTH_START_BYTES;
        let mut state = State::at(0, 1);
        state.deepen(WAIT_MIN, most);
        assert_eq!(state.depth_bytes, DEPTH_START_BYTES, "it was never full");
        state.was_full = true;
        state.deepen(WAIT_MIN / 2, most);
        assert_eq!(state.depth_bytes, DEPTH_START_BYTES, "nobody waited");
        state.deepen(WAIT_MIN, most);
        assert_eq!((state.depth_bytes, state.was_full), (2 * DEPTH_START_BYTES, false));
        state.was_full = true;
        state.deepen(WAIT_MIN, most);
        assert_eq!(state.depth_bytes, most);
    }
}
