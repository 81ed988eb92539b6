//! Reads one column of a row group, row by row.
//!
//! The column's stored bytes are copied once, because Parquet's reader wants to own them; pages
//! are decompressed one at a time, [`RECORDS`] rows are decoded at once.

use std::sync::Arc;

use bytes::{Buf as _, Bytes};
use parquet::{
    column::reader::{ColumnReader, ColumnReaderImpl, get_column_reader},
    data_type::{ByteArray, DataType},
    errors::{ParquetError, Result},
    file::{
        metadata::RowGroupMetaData,
        reader::{ChunkReader, Length},
        serialized_reader::SerializedPageReader,
    },
};

use super::{
    group::column_place,
    leaves::{Source, Value},
};
use crate::absent::not_a_number;

/// How many rows are decoded at once.
const RECORDS: usize = 1024;

/// A row's values of one column.
pub(crate) struct Row<'a> {
    /// The values, one after the other; missing elements of lists filled in.
    pub(crate) bytes: &'a [u8],
    /// How many there are. 0 for a null.
    pub(crate) values: usize,
    /// Whether an element is missing for which nothing can stand.
    pub(crate) holes: bool,
}

/// A column's bytes, at their place in the file.
struct Piece {
    start: u64,
    bytes: Bytes,
}

impl Length for Piece {
    fn len(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }
}

impl ChunkReader for Piece {
    type T = bytes::buf::Reader<Bytes>;

    fn get_read(&self, start: u64) -> Result<Self::T> {
        let at = self.at(start)?;
        Ok(self.bytes.slice(at..).reader())
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        let at = self.at(start)?;
        let end = at.checked_add(length).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or_else(|| ParquetError::EOF("a page is cut short".into()))?;
        Ok(self.bytes.slice(at..end))
    }
}

impl Piece {
    fn at(&self, start: u64) -> Result<usize> {
        start
            .checked_sub(self.start)
            .filter(|at| *at <= self.bytes.len() as u64)
            .map(|at| at as usize)
            .ok_or_else(|| ParquetError::EOF("a page lies outside of its column".into()))
    }
}

/// Calls `visit` for every row of column `leaf`, whose values are `value`, in order.
///
/// `stored` starts at byte `start` of the file.
pub(crate) fn each_row<E: From<ParquetError>>(
    group: &RowGroupMetaData,
    source: &Source,
    leaf: usize,
    value: Value,
    stored: (&[u8], u64),
    visit: &mut dyn FnMut(Row<'_>) -> std::result::Result<(), E>,
) -> std::result::Result<(), E> {
    let reader = open(group, leaf, stored)?;
    let width = value.bytes().unwrap_or_default();
    let filler = not_a_number(value.dtype()).filter(|pattern| pattern.len() == width);
    let visitor = Visitor {
        max_definition: group.column(leaf).column_descr().max_def_level(),
        max_repetition: group.column(leaf).column_descr().max_rep_level(),
        element_level: source.element_level,
        width,
        filler,
        visit,
    };
    let rows = match reader {
        ColumnReader::BoolColumnReader(reader) => {
            visitor.run(reader, |value, row| row.push(u8::from(*value)))
        }
        ColumnReader::Int32ColumnReader(reader) => visitor.run(reader, |value, row| {
            // Narrower integers are stored in 32 bits.
            row.extend_from_slice(&value.to_le_bytes()[..width.min(4)]);
        }),
        ColumnReader::Int64ColumnReader(reader) => {
            visitor.run(reader, |value, row| row.extend_from_slice(&value.to_le_bytes()))
        }
        ColumnReader::FloatColumnReader(reader) => {
            visitor.run(reader, |value, row| row.extend_from_slice(&value.to_le_bytes()))
        }
        ColumnReader::DoubleColumnReader(reader) => {
            visitor.run(reader, |value, row| row.extend_from_slice(&value.to_le_bytes()))
        }
        ColumnReader::ByteArrayColumnReader(reader) => {
            visitor.run(reader, |value: &ByteArray, row| row.extend_from_slice(value.data()))
        }
        ColumnReader::FixedLenByteArrayColumnReader(reader) => {
            visitor.run(reader, |value, row| row.extend_from_slice(value.data()))
        }
        ColumnReader::Int96ColumnReader(_) => {
            return Err(ParquetError::NYI("INT96".into()).into());
        }
    }?;
    if rows as i64 != group.num_rows() {
        return Err(ParquetError::EOF(format!("a column has {rows} rows")).into());
    }
    Ok(())
}

fn open(group: &RowGroupMetaData, leaf: usize, stored: (&[u8], u64)) -> Result<ColumnReader> {
    let column = group.column(leaf);
    let (bytes, start) = stored;
    let place = column_place(column)
        .and_then(|place| {
            let from = usize::try_from(place.start.checked_sub(start)?).ok()?;
            let to = usize::try_from(place.end.checked_sub(start)?).ok()?;
            Some((place.start, bytes.get(from..to)?))
        })
        .ok_or_else(|| ParquetError::EOF("a column lies outside of its row group".into()))?;
    let piece = Piece { start: place.0, bytes: Bytes::copy_from_slice(place.1) };
    let rows = usize::try_from(group.num_rows())
        .map_err(|_| ParquetError::General("a negative number of rows".into()))?;
    let pages = SerializedPageReader::new(Arc::new(piece), column, rows, None)?;
    Ok(get_column_reader(column.column_descr_ptr(), Box::new(pages)))
}

struct Visitor<'a, E> {
    max_definition: i16,
    max_repetition: i16,
    element_level: i16,
    width: usize,
    /// What stands for a missing element.
    filler: Option<&'static [u8]>,
    visit: &'a mut dyn FnMut(Row<'_>) -> std::result::Result<(), E>,
}

