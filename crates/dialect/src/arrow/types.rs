//! Arrow's types, as far as samples can be made of them.
//!
//! A [`Node`] is a column or a part of one, in the order in which Arrow lists the parts of a
//! record batch. Names and types are all it keeps: metadata (which pandas and Hugging Face fill
//! with facts about one file) and nullability may differ between the files of a dataset.

use arrow_ipc::{Endianness, Precision, Type};
use forebay_types::{Dtype, Field, FieldKind, Schema};
use serde::{Deserialize, Serialize};

/// A column, or a part of one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) kind: NodeKind,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) children: Vec<Node>,
}

/// What a [`Node`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum NodeKind {
    Number(Dtype),
    /// One bit a value.
    Flag,
    FixedBytes(u32),
    FixedList(u32),
    List,
    LargeList,
    Bytes,
    LargeBytes,
    Text,
    LargeText,
    Struct,
}

/// Why a schema cannot be fed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Damaged(String),
    Unsupported(String),
}

impl Node {
    /// Whether it is how Hugging Face stores an image, a sound or a video: encoded bytes and the
    /// path they came from.
    pub(crate) fn is_media(&self) -> bool {
        let is = |node: &Self, name: &str, kinds: [NodeKind; 2]| {
            node.name == name && kinds.contains(&node.kind)
        };
        self.kind == NodeKind::Struct
            && self.children.len() == 2
            && self
                .children
                .iter()
                .any(|child| is(child, "bytes", [NodeKind::Bytes, NodeKind::LargeBytes]))
            && self
                .children
                .iter()
                .any(|child| is(child, "path", [NodeKind::Text, NodeKind::LargeText]))
    }

    /// The type of a number or a flag.
    pub(crate) const fn dtype(&self) -> Option<Dtype> {
        match self.kind {
            NodeKind::Number(dtype) => Some(dtype),
            NodeKind::Flag => Some(Dtype::Bool),
            NodeKind::FixedBytes(_) => Some(Dtype::U8),
            _ => None,
        }
    }

    /// Type and shape of a number or of nested lists of fixed size.
    fn tensor(&self) -> Option<(Dtype, Vec<u32>)> {
        let (mut node, mut shape) = (self, Vec::new());
        while let NodeKind::FixedList(size) = node.kind {
            shape.push(size);
            node = node.children.first()?;
        }
        if let NodeKind::FixedBytes(size) = node.kind {
            shape.push(size);
        }
        Some((node.dtype()?, shape))
    }
}

/// The fields that samples of these columns have.
pub(crate) fn schema(nodes: &[Node]) -> Result<Schema, Refusal> {
    let mut fields = Vec::new();
    for node in nodes {
        add(node, &node.name, &mut fields)?;
    }
    for (number, field) in fields.iter().enumerate() {
        if fields[..number].iter().any(|earlier| earlier.name == field.name) {
            return Err(Refusal::Unsupported(format!(
                "two of its columns are called `{}`",
                field.name
            )));
        }
    }
    if fields.is_empty() {
        return Err(Refusal::Unsupported("it has no columns".into()));
    }
    Ok(Schema { fields })
}

/// Adds the fields of one column, which is called `path`.
pub(crate) fn add(node: &Node, path: &str, fields: &mut Vec<Field>) -> Result<(), Refusal> {
    let kind = match node.kind {
        _ if node.is_media() => FieldKind::Bytes,
        NodeKind::Struct => {
            for child in &node.children {
                add(child, &format!("{path}.{}", child.name), fields)?;
            }
            return Ok(());
        }
        NodeKind::Bytes | NodeKind::LargeBytes => FieldKind::Bytes,
        NodeKind::Text | NodeKind::LargeText => FieldKind::Text,
        NodeKind::List | NodeKind::LargeList => match node.children.first() {
            Some(Node { kind: NodeKind::Number(dtype), .. }) => FieldKind::Ragged { dtype: *dtype },
            Some(Node { kind: NodeKind::Flag, .. }) => FieldKind::Ragged { dtype: Dtype::Bool },
            _ => {
                return Err(Refusal::Unsupported(format!(
                    "column `{path}` is a list of something else than numbers. Flatten it, or \
                     give its inner lists a fixed size"
                )));
            }
        },
        NodeKind::Number(_) | NodeKind::Flag | NodeKind::FixedBytes(_) | NodeKind::FixedList(_) => {
            let (dtype, shape) = node.tensor().ok_or_else(|| {
                Refusal::Unsupported(format!(
                    "column `{path}` is a list of fixed size of something else than numbers"
                ))
            })?;
            let kind = FieldKind::Tensor { dtype, shape };
            kind.fixed_bytes().ok_or_else(|| {
                Refusal::Damaged(format!("column `{path}` has a size without end"))
            })?;
            kind
        }
    };
    fields.push(Field { name: path.into(), kind });
    Ok(())
}

