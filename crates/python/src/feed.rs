//! A feed as Python holds it: opened, moved to other steps, closed.
//!
//! Waiting is shared (any thread may ask for statistics meanwhile), taking a batch is not. Closing
//! never waits for a tier that hangs: the feed's threads are joined on a thread of their own.

use std::{
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
    time::Duration,
};

use forebay::{DatasetManifest, ErrorKind, FeedSettings, Position, Rank, Runtime, Split};
use pyo3::prelude::*;
use serde_json::json;

use crate::{
    batch::Batch,
    engine::rows,
    errors,
    interrupt::{Leave, SLICE, interruptible},
    process::Owned,
};

/// What a feed delivers, wherever it stands.
pub struct Order {
    pub engine: forebay::Engine,
    pub manifest: DatasetManifest,
    pub split: Split,
    pub settings: FeedSettings,
    pub rank: Rank,
}

impl Order {
    /// The feed at `step`.
    pub fn open(&self, step: u64) -> Result<forebay::Feed, forebay::Error> {
        let from = Position { step };
        self.engine.feed(&self.manifest, self.split, &self.settings, self.rank, from)
    }
}

/// One rank's stream of batches.
#[pyclass(frozen, module = "forebay._forebay")]
pub struct Feed {
    stream: Owned<Stream>,
}

impl Feed {
    pub fn new(feed: forebay::Feed, order: Arc<Order>) -> Self {
        let feed = RwLock::new(Some(feed));
        Self { stream: Owned::new(Stream { order, feed }) }
    }
}

/// What a feed holds in the process it was opened in.
struct Stream {
    order: Arc<Order>,
    /// Absent once it is closed.
    feed: RwLock<Option<forebay::Feed>>,
}

impl Stream {
    fn runtime(&self) -> &Runtime {
        self.order.engine.runtime()
    }

    fn read(&self) -> RwLockReadGuard<'_, Option<forebay::Feed>> {
        self.feed.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next batch if it is there within a slice of time.
    fn take(&self) -> Taken {
        match self.read().as_ref().map(|feed| feed.wait(SLICE)) {
            None => return Taken::Closed,
            Some(false) => return Taken::Later,
            Some(true) => {}
        }
        let mut feed = self.feed.write().unwrap_or_else(PoisonError::into_inner);
        match feed.as_mut() {
            None => Taken::Closed,
            // Another thread may have taken what was there.
            Some(feed) if feed.wait(Duration::ZERO) => {
                Taken::Now(Box::new(feed.next().map_err(Into::into)))
            }
            Some(_) => Taken::Later,
        }
    }

    /// Ends the feed. Its threads may hang in a tier: whoever closes it does not.
    fn close(&self) {
        let feed = self.feed.write().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(feed) = feed {
            let _joined_by_itself = self.runtime().spawn("feed-close", move || drop(feed));
        }
    }

    fn ask<T: Send>(
        &self,
        py: Python<'_>,
        question: impl FnOnce(&forebay::Feed) -> T + Send,
    ) -> PyResult<T> {
        py.detach(|| self.read().as_ref().map(question)).ok_or_else(|| closed(py))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.close();
    }
}

/// What came of waiting for a slice of time.
enum Taken {
    Now(Box<Result<Option<forebay::Batch>, forebay::Error>>),
    Later,
    Closed,
}

fn closed(py: Python<'_>) -> PyErr {
    errors::raise(py, ErrorKind::Invalid, "the feed is closed; open another")
}

#[pymethods]
impl Feed {
    /// The next batch; None after the last epoch.
    fn next(&self, py: Python<'_>) -> PyResult<Option<Batch>> {
        let stream = self.stream.get(py)?;
        loop {
            match py.detach(|| stream.take()) {
                Taken::Closed => return Err(closed(py)),
                Taken::Later => py.check_signals()?,
                Taken::Now(outcome) => {
                    let batch = outcome.map_err(|error| errors::from_engine(py, &error))?;
                    return batch.map(|batch| Batch::new(py, batch)).transpose();
                }
            }
        }
    }

    /// A feed of the same batches at another step. This one goes on until it is closed.
    fn at(&self, py: Python<'_>, step: u64) -> PyResult<Self> {
        let stream = self.stream.get(py)?;
        let order = stream.order.clone();
        let opened = interruptible(py, stream.runtime(), Leave::Running, move || order.open(step))?;
        let feed = opened.map_err(|error| errors::from_engine(py, &error))?;
        Ok(Self::new(feed, stream.order.clone()))
    }

    /// The step whose batch comes next.
    fn step(&self, py: Python<'_>) -> PyResult<u64> {
        self.stream.get(py)?.ask(py, |feed| feed.position().step)
    }

    /// The steps of one epoch.
    fn steps_per_epoch(&self, py: Python<'_>) -> PyResult<u64> {
        self.stream.get(py)?.ask(py, forebay::Feed::steps_per_epoch)
    }

    /// The steps of all epochs; None when they never end.
    fn steps(&self, py: Python<'_>) -> PyResult<Option<u64>> {
        self.stream.get(py)?.ask(py, forebay::Feed::steps)
    }

    /// What it did since it was opened or moved, as JSON.
    fn stats(&self, py: Python<'_>) -> PyResult<String> {
        let stats = self.stream.get(py)?.ask(py, forebay::Feed::stats)?;
        let waited = stats.waited;
        let mut said = json!(stats);
        said["waited"] = json!({
            "lake": waited.lake.as_secs_f64(),
            "local": waited.local.as_secs_f64(),
            "assembly": waited.assembly.as_secs_f64(),
        });
        Ok(said.to_string())
    }

    /// What it delivers: dataset, split, rows and resolved settings, as JSON.
    fn describe(&self, py: Python<'_>) -> PyResult<String> {
        let Order { manifest, split, settings, rank, .. } = &*self.stream.get(py)?.order;
        let schema = manifest.schema;
        let dtype = if schema.token_bytes == 2 { "uint16" } else { "uint32" };
        let said = json!({
            "dataset": manifest.name,
            "version": manifest.version,
            "identity": manifest.identity,
            "split": split,
            "rows": rows(manifest)[split.as_str()],
            "settings": settings,
            "rank": rank.rank(),
            "world_size": rank.world_size(),
            "columns": { "tokens": { "dtype": dtype, "shape": [schema.row_tokens] } },
        });
        Ok(said.to_string())
    }

    /// The samples of the global batch of a step, each with its raw records, as JSON.
    fn trace(&self, py: Python<'_>, step: u64) -> PyResult<String> {
        let stream = self.stream.get(py)?;
        let order = stream.order.clone();
        let work = move || {
            let Order { engine, manifest, split, settings, .. } = &*order;
            engine.samples(manifest, *split, settings, step)
        };
        let samples = interruptible(py, stream.runtime(), Leave::Running, work)?;
        let samples = samples.map_err(|error| errors::from_engine(py, &error))?;
        Ok(json!(samples).to_string())
    }

    /// Ends it; what was delivered stays valid. Closing twice is no error.
    fn close(&self, py: Python<'_>) {
        if let Some(stream) = self.stream.here() {
            py.detach(|| stream.close());
        }
    }
}