impl<E: From<ParquetError>> Visitor<'_, E> {
    /// Returns the number of rows.
    fn run<T: DataType>(
        mut self,
        mut reader: ColumnReaderImpl<T>,
        put: impl Fn(&T::T, &mut Vec<u8>),
    ) -> std::result::Result<usize, E> {
        let (mut definitions, mut repetitions, mut values) = (Vec::new(), Vec::new(), Vec::new());
        let mut rows = 0;
        loop {
            definitions.clear();
            repetitions.clear();
            values.clear();
            let (records, _, levels) = reader.read_records(
                RECORDS,
                Some(&mut definitions),
                Some(&mut repetitions),
                &mut values,
            )?;
            if records == 0 {
                return Ok(rows);
            }
            rows += records;
            self.rows(&definitions, &repetitions, &values, levels, &put)?;
        }
    }

    /// Puts values and levels of some rows together.
    fn rows<V>(
        &mut self,
        definitions: &[i16],
        repetitions: &[i16],
        values: &[V],
        levels: usize,
        put: impl Fn(&V, &mut Vec<u8>),
    ) -> std::result::Result<(), E> {
        let cut_short = || ParquetError::EOF("a column's levels and values differ".into());
        let mut values = values.iter();
        let (mut bytes, mut count, mut holes) = (Vec::new(), 0, false);
        for level in 0..levels {
            let starts =
                self.max_repetition == 0 || *repetitions.get(level).ok_or_else(cut_short)? == 0;
            if starts && level > 0 {
                (self.visit)(Row { bytes: &bytes, values: count, holes })?;
                bytes.clear();
                (count, holes) = (0, false);
            }
            let definition = match self.max_definition {
                0 => 0,
                _ => *definitions.get(level).ok_or_else(cut_short)?,
            };
            if definition == self.max_definition {
                put(values.next().ok_or_else(cut_short)?, &mut bytes);
                count += 1;
            } else if self.max_repetition > 0 && definition >= self.element_level {
                match self.filler {
                    Some(pattern) => bytes.extend_from_slice(pattern),
                    None => {
                        bytes.resize(bytes.len() + self.width, 0);
                        holes = true;
                    }
                }
                count += 1;
            }
        }
        if levels > 0 {
            (self.visit)(Row { bytes: &bytes, values: count, holes })?;
        }
        Ok(())
    }
}
