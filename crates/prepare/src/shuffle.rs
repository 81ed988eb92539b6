//! The second reduce, first half: the rows of a split in the order of their keys.
//!
//! Keys are a keyed hash of the sample's identity, so sorting by key *is* a uniform permutation.
//! Buckets follow one another in the order of keys; a bucket larger than memory is taken in
//! several passes, each over a slice of its keys.

use std::io::{self, BufReader, Read};

use forebay_format::v1::origin::Span;
use forebay_types::SampleId;

use crate::{
    Error,
    pack::{ROW_HEAD_BYTES, read_spans, row_lengths},
    spill::{Lanes, slot},
};

const HEAD_BYTES: usize = 8 + 16 + ROW_HEAD_BYTES;

/// The rows of one split, in order.
pub(crate) struct Shuffled<'a> {
    buckets: &'a Lanes<'a>,
    bucket_bytes: u64,
    bucket: usize,
    /// The pass to take next, and how many the bucket needs; known once its file was looked at.
    pass: usize,
    passes: Option<usize>,
    bytes: Vec<u8>,
    rows: Vec<Place>,
    next: usize,
}

/// A loaded row. The order of the fields is the order of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    key: u64,
    id: SampleId,
    start: usize,
    spans_bytes: usize,
    tokens_bytes: usize,
}

/// A row on its way into a shard.
pub(crate) struct Row<'a> {
    pub(crate) id: SampleId,
    pub(crate) spans: Vec<Span>,
    pub(crate) tokens_le: &'a [u8],
}

impl<'a> Shuffled<'a> {
    pub(crate) fn new(buckets: &'a Lanes<'a>, bucket_bytes: u64) -> Self {
        let (bytes, rows) = (Vec::new(), Vec::new());
        Self { buckets, bucket_bytes, bucket: 0, pass: 0, passes: None, bytes, rows, next: 0 }
    }

    /// The next row.
    pub(crate) fn next(&mut self) -> Result<Option<Row<'_>>, Error> {
        while self.next == self.rows.len() {
            if self.bucket == self.buckets.len() {
                return Ok(None);
            }
            self.load()?;
        }
        let place = self.rows[self.next];
        self.next += 1;
        let tokens = place.start + place.spans_bytes;
        Ok(Some(Row {
            id: place.id,
            spans: read_spans(&self.bytes[place.start..tokens]),
            tokens_le: &self.bytes[tokens..tokens + place.tokens_bytes],
        }))
    }

    /// Loads and sorts what the next pass takes, and moves on.
    fn load(&mut self) -> Result<(), Error> {
        (self.next, self.rows, self.bytes) = (0, Vec::new(), Vec::new());
        let file = self.buckets.file(self.bucket);
        let spill = self.buckets.spill();
        let Some((mut stream, bytes)) = spill.stream(&file)? else {
            self.bucket += 1;
            return Ok(());
        };
        let passes = *self.passes.get_or_insert(bytes.div_ceil(self.bucket_bytes).max(1) as usize);
        let mut read = 0;
        while read < bytes {
            read += self
                .load_row(&mut stream, passes)
                .map_err(|error| spill.unreadable(&file, error))?;
        }
        self.rows.sort_unstable();
        self.pass += 1;
        if self.pass == passes {
            spill.remove(&file)?;
            (self.bucket, self.pass, self.passes) = (self.bucket + 1, 0, None);
        }
        Ok(())
    }

    /// Reads one row and keeps it if it belongs to this pass; returns its length.
    fn load_row(
        &mut self,
        stream: &mut BufReader<std::fs::File>,
        passes: usize,
    ) -> io::Result<u64> {
        let (mut key, mut id, mut head) = ([0; 8], [0; 16], [0; ROW_HEAD_BYTES]);
        stream.read_exact(&mut key)?;
        stream.read_exact(&mut id)?;
        stream.read_exact(&mut head)?;
        let key = u64::from_le_bytes(key);
        let (spans_bytes, tokens_bytes) = row_lengths(head);
        let body = spans_bytes + tokens_bytes;
        let (_, within) = slot(key, self.buckets.len());
        if slot(within, passes).0 == self.pass {
            let start = self.bytes.len();
            self.bytes.resize(start + body, 0);
            stream.read_exact(&mut self.bytes[start..])?;
            let id = SampleId::from_bytes(id);
            self.rows.push(Place { key, id, start, spans_bytes, tokens_bytes });
        } else {
            stream.seek_relative(body as i64)?;
        }
        Ok((HEAD_BYTES + body) as u64)
    }
}

#[cfg(test)]
mod tests {
    use forebay_local::LocalTier;
    use forebay_runtime::{Random, Runtime};

    use super::*;
    use crate::{pack::write_row, spill::Spill};

    /// Rows come in the order of keys, each once, however little is loaded at a time.
    #[test]
    fn passes_and_buckets_change_nothing() {
        let root = tempfile::tempdir().unwrap();
        let local = LocalTier::open(root.path(), 1 << 24, &Runtime::system()).unwrap();
        for (lanes, bucket_bytes) in [(1, 1 << 20), (1, 100), (7, 1 << 20), (7, 300), (64, 1)] {
            let spill = Spill::open(&local).unwrap();
            let buckets = Lanes::new(&spill, "rows", lanes);
            let mut writer = buckets.writer(64);
            let mut random = Random::new(lanes as u64);
            let mut wanted = Vec::new();
            for row in 0..100u8 {
                // Few keys, so that some are equal and the identity decides.
                let key = random.below(40) << 58;
                let span = Span { record: row.into(), ..Span::default() };
                let spans = vec![span; 1 + usize::from(row % 3)];
                wanted.push((key, [row; 16], spans.clone(), vec![row; 6]));
                let push = writer.push(slot(key, lanes).0, |bytes| {
                    bytes.extend_from_slice(&key.to_le_bytes());
                    bytes.extend_from_slice(&[row; 16]);
                    write_row(&spans, &[row; 6], bytes);
                });
                push.unwrap();
            }
            writer.flush().unwrap();
            wanted.sort_by_key(|(key, id, ..)| (*key, *id));
            let mut shuffled = Shuffled::new(&buckets, bucket_bytes);
            for (_, id, spans, tokens) in &wanted {
                let row = shuffled.next().unwrap().unwrap();
                assert_eq!(row.id.as_bytes(), id);
                assert_eq!((&row.spans, row.tokens_le), (spans, tokens.as_slice()));
            }
            assert!(shuffled.next().unwrap().is_none());
        }
    }
}
