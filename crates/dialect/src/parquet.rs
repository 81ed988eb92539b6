//! Parquet: one extent for each row group.
//!
//! A row group is stored column by column, so all of it is fetched and decoded into the
//! [columns layout](crate::columns) when it lands; it cannot be cut further. Its extent covers the
//! bytes of all its columns, and the form carries the footer of a file that had this row group
//! alone, so a node never reads the real footer.
//!
//! Memory while decoding: the stored bytes of one column, one page, and 9 bytes a row. The `parquet`
//! crate decodes pages and is not written for hostile bytes: a panic in it is caught and reported
//! as damage. It believes a page's header about how large the page is, at most 2 GiB, before it
//! decompresses.

mod group;
mod leaves;
mod values;

use std::panic::{AssertUnwindSafe, catch_unwind};

use ::parquet::{
    errors::ParquetError,
    file::metadata::{ParquetMetaData, ParquetMetaDataReader, RowGroupMetaData},
};
use forebay_types::{Field, FieldKind, Form, Schema};

use self::{
    group::{from_base64, place},
    leaves::{Source, Value, sources},
    values::{Row, each_row},
};
use crate::{
    Cut, Dialect, Error, Rows, Survey,
    absent::erase,
    arrow::{add, nodes_of_message},
    bytes::u32_at,
    columns::{CONTENT_BYTES_MAX, ColumnsRows, Writer},
};

const FORMAT: &str = "parquet";
const MAGIC: &[u8] = b"PAR1";
const ENCRYPTED_MAGIC: &[u8] = b"PARE";
/// The footer's length, and the magic.
const TAIL_BYTES: usize = 8;
/// Where Arrow's writers keep the schema they were given.
const ARROW_SCHEMA: &str = "ARROW:schema";

/// Parquet files.
#[derive(Clone, Copy, Debug, Default)]
pub struct Parquet;

impl Dialect for Parquet {
    fn name(&self) -> &'static str {
        FORMAT
    }

    fn claims(&self, path: &str) -> bool {
        let name = path.rsplit('/').next().unwrap_or(path);
        let is_summary = name == "_metadata" || name == "_common_metadata";
        !is_summary
            && !name.starts_with('.')
            && (name.ends_with(".parquet") || name.ends_with(".pq"))
    }

    fn survey(&self, stored: &[u8], object: &str, _extent_bytes: u64) -> Result<Survey, Error> {
        guard(object, || survey(stored, object))
    }

    /// Files of one dataset must agree: values are found by the schema they were written with.
    fn merge(&self, a: &Schema, b: &Schema) -> Option<Schema> {
        crate::merge::same(a, b)
    }

    fn decode(
        &self,
        stored: &[u8],
        form: &Form,
        schema: &Schema,
        object: &str,
        content: &mut dyn std::io::Write,
    ) -> Result<(), Error> {
        let Form::Dialect(text) = form else {
            return Err(damaged(object, "its extent has the form of another format"));
        };
        guard(object, || {
            let metadata = group::decode(text).map_err(|what| damaged(object, what))?;
            Decoding::new(&metadata, stored, schema, object)?.run(content)
        })
    }

    fn open(
        &self,
        content: &[u8],
        schema: &Schema,
        _context: &str,
        object: &str,
    ) -> Result<Box<dyn Rows>, Error> {
        Ok(Box::new(ColumnsRows::open(content, schema, FORMAT, object)?))
    }
}

/// Runs `work`, and calls a panic of the decoder what it is.
fn guard<T>(object: &str, work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    // Nothing that `work` touches is used after a panic: the content is thrown away.
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(damaged(object, "its metadata or pages contradict themselves")))
}

fn survey(stored: &[u8], object: &str) -> Result<Survey, Error> {
    let metadata = read_footer(stored, object)?;
    let sources =
        sources(metadata.file_metadata().schema()).map_err(|what| unsupported(object, what))?;
    let hints = arrow_hints(&metadata);
    let fields = sources
        .iter()
        .map(|source| {
            let hint = hints.iter().find(|hint| hint.name == source.name);
            let kind = source.kind(hint.map(|hint| &hint.kind))?;
            Ok(Field { name: source.name.clone(), kind })
        })
        .collect::<Result<_, String>>()
        .map_err(|what| unsupported(object, what))?;
    let mut cuts = Vec::with_capacity(metadata.num_row_groups());
    let mut previous_end = MAGIC.len() as u64;
    for (number, group) in metadata.row_groups().iter().enumerate() {
        if group.num_rows() == 0 {
            continue;
        }
        let cut = cut(&metadata, group, previous_end, stored.len() as u64).map_err(|error| {
            let object = format!("{object}, row group {number}");
            match error {
                Refusal::Damaged(what) => damaged(&object, what),
                Refusal::Unsupported(what) => unsupported(&object, what),
            }
        })?;
        previous_end = cut.offset + cut.bytes;
        cuts.push(cut);
    }
    Ok(Survey { schema: Schema { fields }, context: String::new(), cuts })
}

