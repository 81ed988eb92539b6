//! Digests that several threads compute together, a part each.
//!
//! Nobody waits for another: a thread takes the next part until all are taken, and whoever computes the
//! last one joins them.
//!
//! # Bounds
//! 40 bytes for each 4 MiB of a state.

use std::sync::{
    Mutex, OnceLock, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use forebay_format::v1::tensors::TensorPlace;
use forebay_types::{ByteRanges, Digest, DigestWriter, PartDigest, Scattered};

use crate::{
    capture::{Captured, Tensors},
    pieces::Part,
};

/// One digest, of which each part is taken by whichever thread is free.
pub(crate) struct SharedDigest<'a> {
    bytes: Box<dyn ByteRanges + 'a>,
    /// The part to be taken next.
    next: AtomicU64,
    /// What was computed so far, as it came.
    parts: Mutex<Vec<(u64, PartDigest)>>,
    whole: OnceLock<Digest>,
}

impl<'a> SharedDigest<'a> {
    pub(crate) fn new(bytes: impl ByteRanges + 'a) -> Self {
        let (next, parts, whole) = (AtomicU64::new(0), Mutex::default(), OnceLock::new());
        Self { bytes: Box::new(bytes), next, parts, whole }
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
        let slices = part.slices();
        let whole = if count == 1 {
            let mut digest = DigestWriter::new();
            slices.for_each(|slice| {
                digest.update(slice);
            });
            digest.finish()
        } else {
            let part = PartDigest::of(number, slices);
            let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
            parts.push((number, part));
            if (parts.len() as u64) < count {
                return None;
            }
            parts.sort_unstable_by_key(|&(number, _)| number);
            let parts: Vec<_> = parts.drain(..).map(|(_, part)| part).collect();
            PartDigest::join(self.bytes.len_bytes(), &parts)
        };
        Some(*self.whole.get_or_init(|| whole))
    }

    /// The digest, once all parts were computed.
    pub(crate) fn get(&self) -> Option<Digest> {
        self.whole.get().copied()
    }
}

/// The digests of all tensors of a state, by their numbers there.
pub(crate) struct TensorDigests<'a>(Vec<SharedDigest<'a>>);

impl<'a> TensorDigests<'a> {
    pub(crate) fn new(captured: &'a Captured<'_>) -> Self {
        let values = (0..captured.tensors.len()).map(|tensor| captured.values(tensor));
        Self(values.map(|values| SharedDigest::new(Scattered::from(values))).collect())
    }

    /// Of tensors in an image, of which not all need be there.
    pub(crate) fn of_image(tensors: &Tensors, whole: &'a dyn ByteRanges) -> Self {
        let digest = |place: &TensorPlace| {
            let range = place.offset..place.offset + place.bytes;
            SharedDigest::new(Part { whole, range })
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

    pub(crate) fn all(&self) -> Vec<Digest> {
        let found = self.0.iter().map(SharedDigest::get);
        found.map(|digest| digest.expect("every tensor was written or found")).collect()
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
            let (digest, told) = (SharedDigest::new(slices), Mutex::new(Vec::new()));
            assert_eq!(digest.get(), None);
            let work = |_| {
                told.lock().unwrap().extend(digest.work());
                Ok::<_, std::convert::Infallible>(())
            };
            Runtime::system().workers("t", 3, work).unwrap();
            assert_eq!(digest.get(), Some(Digest::of(&whole)), "{bytes} bytes");
            assert_eq!(*told.lock().unwrap(), [Digest::of(&whole)], "one thread is told");
            assert_eq!(digest.work(), None);
        }
    }
}
