//! LitData: `chunk-*.bin` files beside an `index.json`.
//!
//! A chunk is a block of [samples](crate::samples) and says nothing about its fields; the index
//! does, so the dialect is made from it and its settings travel as context. A sample is the sizes
//! of its fields (u32 each), then their values. In a dataset of tokens (written for
//! `TokensLoader`) a sample is the values alone: one vector of whatever length was written; how
//! long a training row is, is no business of the file.
//!
//! A whole chunk is one extent, decompressed as a whole when it lies as zstd, be it one stream or
//! [batches](batches). Names of fields are
//! the keys that lead to them (`image`, `meta.id`, `0`).

mod batches;

use std::{borrow::Cow, ops::Range};

use forebay_types::{Dtype, Field, FieldKind, Form, Schema};
use serde::{Deserialize, Serialize};

use crate::{
    Cut, Dialect, Error, Rows, Survey,
    array::{Array, settle},
    bytes::u32_at,
    compression::{self, Bound, form_of},
    samples::Samples,
};

const FORMAT: &str = "litdata";
/// The form of a chunk that is compressed in batches.
const BATCHES: &str = "batches";
const INDEX: &str = "index.json";
/// The most levels that a sample's structure may have.
const LEVELS_MAX: usize = 64;

/// LitData's chunks of one dataset.
#[derive(Clone, Debug)]
pub struct LitData {
    settings: Settings,
}

/// What of the index is needed to read a chunk. This is the context.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    fields: Vec<Leaf>,
    /// Whether a sample is one vector without sizes in front.
    tokens: bool,
}

/// A field, and the serializer that wrote it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Leaf {
    name: String,
    serializer: String,
}

#[derive(Deserialize)]
struct Index {
    chunks: Vec<Chunk>,
    config: Config,
}

#[derive(Deserialize)]
struct Chunk {
    dim: Option<u64>,
}

#[derive(Deserialize)]
struct Config {
    compression: Option<String>,
    #[serde(default)]
    compression_level: Option<String>,
    #[serde(default)]
    ipc_compression: Option<serde_json::Value>,
    data_format: Option<Vec<String>>,
    data_spec: Option<String>,
    #[serde(default)]
    encryption: Option<serde_json::Value>,
    #[serde(default)]
    item_loader: Option<String>,
    #[serde(default)]
    format: Option<String>,
}

/// A node of a sample's structure, as PyTorch writes it.
#[derive(Deserialize)]
struct Spec {
    #[serde(rename = "type")]
    kind: Option<String>,
    context: Option<String>,
    children_spec: Vec<Spec>,
}

impl LitData {
    /// The dialect of a dataset that was surveyed before, from its context.
    ///
    /// # Errors
    /// When the context is not one of LitData's.
    pub fn of_context(context: &str) -> Result<Self, Error> {
        let settings = serde_json::from_str(context);
        let settings = settings.map_err(|source| {
            damaged("the context of the dataset", format!("it cannot be read ({source})"))
        })?;
        Ok(Self { settings })
    }

    /// The dialect of the dataset whose `index.json` has these bytes.
    ///
    /// # Errors
    /// When the index cannot be read, or speaks of encryption, pickles or another layout.
    pub fn new(index_json: &[u8]) -> Result<Self, Error> {
        let index: Index = serde_json::from_slice(index_json)
            .map_err(|source| damaged(INDEX, format!("it cannot be read ({source})")))?;
        let config = index.config;
        config.refuse()?;
        let formats =
            config.data_format.ok_or_else(|| damaged(INDEX, "it names no `data_format`"))?;
        let tokens = config.item_loader.as_deref() == Some("TokensLoader")
            || index.chunks.iter().any(|chunk| chunk.dim.is_some());
        let names = if tokens {
            vec!["tokens".to_owned()]
        } else {
            config.data_spec.as_deref().map_or(Ok(Vec::new()), names)?
        };
        if names.len() != formats.len() {
            return Err(damaged(
                INDEX,
                format!("it names {} fields and {} formats", names.len(), formats.len()),
            ));
        }
        let fields: Vec<Leaf> = names
            .into_iter()
            .zip(formats)
            .map(|(name, serializer)| Leaf { name, serializer })
            .collect();
        let settings = Settings { fields, tokens };
        settings.columns(INDEX)?;
        Ok(Self { settings })
    }
}

