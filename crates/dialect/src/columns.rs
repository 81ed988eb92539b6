//! The columns layout: what a Parquet row group becomes on the node.
//!
//! Parquet interleaves, encodes and compresses; nothing in it can be handed out as it lies. So a
//! row group is decoded once, when it lands, into plain columns: values one after the other,
//! offsets where they differ in length, a bitmap where rows have no value. The layout is drawn in
//! `docs/format/columns.md`.
//!
//! [`Writer`] streams: values go out as they come, and only one field's offsets and bitmap are
//! held (8 bytes and 1 bit a row). [`ColumnsRows`] checks the directory when it opens, and an
//! offset when a value is asked for. A crash while writing leaves content without its tail, which
//! is refused.

use std::{borrow::Cow, io::Write, ops::Range};

use forebay_types::{FieldKind, Schema};

use crate::{
    Error, Rows,
    bytes::{bit, entry, u32_at, u64_at},
};

const MAGIC: [u8; 8] = *b"FBCOLUMN";
const VERSION: u32 = 1;
/// Every part starts at a multiple of this.
const ALIGNMENT_BYTES: u64 = 64;
const HEAD_BYTES: usize = 64;
const ENTRY_BYTES: usize = 64;
const TAIL_BYTES: usize = 16;
/// The most content an extent may have.
pub(crate) const CONTENT_BYTES_MAX: u64 = 16 << 30;
/// Values are collected up to this before they are written.
const BLOCK_BYTES: usize = 256 << 10;

/// Writes content field by field.
pub(crate) struct Writer<'a> {
    sink: &'a mut dyn Write,
    written_bytes: u64,
    block: Vec<u8>,
    directory: Vec<u8>,
    object: &'a str,
}

/// What of a field is known when its values are written.
pub(crate) struct Written {
    start: u64,
    /// Where each value starts, and the last one ends, unless all have one length.
    offsets: Option<Vec<u64>>,
    absent: Vec<u8>,
    rows: u64,
}

impl<'a> Writer<'a> {
    /// Starts the content of `rows` rows of `fields` fields.
    pub(crate) fn new(
        sink: &'a mut dyn Write,
        rows: u32,
        fields: usize,
        object: &'a str,
    ) -> Result<Self, Error> {
        let mut writer =
            Self { sink, written_bytes: 0, block: Vec::new(), directory: Vec::new(), object };
        let mut head = [0; HEAD_BYTES];
        head[..8].copy_from_slice(&MAGIC);
        head[8..12].copy_from_slice(&VERSION.to_le_bytes());
        head[12..16].copy_from_slice(&(fields as u32).to_le_bytes());
        head[16..24].copy_from_slice(&u64::from(rows).to_le_bytes());
        writer.put(&head)?;
        Ok(writer)
    }

    /// Starts the next field.
    pub(crate) fn start(&mut self, kind: &FieldKind) -> Result<Written, Error> {
        self.align()?;
        let offsets = kind.fixed_bytes().is_none().then(|| vec![0]);
        Ok(Written { start: self.written_bytes, offsets, absent: Vec::new(), rows: 0 })
    }

    /// Writes the value of the next row. An absent one still fills its place.
    pub(crate) fn value(
        &mut self,
        field: &mut Written,
        value: &[u8],
        absent: bool,
    ) -> Result<(), Error> {
        self.put(value)?;
        if let Some(offsets) = &mut field.offsets {
            offsets.push(self.written_bytes - field.start);
        }
        if absent {
            let byte = (field.rows / 8) as usize;
            if field.absent.len() <= byte {
                field.absent.resize(byte + 1, 0);
            }
            field.absent[byte] |= 1 << (field.rows % 8);
        }
        field.rows += 1;
        Ok(())
    }

    /// Ends the field.
    pub(crate) fn end(&mut self, mut field: Written, kind: &FieldKind) -> Result<(), Error> {
        let values_bytes = self.written_bytes - field.start;
        let mut offsets_at = 0;
        if let Some(offsets) = &field.offsets {
            self.align()?;
            offsets_at = self.written_bytes;
            for offset in offsets {
                self.put(&offset.to_le_bytes())?;
            }
        }
        let mut absent_at = 0;
        if !field.absent.is_empty() {
            self.align()?;
            absent_at = self.written_bytes;
            field.absent.resize(field.rows.div_ceil(8) as usize, 0);
            self.put(&field.absent)?;
        }
        let mut entry = [0; ENTRY_BYTES];
        entry[..4].copy_from_slice(&code(kind).to_le_bytes());
        entry[4..8].copy_from_slice(&(kind.item_bytes() as u32).to_le_bytes());
        let numbers = [field.start, values_bytes, offsets_at, absent_at];
        for (place, number) in entry[8..].chunks_exact_mut(8).zip(numbers) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        self.directory.extend_from_slice(&entry);
        Ok(())
    }

