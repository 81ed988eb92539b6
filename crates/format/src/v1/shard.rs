//! A shard: rows of tokens as an uncompressed Arrow IPC file (`docs/format/shard.md`).
//!
//! Any Arrow tool opens it. For us it is an array: all batches but the last have the same number
//! of rows, so a row of a memory-mapped shard is found by arithmetic and handed out without a
//! copy. The bytes depend on the rows alone.
//!
//! Two digests guard it: BLAKE3 of the whole file, its name, checked when it lands on a node;
//! and CRC-32C of each record batch, kept in the dataset's pages and checked before rows of it
//! are used ([`ShardReader::verify_batch`]).

use std::{fmt, sync::Arc};

use arrow_array::{
    ArrayRef, FixedSizeBinaryArray, FixedSizeListArray, PrimitiveArray, RecordBatch,
    types::{ArrowPrimitiveType, UInt16Type, UInt32Type},
};
use arrow_buffer::{Buffer, MutableBuffer, ScalarBuffer};
use arrow_ipc::writer::FileWriter;
use arrow_schema::{ArrowError, DataType, Field, Schema};
use forebay_types::{Digest, SampleId};

use super::dataset::{BatchEntry, ShardEntry, TokenSchema};
use crate::{
    Error,
    ipc::{self, Batch, Column, Kind, Stored},
};

/// What a shard that is being written is called in errors: its name is its digest, yet unknown.
const UNNAMED: &str = "a shard";

const ID_BYTES: usize = 16;

// Tokens are copied between files and memory as they are.
const _: () = assert!(cfg!(target_endian = "little"), "Forebay runs on little-endian machines");

fn columns(schema: TokenSchema) -> [Column; 2] {
    let tokens = Kind::List { items: schema.row_tokens, item_bytes: schema.token_bytes };
    [
        Column { name: "sample_id", kind: Kind::Binary { bytes: ID_BYTES as u32 } },
        Column { name: "tokens", kind: tokens },
    ]
}

/// A whole shard in memory.
#[derive(Clone, Debug)]
pub struct EncodedShard {
    /// The file.
    pub bytes: Vec<u8>,
    /// The digest of the file.
    pub digest: Digest,
    /// Its rows.
    pub rows: u32,
    /// Its record batches, in order.
    pub batches: Vec<BatchEntry>,
}

/// Writes one shard into memory: a shard is bounded, and its name is known only at its end.
pub struct ShardWriter {
    schema: TokenSchema,
    arrow: Arc<Schema>,
    rows_per_batch: u32,
    rows: u32,
    ids: MutableBuffer,
    tokens: MutableBuffer,
    file: FileWriter<Vec<u8>>,
}

impl fmt::Debug for ShardWriter {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = (self.rows, self.rows_per_batch);
        formatter.debug_tuple("ShardWriter").field(&self.schema).field(&rows).finish()
    }
}

impl ShardWriter {
    /// A shard of no rows yet, with `rows_per_batch` rows to a record batch.
    ///
    /// # Errors
    /// [`Error::Unwritable`] when no shard can have this shape.
    pub fn new(schema: TokenSchema, rows_per_batch: u32) -> Result<Self, Error> {
        let items = i32::try_from(schema.row_tokens).ok().filter(|items| *items > 0);
        let (Some(items), Some(item), true) = (items, item_type(schema), rows_per_batch > 0) else {
            return Err(unwritable(format!(
                "no batch has {rows_per_batch} rows of {} tokens of {} bytes",
                schema.row_tokens, schema.token_bytes
            )));
        };
        let list = DataType::FixedSizeList(Arc::new(item_field(item)), items);
        let arrow = Arc::new(Schema::new(vec![
            Field::new("sample_id", DataType::FixedSizeBinary(ID_BYTES as i32), false),
            Field::new("tokens", list, false),
        ]));
        let file = FileWriter::try_new(Vec::new(), &arrow).map_err(refused)?;
        let (ids, tokens) = (MutableBuffer::new(0), MutableBuffer::new(0));
        Ok(Self { schema, arrow, rows_per_batch, rows: 0, ids, tokens, file })
    }

    /// Appends a row of little-endian tokens.
    ///
    /// # Errors
    /// [`Error::Unwritable`] when it does not have exactly the schema's length.
    pub fn push(&mut self, id: SampleId, tokens_le: &[u8]) -> Result<(), Error> {
        if tokens_le.len() != self.schema.row_bytes() {
            let (found, wanted) = (tokens_le.len(), self.schema.row_bytes());
            return Err(unwritable(format!("a row has {found} bytes, its schema says {wanted}")));
        }
        let rows = self.rows.checked_add(1).ok_or_else(|| unwritable("2^32 rows".into()))?;
        self.ids.extend_from_slice(id.as_bytes());
        self.tokens.extend_from_slice(tokens_le);
        self.rows = rows;
        if rows.is_multiple_of(self.rows_per_batch) { self.write_batch() } else { Ok(()) }
    }

