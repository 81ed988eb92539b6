//! The engine: both tiers of one node.

use std::{path::PathBuf, sync::Arc, time::Duration};

use forebay::{
    CheckpointSettings, Cursor, DatasetManifest, ErrorKind, FormatChoice, IndexSettings, Name,
    Runtime, Settings, Source, Split, SplitRule, Stage, Version, Which,
    checkpoint::{self, Meaning},
};
use pyo3::prelude::*;
use serde_json::json;

use crate::{
    checkpoint::{Checkpoint, Checkpointer},
    errors,
    feed::{Feed, Order},
    interrupt::{Leave, interruptible},
    process::Owned,
};

/// A lake and a node's local tier, opened.
#[pyclass(frozen, module = "forebay._forebay")]
pub struct Engine {
    engine: Owned<forebay::Engine>,
}

/// Nobody watches: Python shows no progress of preparation.
struct Unwatched;

impl forebay::Progress for Unwatched {
    fn add(&self, _: Stage, _: u64, _: u64) {}
}

impl forebay::IndexProgress for Unwatched {
    fn add(&self, _: u64, _: u64) {}
}

#[pymethods]
impl Engine {
    /// Opens both tiers.
    #[new]
    fn new(
        py: Python<'_>,
        lake: String,
        local: PathBuf,
        local_budget_bytes: u64,
    ) -> PyResult<Self> {
        let runtime = Runtime::system();
        let opened = {
            let runtime = runtime.clone();
            move || forebay::Engine::open(&lake, &local, local_budget_bytes, &runtime)
        };
        let opened = interruptible(py, &runtime, Leave::Cancel, opened)?;
        let engine = opened.map_err(|error| errors::from_engine(py, &error))?;
        Ok(Self { engine: Owned::new(engine) })
    }

    /// Opens a feed of one rank at a cursor: step, epoch, and samples of that epoch.
    #[allow(clippy::too_many_arguments, reason = "Python names each of them")]
    #[pyo3(signature = (*, datasets, split, settings, rank, world_size, cursor))]
    fn feed(
        &self,
        py: Python<'_>,
        datasets: Vec<(String, Option<u32>)>,
        split: &str,
        settings: &str,
        rank: u32,
        world_size: u32,
        cursor: (u64, u64, u64),
    ) -> PyResult<Feed> {
        let engine = self.engine.get(py)?.clone();
        let runtime = engine.runtime().clone();
        let datasets = datasets
            .iter()
            .map(|(dataset, version)| {
                let version = version.map(|number| parsed_version(py, number)).transpose()?;
                Ok((name(py, dataset)?, version))
            })
            .collect::<PyResult<Vec<_>>>()?;
        let split: Split = split.parse().map_err(|error| errors::invalid(py, &error))?;
        let settings = serde_json::from_str(settings)
            .map_err(|error| errors::invalid(py, &format!("the feed's settings: {error}")))?;
        let rank = forebay::Rank::new(rank, world_size).map_err(|why| errors::invalid(py, &why))?;
        let opened = move || {
            let manifests = datasets
                .into_iter()
                .map(|(name, version)| Ok(engine.any_dataset(&name, version)?.0))
                .collect::<Result<Vec<_>, forebay::Error>>()?;
            let order = Order { engine, manifests, split, settings, rank };
            let (step, epoch, offset) = cursor;
            Ok((order.open(Cursor { step, epoch, offset })?, order))
        };
        let opened = interruptible(py, &runtime, Leave::Running, opened)?;
        let (feed, order) = opened.map_err(|error| errors::from_engine(py, &error))?;
        Ok(Feed::new(py, feed, Arc::new(order)))
    }

