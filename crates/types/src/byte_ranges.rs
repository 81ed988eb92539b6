//! Bytes in memory that are had a range at a time, because they may have to be waited for.

use std::ops::Range;

use crate::Scattered;

/// A string of bytes, of which any range can be asked for, by several threads at once.
pub trait ByteRanges: Sync {
    /// The length of the whole.
    fn len_bytes(&self) -> u64;

    /// The bytes of `range`, in order, once they are there; what lies beyond the end is left out. None
    /// when they will never be there.
    fn get(&self, range: Range<u64>) -> Option<Scattered<'_>>;
}

impl<T: ByteRanges + ?Sized> ByteRanges for &T {
    fn len_bytes(&self) -> u64 {
        (**self).len_bytes()
    }

    fn get(&self, range: Range<u64>) -> Option<Scattered<'_>> {
        (**self).get(range)
    }
}
