//! JSON lines: one object a line.
//!
//! Rows are the lines that are not blank; fields are the keys of all objects, in the order in
//! which they first appear:
//!
//! | values of a key | field |
//! |---|---|
//! | integers of 64 bits | `I64` |
//! | numbers | `F64` |
//! | `true`, `false` | `BOOL` |
//! | strings | text |
//! | arrays of integers, of numbers, of booleans | vectors of `I64`, `F64`, `BOOL` |
//! | anything else: objects, other arrays, larger integers, a mixture | text: a string as its characters, every other value as its JSON |
//!
//! A value that is null or absent is an empty text or vector, or NaN among floats. Integers and
//! booleans have no such value: they become vectors of at most one element where one is missing.
//! A key that is null in every row is no field. Of two members of one key the last holds.
//!
//! A survey checks every line, and that all is UTF-8. Opening an extent looks for line ends only
//! and keeps 8 bytes for each row; a line is read when a value of it is asked for, and once for
//! each. Text is borrowed unless it has escapes. A compressed file is one extent, which a survey
//! unpacks in memory.

mod column;
mod scan;

use std::{borrow::Cow, collections::HashMap, ops::Range};

use forebay_types::{Dtype, Field, FieldKind, Form, Schema};

use crate::{
    Dialect, Error, FIELDS_MAX, Rows, Survey,
    compression::{Bound, decompress, form_of},
    cutter::{Cutter, whole},
    merge::{may_be_empty, merge_by},
    path::{visible_name, without_ending},
};
use column::{Column, join};
use scan::{Shape, Value, elements, float, integer, members, unescaped};

const NAME: &str = "jsonl";

/// What some editors put before the first line.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Files of JSON lines, plain or compressed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Jsonl;

impl Dialect for Jsonl {
    fn name(&self) -> &'static str {
        NAME
    }

    /// A plain `.json` is one document, or a side file; a compressed one is lines, as large
    /// corpora have them.
    fn claims(&self, path: &str) -> bool {
        let Some(name) = visible_name(path) else { return false };
        let stem = without_ending(&name, &[".gz", ".zst"]);
        let lines = [".jsonl", ".ndjson"].iter().any(|ending| stem.ends_with(ending));
        lines || (stem.len() < name.len() && stem.ends_with(".json"))
    }

    fn survey(&self, stored: &[u8], object: &str, extent_bytes: u64) -> Result<Survey, Error> {
        let form = form_of(stored);
        let mut unpacked = Vec::new();
        let content = if form == Form::Plain {
            stored
        } else {
            decompress(&form, stored, Bound::Extent, NAME, object, &mut unpacked)?;
            &unpacked
        };
        if let Err(fault) = std::str::from_utf8(content) {
            let before = &content[..fault.valid_up_to()];
            let line = memchr::memchr_iter(b'\n', before).count() + 1;
            return Err(damaged(&format!("{object}: line {line}"), "it is not UTF-8".to_owned()));
        }
        let mut cutter = Cutter::new(extent_bytes);
        let mut seen = Seen::default();
        for line in lines(content) {
            seen.line(&content[line.place.clone()], line.number, object)?;
            cutter.row(line.place.start as u64..line.end as u64);
        }
        let rows = seen.rows;
        let schema = seen.finish(object)?;
        let cuts = if form == Form::Plain {
            cutter.finish()
        } else {
            whole(stored, rows, form)
                .ok_or_else(|| unsupported(object, "it has more than 2^32 rows".to_owned()))?
        };
        Ok(Survey { schema, context: String::new(), cuts })
    }

    fn merge(&self, a: &Schema, b: &Schema) -> Option<Schema> {
        merge_by(a, b, |_, a, b| join(a, b))
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
        let starts: Vec<u64> = lines(content).map(|line| line.place.start as u64).collect();
        if u32::try_from(starts.len()).is_err() {
            return Err(unsupported(object, "it has more than 2^32 rows".to_owned()));
        }
        Ok(Box::new(Lines { starts, schema: schema.clone(), object: object.to_owned() }))
    }
}

/// A line that is a row.
struct Line {
    /// Its number, from 1, blank ones counted.
    number: u64,
    place: Range<usize>,
    /// Behind its line end.
    end: usize,
}

/// The lines of `content` that are not blank.
fn lines(content: &[u8]) -> impl Iterator<Item = Line> {
    let mut at = if content.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len() } else { 0 };
    let mut number = 0;
    std::iter::from_fn(move || {
        while at < content.len() {
            let start = at;
            let place = line_at(content, start);
            at = content.len().min(place.end + 1);
            number += 1;
            if !content[place.clone()].trim_ascii().is_empty() {
                return Some(Line { number, place, end: at });
            }
        }
        None
    })
}

/// Where the line that starts at `start` lies, without its end.
fn line_at(content: &[u8], start: usize) -> Range<usize> {
    let rest = content.get(start..).unwrap_or_default();
    start..start + memchr::memchr(b'\n', rest).unwrap_or(rest.len())
}

fn damaged(object: &str, what: String) -> Error {
    Error::Damaged { format: NAME, object: object.to_owned(), what }
}

fn unsupported(object: &str, what: String) -> Error {
    Error::Unsupported { format: NAME, object: object.to_owned(), what }
}

/// What the rows so far have.
#[derive(Default)]
struct Seen {
    rows: u64,
    columns: Vec<(Vec<u8>, Column)>,
    numbers: HashMap<Vec<u8>, usize>,
}

