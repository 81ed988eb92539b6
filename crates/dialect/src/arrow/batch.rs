//! Where the values of one record batch lie.
//!
//! Arrow lists a batch's parts depth first: for each node its length and number of nulls, and its
//! buffers (validity, then offsets, then values). [`Batch::read`] walks them beside the columns
//! and checks that fixed parts are as long as their rows demand. Offsets are checked when a value
//! is asked for: opening an extent costs the same however many rows it has.

use std::{borrow::Cow, ops::Range};

use arrow_ipc::RecordBatch;
use forebay_types::Dtype;

use super::types::{Node, NodeKind, Refusal};
use crate::{
    absent::erase,
    bytes::{bit, entry},
};

/// One record batch.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) rows: usize,
    pub(crate) columns: Vec<Column>,
}

/// The values of one field.
#[derive(Debug)]
pub(crate) struct Column {
    pub(crate) name: String,
    nulls: Vec<Nulls>,
    body: Body,
}

/// A bitmap of one level of a column: `per_row` bits each row.
#[derive(Clone, Debug)]
struct Nulls {
    bits: Range<usize>,
    per_row: usize,
}

#[derive(Debug)]
enum Body {
    /// `per_row` elements each row.
    Fixed {
        items: Items,
        per_row: usize,
    },
    List {
        offsets: Offsets,
        items: Items,
        nulls: Option<Range<usize>>,
    },
    Bytes {
        value: Bytes,
        text: bool,
    },
    /// Encoded bytes, and the path that stands for them where there are none.
    Media {
        value: Bytes,
        path: Bytes,
    },
}

/// Elements one after the other.
#[derive(Debug)]
struct Items {
    values: Range<usize>,
    dtype: Dtype,
    /// One bit an element instead of its bytes.
    bits: bool,
}

#[derive(Debug)]
struct Offsets {
    table: Range<usize>,
    width_bytes: usize,
}

/// Bytes of any length.
#[derive(Debug)]
struct Bytes {
    offsets: Offsets,
    values: Range<usize>,
    nulls: Vec<Nulls>,
}

/// Why a value cannot be given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NoValue {
    Damaged(String),
    /// It is null, and its type has nothing that stands for it.
    Null,
    /// It is a path to elsewhere.
    Elsewhere(String),
}

impl Batch {
    /// Reads the batch whose buffers lie in `body` of `content`.
    pub(crate) fn read(
        header: RecordBatch<'_>,
        body: Range<usize>,
        nodes: &[Node],
    ) -> Result<Self, Refusal> {
        if header.compression().is_some() {
            return Err(Refusal::Unsupported(
                "its buffers are compressed. Write it uncompressed (Feather: \
                 `compression=\"uncompressed\"`)"
                    .into(),
            ));
        }
        let rows = usize::try_from(header.length())
            .map_err(|_| Refusal::Damaged("a record batch has a negative length".into()))?;
        let mut walk = Walk { header, body, node: 0, buffer: 0, columns: Vec::new() };
        for node in nodes {
            walk.column(node, &node.name, rows, &[]).map_err(|what| {
                Refusal::Damaged(format!("column `{}` of a record batch {what}", node.name))
            })?;
        }
        Ok(Self { rows, columns: walk.columns })
    }
}

struct Walk<'a> {
    header: RecordBatch<'a>,
    body: Range<usize>,
    node: usize,
    buffer: usize,
    columns: Vec<Column>,
}

