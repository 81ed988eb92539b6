//! An object on its way into a bucket.
//!
//! Up to one part's worth of bytes is held back. An object that is not larger is one put; a larger
//! one is uploaded in parts of one size, several at once, and appears when its last part is there
//! and the upload is completed. Each part and the completion are tried again when their failure
//! may pass; the body's SHA-256 is part of each request's signature, so the store checks it.
//!
//! # After a crash
//! Parts of an upload that nobody completes. No listing shows them; a bucket's lifecycle rule
//! `AbortIncompleteMultipartUpload` removes them. A writer that fails or is dropped removes them
//! itself.

use std::{collections::VecDeque, io, mem};

use bytes::Bytes;
use forebay_runtime::Task;
use forebay_types::Key;
use http::StatusCode;
use object_store::multipart::{MultipartStore, PartId};

use super::{S3, failure::Failure};
use crate::{Error, ObjectWriter, Store};

/// What the protocol allows.
const PARTS_MAX: usize = 10_000;

type Part = Task<Result<PartId, Error>>;

pub(super) struct Upload {
    store: S3,
    key: Key,
    buffer: Vec<u8>,
    /// The upload's name in the store, once there is a first part.
    id: Option<String>,
    done: Vec<PartId>,
    in_flight: VecDeque<Part>,
    bytes: u64,
}

impl Upload {
    pub(super) fn new(store: &S3, key: &Key) -> Self {
        Self {
            store: store.clone(),
            key: key.clone(),
            buffer: Vec::new(),
            id: None,
            done: Vec::new(),
            in_flight: VecDeque::new(),
            bytes: 0,
        }
    }

    /// Sends what is buffered as the next part, and waits for the oldest if many are on their way.
    fn send_part(&mut self) -> Result<(), Error> {
        let id = match &self.id {
            Some(id) => id.clone(),
            None => self.id.insert(self.store.start_upload(&self.key)?).clone(),
        };
        let index = self.done.len() + self.in_flight.len();
        if index >= PARTS_MAX {
            let words = format!("an object may have {PARTS_MAX} parts; write several objects");
            return Err(self.store.failed("write", &self.key)(Failure::new(
                io::ErrorKind::FileTooLarge,
                words,
            )));
        }
        if self.in_flight.len() >= self.store.settings().parts_max {
            self.await_part()?;
        }
        let (store, key) = (self.store.clone(), self.key.clone());
        let body = Bytes::from(mem::take(&mut self.buffer));
        let send = move || store.send_part(&key, &id, index, &body);
        self.in_flight.push_back(self.store.runtime().spawn("lake-part", send));
        Ok(())
    }

    /// Waits for the oldest part on its way.
    fn await_part(&mut self) -> Result<(), Error> {
        let Some(part) = self.in_flight.pop_front() else { return Ok(()) };
        let panicked = |error: forebay_runtime::Panicked| {
            self.store.failed("write", &self.key)(Failure::new(
                io::ErrorKind::Other,
                error.to_string(),
            ))
        };
        let part = part.join().map_err(panicked)??;
        self.done.push(part);
        Ok(())
    }

    fn complete(&mut self) -> Result<(), Error> {
        if !self.buffer.is_empty() {
            self.send_part()?;
        }
        while !self.in_flight.is_empty() {
            self.await_part()?;
        }
        if let Some(id) = &self.id {
            self.store.complete_upload(&self.key, id, &self.done, self.bytes)?;
        }
        // Nothing is left to abort.
        self.id = None;
        Ok(())
    }
}

impl io::Write for Upload {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let part_bytes = self.store.settings().part_bytes;
        if self.buffer.len() == part_bytes {
            self.send_part().map_err(into_io)?;
        }
        let length = bytes.len().min(part_bytes - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..length]);
        self.bytes += length as u64;
        Ok(length)
    }

    /// Nothing is durable before the object is finished, so there is nothing to flush.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl ObjectWriter for Upload {
    fn finish(mut self: Box<Self>) -> Result<(), Error> {
        if self.id.is_none() {
            let body = Bytes::from(mem::take(&mut self.buffer));
            return self.store.put_with_retries(&self.key, &body);
        }
        self.complete()
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let Some(id) = self.id.take() else { return };
        // A part that arrives after the abort would stay.
        while let Some(part) = self.in_flight.pop_front() {
            let _result = part.join();
        }
        self.store.abort_upload(&self.key, &id);
    }
}

/// Keeps the kind, which says what the caller should do.
fn into_io(error: Error) -> io::Error {
    let kind = match &error {
        Error::Object { source, .. } => source.kind(),
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, error)
}

/// The requests of an upload.
impl S3 {
    fn start_upload(&self, key: &Key) -> Result<String, Error> {
        let path = self.path(key);
        self.with_retries(|| {
            self.run(self.client().create_multipart(&path)).map_err(self.failed("write", key))
        })
    }

    fn send_part(&self, key: &Key, id: &str, index: usize, body: &Bytes) -> Result<PartId, Error> {
        let (path, id) = (self.path(key), id.to_owned());
        self.with_retries(|| {
            let sent = self.client().put_part(&path, &id, index, body.clone().into());
            self.run(sent).map_err(self.failed("write", key))
        })
    }

    /// A completion whose answer was lost is made again, and then says that there is no such
    /// upload; so the object is looked for.
    fn complete_upload(
        &self,
        key: &Key,
        id: &str,
        parts: &[PartId],
        bytes: u64,
    ) -> Result<(), Error> {
        let (path, id) = (self.path(key), id.to_owned());
        let mut attempts = 0;
        self.with_retries(|| {
            attempts += 1;
            match self.run(self.client().complete_multipart(&path, &id, parts.to_vec())) {
                Ok(_) => Ok(()),
                Err(failure)
                    if attempts > 1
                        && failure.status == Some(StatusCode::NOT_FOUND)
                        && self.size(key)? == Some(bytes) =>
                {
                    Ok(())
                }
                Err(failure) => Err(self.failed("write", key)(failure)),
            }
        })
    }

    /// What cannot be aborted costs space alone.
    fn abort_upload(&self, key: &Key, id: &str) {
        let (path, id) = (self.path(key), id.to_owned());
        let _result = self.with_retries(|| {
            self.run(self.client().abort_multipart(&path, &id)).map_err(self.failed("abort", key))
        });
    }
}
