//! Measuring the feed: would an accelerator wait for it?
//!
//! Every rank of one node opens a feed of its own on a thread of its own, over one engine, takes
//! batch after batch and, where a compute time is given, sleeps that long on each with the batch in
//! its hands, as a training step would keep it. Nothing else happens on that thread, so what is not
//! computing is waiting.
//!
//! # Definitions
//! Accelerator utilization is MLPerf Storage's: "AU (percentage) =
//! (total_compute_time/total_benchmark_running_time) * 100", where "all the I/O operations from the
//! first step are excluded" (Submission Guidelines v2.0, section 4). As in its reference program
//! DLIO (`compute_metrics_train` of `dlio_benchmark/utils/statscounter.py`) the first step is left
//! out of both times with its load and its compute, compute times are measured and not taken from
//! the setting, and the utilization of several ranks is the mean of theirs. Two things differ: the
//! first step is left out once and not in every epoch, since a feed does not start anew there; and
//! no barrier holds the ranks together, so the slowest is reported beside the mean.
//!
//! Samples and bytes per second count everything from before the feeds were opened, the first step
//! included, as the same section says.
//!
//! # Bounds
//! Memory is that of the feeds: `buffer_bytes` for each rank. A feed that stalls ends all the same
//! when the time is over or the runtime is cancelled; what was measured until then is returned.

use std::{
    fs,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use forebay_feed::{Cursor, FeedDataset, FeedSettings, Next, WaitCause, Waited};
use forebay_transfer::index::AnyManifest;
use forebay_types::{ErrorKind, Name, Rank, Split, Version};
use serde::Serialize;

use crate::{Engine, Error};

/// How often the meter is shown, and how long a stalled feed is waited for before it is asked
/// whether the time is over.
const METER_EVERY: Duration = Duration::from_millis(250);

/// What to measure. Whichever limit is met first ends it; the epochs are the feed's setting.
#[derive(Clone, Debug)]
pub struct FeedBenchmark {
    /// The feed of every rank.
    pub feed: FeedSettings,
    /// Ranks of this node, each with a feed of its own.
    pub ranks: u32,
    /// Steps of every rank at most.
    pub steps: Option<u64>,
    /// Time since before the feeds are opened at most.
    pub duration: Option<Duration>,
    /// How long an accelerator computes on one batch; none: batches are taken as fast as they come.
    pub compute: Option<Duration>,
}

impl FeedBenchmark {
    /// How long to measure at most where nobody says how much: an epoch of a large dataset takes
    /// hours, and says no more.
    pub const DURATION_DEFAULT: Duration = Duration::from_secs(30);
}

/// How far a measurement is.
#[derive(Clone, Copy, Debug)]
pub struct Meter {
    /// The share of the work or of the time that is done, from 0 to 1.
    pub share: f64,
    /// Samples of all ranks.
    pub samples: u64,
    /// Bytes of their values.
    pub bytes: u64,
    /// The time since before the feeds were opened.
    pub seconds: f64,
}

/// What ended a measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EndedBy {
    /// The last epoch was over.
    Epochs,
    /// Every rank took its steps.
    Steps,
    /// The time was over.
    Duration,
    /// It was stopped from outside.
    Stopped,
}