impl Walk<'_> {
    /// The next node's length and bitmap. `items` is the length it must have, if that is known.
    fn node(&mut self, items: Option<usize>) -> Result<(usize, Option<Range<usize>>), String> {
        let nodes = self.header.nodes().ok_or("has no lengths")?;
        if self.node >= nodes.len() {
            return Err("has no length".into());
        }
        let node = nodes.get(self.node);
        self.node += 1;
        let length = usize::try_from(node.length()).map_err(|_| "has a negative length")?;
        if items.is_some_and(|items| items != length) {
            return Err(format!("has {length} values where its rows demand others"));
        }
        let bits = self.buffer()?;
        if node.null_count() == 0 {
            return Ok((length, None));
        }
        if bits.len() < length.div_ceil(8) {
            return Err("has nulls and no bitmap that says which".into());
        }
        Ok((length, Some(bits)))
    }

    fn buffer(&mut self) -> Result<Range<usize>, String> {
        let buffers = self.header.buffers().ok_or("has no buffers")?;
        if self.buffer >= buffers.len() {
            return Err("lacks a buffer".into());
        }
        let buffer = buffers.get(self.buffer);
        self.buffer += 1;
        let offset = usize::try_from(buffer.offset()).ok();
        let length = usize::try_from(buffer.length()).ok();
        offset
            .and_then(|offset| self.body.start.checked_add(offset))
            .zip(length)
            .and_then(|(start, length)| Some(start..start.checked_add(length)?))
            .filter(|place| place.end <= self.body.end)
            .ok_or_else(|| "has a buffer outside of its batch".into())
    }

    /// A buffer of at least so many bytes.
    fn filled(&mut self, bytes: Option<usize>) -> Result<Range<usize>, String> {
        let place = self.buffer()?;
        match bytes {
            Some(bytes) if bytes <= place.len() => Ok(place),
            _ => Err("has fewer bytes than its rows demand".into()),
        }
    }

    fn items(&mut self, count: usize, node: &Node) -> Result<Items, String> {
        let dtype = node.dtype().ok_or("is no column of numbers")?;
        let bits = node.kind == NodeKind::Flag;
        let bytes = match node.kind {
            NodeKind::Flag => Some(count.div_ceil(8)),
            NodeKind::FixedBytes(size) => count.checked_mul(size as usize),
            _ => count.checked_mul(dtype.bytes() as usize),
        };
        Ok(Items { values: self.filled(bytes)?, dtype, bits })
    }

    fn offsets(&mut self, rows: usize, large: bool) -> Result<Offsets, String> {
        let width_bytes = if large { 8 } else { 4 };
        // An empty column may leave out the one offset it has.
        let bytes = if rows == 0 {
            Some(0)
        } else {
            rows.checked_add(1).and_then(|n| n.checked_mul(width_bytes))
        };
        Ok(Offsets { table: self.filled(bytes)?, width_bytes })
    }

    fn column(
        &mut self,
        node: &Node,
        path: &str,
        rows: usize,
        above: &[Nulls],
    ) -> Result<(), String> {
        if matches!(node.kind, NodeKind::FixedList(_)) {
            return self.tensor(node, path, rows, above);
        }
        let (_, bits) = self.node(Some(rows))?;
        let mut nulls = above.to_vec();
        nulls.extend(bits.map(|bits| Nulls { bits, per_row: 1 }));
        let body = match node.kind {
            NodeKind::Struct if node.is_media() => self.media(node, rows)?,
            NodeKind::Struct => {
                for child in &node.children {
                    self.column(child, &format!("{path}.{}", child.name), rows, &nulls)?;
                }
                return Ok(());
            }
            NodeKind::Number(_) | NodeKind::Flag => {
                Body::Fixed { items: self.items(rows, node)?, per_row: 1 }
            }
            NodeKind::FixedBytes(size) => {
                Body::Fixed { items: self.items(rows, node)?, per_row: size as usize }
            }
            NodeKind::List | NodeKind::LargeList => {
                let offsets = self.offsets(rows, node.kind == NodeKind::LargeList)?;
                let child = node.children.first().ok_or("has no items")?;
                let (count, nulls) = self.node(None)?;
                Body::List { offsets, items: self.items(count, child)?, nulls }
            }
            NodeKind::Bytes | NodeKind::LargeBytes | NodeKind::Text | NodeKind::LargeText => {
                let value = self.bytes(node.kind, rows, Vec::new())?;
                Body::Bytes {
                    value,
                    text: matches!(node.kind, NodeKind::Text | NodeKind::LargeText),
                }
            }
            NodeKind::FixedList(_) => return Err("is read elsewhere".into()),
        };
        self.columns.push(Column { name: path.into(), nulls, body });
        Ok(())
    }

    fn bytes(&mut self, kind: NodeKind, rows: usize, nulls: Vec<Nulls>) -> Result<Bytes, String> {
        let large = matches!(kind, NodeKind::LargeBytes | NodeKind::LargeText);
        Ok(Bytes { offsets: self.offsets(rows, large)?, values: self.buffer()?, nulls })
    }

    fn media(&mut self, node: &Node, rows: usize) -> Result<Body, String> {
        let (mut value, mut path) = (None, None);
        for child in &node.children {
            let (_, bits) = self.node(Some(rows))?;
            let nulls = bits.map(|bits| Nulls { bits, per_row: 1 }).into_iter().collect();
            let part = self.bytes(child.kind, rows, nulls)?;
            *(if child.name == "bytes" { &mut value } else { &mut path }) = Some(part);
        }
        match (value, path) {
            (Some(value), Some(path)) => Ok(Body::Media { value, path }),
            _ => Err("lacks `bytes` or `path`".into()),
        }
    }

    /// Lists of fixed size in lists of fixed size, down to numbers.
    fn tensor(
        &mut self,
        node: &Node,
        path: &str,
        rows: usize,
        above: &[Nulls],
    ) -> Result<(), String> {
        let mut nulls = above.to_vec();
        let (mut node, mut per_row) = (node, 1_usize);
        loop {
            let count = rows.checked_mul(per_row).ok_or("has a size without end")?;
            let (_, bits) = self.node(Some(count))?;
            nulls.extend(bits.map(|bits| Nulls { bits, per_row }));
            match node.kind {
                NodeKind::FixedList(size) => {
                    per_row = per_row.checked_mul(size as usize).ok_or("has a size without end")?;
                    node = node.children.first().ok_or("has no items")?;
                }
                _ => {
                    let items = self.items(count, node)?;
                    if let NodeKind::FixedBytes(size) = node.kind {
                        per_row =
                            per_row.checked_mul(size as usize).ok_or("has a size without end")?;
                    }
                    let body = Body::Fixed { items, per_row };
                    self.columns.push(Column { name: path.into(), nulls, body });
                    return Ok(());
                }
            }
        }
    }
}