enum Refusal {
    Damaged(String),
    Unsupported(String),
}

/// The extent of a row group that starts at or after `previous_end`.
fn cut(
    metadata: &ParquetMetaData,
    group: &RowGroupMetaData,
    previous_end: u64,
    file_bytes: u64,
) -> Result<Cut, Refusal> {
    if let Some(what) = group::refusal(group) {
        return Err(Refusal::Unsupported(what));
    }
    let rows = u32::try_from(group.num_rows()).map_err(|_| match group.num_rows() {
        ..0 => Refusal::Damaged("it has a negative number of rows".into()),
        _ => Refusal::Unsupported("it has 2^32 rows or more. Write smaller row groups".into()),
    })?;
    let decoded_bytes: u64 = group
        .columns()
        .iter()
        .map(|column| u64::try_from(column.uncompressed_size()).unwrap_or(0))
        .fold(0, u64::saturating_add);
    if decoded_bytes > CONTENT_BYTES_MAX {
        return Err(Refusal::Unsupported(format!(
            "it has {decoded_bytes} bytes when decompressed, more than an extent may have. Write \
             smaller row groups"
        )));
    }
    let place = place(group)
        .filter(|place| place.start >= previous_end && place.end <= file_bytes && !place.is_empty())
        .ok_or_else(|| Refusal::Damaged("its columns do not lie in their place".into()))?;
    let text = group::encode(metadata.file_metadata(), group)
        .map_err(|source| Refusal::Damaged(format!("it cannot be described ({source})")))?;
    Ok(Cut { offset: place.start, bytes: place.end - place.start, rows, form: Form::Dialect(text) })
}

fn read_footer(stored: &[u8], object: &str) -> Result<ParquetMetaData, Error> {
    if stored.ends_with(ENCRYPTED_MAGIC) {
        return Err(unsupported(object, "its footer is encrypted"));
    }
    if stored.len() < MAGIC.len() + TAIL_BYTES || !stored.ends_with(MAGIC) {
        return Err(damaged(object, "it does not end like a Parquet file: it is cut short"));
    }
    let end = stored.len() - TAIL_BYTES;
    let footer = u32_at(stored, end)
        .and_then(|length| end.checked_sub(length as usize))
        .and_then(|start| stored.get(start..end))
        .ok_or_else(|| damaged(object, "its footer does not fit into it"))?;
    ParquetMetaDataReader::decode_metadata(footer)
        .map_err(|source| damaged(object, format!("its footer cannot be read ({source})")))
}

/// What Arrow's schema says of the fields, where there is one: lists of fixed size are unknown to
/// Parquet.
fn arrow_hints(metadata: &ParquetMetaData) -> Vec<Field> {
    let mut hints = Vec::new();
    let pairs = metadata.file_metadata().key_value_metadata().into_iter().flatten();
    let text = pairs.filter(|pair| pair.key == ARROW_SCHEMA).find_map(|pair| pair.value.as_deref());
    let nodes = text.and_then(from_base64).and_then(|bytes| nodes_of_message(&bytes));
    for node in nodes.iter().flatten() {
        // A column that Arrow's rules refuse may still be read as what Parquet says.
        let _ = add(node, &node.name, &mut hints);
    }
    hints
}