impl Config {
    fn refuse(&self) -> Result<(), Error> {
        let is_null = |value: &Option<serde_json::Value>| {
            value.as_ref().is_none_or(serde_json::Value::is_null)
        };
        let what = if !is_null(&self.encryption) {
            "its chunks are encrypted. Write the dataset without encryption".to_owned()
        } else if self.compression_level.as_deref().is_some_and(|level| level == "sample")
            || !is_null(&self.ipc_compression)
        {
            "its samples are compressed one by one. Write the dataset raw, or compress chunks or \
             batches"
                .to_owned()
        } else if self.format.as_deref().is_some_and(|format| format != FORMAT) {
            format!("its files are of format `{}`", self.format.as_deref().unwrap_or_default())
        } else if let Some(name) =
            self.compression.as_deref().filter(|name| name.split(':').next() != Some("zstd"))
        {
            format!("its chunks are compressed as `{name}`; zstd is read")
        } else if let Some(loader) = self
            .item_loader
            .as_deref()
            .filter(|loader| !matches!(*loader, "PyTreeLoader" | "TokensLoader"))
        {
            format!("it was written for `{loader}`; `PyTreeLoader` and `TokensLoader` are read")
        } else {
            return Ok(());
        };
        Err(unsupported(INDEX, what))
    }
}

/// The names of a structure's leaves.
fn names(text: &str) -> Result<Vec<String>, Error> {
    let (_, spec): (u32, Spec) = serde_json::from_str(text)
        .map_err(|source| damaged(INDEX, format!("its `data_spec` cannot be read ({source})")))?;
    let mut names = Vec::new();
    walk(&spec, "", 0, &mut names).ok_or_else(|| damaged(INDEX, "its `data_spec` is not sound"))?;
    Ok(names)
}

fn walk(spec: &Spec, path: &str, level: usize, names: &mut Vec<String>) -> Option<()> {
    let Some(kind) = &spec.kind else {
        names.push(if path.is_empty() { "0".into() } else { path.into() });
        return Some(());
    };
    if level >= LEVELS_MAX {
        return None;
    }
    let keys: Option<Vec<serde_json::Value>> = if kind.to_ascii_lowercase().ends_with("dict") {
        Some(serde_json::from_str(spec.context.as_deref()?).ok()?)
    } else {
        None
    };
    if keys.as_ref().is_some_and(|keys| keys.len() != spec.children_spec.len()) {
        return None;
    }
    for (number, child) in spec.children_spec.iter().enumerate() {
        let key = match keys.as_ref().map(|keys| &keys[number]) {
            None => number.to_string(),
            Some(serde_json::Value::String(key)) => key.clone(),
            Some(key) => key.to_string(),
        };
        let path = if path.is_empty() { key } else { format!("{path}.{key}") };
        walk(child, &path, level + 1, names)?;
    }
    Some(())
}

/// How the values of a field are written.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Encoding {
    /// As the bytes a batch wants.
    Whole(FieldKind),
    /// With type and shape in front of the elements.
    Array {
        /// Whose numbers the types have.
        torch: bool,
    },
}

impl Encoding {
    fn parse(serializer: &str) -> Result<Self, String> {
        let scalar = |dtype| Self::Whole(FieldKind::Tensor { dtype, shape: Vec::new() });
        let (name, argument) =
            serializer.split_once(':').map_or((serializer, ""), |(name, rest)| (name, rest));
        let vector = |types: fn(u32) -> Option<Dtype>| {
            let dtype = argument.parse().ok().and_then(types);
            dtype
                .map(|dtype| Self::Whole(FieldKind::Ragged { dtype }))
                .ok_or_else(|| format!("has elements that are no plain numbers (`{serializer}`)"))
        };
        match name {
            "int" => Ok(scalar(Dtype::I64)),
            "float" => Ok(scalar(Dtype::F64)),
            "bool" | "boolean" => Ok(scalar(Dtype::Bool)),
            "str" | "text" => Ok(Self::Whole(FieldKind::Text)),
            "bytes" | "jpeg" | "image" | "video" | "audio" | "file" | "tiff" | "tifffile"
            | "pdf" | "mesh" | "nifti" => Ok(Self::Whole(FieldKind::Bytes)),
            "no_header_tensor" => vector(torch_type),
            "no_header_numpy" => vector(numpy_type),
            "tensor" => Ok(Self::Array { torch: true }),
            "numpy" => Ok(Self::Array { torch: false }),
            "pickle" => Err("is a pickle, which is never read: it may run any code. Give it as \
                             numbers, text, bytes or an array"
                .into()),
            _ => Err(format!("is written by the serializer `{serializer}`, which is not read")),
        }
    }

    fn may_be(&self, kind: &FieldKind) -> bool {
        match self {
            Self::Whole(own) => own == kind,
            Self::Array { .. } => {
                matches!(kind, FieldKind::Tensor { .. } | FieldKind::Ragged { .. })
            }
        }
    }
}