    /// The rows pushed so far.
    #[must_use]
    pub const fn rows(&self) -> u32 {
        self.rows
    }

    fn write_batch(&mut self) -> Result<(), Error> {
        let ids = Buffer::from(std::mem::take(&mut self.ids));
        let tokens = Buffer::from(std::mem::take(&mut self.tokens));
        let batch = batch(&self.arrow, self.schema, ids, tokens).map_err(refused)?;
        self.file.write(&batch).map_err(refused)
    }

    /// Ends the shard.
    ///
    /// # Errors
    /// [`Error::Unwritable`] when it has no rows.
    pub fn finish(mut self) -> Result<EncodedShard, Error> {
        if self.rows == 0 {
            return Err(unwritable("it has no rows".into()));
        }
        if !self.ids.is_empty() {
            self.write_batch()?;
        }
        let (schema, rows) = (self.schema, self.rows);
        let bytes = self.file.into_inner().map_err(refused)?;
        // The batches are taken from what any reader will see, not from what the writer meant.
        let batches = ipc::layout(&bytes, &columns(schema), Stored::Plain, UNNAMED)?
            .iter()
            .map(|batch| entry(&bytes, batch))
            .collect();
        Ok(EncodedShard { digest: Digest::of(&bytes), bytes, rows, batches })
    }
}

fn entry(bytes: &[u8], batch: &Batch) -> BatchEntry {
    BatchEntry {
        offset: batch.place.start as u64,
        bytes: batch.place.len() as u64,
        crc32c: crc32c::crc32c(&bytes[batch.place.clone()]),
    }
}

fn unwritable(what: String) -> Error {
    Error::Unwritable { object: UNNAMED.into(), what }
}

fn refused(error: ArrowError) -> Error {
    unwritable(error.to_string())
}

const fn item_type(schema: TokenSchema) -> Option<DataType> {
    match schema.token_bytes {
        2 => Some(DataType::UInt16),
        4 => Some(DataType::UInt32),
        _ => None,
    }
}

fn item_field(item: DataType) -> Field {
    Field::new("item", item, false)
}

fn batch(
    arrow: &Arc<Schema>,
    schema: TokenSchema,
    ids: Buffer,
    tokens: Buffer,
) -> Result<RecordBatch, ArrowError> {
    let ids = FixedSizeBinaryArray::try_new(ID_BYTES as i32, ids, None)?;
    let items: ArrayRef = match schema.token_bytes {
        2 => items::<UInt16Type>(tokens),
        _ => items::<UInt32Type>(tokens),
    };
    let field = Arc::new(item_field(items.data_type().clone()));
    let lists = FixedSizeListArray::try_new(field, schema.row_tokens as i32, items, None)?;
    RecordBatch::try_new(Arc::clone(arrow), vec![Arc::new(ids), Arc::new(lists)])
}

fn items<T: ArrowPrimitiveType>(tokens: Buffer) -> ArrayRef {
    let length = tokens.len() / size_of::<T::Native>();
    Arc::new(PrimitiveArray::<T>::new(ScalarBuffer::new(tokens, 0, length), None))
}

/// One row, borrowed from its shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row<'a> {
    /// Its identity.
    pub id: SampleId,
    /// Its tokens, little-endian.
    pub tokens_le: &'a [u8],
}

/// Reads a shard where it lies: a memory map, a cached file, a vector.
#[derive(Debug)]
pub struct ShardReader<B> {
    bytes: B,
    schema: TokenSchema,
    object: String,
    rows: u32,
    rows_per_batch: usize,
    batches: Vec<Batch>,
}

impl<B: AsRef<[u8]>> ShardReader<B> {
    /// Reads the footer and the heads of the batches; `object` names the shard in errors.
    ///
    /// Content is not checked here: see [`ShardReader::verify_batch`].
    ///
    /// # Errors
    /// [`Error::Damaged`] when the bytes are no shard of this schema.
    pub fn new(bytes: B, schema: TokenSchema, object: &str) -> Result<Self, Error> {
        let batches = ipc::layout(bytes.as_ref(), &columns(schema), Stored::Plain, object)?;
        let rows_per_batch = batches.first().map_or(0, |batch| batch.rows);
        let damaged = |what: &str| Error::damaged(object, what);
        let Some((last, others)) = batches.split_last() else {
            return Err(damaged("it has no record batches"));
        };
        let even = others.iter().all(|batch| batch.rows == rows_per_batch);
        if !even || last.rows == 0 || last.rows > rows_per_batch {
            return Err(damaged("its record batches are not of one size"));
        }
        let rows = u32::try_from(others.len() * rows_per_batch + last.rows)
            .map_err(|_| damaged("it has more than 2^32 rows"))?;
        Ok(Self { bytes, schema, object: object.into(), rows, rows_per_batch, batches })
    }