    /// Opens the checkpoints of one rank of a run, and finishes what a dead process left staged.
    #[allow(clippy::too_many_arguments, reason = "Python names each of them")]
    #[pyo3(signature = (*, run, rank, world_size, launch, settings, dataset))]
    fn checkpointer(
        &self,
        py: Python<'_>,
        run: &str,
        rank: u32,
        world_size: u32,
        launch: String,
        settings: &str,
        dataset: Option<(String, u32)>,
    ) -> PyResult<Checkpointer> {
        let engine = self.engine.get(py)?.clone();
        let runtime = engine.runtime().clone();
        let run = name(py, run)?;
        let settings: CheckpointSettings = serde_json::from_str(settings).map_err(|error| {
            errors::invalid(py, &format!("the checkpointer's settings: {error}"))
        })?;
        let rank = forebay::Rank::new(rank, world_size).map_err(|why| errors::invalid(py, &why))?;
        let dataset = dataset
            .map(|(text, version)| Ok::<_, PyErr>((name(py, &text)?, parsed_version(py, version)?)))
            .transpose()?;
        let opened = {
            let runtime = runtime.clone();
            move || {
                let dataset = dataset.as_ref().map(|(name, version)| (name, *version));
                let opened = engine.checkpointer(&run, rank, &launch, &settings, dataset);
                opened.map(|opened| (opened, runtime))
            }
        };
        let opened = interruptible(py, &runtime, Leave::Running, opened)?;
        let (opened, runtime) = opened.map_err(|error| errors::from_engine(py, &error))?;
        Ok(Checkpointer::new(opened, runtime))
    }

    /// When each launch that wrote a run began, in milliseconds since 1970; the newest ones.
    fn launches(&self, py: Python<'_>, run: &str) -> PyResult<Vec<u64>> {
        let engine = self.engine.get(py)?.clone();
        let runtime = engine.runtime().clone();
        let run = name(py, run)?;
        let work = move || forebay::checkpoint::launches(engine.lake(), &run);
        let launches = interruptible(py, &runtime, Leave::Running, work)?;
        let launches = launches.map_err(|error| errors::from_engine(py, &error.into()))?;
        Ok(launches.iter().map(|launch| launch.claimed_unix_ms).collect())
    }

    /// Deletes what saves that were never committed left in the lake; says what.
    fn sweep_checkpoints(
        &self,
        py: Python<'_>,
        run: &str,
        older_than_seconds: f64,
    ) -> PyResult<Vec<String>> {
        let engine = self.engine.get(py)?.clone();
        let runtime = engine.runtime().clone();
        let run = name(py, run)?;
        let older_than = Duration::try_from_secs_f64(older_than_seconds)
            .map_err(|error| errors::invalid(py, &format!("older_than: {error}")))?;
        let work = {
            let runtime = runtime.clone();
            move || forebay::checkpoint::sweep(engine.lake(), &run, &runtime, older_than, true)
        };
        let swept = interruptible(py, &runtime, Leave::Running, work)?;
        let swept = swept.map_err(|error| errors::from_engine(py, &error.into()))?;
        Ok(swept.iter().map(ToString::to_string).collect())
    }

    /// Commits the tensors of safetensors files as a step of a run, as the state of this name or as
    /// those that the metadata names; says what was imported, as JSON.
    #[pyo3(signature = (*, source, run, step, state, metadata))]
    fn import_checkpoint(
        &self,
        py: Python<'_>,
        source: PathBuf,
        run: &str,
        step: u64,
        state: String,
        metadata: Option<&str>,
    ) -> PyResult<String> {
        let engine = self.engine.get(py)?.clone();
        let runtime = engine.runtime().clone();
        let run = name(py, run)?;
        let meaning = match metadata {
            None => Meaning::State(state),
            Some(text) => Meaning::Metadata(
                serde_json::from_str(text)
                    .map_err(|error| errors::invalid(py, &format!("the metadata: {error}")))?,
            ),
        };
        let work = {
            let runtime = runtime.clone();
            move || checkpoint::import(engine.lake(), &runtime, &run, step, &meaning, &source)
        };
        let imported = interruptible(py, &runtime, Leave::Cancel, work)?;
        let imported = imported.map_err(|error| errors::from_engine(py, &error.into()))?;
        Ok(json!(imported).to_string())
    }

