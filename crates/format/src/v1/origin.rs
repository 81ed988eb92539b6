//! Where the rows of a shard come from: a side file of spans (`docs/format/origin.md`).
//!
//! A row of tokens is made of pieces of documents; each piece is a [`Span`] that names the raw
//! record. The file is an Arrow table with one line for each span, zstd-compressed. Lines hold
//! *steps* from the span before, not positions: neighbours in a row are neighbours in the source,
//! so most steps are 0 or 1 and the file stays far below 2% of its shard.

use std::{ops::Range, sync::Arc};

use arrow_array::{ArrayRef, RecordBatch, UInt8Array, UInt32Array, UInt64Array};
use arrow_ipc::{
    CompressionType,
    writer::{FileWriter, IpcWriteOptions},
};
use arrow_schema::{ArrowError, DataType, Field, Schema};

use crate::{
    Error,
    ipc::{self, Batch, Column, Kind, Stored},
};

/// Spans in a record batch but the last; also what bounds a reader's buffers.
const SPANS_PER_BATCH: usize = 1 << 16;

const UNNAMED: &str = "an origin file";

const COLUMNS: [Column; 7] = [
    Column { name: "row_step", kind: Kind::Unsigned { bytes: 1 } },
    Column { name: "source", kind: Kind::Unsigned { bytes: 4 } },
    Column { name: "record_step", kind: Kind::Unsigned { bytes: 8 } },
    Column { name: "offset_step", kind: Kind::Unsigned { bytes: 8 } },
    Column { name: "bytes", kind: Kind::Unsigned { bytes: 8 } },
    Column { name: "token_start", kind: Kind::Unsigned { bytes: 4 } },
    Column { name: "tokens", kind: Kind::Unsigned { bytes: 4 } },
];

/// A piece of a row, and the raw record it comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Span {
    /// The source object: an index into the manifest's sources.
    pub source: u32,
    /// The record's number in its source, from 0.
    pub record: u64,
    /// Where the record starts in its source, decompressed.
    pub offset: u64,
    /// The record's length there.
    pub bytes: u64,
    /// Where this piece starts in the record's sequence of tokens.
    pub token_start: u32,
    /// The piece's tokens, the end-of-document token included where it falls into this piece.
    pub tokens: u32,
}

/// Writes the side file of one shard, row by row.
#[derive(Debug, Default)]
pub struct OriginWriter {
    starts: Vec<usize>,
    spans: Vec<Span>,
}

impl OriginWriter {
    /// A side file of no rows yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends the spans of the next row.
    ///
    /// # Errors
    /// [`Error::Unwritable`] for a row from nowhere.
    pub fn push(&mut self, spans: &[Span]) -> Result<(), Error> {
        if spans.is_empty() {
            return Err(unwritable("a row has no spans"));
        }
        self.starts.push(self.spans.len());
        self.spans.extend_from_slice(spans);
        Ok(())
    }

    /// Ends the file and returns its bytes.
    ///
    /// # Errors
    /// [`Error::Unwritable`] when it has no rows.
    pub fn finish(self) -> Result<Vec<u8>, Error> {
        if self.starts.is_empty() {
            return Err(unwritable("it has no rows"));
        }
        self.write().map_err(unwritable)
    }

    fn write(&self) -> Result<Vec<u8>, ArrowError> {
        let field = |column: &Column| Field::new(column.name, data_type(column.kind), false);
        let schema = Arc::new(Schema::new(COLUMNS.iter().map(field).collect::<Vec<_>>()));
        let options =
            IpcWriteOptions::default().try_with_compression(Some(CompressionType::ZSTD))?;
        let mut file = FileWriter::try_new_with_options(Vec::new(), &schema, options)?;
        let steps = self.steps();
        for steps in steps.chunks(SPANS_PER_BATCH) {
            file.write(&RecordBatch::try_new(Arc::clone(&schema), arrays(steps))?)?;
        }
        file.into_inner()
    }

    fn steps(&self) -> Vec<Step> {
        let mut starts = self.starts.iter().peekable();
        let mut before = None;
        let step = |(index, span): (usize, &Span)| {
            let new_row = starts.next_if_eq(&&index).is_some();
            let step = Step::between(before.filter(|_| !new_row), *span);
            before = Some(*span);
            step
        };
        self.spans.iter().enumerate().map(step).collect()
    }
}

/// A span as it is stored. The first span of a row or of a source within a row counts from 0.
struct Step {
    new_row: bool,
    span: Span,
}

impl Step {
    fn between(before: Option<Span>, span: Span) -> Self {
        let (record, offset) = base(before, span.source);
        let mut stored = span;
        stored.record = span.record.wrapping_sub(record);
        stored.offset = span.offset.wrapping_sub(offset);
        Self { new_row: before.is_none(), span: stored }
    }

