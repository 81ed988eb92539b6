//! The part of the Arrow IPC file format that our tables use, read without trust.
//!
//! Our tables have columns of fixed width without nulls, so a record batch is one buffer a
//! column. [`layout`] finds these buffers by offsets alone and checks every one of them against
//! the file's bounds; whoever holds a [`Batch`] may slice without another check. It never
//! panics, whatever the bytes are, and allocates only in proportion to the file.
//!
//! Arrow's own reader is not used: it copies or needs unsafe sharing of the buffer, and it may
//! panic on hostile bytes. Files are *written* by Arrow's writer.

use std::ops::Range;

use arrow_ipc::{
    Block, CompressionType, Endianness, Field, MessageHeader, MetadataVersion, RecordBatch, Schema,
    Type, root_as_footer, root_as_message,
};

use crate::Error;

const MAGIC: &[u8] = b"ARROW1";
/// The magic at the start, padded to the alignment that every version of the format demands.
const HEAD_BYTES: usize = 8;
/// Footer length and magic.
const TAIL_BYTES: usize = 10;
const CONTINUATION: [u8; 4] = [0xff; 4];
/// Every buffer starts at a multiple of this, in the file and hence in a memory map.
const ALIGNMENT_BYTES: usize = 64;

/// A column without nulls whose values have one width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Column {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
}

/// What a value of a [`Column`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An unsigned integer of so many bytes.
    Unsigned { bytes: u32 },
    /// So many opaque bytes.
    Binary { bytes: u32 },
    /// So many unsigned integers.
    List { items: u32, item_bytes: u32 },
}

impl Kind {
    /// The bytes of one value.
    pub(crate) const fn width_bytes(self) -> usize {
        match self {
            Self::Unsigned { bytes } | Self::Binary { bytes } => bytes as usize,
            Self::List { items, item_bytes } => items as usize * item_bytes as usize,
        }
    }

    /// The field nodes it takes in a record batch: its own, and one for the items of a list.
    const fn nodes(self) -> usize {
        if matches!(self, Self::List { .. }) { 2 } else { 1 }
    }
}

/// How the buffers of a file are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stored {
    /// As they are.
    Plain,
    /// Compressed one by one, as Arrow lays it down.
    Zstd,
}

/// One record batch: byte ranges of the file, all inside it.
#[derive(Clone, Debug)]
pub(crate) struct Batch {
    /// Message and body.
    pub(crate) place: Range<usize>,
    pub(crate) rows: usize,
    /// The values of each column, in the order of the columns.
    pub(crate) values: Vec<Range<usize>>,
}

/// Finds the record batches of the file `bytes`, whose columns must be `columns`.
pub(crate) fn layout(
    bytes: &[u8],
    columns: &[Column],
    stored: Stored,
    object: &str,
) -> Result<Vec<Batch>, Error> {
    read(bytes, columns, stored).map_err(|what| Error::damaged(object, what))
}

fn read(bytes: &[u8], columns: &[Column], stored: Stored) -> Result<Vec<Batch>, String> {
    let footer_place = footer_place(bytes)?;
    let footer = root_as_footer(&bytes[footer_place.clone()])
        .map_err(|error| format!("its footer cannot be read ({error})"))?;
    if footer.version() != MetadataVersion::V5 {
        return Err("its footer is not of Arrow metadata version 5".into());
    }
    check_schema(footer.schema().ok_or("its footer has no schema")?, columns)?;
    if footer.dictionaries().is_some_and(|blocks| !blocks.is_empty()) {
        return Err("it has dictionaries, and none are expected".into());
    }
    let blocks = footer.recordBatches().ok_or("its footer lists no record batches")?;
    let body = &bytes[..footer_place.start];
    let mut end = HEAD_BYTES;
    let mut batches = Vec::with_capacity(blocks.len());
    for (index, block) in blocks.iter().enumerate() {
        let batch = read_batch(body, block, end, columns, stored)
            .map_err(|what| format!("record batch {index} {what}"))?;
        end = batch.place.end;
        batches.push(batch);
    }
    Ok(batches)
}

fn footer_place(bytes: &[u8]) -> Result<Range<usize>, String> {
    if bytes.len() < HEAD_BYTES + TAIL_BYTES || !bytes.starts_with(MAGIC) || !bytes.ends_with(MAGIC)
    {
        return Err(format!("its {} bytes are no whole Arrow IPC file", bytes.len()));
    }
    let end = bytes.len() - TAIL_BYTES;
    let length = read_i32(bytes, end).ok_or("its footer has no length")?;
    usize::try_from(length)
        .ok()
        .and_then(|length| end.checked_sub(length))
        .filter(|start| *start >= HEAD_BYTES)
        .map(|start| start..end)
        .ok_or_else(|| format!("its footer of {length} bytes does not fit into it"))
}

fn read_i32(bytes: &[u8], at: usize) -> Option<i32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(i32::from_le_bytes(bytes.try_into().ok()?))
}

fn check_schema(schema: Schema<'_>, columns: &[Column]) -> Result<(), String> {
    let fields = schema.fields().ok_or("its schema has no columns")?;
    let matches = schema.endianness() == Endianness::Little
        && fields.len() == columns.len()
        && fields.iter().zip(columns).all(|(field, column)| is_column(field, column));
    if matches { Ok(()) } else { Err(format!("its columns are not {}", names(columns))) }
}

fn names(columns: &[Column]) -> String {
    let name = |column: &Column| format!("{}: {:?}", column.name, column.kind);
    columns.iter().map(name).collect::<Vec<_>>().join(", ")
}