impl Settings {
    fn columns(&self, object: &str) -> Result<Vec<Column>, Error> {
        let mut columns: Vec<Column> = Vec::with_capacity(self.fields.len());
        for leaf in &self.fields {
            let encoding = Encoding::parse(&leaf.serializer)
                .map_err(|what| unsupported(object, format!("field `{}` {what}", leaf.name)))?;
            if columns.iter().any(|column| column.name == leaf.name) {
                return Err(unsupported(
                    object,
                    format!("two of its fields are called `{}`", leaf.name),
                ));
            }
            columns.push(Column { name: leaf.name.clone(), encoding, kind: None });
        }
        let one_vector = |columns: &[Column]| {
            columns.len() == 1
                && matches!(columns[0].encoding, Encoding::Whole(FieldKind::Ragged { .. }))
        };
        if self.tokens && !one_vector(&columns) {
            return Err(unsupported(object, "it is a dataset of tokens that are no vector"));
        }
        Ok(columns)
    }
}

impl Dialect for LitData {
    fn name(&self) -> &'static str {
        FORMAT
    }

    fn claims(&self, path: &str) -> bool {
        let name = path.rsplit('/').next().unwrap_or(path);
        name.starts_with("chunk-") && name.ends_with(".bin")
    }

    fn survey(&self, stored: &[u8], object: &str, _extent_bytes: u64) -> Result<Survey, Error> {
        // A raw chunk cannot start like a compressed one: its offsets would not be in order. So a
        // dataset may hold all of them, as LitData lets it.
        let form = match form_of(stored) {
            _ if batches::is_batched(stored) => Form::Dialect(BATCHES.into()),
            Form::Zstd => Form::Zstd,
            _ => Form::Plain,
        };
        let content = if form == Form::Plain {
            Cow::Borrowed(stored)
        } else {
            let mut content = Vec::new();
            decompress(stored, &form, object, &mut content)?;
            Cow::Owned(content)
        };
        let rows = LitDataRows::read(&content, &self.settings, object)?;
        let schema = rows.schema(&content)?;
        let context = serde_json::to_string(&self.settings)
            .map_err(|source| damaged(object, source.to_string()))?;
        let cut = Cut { offset: 0, bytes: stored.len() as u64, rows: rows.samples.count(), form };
        Ok(Survey { schema, context, cuts: vec![cut] })
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
        decompress(stored, form, object, content)
    }

    fn open(
        &self,
        content: &[u8],
        schema: &Schema,
        context: &str,
        object: &str,
    ) -> Result<Box<dyn Rows>, Error> {
        let Self { settings } = Self::of_context(context)?;
        let mut rows = LitDataRows::read(content, &settings, object)?;
        let same = rows.columns.len() == schema.fields.len()
            && rows.columns.iter().zip(&schema.fields).all(|(column, field)| {
                column.name == field.name && column.encoding.may_be(&field.kind)
            });
        if !same {
            return Err(damaged(object, "its fields are not those of the dataset"));
        }
        for (column, field) in rows.columns.iter_mut().zip(&schema.fields) {
            column.kind = Some(field.kind.clone());
        }
        Ok(Box::new(rows))
    }
}

fn decompress(
    stored: &[u8],
    form: &Form,
    object: &str,
    content: &mut dyn std::io::Write,
) -> Result<(), Error> {
    if *form != Form::Dialect(BATCHES.into()) {
        return compression::decompress(form, stored, Bound::Offsets, FORMAT, object, content);
    }
    batches::unpack(stored, content).map_err(|failure| match failure {
        batches::Failure::Damaged(what) => damaged(object, what),
        batches::Failure::Write(source) => Error::Write { object: object.into(), source },
    })
}

#[derive(Clone, Debug)]
struct Column {
    name: String,
    encoding: Encoding,
    /// What the dataset's schema says, once it is known.
    kind: Option<FieldKind>,
}

#[derive(Debug)]
struct LitDataRows {
    samples: Samples,
    columns: Vec<Column>,
    tokens: bool,
    object: String,
}

impl LitDataRows {
    fn read(content: &[u8], settings: &Settings, object: &str) -> Result<Self, Error> {
        let samples = Samples::read(content).map_err(|what| damaged(object, what))?;
        if !samples.added().is_empty() {
            return Err(damaged(object, "its first sample does not follow its offsets"));
        }
        let columns = settings.columns(object)?;
        Ok(Self { samples, columns, tokens: settings.tokens, object: object.into() })
    }

    fn schema(&self, content: &[u8]) -> Result<Schema, Error> {
        let mut fields = Vec::with_capacity(self.columns.len());
        for (number, column) in self.columns.iter().enumerate() {
            let kind = match &column.encoding {
                Encoding::Whole(kind) => kind.clone(),
                Encoding::Array { torch } => self.array_kind(content, number, *torch)?,
            };
            fields.push(Field { name: column.name.clone(), kind });
        }
        Ok(Schema { fields })
    }

