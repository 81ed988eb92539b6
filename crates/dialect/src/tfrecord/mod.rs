//! TFRecord files of `tf.train.Example`.
//!
//! ```text
//! record   length u64 | masked CRC-32C of the length u32 | data | masked CRC-32C of the data u32
//! ```
//!
//! Fields are the features, in the order of their names:
//!
//! - floats and integers are a number if every record has one, a vector of a fixed length if all
//!   have the same number of them, and otherwise a vector of as many as the record has;
//! - bytes are bytes. A feature of several byte strings is refused by name: joined they could not
//!   be told apart.
//!
//! A feature that a record lacks has no values there. One that no record ever sets is no field.
//!
//! A survey checks both checksums and every message. Opening an extent walks from length to
//! length and checks theirs; the data's is not computed again, since whoever keeps the index
//! checks the digest of the row. Rows cost 8 bytes of memory each, and a value is found by walking
//! over the features before it. A file compressed as a whole is one extent, which a survey
//! unpacks in memory.

mod example;

use std::{borrow::Cow, collections::BTreeMap, ops::Range};

use forebay_types::{Dtype, Field, FieldKind, Form, Schema};

use crate::{
    Dialect, Error, FIELDS_MAX, Rows, Survey,
    compression::{Bound, decompress, form_of},
    cutter::{Cutter, join, whole},
    merge::{merge_by, vector},
    path::{visible_name, without_ending},
};
use example::{Feature, List};

const NAME: &str = "tfrecord";

/// The bytes before a record's data, and after it.
const HEAD_BYTES: usize = 12;
const FOOT_BYTES: usize = 4;

/// TFRecord files of `tf.train.Example`, plain or compressed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tfrecord;

impl Dialect for Tfrecord {
    fn name(&self) -> &'static str {
        NAME
    }

    fn claims(&self, path: &str) -> bool {
        let Some(name) = visible_name(path) else { return false };
        let name = without_ending(&name, &[".gz", ".gzip", ".zst"]);
        let name = without_shard(name).unwrap_or(name);
        name.ends_with(".tfrecord") || name.ends_with(".tfrecords")
    }

    fn survey(&self, stored: &[u8], object: &str, extent_bytes: u64) -> Result<Survey, Error> {
        // A record may happen to have a length that starts as gzip does; its checksum tells.
        let form = if head(stored, 0).is_ok() { Form::Plain } else { form_of(stored) };
        let mut unpacked = Vec::new();
        let content = if form == Form::Plain {
            stored
        } else {
            decompress(&form, stored, Bound::Extent, NAME, object, &mut unpacked)?;
            &unpacked
        };
        let mut cutter = Cutter::new(extent_bytes);
        let mut seen = Seen::default();
        let mut at = 0;
        while at < content.len() {
            let record = Record { content, at, object };
            let data = record.data()?;
            record.check(data.clone())?;
            seen.record(&record, &content[data.clone()])?;
            let end = data.end + FOOT_BYTES;
            cutter.row(at as u64..end as u64);
            at = end;
        }
        let rows = seen.rows;
        let schema = seen.finish(object)?;
        let cuts = if form == Form::Plain {
            cutter.finish()
        } else {
            whole(stored, rows, form)
                .ok_or_else(|| unsupported(object, "it has more than 2^32 records".to_owned()))?
        };
        Ok(Survey { schema, context: String::new(), cuts })
    }

    fn merge(&self, a: &Schema, b: &Schema) -> Option<Schema> {
        let mut merged = merge_by(a, b, |_, a, b| match (a, b) {
            (Some(a), Some(b)) if a == b => Some(a.clone()),
            // As within a file: another number of values, or none at all, makes a vector.
            (Some(a), Some(b)) => match (elements(a)?, elements(b)?) {
                (of_a, of_b) if of_a == of_b => Some(FieldKind::Ragged { dtype: of_a }),
                _ => None,
            },
            (Some(kind), None) | (None, Some(kind)) => Some(
                elements(kind).map_or_else(|| kind.clone(), |dtype| FieldKind::Ragged { dtype }),
            ),
            (None, None) => None,
        })?;
        merged.fields.sort_by(|a, b| a.name.cmp(&b.name));
        Some(merged)
    }

    fn decode(
        &self,
        stored: &[u8],
        form: &Form,
        _schema: &Schema,
        object: &str,
        content: &mut dyn std::io::Write,
    ) -> Result<(), Error> {
        decompress(form, stored, Bound::Extent, NAME, object, content)
    }

    fn open(
        &self,
        content: &[u8],
        schema: &Schema,
        _context: &str,
        object: &str,
    ) -> Result<Box<dyn Rows>, Error> {
        let mut starts = Vec::new();
        let mut at = 0;
        while at < content.len() {
            let data = Record { content, at, object }.data()?;
            starts.push(at as u64);
            at = data.end + FOOT_BYTES;
        }
        if u32::try_from(starts.len()).is_err() {
            return Err(unsupported(object, "it has more than 2^32 records".to_owned()));
        }
        Ok(Box::new(Records { starts, schema: schema.clone(), object: object.to_owned() }))
    }
}

