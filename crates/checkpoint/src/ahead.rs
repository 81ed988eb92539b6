//! Reading ahead: a disk is asked early for what is going to be read, so that it does not wait for digests.
//!
//! The system reads ahead of each reader by itself, but not far enough for a fast disk, and not from one
//! tensor to the next where several threads read. What will be read is known here. It goes through the
//! page cache, where the other ranks of a node that restore the same file find it.
//!
//! # Bounds
//! [`AHEAD_BYTES`] of page cache at a time, which the system takes back when it needs it. Nothing is asked
//! for that is not wanted.

use std::sync::{
    Mutex,
    atomic::{AtomicU64, Ordering},
};

use crate::source::Source;

/// How far the disk is asked ahead: what a disk of some gigabytes a second reads while four threads
/// are scheduled on a busy machine. A quarter of it left the disk idle at times.
const AHEAD_BYTES: u64 = 128 << 20;
/// The least that it is asked for at once.
const ASK_BYTES: u64 = 4 << 20;

/// What is going to be read, in order, and how far the disk was asked for it.
pub(crate) struct ReadAhead<'s> {
    ranges: Vec<Range<'s>>,
    asked: Mutex<Asked>,
    read_bytes: AtomicU64,
}

/// A stretch of a file.
struct Range<'s> {
    source: &'s Source<'s>,
    offset: u64,
    bytes: u64,
}

#[derive(Default)]
struct Asked {
    /// Ranges that were asked for as a whole.
    ranges: usize,
    /// How much of the next one was.
    of_next_bytes: u64,
    /// All of it.
    bytes: u64,
}

impl<'s> ReadAhead<'s> {
    /// Of stretches of files, each a source, an offset and a length, in the order in which they are read.
    pub(crate) fn new(stretches: impl Iterator<Item = (&'s Source<'s>, u64, u64)>) -> Self {
        let mut ranges: Vec<Range<'s>> = Vec::new();
        // Of an empty one the system would take it that all the rest of the file is meant.
        let stretches = stretches.filter(|(source, _, bytes)| *bytes > 0 && source.is_on_disk());
        for (source, offset, bytes) in stretches {
            let follows = |range: &&mut Range<'_>| {
                std::ptr::eq(range.source, source) && range.offset + range.bytes == offset
            };
            match ranges.last_mut().filter(follows) {
                Some(range) => range.bytes += bytes,
                None => ranges.push(Range { source, offset, bytes }),
            }
        }
        Self { ranges, asked: Mutex::default(), read_bytes: AtomicU64::new(0) }
    }

    /// Says that so many bytes more are being read.
    pub(crate) fn advance(&self, bytes: u64) {
        let read_bytes = self.read_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        // Another thread is asking, and goes on to read: nobody waits for that.
        let Ok(mut asked) = self.asked.try_lock() else { return };
        while asked.bytes + ASK_BYTES <= read_bytes + AHEAD_BYTES {
            let Some(range) = self.ranges.get(asked.ranges) else { return };
            let bytes = ASK_BYTES.min(range.bytes - asked.of_next_bytes);
            range.source.will_read(range.offset + asked.of_next_bytes, bytes);
            asked.bytes += bytes;
            asked.of_next_bytes += bytes;
            if asked.of_next_bytes == range.bytes {
                (asked.ranges, asked.of_next_bytes) = (asked.ranges + 1, 0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use forebay_testing::key;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever is read in whatever pieces, no more than the bound is asked for beyond it, nothing
        /// that is not wanted, and in the end all that is.
        #[test]
        fn what_is_wanted_is_asked_for_and_no_further_ahead_than_the_bound(
            stretches in prop::collection::vec((0..3u64, 0..100u64), 0..20),
            pieces in prop::collection::vec(1..80u64, 60),
        ) {
            let source = Source::Local(tempfile::tempfile().unwrap(), key("a"));
            let mut end = 0;
            let stretches: Vec<_> = stretches
                .into_iter()
                .map(|(gap, mebibytes)| {
                    let offset = end + gap;
                    end = offset + (mebibytes << 20);
                    (&source, offset, mebibytes << 20)
                })
                .collect();
            let total: u64 = stretches.iter().map(|(_, _, bytes)| bytes).sum();
            let ahead = ReadAhead::new(stretches.iter().copied());
            prop_assert_eq!(ahead.ranges.iter().map(|range| range.bytes).sum::<u64>(), total);
            let mut read = 0;
            for piece in pieces.into_iter().map(|mebibytes| mebibytes << 20) {
                let piece = piece.min(total - read);
                read += piece;
                ahead.advance(piece);
                let asked = ahead.asked.lock().unwrap().bytes;
                prop_assert!(asked <= (read + AHEAD_BYTES).min(total));
                prop_assert!(asked + ASK_BYTES > (read + AHEAD_BYTES).min(total));
            }
        }
    }
}
