//! Intermediate results on the local tier's scratch space.
//!
//! Space is reserved before it is written, so the tier's budget holds. What a crash leaves is
//! removed by whoever opens the tier next; nothing here is ever read by another process.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufReader, Write},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use forebay_local::{LocalTier, Scratch};

use crate::Error;

/// The scratch files of one preparation.
pub(crate) struct Spill {
    scratch: Scratch,
}

impl Spill {
    pub(crate) fn open(local: &LocalTier) -> Result<Self, Error> {
        Ok(Self { scratch: local.scratch("prepare")? })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// Appends `bytes` to the file `name`, which it makes if need be.
    pub(crate) fn append(&self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        self.scratch.reserve(bytes.len() as u64)?;
        let path = self.path(name);
        OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| file.write_all(bytes))
            .map_err(|source| Error::Scratch { act: "write", path, source })
    }

    /// The whole file `name`, which must have been appended to.
    pub(crate) fn read(&self, name: &str) -> Result<Vec<u8>, Error> {
        let path = self.path(name);
        fs::read(&path).map_err(|source| Error::Scratch { act: "read", path, source })
    }

    /// The whole file `name`; nothing if nothing was appended to it.
    pub(crate) fn read_if_there(&self, name: &str) -> Result<Vec<u8>, Error> {
        match self.read(name) {
            Err(Error::Scratch { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Ok(Vec::new())
            }
            outcome => outcome,
        }
    }

    /// The file `name` as a stream, with its length.
    pub(crate) fn stream(&self, name: &str) -> Result<Option<(BufReader<File>, u64)>, Error> {
        let path = self.path(name);
        let opened = File::open(&path).and_then(|file| Ok((file.metadata()?.len(), file)));
        match opened {
            Ok((bytes, file)) => Ok(Some((BufReader::with_capacity(1 << 20, file), bytes))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(Error::Scratch { act: "read", path, source }),
        }
    }

    /// The error of a file that ended early or failed.
    pub(crate) fn unreadable(&self, name: &str, source: io::Error) -> Error {
        Error::Scratch { act: "read", path: self.path(name), source }
    }

    /// Removes the file `name`, whose content was taken over by others.
    pub(crate) fn remove(&self, name: &str) -> Result<(), Error> {
        let path = self.path(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            outcome => outcome.map_err(|source| Error::Scratch { act: "remove", path, source }),
        }
    }
}

/// Files to which many workers append at once: one per partition, bucket or task.
pub(crate) struct Lanes<'a> {
    spill: &'a Spill,
    name: String,
    lanes: Vec<Mutex<()>>,
}

impl<'a> Lanes<'a> {
    pub(crate) fn new(spill: &'a Spill, name: &str, lanes: usize) -> Self {
        let lanes = (0..lanes).map(|_| Mutex::new(())).collect();
        Self { spill, name: name.into(), lanes }
    }

    pub(crate) const fn len(&self) -> usize {
        self.lanes.len()
    }

    pub(crate) const fn spill(&self) -> &'a Spill {
        self.spill
    }

    /// The file of a lane.
    pub(crate) fn file(&self, lane: usize) -> String {
        format!("{}-{lane}", self.name)
    }

    /// One worker's end of the lanes, which holds back up to `buffer_bytes`.
    pub(crate) fn writer(&self, buffer_bytes: usize) -> LaneWriter<'_> {
        let buffers = vec![Vec::new(); self.lanes.len()];
        LaneWriter { lanes: self, buffers, held: 0, buffer_bytes }
    }
}

/// Appends to lanes in pieces. [`LaneWriter::flush`] must end it.
pub(crate) struct LaneWriter<'a> {
    lanes: &'a Lanes<'a>,
    buffers: Vec<Vec<u8>>,
    held: usize,
    buffer_bytes: usize,
}

impl LaneWriter<'_> {
    /// The number of lanes.
    pub(crate) const fn lanes(&self) -> usize {
        self.buffers.len()
    }

    /// Appends what `write` writes to `lane`; it is not torn apart by other workers.
    pub(crate) fn push(
        &mut self,
        lane: usize,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), Error> {
        let before = self.buffers[lane].len();
        write(&mut self.buffers[lane]);
        self.held += self.buffers[lane].len() - before;
        if self.held > self.buffer_bytes { self.flush() } else { Ok(()) }
    }

    /// Writes what is held back.
    pub(crate) fn flush(&mut self) -> Result<(), Error> {
        for (lane, buffer) in self.buffers.iter_mut().enumerate() {
            if !buffer.is_empty() {
                let lock = &self.lanes.lanes[lane];
                let _held = lock.lock().unwrap_or_else(PoisonError::into_inner);
                self.lanes.spill.append(&self.lanes.file(lane), buffer)?;
                *buffer = Vec::new();
            }
        }
        self.held = 0;
        Ok(())
    }
}

/// Which of `slots` the key belongs to, in the order of keys, and where it lies within its slot.
pub(crate) const fn slot(key: u64, slots: usize) -> (usize, u64) {
    let product = key as u128 * slots as u128;
    ((product >> 64) as usize, product as u64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn slots_keep_the_order_of_keys(a: u64, b: u64, outer in 1usize..300, inner in 1usize..9) {
            let place = |key| {
                let (outer, rest) = slot(key, outer);
                (outer, slot(rest, inner).0)
            };
            prop_assert!(place(a).0 < outer && place(a).1 < inner);
            prop_assert!(a > b || place(a) <= place(b));
        }
    }
}
