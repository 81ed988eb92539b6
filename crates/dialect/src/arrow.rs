//! Arrow IPC: streams and files, as `datasets.save_to_disk`, Hugging Face's caches and Feather V2
//! hold them.
//!
//! Extents are cut at record batches and read in place; an extent is one or more messages as they
//! lie. Columns become fields: numbers and lists of fixed size tensors, lists of numbers vectors,
//! structs are flattened (`parent.child`), and Hugging Face's images and sounds (`bytes` and
//! `path`) become their bytes. The context is the columns as JSON, because a batch does not repeat
//! its schema.
//!
//! Messages are found by hand and their metadata is read through Arrow's verified flatbuffers:
//! Arrow's own reader copies, or needs unsafe sharing of the buffer, and may panic on hostile
//! bytes.

mod batch;
mod message;
mod types;

use std::{borrow::Cow, ops::Range};

use arrow_ipc::{MessageHeader, root_as_footer};
use forebay_types::{Form, Schema};

pub(crate) use self::types::{Node, add};
use self::{
    batch::{Batch, NoValue},
    message::{Found, find},
    types::{Refusal, nodes, schema},
};
use crate::{Cut, Dialect, Error, Rows, Survey, bytes::u32_at};

const FORMAT: &str = "arrow";
const MAGIC: &[u8] = b"ARROW1";
/// The magic at the start of a file, padded.
const HEAD_BYTES: usize = 8;
/// The footer's length, and the magic.
const TAIL_BYTES: usize = 10;

/// Arrow IPC streams and files.
#[derive(Clone, Copy, Debug, Default)]
pub struct Arrow;

impl Dialect for Arrow {
    fn name(&self) -> &'static str {
        FORMAT
    }

    /// Everything named `.arrow` or `.feather`, save the `cache-*.arrow` files in which Hugging
    /// Face keeps results of `map` beside the data they were made from.
    fn claims(&self, path: &str) -> bool {
        let name = path.rsplit('/').next().unwrap_or(path);
        (name.ends_with(".arrow") && !name.starts_with("cache-")) || name.ends_with(".feather")
    }

    fn survey(&self, stored: &[u8], object: &str, extent_bytes: u64) -> Result<Survey, Error> {
        let file = if stored.starts_with(MAGIC) { read_file(stored) } else { read_stream(stored) };
        let (nodes, batches) = file.map_err(|refusal| refused(refusal, object))?;
        let schema = schema(&nodes).map_err(|refusal| refused(refusal, object))?;
        let mut cuts = Cuts { extent_bytes, done: Vec::new(), open: None };
        let mut first_row = 0;
        for place in batches {
            let (batch, _) = read_batch(stored, place.start, &nodes)
                .map_err(|refusal| refused(refusal, object))?;
            check_media(&batch, stored, first_row, object)?;
            first_row += batch.rows as u64;
            let rows = u32::try_from(batch.rows)
                .map_err(|_| damaged(object, "a record batch has more than 2^32 rows"))?;
            cuts.add(place, rows);
        }
        let context =
            serde_json::to_string(&nodes).map_err(|source| damaged(object, source.to_string()))?;
        Ok(Survey { schema, context, cuts: cuts.finish() })
    }

    /// Files of one dataset must agree: values are found by the schema they were written with.
    fn merge(&self, a: &Schema, b: &Schema) -> Option<Schema> {
        crate::merge::same(a, b)
    }

    fn decode(
        &self,
        _stored: &[u8],
        _form: &Form,
        _schema: &Schema,
        object: &str,
        _content: &mut dyn std::io::Write,
    ) -> Result<(), Error> {
        Err(damaged(object, "its extents are read as they lie, and this one has another form"))
    }

    fn open(
        &self,
        content: &[u8],
        schema: &Schema,
        context: &str,
        object: &str,
    ) -> Result<Box<dyn Rows>, Error> {
        let nodes: Vec<Node> = serde_json::from_str(context)
            .map_err(|source| damaged(object, format!("its context cannot be read ({source})")))?;
        let own = types::schema(&nodes).map_err(|refusal| refused(refusal, object))?;
        if own != *schema {
            return Err(damaged(object, "its columns are not those of the dataset"));
        }
        let (mut batches, mut rows, mut at) = (Vec::new(), 0_usize, 0);
        while at < content.len() {
            let (batch, end) =
                read_batch(content, at, &nodes).map_err(|refusal| refused(refusal, object))?;
            let first_row = rows;
            rows = rows.saturating_add(batch.rows);
            batches.push((first_row, batch));
            at = end;
        }
        let rows = u32::try_from(rows)
            .map_err(|_| damaged(object, "an extent has more than 2^32 rows"))?;
        Ok(Box::new(ArrowRows { rows, batches, object: object.into() }))
    }
}

