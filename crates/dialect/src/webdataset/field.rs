//! What a field of a WebDataset is: its extension says what it may be, its values what it is.

use forebay_types::{Dtype, FieldKind};

use super::npy;
use crate::merge::{self, may_be_empty, vector};

/// What an extension promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Promise {
    /// Digits.
    Integer,
    /// UTF-8.
    Text,
    /// A NumPy file.
    Npy,
    /// Nothing.
    Bytes,
}

/// What the field `name` promises, by the last part of its extension: `left.png` is a `png`.
pub(crate) fn promise(name: &str) -> Promise {
    match name.rsplit('.').next().unwrap_or(name) {
        "cls" | "cls2" | "class" | "count" | "index" | "inx" | "id" => Promise::Integer,
        "txt" | "text" | "transcript" | "json" | "jsn" | "jsonl" => Promise::Text,
        "npy" => Promise::Npy,
        _ => Promise::Bytes,
    }
}

/// The kind of a number.
const INTEGER: FieldKind = FieldKind::Tensor { dtype: Dtype::I64, shape: Vec::new() };

/// The kind of one value of a field.
pub(crate) fn kind_of(promise: Promise, data: &[u8]) -> FieldKind {
    match promise {
        Promise::Integer if integer(data).is_some() => INTEGER,
        Promise::Integer | Promise::Text if std::str::from_utf8(data).is_ok() => FieldKind::Text,
        Promise::Npy => npy::tensor(data).map_or(FieldKind::Bytes, |tensor| FieldKind::Tensor {
            dtype: tensor.dtype,
            shape: tensor.shape,
        }),
        _ => FieldKind::Bytes,
    }
}

/// The kind of a field whose values are of the kinds `a` and `b`, or missing.
pub(crate) fn join(
    promise: Promise,
    a: Option<&FieldKind>,
    b: Option<&FieldKind>,
) -> Option<FieldKind> {
    match (a, b) {
        (Some(a), Some(b)) => merge::join(a, b).or_else(|| {
            // Text is bytes as well, and so is a whole NumPy file. A number is not: whoever
            // wants it would get its digits.
            let number = promise == Promise::Integer && (*a == INTEGER || *b == INTEGER);
            (!number).then_some(FieldKind::Bytes)
        }),
        (Some(kind), None) | (None, Some(kind)) => match (promise, vector(kind)) {
            (Promise::Npy, Some(dtype)) => Some(FieldKind::Ragged { dtype }),
            (Promise::Npy, None) => Some(FieldKind::Bytes),
            _ => may_be_empty(kind).then(|| kind.clone()),
        },
        (None, None) => None,
    }
}

/// The integer that `data` spells, with spaces around it.
pub(crate) fn integer(data: &[u8]) -> Option<i64> {
    std::str::from_utf8(data.trim_ascii()).ok()?.parse().ok()
}