    /// Writes the tensors of a checkpoint as Hugging Face lays them out; says what was written, as
    /// JSON.
    #[pyo3(signature = (*, run, step, state, shard_bytes, output))]
    fn export_checkpoint(
        &self,
        py: Python<'_>,
        run: &str,
        step: Option<u64>,
        state: Option<String>,
        shard_bytes: u64,
        output: PathBuf,
    ) -> PyResult<String> {
        let engine = self.engine.get(py)?.clone();
        let runtime = engine.runtime().clone();
        let run = name(py, run)?;
        let work = move || {
            let (lake, state) = (engine.lake(), state.as_deref());
            checkpoint::export_shards(lake, &run, step, state, shard_bytes, &output)
        };
        let exported = interruptible(py, &runtime, Leave::Running, work)?;
        let exported = exported.map_err(|error| errors::from_engine(py, &error.into()))?;
        Ok(json!(exported).to_string())
    }

    /// Makes a run that goes on from a committed step of another one; says what came of it, as JSON.
    #[pyo3(signature = (*, run, step, new_run))]
    fn fork_run(
        &self,
        py: Python<'_>,
        run: &str,
        step: Option<u64>,
        new_run: &str,
    ) -> PyResult<String> {
        let engine = self.engine.get(py)?.clone();
        let runtime = engine.runtime().clone();
        let (run, new_run) = (name(py, run)?, name(py, new_run)?);
        let work = {
            let runtime = runtime.clone();
            move || checkpoint::fork(engine.lake(), &runtime, &run, step, &new_run)
        };
        let forked = interruptible(py, &runtime, Leave::Cancel, work)?;
        let forked = forked.map_err(|error| errors::from_engine(py, &error.into()))?;
        Ok(json!(forked).to_string())
    }

    /// Opens a committed checkpoint of a run, the newest without a step; None if there is none.
    #[pyo3(signature = (run, step=None))]
    fn checkpoint(
        &self,
        py: Python<'_>,
        run: &str,
        step: Option<u64>,
    ) -> PyResult<Option<Checkpoint>> {
        let engine = self.engine.get(py)?.clone();
        let runtime = engine.runtime().clone();
        let run = name(py, run)?;
        let which = step.map_or(Which::Newest, Which::Step);
        let opened = move || {
            let opened = engine.checkpoint(&run, which)?;
            Ok(opened.map(|opened| Checkpoint::new(engine, opened)))
        };
        let opened = interruptible(py, &runtime, Leave::Running, opened)?;
        opened.map_err(|error: forebay::Error| errors::from_engine(py, &error))
    }

    /// Prepares a dataset version from raw data; says what became of it, as JSON.
    fn prepare(
        &self,
        py: Python<'_>,
        source: PathBuf,
        dataset: &str,
        workers: usize,
        recipe: &str,
    ) -> PyResult<String> {
        let engine = self.engine.get(py)?.clone();
        let runtime = engine.runtime().clone();
        let mut settings = Settings::default();
        settings.prepare.source = source;
        settings.prepare.dataset = name(py, dataset)?;
        settings.prepare.workers = workers;
        settings.prepare.recipe = serde_json::from_str(recipe)
            .map_err(|error| errors::invalid(py, &format!("the recipe: {error}")))?;
        let work = move || engine.prepare(&settings.resolve()?, &Unwatched);
        let prepared = interruptible(py, &runtime, Leave::Cancel, work)?;
        let prepared = prepared.map_err(|error| errors::from_engine(py, &error))?;
        let counts = &prepared.manifest.counts;
        let said = json!({
            "dataset": prepared.manifest.name,
            "version": prepared.manifest.version,
            "identity": prepared.manifest.identity,
            "reused": prepared.reused,
            "read": counts.read,
            "kept": counts.kept,
            "dropped": counts.dropped,
            "quarantined": counts.quarantined,
            "rows": rows(&prepared.manifest),
        });
        Ok(said.to_string())
    }

