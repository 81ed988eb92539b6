//! The handle through which everybody reaches the lake.

use std::{collections::BTreeMap, fs::File, io, path::Path, sync::Arc};

use forebay_runtime::Runtime;
use forebay_types::Key;

use crate::{
    Absent, Error, LakeWriter, Listed, Purpose, Store, Traffic, probe, retry::Retry,
    traffic::Counters, url,
};

/// A store, with retries and counting around it. Cloning is cheap and gives the same lake.
#[derive(Clone, Debug)]
pub struct Lake {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    store: Arc<dyn Store>,
    retry: Retry,
    counters: Counters,
}

impl Lake {
    /// Opens the store at `url` and checks that it keeps the promise commits rest on.
    ///
    /// A plain path and `file:///…` name a directory, which is made if its parent exists;
    /// `memory://` is a store of this process, `s3://bucket/prefix` a bucket that is reached as the
    /// variables `AWS_…` say. A store that may only be read is opened too:
    /// writing to it fails when it is tried.
    ///
    /// # Errors
    /// [`Error::Url`] for a scheme this build does not have, [`Error::Root`] when it cannot be
    /// reached, [`Error::Unsuited`] when it ignores conditions.
    pub fn open(url: &str, runtime: &Runtime) -> Result<Self, Error> {
        Self::probed(url::open(url, Absent::Make, runtime)?, runtime)
    }

    /// Opens a store that must be there already, to read what it holds; makes and probes nothing.
    ///
    /// # Errors
    /// As [`Lake::open`], and [`Error::Root`] or [`Error::Store`] when there is no such directory or
    /// bucket.
    pub fn open_existing(url: &str, runtime: &Runtime) -> Result<Self, Error> {
        Ok(Self::new(url::open(url, Absent::Refuse, runtime)?, runtime))
    }

    /// Wraps `store` after checking that it keeps the promise commits rest on.
    ///
    /// # Errors
    /// [`Error::Unsuited`] when it does not.
    pub fn probed(store: Arc<dyn Store>, runtime: &Runtime) -> Result<Self, Error> {
        let lake = Self::new(store, runtime);
        lake.probe(runtime)?;
        Ok(lake)
    }

    /// Checks that the store keeps the promise commits rest on; says whether it lets itself be
    /// written at all.
    ///
    /// # Errors
    /// [`Error::Unsuited`] when it does not.
    pub fn probe(&self, runtime: &Runtime) -> Result<bool, Error> {
        match probe::run(self, runtime) {
            Err(error) if error.is_read_only() => Ok(false),
            outcome => outcome.map(|()| true),
        }
    }