    /// Writes the directory and the tail.
    pub(crate) fn finish(mut self) -> Result<(), Error> {
        self.align()?;
        let directory = std::mem::take(&mut self.directory);
        self.put(&directory)?;
        let content_bytes = self.written_bytes + TAIL_BYTES as u64;
        self.put(&content_bytes.to_le_bytes())?;
        self.put(&MAGIC)?;
        self.flush()
    }

    fn align(&mut self) -> Result<(), Error> {
        let bytes = self.written_bytes.next_multiple_of(ALIGNMENT_BYTES) - self.written_bytes;
        self.put(&[0; ALIGNMENT_BYTES as usize][..bytes as usize])
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.written_bytes += bytes.len() as u64;
        if self.written_bytes > CONTENT_BYTES_MAX {
            return Err(Error::Unsupported {
                format: "parquet",
                object: self.object.into(),
                what: format!(
                    "a row group has more than {} GiB when decoded, and cannot be cut further. \
                     Write smaller row groups",
                    CONTENT_BYTES_MAX >> 30
                ),
            });
        }
        if self.block.len() + bytes.len() > BLOCK_BYTES {
            self.flush()?;
        }
        if bytes.len() > BLOCK_BYTES {
            return self.sink.write_all(bytes).map_err(|source| self.failed(source));
        }
        self.block.extend_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Error> {
        let written = self.sink.write_all(&self.block);
        self.block.clear();
        written.map_err(|source| self.failed(source))
    }

    fn failed(&self, source: std::io::Error) -> Error {
        Error::Write { object: self.object.into(), source }
    }
}

const fn code(kind: &FieldKind) -> u32 {
    match kind {
        FieldKind::Tensor { .. } => 1,
        FieldKind::Ragged { .. } => 2,
        FieldKind::Bytes => 3,
        FieldKind::Text => 4,
    }
}

/// The rows of content in the columns layout.
#[derive(Debug)]
pub(crate) struct ColumnsRows {
    rows: u32,
    columns: Vec<Column>,
    format: &'static str,
    object: String,
}

#[derive(Debug)]
struct Column {
    name: String,
    kind: FieldKind,
    /// The bytes of every value, if they are one number.
    fixed_bytes: Option<usize>,
    values: Range<usize>,
    offsets: Option<Range<usize>>,
    absent: Option<Range<usize>>,
}

impl ColumnsRows {
    pub(crate) fn open(
        content: &[u8],
        schema: &Schema,
        format: &'static str,
        object: &str,
    ) -> Result<Self, Error> {
        if content.starts_with(&MAGIC)
            && let Some(version) = u32_at(content, 8).filter(|version| *version > VERSION)
        {
            return Err(Error::Unsupported {
                format,
                object: object.into(),
                what: format!("its columns are of version {version}, and {VERSION} is read"),
            });
        }
        Self::read(content, schema, format, object).map_err(|what| Error::Damaged {
            format,
            object: object.into(),
            what: format!("as columns on the node, {what}"),
        })
    }