    /// The number of rows.
    pub const fn rows(&self) -> u32 {
        self.rows
    }

    /// The number of record batches.
    pub const fn batches(&self) -> usize {
        self.batches.len()
    }

    /// The record batch that holds row `index`.
    pub const fn batch_of(&self, index: u32) -> usize {
        index as usize / self.rows_per_batch
    }

    /// The row at `index`, in constant time and without a copy.
    ///
    /// # Panics
    /// When `index` is not below [`ShardReader::rows`].
    pub fn row(&self, index: u32) -> Row<'_> {
        assert!(index < self.rows, "row {index} of a shard of {} rows", self.rows);
        let batch = &self.batches[self.batch_of(index)];
        let within = index as usize % self.rows_per_batch;
        let id = self.value(batch, 0, within, ID_BYTES);
        Row {
            id: SampleId::from_bytes(id.try_into().expect("an id was cut to its length")),
            tokens_le: self.value(batch, 1, within, self.schema.row_bytes()),
        }
    }

    fn value(&self, batch: &Batch, column: usize, index: usize, width: usize) -> &[u8] {
        let start = batch.values[column].start + index * width;
        &self.bytes.as_ref()[start..start + width]
    }

    /// Checks that this is the shard a dataset's page lists: its length, rows and batches.
    ///
    /// # Errors
    /// [`Error::Damaged`] when it is not.
    pub fn check(&self, entry: &ShardEntry) -> Result<(), Error> {
        let places = self.batches.iter().map(|batch| &batch.place);
        let same = self.bytes.as_ref().len() as u64 == entry.bytes
            && self.rows == entry.rows
            && self.batches.len() == entry.batches.len()
            && places.zip(&entry.batches).all(|(place, entry)| is_place(place, entry));
        if same {
            Ok(())
        } else {
            Err(Error::damaged(&self.object, "its rows and batches are not those its page lists"))
        }
    }

    /// Checks that batch `index` is, to the last bit, the one `entry` describes.
    ///
    /// # Errors
    /// [`Error::Damaged`] when it is not.
    pub fn verify_batch(&self, index: usize, entry: &BatchEntry) -> Result<(), Error> {
        let place = self.batches.get(index).map(|batch| &batch.place);
        let Some(place) = place.filter(|place| is_place(place, entry)) else {
            let what = format!("record batch {index} is not where its page says");
            return Err(Error::damaged(&self.object, what));
        };
        if crc32c::crc32c(&self.bytes.as_ref()[place.clone()]) == entry.crc32c {
            Ok(())
        } else {
            let what = format!("record batch {index} does not have the checksum its page lists");
            Err(Error::damaged(&self.object, what))
        }
    }
}