/// `name` without its shard's number: `train.tfrecord` of `train.tfrecord-00003-of-00010`.
fn without_shard(name: &str) -> Option<&str> {
    let without_digits = |text: &str| {
        let rest = text.trim_end_matches(|digit: char| digit.is_ascii_digit());
        (rest.len() < text.len()).then_some(rest.len())
    };
    let rest = name[..without_digits(name)?].strip_suffix("-of-")?;
    rest[..without_digits(rest)?].strip_suffix('-')
}

/// The type of the elements of a number or vector.
fn elements(kind: &FieldKind) -> Option<Dtype> {
    match kind {
        FieldKind::Tensor { dtype, shape } if shape.is_empty() => Some(*dtype),
        _ => vector(kind),
    }
}

/// A record of `content`, by where it starts.
struct Record<'a> {
    content: &'a [u8],
    at: usize,
    object: &'a str,
}

impl Record<'_> {
    /// Where its data lies; its length was checked, and that it is all there.
    fn data(&self) -> Result<Range<usize>, Error> {
        head(self.content, self.at).map_err(|what| self.damaged(what))
    }

    /// Checks the data against its checksum.
    fn check(&self, data: Range<usize>) -> Result<(), Error> {
        let stated = read_u32(self.content, data.end);
        if stated == Some(masked(&self.content[data])) {
            Ok(())
        } else {
            Err(self.damaged("the data is not what its checksum says"))
        }
    }

    fn damaged(&self, what: &str) -> Error {
        Error::Damaged {
            format: NAME,
            object: format!("{}: the record at byte {}", self.object, self.at),
            what: what.to_owned(),
        }
    }

    fn unsupported(&self, what: String) -> Error {
        unsupported(&format!("{}: the record at byte {}", self.object, self.at), what)
    }
}

fn unsupported(object: &str, what: String) -> Error {
    Error::Unsupported { format: NAME, object: object.to_owned(), what }
}

/// Where the data of the record at `at` lies.
fn head(content: &[u8], at: usize) -> Result<Range<usize>, &'static str> {
    let length = content.get(at..at + 8).ok_or("it is cut off within its length")?;
    let stated = read_u32(content, at + 8).ok_or("it is cut off within its length")?;
    if stated != masked(length) {
        return Err("the length is not what its checksum says");
    }
    let mut bytes = [0; 8];
    bytes.copy_from_slice(length);
    let start = at + HEAD_BYTES;
    // What is behind the head bounds what a record can claim.
    let room = (content.len() - start).checked_sub(FOOT_BYTES).ok_or("it is cut off")?;
    match usize::try_from(u64::from_le_bytes(bytes)) {
        Ok(length) if length <= room => Ok(start..start + length),
        _ => Err("it is cut off within its data"),
    }
}

fn read_u32(content: &[u8], at: usize) -> Option<u32> {
    let bytes = content.get(at..at.checked_add(4)?)?;
    bytes.try_into().ok().map(u32::from_le_bytes)
}