#[derive(Debug)]
struct ArrowRows {
    rows: u32,
    /// With the row each starts at.
    batches: Vec<(usize, Batch)>,
    object: String,
}

impl Rows for ArrowRows {
    fn rows(&self) -> u32 {
        self.rows
    }

    fn value<'a>(&self, content: &'a [u8], row: u32, field: usize) -> Result<Cow<'a, [u8]>, Error> {
        let number = row as usize;
        let after = self.batches.partition_point(|(first_row, _)| *first_row <= number);
        let found = after.checked_sub(1).map(|index| &self.batches[index]);
        let (local, column) = found
            .map(|(first_row, batch)| (number - first_row, batch))
            .filter(|(local, batch)| *local < batch.rows)
            .and_then(|(local, batch)| Some((local, batch.columns.get(field)?)))
            .ok_or_else(|| damaged(&self.object, format!("it has no row {row}")))?;
        column
            .value(content, local)
            .map_err(|why| no_value(why, u64::from(row), &column.name, &self.object))
    }
}

/// The batch whose message starts at `start`, and where it ends.
fn read_batch(content: &[u8], start: usize, nodes: &[Node]) -> Result<(Batch, usize), Refusal> {
    let Found { message, data, end } = find(content, start)
        .map_err(Refusal::Damaged)?
        .ok_or_else(|| Refusal::Damaged(format!("no record batch starts at byte {start}")))?;
    let header = message
        .header_as_record_batch()
        .ok_or_else(|| Refusal::Damaged(format!("no record batch starts at byte {start}")))?;
    Ok((Batch::read(header, data..end, nodes)?, end))
}

/// Refuses a batch whose images or sounds are paths.
fn check_media(batch: &Batch, stored: &[u8], first_row: u64, object: &str) -> Result<(), Error> {
    for column in batch.columns.iter().filter(|column| column.is_media()) {
        for row in 0..batch.rows {
            column
                .value(stored, row)
                .map_err(|why| no_value(why, first_row + row as u64, &column.name, object))?;
        }
    }
    Ok(())
}

/// Columns and places of the batches of a stream.
fn read_stream(stored: &[u8]) -> Result<(Vec<Node>, Vec<Range<usize>>), Refusal> {
    let first = find(stored, 0)
        .map_err(Refusal::Damaged)?
        .ok_or_else(|| Refusal::Damaged("it is empty".into()))?;
    let schema = first
        .message
        .header_as_schema()
        .ok_or_else(|| Refusal::Damaged("it does not start with a schema".into()))?;
    let nodes = nodes(schema)?;
    let (mut batches, mut at) = (Vec::new(), first.end);
    while let Some(found) = find(stored, at).map_err(Refusal::Damaged)? {
        match found.message.header_type() {
            MessageHeader::RecordBatch => batches.push(at..found.end),
            MessageHeader::DictionaryBatch => {
                return Err(Refusal::Unsupported("it has dictionaries. Write it decoded".into()));
            }
            _ => {
                return Err(Refusal::Damaged(format!("an unknown message starts at byte {at}")));
            }
        }
        at = found.end;
    }
    Ok((nodes, batches))
}