fn is_column(field: Field<'_>, column: &Column) -> bool {
    let plain = !field.nullable() && field.dictionary().is_none();
    plain && field.name() == Some(column.name) && is_kind(field, column.kind)
}

fn is_kind(field: Field<'_>, kind: Kind) -> bool {
    let is = |found: i32, wanted: u32| u32::try_from(found) == Ok(wanted);
    match kind {
        Kind::Unsigned { bytes } => is_unsigned(field, bytes),
        Kind::Binary { bytes } => {
            field.type_as_fixed_size_binary().is_some_and(|binary| is(binary.byteWidth(), bytes))
        }
        Kind::List { items, item_bytes } => {
            field.type_as_fixed_size_list().is_some_and(|list| is(list.listSize(), items))
                && field.children().is_some_and(|children| {
                    children.len() == 1
                        && !children.get(0).nullable()
                        && is_unsigned(children.get(0), item_bytes)
                })
        }
    }
}

fn is_unsigned(field: Field<'_>, bytes: u32) -> bool {
    field.type_type() == Type::Int
        && field
            .type_as_int()
            .is_some_and(|int| !int.is_signed() && u32::try_from(int.bitWidth()) == Ok(8 * bytes))
}

fn read_batch(
    body: &[u8],
    block: &Block,
    previous_end: usize,
    columns: &[Column],
    stored: Stored,
) -> Result<Batch, String> {
    let start = usize::try_from(block.offset()).map_err(|_| "starts nowhere")?;
    let data = usize::try_from(block.metaDataLength()).ok().and_then(|n| start.checked_add(n));
    let end =
        data.zip(usize::try_from(block.bodyLength()).ok()).and_then(|(a, b)| a.checked_add(b));
    let (Some(data), Some(end)) = (data, end) else { return Err("ends nowhere".into()) };
    if start < previous_end || end > body.len() || start % 8 != 0 {
        return Err("does not lie in its place".into());
    }
    if body.get(start..start + 4) != Some(&CONTINUATION[..]) || data < start + 8 {
        return Err("does not start with a message".into());
    }
    let message_bytes = read_i32(body, start + 4).and_then(|length| usize::try_from(length).ok());
    let message = message_bytes
        .and_then(|length| body[..data].get(start + 8..(start + 8).checked_add(length)?))
        .ok_or("has a message longer than itself")?;
    let message =
        root_as_message(message).map_err(|error| format!("has an unreadable message ({error})"))?;
    if message.header_type() != MessageHeader::RecordBatch
        || message.bodyLength() != block.bodyLength()
    {
        return Err("has the message of something else".into());
    }
    let header = message.header_as_record_batch().ok_or("has no header")?;
    let (rows, values) = read_values(header, data, end, columns, stored)?;
    Ok(Batch { place: start..end, rows, values })
}

fn read_values(
    header: RecordBatch<'_>,
    data: usize,
    end: usize,
    columns: &[Column],
    stored: Stored,
) -> Result<(usize, Vec<Range<usize>>), String> {
    let codec = header.compression().map(|compression| compression.codec());
    let as_expected = match stored {
        Stored::Plain => codec.is_none(),
        Stored::Zstd => codec == Some(CompressionType::ZSTD),
    };
    if !as_expected {
        return Err(format!("is not stored {stored:?}"));
    }
    let nodes = header.nodes().ok_or("has no field nodes")?;
    let buffers = header.buffers().ok_or("has no buffers")?;
    let nodes_wanted: usize = columns.iter().map(|column| column.kind.nodes()).sum();
    // A node has a validity buffer; a column of leaves has its values besides.
    if nodes.len() != nodes_wanted || buffers.len() != nodes_wanted + columns.len() {
        return Err("has other buffers than its columns demand".into());
    }
    let rows = usize::try_from(header.length()).map_err(|_| "has a negative number of rows")?;
    let (mut node, mut buffer) = (0, 0);
    let mut values = Vec::with_capacity(columns.len());
    for column in columns {
        let nodes_here = column.kind.nodes();
        for index in 0..nodes_here {
            let items = match column.kind {
                Kind::List { items, .. } if index == 1 => rows.checked_mul(items as usize),
                _ => Some(rows),
            };
            let found = nodes.get(node + index);
            if usize::try_from(found.length()).ok() != items || found.null_count() != 0 {
                return Err(format!("has nulls or missing values in `{}`", column.name));
            }
            if buffers.get(buffer + index).length() != 0 {
                return Err(format!("has a validity bitmap for `{}`", column.name));
            }
        }
        node += nodes_here;
        buffer += nodes_here;
        values.push(read_buffer(buffers.get(buffer), data, end, rows, *column, stored)?);
        buffer += 1;
    }
    Ok((rows, values))
}

fn read_buffer(
    buffer: &arrow_ipc::Buffer,
    data: usize,
    end: usize,
    rows: usize,
    column: Column,
    stored: Stored,
) -> Result<Range<usize>, String> {
    let offset = usize::try_from(buffer.offset()).ok();
    let length = usize::try_from(buffer.length()).ok();
    let place = offset
        .and_then(|offset| data.checked_add(offset))
        .zip(length)
        .and_then(|(start, length)| Some(start..start.checked_add(length)?))
        .filter(|place| place.end <= end)
        .ok_or_else(|| format!("has its `{}` outside of itself", column.name))?;
    if stored == Stored::Plain {
        let whole = rows.checked_mul(column.kind.width_bytes()) == Some(place.len());
        if !whole || (rows > 0 && place.start % ALIGNMENT_BYTES != 0) {
            return Err(format!("has its `{}` cut short or out of place", column.name));
        }
    }
    Ok(place)
}
