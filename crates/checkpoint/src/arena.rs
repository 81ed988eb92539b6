//! The arena: memory that a capture is copied into.
//!
//! Fresh pages cost an order of magnitude more than the copy itself, so the arena is kept for the
//! life of the run: after the first save a capture touches only pages that are there.

use std::sync::{Arc, Condvar, Mutex, PoisonError};

use forebay_runtime::Runtime;

/// Copies of at least this many bytes are cut in two, so that threads share large tensors.
const PIECE_BYTES: usize = 4 << 20;

/// One buffer that goes back and forth between the trainer and the background thread.
#[derive(Clone, Debug, Default)]
pub(crate) struct Arena {
    slot: Arc<(Mutex<Slot>, Condvar)>,
}

#[derive(Debug, Default)]
enum Slot {
    #[default]
    New,
    Free(Vec<u8>),
    Taken,
}

impl Arena {
    /// The buffer, once nobody reads it any more.
    pub(crate) fn take(&self) -> Vec<u8> {
        let (slot, freed) = &*self.slot;
        let mut guard = slot.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match std::mem::replace(&mut *guard, Slot::Taken) {
                Slot::New => return Vec::new(),
                Slot::Free(buffer) => return buffer,
                Slot::Taken => guard = freed.wait(guard).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    pub(crate) fn give_back(&self, buffer: Vec<u8>) {
        let (slot, freed) = &*self.slot;
        *slot.lock().unwrap_or_else(PoisonError::into_inner) = Slot::Free(buffer);
        freed.notify_all();
    }
}

/// Copies `sources` one after the other into `arena`, on `threads` threads.
pub(crate) fn fill(runtime: &Runtime, threads: usize, arena: &mut Vec<u8>, sources: &[&[u8]]) {
    let bytes = sources.iter().map(|source| source.len()).sum();
    arena.resize(bytes, 0);
    let mut pieces = Vec::new();
    let mut rest = &mut arena[..];
    for source in sources {
        for piece in source.chunks(PIECE_BYTES) {
            let (into, after) = rest.split_at_mut(piece.len());
            pieces.push((into, piece));
            rest = after;
        }
    }
    let threads = threads.clamp(1, (bytes / PIECE_BYTES).max(1));
    if threads == 1 {
        pieces.into_iter().for_each(|(into, from)| into.copy_from_slice(from));
        return;
    }
    let queue = Mutex::new(pieces);
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop();
    let copied: Result<(), std::convert::Infallible> =
        runtime.workers("capture", threads, |_| {
            while let Some((into, from)) = next() {
                into.copy_from_slice(from);
            }
            Ok(())
        });
    match copied {
        Ok(()) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_lie_one_after_the_other_whatever_the_threads() {
        let runtime = Runtime::system();
        let large: Vec<u8> = (0..3 * PIECE_BYTES + 17).map(|i| (i * 31 >> 3) as u8).collect();
        let sources: [&[u8]; 4] = [b"abc", &large, b"", b"z"];
        for threads in [1, 2, 5] {
            let mut arena = vec![9; 10];
            fill(&runtime, threads, &mut arena, &sources);
            assert_eq!(arena, sources.concat(), "{threads} threads");
        }
    }
}
