//! Bytes that lie scattered in memory and are one after the other, as in a file.

use std::ops::Range;

use crate::ByteRanges;

/// Slices that make one string of bytes.
#[derive(Clone, Debug, Default)]
pub struct Scattered<'a> {
    slices: Vec<&'a [u8]>,
    /// Where each slice ends in the whole.
    ends: Vec<u64>,
}

impl<'a> Scattered<'a> {
    /// The length of the whole.
    #[must_use]
    pub fn len_bytes(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    /// All bytes, in order.
    pub fn slices(&self) -> impl Iterator<Item = &'a [u8]> {
        self.slices.iter().copied()
    }

    /// The bytes of `range`, in order; what lies beyond the end is left out.
    pub fn range(&self, range: Range<u64>) -> impl Iterator<Item = &'a [u8]> {
        let first = self.ends.partition_point(|&end| end <= range.start);
        let ended = self.slices[first..].iter().zip(&self.ends[first..]);
        ended.map_while(move |(&slice, &end)| {
            let start = end - slice.len() as u64;
            let from = range.start.saturating_sub(start) as usize;
            let until = range.end.min(end).checked_sub(start)? as usize;
            slice.get(from..until).filter(|slice| !slice.is_empty())
        })
    }
}

impl ByteRanges for Scattered<'_> {
    fn len_bytes(&self) -> u64 {
        self.len_bytes()
    }

    fn get(&self, range: Range<u64>) -> Option<Scattered<'_>> {
        Some(self.range(range).collect())
    }
}

impl<'a> FromIterator<&'a [u8]> for Scattered<'a> {
    fn from_iter<T: IntoIterator<Item = &'a [u8]>>(slices: T) -> Self {
        let slices: Vec<_> = slices.into_iter().filter(|slice| !slice.is_empty()).collect();
        let ends = slices.iter().scan(0, |end, slice| {
            *end += slice.len() as u64;
            Some(*end)
        });
        Self { ends: ends.collect(), slices }
    }
}

impl<'a> From<&'a [u8]> for Scattered<'a> {
    fn from(slice: &'a [u8]) -> Self {
        std::iter::once(slice).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_range_is_that_of_the_whole() {
        let whole: Vec<u8> = (0..40).collect();
        let slices = [&whole[..7], &[], &whole[7..8], &whole[8..31], &[], &whole[31..], &[]];
        let scattered: Scattered<'_> = slices.into_iter().collect();
        assert_eq!(scattered.len_bytes(), 40);
        for start in 0..=41_usize {
            for end in start..=42 {
                let found: Vec<&[u8]> = scattered.range(start as u64..end as u64).collect();
                assert!(found.iter().all(|slice| !slice.is_empty()));
                assert_eq!(found.concat(), whole[start.min(40)..end.min(40)], "{start}..{end}");
                let part = scattered.get(start as u64..end as u64).unwrap();
                assert!(part.slices().eq(found));
            }
        }
        assert_eq!(Scattered::default().range(0..9).count(), 0);
        assert_eq!(Scattered::from(&whole[..0]).len_bytes(), 0);
    }
}
