//! A file comes to the node to be looked through, and goes again.
//!
//! Its whole length is reserved in scratch space before its first byte is asked for. When there is
//! no room, a worker waits for what the others hold; when nobody holds any, the budget is too
//! small, and the error says so. Bytes come in pieces, so memory does not grow with the file.

use std::{
    fs::OpenOptions,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::{Condvar, Mutex, PoisonError},
};

use forebay_lake::{Error as LakeError, Purpose};
use forebay_local::{Error as LocalError, LocalTier, Scratch};
use forebay_runtime::Runtime;
use forebay_types::ErrorKind;
use memmap2::Mmap;

use crate::{
    Error,
    source::{File, Opened},
    work::lock,
};

/// What is read at once.
const PIECE_BYTES: u64 = 8 << 20;

/// Brings files to the node, as many at once as there is room for.
pub(crate) struct Lander<'a> {
    source: &'a Opened,
    local: &'a LocalTier,
    runtime: &'a Runtime,
    /// Files that are here.
    landed: Mutex<usize>,
    left: Condvar,
}

/// The room of one file; free when it is dropped.
struct Room<'a> {
    lander: &'a Lander<'a>,
    scratch: Option<Scratch>,
}

impl<'a> Lander<'a> {
    pub(crate) fn new(source: &'a Opened, local: &'a LocalTier, runtime: &'a Runtime) -> Self {
        Self { source, local, runtime, landed: Mutex::new(0), left: Condvar::new() }
    }

    /// Calls `work` with all bytes of `file`; tells `progress` of each piece that came.
    pub(crate) fn with<T>(
        &self,
        file: &File,
        progress: impl Fn(u64),
        work: impl FnOnce(&[u8]) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let room = self.room(file)?;
        let Some(scratch) = &room.scratch else { return work(&[]) };
        let path = scratch.path().join("file");
        let map = self.fill(file, &path, progress)?;
        work(&map)
    }

    fn room(&self, file: &File) -> Result<Room<'_>, Error> {
        let budget_bytes = self.local.budget_bytes();
        if file.bytes > budget_bytes {
            let (file, bytes) = (file.key.clone(), file.bytes);
            return Err(Error::FileTooLarge { file, bytes, budget_bytes });
        }
        if file.bytes == 0 {
            // An empty file cannot be mapped, and needs no room.
            *lock(&self.landed) += 1;
            return Ok(Room { lander: self, scratch: None });
        }
        let mut landed = lock(&self.landed);
        loop {
            self.runtime.check()?;
            let scratch = self.local.scratch("index")?;
            match scratch.reserve(file.bytes) {
                Ok(()) => {
                    *landed += 1;
                    return Ok(Room { lander: self, scratch: Some(scratch) });
                }
                Err(LocalError::Full { .. }) if *landed > 0 => {
                    drop(scratch);
                    landed = self.left.wait(landed).unwrap_or_else(PoisonError::into_inner);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn fill(&self, file: &File, path: &Path, progress: impl Fn(u64)) -> Result<Mmap, Error> {
        let at = |act| {
            let path = path.to_owned();
            move |source: io::Error| Error::Scratch { act, path, source }
        };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600);
        let mut scratch = options.open(path).map_err(at("make"))?;
        let mut piece = vec![0; PIECE_BYTES.min(file.bytes) as usize];
        let mut offset = 0;
        while offset < file.bytes {
            self.runtime.check()?;
            let bytes = PIECE_BYTES.min(file.bytes - offset);
            let piece = &mut piece[..bytes as usize];
            let read = self.source.lake.read_range(&file.key, Purpose::Source, offset, piece);
            read.map_err(|error| self.explain(file, error))?;
            scratch.write_all(piece).map_err(at("write"))?;
            offset += bytes;
            progress(bytes);
        }
        // SAFETY: a mapping is sound as long as nobody shortens or changes the file under it. This
        // one was made a moment ago in a private directory of this process, nobody else has its
        // name, and nothing writes to it any more.
        unsafe { Mmap::map(&scratch) }.map_err(at("map"))
    }

    /// A file that is gone or shorter than it was listed was changed, which is no damage.
    fn explain(&self, file: &File, error: LakeError) -> Error {
        match error {
            LakeError::Truncated { .. } => self.source.changed(&file.key),
            error if error.kind() == ErrorKind::NotFound => self.source.changed(&file.key),
            error => error.into(),
        }
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        // The room is free before anybody is told.
        self.scratch.take();
        *lock(&self.lander.landed) -= 1;
        self.lander.left.notify_all();
    }
}
