//! MosaicML Streaming: MDS shards.
//!
//! A shard is a block of [samples](crate::samples) whose addition is a JSON header: names,
//! encodings and fixed sizes of its columns. A sample is the sizes of its variable columns (u32
//! each), then the values of all columns.
//!
//! A whole shard is one extent, because its offsets stand at its front. It is read in place when
//! it lies raw, and decompressed as a whole when it lies as zstd or gzip. `index.json` is not
//! needed: the header says the same. A directory that holds a shard both raw and compressed holds
//! every sample twice; nobody can tell that from one name, so remove one of the two.

use std::{borrow::Cow, ops::Range};

use forebay_types::{Dtype, Field, FieldKind, Form, Schema};
use serde::{Deserialize, Serialize};

use crate::{
    Cut, Dialect, Error, Rows, Survey,
    array::{Array, settle},
    bytes::u32_at,
    compression::{Bound, decompress, form_of},
    samples::Samples,
};

const FORMAT: &str = "mds";
/// File names that Streaming gives to a shard, by compression.
const SUFFIXES: [&str; 7] =
    [".mds", ".mds.zstd", ".mds.zst", ".mds.gz", ".mds.br", ".mds.bz2", ".mds.snappy"];
const REFUSED_SUFFIXES: [&str; 3] = [".br", ".bz2", ".snappy"];

/// MosaicML Streaming's shards.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mds;

/// What a shard says of its columns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Header {
    column_names: Vec<String>,
    column_encodings: Vec<String>,
    column_sizes: Vec<Option<u32>>,
}

/// How the values of a column are written.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Encoding {
    /// As the bytes a batch wants.
    Whole(FieldKind),
    /// With the shape, and with the type unless it is given, in front of the elements.
    Array(Option<Dtype>),
}

impl Dialect for Mds {
    fn name(&self) -> &'static str {
        FORMAT
    }

    fn claims(&self, path: &str) -> bool {
        SUFFIXES.iter().any(|suffix| path.ends_with(suffix))
    }

    fn survey(&self, stored: &[u8], object: &str, _extent_bytes: u64) -> Result<Survey, Error> {
        if let Some(suffix) = REFUSED_SUFFIXES.iter().find(|suffix| object.ends_with(**suffix)) {
            return Err(unsupported(
                object,
                format!("it is compressed as `{suffix}`; write it raw, as zstd or as gzip"),
            ));
        }
        // A raw shard of the right number of samples starts like a compressed one; its table of
        // offsets then says what it is.
        let form = if Samples::read(stored).is_ok() { Form::Plain } else { form_of(stored) };
        let content = if form == Form::Plain {
            Cow::Borrowed(stored)
        } else {
            let mut content = Vec::new();
            decompress(&form, stored, Bound::Offsets, FORMAT, object, &mut content)?;
            Cow::Owned(content)
        };
        let (schema, rows) = survey(&content, object)?;
        let cut = Cut { offset: 0, bytes: stored.len() as u64, rows, form };
        Ok(Survey { schema, context: String::new(), cuts: vec![cut] })
    }

    /// Files of one dataset must agree: values are found by the schema they were written with.
    fn merge(&self, a: &Schema, b: &Schema) -> Option<Schema> {
        crate::merge::same(a, b)
    }

    fn decode(
        &self,
        stored: &[u8],
        form: &Form,
        _schema: &Schema,
        object: &str,
        content: &mut dyn std::io::Write,
    ) -> Result<(), Error> {
        decompress(form, stored, Bound::Offsets, FORMAT, object, content)
    }

    fn open(
        &self,
        content: &[u8],
        schema: &Schema,
        _context: &str,
        object: &str,
    ) -> Result<Box<dyn Rows>, Error> {
        let rows = MdsRows::read(content, object)?;
        let same = rows.columns.len() == schema.fields.len()
            && rows.columns.iter().zip(&schema.fields).all(|(column, field)| {
                column.name == field.name && column.encoding.may_be(&field.kind)
            });
        if !same {
            return Err(damaged(object, "its columns are not those of the dataset"));
        }
        Ok(Box::new(rows.with_kinds(schema)))
    }
}

#[derive(Clone, Debug)]
struct Column {
    name: String,
    encoding: Encoding,
    /// The bytes of every value, if they are not written per sample.
    size: Option<u32>,
    /// What the dataset's schema says, once it is known.
    kind: Option<FieldKind>,
}

#[derive(Debug)]
struct MdsRows {
    samples: Samples,
    columns: Vec<Column>,
    object: String,
}

