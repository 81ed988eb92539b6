//! What comes after the last step: notes in the journal, the package, the report, the trace.

use std::path::Path;

use forebay_archive::{Publish, Published, Verified};
use forebay_feed::{FeedDataset, TracedSample};
use forebay_format::{
    record,
    v1::{
        evaluation::EvaluationRecord,
        journal::{self, Archived, Cleared, Entry, Evaluated, Event},
        run::DatasetReference,
    },
};
use forebay_journal::Journal;
use forebay_local::{LocalTier, Usage};
use forebay_prepare::Prepared;
use forebay_runtime::Runtime;
use forebay_types::{Name, Split, Version};

use crate::{Engine, Error, FeedSettings, Settings, Trainer, run};

impl Engine {
    /// Records an event in the journal of a run that no process is training now; durable on return.
    ///
    /// # Errors
    /// When there is no such run, or another process writes its journal.
    pub fn note(&self, run: &Name, event: Event) -> Result<(), Error> {
        let mut journal = Journal::open_existing(self.lake(), run, self.runtime())?;
        journal.record(event)?;
        Ok(journal.flush()?)
    }

    /// Begins run `run` if it is new, and records what preparation came to and what it moved.
    ///
    /// # Errors
    /// When a run of this name has other settings.
    pub fn note_prepared(
        &self,
        run: &Name,
        settings: &Settings,
        trainer: &Trainer,
        prepared: &Prepared,
    ) -> Result<(), Error> {
        let version = Some(prepared.manifest.version);
        let mut journal = run::open_journal(self, run, settings, version, trainer)?;
        journal.record(Event::Prepared(self.prepared(prepared)?))?;
        journal.record(Event::Traffic(self.take_traffic("prepare")))?;
        Ok(journal.flush()?)
    }

    fn prepared(&self, prepared: &Prepared) -> Result<journal::Prepared, Error> {
        let manifest = &prepared.manifest;
        let mut shard_bytes = 0;
        for split in &manifest.splits {
            let shards = forebay_transfer::dataset::Shards::new(self.lake(), split);
            for number in 0..split.shards {
                shard_bytes += shards.get(number)?.bytes;
            }
        }
        let counts = &manifest.counts;
        Ok(journal::Prepared {
            dataset: manifest.name.clone(),
            version: manifest.version,
            reused: prepared.reused,
            source_bytes: prepared.source_bytes,
            read: counts.read,
            kept: counts.kept,
            dropped: counts.dropped.clone(),
            quarantined: counts.quarantined.clone(),
            rows: manifest.splits.iter().map(|split| (split.split, split.rows)).collect(),
            row_tokens: manifest.schema.row_tokens,
            shards: manifest.splits.iter().map(|split| u64::from(split.shards)).sum(),
            shard_bytes,
            seconds: prepared.seconds.values().sum(),
        })
    }

    /// Records a verdict in the journal of its run, once: scoring the same again gives the same.
    ///
    /// # Errors
    /// As [`Engine::note`].
    pub fn note_evaluated(&self, evaluation: &EvaluationRecord) -> Result<(), Error> {
        let (_, digest) = record::encode(evaluation)?;
        let is_told = |entry: &Entry| matches!(&entry.event, Event::Evaluated(told) if told.evaluation == digest);
        if self.entries(&evaluation.run)?.iter().any(is_told) {
            return Ok(());
        }
        let event = Event::Evaluated(Evaluated {
            step: evaluation.step,
            evaluation: digest,
            measures: evaluation.measures,
            rules: evaluation.rules.clone(),
            passed: evaluation.passed,
            seconds: evaluation.seconds,
        });
        self.note(&evaluation.run, event)
    }

    /// Packages the checkpoint that `evaluation` scored, as the next version of `model`, and
    /// records it.
    ///
    /// # Errors
    /// [`forebay_types::ErrorKind::Refused`] when the evaluation did not pass its gate.
    pub fn archive(&self, evaluation: &EvaluationRecord, model: &Name) -> Result<Published, Error> {
        let watch = self.runtime().stopwatch();
        let run = &evaluation.run;
        let record = self.run_record(run)?;
        let publish = Publish {
            lake: self.lake(),
            runtime: self.runtime(),
            model,
            evaluation,
            feed: &record.configuration["feed"],
        };
        let published = publish.run()?;
        let event = Event::Archived(Archived {
            model: model.clone(),
            version: published.version,
            content: published.content,
            reused: published.reused,
            files: published.files,
            bytes: published.bytes,
            seconds: watch.seconds(),
        });
        self.note(run, event)?;
        Ok(published)
    }

    /// Reads every byte of a package back, compares it, and records that in the journal of `run`.
    ///
    /// # Errors
    /// [`forebay_types::ErrorKind::Corrupt`] naming each changed, missing or added file.
    pub fn verify_package(
        &self,
        run: &Name,
        model: &Name,
        version: Version,
    ) -> Result<Verified, Error> {
        let watch = self.runtime().stopwatch();
        let verified = forebay_archive::verify(self.lake(), model, version)?;
        let (files, bytes) = (verified.files, verified.bytes);
        let seconds = watch.seconds();
        self.note(run, Event::Verified(journal::Verified { files, bytes, seconds }))?;
        self.note(run, Event::Traffic(self.take_traffic("evening")))?;
        Ok(verified)
    }

