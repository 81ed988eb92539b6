//! A store that fails when it is told to.

use std::{
    fmt,
    io::{self, Write},
    sync::{Arc, Mutex, PoisonError},
};

use forebay_lake::{Created, Error, Listed, ObjectWriter, Store};
use forebay_types::Key;

/// A kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// [`Store::size`].
    Size,
    /// [`Store::read_range`].
    Read,
    /// [`Store::writer`] up to its end.
    Write,
    /// [`Store::create`].
    Create,
    /// [`Store::copy`].
    Copy,
    /// [`Store::delete`].
    Delete,
}

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It fails and has no effect.
    Fails(io::ErrorKind),
    /// It has its effect, and the reply is lost.
    ReplyLost(io::ErrorKind),
    /// A create has its effect and reports that the object existed.
    SaysExists,
    /// A create ignores its condition and replaces what is there.
    IgnoresCondition,
    /// A read gives one other bit.
    FlipsBit,
    /// A write fails for want of space after so many bytes.
    FullAfter(u64),
    /// A copy is left to whoever asked for it.
    CannotCopy,
}

/// A rule: which requests, for which keys, how often, and what happens.
#[derive(Clone, Debug)]
struct Rule {
    request: Request,
    key_part: String,
    times: u64,
    fault: Fault,
}

/// Passes requests on to another store, unless a rule says otherwise.
pub struct FaultStore {
    inner: Arc<dyn Store>,
    rules: Arc<Mutex<Vec<Rule>>>,
}

impl FaultStore {
    /// A store that behaves, so far.
    #[must_use]
    pub fn new(inner: Arc<dyn Store>) -> Self {
        Self { inner, rules: Arc::default() }
    }

    /// The next `times` requests of this kind whose key contains `key_part` meet `fault`.
    pub fn inject(&self, request: Request, key_part: &str, times: u64, fault: Fault) {
        let rule = Rule { request, key_part: key_part.into(), times, fault };
        self.rules.lock().unwrap_or_else(PoisonError::into_inner).push(rule);
    }

    /// Forgets every rule.
    pub fn behave(&self) {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn fault(&self, request: Request, key: &Key) -> Option<Fault> {
        let mut rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        let rule = rules.iter_mut().find(|rule| {
            rule.request == request && rule.times > 0 && key.as_str().contains(&rule.key_part)
        })?;
        rule.times -= 1;
        Some(rule.fault)
    }

    /// Passes a request on under the faults that every request can meet.
    fn pass<T>(
        &self,
        request: Request,
        act: &'static str,
        key: &Key,
        inner: impl FnOnce() -> Result<T, Error>,
    ) -> Result<T, Error> {
        match self.fault(request, key) {
            Some(Fault::Fails(kind)) => Err(failed(act, key, kind)),
            Some(Fault::ReplyLost(kind)) => {
                inner()?;
                Err(failed(act, key, kind))
            }
            _ => inner(),
        }
    }
}

fn failed(act: &'static str, key: &Key, kind: io::ErrorKind) -> Error {
    Error::Object { act, key: key.clone(), place: "a faulty store".into(), source: kind.into() }
}

impl fmt::Debug for FaultStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("FaultStore").field(&self.inner).finish()
    }
}

impl Store for FaultStore {
    fn url(&self) -> &str {
        self.inner.url()
    }

    fn size(&self, key: &Key) -> Result<Option<u64>, Error> {
        self.pass(Request::Size, "look for", key, || self.inner.size(key))
    }

    fn read_range(&self, key: &Key, offset: u64, into: &mut [u8]) -> Result<(), Error> {
        match self.fault(Request::Read, key) {
            Some(Fault::Fails(kind) | Fault::ReplyLost(kind)) => Err(failed("read", key, kind)),
            Some(Fault::FlipsBit) => {
                self.inner.read_range(key, offset, into)?;
                let middle = into.len() / 2;
                if let Some(byte) = into.get_mut(middle) {
                    *byte ^= 0x04;
                }
                Ok(())
            }
            _ => self.inner.read_range(key, offset, into),
        }
    }

    fn writer(&self, key: &Key) -> Result<Box<dyn ObjectWriter>, Error> {
        let fault = self.fault(Request::Write, key);
        if let Some(Fault::Fails(kind)) = fault {
            return Err(failed("write", key, kind));
        }
        let inner = self.inner.writer(key)?;
        Ok(Box::new(FaultWriter { inner, key: key.clone(), fault, written_bytes: 0 }))
    }

    fn create(&self, key: &Key, body: &[u8]) -> Result<Created, Error> {
        match self.fault(Request::Create, key) {
            Some(Fault::Fails(kind)) => Err(failed("create", key, kind)),
            Some(Fault::ReplyLost(kind)) => {
                self.inner.create(key, body)?;
                Err(failed("create", key, kind))
            }
            Some(Fault::SaysExists) => {
                self.inner.create(key, body)?;
                Ok(Created::Exists)
            }
            Some(Fault::IgnoresCondition) => {
                self.inner.delete(key)?;
                self.inner.create(key, body)
            }
            _ => self.inner.create(key, body),
        }
    }

    fn copy(&self, from: &Key, to: &Key, bytes: u64) -> Result<bool, Error> {
        match self.fault(Request::Copy, to) {
            Some(Fault::CannotCopy) => Ok(false),
            Some(Fault::Fails(kind)) => Err(failed("copy", from, kind)),
            Some(Fault::ReplyLost(kind)) => {
                self.inner.copy(from, to, bytes)?;
                Err(failed("copy", from, kind))
            }
            _ => self.inner.copy(from, to, bytes),
        }
    }

    fn list(
        &self,
        prefix: &str,
        visit: &mut dyn FnMut(Listed) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.inner.list(prefix, visit)
    }

    fn delete(&self, key: &Key) -> Result<bool, Error> {
        self.pass(Request::Delete, "delete", key, || self.inner.delete(key))
    }
}

struct FaultWriter {
    inner: Box<dyn ObjectWriter>,
    key: Key,
    fault: Option<Fault>,
    written_bytes: u64,
}

impl Write for FaultWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.written_bytes += bytes.len() as u64;
        match self.fault {
            Some(Fault::FullAfter(limit)) if self.written_bytes > limit => {
                Err(io::ErrorKind::StorageFull.into())
            }
            _ => self.inner.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl ObjectWriter for FaultWriter {
    fn finish(self: Box<Self>) -> Result<(), Error> {
        self.inner.finish()?;
        match self.fault {
            Some(Fault::ReplyLost(kind)) => Err(failed("write", &self.key, kind)),
            _ => Ok(()),
        }
    }
}