impl Seen {
    fn line(&mut self, line: &[u8], number: u64, object: &str) -> Result<(), Error> {
        self.rows += 1;
        // Most lines have the same keys in the same order.
        let mut next = 0;
        members(line, |key, value| next = self.member(key, value.shape, next) + 1).map_err(
            |fault| {
                let place = format!("{object}: line {number}, byte {}", fault.at + 1);
                damaged(&place, fault.what.to_owned())
            },
        )?;
        if self.columns.len() > FIELDS_MAX {
            let what = format!("its lines up to {number} have more than {FIELDS_MAX} keys");
            return Err(unsupported(object, what));
        }
        Ok(())
    }

    /// Takes in a member whose column is likely to be `likely`; gives the number it is.
    fn member(&mut self, key: &[u8], shape: Shape, likely: usize) -> usize {
        let key = unescaped(key);
        let found = match self.columns.get(likely) {
            Some((name, _)) if **name == *key => Some(likely),
            _ => self.numbers.get(&*key).copied(),
        };
        let row = self.rows;
        if let Some(number) = found {
            self.columns[number].1.value(row, shape);
            return number;
        }
        let number = self.columns.len();
        self.numbers.insert(key.to_vec(), number);
        self.columns.push((key.into_owned(), Column::new(row, shape)));
        number
    }

    fn finish(self, object: &str) -> Result<Schema, Error> {
        let rows = self.rows;
        let field = |(name, column): (Vec<u8>, Column)| {
            let kind = column.kind(rows)?;
            // The whole file was checked to be UTF-8.
            Some(Field { name: String::from_utf8_lossy(&name).into_owned(), kind })
        };
        let fields: Vec<Field> = self.columns.into_iter().filter_map(field).collect();
        if rows > 0 && fields.is_empty() {
            return Err(unsupported(object, "none of its objects has a value".to_owned()));
        }
        Ok(Schema { fields })
    }
}

/// The rows of one extent.
#[derive(Debug)]
struct Lines {
    starts: Vec<u64>,
    schema: Schema,
    object: String,
}

impl Lines {
    fn line(&self, content: &[u8], row: u32) -> Range<usize> {
        let start = self.starts.get(row as usize).map_or(content.len(), |&at| at as usize);
        line_at(content, start.min(content.len()))
    }
}

impl Rows for Lines {
    fn rows(&self) -> u32 {
        // Checked when it was opened.
        self.starts.len() as u32
    }

    fn value<'a>(&self, content: &'a [u8], row: u32, field: usize) -> Result<Cow<'a, [u8]>, Error> {
        let (Some(_), Some(Field { name, kind })) =
            (self.starts.get(row as usize), self.schema.fields.get(field))
        else {
            return Err(damaged(&self.object, format!("it has no row {row} or field {field}")));
        };
        let place = self.line(content, row);
        let wrong = |what: &str| {
            let object = format!("{}: the line at byte {}", self.object, place.start);
            damaged(&object, format!("`{name}` {what}"))
        };
        let mut found: Option<Value<'a>> = None;
        members(&content[place.clone()], |key, value| {
            let escaped = || unescaped(key) == name.as_bytes();
            if key == name.as_bytes() || (key.contains(&b'\\') && escaped()) {
                found = Some(value);
            }
        })
        .map_err(|fault| {
            wrong(&format!("cannot be read: byte {}: {}", fault.at + 1, fault.what))
        })?;
        match found.filter(|value| value.shape != Shape::Null) {
            Some(value) => of_kind(value, kind).ok_or_else(|| wrong(&format!("is no {kind:?}"))),
            None if may_be_empty(kind) => Ok(Cow::Borrowed(&[])),
            None => match kind {
                FieldKind::Tensor { dtype: Dtype::F64, shape } if shape.is_empty() => {
                    Ok(Cow::Owned(f64::NAN.to_le_bytes().to_vec()))
                }
                _ => Err(wrong("is missing, and is a number")),
            },
        }
    }

    /// The line end too: where it is decides what the row is.
    fn place(&self, content: &[u8], row: u32) -> Range<usize> {
        let line = self.line(content, row);
        line.start..content.len().min(line.end + 1)
    }
}

/// The bytes of `value` as a value of `kind`, if it is one.
fn of_kind<'a>(value: Value<'a>, kind: &FieldKind) -> Option<Cow<'a, [u8]>> {
    let (dtype, scalar) = match kind {
        FieldKind::Text => return text(value),
        FieldKind::Bytes => return None,
        FieldKind::Tensor { dtype, shape } if shape.is_empty() => (*dtype, true),
        FieldKind::Tensor { .. } => return None,
        FieldKind::Ragged { dtype } => (*dtype, false),
    };
    let mut bytes = Vec::new();
    match value.shape {
        Shape::Integer | Shape::Float | Shape::Boolean => element(value.json, dtype, &mut bytes)?,
        Shape::Empty | Shape::Integers | Shape::Floats | Shape::Booleans if !scalar => {
            for json in elements(value.json) {
                element(json, dtype, &mut bytes)?;
            }
        }
        _ => return None,
    }
    Some(Cow::Owned(bytes))
}

/// A string as its characters, every other value as its JSON.
fn text(value: Value<'_>) -> Option<Cow<'_, [u8]>> {
    let bytes = match value.shape {
        Shape::Text => unescaped(&value.json[1..value.json.len() - 1]),
        _ => Cow::Borrowed(value.json),
    };
    std::str::from_utf8(&bytes).is_ok().then_some(bytes)
}

/// Appends the element that `json` spells.
fn element(json: &[u8], dtype: Dtype, bytes: &mut Vec<u8>) -> Option<()> {
    match (dtype, json) {
        (Dtype::Bool, b"true") => bytes.push(1),
        (Dtype::Bool, b"false") => bytes.push(0),
        (Dtype::I64, _) => bytes.extend_from_slice(&integer(json)?.to_le_bytes()),
        (Dtype::F64, _) => bytes.extend_from_slice(&float(json)?.to_le_bytes()),
        _ => return None,
    }
    Some(())
}