    /// Empties the local tier and records that in the journal of `run`.
    ///
    /// # Errors
    /// [`forebay_types::ErrorKind::Refused`] while anything staged has not reached the lake.
    pub fn clear_after(&self, run: &Name) -> Result<Cleared, Error> {
        let cleared = self.transfer().local().clear()?;
        let cleared = Cleared { files: cleared.files, bytes: cleared.bytes };
        self.note(run, Event::Cleared(cleared.clone()))?;
        Ok(cleared)
    }

    /// The samples that the training of a package saw at `step`, each with its raw records.
    ///
    /// # Errors
    /// When there is no such package or step, or what leads there is damaged.
    pub fn trace(
        &self,
        model: &Name,
        version: Option<Version>,
        step: u64,
    ) -> Result<Vec<TracedSample>, Error> {
        let version = match version {
            Some(version) => version,
            None => forebay_archive::newest(self.lake(), model)?,
        };
        let lineage = forebay_archive::lineage(self.lake(), model, version)?;
        let package = format!("{model}@{}", version.number());
        if step >= lineage.package.step {
            let why = format!("{package} was trained for {} steps", lineage.package.step);
            return Err(Error::Setting { setting: "step", value: step.to_string(), why });
        }
        let dataset = &lineage.package.dataset;
        self.traced(&package, lineage.feed, dataset, lineage.split, step)
    }

    /// The samples that run `run`, archived or not, sees at `step`, each with its raw records. A
    /// step before the run was forked from another is that one's.
    ///
    /// # Errors
    /// When there is no such run or step, or what leads there is damaged.
    pub fn trace_run(&self, run: &Name, step: u64) -> Result<Vec<TracedSample>, Error> {
        let mut record = self.run_record(run)?;
        if step >= record.steps {
            let why = format!("run {run} takes {} steps, counted from 0", record.steps);
            return Err(Error::Setting { setting: "step", value: step.to_string(), why });
        }
        while let Some(parent) = record.parent.as_ref().filter(|parent| step < parent.step) {
            record = self.run_record(&parent.run)?;
        }
        let what = format!("run {}", record.run);
        let feed = record.configuration["feed"].clone();
        self.traced(&what, feed, &record.dataset, Split::Train, step)
    }

    /// The samples of a step of what was trained with stored settings of its feed.
    fn traced(
        &self,
        what: &str,
        feed: serde_json::Value,
        dataset: &DatasetReference,
        split: Split,
        step: u64,
    ) -> Result<Vec<TracedSample>, Error> {
        let feed: FeedSettings = serde_json::from_value(feed)
            .map_err(|error| forebay_format::Error::damaged(format!("{what}, its feed"), error))?;
        let manifest = self.referenced(dataset)?;
        self.samples(&[FeedDataset::Prepared(&manifest, split)], &feed, step)
    }

    /// The report of a run as one HTML document.
    ///
    /// # Errors
    /// When its journal cannot be read or is damaged.
    pub fn report(&self, run: &Name) -> Result<String, Error> {
        let (record, _) = forebay_journal::run_record(self.lake(), run)?;
        Ok(forebay_archive::report::html(&record, &self.entries(run)?))
    }

    /// How the local tier's budget is used.
    ///
    /// # Errors
    /// When its directory cannot be read.
    pub fn local_usage(&self) -> Result<Usage, Error> {
        Ok(self.transfer().local().usage()?)
    }
}

/// Empties the local tier at `local`, without a lake.
///
/// # Errors
/// [`forebay_types::ErrorKind::Refused`] while anything staged has not reached the lake.
pub fn clear(local: &Path, budget_bytes: u64, runtime: &Runtime) -> Result<Cleared, Error> {
    let cleared = LocalTier::open(local, budget_bytes, runtime)?.clear()?;
    Ok(Cleared { files: cleared.files, bytes: cleared.bytes })
}

#[cfg(test)]
mod tests {
    use forebay_format::v1::run::{RunParent, RunRecord, json_digest};
    use forebay_types::{Digest, ErrorKind, Nonce};

    use super::*;

    fn begin(engine: &Engine, name: &str, dataset: &str, parent: Option<RunParent>) {
        let named = |name| Name::new(name).unwrap();
        let configuration = Settings::default().of_run();
        let gate = Settings::default().gate;
        let digest = Digest::of(b"never published");
        let record = RunRecord {
            run: named(name),
            created_unix_ms: 0,
            nonce: Nonce::from_bits(1),
            seed: 0,
            steps: 20,
            dataset: DatasetReference { name: named(dataset), version: Version::FIRST, digest },
            configuration_digest: json_digest(&configuration),
            configuration,
            gate,
            gate_digest: gate.digest(),
            trainer: "a test".into(),
            parent,
        };
        Journal::open(engine.lake(), &record, engine.runtime()).unwrap();
    }

    /// Neither dataset exists, so the error says whose data was looked for.
    #[test]
    fn a_step_before_a_fork_is_traced_in_the_run_it_was_forked_from() {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("lake").display().to_string();
        let runtime = Runtime::system();
        let engine = Engine::open(&store, &folder.path().join("local"), 1 << 20, &runtime).unwrap();
        begin(&engine, "first", "old-text", None);
        let parent = RunParent { run: Name::new("first").unwrap(), step: 12 };
        begin(&engine, "second", "new-text", Some(parent));
        for (step, dataset) in [(0, "old-text"), (11, "old-text"), (12, "new-text")] {
            let error = engine.trace_run(&Name::new("second").unwrap(), step).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotFound);
            assert!(error.to_string().contains(dataset), "{error} at step {step}");
        }
    }
}
