//! An engine in this process's memory, for tests and trials.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use forebay_runtime::Runtime;
use forebay_types::Key;

use crate::{Created, Error, Listed, ObjectWriter, Store};

type Objects = BTreeMap<Key, (Arc<[u8]>, u64)>;

/// Objects in memory; gone with the last handle.
#[derive(Clone, Debug)]
pub struct Memory {
    objects: Arc<Mutex<Objects>>,
    runtime: Runtime,
}

impl Memory {
    /// A store without objects.
    #[must_use]
    pub fn new(runtime: &Runtime) -> Self {
        Self { objects: Arc::default(), runtime: runtime.clone() }
    }

    fn lock(&self) -> MutexGuard<'_, Objects> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, key: &Key, body: &[u8]) {
        let now = self.runtime.now().unix_ms();
        self.lock().insert(key.clone(), (body.into(), now));
    }
}

impl Store for Memory {
    fn url(&self) -> &str {
        "memory://"
    }

    fn size(&self, key: &Key) -> Result<Option<u64>, Error> {
        Ok(self.lock().get(key).map(|(body, _)| body.len() as u64))
    }

    fn read_range(&self, key: &Key, offset: u64, into: &mut [u8]) -> Result<(), Error> {
        let body = self.lock().get(key).map(|(body, _)| Arc::clone(body));
        let body = body.ok_or_else(|| absent("read", key))?;
        let wanted = offset.saturating_add(into.len() as u64);
        let range = usize::try_from(offset).ok().zip(usize::try_from(wanted).ok());
        match range.and_then(|(start, end)| body.get(start..end)) {
            Some(bytes) => {
                into.copy_from_slice(bytes);
                Ok(())
            }
            None => Err(Error::Truncated { key: key.clone(), wanted, length: body.len() as u64 }),
        }
    }

    fn writer(&self, key: &Key) -> Result<Box<dyn ObjectWriter>, Error> {
        Ok(Box::new(Incoming { store: self.clone(), key: key.clone(), body: Vec::new() }))
    }

    fn create(&self, key: &Key, body: &[u8]) -> Result<Created, Error> {
        let now = self.runtime.now().unix_ms();
        let mut objects = self.lock();
        if objects.contains_key(key) {
            return Ok(Created::Exists);
        }
        objects.insert(key.clone(), (body.into(), now));
        Ok(Created::New)
    }

    fn copy(&self, from: &Key, to: &Key, _bytes: u64) -> Result<bool, Error> {
        let now = self.runtime.now().unix_ms();
        let mut objects = self.lock();
        let body = objects.get(from).map(|(body, _)| Arc::clone(body));
        let body = body.ok_or_else(|| absent("copy", from))?;
        objects.insert(to.clone(), (body, now));
        Ok(true)
    }

    fn list(
        &self,
        prefix: &str,
        visit: &mut dyn FnMut(Listed) -> Result<(), Error>,
    ) -> Result<(), Error> {
        // A copy, so that `visit` may use the store.
        let found: Vec<Listed> = self
            .lock()
            .iter()
            .filter(|(key, _)| key.as_str().starts_with(prefix))
            .map(|(key, (body, modified_unix_ms))| Listed {
                key: key.clone(),
                bytes: body.len() as u64,
                modified_unix_ms: *modified_unix_ms,
            })
            .collect();
        found.into_iter().try_for_each(visit)
    }

    fn delete(&self, key: &Key) -> Result<bool, Error> {
        Ok(self.lock().remove(key).is_some())
    }
}

fn absent(act: &'static str, key: &Key) -> Error {
    let (key, place) = (key.clone(), "memory".into());
    Error::Object { act, key, place, source: io::ErrorKind::NotFound.into() }
}

struct Incoming {
    store: Memory,
    key: Key,
    body: Vec<u8>,
}

impl io::Write for Incoming {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.body.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl ObjectWriter for Incoming {
    fn finish(self: Box<Self>) -> Result<(), Error> {
        self.store.put(&self.key, &self.body);
        Ok(())
    }
}
