//! A feed as Python holds it: opened, moved to other steps, closed.
//!
//! Waiting is shared (any thread may ask for statistics meanwhile), taking a batch is not. Closing
//! never waits for a tier that hangs: the feed's threads are joined on a thread of their own.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use forebay::{
    AnyManifest, ColumnKind, Cursor, ErrorKind, FeedDataset, FeedSettings, Next, Rank, Runtime,
    Split,
};
use pyo3::{prelude::*, types::PyString};
use serde_json::json;

use crate::{
    batch::{Batch, Taken},
    column::typestr,
    errors,
    interrupt::{Leave, SLICE, interruptible},
    process::Owned,
};

/// What a feed delivers, wherever it stands.
pub struct Order {
    pub engine: forebay::Engine,
    pub manifests: Vec<AnyManifest>,
    pub split: Split,
    pub settings: FeedSettings,
    pub rank: Rank,
}

impl Order {
    /// The feed at a cursor.
    pub fn open(&self, from: Cursor) -> Result<forebay::Feed, forebay::Error> {
        self.engine.feed(&self.datasets(), &self.settings, self.rank, from)
    }

    fn datasets(&self) -> Vec<FeedDataset<'_>> {
        self.manifests.iter().map(|manifest| FeedDataset::new(manifest, self.split)).collect()
    }
}

/// One rank's stream of batches.
#[pyclass(frozen, module = "forebay._forebay")]
pub struct Feed {
    stream: Owned<Stream>,
    /// The columns' names, in order.
    names: Vec<Py<PyString>>,
}

impl Feed {
    pub fn new(py: Python<'_>, feed: forebay::Feed, order: Arc<Order>) -> Self {
        let names = feed.columns().iter().map(|(name, _)| PyString::intern(py, name).unbind());
        let names = names.collect();
        let feed = RwLock::new(Some(feed));
        Self { stream: Owned::new(Stream { order, feed }), names }
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

    /// The next batch if it is there within a slice of time: as long as others who ask must wait.
    fn take(&self) -> Waited {
        let mut feed = self.feed.write().unwrap_or_else(PoisonError::into_inner);
        match feed.as_mut().map(|feed| feed.next_within(Some(SLICE))) {
            None => Waited::Closed,
            Some(Ok(Next::Pending)) => Waited::Later,
            Some(Ok(Next::End)) => Waited::Now(Box::new(Ok(None))),
            Some(Ok(Next::Batch(batch))) => Waited::Now(Box::new(Ok(Some(batch)))),
            Some(Err(error)) => Waited::Now(Box::new(Err(error.into()))),
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
enum Waited {
    Now(Box<Result<Option<forebay::Batch>, forebay::Error>>),
    Later,
    Closed,
}

fn closed(py: Python<'_>) -> PyErr {
    errors::raise(py, ErrorKind::Invalid, "the feed is closed; open another")
}

#[pymethods]
impl Feed {
    /// The next batch and its columns by name; None after the last epoch. Columns whose rows are
    /// equally long are what `take_up` makes of their DLPack capsules, if it is given.
    #[pyo3(signature = (take_up=None))]
    fn next<'py>(
        &self,
        py: Python<'py>,
        take_up: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Option<Taken<'py>>> {
        let stream = self.stream.get(py)?;
        loop {
            match py.detach(|| stream.take()) {
                Waited::Closed => return Err(closed(py)),
                Waited::Later => py.check_signals()?,
                Waited::Now(outcome) => {
                    let batch = outcome.map_err(|error| errors::from_engine(py, &error))?;
                    let names = &self.names;
                    let taken = batch.map(|batch| Batch::take_apart(py, batch, names, take_up));
                    return taken.transpose();
                }
            }
        }
    }

    /// A feed of the same batches from another place: the step that comes next, its epoch, and the
    /// samples of that epoch before it. This one goes on until it is closed.
    fn at(&self, py: Python<'_>, step: u64, epoch: u64, offset: u64) -> PyResult<Self> {
        let stream = self.stream.get(py)?;
        let order = stream.order.clone();
        let from = Cursor { step, epoch, offset };
        let opened = interruptible(py, stream.runtime(), Leave::Running, move || order.open(from))?;
        let feed = opened.map_err(|error| errors::from_engine(py, &error))?;
        Ok(Self::new(py, feed, stream.order.clone()))
    }

    /// Where it stands: the step that comes next, its epoch, and the samples of it before.
    fn cursor(&self, py: Python<'_>) -> PyResult<(u64, u64, u64)> {
        let cursor = self.stream.get(py)?.ask(py, forebay::Feed::cursor)?;
        Ok((cursor.step, cursor.epoch, cursor.offset))
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
        said["elapsed"] = json!(stats.elapsed.as_secs_f64());
        said["waited"] = json!({
            "lake": waited.lake.as_secs_f64(),
            "local": waited.local.as_secs_f64(),
            "assembly": waited.assembly.as_secs_f64(),
        });
        Ok(said.to_string())
    }

    /// What it delivers: datasets, split, rows, columns and resolved settings, as JSON.
    fn describe(&self, py: Python<'_>) -> PyResult<String> {
        let stream = self.stream.get(py)?;
        let Order { manifests, split, settings, rank, .. } = &*stream.order;
        let columns = stream.ask(py, |feed| {
            feed.columns()
                .iter()
                .map(|(name, kind)| (name.clone(), column(kind)))
                .collect::<Vec<_>>()
        })?;
        let datasets: Vec<_> = manifests
            .iter()
            .map(|manifest| {
                let (name, rows) = named(manifest, *split);
                let (version, identity) = (manifest.version(), manifest.identity());
                json!({ "dataset": name, "version": version, "identity": identity, "rows": rows })
            })
            .collect();
        let said = json!({
            "datasets": datasets,
            "split": split,
            "settings": settings,
            "rank": rank.rank(),
            "world_size": rank.world_size(),
            "columns": columns,
        });
        Ok(said.to_string())
    }

    /// The samples of the global batch of a step, each with its raw records, as JSON.
    fn trace(&self, py: Python<'_>, step: u64) -> PyResult<String> {
        let stream = self.stream.get(py)?;
        let order = stream.order.clone();
        let work = move || order.engine.samples(&order.datasets(), &order.settings, step);
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

/// A dataset's name, and the rows of its split.
fn named(manifest: &AnyManifest, split: Split) -> (&forebay::Name, u64) {
    match manifest {
        AnyManifest::Prepared(manifest) => {
            (&manifest.name, manifest.split(split).map_or(0, |entry| entry.rows))
        }
        AnyManifest::Indexed(manifest) => {
            (&manifest.name, manifest.split(split).map_or(0, |entry| entry.rows))
        }
    }
}

/// What a column is, for people and for Python's side.
fn column(kind: &ColumnKind) -> serde_json::Value {
    match kind {
        ColumnKind::Dense { dtype, shape } => {
            json!({ "kind": "dense", "dtype": typestr(*dtype), "shape": shape })
        }
        ColumnKind::Padded { dtype } => json!({ "kind": "padded", "dtype": typestr(*dtype) }),
        ColumnKind::Ragged { dtype } => json!({ "kind": "ragged", "dtype": typestr(*dtype) }),
        ColumnKind::Bytes => json!({ "kind": "bytes", "dtype": "|u1" }),
        ColumnKind::Text => json!({ "kind": "text", "dtype": "|u1" }),
    }
}