    fn array_kind(&self, content: &[u8], field: usize, torch: bool) -> Result<FieldKind, Error> {
        let name = &self.columns[field].name;
        let mut kind = None;
        for row in 0..self.samples.count() {
            let array = self
                .locate(content, row, field)
                .and_then(|place| read_array(&content[place], torch))
                .ok_or_else(|| {
                    damaged(&self.object, format!("row {row}, field `{name}` is no array"))
                })?;
            if !settle(&mut kind, &array) {
                return Err(unsupported(
                    &self.object,
                    format!(
                        "field `{name}` changes type or shape at row {row}: only vectors may \
                         differ in length"
                    ),
                ));
            }
        }
        kind.ok_or_else(|| damaged(&self.object, "it has no samples"))
    }

    /// Where the value lies in `content`.
    fn locate(&self, content: &[u8], row: u32, field: usize) -> Option<Range<usize>> {
        let place = self.samples.place(content, row)?;
        if self.tokens {
            return (field == 0).then_some(place);
        }
        let sample = content.get(place.clone())?;
        let mut start = 4 * self.columns.len();
        for index in 0..self.columns.len() {
            let size = u32_at(sample, 4 * index)? as usize;
            let end = start.checked_add(size).filter(|end| *end <= sample.len())?;
            if index == field {
                return Some(place.start + start..place.start + end);
            }
            start = end;
        }
        None
    }
}

impl Rows for LitDataRows {
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
            damaged(&self.object, format!("row {row}, field `{}` {what}", column.name))
        };
        match &column.encoding {
            Encoding::Whole(kind) => {
                let sound = match kind {
                    FieldKind::Text => std::str::from_utf8(value).is_ok(),
                    kind => match kind.fixed_bytes() {
                        Some(bytes) => value.len() == bytes,
                        None => value.len().is_multiple_of(kind.item_bytes()),
                    },
                };
                if sound { Ok(Cow::Borrowed(value)) } else { Err(wrong("is not of its type")) }
            }
            Encoding::Array { torch } => {
                let array = read_array(value, *torch).ok_or_else(|| wrong("is no array"))?;
                if column.kind.as_ref().is_some_and(|kind| !array.is(kind)) {
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

/// Reads an array's front: type, dimensions and shape, u32 each.
///
/// Newer releases write a tensor's front big-endian, older ones little-endian, and nothing says
/// which. Only one order gives a known type and a shape that fills the value, save for a number of
/// type 0, which is the same in both.
fn read_array(value: &[u8], torch: bool) -> Option<Array> {
    let little = || read_front(value, torch, u32::from_le);
    if torch { little().or_else(|| read_front(value, torch, u32::from_be)) } else { little() }
}

/// `order` brings a number as it lies in memory into the machine's order.
fn read_front(value: &[u8], torch: bool, order: fn(u32) -> u32) -> Option<Array> {
    let number = |at| u32_at(value, at).map(|number| order(number.to_le()));
    let code = number(0)?;
    let dtype = if torch { torch_type(code) } else { numpy_type(code) }?;
    let dimensions = number(4)? as usize;
    let start = 8_usize.checked_add(dimensions.checked_mul(4)?)?;
    // Before anything is allocated for them, the sizes must be there.
    value.get(..start)?;
    let shape = (0..dimensions).map(|index| number(8 + 4 * index)).collect::<Option<_>>()?;
    Array { dtype, shape, start }.fits(value.len())
}

/// LitData's numbers for PyTorch's types. Some types have two.
fn torch_type(code: u32) -> Option<Dtype> {
    Some(match code {
        0 | 1 => Dtype::F32,
        2 | 3 => Dtype::F64,
        8 | 9 => Dtype::F16,
        10 => Dtype::BF16,
        11 => Dtype::U8,
        12 => Dtype::I8,
        13 | 14 => Dtype::I16,
        15 | 16 => Dtype::I32,
        17 | 18 => Dtype::I64,
        19 => Dtype::Bool,
        20 => Dtype::U16,
        _ => return None,
    })
}

/// LitData's numbers for NumPy's types.
fn numpy_type(code: u32) -> Option<Dtype> {
    Some(match code {
        0 => Dtype::I8,
        1 => Dtype::I16,
        2 => Dtype::I32,
        3 => Dtype::I64,
        4 => Dtype::U8,
        5 => Dtype::U16,
        6 => Dtype::U32,
        7 => Dtype::U64,
        8 => Dtype::F16,
        9 => Dtype::F32,
        10 => Dtype::F64,
        13 => Dtype::Bool,
        _ => return None,
    })
}

fn damaged(object: &str, what: impl Into<String>) -> Error {
    Error::Damaged { format: FORMAT, object: object.into(), what: what.into() }
}

fn unsupported(object: &str, what: impl Into<String>) -> Error {
    Error::Unsupported { format: FORMAT, object: object.into(), what: what.into() }
}