impl MdsRows {
    fn read(content: &[u8], object: &str) -> Result<Self, Error> {
        let samples = Samples::read(content).map_err(|what| damaged(object, what))?;
        let header: Header = serde_json::from_slice(&content[samples.added()])
            .map_err(|source| damaged(object, format!("its header cannot be read ({source})")))?;
        let names = header.column_names.len();
        if header.column_encodings.len() != names || header.column_sizes.len() != names {
            return Err(damaged(object, "its header names columns without encoding or size"));
        }
        let mut columns = Vec::with_capacity(names);
        let parts = header.column_names.into_iter().zip(header.column_encodings);
        for ((name, encoding), size) in parts.zip(header.column_sizes) {
            let encoding = Encoding::parse(&encoding)
                .map_err(|what| unsupported(object, format!("column `{name}` {what}")))?;
            if encoding.fixed_bytes() != size.map(|size| size as usize) {
                return Err(damaged(object, format!("column `{name}` has a size not its own")));
            }
            columns.push(Column { name, encoding, size, kind: None });
        }
        Ok(Self { samples, columns, object: object.into() })
    }

    fn with_kinds(mut self, schema: &Schema) -> Self {
        for (column, field) in self.columns.iter_mut().zip(&schema.fields) {
            column.kind = Some(field.kind.clone());
        }
        self
    }

    /// Where the value lies in `content`.
    fn locate(&self, content: &[u8], row: u32, field: usize) -> Option<Range<usize>> {
        let place = self.samples.place(content, row)?;
        let sample = content.get(place.clone())?;
        let variable = self.columns.iter().filter(|column| column.size.is_none()).count();
        let (mut size_at, mut start) = (0, 4 * variable);
        for (index, column) in self.columns.iter().enumerate() {
            let size = match column.size {
                Some(size) => size,
                None => {
                    size_at += 4;
                    u32_at(sample, size_at - 4)?
                }
            };
            let end = start.checked_add(size as usize).filter(|end| *end <= sample.len())?;
            if index == field {
                return Some(place.start + start..place.start + end);
            }
            start = end;
        }
        None
    }
}

impl Rows for MdsRows {
    fn rows(&self) -> u32 {
        self.samples.count()
    }

    fn value<'a>(&self, content: &'a [u8], row: u32, field: usize) -> Result<Cow<'a, [u8]>, Error> {
        let place = self.locate(content, row, field).ok_or_else(|| {
            damaged(&self.object, format!("row {row} is shorter than its values"))
        })?;
        let value = &content[place];
        let column = &self.columns[field];
        let wrong = |what: &str| {
            damaged(&self.object, format!("row {row}, column `{}` {what}", column.name))
        };
        match (&column.encoding, &column.kind) {
            (Encoding::Whole(FieldKind::Text), _) if std::str::from_utf8(value).is_err() => {
                Err(wrong("is not UTF-8"))
            }
            (Encoding::Whole(_), _) => Ok(Cow::Borrowed(value)),
            (Encoding::Array(dtype), kind) => {
                let array = read_array(value, *dtype).ok_or_else(|| wrong("is no array"))?;
                if kind.as_ref().is_some_and(|kind| !array.is(kind)) {
                    return Err(wrong("has another type or shape than the field"));
                }
                Ok(Cow::Borrowed(&value[array.start..]))
            }
        }
    }

    fn place(&self, content: &[u8], row: u32) -> Range<usize> {
        self.samples.place(content, row).unwrap_or(0..content.len())
    }

    fn framing(&self, _content: &[u8]) -> Vec<Range<usize>> {
        vec![self.samples.framing()]
    }
}

/// Finds the schema of a shard, looking at every array that carries its own shape.
fn survey(content: &[u8], object: &str) -> Result<(Schema, u32), Error> {
    let rows = MdsRows::read(content, object)?;
    let mut fields = Vec::with_capacity(rows.columns.len());
    for (number, column) in rows.columns.iter().enumerate() {
        let kind = match &column.encoding {
            Encoding::Whole(kind) => kind.clone(),
            Encoding::Array(dtype) => rows.array_kind(content, number, *dtype)?,
        };
        if fields.iter().any(|field: &Field| field.name == column.name) {
            return Err(damaged(object, format!("column `{}` stands twice", column.name)));
        }
        fields.push(Field { name: column.name.clone(), kind });
    }
    Ok((Schema { fields }, rows.samples.count()))
}

impl MdsRows {
    fn array_kind(
        &self,
        content: &[u8],
        field: usize,
        dtype: Option<Dtype>,
    ) -> Result<FieldKind, Error> {
        let name = &self.columns[field].name;
        let mut kind = None;
        for row in 0..self.samples.count() {
            let array = self
                .locate(content, row, field)
                .and_then(|place| read_array(&content[place], dtype))
                .ok_or_else(|| {
                    damaged(&self.object, format!("row {row}, column `{name}` is no array"))
                })?;
            if !settle(&mut kind, &array) {
                return Err(unsupported(
                    &self.object,
                    format!(
                        "column `{name}` changes type or shape at row {row}: only vectors may \
                         differ in length"
                    ),
                ));
            }
        }
        kind.ok_or_else(|| damaged(&self.object, "it has no samples"))
    }
}

