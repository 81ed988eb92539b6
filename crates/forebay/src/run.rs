//! A run: one training job as the trainer sees it.
//!
//! The trainer asks for batches, reports steps and hands its state over; the run keeps the feed,
//! the checkpoints and the journal in step with each other:
//!
//! 1. [`Run::resume`] gives the newest committed state, and sets the feed to the position that was
//!    committed with it.
//! 2. [`Run::next_batch`] and [`Run::record_step`] alternate.
//! 3. [`Run::save`] first makes the journal durable, then captures: whoever finds a commit finds
//!    the log of every step before it.
//! 4. [`Run::finish`] waits until all is durable.
//!
//! # After a crash
//! Opening the run again drains what was sealed, and [`Run::resume`] goes on from the newest
//! commit. Steps after it are taken again, from the same batches; the journal keeps both.

use std::collections::BTreeMap;

use forebay_checkpoint::{Checkpointer, Part, Restored, SaveReport, StateTensor, Which};
use forebay_feed::{Batch, Feed, FeedDataset, FeedStats, WaitCause};
use forebay_format::v1::{
    dataset::DatasetManifest,
    journal::{
        CheckpointCommitted, Event, FeedSummary, Finished, Resumed, RunStarted, Step, Traffic,
        TrafficCounts,
    },
    run::{DatasetReference, RunParent, RunRecord, json_digest},
};
use forebay_journal::{Journal, host};
use forebay_lake::Lake;
use forebay_runtime::{Runtime, Stopwatch};
use forebay_types::{Name, Position, Rank, Split, Version};

use crate::{Engine, Error, Settings};

/// Sees every event as it is recorded.
pub type Observer<'a> = Box<dyn FnMut(&Event) + 'a>;

/// What a trainer says of itself.
#[derive(Clone, Debug)]
pub struct Trainer {
    /// Its name and version.
    pub description: String,
    /// What it computes on: `cpu (flex)`, `cuda`.
    pub device: String,
}

/// One step, as the trainer reports it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepMetrics {
    /// The mean loss per token, in nats.
    pub loss: f64,
    /// The learning rate it was taken with.
    pub learning_rate: f64,
    /// The norm of the gradient before clipping.
    pub gradient_norm: f64,
    /// The tokens of its batch.
    pub tokens: u64,
}

/// One training job.
pub struct Run<'a> {
    engine: Engine,
    record: RunRecord,
    manifest: DatasetManifest,
    settings: Settings,
    journal: Journal,
    checkpointer: Checkpointer,
    feed: Option<Feed>,
    position: Position,
    reported: Reported,
    observer: Observer<'a>,
    attempt: Stopwatch,
    last_step_seconds: f64,
    last_flush_seconds: f64,
    waited: Waited,
}

/// How long steps stay in memory at most before the journal makes them durable.
const FLUSH_SECONDS: f64 = 5.0;

/// What the journal knows of this attempt's feed and traffic.
#[derive(Default)]
struct Reported {
    stats: FeedStats,
    seconds: f64,
    traffic: Traffic,
}

/// What the step under way waited for its batch.
#[derive(Clone, Debug, Default)]
struct Waited {
    seconds: f64,
    cause: Option<String>,
}

impl<'a> Run<'a> {
    /// Opens run `name`: begins it if it is new, otherwise takes it up where it stands.
    ///
    /// # Errors
    /// [`forebay_types::ErrorKind::Conflict`] when a run of this name has other settings, or
    /// another live process writes it.
    pub fn open(
        engine: &Engine,
        name: &Name,
        settings: &Settings,
        version: Option<Version>,
        trainer: &Trainer,
        observer: Observer<'a>,
    ) -> Result<Self, Error> {
        let journal = open_journal(engine, name, settings, version, trainer)?;
        let record = journal.run_record().clone();
        let manifest = engine.referenced(&record.dataset)?;
        let runtime = engine.runtime();
        let checkpointer = Checkpointer::open(
            engine.transfer(),
            name,
            Rank::ALONE,
            &settings.checkpoint,
            runtime,
        )?
        .with_dataset(record.dataset.clone());
        let mut run = Self {
            engine: engine.clone(),
            record,
            manifest,
            settings: settings.clone(),
            journal,
            checkpointer,
            feed: None,
            position: Position::default(),
            reported: Reported::default(),
            observer,
            attempt: runtime.stopwatch(),
            last_step_seconds: 0.0,
            last_flush_seconds: 0.0,
            waited: Waited::default(),
        };
        run.journal.begin_attempt();
        run.record(Event::RunStarted(RunStarted { host: host(trainer.device.as_str()) }))?;
        Ok(run)
    }

    /// The run's name.
    #[must_use]
    pub fn name(&self) -> &Name {
        &self.record.run
    }

