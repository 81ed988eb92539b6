//! Pieces: bytes that are read while they come to be.
//!
//! Whoever makes them gives piece by piece, in any order, and cannot change what was given. Whoever
//! reads a range waits for the pieces that it lies in. So the file of a state is written while the state
//! is still being copied.
//!
//! # Bounds
//! 16 bytes for each piece.

use std::{
    ops::Range,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
};

use forebay_local::StagedWriter;
use forebay_types::{ByteRanges, Scattered};

/// The length of a piece, but for the last: one request of the disk, which is written from where it lies.
pub(crate) const PIECE_BYTES: u64 = StagedWriter::BLOCK_BYTES;

/// A string of bytes of which some pieces may still be wanting.
pub(crate) struct Pieces<'a> {
    len_bytes: u64,
    state: Mutex<State<'a>>,
    changed: Condvar,
}

struct State<'a> {
    given: Vec<Option<&'a [u8]>>,
    missing: usize,
    is_given_up: bool,
}

impl<'a> Pieces<'a> {
    /// Of so many bytes, none of which is there.
    pub(crate) fn new(len_bytes: u64) -> Self {
        let missing = len_bytes.div_ceil(PIECE_BYTES) as usize;
        let state = State { given: vec![None; missing], missing, is_given_up: false };
        Self { len_bytes, state: Mutex::new(state), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State<'a>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for as long as `is_early` says so.
    fn wait(&self, is_early: impl FnMut(&mut State<'a>) -> bool) -> MutexGuard<'_, State<'a>> {
        let state = self.changed.wait_while(self.lock(), is_early);
        state.unwrap_or_else(PoisonError::into_inner)
    }

    /// A piece is there, which was not.
    pub(crate) fn give(&self, number: usize, bytes: &'a [u8]) {
        let start = number as u64 * PIECE_BYTES;
        debug_assert_eq!(bytes.len() as u64, PIECE_BYTES.min(self.len_bytes - start));
        let mut state = self.lock();
        state.given[number] = Some(bytes);
        state.missing -= 1;
        self.changed.notify_all();
    }

    /// Runs what gives pieces. When it panics they are given up, so that nobody waits for them forever.
    pub(crate) fn fill(&self, work: impl FnOnce()) {
        struct Ends<'a, 'b>(&'a Pieces<'b>);
        impl Drop for Ends<'_, '_> {
            fn drop(&mut self) {
                if std::thread::panicking() {
                    self.0.give_up();
                }
            }
        }
        let _ends = Ends(self);
        work();
    }

    /// Nobody is to read any more, or to wait for it.
    pub(crate) fn give_up(&self) {
        self.lock().is_given_up = true;
        self.changed.notify_all();
    }

    /// Waits until all pieces are there; false when they were given up.
    pub(crate) fn await_all(&self) -> bool {
        !self.wait(|state| state.missing > 0 && !state.is_given_up).is_given_up
    }
}

impl ByteRanges for Pieces<'_> {
    fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    fn get(&self, range: Range<u64>) -> Option<Scattered<'_>> {
        let end = range.end.min(self.len_bytes);
        let numbers = if range.start < end {
            (range.start / PIECE_BYTES) as usize..end.div_ceil(PIECE_BYTES) as usize
        } else {
            0..0
        };
        let is_wanting = |state: &State<'_>| state.given[numbers.clone()].contains(&None);
        let state = self.wait(|state| !state.is_given_up && is_wanting(state));
        if state.is_given_up {
            return None;
        }
        let pieces: Scattered<'_> =
            state.given[numbers.clone()].iter().copied().flatten().collect();
        let before = numbers.start as u64 * PIECE_BYTES;
        let within = range.start.saturating_sub(before)..end.saturating_sub(before);
        Some(pieces.range(within).collect())
    }
}

/// A part of a string of bytes, which is one itself.
pub(crate) struct Part<'a> {
    pub whole: &'a dyn ByteRanges,
    pub range: Range<u64>,
}

