//! Which of a Parquet file's leaves make which field.
//!
//! Parquet stores a tree as its leaves, each with definition levels (how far down its path values
//! are present) and repetition levels (where lists go on). [`sources`] walks the tree once and
//! notes for each field its leaf and the level at which an element of its lists exists.

use forebay_types::{Dtype, FieldKind};
use parquet::{
    basic::{ConvertedType, LogicalType, Repetition, Type as Physical},
    schema::types::Type,
};

/// A field, and the leaf its values come from.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) name: String,
    /// Its column's number in a row group.
    pub(crate) leaf: usize,
    pub(crate) value: Value,
    /// The lists its values stand in, one in the other.
    pub(crate) lists: usize,
    /// The definition level from which on an element of the innermost list exists.
    pub(crate) element_level: i16,
    /// For Hugging Face's images and sounds: the column of the path they came from.
    pub(crate) path_leaf: Option<usize>,
}

/// What one value of a leaf is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Number(Dtype),
    FixedBytes(u32),
    Bytes,
    Text,
}

impl Value {
    /// The bytes of one value, if all have the same.
    pub(crate) const fn bytes(self) -> Option<usize> {
        match self {
            Self::Number(dtype) => Some(dtype.bytes() as usize),
            Self::FixedBytes(bytes) => Some(bytes as usize),
            Self::Bytes | Self::Text => None,
        }
    }

    /// The type of its elements.
    pub(crate) const fn dtype(self) -> Dtype {
        match self {
            Self::Number(dtype) => dtype,
            _ => Dtype::U8,
        }
    }
}

/// The most bytes of one tensor: a null one is filled in, and its size is only claimed.
const TENSOR_BYTES_MAX: usize = 256 << 20;
/// The most groups in groups.
const LEVELS_MAX: usize = 64;

impl Source {
    /// What its values are. `hint` is what Arrow's schema or the dataset says; Parquet itself does
    /// not know lists of fixed size.
    pub(crate) fn kind(&self, hint: Option<&FieldKind>) -> Result<FieldKind, String> {
        let kind = match (self.value, self.lists) {
            (Value::Number(dtype), 0) => FieldKind::Tensor { dtype, shape: Vec::new() },
            (Value::FixedBytes(bytes), 0) => {
                FieldKind::Tensor { dtype: Dtype::U8, shape: vec![bytes] }
            }
            (Value::Bytes, 0) => FieldKind::Bytes,
            (Value::Text, 0) => FieldKind::Text,
            (Value::Number(dtype), lists) => match hint {
                Some(FieldKind::Tensor { dtype: hinted, shape })
                    if *hinted == dtype && shape.len() == lists =>
                {
                    FieldKind::Tensor { dtype, shape: shape.clone() }
                }
                _ if lists == 1 => FieldKind::Ragged { dtype },
                _ => {
                    return Err(format!(
                        "column `{}` is a list of lists. Flatten it, or give its lists a fixed \
                         size",
                        self.name
                    ));
                }
            },
            _ => {
                return Err(format!(
                    "column `{}` is a list of something else than numbers",
                    self.name
                ));
            }
        };
        let too_large = matches!(kind, FieldKind::Tensor { .. })
            && kind.fixed_bytes().is_none_or(|bytes| bytes > TENSOR_BYTES_MAX);
        if too_large {
            return Err(format!(
                "a value of column `{}` has more than {} MiB",
                self.name,
                TENSOR_BYTES_MAX >> 20
            ));
        }
        Ok(kind)
    }
}

/// The fields of a file with this schema.
pub(crate) fn sources(root: &Type) -> Result<Vec<Source>, String> {
    let mut walk = Walk { leaf: 0, sources: Vec::new() };
    for field in root.get_fields() {
        walk.node(field, field.name().to_owned(), At::default())?;
    }
    for (number, source) in walk.sources.iter().enumerate() {
        if walk.sources[..number].iter().any(|earlier| earlier.name == source.name) {
            return Err(format!("two of its columns are called `{}`", source.name));
        }
    }
    if walk.sources.is_empty() {
        return Err("it has no columns".into());
    }
    Ok(walk.sources)
}

/// Where in the tree the walk stands.
#[derive(Clone, Copy, Default)]
struct At {
    definition: i16,
    lists: usize,
    element_level: i16,
    depth: usize,
}

impl At {
    /// One step down, to `node`.
    fn below(self, node: &Type) -> Self {
        let mut at = Self { depth: self.depth + 1, ..self };
        match repetition(node) {
            Repetition::REQUIRED => {}
            Repetition::OPTIONAL => at.definition += 1,
            Repetition::REPEATED => {
                at.definition += 1;
                at.lists += 1;
                at.element_level = at.definition;
            }
        }
        at
    }
}

fn repetition(node: &Type) -> Repetition {
    let info = node.get_basic_info();
    if info.has_repetition() { info.repetition() } else { Repetition::REQUIRED }
}

struct Walk {
    leaf: usize,
    sources: Vec<Source>,
}