/// One row group on its way to columns.
struct Decoding<'a> {
    group: &'a RowGroupMetaData,
    /// The stored bytes, and where in the file they start.
    stored: (&'a [u8], u64),
    fields: Vec<(Source, &'a FieldKind)>,
    object: &'a str,
}

impl<'a> Decoding<'a> {
    fn new(
        metadata: &'a ParquetMetaData,
        stored: &'a [u8],
        schema: &'a Schema,
        object: &'a str,
    ) -> Result<Self, Error> {
        let sources =
            sources(metadata.file_metadata().schema()).map_err(|what| unsupported(object, what))?;
        let same = sources.len() == schema.fields.len()
            && sources.iter().zip(&schema.fields).all(|(source, field)| {
                source.name == field.name
                    && source.kind(Some(&field.kind)).as_ref() == Ok(&field.kind)
            });
        if !same {
            return Err(damaged(object, "its columns are not those of the dataset"));
        }
        let group = metadata.row_group(0);
        let start = place(group)
            .filter(|place| place.end.checked_sub(place.start) == Some(stored.len() as u64))
            .map(|place| place.start)
            .ok_or_else(|| damaged(object, "its bytes are not those of its row group"))?;
        let fields =
            sources.into_iter().zip(schema.fields.iter().map(|field| &field.kind)).collect();
        Ok(Self { group, stored: (stored, start), fields, object })
    }

    fn run(&self, content: &mut dyn std::io::Write) -> Result<(), Error> {
        let rows = u32::try_from(self.group.num_rows())
            .map_err(|_| damaged(self.object, "it has no number of rows"))?;
        let mut writer = Writer::new(content, rows, self.fields.len(), self.object)?;
        for (source, kind) in &self.fields {
            self.field(&mut writer, source, kind)
                .map_err(|failure| failure.tell(self.object, &source.name))?;
        }
        writer.finish()
    }

    fn field(
        &self,
        writer: &mut Writer<'_>,
        source: &Source,
        kind: &FieldKind,
    ) -> Result<(), Failure> {
        let mut field = writer.start(kind)?;
        let tensor_bytes = kind.fixed_bytes();
        let mut null_rows = Vec::new();
        let mut number = 0_u32;
        // What stands for a null tensor; made when the first one is met.
        let mut null_value: Option<(Vec<u8>, bool)> = None;
        let mut visit = |row: Row<'_>| -> Result<(), Failure> {
            match tensor_bytes {
                Some(bytes) if bytes != row.bytes.len() => {
                    if row.values != 0 {
                        return Err(Failure::Row(number, row.bytes.len(), bytes));
                    }
                    let (value, absent) = null_value.get_or_insert_with(|| {
                        let mut value = vec![0; bytes];
                        let filled = erase(&mut value, source.value.dtype());
                        (value, !filled)
                    });
                    writer.value(&mut field, value, *absent)?;
                }
                _ => {
                    if row.values == 0 && source.path_leaf.is_some() {
                        null_rows.push(number);
                    }
                    writer.value(&mut field, row.bytes, row.holes)?;
                }
            }
            number = number.wrapping_add(1);
            Ok(())
        };
        each_row(self.group, source, source.leaf, source.value, self.stored, &mut visit)?;
        if let Some(leaf) = source.path_leaf.filter(|_| !null_rows.is_empty()) {
            self.refuse_paths(source, leaf, &null_rows)?;
        }
        writer.end(field, kind)?;
        Ok(())
    }

    /// Refuses images and sounds that are paths: rows without bytes must be without a path too.
    fn refuse_paths(&self, source: &Source, leaf: usize, rows: &[u32]) -> Result<(), Failure> {
        let mut rows = rows.iter().copied().peekable();
        let mut number = 0_u32;
        let mut visit = |row: Row<'_>| -> Result<(), Failure> {
            if rows.next_if_eq(&number).is_some() && row.values > 0 {
                let path = String::from_utf8_lossy(row.bytes);
                return Err(Failure::Own(unsupported(
                    self.object,
                    format!(
                        "row {number}, column `{}` holds no bytes and points to `{path}`. Embed \
                         the bytes (`to_parquet` does)",
                        source.name
                    ),
                )));
            }
            number = number.wrapping_add(1);
            Ok(())
        };
        each_row(self.group, source, leaf, Value::Text, self.stored, &mut visit)
    }
}

/// Why a column was not decoded.
enum Failure {
    Own(Error),
    Parquet(ParquetError),
    /// A row has so many bytes instead of those of its tensor.
    Row(u32, usize, usize),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Own(error)
    }
}

impl From<ParquetError> for Failure {
    fn from(error: ParquetError) -> Self {
        Self::Parquet(error)
    }
}

impl Failure {
    fn tell(self, object: &str, column: &str) -> Error {
        match self {
            Self::Own(error) => error,
            Self::Parquet(source @ ParquetError::NYI(_)) => {
                unsupported(object, format!("column `{column}` cannot be decoded ({source})"))
            }
            Self::Parquet(source) => {
                damaged(object, format!("column `{column}` cannot be decoded ({source})"))
            }
            Self::Row(row, found, wanted) => damaged(
                object,
                format!("row {row}, column `{column}` has {found} bytes instead of {wanted}"),
            ),
        }
    }
}

fn damaged(object: &str, what: impl Into<String>) -> Error {
    Error::Damaged { format: FORMAT, object: object.into(), what: what.into() }
}

fn unsupported(object: &str, what: impl Into<String>) -> Error {
    Error::Unsupported { format: FORMAT, object: object.into(), what: what.into() }
}