    /// Wraps `store` as it is, unprobed.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, runtime: &Runtime) -> Self {
        let (retry, counters) = (Retry::new(runtime), Counters::default());
        Self { shared: Arc::new(Shared { store, retry, counters }) }
    }

    /// The store's address, for people.
    #[must_use]
    pub fn url(&self) -> &str {
        self.shared.store.url()
    }

    /// The length of an object; `None` if there is none.
    ///
    /// # Errors
    /// When the store cannot say.
    pub fn size(&self, key: &Key) -> Result<Option<u64>, Error> {
        self.retry(Purpose::Manifest, || self.shared.store.size(key))
    }

    /// A whole object of at most `bytes_max` bytes; `None` if there is none.
    ///
    /// # Errors
    /// [`Error::TooLarge`] when it is larger.
    pub fn read(
        &self,
        key: &Key,
        purpose: Purpose,
        bytes_max: u64,
    ) -> Result<Option<Vec<u8>>, Error> {
        let found = self.retry(purpose, || self.shared.store.read_whole(key, bytes_max))?;
        if let Some(bytes) = &found {
            self.count_read(purpose, bytes.len() as u64);
        }
        Ok(found)
    }

    /// Fills `into` with the object's bytes from `offset` on. Verifies nothing: who knows the
    /// digest does.
    ///
    /// # Errors
    /// [`Error::Truncated`] when the object ends before.
    pub fn read_range(
        &self,
        key: &Key,
        purpose: Purpose,
        offset: u64,
        into: &mut [u8],
    ) -> Result<(), Error> {
        self.retry(purpose, || self.shared.store.read_range(key, offset, into))?;
        self.count_read(purpose, into.len() as u64);
        Ok(())
    }

    /// Says that a stretch of an object is going to be read soon. A hint, which costs no wait for the
    /// bytes, and does nothing where the store has no use for it.
    pub fn will_read(&self, key: &Key, offset: u64, bytes: u64) {
        self.shared.store.will_read(key, offset, bytes);
    }

    /// Starts an object; it appears, whole and durable, when the writer is finished.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn writer(&self, key: &Key, purpose: Purpose) -> Result<LakeWriter, Error> {
        let writer = self.retry(purpose, || self.shared.store.writer(key))?;
        Ok(LakeWriter::new(self.clone(), key.clone(), purpose, writer))
    }

    /// Writes a whole object; durable on return.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn write(&self, key: &Key, purpose: Purpose, body: &[u8]) -> Result<(), Error> {
        self.retry(purpose, || self.shared.store.put(key, body))?;
        self.count_written(purpose, body.len() as u64);
        Ok(())
    }

    /// Makes `to` an object with the bytes of `from`, immutable payload whose keys name its content,
    /// without their passing through this process. Says whether that is done: not every store can,
    /// nor with every object, and then the caller reads and writes.
    ///
    /// # Errors
    /// When there is no `from`, or the store cannot be written.
    pub fn copy(&self, from: &Key, to: &Key, purpose: Purpose) -> Result<bool, Error> {
        let failed = self.unwritten(to);
        let absent =
            || failed(io::Error::new(io::ErrorKind::NotFound, format!("there is no {from}")));
        let bytes = self.size(from)?.ok_or_else(absent)?;
        if !self.retry(purpose, || self.shared.store.copy(from, to, bytes))? {
            return Ok(false);
        }
        match self.size(to)? {
            Some(found) if found == bytes => Ok(true),
            _ => Err(failed(io::Error::other("the store said that it is copied, and it is not"))),
        }
    }

    /// Whether a request travels, so that a few large ones are better than many small ones.
    #[must_use]
    pub fn is_remote(&self) -> bool {
        self.shared.store.is_remote()
    }

    /// Whether [`Lake::adopt`] may do something with files of a directory.
    #[must_use]
    pub fn adopts(&self, directory: &Path) -> bool {
        self.shared.store.adopts(directory)
    }

    /// Makes `key` an object with the bytes of `file`, which is durable and never written again, without
    /// copying them. Says whether that is done: not every store can, nor with every file, and then the
    /// caller writes.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn adopt(&self, file: &File, key: &Key, purpose: Purpose) -> Result<bool, Error> {
        self.retry(purpose, || self.shared.store.adopt(file, key))
    }

    /// Calls `visit` for every object whose key starts with `prefix`, in no order.
    ///
    /// # Errors
    /// What `visit` returns, or when the store cannot list.
    pub fn list(
        &self,
        prefix: &str,
        visit: &mut dyn FnMut(Listed) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.shared.store.list(prefix, visit)
    }

    /// Deletes an object; says whether there was one.
    ///
    /// # Errors
    /// When it cannot be deleted.
    pub fn delete(&self, key: &Key) -> Result<bool, Error> {
        self.retry(Purpose::Manifest, || self.shared.store.delete(key))
    }

    /// What moved so far, through this handle and its clones.
    #[must_use]
    pub fn traffic(&self) -> BTreeMap<Purpose, Traffic> {
        self.shared.counters.snapshot()
    }

    pub(crate) fn store(&self) -> &dyn Store {
        self.shared.store.as_ref()
    }

    pub(crate) fn unwritten(&self, key: &Key) -> impl Fn(io::Error) -> Error {
        let (key, place) = (key.clone(), self.url().to_owned());
        move |source| {
            let (key, place) = (key.clone(), place.clone());
            Error::Object { act: "write", key, place, source }
        }
    }

    fn count_read(&self, purpose: Purpose, bytes: u64) {
        self.shared.counters.count(purpose, |traffic| {
            traffic.reads += 1;
            traffic.bytes_read += bytes;
        });
    }

    pub(crate) fn count_written(&self, purpose: Purpose, bytes: u64) {
        self.shared.counters.count(purpose, |traffic| {
            traffic.writes += 1;
            traffic.bytes_written += bytes;
        });
    }

    /// Makes a request until it succeeds, fails for good, or was made often enough.
    pub(crate) fn retry<T>(
        &self,
        purpose: Purpose,
        request: impl FnMut() -> Result<T, Error>,
    ) -> Result<T, Error> {
        let count = || self.shared.counters.count(purpose, |traffic| traffic.retries += 1);
        self.shared.retry.run(request, count)
    }
}