fn is_place(place: &std::ops::Range<usize>, entry: &BatchEntry) -> bool {
    place.start as u64 == entry.offset && place.len() as u64 == entry.bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(number: u32) -> SampleId {
        let mut bytes = [7; 16];
        bytes[..4].copy_from_slice(&number.to_le_bytes());
        SampleId::from_bytes(bytes)
    }

    fn tokens(schema: TokenSchema, row: u32) -> Vec<u8> {
        (0..schema.row_bytes()).map(|byte| (row as usize * 31 + byte * 7) as u8).collect()
    }

    fn encode(schema: TokenSchema, rows: u32, rows_per_batch: u32) -> EncodedShard {
        let mut writer = ShardWriter::new(schema, rows_per_batch).unwrap();
        (0..rows).for_each(|row| writer.push(id(row), &tokens(schema, row)).unwrap());
        writer.finish().unwrap()
    }

    fn shape() -> impl Strategy<Value = (TokenSchema, u32, u32)> {
        (1u32..40, prop::sample::select(vec![2, 4]), 1u32..30, 1u32..12).prop_map(
            |(row_tokens, token_bytes, rows, batch)| {
                (TokenSchema { row_tokens, token_bytes }, rows, batch)
            },
        )
    }

    proptest! {
        #[test]
        fn what_was_pushed_is_read((schema, rows, per_batch) in shape()) {
            let shard = encode(schema, rows, per_batch);
            let reader = ShardReader::new(&shard.bytes, schema, "s").unwrap();
            prop_assert_eq!(reader.rows(), rows);
            for row in 0..rows {
                let found = reader.row(row);
                prop_assert_eq!(found.id, id(row));
                prop_assert_eq!(found.tokens_le.to_vec(), tokens(schema, row));
            }
            prop_assert_eq!(shard.batches.len() as u32, rows.div_ceil(per_batch));
            for (index, entry) in shard.batches.iter().enumerate() {
                reader.verify_batch(index, entry).unwrap();
            }
            prop_assert_eq!(encode(schema, rows, per_batch).bytes, shard.bytes);
        }

        /// A hostile or rotten file is refused, or its rows are those that were written.
        #[test]
        fn damage_is_found_and_never_panics(
            (schema, rows, per_batch) in shape(),
            flips in prop::collection::vec((any::<prop::sample::Index>(), 1u8..), 0..4),
            cut in prop::option::of(any::<prop::sample::Index>()),
        ) {
            let shard = encode(schema, rows, per_batch);
            let mut bytes = shard.bytes.clone();
            flips.iter().for_each(|(at, flip)| bytes[at.index(shard.bytes.len())] ^= flip);
            cut.iter().for_each(|at| bytes.truncate(at.index(shard.bytes.len())));
            let Ok(reader) = ShardReader::new(&bytes, schema, "s") else { return Ok(()) };
            (0..reader.rows()).for_each(|row| _ = reader.row(row));
            let sound = reader.batches() == shard.batches.len()
                && shard.batches.iter().enumerate().all(|(i, e)| reader.verify_batch(i, e).is_ok());
            if sound {
                for row in 0..rows {
                    prop_assert_eq!(reader.row(row).tokens_le.to_vec(), tokens(schema, row));
                }
            }
        }
    }

    /// Every byte of the footer and of a batch's head, where a flip does most harm.
    #[test]
    fn no_single_flip_panics_or_changes_a_row() {
        let schema = TokenSchema { row_tokens: 5, token_bytes: 2 };
        let shard = encode(schema, 7, 3);
        for at in 0..shard.bytes.len() {
            for flip in [0x01, 0x10, 0x80, 0xff] {
                let mut bytes = shard.bytes.clone();
                bytes[at] ^= flip;
                let Ok(reader) = ShardReader::new(&bytes, schema, "s") else { continue };
                let verified: Vec<_> = shard.batches.iter().enumerate().collect();
                let sound =
                    verified.iter().all(|(i, entry)| reader.verify_batch(*i, entry).is_ok());
                for row in 0..reader.rows() {
                    let found = reader.row(row);
                    let same = row < 7 && found.tokens_le == tokens(schema, row).as_slice();
                    assert!(!sound || same, "byte {at} ^ {flip:#x}, row {row}");
                }
            }
        }
    }

    #[test]
    fn another_schema_is_refused() {
        let shard = encode(TokenSchema { row_tokens: 8, token_bytes: 2 }, 3, 2);
        for (row_tokens, token_bytes) in [(4, 4), (8, 4), (7, 2), (16, 1)] {
            let other = TokenSchema { row_tokens, token_bytes };
            let error = ShardReader::new(&shard.bytes, other, "shards/x.arrow").unwrap_err();
            assert!(error.to_string().starts_with("shards/x.arrow is damaged: its columns"));
        }
    }

    #[test]
    fn rows_of_another_length_and_impossible_shapes_are_not_written() {
        let schema = TokenSchema { row_tokens: 4, token_bytes: 2 };
        let mut writer = ShardWriter::new(schema, 2).unwrap();
        assert!(writer.push(id(0), &[0; 7]).is_err());
        assert!(writer.finish().is_err(), "no rows");
        assert!(ShardWriter::new(schema, 0).is_err());
        assert!(ShardWriter::new(TokenSchema { row_tokens: 4, token_bytes: 3 }, 1).is_err());
        assert!(ShardWriter::new(TokenSchema { row_tokens: 0, token_bytes: 2 }, 1).is_err());
    }

    #[test]
    fn a_reader_knows_the_shard_of_its_page() {
        let schema = TokenSchema { row_tokens: 4, token_bytes: 4 };
        let shard = encode(schema, 9, 4);
        let mut entry = ShardEntry {
            digest: shard.digest,
            bytes: shard.bytes.len() as u64,
            rows: 9,
            batches: shard.batches.clone(),
            origin: crate::v1::dataset::ObjectEntry { digest: shard.digest, bytes: 0 },
        };
        let reader = ShardReader::new(&shard.bytes, schema, "s").unwrap();
        reader.check(&entry).unwrap();
        entry.batches.pop();
        assert!(reader.check(&entry).is_err());
    }
}