    /// Decides initialization and order.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.record.seed
    }

    /// How many steps it takes in all.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.record.steps
    }

    /// What it learns from.
    #[must_use]
    pub fn dataset(&self) -> &DatasetManifest {
        &self.manifest
    }

    /// The clock, and the flag that Ctrl-C sets.
    #[must_use]
    pub fn runtime(&self) -> &Runtime {
        self.engine.runtime()
    }

    /// The newest committed state, if there is one; the feed then stands at its position.
    ///
    /// # Errors
    /// When the newest commit is damaged: the message names the object and the intact older step.
    pub fn resume(&mut self) -> Result<Option<Restored>, Error> {
        let watch = self.runtime().stopwatch();
        let Some(restored) = self.checkpointer.restore(Which::Newest, Part::All)? else {
            return Ok(None);
        };
        self.position = restored.position();
        self.feed = None;
        let (step, tier) = (restored.step(), restored.tier().to_string());
        self.record(Event::Resumed(Resumed { step, seconds: watch.seconds(), tier }))?;
        self.last_step_seconds = self.attempt.seconds();
        Ok(Some(restored))
    }

    /// The batch of the next step.
    ///
    /// # Errors
    /// When its data cannot be read or is damaged; the message names object and step.
    pub fn next_batch(&mut self) -> Result<Batch, Error> {
        self.runtime().check()?;
        let batch = self.feed()?.next()?;
        let batch = batch.ok_or_else(|| Error::Refused("the feed has no further batch".into()))?;
        self.waited = Waited {
            seconds: batch.waited.total().as_secs_f64(),
            cause: batch.waited.cause().map(cause),
        };
        Ok(batch)
    }

    /// Records that step `step` was taken.
    ///
    /// # Errors
    /// When the journal cannot be written.
    pub fn record_step(&mut self, step: u64, metrics: StepMetrics) -> Result<(), Error> {
        let now = self.attempt.seconds();
        let seconds = now - std::mem::replace(&mut self.last_step_seconds, now);
        let waited = std::mem::take(&mut self.waited);
        self.record(Event::Step(Step {
            step,
            loss: metrics.loss,
            learning_rate: metrics.learning_rate,
            gradient_norm: metrics.gradient_norm,
            tokens: metrics.tokens,
            seconds,
            waited_seconds: waited.seconds,
            wait_cause: waited.cause,
        }))?;
        let committed = self.record_commits()?;
        // So that a report knows of every checkpoint, and of most of what a crash threw away.
        if committed || now - self.last_flush_seconds > FLUSH_SECONDS {
            self.last_flush_seconds = now;
            self.journal.flush()?;
        }
        Ok(())
    }

    /// Whether a checkpoint is due after `steps_taken` steps, or was asked for since the last time.
    #[must_use]
    pub fn save_due(&self, steps_taken: u64) -> bool {
        let every = self.settings.checkpoint.every_steps;
        steps_taken == self.record.steps
            || (every > 0 && steps_taken.is_multiple_of(every))
            || self.checkpointer.asked()
    }

    /// Captures the state after `steps_taken` steps; returns as soon as the trainer may change it.
    ///
    /// # Errors
    /// What went wrong with this save, or in the background with one before.
    pub fn save(
        &mut self,
        steps_taken: u64,
        tensors: &[StateTensor<'_>],
        metadata: &serde_json::Value,
    ) -> Result<(), Error> {
        self.record_feed()?;
        self.journal.flush()?;
        let position = Position { step: steps_taken };
        self.checkpointer.save(steps_taken, position, tensors, metadata)?;
        Ok(())
    }

    /// Waits until all is durable and closes the run's journal for this attempt.
    ///
    /// # Errors
    /// What went wrong in the background.
    pub fn finish(mut self, last_loss: f64) -> Result<(), Error> {
        self.drain()?;
        self.record_feed()?;
        let (steps, seconds) = (self.record.steps, self.attempt.seconds());
        self.record(Event::Finished(Finished { steps, loss: last_loss, seconds }))?;
        Ok(self.journal.flush()?)
    }

    /// Stops before the last step: waits until all is durable, and says so in the journal.
    ///
    /// # Errors
    /// What went wrong in the background.
    pub fn suspend(mut self) -> Result<(), Error> {
        self.drain()?;
        self.record_feed()?;
        Ok(self.journal.flush()?)
    }

    /// The feed, opened where the run stands when it is first needed.
    fn feed(&mut self) -> Result<&mut Feed, Error> {
        let feed = match self.feed.take() {
            Some(feed) => feed,
            None => open_feed(&self.engine, &self.manifest, &self.settings, self.position)?,
        };
        Ok(self.feed.insert(feed))
    }

    fn drain(&mut self) -> Result<(), Error> {
        let reports = self.checkpointer.wait()?;
        reports.into_iter().try_for_each(|report| self.record_commit(report))
    }

    /// Records the checkpoints that were committed since; says whether there were any.
    fn record_commits(&mut self) -> Result<bool, Error> {
        let reports = self.checkpointer.finished();
        let any = !reports.is_empty();
        reports.into_iter().try_for_each(|report| self.record_commit(report))?;
        Ok(any)
    }

    fn record_commit(&mut self, report: SaveReport) -> Result<(), Error> {
        self.record(Event::CheckpointCommitted(CheckpointCommitted {
            step: report.step,
            bytes: report.bytes,
            pause_seconds: report.pause_seconds,
            stage_seconds: report.stage_seconds,
            durable_seconds: report.durable_seconds,
            committed_unix_ms: report.committed_unix_ms,
        }))
    }

    /// Records what was fed and moved since this was last recorded.
    fn record_feed(&mut self) -> Result<(), Error> {
        let stats = self.feed.as_ref().map(Feed::stats).unwrap_or_default();
        let now = Reported {
            stats,
            seconds: self.attempt.seconds(),
            traffic: traffic(self.engine.lake(), "train"),
        };
        let (fed, moved) = now.since(&self.reported);
        self.reported = now;
        self.last_flush_seconds = self.reported.seconds;
        self.record(Event::FeedSummary(fed))?;
        self.record(Event::Traffic(moved))
    }

    fn record(&mut self, event: Event) -> Result<(), Error> {
        (self.observer)(&event);
        Ok(self.journal.record(event)?)
    }
}