/// Columns and places of the batches of a file.
fn read_file(stored: &[u8]) -> Result<(Vec<Node>, Vec<Range<usize>>), Refusal> {
    let broken = |what: String| Refusal::Damaged(what);
    if stored.len() < HEAD_BYTES + TAIL_BYTES || !stored.ends_with(MAGIC) {
        return Err(broken("it does not end like an Arrow file: it is cut short".into()));
    }
    let end = stored.len() - TAIL_BYTES;
    let start = u32_at(stored, end)
        .and_then(|length| end.checked_sub(length as usize))
        .filter(|start| *start >= HEAD_BYTES)
        .ok_or_else(|| broken("its footer does not fit into it".into()))?;
    let footer = root_as_footer(&stored[start..end])
        .map_err(|error| broken(format!("its footer cannot be read ({error})")))?;
    let schema = footer.schema().ok_or_else(|| broken("its footer has no schema".into()))?;
    let nodes = nodes(schema)?;
    if footer.dictionaries().is_some_and(|blocks| !blocks.is_empty()) {
        return Err(Refusal::Unsupported("it has dictionaries. Write it decoded".into()));
    }
    let mut batches = Vec::new();
    let mut previous_end = HEAD_BYTES;
    for block in footer.recordBatches().into_iter().flatten() {
        let at = usize::try_from(block.offset())
            .ok()
            .filter(|at| (previous_end..start).contains(at))
            .ok_or_else(|| broken("its record batches are out of order".into()))?;
        let found = find(&stored[..start], at)
            .map_err(Refusal::Damaged)?
            .ok_or_else(|| broken(format!("no record batch starts at byte {at}")))?;
        batches.push(at..found.end);
        previous_end = found.end;
    }
    Ok((nodes, batches))
}

/// Reads a schema message, as Parquet files carry one.
pub(crate) fn nodes_of_message(bytes: &[u8]) -> Option<Vec<Node>> {
    let found = find(bytes, 0).ok()??;
    nodes(found.message.header_as_schema()?).ok()
}

/// Puts batches together that follow each other without a gap.
struct Cuts {
    extent_bytes: u64,
    done: Vec<Cut>,
    open: Option<(Range<usize>, u32)>,
}

impl Cuts {
    fn add(&mut self, place: Range<usize>, rows: u32) {
        if let Some((open, open_rows)) = &mut self.open {
            let joined = (place.end - open.start) as u64;
            let alone = (open.end - open.start) as u64;
            let nearer = joined.abs_diff(self.extent_bytes) <= alone.abs_diff(self.extent_bytes);
            if let Some(sum) =
                open_rows.checked_add(rows).filter(|_| nearer && place.start == open.end)
            {
                (open.end, *open_rows) = (place.end, sum);
                return;
            }
        }
        self.close();
        self.open = Some((place, rows));
    }

    fn close(&mut self) {
        if let Some((place, rows)) = self.open.take().filter(|(_, rows)| *rows > 0) {
            self.done.push(Cut {
                offset: place.start as u64,
                bytes: place.len() as u64,
                rows,
                form: Form::Plain,
            });
        }
    }

    fn finish(mut self) -> Vec<Cut> {
        self.close();
        self.done
    }
}

fn no_value(why: NoValue, row: u64, column: &str, object: &str) -> Error {
    match why {
        NoValue::Damaged(what) => damaged(object, format!("row {row}, column `{column}` {what}")),
        NoValue::Null => unsupported(
            object,
            format!(
                "row {row}, column `{column}` is null, and its type has nothing that stands for \
                 that. Fill or drop such rows"
            ),
        ),
        NoValue::Elsewhere(path) => unsupported(
            object,
            format!(
                "row {row}, column `{column}` holds no bytes and points to `{path}`. Embed the \
                 bytes (`save_to_disk` and `to_parquet` do)"
            ),
        ),
    }
}

fn refused(refusal: Refusal, object: &str) -> Error {
    match refusal {
        Refusal::Damaged(what) => damaged(object, what),
        Refusal::Unsupported(what) => unsupported(object, what),
    }
}

fn damaged(object: &str, what: impl Into<String>) -> Error {
    Error::Damaged { format: FORMAT, object: object.into(), what: what.into() }
}

fn unsupported(object: &str, what: impl Into<String>) -> Error {
    Error::Unsupported { format: FORMAT, object: object.into(), what: what.into() }
}