    fn after(self, before: Option<Span>) -> Span {
        let (record, offset) = base(before.filter(|_| !self.new_row), self.span.source);
        let mut span = self.span;
        span.record = span.record.wrapping_add(record);
        span.offset = span.offset.wrapping_add(offset);
        span
    }
}

/// What record and offset count from: the record before and its end.
fn base(before: Option<Span>, source: u32) -> (u64, u64) {
    before
        .filter(|before| before.source == source)
        .map_or((0, 0), |before| (before.record, before.offset.wrapping_add(before.bytes)))
}

fn data_type(kind: Kind) -> DataType {
    match kind.width_bytes() {
        1 => DataType::UInt8,
        4 => DataType::UInt32,
        _ => DataType::UInt64,
    }
}

fn arrays(steps: &[Step]) -> Vec<ArrayRef> {
    let u32s = |of: fn(&Span) -> u32| -> ArrayRef {
        Arc::new(UInt32Array::from_iter_values(steps.iter().map(|step| of(&step.span))))
    };
    let u64s = |of: fn(&Span) -> u64| -> ArrayRef {
        Arc::new(UInt64Array::from_iter_values(steps.iter().map(|step| of(&step.span))))
    };
    let rows = steps.iter().map(|step| u8::from(step.new_row));
    vec![
        Arc::new(UInt8Array::from_iter_values(rows)),
        u32s(|span| span.source),
        u64s(|span| span.record),
        u64s(|span| span.offset),
        u64s(|span| span.bytes),
        u32s(|span| span.token_start),
        u32s(|span| span.tokens),
    ]
}

fn unwritable(what: impl ToString) -> Error {
    Error::Unwritable { object: UNNAMED.into(), what: what.to_string() }
}

/// The side file of one shard, decoded: 40 bytes of memory for each span.
#[derive(Clone, Debug)]
pub struct OriginReader {
    starts: Vec<usize>,
    spans: Vec<Span>,
}

impl OriginReader {
    /// Decodes `bytes`; `object` names them in errors.
    ///
    /// # Errors
    /// [`Error::Damaged`] when they are no origin file.
    pub fn new(bytes: &[u8], object: &str) -> Result<Self, Error> {
        let mut reader = Self { starts: Vec::new(), spans: Vec::new() };
        for batch in ipc::layout(bytes, &COLUMNS, Stored::Zstd, object)? {
            reader.read_batch(bytes, &batch).map_err(|what| Error::damaged(object, what))?;
        }
        Ok(reader)
    }

    fn read_batch(&mut self, bytes: &[u8], batch: &Batch) -> Result<(), String> {
        if batch.rows > SPANS_PER_BATCH {
            return Err(format!("a record batch of {} spans", batch.rows));
        }
        let columns = COLUMNS.iter().zip(&batch.values);
        let columns = columns
            .map(|(column, place)| decompress(bytes, place, batch.rows * column.kind.width_bytes()))
            .collect::<Result<Vec<_>, _>>()?;
        for index in 0..batch.rows {
            let span = Step {
                new_row: columns[0][index] == 1,
                span: Span {
                    source: u32_at(&columns[1], index),
                    record: u64_at(&columns[2], index),
                    offset: u64_at(&columns[3], index),
                    bytes: u64_at(&columns[4], index),
                    token_start: u32_at(&columns[5], index),
                    tokens: u32_at(&columns[6], index),
                },
            };
            self.push(span, columns[0][index])?;
        }
        Ok(())
    }

    fn push(&mut self, step: Step, row_step: u8) -> Result<(), String> {
        if row_step > 1 || (self.spans.is_empty() && row_step == 0) {
            return Err(format!("span {} belongs to no row", self.spans.len()));
        }
        if step.new_row {
            self.starts.push(self.spans.len());
        }
        let span = step.after(self.spans.last().copied());
        self.spans.push(span);
        Ok(())
    }

    /// The number of rows, which is that of the shard.
    #[must_use]
    pub const fn rows(&self) -> usize {
        self.starts.len()
    }

    /// The spans of a row, in the order of its tokens; none when the file has no such row.
    #[must_use]
    pub fn row(&self, index: u32) -> &[Span] {
        let index = index as usize;
        let Some(start) = self.starts.get(index) else { return &[] };
        let end = self.starts.get(index + 1).copied().unwrap_or(self.spans.len());
        &self.spans[*start..end]
    }
}

