//! The engine: both tiers of one node.

use std::{path::PathBuf, sync::Arc};

use forebay::{DatasetManifest, ErrorKind, Name, Runtime, Settings, Split, Stage, Version};
use pyo3::prelude::*;
use serde_json::json;

use crate::{
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

    /// Opens a feed of one rank at a step.
    #[allow(clippy::too_many_arguments, reason = "Python names each of them")]
    #[pyo3(signature = (*, dataset, version, split, settings, rank, world_size, step))]
    fn feed(
        &self,
        py: Python<'_>,
        dataset: &str,
        version: Option<u32>,
        split: &str,
        settings: &str,
        rank: u32,
        world_size: u32,
        step: u64,
    ) -> PyResult<Feed> {
        let engine = self.engine.get(py)?.clone();
        let runtime = engine.runtime().clone();
        let name = name(py, dataset)?;
        let version = version.map(|number| parsed_version(py, number)).transpose()?;
        let split: Split = split.parse().map_err(|error| errors::invalid(py, &error))?;
        let settings = serde_json::from_str(settings)
            .map_err(|error| errors::invalid(py, &format!("the feed's settings: {error}")))?;
        let rank = forebay::Rank::new(rank, world_size).map_err(|why| errors::invalid(py, &why))?;
        let opened = move || {
            let (manifest, _) = engine.dataset(&name, version)?;
            let order = Order { engine, manifest, split, settings, rank };
            Ok((order.open(step)?, order))
        };
        let opened = interruptible(py, &runtime, Leave::Running, opened)?;
        let (feed, order) = opened.map_err(|error| errors::from_engine(py, &error))?;
        Ok(Feed::new(feed, Arc::new(order)))
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