/// What a feed came to, over all ranks.
#[derive(Clone, Debug, Serialize)]
pub struct FeedMeasured {
    /// The dataset.
    pub dataset: Name,
    /// Its version.
    pub version: Version,
    /// The split that was fed.
    pub split: Split,
    /// Samples of a global batch.
    pub global_batch_size: u32,
    /// What ended it.
    pub ended_by: EndedBy,
    /// Batches of all ranks.
    pub batches: u64,
    /// Samples in them.
    pub samples: u64,
    /// Bytes of their values.
    pub bytes: u64,
    /// From before the feeds were opened until the last rank had ended.
    pub seconds: f64,
    /// Samples in that time.
    pub samples_per_second: f64,
    /// Bytes of values in that time.
    pub bytes_per_second: f64,
    /// From before the feeds were opened to the first batch, of the slowest rank; none if a rank
    /// got none.
    pub first_batch_seconds: Option<f64>,
    /// How long the simulated accelerators were to compute on a batch.
    pub compute_seconds: Option<f64>,
    /// Accelerator utilization, the mean of the ranks; none without a compute time, or where no
    /// rank came to a second step.
    pub au_percent: Option<f64>,
    /// That of the slowest rank.
    pub au_percent_worst: Option<f64>,
    /// The share of the ranks' time after their first step in which they waited.
    pub waiting_percent: Option<f64>,
    /// What they waited for in that time, added up.
    pub waited: WaitedSeconds,
    /// The cause of the most of it that has one.
    pub waited_for: Option<WaitCause>,
    /// Bytes brought from where the dataset lies.
    pub lake_bytes: u64,
    /// Requests that read from the lake; none where the dataset lies in another store, whose
    /// requests are not counted.
    pub lake_requests: Option<u64>,
    /// The share of shards or extents that were on the node when a batch needed them.
    pub cache_hit_percent: Option<f64>,
    /// Memory of the batches of all ranks.
    pub buffer_bytes: u64,
    /// The most memory this process ever had; none where the system does not say.
    pub peak_memory_bytes: Option<u64>,
    /// Every rank.
    pub ranks: Vec<RankMeasured>,
}

/// What the feed of one rank came to.
#[derive(Clone, Debug, Serialize)]
pub struct RankMeasured {
    /// The rank.
    pub rank: u32,
    /// What ended it.
    pub ended_by: EndedBy,
    /// Its batches.
    pub batches: u64,
    /// Samples in them.
    pub samples: u64,
    /// Bytes of their values.
    pub bytes: u64,
    /// From before its feed was opened to its first batch; none if it got none.
    pub first_batch_seconds: Option<f64>,
    /// From the end of its first step to its end.
    pub running_seconds: f64,
    /// How much of that it computed.
    pub computing_seconds: f64,
    /// What it waited for in that time.
    pub waited: WaitedSeconds,
    /// Its accelerator's utilization.
    pub au_percent: Option<f64>,
    /// From before the feeds were opened to its end; what the feed does to close is left out.
    #[serde(skip)]
    ended_seconds: f64,
    /// Shards that were on the node when they were needed, and that were not.
    #[serde(skip)]
    shelf: (u64, u64),
    /// Memory of its batches.
    #[serde(skip)]
    buffer_bytes: u64,
}

/// Time waited, by cause, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct WaitedSeconds {
    /// For the lake.
    pub lake: f64,
    /// For the local tier.
    pub local: f64,
    /// For the threads that make batches.
    pub assembly: f64,
    /// For none of them: the rank's own thread had no core, or the end cut its last wait off.
    pub other: f64,
}

impl Engine {
    /// Measures the feed of a split; `meter` is called now and then from one of its threads.
    ///
    /// # Errors
    /// What a feed failed with; [`ErrorKind::Interrupted`] when the runtime was cancelled before
    /// there was anything to report.
    pub fn measure_feed(
        &self,
        manifest: &AnyManifest,
        split: Split,
        benchmark: &FeedBenchmark,
        meter: &(dyn Fn(Meter) + Sync),
    ) -> Result<FeedMeasured, Error> {
        if benchmark.ranks == 0 {
            let why = "measure at least one rank".into();
            return Err(Error::Setting { setting: "ranks", value: "0".into(), why });
        }
        let dataset = FeedDataset::new(manifest, split);
        let before = self.moved();
        let measurement = Measurement {
            engine: self,
            dataset,
            benchmark,
            meter,
            started: self.runtime().elapsed(),
            failed: AtomicBool::new(false),
            samples: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            ranks: Mutex::default(),
        };
        let mut ranks = measurement.run()?;
        ranks.sort_by_key(|rank| rank.rank);
        let after = self.moved();
        let (name, version) = (dataset.name(), manifest.version());
        let mut measured = FeedMeasured::of(name, version, split, benchmark, ranks);
        if measured.batches == 0 {
            self.runtime().check()?;
        }
        measured.lake_bytes = after.0 - before.0;
        measured.lake_requests = match manifest {
            AnyManifest::Indexed(index) if index.store.is_some() => None,
            _ => Some(after.1 - before.1),
        };
        Ok(measured)
    }