/// A buffer as Arrow compresses it: its length, -1 for "as it is", then the bytes.
fn decompress(bytes: &[u8], place: &Range<usize>, wanted: usize) -> Result<Vec<u8>, String> {
    let stored = &bytes[place.clone()];
    if stored.is_empty() && wanted == 0 {
        return Ok(Vec::new());
    }
    let (length, stored) = stored.split_first_chunk().ok_or("a column without its length")?;
    let length = i64::from_le_bytes(*length);
    let values = match length {
        -1 => stored.to_vec(),
        _ if usize::try_from(length) == Ok(wanted) => zstd::bulk::decompress(stored, wanted)
            .map_err(|error| format!("a column cannot be decompressed ({error})"))?,
        _ => return Err(format!("a column of {length} bytes where {wanted} are expected")),
    };
    if values.len() == wanted {
        Ok(values)
    } else {
        Err(format!("a column has {} bytes where {wanted} are expected", values.len()))
    }
}

fn u32_at(column: &[u8], index: usize) -> u32 {
    u32::from_le_bytes(column.as_chunks().0[index])
}

fn u64_at(column: &[u8], index: usize) -> u64 {
    u64::from_le_bytes(column.as_chunks().0[index])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn span() -> impl Strategy<Value = Span> {
        (0u32..3, any::<u64>(), any::<u64>(), any::<u64>(), any::<u32>(), any::<u32>()).prop_map(
            |(source, record, offset, bytes, token_start, tokens)| Span {
                source,
                record,
                offset,
                bytes,
                token_start,
                tokens,
            },
        )
    }

    fn encode(rows: &[Vec<Span>]) -> Vec<u8> {
        let mut writer = OriginWriter::new();
        rows.iter().for_each(|row| writer.push(row).unwrap());
        writer.finish().unwrap()
    }

    proptest! {
        #[test]
        fn rows_come_back(
            rows in prop::collection::vec(prop::collection::vec(span(), 1..5), 1..20),
        ) {
            let bytes = encode(&rows);
            let reader = OriginReader::new(&bytes, "o").unwrap();
            prop_assert_eq!(reader.rows(), rows.len());
            for (index, row) in rows.iter().enumerate() {
                prop_assert_eq!(reader.row(index as u32), row.as_slice());
            }
            prop_assert!(reader.row(rows.len() as u32).is_empty());
        }

        #[test]
        fn damage_never_panics(
            rows in prop::collection::vec(prop::collection::vec(span(), 1..5), 1..20),
            flips in prop::collection::vec((any::<prop::sample::Index>(), 1u8..), 1..4),
            cut in prop::option::of(any::<prop::sample::Index>()),
        ) {
            let mut bytes = encode(&rows);
            let length = bytes.len();
            flips.iter().for_each(|(at, flip)| bytes[at.index(length)] ^= flip);
            cut.iter().for_each(|at| bytes.truncate(at.index(length)));
            if let Ok(reader) = OriginReader::new(&bytes, "o") {
                (0..reader.rows() as u32).for_each(|row| assert!(!reader.row(row).is_empty()));
            }
        }
    }

    #[test]
    fn batches_continue_one_another() {
        let span =
            |n: u64| Span { record: n, offset: 10 * n, bytes: 9, tokens: 9, ..Span::default() };
        let rows: Vec<Vec<Span>> =
            (0..30_000).map(|row| (0..3).map(|piece| span(3 * row + piece)).collect()).collect();
        let reader = OriginReader::new(&encode(&rows), "o").unwrap();
        assert!(rows.iter().enumerate().all(|(index, row)| reader.row(index as u32) == row));
    }

    /// Documents of 300 to 1500 bytes, byte-level tokens, rows of 2048: the promise of 2%.
    #[test]
    fn the_side_file_stays_small() {
        let mut state = 1u64;
        let (mut offset, mut record, mut done) = (0, 0, 0u64);
        let mut document = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695);
            300 + (state >> 33) % 1200
        };
        let (mut tokens, mut rows) = (document(), Vec::new());
        for _ in 0..8192 {
            let (mut row, mut left) = (Vec::new(), 2048);
            while left > 0 {
                let taken = left.min(tokens + 1 - done);
                row.push(Span {
                    source: 0,
                    record,
                    offset,
                    bytes: tokens + 12,
                    token_start: done as u32,
                    tokens: taken as u32,
                });
                (left, done) = (left - taken, done + taken);
                if done == tokens + 1 {
                    offset += tokens + 13;
                    (record, done, tokens) = (record + 1, 0, document());
                }
            }
            rows.push(row);
        }
        // A global shuffle tears neighbours apart.
        rows.sort_by_key(|row| row[0].offset.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let share = encode(&rows).len() as f64 / (rows.len() * (4096 + 16)) as f64;
        assert!(share < 0.01, "{:.2}% of the shard", 100.0 * share);
    }

    #[test]
    fn rows_from_nowhere_are_not_written() {
        assert!(OriginWriter::new().push(&[]).is_err());
        assert!(OriginWriter::new().finish().is_err());
    }
}
