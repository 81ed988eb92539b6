//! The feed: batches in order, assembled ahead on threads.
//!
//! ```text
//! lake ──prefetch──► local tier ──map, verify──► shelf ──gather──► ready batches ──► next()
//!        (transfer)                               (threads, in any order)   (in order)
//! ```
//!
//! Threads (`workers`) claim steps in order and assemble them side by side, as far ahead as the
//! `backlog` has room; this is the consumer's side.
//!
//! The state of a feed is its [`Position`]: to open one anywhere costs the same, because the order
//! is a pure function.
//!
//! An error reaches the consumer at the step it belongs to. The position does not move then, and
//! the step is tried again, so a consumer may call `next` once more after an outage.
//!
//! Dropping a feed stops downloads at their next piece and joins its threads.

use std::{
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use forebay_runtime::Task;
use forebay_transfer::{FetchStats, PrefetchSettings, Prefetcher, Transfer};
use forebay_types::{Position, Rank};

use crate::{
    Batch, Cursor, Error, FeedSettings, FeedStats,
    assemble::{Assembled, Assembler},
    backlog::Backlog,
    batch::Pool,
    columns::Columns,
    course::Course,
    dataset::FeedDataset,
    ids::Identity,
    lookahead::Lookahead,
    mixture::by_samples,
    shelf::Shelf,
    source::Source,
    workers::{PATIENCE, Shared},
};

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
        let prefetcher = Prefetcher::start(transfer, Arc::new(lookahead), start, prefetch);
        let assembler = Assembler {
            course,
            shelf: Shelf::new(transfer, &sources),
            sources,
            columns,
            pool: Arc::new(Pool::new(spare_max)),
            seed: settings.seed,
            plans: Mutex::default(),
            scratches: Mutex::default(),
        };
        let backlog = Backlog::at(step, steps, batch_bytes, settings);
        let shared = Arc::new(Shared::new(assembler, prefetcher, steps, backlog));
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
        let step = self.shared.lock().backlog.next_step();
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
        while !state.backlog.is_ready(step) {
            if let Err(source) = self.transfer.runtime().check() {
                return Err(Error::Cancelled { step, source });
            }
            if state.panicked {
                drop(state);
                return Err(self.broken(step));
            }
            let patience = match deadline {
                None => PATIENCE,
                Some(deadline) => deadline.saturating_sub(self.now()),
            };
            if patience.is_zero() {
                return Ok(None);
            }
            state = self.shared.wait_for_delivery(state, patience.min(PATIENCE));
        }
        let waited = self.now().saturating_sub(start);
        let outcome = state.backlog.take(step, waited);
        self.shared.wake(state);
        Ok(outcome)
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
        Position { step: self.shared.lock().backlog.next_step() }
    }

    /// Where the feed stands, independent of world size and batch size.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        self.shared.assembler.course.cursor(self.shared.lock().backlog.next_step())
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
