//! Blocks of samples addressed by 32-bit offsets: the frame that MDS shards and LitData chunks
//! share.
//!
//! ```text
//! 0          number of samples n        u32
//! 4          offsets[n + 1]             u32 each, from the start of the block
//! …          what the format adds       up to offsets[0]
//! offsets[i] sample i                   up to offsets[i + 1]
//! ```
//!
//! The table is checked whole when the block is opened, so a sample's place needs no check.

use std::ops::Range;

use crate::bytes::u32_at;

/// A block whose table is sound for the bytes it was read from.
#[derive(Clone, Debug)]
pub(crate) struct Samples {
    count: u32,
    /// Where the first sample starts.
    start: usize,
}

impl Samples {
    /// Reads and checks the table of the block that is all of `content`.
    pub(crate) fn read(content: &[u8]) -> Result<Self, String> {
        let count = u32_at(content, 0).ok_or("it is shorter than a number")?;
        let head = Self::head_bytes(count);
        if count == 0 || head > content.len() as u64 {
            return Err(format!("its {} bytes cannot hold {count} samples", content.len()));
        }
        let mut previous = head;
        for index in 0..=count {
            let offset = offset(content, index).ok_or("its table of offsets is cut short")?;
            if u64::from(offset) < previous || offset as usize > content.len() {
                return Err(format!("offset {index} is out of order or outside of the file"));
            }
            previous = u64::from(offset);
        }
        if previous != content.len() as u64 {
            return Err(format!(
                "its last sample ends at {previous}, and the file has {} bytes",
                content.len()
            ));
        }
        let start = offset(content, 0).ok_or("its table of offsets is cut short")? as usize;
        Ok(Self { count, start })
    }

    /// The bytes of count and table.
    const fn head_bytes(count: u32) -> u64 {
        4 + 4 * (count as u64 + 1)
    }

    pub(crate) const fn count(&self) -> u32 {
        self.count
    }

    /// What lies between the table and the first sample.
    pub(crate) fn added(&self) -> Range<usize> {
        Self::head_bytes(self.count) as usize..self.start
    }

    /// Everything before the first sample.
    pub(crate) const fn framing(&self) -> Range<usize> {
        0..self.start
    }

    /// Where sample `row` lies; none if there is no such row or `content` is another.
    pub(crate) fn place(&self, content: &[u8], row: u32) -> Option<Range<usize>> {
        if row >= self.count {
            return None;
        }
        let start = offset(content, row)? as usize;
        let end = offset(content, row + 1)? as usize;
        (start <= end && end <= content.len()).then_some(start..end)
    }
}

fn offset(content: &[u8], index: u32) -> Option<u32> {
    u32_at(content, 4 + 4 * index as usize)
}