/// The journal of run `name`, whose record is written if it is new.
pub(crate) fn open_journal(
    engine: &Engine,
    name: &Name,
    settings: &Settings,
    version: Option<Version>,
    trainer: &Trainer,
) -> Result<Journal, Error> {
    let (manifest, digest) = engine.dataset(&settings.prepare.dataset, version)?;
    let configuration = settings.of_run();
    let runtime = engine.runtime();
    let forked_from = forebay_checkpoint::forked_from(engine.lake(), name)?;
    let record = RunRecord {
        run: name.clone(),
        created_unix_ms: runtime.now().unix_ms(),
        nonce: runtime.nonce(),
        seed: settings.seed,
        steps: settings.steps,
        dataset: DatasetReference { name: manifest.name, version: manifest.version, digest },
        configuration_digest: json_digest(&configuration),
        configuration,
        gate: settings.gate,
        gate_digest: settings.gate.digest(),
        trainer: trainer.description.clone(),
        parent: forked_from.map(|from| RunParent { run: from.run, step: from.step }),
    };
    Ok(Journal::open(engine.lake(), &record, runtime)?)
}

fn open_feed(
    engine: &Engine,
    manifest: &DatasetManifest,
    settings: &Settings,
    from: Position,
) -> Result<Feed, Error> {
    let transfer = engine.transfer();
    let datasets = [FeedDataset::Prepared(manifest, Split::Train)];
    Ok(Feed::open(transfer, &datasets, &settings.feed, Rank::ALONE, from)?)
}

impl Reported {
    /// What came since `before`, as events that add up over a run.
    fn since(&self, before: &Self) -> (FeedSummary, Traffic) {
        let (now, then) = (&self.stats, &before.stats);
        let waited = [
            (WaitCause::Lake, now.waited.lake.saturating_sub(then.waited.lake)),
            (WaitCause::Local, now.waited.local.saturating_sub(then.waited.local)),
            (WaitCause::Assembly, now.waited.assembly.saturating_sub(then.waited.assembly)),
        ];
        let fed = FeedSummary {
            samples: now.samples - then.samples,
            seconds: self.seconds - before.seconds,
            waited_seconds: waited.map(|(why, waited)| (cause(why), waited.as_secs_f64())).into(),
            lake_bytes: now.lake_bytes - then.lake_bytes,
            hits: now.cache_hits - then.cache_hits,
            misses: now.cache_misses - then.cache_misses,
            refetches: now.refetches - then.refetches,
        };
        let moved = moved_since(&self.traffic, &before.traffic);
        (fed, moved)
    }
}

fn cause(cause: WaitCause) -> String {
    match cause {
        WaitCause::Lake => "lake",
        WaitCause::Local => "local tier",
        WaitCause::Assembly => "assembly",
    }
    .to_owned()
}

/// What moved between this process and the lake so far.
pub(crate) fn traffic(lake: &Lake, stage: &str) -> Traffic {
    let counts = lake.traffic().into_iter().map(|(purpose, traffic)| {
        let counts = TrafficCounts {
            reads: traffic.reads,
            writes: traffic.writes,
            bytes_read: traffic.bytes_read,
            bytes_written: traffic.bytes_written,
            retries: traffic.retries,
        };
        (purpose.to_string(), counts)
    });
    Traffic { stage: stage.to_owned(), purposes: counts.collect::<BTreeMap<_, _>>() }
}

/// What moved between two countings.
pub(crate) fn moved_since(now: &Traffic, before: &Traffic) -> Traffic {
    let mut moved = now.clone();
    for (purpose, counts) in &mut moved.purposes {
        let then = before.purposes.get(purpose).copied().unwrap_or_default();
        counts.reads -= then.reads;
        counts.writes -= then.writes;
        counts.bytes_read -= then.bytes_read;
        counts.bytes_written -= then.bytes_written;
        counts.retries -= then.retries;
    }
    moved
}
