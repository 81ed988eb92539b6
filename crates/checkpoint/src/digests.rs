//! Digests that several threads compute together, a part each.
//!
//! Nobody waits for another: a thread takes the next part until all are taken, and whoever computes the
//! last one joins them. Those of tensors come with a checksum, which costs little while a piece is in the
//! processor's cache.
//!
//! # Bounds
//! 48 bytes for each 4 MiB of a state.

use std::sync::{
    Mutex, OnceLock, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use forebay_format::v1::tensors::TensorPlace;
use forebay_types::{
    ByteRanges, Checksum, ChecksumWriter, Digest, DigestWriter, PartDigest, Scattered,
};

use crate::{
    capture::{Captured, Tensors},
    pieces::Part,
};

/// Looked at twice while it is in the processor's cache.
const PIECE_BYTES: usize = 256 << 10;

/// One digest, of which each part is taken by whichever thread is free.
pub(crate) struct SharedDigest<'a> {
    bytes: Box<dyn ByteRanges + 'a>,
    /// Whether the checksum is wanted too.
    is_summed: bool,
    /// The part to be taken next.
    next: AtomicU64,
    /// What was computed so far, as it came.
    parts: Mutex<Vec<(u64, PartDigest, Checksum)>>,
    whole: OnceLock<(Digest, Checksum)>,
}

impl<'a> SharedDigest<'a> {
    pub(crate) fn new(bytes: impl ByteRanges + 'a) -> Self {
        let (next, parts, whole) = (AtomicU64::new(0), Mutex::default(), OnceLock::new());
        Self { bytes: Box::new(bytes), is_summed: false, next, parts, whole }
    }

    /// As [`SharedDigest::new`], with a checksum beside the digest.
    pub(crate) fn summed(bytes: impl ByteRanges + 'a) -> Self {
        Self { is_summed: true, ..Self::new(bytes) }
    }

    /// Computes parts until all are taken. The digest is given to the thread that completes it, and to
    /// none when not all bytes will be there.
    pub(crate) fn work(&self) -> Option<Digest> {
        let mut completed = None;
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= PartDigest::count(self.bytes.len_bytes()) {
                return completed;
            }
            completed = self.compute(number);
        }
    }

    fn compute(&self, number: u64) -> Option<Digest> {
        let count = PartDigest::count(self.bytes.len_bytes());
        let start = number * PartDigest::BYTES;
        let part = self.bytes.get(start..start + PartDigest::BYTES)?;
        let mut checksum = ChecksumWriter::new();
        let pieces = part.slices().flat_map(|slice| slice.chunks(PIECE_BYTES)).inspect(|piece| {
            if self.is_summed {
                checksum.update(piece);
            }
        });
        let whole = if count == 1 {
            let mut digest = DigestWriter::new();
            pieces.for_each(|piece| {
                digest.update(piece);
            });
            (digest.finish(), checksum.finish())
        } else {
            let part = PartDigest::of(number, pieces);
            let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
            parts.push((number, part, checksum.finish()));
            if (parts.len() as u64) < count {
                return None;
            }
            self.join(std::mem::take(&mut *parts))
        };
        Some(self.whole.get_or_init(|| whole).0)
    }

    fn join(&self, mut parts: Vec<(u64, PartDigest, Checksum)>) -> (Digest, Checksum) {
        let bytes = self.bytes.len_bytes();
        parts.sort_unstable_by_key(|&(number, ..)| number);
        let checksum = parts.iter().fold(Checksum::of(&[]), |before, &(number, _, checksum)| {
            let part_bytes = (bytes - number * PartDigest::BYTES).min(PartDigest::BYTES);
            if self.is_summed { before.followed_by(checksum, part_bytes) } else { before }
        });
        let parts: Vec<_> = parts.into_iter().map(|(_, part, _)| part).collect();
        (PartDigest::join(bytes, &parts), checksum)
    }

    /// The digest, once all parts were computed.
    pub(crate) fn get(&self) -> Option<Digest> {
        self.whole.get().map(|(digest, _)| *digest)
    }

    /// The checksum beside it, if it is wanted.
    fn checksum(&self) -> Option<Checksum> {
        self.whole.get().filter(|_| self.is_summed).map(|(_, checksum)| *checksum)
    }
}

/// The digests of all tensors of a state, by their numbers there.
pub(crate) struct TensorDigests<'a>(Vec<SharedDigest<'a>>);

impl<'a> TensorDigests<'a> {
    pub(crate) fn new(captured: &'a Captured<'_>) -> Self {
        let values = (0..captured.tensors.len()).map(|tensor| captured.values(tensor));
        Self(values.map(|values| SharedDigest::summed(Scattered::from(values))).collect())
    }

    /// Of tensors in an image, of which not all need be there.
    pub(crate) fn of_image(tensors: &Tensors, whole: &'a dyn ByteRanges) -> Self {
        let digest = |place: &TensorPlace| {
            let range = place.offset..place.offset + place.bytes;
            SharedDigest::summed(Part { whole, range })
        };
        Self(tensors.iter().map(|(place, _)| digest(place)).collect())
    }

    /// Computes those of `tensors`, but for what others do.
    pub(crate) fn work(&self, tensors: &[usize]) {
        for &tensor in tensors {
            self.0[tensor].work();
        }
    }

    pub(crate) fn of(&self, tensor: usize) -> Option<Digest> {
        self.0[tensor].get()
    }

    /// All of them, each with its checksum.
    pub(crate) fn all(&self) -> Vec<(Digest, Checksum)> {
        let found = self.0.iter().map(|one| one.get().zip(one.checksum()));
        found.map(|sums| sums.expect("every tensor was written or found")).collect()
    }
}

#[cfg(test)]
mod tests {
    use forebay_runtime::Runtime;

    use super::*;

    #[test]
    fn threads_find_what_one_would() {
        for bytes in [0, 1, 4 << 20, (4 << 20) + 1, (23 << 20) + 5] {
            let whole: Vec<u8> = (0..bytes).map(|at| ((at * 7) >> 3) as u8).collect();
            let slices: Scattered<'_> = whole.chunks(1_000_003).collect();
            let (digest, told) = (SharedDigest::summed(slices), Mutex::new(Vec::new()));
            assert_eq!((digest.get(), digest.checksum()), (None, None));
            let work = |_| {
                told.lock().unwrap().extend(digest.work());
                Ok::<_, std::convert::Infallible>(())
            };
            Runtime::system().workers("t", 3, work).unwrap();
            assert_eq!(digest.get(), Some(Digest::of(&whole)), "{bytes} bytes");
            assert_eq!(digest.checksum(), Some(Checksum::of(&whole)), "{bytes} bytes");
            assert_eq!(*told.lock().unwrap(), [Digest::of(&whole)], "one thread is told");
            assert_eq!(digest.work(), None);
        }
    }
}