/// Reads the columns of a schema.
pub(crate) fn nodes(schema: arrow_ipc::Schema<'_>) -> Result<Vec<Node>, Refusal> {
    if schema.endianness() != Endianness::Little {
        return Err(Refusal::Unsupported("its numbers are big-endian".into()));
    }
    let fields =
        schema.fields().ok_or_else(|| Refusal::Damaged("its schema has no columns".into()))?;
    fields.iter().map(|field| node(field, "")).collect()
}

fn node(field: arrow_ipc::Field<'_>, parent: &str) -> Result<Node, Refusal> {
    let name = field.name().unwrap_or_default().to_owned();
    let path = if parent.is_empty() { name.clone() } else { format!("{parent}.{name}") };
    if field.dictionary().is_some() {
        return Err(Refusal::Unsupported(format!(
            "column `{path}` is dictionary-encoded. Write it decoded"
        )));
    }
    let kind = node_kind(field).ok_or_else(|| {
        Refusal::Unsupported(format!(
            "column `{path}` is of Arrow type {}, which is not read. Drop or convert it",
            field.type_type().variant_name().unwrap_or("unknown")
        ))
    })?;
    let children = match field.children() {
        Some(children) => {
            children.iter().map(|child| node(child, &path)).collect::<Result<Vec<_>, _>>()?
        }
        None => Vec::new(),
    };
    let wanted = match kind {
        NodeKind::Struct => None,
        NodeKind::List | NodeKind::LargeList | NodeKind::FixedList(_) => Some(1),
        _ => Some(0),
    };
    if wanted.is_some_and(|wanted| wanted != children.len()) {
        return Err(Refusal::Damaged(format!("column `{path}` has {} parts", children.len())));
    }
    Ok(Node { name, kind, children })
}

fn node_kind(field: arrow_ipc::Field<'_>) -> Option<NodeKind> {
    let positive = |size: i32| u32::try_from(size).ok();
    Some(match field.type_type() {
        Type::Int => {
            let int = field.type_as_int()?;
            NodeKind::Number(integer(int.bitWidth(), int.is_signed())?)
        }
        Type::FloatingPoint => {
            NodeKind::Number(match field.type_as_floating_point()?.precision() {
                Precision::HALF => Dtype::F16,
                Precision::SINGLE => Dtype::F32,
                Precision::DOUBLE => Dtype::F64,
                _ => return None,
            })
        }
        // Points in time and spans are the integers they are stored as.
        Type::Date if field.type_as_date()?.unit() == arrow_ipc::DateUnit::DAY => {
            NodeKind::Number(Dtype::I32)
        }
        Type::Time => NodeKind::Number(integer(field.type_as_time()?.bitWidth(), true)?),
        Type::Date | Type::Timestamp | Type::Duration => NodeKind::Number(Dtype::I64),
        Type::Bool => NodeKind::Flag,
        Type::FixedSizeBinary => {
            NodeKind::FixedBytes(positive(field.type_as_fixed_size_binary()?.byteWidth())?)
        }
        Type::FixedSizeList => {
            NodeKind::FixedList(positive(field.type_as_fixed_size_list()?.listSize())?)
        }
        Type::List => NodeKind::List,
        Type::LargeList => NodeKind::LargeList,
        Type::Binary => NodeKind::Bytes,
        Type::LargeBinary => NodeKind::LargeBytes,
        Type::Utf8 => NodeKind::Text,
        Type::LargeUtf8 => NodeKind::LargeText,
        Type::Struct_ => NodeKind::Struct,
        _ => return None,
    })
}

const fn integer(bits: i32, signed: bool) -> Option<Dtype> {
    Some(match (bits, signed) {
        (8, true) => Dtype::I8,
        (16, true) => Dtype::I16,
        (32, true) => Dtype::I32,
        (64, true) => Dtype::I64,
        (8, false) => Dtype::U8,
        (16, false) => Dtype::U16,
        (32, false) => Dtype::U32,
        (64, false) => Dtype::U64,
        _ => return None,
    })
}
