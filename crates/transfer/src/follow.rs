//! Following: a file is on its way into the lake while it is being staged.
//!
//! A thread reads what was written so far, which the system still has in memory, and writes it to the
//! lake. So whoever stages waits for the disk alone, however slow the lake, and the lake has nearly all
//! of a file when the disk has it. [`Transfer::drain`] takes it from there, and begins anew where
//! something went wrong.
//!
//! # Bounds
//! One piece, and what the lake's writer holds.
//!
//! # After a crash
//! As after a drain: the object is not there; parts of an upload may be, which no listing shows.

use std::{
    fs::File,
    ops::Range,
    os::unix::fs::FileExt,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use forebay_lake::{LakeWriter, Purpose};
use forebay_runtime::Task;
use forebay_types::Key;

use crate::{Error, Transfer};

/// What is read and written at once.
pub(crate) const PIECE_BYTES: usize = 1 << 20;

/// How much of a file was written; whoever writes it says so.
#[derive(Clone, Default)]
pub struct Written(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Clone, Copy, Default)]
struct State {
    bytes: u64,
    is_ended: bool,
}

impl Written {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// So many bytes were written, from the first on.
    pub fn advance(&self, bytes: u64) {
        self.lock().bytes = bytes;
        self.0.changed.notify_all();
    }

    /// Nobody is to wait for more.
    pub fn end(&self) {
        self.lock().is_ended = true;
        self.0.changed.notify_all();
    }

    /// The bytes that were written, once they are more than `seen`; none when there will not be more.
    fn await_more(&self, seen: u64) -> Option<u64> {
        let wait = |state: &mut State| state.bytes <= seen && !state.is_ended;
        let state = self.0.changed.wait_while(self.lock(), wait);
        let state = state.unwrap_or_else(PoisonError::into_inner);
        (state.bytes > seen).then_some(state.bytes)
    }
}

/// An object on its way. Dropping it leaves nothing, and does not wait for the lake.
pub struct Follow {
    key: Key,
    written: Written,
    /// Absent once it was waited for.
    task: Option<Task<Result<(LakeWriter, u64), Error>>>,
}

impl Transfer {
    /// Begins to write `file`, which is being written from its first byte to its last, to the lake as
    /// `key`.
    #[must_use]
    pub fn follow(&self, file: File, written: &Written, key: &Key) -> Follow {
        let (transfer, object, until) = (self.clone(), key.clone(), written.clone());
        let work = move || transfer.write_behind(&file, &until, &object);
        let task = Some(self.runtime().spawn("checkpoint-upload", work));
        Follow { key: key.clone(), written: written.clone(), task }
    }

    fn write_behind(
        &self,
        file: &File,
        written: &Written,
        key: &Key,
    ) -> Result<(LakeWriter, u64), Error> {
        let lake = |source| self.lake_failed("write", key, source);
        let mut writer = self.lake().writer(key, Purpose::Checkpoint).map_err(lake)?;
        let (mut sent, mut piece) = (0, vec![0; PIECE_BYTES]);
        while let Some(until) = written.await_more(sent) {
            self.send(file, sent..until, &mut piece, &mut writer, key)?;
            sent = until;
        }
        Ok((writer, sent))
    }

    /// Writes the bytes of `range` of a file, which has them, to an object, so many at once as `piece` holds.
    pub(crate) fn send(
        &self,
        file: &File,
        range: Range<u64>,
        piece: &mut [u8],
        writer: &mut LakeWriter,
        key: &Key,
    ) -> Result<(), Error> {
        let failed = |source| Error::Staged { name: key.clone(), source };
        let mut at = range.start;
        while at < range.end {
            let count = usize::try_from(range.end - at).unwrap_or(usize::MAX).min(piece.len());
            file.read_exact_at(&mut piece[..count], at).map_err(failed)?;
            self.write_piece(writer, key, &piece[..count])?;
            at += count as u64;
        }
        Ok(())
    }
}

impl Follow {
    /// Waits until all that was written is on its way; gives the writer, and how much it got.
    pub(crate) fn join(mut self, key: &Key) -> Option<(LakeWriter, u64)> {
        self.written.end();
        let task = self.task.take().filter(|_| self.key == *key)?;
        task.join().ok()?.ok()
    }
}

impl Drop for Follow {
    fn drop(&mut self) {
        self.written.end();
    }
}
