//! The samples of one extent.

use std::{borrow::Cow, collections::HashMap, ops::Range};

use forebay_types::{Dtype, Field, FieldKind, Schema};

use super::{KEY, NAME, Parts, field::integer, npy, tar, twice, unsupported};
use crate::{Error, Rows, cutter, merge::may_be_empty};

/// Where the samples of an extent lie.
#[derive(Debug)]
pub(super) struct Samples {
    samples: Vec<Sample>,
    /// The values of all samples, as they lie.
    values: Vec<Value>,
    schema: Schema,
    object: String,
}

#[derive(Debug)]
struct Sample {
    key: tar::Name,
    place: Range<usize>,
    /// Its values, among those of all samples.
    values: Range<usize>,
}

#[derive(Debug)]
struct Value {
    field: u32,
    data: Range<usize>,
}

impl Samples {
    pub(super) fn open(content: &[u8], schema: &Schema, object: &str) -> Result<Self, Error> {
        let numbers: HashMap<&str, u32> =
            schema.fields.iter().map(|field| field.name.as_str()).zip(0..).collect();
        let mut samples: Vec<Sample> = Vec::new();
        let mut values: Vec<Value> = Vec::new();
        let mut parts = Parts::new(content, object);
        while let Some(part) = parts.next()? {
            let key = || String::from_utf8_lossy(&part.key.of(content)).into_owned();
            let field = match numbers.get(part.field.as_str()) {
                Some(&field) if part.field != KEY => field,
                _ => {
                    let what = format!(
                        "sample `{}` has a field `{}` that the dataset does not have",
                        key(),
                        part.field
                    );
                    return Err(damaged(object, what));
                }
            };
            let value = Value { field, data: part.member.data };
            let (start, end) = (part.member.start, part.member.end);
            match samples.last_mut() {
                Some(sample) if !part.first => {
                    if values[sample.values.clone()].iter().any(|other| other.field == field) {
                        return Err(twice(object, &key(), &part.field));
                    }
                    sample.place.end = end;
                    sample.values.end += 1;
                }
                _ => samples.push(Sample {
                    key: part.key,
                    place: start..end,
                    values: values.len()..values.len() + 1,
                }),
            }
            values.push(value);
        }
        if u32::try_from(samples.len()).is_err() {
            return Err(unsupported(object, "it has more than 2^32 samples".to_owned()));
        }
        Ok(Self { samples, values, schema: schema.clone(), object: object.to_owned() })
    }
}

fn damaged(object: &str, what: String) -> Error {
    Error::Damaged { format: NAME, object: object.to_owned(), what }
}

impl Rows for Samples {
    fn rows(&self) -> u32 {
        // Checked when it was opened.
        self.samples.len() as u32
    }

    fn value<'a>(&self, content: &'a [u8], row: u32, field: usize) -> Result<Cow<'a, [u8]>, Error> {
        let (Some(sample), Some(Field { name, kind })) =
            (self.samples.get(row as usize), self.schema.fields.get(field))
        else {
            return Err(damaged(&self.object, format!("it has no row {row} or field {field}")));
        };
        if name == KEY {
            return Ok(sample.key.of(content));
        }
        let wrong = |what: &str| {
            let key = String::from_utf8_lossy(&sample.key.of(content)).into_owned();
            damaged(&self.object, format!("field `{name}` of sample `{key}` {what}"))
        };
        let mut values = self.values[sample.values.clone()].iter();
        let Some(value) = values.find(|value| value.field as usize == field) else {
            return if may_be_empty(kind) {
                Ok(Cow::Borrowed(&[]))
            } else {
                Err(wrong("is missing, and is a number or a tensor"))
            };
        };
        let data = content.get(value.data.clone()).ok_or_else(|| wrong("is cut off"))?;
        let tensor = |dtype: Dtype| {
            npy::tensor(data)
                .filter(|tensor| tensor.dtype == dtype)
                .ok_or_else(|| wrong("is no NumPy file of the dataset's type"))
        };
        match kind {
            FieldKind::Bytes => Ok(Cow::Borrowed(data)),
            FieldKind::Text if std::str::from_utf8(data).is_ok() => Ok(Cow::Borrowed(data)),
            FieldKind::Text => Err(wrong("is not UTF-8")),
            FieldKind::Tensor { dtype: Dtype::I64, shape }
                if shape.is_empty() && !data.starts_with(b"\x93NUMPY") =>
            {
                let number = integer(data).ok_or_else(|| wrong("is not an integer"))?;
                Ok(Cow::Owned(number.to_le_bytes().to_vec()))
            }
            FieldKind::Tensor { dtype, shape } => {
                let tensor = tensor(*dtype)?;
                if tensor.shape == *shape {
                    Ok(Cow::Borrowed(tensor.elements))
                } else {
                    Err(wrong(&format!("has the shape {:?}, not {shape:?}", tensor.shape)))
                }
            }
            FieldKind::Ragged { dtype } => {
                let tensor = tensor(*dtype)?;
                if tensor.shape.len() == 1 {
                    Ok(Cow::Borrowed(tensor.elements))
                } else {
                    Err(wrong(&format!("has the shape {:?}, and should be flat", tensor.shape)))
                }
            }
        }
    }

    fn label(&self, content: &[u8], row: u32) -> Option<String> {
        let key = self.samples.get(row as usize)?.key.of(content);
        Some(String::from_utf8_lossy(&key).into_owned())
    }

    fn place(&self, content: &[u8], row: u32) -> Range<usize> {
        let place = self.samples.get(row as usize).map_or(0..0, |sample| sample.place.clone());
        place.start.min(content.len())..place.end.min(content.len())
    }

    /// All but the values: what is passed over was read as well.
    fn framing(&self, content: &[u8]) -> Vec<Range<usize>> {
        let mut ranges = Vec::new();
        let mut at = 0;
        for value in &self.values {
            cutter::join(&mut ranges, at..value.data.start);
            at = value.data.end;
        }
        cutter::join(&mut ranges, at..content.len().max(at));
        ranges
    }
}