impl Walk {
    fn node(&mut self, node: &Type, path: String, at: At) -> Result<(), String> {
        if at.depth > LEVELS_MAX {
            return Err(format!("column `{path}` is nested too deeply"));
        }
        let here = at.below(node);
        if node.is_primitive() {
            return self.primitive(node, path, here);
        }
        let converted = node.get_basic_info().converted_type();
        let logical = node.get_basic_info().logical_type_ref();
        let is_list =
            converted == ConvertedType::LIST || matches!(logical, Some(LogicalType::List));
        if converted == ConvertedType::MAP
            || converted == ConvertedType::MAP_KEY_VALUE
            || matches!(logical, Some(LogicalType::Map))
        {
            return Err(format!("column `{path}` is a map, which is not read. Drop or convert it"));
        }
        if is_list {
            return self.list(node, path, here);
        }
        if repetition(node) == Repetition::REPEATED {
            return Err(format!("column `{path}` is a list of structs, which is not read"));
        }
        if let [first, second] = node.get_fields()
            && let Some(bytes_first) = media(first, second)
        {
            let leaf = self.leaf;
            self.leaf += 2;
            let (bytes, path_leaf) = if bytes_first { (leaf, leaf + 1) } else { (leaf + 1, leaf) };
            self.sources.push(Source {
                name: path,
                leaf: bytes,
                value: Value::Bytes,
                lists: here.lists,
                element_level: here.element_level,
                path_leaf: Some(path_leaf),
            });
            return Ok(());
        }
        for child in node.get_fields() {
            self.node(child, format!("{path}.{}", child.name()), here)?;
        }
        Ok(())
    }

    /// A list: a group of one repeated child, which holds the element or, in old files, is it.
    fn list(&mut self, node: &Type, path: String, at: At) -> Result<(), String> {
        let [repeated] = node.get_fields() else {
            return Err(format!("column `{path}` is a list of no known form"));
        };
        if repetition(repeated) != Repetition::REPEATED {
            return Err(format!("column `{path}` is a list that does not repeat"));
        }
        if repeated.is_primitive() {
            return self.node(repeated, path, at);
        }
        let [element] = repeated.get_fields() else {
            return Err(format!("column `{path}` is a list of structs, which is not read"));
        };
        self.node(element, path, at.below(repeated))
    }

    fn primitive(&mut self, node: &Type, path: String, at: At) -> Result<(), String> {
        let value = value(node).map_err(|what| {
            format!("column `{path}` is of type {what}, which is not read. Drop or convert it")
        })?;
        self.sources.push(Source {
            name: path,
            leaf: self.leaf,
            value,
            lists: at.lists,
            element_level: at.element_level,
            path_leaf: None,
        });
        self.leaf += 1;
        Ok(())
    }
}

/// Whether two parts are how Hugging Face stores media, and if so whether `bytes` comes first.
fn media(first: &Type, second: &Type) -> Option<bool> {
    let is = |node: &Type, name: &str, wanted: Value| {
        node.is_primitive()
            && node.name() == name
            && repetition(node) != Repetition::REPEATED
            && value(node) == Ok(wanted)
    };
    if is(first, "bytes", Value::Bytes) && is(second, "path", Value::Text) {
        Some(true)
    } else if is(first, "path", Value::Text) && is(second, "bytes", Value::Bytes) {
        Some(false)
    } else {
        None
    }
}

fn value(node: &Type) -> Result<Value, String> {
    let Type::PrimitiveType { physical_type, type_length, .. } = node else {
        return Err("group".into());
    };
    let logical = node.get_basic_info().logical_type_ref();
    let converted = node.get_basic_info().converted_type();
    if converted == ConvertedType::DECIMAL || matches!(logical, Some(LogicalType::Decimal { .. })) {
        return Err("decimal".into());
    }
    Ok(match physical_type {
        Physical::BOOLEAN => Value::Number(Dtype::Bool),
        Physical::FLOAT => Value::Number(Dtype::F32),
        Physical::DOUBLE => Value::Number(Dtype::F64),
        Physical::INT64 if is_unsigned(logical, converted) => Value::Number(Dtype::U64),
        Physical::INT64 => Value::Number(Dtype::I64),
        Physical::INT32 => Value::Number(small_integer(logical, converted)),
        Physical::INT96 => return Err("INT96".into()),
        Physical::BYTE_ARRAY => {
            let text = matches!(
                converted,
                ConvertedType::UTF8 | ConvertedType::ENUM | ConvertedType::JSON
            ) || matches!(
                logical,
                Some(LogicalType::String | LogicalType::Enum | LogicalType::Json)
            );
            if text { Value::Text } else { Value::Bytes }
        }
        Physical::FIXED_LEN_BYTE_ARRAY => {
            if matches!(logical, Some(LogicalType::Float16)) && *type_length == 2 {
                Value::Number(Dtype::F16)
            } else {
                Value::FixedBytes(
                    u32::try_from(*type_length).map_err(|_| "bytes of negative length")?,
                )
            }
        }
    })
}

const fn is_unsigned(logical: Option<&LogicalType>, converted: ConvertedType) -> bool {
    matches!(converted, ConvertedType::UINT_64)
        || matches!(logical, Some(LogicalType::Integer(integer)) if !integer.is_signed)
}

/// The type of an integer that is stored in 32 bits.
fn small_integer(logical: Option<&LogicalType>, converted: ConvertedType) -> Dtype {
    let (bits, signed) = match (logical, converted) {
        (Some(LogicalType::Integer(integer)), _) => (integer.bit_width, integer.is_signed),
        (_, ConvertedType::INT_8) => (8, true),
        (_, ConvertedType::INT_16) => (16, true),
        (_, ConvertedType::UINT_8) => (8, false),
        (_, ConvertedType::UINT_16) => (16, false),
        (_, ConvertedType::UINT_32) => (32, false),
        _ => (32, true),
    };
    match (bits, signed) {
        (8, true) => Dtype::I8,
        (16, true) => Dtype::I16,
        (8, false) => Dtype::U8,
        (16, false) => Dtype::U16,
        (_, false) => Dtype::U32,
        (_, true) => Dtype::I32,
    }
}