/// The checksum as records keep it: rotated and moved, so that a checksum of data that holds
/// checksums is still one.
fn masked(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// What the records so far have.
#[derive(Default)]
struct Seen {
    rows: u64,
    features: BTreeMap<Vec<u8>, SeenFeature>,
}

/// What a feature was in the records so far.
struct SeenFeature {
    list: List,
    /// Its number of values, while that is the same in all of them.
    count: Option<u64>,
    /// In how many records it was, and in which last.
    rows: u64,
    last_row: u64,
    /// What it has there: of two entries of one name the last holds, so it counts when the
    /// record is over.
    last: u64,
}

impl SeenFeature {
    fn settle(&mut self) {
        self.count = match self.count {
            Some(count) if self.rows > 1 && count != self.last => None,
            None if self.rows > 1 => None,
            _ => Some(self.last),
        };
    }
}

impl Seen {
    fn record(&mut self, record: &Record<'_>, data: &[u8]) -> Result<(), Error> {
        let row = self.rows;
        self.rows += 1;
        let mut refusal = None;
        example::features(data, |name, feature| {
            if refusal.is_none() {
                refusal = self.feature(row, name, &feature)?;
            }
            Ok(())
        })
        .map_err(|what| record.damaged(what))?;
        refusal.map_or(Ok(()), |what| Err(record.unsupported(what)))
    }

    /// Takes in a feature of record `row`; says why it cannot be fed, if so.
    fn feature(
        &mut self,
        row: u64,
        name: &[u8],
        feature: &Feature<'_>,
    ) -> Result<Option<String>, example::Fault> {
        let Some(list) = feature.list else { return Ok(None) };
        let count = feature.count()?;
        let shown = || String::from_utf8_lossy(name).chars().take(80).collect::<String>();
        if list == List::Bytes && count > 1 {
            return Ok(Some(format!(
                "feature `{}` has {count} byte strings, and a field has one value: write it as \
                 one string",
                shown()
            )));
        }
        if let Some(seen) = self.features.get_mut(name) {
            if seen.list != list {
                return Ok(Some(format!(
                    "feature `{}` is a {} here and a {} in records before",
                    shown(),
                    list.name(),
                    seen.list.name()
                )));
            }
            if seen.last_row != row {
                seen.settle();
                seen.rows += 1;
                seen.last_row = row;
            }
            seen.last = count;
            return Ok(None);
        }
        if std::str::from_utf8(name).is_err() {
            return Ok(Some(format!("feature `{}` has a name that is not UTF-8", shown())));
        }
        if self.features.len() == FIELDS_MAX {
            return Ok(Some(format!("its records have more than {FIELDS_MAX} features")));
        }
        let seen = SeenFeature { list, count: None, rows: 1, last_row: row, last: count };
        self.features.insert(name.to_vec(), seen);
        Ok(None)
    }

    fn finish(self, object: &str) -> Result<Schema, Error> {
        if self.rows > 0 && self.features.is_empty() {
            let what = "no record has a feature: is its payload a tf.train.Example?".to_owned();
            return Err(unsupported(object, what));
        }
        let rows = self.rows;
        let field = |(name, mut seen): (Vec<u8>, SeenFeature)| {
            seen.settle();
            let always = seen.rows == rows;
            let number = |dtype| match seen.count {
                Some(1) if always => FieldKind::Tensor { dtype, shape: Vec::new() },
                // A vector that is empty everywhere is a vector that may be empty.
                Some(count @ 2..=0xffff_ffff) if always => {
                    FieldKind::Tensor { dtype, shape: vec![count as u32] }
                }
                _ => FieldKind::Ragged { dtype },
            };
            let kind = match seen.list {
                List::Bytes => FieldKind::Bytes,
                List::Float => number(Dtype::F32),
                List::Int64 => number(Dtype::I64),
            };
            // Names were checked when they were first seen.
            Field { name: String::from_utf8_lossy(&name).into_owned(), kind }
        };
        Ok(Schema { fields: self.features.into_iter().map(field).collect() })
    }
}

/// The records of one extent.
#[derive(Debug)]
struct Records {
    starts: Vec<u64>,
    schema: Schema,
    object: String,
}

impl Records {
    fn record<'a>(&'a self, content: &'a [u8], row: u32) -> Result<Record<'a>, Error> {
        match self.starts.get(row as usize) {
            Some(&at) if at < content.len() as u64 => {
                Ok(Record { content, at: at as usize, object: &self.object })
            }
            _ => Err(Error::Damaged {
                format: NAME,
                object: self.object.clone(),
                what: format!("it has no row {row}"),
            }),
        }
    }
}

impl Rows for Records {
    fn rows(&self) -> u32 {
        // Checked when it was opened.
        self.starts.len() as u32
    }

    fn value<'a>(&self, content: &'a [u8], row: u32, field: usize) -> Result<Cow<'a, [u8]>, Error> {
        let record = self.record(content, row)?;
        let Some(Field { name, kind }) = self.schema.fields.get(field) else {
            return Err(record.damaged(&format!("it has no field {field}")));
        };
        let in_field = |what: &str| record.damaged(&format!("feature `{name}`: {what}"));
        let data = &content[record.data()?];
        let feature = example::find(data, name).map_err(in_field)?;
        let Some((feature, list)) = feature.and_then(|found| Some((found, found.list?))) else {
            return missing(kind).ok_or_else(|| in_field("it is missing, and is a number"));
        };
        let value = match (list, elements(kind)) {
            (List::Bytes, None) if matches!(kind, FieldKind::Bytes) => {
                Cow::Borrowed(feature.bytes().map_err(in_field)?)
            }
            (List::Float, Some(Dtype::F32)) => feature.floats().map_err(in_field)?,
            (List::Int64, Some(Dtype::I64)) => Cow::Owned(feature.integers().map_err(in_field)?),
            _ => return Err(in_field(&format!("it is a {}, not a {kind:?}", list.name()))),
        };
        match kind.fixed_bytes() {
            Some(bytes) if bytes != value.len() => Err(in_field(&format!(
                "it has {} values, not {}",
                value.len() / kind.item_bytes(),
                bytes / kind.item_bytes()
            ))),
            _ => Ok(value),
        }
    }

    fn place(&self, content: &[u8], row: u32) -> Range<usize> {
        let start = |row: usize| {
            self.starts.get(row).map_or(content.len(), |&at| content.len().min(at as usize))
        };
        start(row as usize)..start(row as usize + 1)
    }

    fn framing(&self, content: &[u8]) -> Vec<Range<usize>> {
        let mut ranges = Vec::new();
        for &at in &self.starts {
            let at = at as usize;
            join(&mut ranges, at..(at + HEAD_BYTES).min(content.len()));
        }
        ranges
    }
}

/// The value of a field that a record lacks, if its kind has one.
fn missing(kind: &FieldKind) -> Option<Cow<'static, [u8]>> {
    match (kind, kind.fixed_bytes()) {
        (_, None) => Some(Cow::Borrowed(&[])),
        (FieldKind::Tensor { dtype: Dtype::F32, .. }, Some(bytes)) => {
            Some(Cow::Owned(f32::NAN.to_le_bytes().repeat(bytes / 4)))
        }
        _ => None,
    }
}