impl Encoding {
    fn parse(text: &str) -> Result<Self, String> {
        let scalar = |dtype| Ok(Self::Whole(FieldKind::Tensor { dtype, shape: Vec::new() }));
        let (name, arguments) = text.split_once(':').map_or((text, None), |(a, b)| (a, Some(b)));
        match name {
            "int" => scalar(Dtype::I64),
            "str" | "json" | "str_int" | "str_float" | "str_decimal" => {
                Ok(Self::Whole(FieldKind::Text))
            }
            "bytes" | "jpeg" | "png" => Ok(Self::Whole(FieldKind::Bytes)),
            "ndarray" => Self::parse_array(arguments),
            "pkl" => Err("is a pickle, which is never read: it may run any code. Write it as \
                          `json`, `ndarray` or `bytes`"
                .into()),
            "pil" => Err("is a raw PIL image (`pil`), which is not read. Write it as `jpeg`, \
                          `png` or `ndarray`"
                .into()),
            _ => match number_type(name) {
                Some(dtype) => scalar(dtype),
                None => Err(format!("is of the unknown encoding `{text}`")),
            },
        }
    }

    fn parse_array(arguments: Option<&str>) -> Result<Self, String> {
        let Some(arguments) = arguments else { return Ok(Self::Array(None)) };
        let (dtype, shape) =
            arguments.split_once(':').map_or((arguments, None), |(a, b)| (a, Some(b)));
        let dtype = number_type(dtype).ok_or_else(|| format!("has elements of type `{dtype}`"))?;
        let Some(shape) = shape else { return Ok(Self::Array(Some(dtype))) };
        let shape = shape
            .split(',')
            .map(|size| size.trim().parse::<u32>().ok().filter(|size| *size > 0))
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| format!("has the shape `{shape}`"))?;
        let kind = FieldKind::Tensor { dtype, shape };
        kind.fixed_bytes().ok_or("has a shape without end")?;
        Ok(Self::Whole(kind))
    }

    fn fixed_bytes(&self) -> Option<usize> {
        match self {
            Self::Whole(kind) => kind.fixed_bytes(),
            Self::Array(_) => None,
        }
    }

    fn may_be(&self, kind: &FieldKind) -> bool {
        match self {
            Self::Whole(own) => own == kind,
            Self::Array(own) => match kind {
                FieldKind::Tensor { dtype, .. } | FieldKind::Ragged { dtype } => {
                    own.is_none_or(|own| own == *dtype)
                }
                FieldKind::Bytes | FieldKind::Text => false,
            },
        }
    }
}

fn number_type(name: &str) -> Option<Dtype> {
    Some(match name {
        "int8" => Dtype::I8,
        "int16" => Dtype::I16,
        "int32" => Dtype::I32,
        "int64" => Dtype::I64,
        "uint8" => Dtype::U8,
        "uint16" => Dtype::U16,
        "uint32" => Dtype::U32,
        "uint64" => Dtype::U64,
        "float16" => Dtype::F16,
        "float32" => Dtype::F32,
        "float64" => Dtype::F64,
        _ => return None,
    })
}

/// Reads an array's front: its type unless `dtype` gives it, dimensions and shape.
fn read_array(value: &[u8], dtype: Option<Dtype>) -> Option<Array> {
    let mut at = 0;
    let dtype = match dtype {
        Some(dtype) => dtype,
        None => {
            at += 1;
            coded_type(*value.first()?)?
        }
    };
    let front = *value.get(at)?;
    at += 1;
    let (dimensions, size_bytes) = (usize::from(front >> 2), 1 << (front & 3));
    let mut shape = Vec::with_capacity(dimensions);
    for _ in 0..dimensions {
        let mut number = [0; 8];
        number[..size_bytes].copy_from_slice(value.get(at..at + size_bytes)?);
        shape.push(u32::try_from(u64::from_le_bytes(number)).ok()?);
        at += size_bytes;
    }
    Array { dtype, shape, start: at }.fits(value.len())
}

/// MDS's numbers for types of elements.
fn coded_type(code: u8) -> Option<Dtype> {
    Some(match code {
        8 => Dtype::U8,
        9 => Dtype::I8,
        16 => Dtype::U16,
        17 => Dtype::I16,
        18 => Dtype::F16,
        32 => Dtype::U32,
        33 => Dtype::I32,
        34 => Dtype::F32,
        64 => Dtype::U64,
        65 => Dtype::I64,
        66 => Dtype::F64,
        _ => return None,
    })
}

fn damaged(object: &str, what: impl Into<String>) -> Error {
    Error::Damaged { format: FORMAT, object: object.into(), what: what.into() }
}

fn unsupported(object: &str, what: impl Into<String>) -> Error {
    Error::Unsupported { format: FORMAT, object: object.into(), what: what.into() }
}