    /// Bytes brought to the node, and requests that read from the lake.
    fn moved(&self) -> (u64, u64) {
        let requests = self.lake().traffic().values().map(|traffic| traffic.reads).sum();
        (self.transfer().fetch_stats().fetched_bytes, requests)
    }
}

/// A measurement under way, shared by its ranks.
struct Measurement<'a> {
    engine: &'a Engine,
    dataset: FeedDataset<'a>,
    benchmark: &'a FeedBenchmark,
    meter: &'a (dyn Fn(Meter) + Sync),
    started: Duration,
    /// Whether a rank failed: then the others are of no use.
    failed: AtomicBool,
    samples: AtomicU64,
    bytes: AtomicU64,
    ranks: Mutex<Vec<RankMeasured>>,
}

impl Measurement<'_> {
    fn run(&self) -> Result<Vec<RankMeasured>, Error> {
        let world_size = self.benchmark.ranks;
        self.engine.runtime().workers("rank", world_size as usize, |index| {
            let rank = Rank::new(index as u32, world_size).expect("a worker for each rank");
            let outcome = self.measure(rank);
            self.failed.fetch_or(outcome.is_err(), Ordering::Relaxed);
            self.ranks.lock().unwrap_or_else(PoisonError::into_inner).push(outcome?);
            Ok::<(), Error>(())
        })?;
        Ok(std::mem::take(&mut *self.ranks.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Takes the batches of one rank.
    fn measure(&self, rank: Rank) -> Result<RankMeasured, Error> {
        let (runtime, settings) = (self.engine.runtime(), &self.benchmark.feed);
        let mut feed = self.engine.feed(&[self.dataset], settings, rank, Cursor::default())?;
        let steps = self.benchmark.steps.into_iter().chain(feed.steps()).min();
        let mut measured = RankMeasured::new(rank);
        let mut first_step_ended = None;
        let mut metered = runtime.elapsed();
        measured.ended_by = loop {
            if let Some(ended_by) = self.end_of(measured.batches) {
                break ended_by;
            }
            if rank.rank() == 0 && runtime.elapsed() - metered >= METER_EVERY {
                metered = runtime.elapsed();
                self.show(measured.batches, steps);
            }
            let batch = match feed.next_within(Some(METER_EVERY)) {
                Ok(Next::Batch(batch)) => batch,
                Ok(Next::Pending) => continue,
                Ok(Next::End) => break EndedBy::Epochs,
                Err(error) if error.kind() == ErrorKind::Interrupted => break EndedBy::Stopped,
                Err(error) => return Err(error.into()),
            };
            let bytes = batch.columns().map(|column| column.values.len() as u64).sum();
            measured.batches += 1;
            measured.samples += batch.rows as u64;
            measured.bytes += bytes;
            self.samples.fetch_add(batch.rows as u64, Ordering::Relaxed);
            self.bytes.fetch_add(bytes, Ordering::Relaxed);
            let got = self.seconds();
            let computed = runtime.stopwatch();
            // A sleep that was cut short ends the loop at its next turn.
            let _woken = self.benchmark.compute.map(|compute| runtime.sleep(compute));
            match first_step_ended {
                None => {
                    measured.first_batch_seconds = Some(got);
                    first_step_ended = Some(runtime.elapsed());
                }
                Some(_) => {
                    measured.computing_seconds += computed.seconds();
                    measured.waited.add(batch.waited);
                }
            }
        };
        let ended = runtime.elapsed();
        measured.ended_seconds = (ended - self.started).as_secs_f64();
        let running = first_step_ended.map_or(Duration::ZERO, |first| ended - first);
        measured.running_seconds = running.as_secs_f64();
        measured.waited.other =
            (measured.running_seconds - measured.computing_seconds - measured.waited.known())
                .max(0.0);
        let stats = feed.stats();
        measured.shelf = (stats.cache_hits, stats.cache_misses);
        measured.buffer_bytes = stats.buffer_bytes;
        if self.benchmark.compute.is_some() && measured.batches > 1 {
            let (computing, running) = (measured.computing_seconds, measured.running_seconds);
            measured.au_percent = percent(computing, running);
        }
        Ok(measured)
    }

    /// What ends a rank that has taken so many batches, if anything does.
    fn end_of(&self, batches: u64) -> Option<EndedBy> {
        let runtime = self.engine.runtime();
        let is_over = |limit| runtime.elapsed() - self.started >= limit;
        if runtime.check().is_err() || self.failed.load(Ordering::Relaxed) {
            Some(EndedBy::Stopped)
        } else if self.benchmark.steps.is_some_and(|steps| batches >= steps) {
            Some(EndedBy::Steps)
        } else {
            self.benchmark.duration.is_some_and(is_over).then_some(EndedBy::Duration)
        }
    }

    fn seconds(&self) -> f64 {
        (self.engine.runtime().elapsed() - self.started).as_secs_f64()
    }

    fn show(&self, batches: u64, steps: Option<u64>) {
        let seconds = self.seconds();
        let of_steps = steps.map(|steps| batches as f64 / steps as f64);
        let of_time = self.benchmark.duration.map(|limit| seconds / limit.as_secs_f64());
        (self.meter)(Meter {
            share: of_steps.into_iter().chain(of_time).fold(0.0, f64::max).min(1.0),
            samples: self.samples.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            seconds,
        });
    }
}

impl FeedMeasured {
    /// The ranks' sums, means and worst.
    fn of(
        dataset: &Name,
        version: Version,
        split: Split,
        benchmark: &FeedBenchmark,
        ranks: Vec<RankMeasured>,
    ) -> Self {
        let sum = |of: fn(&RankMeasured) -> u64| ranks.iter().map(of).sum::<u64>();
        let first_batches: Option<Vec<f64>> =
            ranks.iter().map(|rank| rank.first_batch_seconds).collect();
        let utilizations: Option<Vec<f64>> = ranks.iter().map(|rank| rank.au_percent).collect();
        let running: f64 = ranks.iter().map(|rank| rank.running_seconds).sum();
        let computing: f64 = ranks.iter().map(|rank| rank.computing_seconds).sum();
        let mut waited = WaitedSeconds::default();
        ranks.iter().for_each(|rank| waited.add_seconds(rank.waited));
        let (samples, bytes) = (sum(|rank| rank.samples), sum(|rank| rank.bytes));
        let seconds = ranks.iter().map(|rank| rank.ended_seconds).fold(0.0, f64::max);
        let (hits, misses) = (sum(|rank| rank.shelf.0), sum(|rank| rank.shelf.1));
        Self {
            dataset: dataset.clone(),
            version,
            split,
            global_batch_size: benchmark.feed.batch_size,
            // Ranks end at different moments; who was ended from outside decides.
            ended_by: ranks.iter().map(|rank| rank.ended_by).max().unwrap_or(EndedBy::Stopped),
            batches: sum(|rank| rank.batches),
            samples,
            bytes,
            seconds,
            samples_per_second: samples as f64 / seconds,
            bytes_per_second: bytes as f64 / seconds,
            first_batch_seconds: first_batches.map(|all| all.into_iter().fold(0.0, f64::max)),
            compute_seconds: benchmark.compute.map(|compute| compute.as_secs_f64()),
            au_percent: utilizations.as_ref().map(|all| all.iter().sum::<f64>() / all.len() as f64),
            au_percent_worst: utilizations.map(|all| all.into_iter().fold(f64::INFINITY, f64::min)),
            waiting_percent: percent(running - computing, running),
            waited,
            waited_for: waited.cause(),
            lake_bytes: 0,
            lake_requests: None,
            cache_hit_percent: percent(hits as f64, (hits + misses) as f64),
            buffer_bytes: sum(|rank| rank.buffer_bytes),
            peak_memory_bytes: peak_memory_bytes(),
            ranks,
        }
    }

    /// How long the slowest rank took for a step after its first, on average: an accelerator that
    /// computes longer than that on a batch hardly waits.
    #[must_use]
    pub fn seconds_per_step(&self) -> Option<f64> {
        let of = |rank: &RankMeasured| {
            (rank.batches > 1).then(|| rank.running_seconds / (rank.batches - 1) as f64)
        };
        self.ranks.iter().filter_map(of).reduce(f64::max)
    }
}

impl RankMeasured {
    fn new(rank: Rank) -> Self {
        Self {
            rank: rank.rank(),
            ended_by: EndedBy::Stopped,
            batches: 0,
            samples: 0,
            bytes: 0,
            first_batch_seconds: None,
            running_seconds: 0.0,
            computing_seconds: 0.0,
            waited: WaitedSeconds::default(),
            au_percent: None,
            ended_seconds: 0.0,
            shelf: (0, 0),
            buffer_bytes: 0,
        }
    }
}

impl WaitedSeconds {
    fn add(&mut self, waited: Waited) {
        self.add_seconds(Self {
            lake: waited.lake.as_secs_f64(),
            local: waited.local.as_secs_f64(),
            assembly: waited.assembly.as_secs_f64(),
            other: 0.0,
        });
    }

    fn add_seconds(&mut self, other: Self) {
        self.lake += other.lake;
        self.local += other.local;
        self.assembly += other.assembly;
        self.other += other.other;
    }

    /// All that has a cause.
    fn known(self) -> f64 {
        self.lake + self.local + self.assembly
    }

    /// The cause of the most of it, if there was any.
    fn cause(self) -> Option<WaitCause> {
        let causes = [
            (self.lake, WaitCause::Lake),
            (self.local, WaitCause::Local),
            (self.assembly, WaitCause::Assembly),
        ];
        let most = causes.into_iter().max_by(|one, other| one.0.total_cmp(&other.0));
        most.filter(|&(seconds, _)| seconds > 0.0).map(|(_, cause)| cause)
    }
}

/// `part` of `whole` in percent; none of nothing.
fn percent(part: f64, whole: f64) -> Option<f64> {
    (whole > 0.0).then(|| 100.0 * part / whole)
}

/// The most memory this process ever had, as the Linux kernel counts it.
fn peak_memory_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rank(rank: u32, computing_seconds: f64, running_seconds: f64) -> RankMeasured {
        RankMeasured {
            batches: 11,
            samples: 88,
            first_batch_seconds: Some(f64::from(rank)),
            computing_seconds,
            running_seconds,
            ended_seconds: 4.0 - f64::from(rank),
            au_percent: percent(computing_seconds, running_seconds),
            ended_by: EndedBy::Epochs,
            ..RankMeasured::new(Rank::new(rank, 8).unwrap())
        }
    }

    fn measured(ranks: Vec<RankMeasured>) -> FeedMeasured {
        let benchmark = FeedBenchmark {
            feed: FeedSettings::default(),
            ranks: ranks.len() as u32,
            steps: None,
            duration: None,
            compute: Some(Duration::from_millis(100)),
        };
        let (name, version) = (Name::new("mine").unwrap(), Version::new(1).unwrap());
        FeedMeasured::of(&name, version, Split::Train, &benchmark, ranks)
    }

    #[test]
    fn utilization_is_the_mean_of_the_ranks_and_the_worst_stands_beside() {
        let both = measured(vec![rank(0, 1.0, 1.0), rank(1, 1.0, 2.0)]);
        assert_eq!((both.au_percent, both.au_percent_worst), (Some(75.0), Some(50.0)));
        assert_eq!((both.samples, both.samples_per_second), (176, 44.0));
        assert_eq!(both.first_batch_seconds, Some(1.0));
        assert_eq!(both.seconds_per_step(), Some(0.2));
        assert!((both.waiting_percent.unwrap() - 100.0 / 3.0).abs() < 1e-9);
    }

    #[test]
    fn one_step_has_no_utilization_and_no_step_no_first_batch() {
        let mut one = rank(0, 0.0, 0.0);
        one.batches = 1;
        let report = measured(vec![one.clone()]);
        assert_eq!((report.au_percent, report.seconds_per_step()), (None, None));
        one.first_batch_seconds = None;
        assert_eq!(measured(vec![rank(0, 1.0, 1.0), one]).first_batch_seconds, None);
    }

    #[test]
    fn whoever_was_stopped_decides_what_ended_it() {
        let mut stopped = rank(1, 1.0, 1.0);
        stopped.ended_by = EndedBy::Stopped;
        let report = measured(vec![rank(0, 1.0, 1.0), stopped]);
        assert_eq!(report.ended_by, EndedBy::Stopped);
    }
}
