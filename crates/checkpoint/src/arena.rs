//! The arena: memory that captures are copied into, faulted in once and reused.
//!
//! Copying into fresh pages costs some ten times the copy itself, because each page is faulted in
//! and cleared by the kernel. So the arena grows rarely, touches its pages when it does, and is
//! handed from the trainer's thread to the background and back instead of being freed.

use std::sync::{Mutex, PoisonError};

use forebay_format::v1::tensors::TensorPlan;
use forebay_runtime::Runtime;

/// What one thread copies before it takes the next piece.
const PIECE_BYTES: usize = 4 << 20;
/// Below this a second thread costs more than it saves.
const PARALLEL_BYTES_MIN: usize = 8 << 20;
const PAGE_BYTES: usize = 4096;

/// The image of a tensor file in memory.
#[derive(Default)]
pub(crate) struct Arena {
    memory: Vec<u8>,
    image_bytes: usize,
}

type Piece<'a> = (&'a mut [u8], &'a [u8]);

impl Arena {
    /// Makes sure that `bytes` fit, and that the pages are there.
    pub(crate) fn reserve(&mut self, bytes: usize, threads: usize, runtime: &Runtime) {
        if bytes <= self.memory.len() {
            return;
        }
        // The old memory goes first: there is never more than one arena.
        self.memory = Vec::new();
        self.memory = vec![0; bytes];
        let pieces = self.memory.chunks_mut(PIECE_BYTES).collect();
        share(pieces, threads, runtime, |piece: &mut [u8]| {
            piece.iter_mut().step_by(PAGE_BYTES).for_each(|byte| *byte = std::hint::black_box(1));
        });
    }

    /// Begins the file's image: its room, and the header of `plan`.
    pub(crate) fn begin(&mut self, plan: &TensorPlan, threads: usize, runtime: &Runtime) {
        let bytes = usize::try_from(plan.file_bytes).expect("tensors in memory fit in memory");
        self.reserve(bytes, threads, runtime);
        self.image_bytes = bytes;
        self.memory[..plan.header.len()].copy_from_slice(&plan.header);
    }

    /// Copies tensors to where they lie in the image; those lie apart.
    pub(crate) fn copy(
        &mut self,
        mut tensors: Vec<(u64, &[u8])>,
        threads: usize,
        runtime: &Runtime,
    ) {
        tensors.sort_unstable_by_key(|&(offset, bytes)| (offset, bytes.len()));
        let mut rest = &mut self.memory[..self.image_bytes];
        let (mut at, mut pieces) = (0, Vec::with_capacity(tensors.len()));
        for (offset, from) in tensors {
            let (_, behind) = rest.split_at_mut(offset as usize - at);
            let (into, behind) = behind.split_at_mut(from.len());
            pieces.extend(into.chunks_mut(PIECE_BYTES).zip(from.chunks(PIECE_BYTES)));
            (at, rest) = (offset as usize + from.len(), behind);
        }
        share(pieces, threads, runtime, |(into, from): Piece<'_>| into.copy_from_slice(from));
    }

    /// The file's bytes.
    pub(crate) fn image(&self) -> &[u8] {
        &self.memory[..self.image_bytes]
    }
}

/// Gives every piece to whichever thread is free.
fn share<T: Send + Weight>(
    pieces: Vec<T>,
    threads: usize,
    runtime: &Runtime,
    work: impl Fn(T) + Sync,
) {
    if threads < 2 || pieces.iter().map(Weight::bytes).sum::<usize>() < PARALLEL_BYTES_MIN {
        return pieces.into_iter().for_each(work);
    }
    let left = Mutex::new(pieces.into_iter());
    let next = || left.lock().unwrap_or_else(PoisonError::into_inner).next();
    let outcome: Result<(), std::convert::Infallible> =
        runtime.workers("checkpoint-capture", threads, |_| {
            while let Some(piece) = next() {
                work(piece);
            }
            Ok(())
        });
    let Ok(()) = outcome;
}

trait Weight {
    fn bytes(&self) -> usize;
}

impl Weight for &mut [u8] {
    fn bytes(&self) -> usize {
        self.len()
    }
}

impl Weight for Piece<'_> {
    fn bytes(&self) -> usize {
        self.1.len()
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use forebay_format::v1::tensors::{self, Dtype};

    use super::*;
    use crate::StateTensor;

    fn state(sizes: &[usize]) -> Vec<StateTensor<'static>> {
        let tensor = |(index, &bytes): (usize, &usize)| StateTensor {
            name: Cow::Owned(format!("t{index}")),
            dtype: Dtype::U8,
            shape: vec![bytes as u64],
            bytes: Cow::Owned((0..bytes).map(|at| (at * 7 + index) as u8).collect()),
            part: None,
        };
        sizes.iter().enumerate().map(tensor).collect()
    }

    fn image(arena: &mut Arena, state: &[StateTensor<'_>], threads: usize) -> Vec<u8> {
        let specs: Vec<_> = state.iter().map(|tensor| tensor.spec().unwrap()).collect();
        let plan = tensors::plan(&specs).unwrap();
        arena.begin(&plan, threads, &Runtime::system());
        let tensor =
            |(index, place): &(usize, tensors::TensorPlace)| (place.offset, &*state[*index].bytes);
        // In two turns, as when the trainer goes on in between.
        let (first, second): (Vec<_>, Vec<_>) =
            plan.places.iter().map(tensor).enumerate().partition(|(number, _)| number % 2 == 0);
        for half in [second, first] {
            let half = half.into_iter().map(|(_, tensor)| tensor).collect();
            arena.copy(half, threads, &Runtime::system());
        }
        for (index, place) in &plan.places {
            let range = place.offset as usize..(place.offset + place.bytes) as usize;
            assert!(arena.image()[range] == *state[*index].bytes);
        }
        arena.image().to_vec()
    }

    #[test]
    fn threads_and_reuse_change_no_byte() {
        let (large, small) = (state(&[9 << 20, 0, 1, 5 << 20]), state(&[3, 0, 70_000]));
        let mut reused = Arena::default();
        let first = image(&mut reused, &large, 3);
        assert!(first == image(&mut Arena::default(), &large, 1));
        let memory = reused.memory.as_ptr();
        assert!(image(&mut reused, &small, 3) == image(&mut Arena::default(), &small, 1));
        assert!(image(&mut reused, &large, 3) == first);
        assert_eq!(reused.memory.as_ptr(), memory);
    }
}