    fn read(
        content: &[u8],
        schema: &Schema,
        format: &'static str,
        object: &str,
    ) -> Result<Self, String> {
        let whole = content.len() >= HEAD_BYTES + TAIL_BYTES
            && content.starts_with(&MAGIC)
            && content.ends_with(&MAGIC)
            && u64_at(content, content.len() - TAIL_BYTES) == Some(content.len() as u64);
        if !whole {
            return Err(format!("its {} bytes are not whole", content.len()));
        }
        let fields = schema.fields.len();
        if u32_at(content, 12).map(|found| found as usize) != Some(fields) {
            return Err("it has other fields than the dataset".into());
        }
        let rows = u64_at(content, 16)
            .and_then(|rows| u32::try_from(rows).ok())
            .ok_or("it has more than 2^32 rows")?;
        let directory = fields
            .checked_mul(ENTRY_BYTES)
            .and_then(|bytes| (content.len() - TAIL_BYTES).checked_sub(bytes))
            .filter(|start| *start >= HEAD_BYTES)
            .ok_or("its directory does not fit into it")?;
        let columns = schema
            .fields
            .iter()
            .enumerate()
            .map(|(number, field)| {
                let at = directory + number * ENTRY_BYTES;
                read_entry(&content[..directory], &content[at..at + ENTRY_BYTES], rows, &field.kind)
                    .map(|(values, offsets, absent)| Column {
                        name: field.name.clone(),
                        kind: field.kind.clone(),
                        fixed_bytes: field.kind.fixed_bytes(),
                        values,
                        offsets,
                        absent,
                    })
                    .ok_or_else(|| format!("field `{}` is not what the dataset says", field.name))
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { rows, columns, format, object: object.into() })
    }
}

type Places = (Range<usize>, Option<Range<usize>>, Option<Range<usize>>);

fn read_entry(parts: &[u8], entry: &[u8], rows: u32, kind: &FieldKind) -> Option<Places> {
    if u32_at(entry, 0)? != code(kind) || u32_at(entry, 4)? as usize != kind.item_bytes() {
        return None;
    }
    let place = |at: u64, bytes: u64| {
        let end = at.checked_add(bytes).filter(|end| *end <= parts.len() as u64)?;
        let aligned = at.is_multiple_of(ALIGNMENT_BYTES) && at >= HEAD_BYTES as u64;
        aligned.then_some(at as usize..end as usize)
    };
    let (values_at, values_bytes) = (u64_at(entry, 8)?, u64_at(entry, 16)?);
    let (offsets_at, absent_at) = (u64_at(entry, 24)?, u64_at(entry, 32)?);
    let values = place(values_at, values_bytes)?;
    let offsets = match kind.fixed_bytes() {
        Some(bytes) if offsets_at != 0 || bytes.checked_mul(rows as usize)? != values.len() => {
            return None;
        }
        Some(_) => None,
        None => Some(place(offsets_at, 8 * (u64::from(rows) + 1))?),
    };
    let absent = match absent_at {
        0 => None,
        at => Some(place(at, u64::from(rows).div_ceil(8))?),
    };
    Some((values, offsets, absent))
}

impl Column {
    fn locate(&self, content: &[u8], row: usize) -> Option<Range<usize>> {
        let (start, end) = match (&self.offsets, self.fixed_bytes) {
            (Some(offsets), _) => {
                (entry(content, offsets, 8, row)?, entry(content, offsets, 8, row + 1)?)
            }
            (None, Some(bytes)) => ((row * bytes) as u64, ((row + 1) * bytes) as u64),
            (None, None) => return None,
        };
        if start > end || end > self.values.len() as u64 {
            return None;
        }
        Some(self.values.start + start as usize..self.values.start + end as usize)
    }
}

impl Rows for ColumnsRows {
    fn rows(&self) -> u32 {
        self.rows
    }

    fn value<'a>(&self, content: &'a [u8], row: u32, field: usize) -> Result<Cow<'a, [u8]>, Error> {
        let damaged = |what: String| Error::Damaged {
            format: self.format,
            object: self.object.clone(),
            what,
        };
        let column = self
            .columns
            .get(field)
            .filter(|_| row < self.rows)
            .ok_or_else(|| damaged(format!("it has no row {row} with a field {field}")))?;
        let broken = |what: &str| damaged(format!("row {row}, column `{}` {what}", column.name));
        if let Some(absent) = &column.absent {
            let bitmap = content.get(absent.clone()).ok_or_else(|| broken("is cut short"))?;
            if bit(bitmap, row as usize).ok_or_else(|| broken("is cut short"))? {
                return Err(Error::Unsupported {
                    format: self.format,
                    object: self.object.clone(),
                    what: format!(
                        "row {row}, column `{}` is or has a null, and its type has nothing that \
                         stands for that. Fill or drop such rows",
                        column.name
                    ),
                });
            }
        }
        let value = column
            .locate(content, row as usize)
            .and_then(|place| content.get(place))
            .ok_or_else(|| broken("lies outside of its place"))?;
        if !value.len().is_multiple_of(column.kind.item_bytes()) {
            return Err(broken("is no whole number of elements"));
        }
        if column.kind == FieldKind::Text && std::str::from_utf8(value).is_err() {
            return Err(broken("is not UTF-8"));
        }
        Ok(Cow::Borrowed(value))
    }
}
