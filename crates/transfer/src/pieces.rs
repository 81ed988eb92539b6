//! Reading one object in pieces: several ranged reads in flight, digested in order.
//!
//! Readers claim piece after piece, but never one that is more than [`READERS`] ahead of the
//! digest, so the memory of a fetch is `READERS` buffers, reused. A reader writes what it read to
//! its place in the file at once; one thread takes the pieces into the digest in order. The first
//! failure stops all.

use std::{
    collections::BTreeMap,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
};

use forebay_local::LandingFile;
use forebay_types::ErrorKind;

use crate::{Error, Object, Transfer, fetch::Urgency};

/// The bytes of one ranged read: large enough that a request's latency is small beside it.
const PIECE_BYTES: u64 = 4 << 20;
/// Ranged reads in flight for one object.
const READERS: u64 = 4;
/// The memory one fetch holds at most.
pub const FETCH_BYTES_MAX: u64 = PIECE_BYTES * READERS;

/// Copies all stored bytes of the object from the lake into `landing`, and shows them to `see` in
/// order.
pub(crate) fn stream(
    transfer: &Transfer,
    object: &Object,
    urgency: Urgency<'_>,
    landing: &LandingFile,
    see: &mut (dyn FnMut(&[u8]) + Send),
) -> Result<(), Error> {
    let bring = |piece, buffer: &mut Vec<u8>| {
        read(transfer, object, urgency, piece, buffer)?;
        landing
            .write_at(piece * PIECE_BYTES, buffer)
            .map_err(|source| Error::Write { object: object.key.clone(), source })
    };
    let pieces = object.place().1.div_ceil(PIECE_BYTES);
    if pieces <= 1 {
        // One request is the whole object: threads would only cost.
        let mut buffer = Vec::new();
        bring(0, &mut buffer)?;
        see(&buffer);
        return Ok(());
    }
    let line = Line::new(pieces);
    let see = Mutex::new(see);
    let readers = pieces.min(READERS) as usize;
    transfer.runtime().workers("fetch", readers + 1, |index| {
        if index == 0 {
            line.see_all(&mut **see.lock().unwrap_or_else(PoisonError::into_inner));
            return Ok(());
        }
        let _farewell = Farewell(&line);
        line.bring_all(bring).inspect_err(|_| line.stop())
    })
}

fn read(
    transfer: &Transfer,
    object: &Object,
    urgency: Urgency<'_>,
    piece: u64,
    buffer: &mut Vec<u8>,
) -> Result<(), Error> {
    urgency
        .check(transfer)
        .map_err(|source| Error::Cancelled { object: object.key.clone(), source })?;
    let (start, bytes) = object.place();
    let offset = piece * PIECE_BYTES;
    buffer.resize((bytes - offset).min(PIECE_BYTES) as usize, 0);
    let lake = object.lake(transfer);
    lake.read_range(&object.key, object.purpose, start + offset, buffer).map_err(|source| {
        let indexed = object.stored.is_some();
        let (object, lake) = (object.key.clone(), lake.url().to_owned());
        match source.kind() {
            ErrorKind::NotFound => Error::Missing { object, lake },
            ErrorKind::Corrupt if indexed => Error::Changed { object, lake },
            ErrorKind::Corrupt => Error::Damaged { object, lake },
            _ => Error::Lake { act: "read", object, lake, source: Box::new(source) },
        }
    })
}

/// The pieces between the readers and the digest.
struct Line {
    pieces: u64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    claimed: u64,
    seen: u64,
    filled: BTreeMap<u64, Vec<u8>>,
    spare: Vec<Vec<u8>>,
    stopped: bool,
}

/// Stops the others when a reader panics: they would wait for its piece.
struct Farewell<'a>(&'a Line);

impl Drop for Farewell<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.stop();
        }
    }
}

impl Line {
    fn new(pieces: u64) -> Self {
        Self { pieces, state: Mutex::default(), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop(&self) {
        self.lock().stopped = true;
        self.changed.notify_all();
    }

    /// A reader's life: `bring` fills the buffer with the piece it is told, and puts it in place.
    fn bring_all(
        &self,
        bring: impl Fn(u64, &mut Vec<u8>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        while let Some((piece, mut buffer)) = self.claim() {
            bring(piece, &mut buffer)?;
            self.lock().filled.insert(piece, buffer);
            self.changed.notify_all();
        }
        Ok(())
    }

    fn claim(&self) -> Option<(u64, Vec<u8>)> {
        let busy = |state: &mut State| !state.stopped && state.claimed >= state.seen + READERS;
        let mut state = self
            .changed
            .wait_while(self.lock(), |state| state.claimed < self.pieces && busy(state))
            .unwrap_or_else(PoisonError::into_inner);
        if state.stopped || state.claimed == self.pieces {
            return None;
        }
        state.claimed += 1;
        Some((state.claimed - 1, state.spare.pop().unwrap_or_default()))
    }

    /// The digest's life: every piece in order, unless a reader failed.
    fn see_all(&self, see: &mut dyn FnMut(&[u8])) {
        for piece in 0..self.pieces {
            let missing = |state: &mut State| !state.stopped && !state.filled.contains_key(&piece);
            let mut state = self
                .changed
                .wait_while(self.lock(), missing)
                .unwrap_or_else(PoisonError::into_inner);
            let Some(buffer) = state.filled.remove(&piece) else { return };
            drop(state);
            see(&buffer);
            let mut state = self.lock();
            state.seen += 1;
            state.spare.push(buffer);
            self.changed.notify_all();
        }
    }
}
