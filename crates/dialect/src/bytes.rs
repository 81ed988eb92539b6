//! Little-endian numbers out of bytes that nobody has checked.

use std::ops::Range;

/// The number of 4 bytes at `at`.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let number = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(number.try_into().ok()?))
}

/// The number of 8 bytes at `at`.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let number = bytes.get(at..at.checked_add(8)?)?;
    Some(u64::from_le_bytes(number.try_into().ok()?))
}

/// Entry `index` of a table of `width`-byte numbers that lies at `table`.
pub(crate) fn entry(bytes: &[u8], table: &Range<usize>, width: usize, index: usize) -> Option<u64> {
    let table = bytes.get(table.clone())?;
    let at = index.checked_mul(width)?;
    if width == 4 { u32_at(table, at).map(u64::from) } else { u64_at(table, at) }
}

/// Bit `index` of a bitmap, least significant bit of each byte first.
pub(crate) fn bit(bitmap: &[u8], index: usize) -> Option<bool> {
    Some(bitmap.get(index / 8)? >> (index % 8) & 1 == 1)
}
