//! Cutting a file into extents, row by row.
//!
//! Greedy: a row joins the current extent if that brings the extent's length nearer to the one
//! asked for. So a length is missed by less than half a row, and a row longer than all of it is
//! an extent of its own.

use std::ops::Range;

use forebay_types::Form;

use crate::Cut;

/// Ranges nearer to each other than this are given as one: whoever checks them does so by blocks
/// that are no smaller.
const GAP_BYTES_MIN: usize = 4 << 10;

/// The extents so far, of a file that is read as it is stored.
#[derive(Debug)]
pub(crate) struct Cutter {
    extent_bytes: u64,
    cuts: Vec<Cut>,
}

impl Cutter {
    pub(crate) fn new(extent_bytes: u64) -> Self {
        Self { extent_bytes, cuts: Vec::new() }
    }

    /// Adds the row that lies at `place`, behind every row before it.
    pub(crate) fn row(&mut self, place: Range<u64>) {
        if let Some(cut) = self.cuts.last_mut() {
            let bytes = place.end - cut.offset;
            let nearer = bytes.abs_diff(self.extent_bytes) < cut.bytes.abs_diff(self.extent_bytes);
            if nearer && cut.rows < u32::MAX {
                cut.bytes = bytes;
                cut.rows += 1;
                return;
            }
        }
        self.cuts.push(Cut {
            offset: place.start,
            bytes: place.end - place.start,
            rows: 1,
            form: Form::Plain,
        });
    }

    pub(crate) fn finish(self) -> Vec<Cut> {
        self.cuts
    }
}

/// The one extent of a compressed file, if it has rows; `None` if it has more than an extent may.
pub(crate) fn whole(stored: &[u8], rows: u64, form: Form) -> Option<Vec<Cut>> {
    let rows = u32::try_from(rows).ok()?;
    let cut = Cut { offset: 0, bytes: stored.len() as u64, rows, form };
    Some(if rows == 0 { Vec::new() } else { vec![cut] })
}

/// Adds `range`, which starts behind all of `ranges`.
pub(crate) fn join(ranges: &mut Vec<Range<usize>>, range: Range<usize>) {
    match ranges.last_mut() {
        Some(last) if range.start.saturating_sub(last.end) < GAP_BYTES_MIN => {
            last.end = last.end.max(range.end);
        }
        _ => ranges.push(range),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_row_is_in_one_extent_and_no_extent_is_longer_than_its_rows_demand(
            rows in proptest::collection::vec((0_u64..9, 1_u64..200), 0..40),
            extent_bytes in 0_u64..400,
        ) {
            let mut cutter = Cutter::new(extent_bytes);
            let (mut end, mut longest) = (0, 0);
            let mut places = Vec::new();
            for &(gap, bytes) in &rows {
                places.push(end + gap..end + gap + bytes);
                longest = longest.max(gap + bytes);
                end += gap + bytes;
                cutter.row(places[places.len() - 1].clone());
            }
            let cuts = cutter.finish();
            let mut left = places.iter();
            for (number, cut) in cuts.iter().enumerate() {
                let mine: Vec<_> = left.by_ref().take(cut.rows as usize).collect();
                prop_assert_eq!(mine[0].start, cut.offset);
                prop_assert_eq!(mine[mine.len() - 1].end, cut.offset + cut.bytes);
                prop_assert!(cut.rows == 1 || cut.bytes <= extent_bytes + longest / 2);
                let last = number + 1 == cuts.len();
                if !last && cut.bytes < extent_bytes {
                    prop_assert!(extent_bytes - cut.bytes <= longest.div_ceil(2));
                }
            }
            prop_assert!(left.next().is_none());
        }
    }
}