    /// Indexes a dataset where it lies; says what was found, as JSON.
    #[allow(clippy::too_many_arguments, reason = "Python names each of them")]
    #[pyo3(signature = (*, store, paths, dataset, format, splits, extent_bytes, workers))]
    fn index(
        &self,
        py: Python<'_>,
        store: Option<String>,
        paths: Vec<String>,
        dataset: &str,
        format: Option<String>,
        splits: Vec<String>,
        extent_bytes: Option<u64>,
        workers: usize,
    ) -> PyResult<String> {
        let engine = self.engine.get(py)?.clone();
        let runtime = engine.runtime().clone();
        let source = Source { store, paths };
        let mut settings = IndexSettings::new(name(py, dataset)?, source);
        settings.splits =
            SplitRule::parse(&splits).map_err(|error| errors::from_engine(py, &error.into()))?;
        settings.workers = workers;
        if let Some(format) = format {
            settings.format = FormatChoice::Named(format);
        }
        if let Some(extent_bytes) = extent_bytes {
            settings.extent_bytes = extent_bytes;
        }
        let work = move || engine.index(&settings, &Unwatched);
        let indexed = interruptible(py, &runtime, Leave::Cancel, work)?;
        let indexed = indexed.map_err(|error| errors::from_engine(py, &error))?;
        let manifest = &indexed.manifest;
        let rows = manifest.splits.iter().map(|split| (split.split.as_str(), json!(split.rows)));
        let said = json!({
            "dataset": manifest.name,
            "version": manifest.version,
            "identity": manifest.identity,
            "reused": indexed.reused,
            "format": manifest.dialect,
            "files": manifest.files,
            "passed_over": manifest.passed_over,
            "rows": rows.collect::<serde_json::Value>(),
            "fields": manifest.schema,
        });
        Ok(said.to_string())
    }

    /// The samples that a run in the lake sees at a step, each with its raw records, as JSON.
    fn trace_run(&self, py: Python<'_>, run: &str, step: u64) -> PyResult<String> {
        let engine = self.engine.get(py)?.clone();
        let runtime = engine.runtime().clone();
        let run = name(py, run)?;
        let work = move || engine.trace_run(&run, step);
        let samples = interruptible(py, &runtime, Leave::Running, work)?;
        let samples = samples.map_err(|error| errors::from_engine(py, &error))?;
        Ok(json!(samples).to_string())
    }

    /// What moved between this engine and the lake since it was opened, by purpose, as JSON.
    fn traffic(&self, py: Python<'_>) -> PyResult<String> {
        let by_purpose =
            self.engine.get(py)?.lake().traffic().into_iter().map(|(purpose, traffic)| {
                let counts = json!({
                    "reads": traffic.reads,
                    "writes": traffic.writes,
                    "bytes_read": traffic.bytes_read,
                    "bytes_written": traffic.bytes_written,
                    "retries": traffic.retries,
                });
                (purpose.to_string(), counts)
            });
        Ok(serde_json::Value::from_iter(by_purpose).to_string())
    }
}

/// The rows of each split.
pub fn rows(manifest: &DatasetManifest) -> serde_json::Value {
    manifest.splits.iter().map(|split| (split.split.as_str(), json!(split.rows))).collect()
}

fn name(py: Python<'_>, text: &str) -> PyResult<Name> {
    Name::new(text).map_err(|error| errors::invalid(py, &error))
}

fn parsed_version(py: Python<'_>, number: u32) -> PyResult<Version> {
    let none = || errors::raise(py, ErrorKind::Invalid, "versions count from 1");
    Version::new(number).ok_or_else(none)
}