impl Items {
    /// Elements `range`, each as it stands in a batch.
    fn slice<'a>(&self, content: &'a [u8], range: Range<usize>) -> Option<Cow<'a, [u8]>> {
        let values = content.get(self.values.clone())?;
        if self.bits {
            return range.map(|index| bit(values, index).map(u8::from)).collect::<Option<_>>();
        }
        let width = self.dtype.bytes() as usize;
        let place = range.start.checked_mul(width)?..range.end.checked_mul(width)?;
        values.get(place).map(Cow::Borrowed)
    }
}

impl Offsets {
    fn range(&self, content: &[u8], row: usize) -> Option<Range<usize>> {
        let start = entry(content, &self.table, self.width_bytes, row)?;
        let end = entry(content, &self.table, self.width_bytes, row + 1)?;
        let range = usize::try_from(start).ok()?..usize::try_from(end).ok()?;
        (range.start <= range.end).then_some(range)
    }
}

impl Bytes {
    fn slice<'a>(&self, content: &'a [u8], row: usize) -> Option<&'a [u8]> {
        content.get(self.values.clone())?.get(self.offsets.range(content, row)?)
    }
}

/// Whether one of the levels is null in the row as a whole.
fn is_null(nulls: &[Nulls], content: &[u8], row: usize) -> Option<bool> {
    for level in nulls.iter().filter(|level| level.per_row == 1) {
        if !bit(content.get(level.bits.clone())?, row)? {
            return Some(true);
        }
    }
    Some(false)
}

impl Column {
    /// The value of row `row` of the batch, which must be one of its rows.
    pub(crate) fn value<'a>(
        &self,
        content: &'a [u8],
        row: usize,
    ) -> Result<Cow<'a, [u8]>, NoValue> {
        let outside = || NoValue::Damaged("lies outside of its batch".into());
        let null = is_null(&self.nulls, content, row).ok_or_else(outside)?;
        match &self.body {
            Body::Fixed { items, per_row } => self.fixed(content, row, items, *per_row),
            _ if null => Ok(Cow::Borrowed(&[])),
            Body::List { offsets, items, nulls } => {
                let range = offsets.range(content, row).ok_or_else(outside)?;
                let value = items.slice(content, range.clone()).ok_or_else(outside)?;
                let Some(nulls) = nulls else { return Ok(value) };
                let bitmap = content.get(nulls.clone()).ok_or_else(outside)?;
                mend(value, bitmap, range, items.dtype)
            }
            Body::Bytes { value, text } => {
                let value = value.slice(content, row).ok_or_else(outside)?;
                if *text && std::str::from_utf8(value).is_err() {
                    return Err(NoValue::Damaged("is not UTF-8".into()));
                }
                Ok(Cow::Borrowed(value))
            }
            Body::Media { value, path } => {
                if !is_null(&value.nulls, content, row).ok_or_else(outside)? {
                    return value.slice(content, row).map(Cow::Borrowed).ok_or_else(outside);
                }
                if is_null(&path.nulls, content, row).ok_or_else(outside)? {
                    return Ok(Cow::Borrowed(&[]));
                }
                let path = path.slice(content, row).ok_or_else(outside)?;
                Err(NoValue::Elsewhere(String::from_utf8_lossy(path).into_owned()))
            }
        }
    }

    fn fixed<'a>(
        &self,
        content: &'a [u8],
        row: usize,
        items: &Items,
        per_row: usize,
    ) -> Result<Cow<'a, [u8]>, NoValue> {
        let outside = || NoValue::Damaged("lies outside of its batch".into());
        let range = |per_row: usize| {
            Some(row.checked_mul(per_row)?..row.checked_add(1)?.checked_mul(per_row)?)
        };
        let elements = range(per_row).ok_or_else(outside)?;
        let mut value = items.slice(content, elements).ok_or_else(outside)?;
        for level in &self.nulls {
            let bitmap = content.get(level.bits.clone()).ok_or_else(outside)?;
            value = mend(value, bitmap, range(level.per_row).ok_or_else(outside)?, items.dtype)?;
        }
        Ok(value)
    }

    /// Whether its values may be paths to elsewhere.
    pub(crate) const fn is_media(&self) -> bool {
        matches!(self.body, Body::Media { .. })
    }
}

/// Replaces the parts of `value` that bits `range` of the bitmap call null.
fn mend<'a>(
    mut value: Cow<'a, [u8]>,
    bitmap: &[u8],
    range: Range<usize>,
    dtype: Dtype,
) -> Result<Cow<'a, [u8]>, NoValue> {
    let parts = range.len();
    let part_bytes = value.len().checked_div(parts).unwrap_or(0);
    for (part, index) in range.enumerate() {
        match bit(bitmap, index) {
            Some(true) => {}
            Some(false) => {
                let place = part * part_bytes..(part + 1) * part_bytes;
                if !erase(&mut value.to_mut()[place], dtype) {
                    return Err(NoValue::Null);
                }
            }
            None => return Err(NoValue::Damaged("has a bitmap that is cut short".into())),
        }
    }
    Ok(value)
}
