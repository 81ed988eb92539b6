//! Batches, and the pool their buffers return to.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use forebay_types::Dtype;

use crate::{Cursor, Waited, aligned::AlignedBytes, ids::SampleIds};

/// What one column of every batch is.
#[derive(Clone, Debug, PartialEq)]
pub enum ColumnKind {
    /// A tensor of one shape for each sample: together `[rows, shape…]`.
    Dense {
        /// The type of its elements.
        dtype: Dtype,
        /// One sample's shape.
        shape: Vec<usize>,
    },
    /// Vectors of different lengths, filled up to one length a batch: `[rows, items]`.
    Padded {
        /// The type of their elements.
        dtype: Dtype,
    },
    /// Vectors of different lengths, one after the other.
    Ragged {
        /// The type of their elements.
        dtype: Dtype,
    },
    /// Bytes of different lengths, one after the other.
    Bytes,
    /// Texts, one after the other, as UTF-8.
    Text,
}

/// One column of a batch.
#[derive(Clone, Copy, Debug)]
pub struct Column<'a> {
    /// Its name.
    pub name: &'a str,
    /// What it is.
    pub kind: &'a ColumnKind,
    /// Its values, little-endian, row after row.
    pub values: &'a [u8],
    /// Where each row starts in the values, in elements, and where the last one ends: `rows + 1`
    /// numbers; none for dense columns. In a padded column: of the values before they were padded.
    pub offsets: &'a [i64],
    /// The elements of a row of a padded column.
    pub items: usize,
}

/// The columns of every batch of a feed.
#[derive(Debug, PartialEq)]
pub(crate) struct Layout {
    pub columns: Vec<(String, ColumnKind)>,
}

/// The memory of one column.
#[derive(Debug, Default)]
pub(crate) struct ColumnBuffer {
    pub values: AlignedBytes,
    pub offsets: Vec<i64>,
    pub items: usize,
}

/// The memory of one batch.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    pub columns: Vec<ColumnBuffer>,
    pub ids: SampleIds,
}

impl Buffer {
    /// The memory it holds.
    pub(crate) fn capacity_bytes(&self) -> u64 {
        let column = |column: &ColumnBuffer| {
            column.values.capacity_bytes() + (column.offsets.capacity() * size_of::<i64>()) as u64
        };
        self.columns.iter().map(column).sum::<u64>() + self.ids.capacity_bytes()
    }

    /// The bytes that are in use.
    pub(crate) fn bytes(&self) -> u64 {
        self.columns.iter().map(|column| column.values.len() as u64).sum()
    }
}

/// Buffers that were used and will be again: fresh memory costs more than what is written into it.
#[derive(Debug)]
pub(crate) struct Pool {
    spare: Mutex<Vec<Buffer>>,
    spare_max: usize,
    /// Memory of all buffers that exist, in use or spare.
    bytes: AtomicU64,
}

impl Pool {
    pub(crate) fn new(spare_max: usize) -> Self {
        Self { spare: Mutex::default(), spare_max, bytes: AtomicU64::new(0) }
    }

    /// A buffer whose content is to be overwritten.
    pub(crate) fn take(&self) -> Buffer {
        let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let buffer = spare.unwrap_or_default();
        self.forget(buffer.capacity_bytes());
        buffer
    }

    /// Counts a buffer that was filled.
    pub(crate) fn count(&self, buffer: &Buffer) {
        self.bytes.fetch_add(buffer.capacity_bytes(), Ordering::Relaxed);
    }

    /// Memory of all filled and spare buffers.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Memory of a counted buffer went elsewhere.
    pub(crate) fn forget(&self, bytes: u64) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Takes a filled, counted buffer back.
    pub(crate) fn give_back(&self, buffer: Buffer) {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < self.spare_max {
            spare.push(buffer);
        } else {
            self.forget(buffer.capacity_bytes());
        }
    }
}

/// This rank's part of one global batch. Its memory is reused once it is dropped.
#[derive(Debug)]
pub struct Batch {
    /// The step it is for.
    pub step: u64,
    /// The epoch its samples belong to.
    pub epoch: u64,
    /// How many samples it holds.
    pub rows: usize,
    /// How many samples the step has over all ranks.
    pub global_rows: u64,
    /// Where the run stands once this batch was taken.
    pub after: Cursor,
    /// What the consumer waited for it.
    pub waited: Waited,
    pub(crate) layout: Arc<Layout>,
    pub(crate) buffer: Buffer,
    pub(crate) pool: Arc<Pool>,
}

impl Batch {
    /// Its columns, in the order of the schema.
    pub fn columns(&self) -> impl Iterator<Item = Column<'_>> {
        self.layout.columns.iter().zip(&self.buffer.columns).map(|((name, kind), buffer)| Column {
            name,
            kind,
            values: &buffer.values,
            offsets: &buffer.offsets,
            items: buffer.items,
        })
    }

    /// The column of this name.
    #[must_use]
    pub fn column(&self, name: &str) -> Option<Column<'_>> {
        self.columns().find(|column| column.name == name)
    }

    /// The values of column `index`, to be changed in place by whoever holds the batch.
    pub fn values_mut(&mut self, index: usize) -> &mut [u8] {
        &mut self.buffer.columns[index].values
    }

    /// The tokens of all samples, one row after the other, little-endian; none where the data is
    /// something else.
    #[must_use]
    pub fn tokens_le(&self) -> &[u8] {
        self.column("tokens").map_or(&[], |column| column.values)
    }

    /// The tokens of all samples, one row after the other.
    pub fn tokens(&self) -> impl Iterator<Item = u32> + '_ {
        let width = match self.column("tokens").map(|column| column.kind) {
            Some(ColumnKind::Dense { dtype, .. }) => dtype.bytes() as usize,
            _ => 2,
        };
        self.tokens_le().chunks_exact(width).map(|token| match *token {
            [a, b] => u32::from(u16::from_le_bytes([a, b])),
            [a, b, c, d] => u32::from_le_bytes([a, b, c, d]),
            _ => unreachable!("manifests with other token widths are refused when they are read"),
        })
    }

    /// The identities of the samples, in order.
    #[must_use]
    pub const fn ids(&self) -> &SampleIds {
        &self.buffer.ids
    }

    /// Takes the identities out of the batch, which has none then: they may outlive its memory.
    #[must_use]
    pub fn take_ids(&mut self) -> SampleIds {
        let ids = std::mem::take(&mut self.buffer.ids);
        self.pool.forget(ids.capacity_bytes());
        ids
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.pool.give_back(std::mem::take(&mut self.buffer));
    }
}