impl ByteRanges for Part<'_> {
    fn len_bytes(&self) -> u64 {
        self.range.end - self.range.start
    }

    fn get(&self, range: Range<u64>) -> Option<Scattered<'_>> {
        let end = range.end.min(self.len_bytes());
        let start = range.start.min(end);
        self.whole.get(self.range.start + start..self.range.start + end)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use forebay_runtime::Runtime;
    use proptest::prelude::*;

    use super::*;

    const PIECE: usize = PIECE_BYTES as usize;

    fn content(bytes: usize) -> Vec<u8> {
        (0..bytes).map(|at| ((at * 7) >> 3) as u8).collect()
    }

    fn bytes_of(found: &Scattered<'_>) -> Vec<u8> {
        found.slices().collect::<Vec<_>>().concat()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        /// Whoever gives, in whatever order, a reader finds the bytes that it asked for.
        #[test]
        fn a_range_is_that_of_the_whole_whenever_its_pieces_come(
            tail in 0..PIECE,
            order in Just((0..4_usize).collect::<Vec<_>>()).prop_shuffle(),
            ranges in prop::collection::vec((0..4 * PIECE, 0..3 * PIECE), 1..8),
        ) {
            let whole = content(3 * PIECE + tail);
            let pieces = Pieces::new(whole.len() as u64);
            let parts: Vec<&[u8]> = whole.chunks(PIECE).collect();
            Runtime::system().workers("test", 1 + ranges.len(), |index| {
                let Some(&(start, bytes)) = index.checked_sub(1).and_then(|one| ranges.get(one)) else {
                    for &number in order.iter().filter(|&&number| number < parts.len()) {
                        pieces.give(number, parts[number]);
                    }
                    assert!(pieces.await_all());
                    return Ok(());
                };
                let wanted = &whole[start.min(whole.len())..(start + bytes).min(whole.len())];
                let found = pieces.get(start as u64..(start + bytes) as u64).unwrap();
                assert!(bytes_of(&found) == wanted, "{start} {bytes}");
                if start < whole.len() {
                    let part = Part { whole: &pieces, range: start as u64..whole.len() as u64 };
                    assert!(bytes_of(&part.get(0..bytes as u64).unwrap()) == wanted);
                    assert_eq!(part.len_bytes(), (whole.len() - start) as u64);
                }
                Ok::<_, Infallible>(())
            }).unwrap();
        }
    }

    #[test]
    fn a_range_waits_for_its_own_pieces_alone() {
        let whole = content(2 * PIECE + 5);
        let pieces = Pieces::new(whole.len() as u64);
        pieces.give(1, &whole[PIECE..2 * PIECE]);
        let found = pieces.get(PIECE_BYTES + 1..PIECE_BYTES + 4).unwrap();
        assert_eq!(bytes_of(&found), whole[PIECE + 1..PIECE + 4]);
        // Of nothing, nothing is wanting.
        assert_eq!(pieces.get(7..7).unwrap().len_bytes(), 0);
        assert_eq!(pieces.get(u64::MAX - 1..u64::MAX).unwrap().len_bytes(), 0);
    }

    #[test]
    fn what_is_given_up_ends_all_waiting_and_reading() {
        let whole = content(PIECE + 1);
        let pieces = Pieces::new(whole.len() as u64);
        pieces.give(0, &whole[..PIECE]);
        Runtime::system()
            .workers("test", 3, |index| {
                match index {
                    0 => pieces.give_up(),
                    1 => assert!(!pieces.await_all()),
                    _ => assert!(pieces.get(0..PIECE_BYTES + 1).is_none()),
                }
                Ok::<_, Infallible>(())
            })
            .unwrap();
        assert!(pieces.get(0..1).is_none(), "although it is there");
    }

    #[test]
    fn nobody_waits_for_a_copier_that_panicked() {
        let pieces = Pieces::new(1);
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            pieces.fill(|| panic!("it was to copy"));
        }));
        assert!(panicked.is_err() && !pieces.await_all() && pieces.get(0..1).is_none());
        let pieces = Pieces::new(1);
        pieces.fill(|| pieces.give(0, &[7]));
        assert!(pieces.await_all());
    }
}
