//! Batches, and the pool their buffers return to.

use std::sync::{Arc, Mutex, PoisonError};

use forebay_format::v1::dataset::TokenSchema;
use forebay_types::SampleId;

use crate::Waited;

/// The memory of one batch.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    pub tokens: Vec<u8>,
    pub ids: Vec<SampleId>,
}

/// Buffers that were used and will be again: fresh memory costs more than what is written into it.
#[derive(Debug)]
pub(crate) struct Pool {
    spare: Mutex<Vec<Buffer>>,
    spare_max: usize,
}

impl Pool {
    pub(crate) fn new(spare_max: usize) -> Self {
        Self { spare: Mutex::default(), spare_max }
    }

    /// A buffer of `rows` rows, whose content is to be overwritten.
    pub(crate) fn take(&self, rows: usize, row_bytes: usize) -> Buffer {
        let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut buffer = spare.unwrap_or_default();
        buffer.tokens.resize(rows * row_bytes, 0);
        buffer.ids.resize(rows, SampleId::from_bytes([0; 16]));
        buffer
    }

    fn give_back(&self, buffer: Buffer) {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < self.spare_max {
            spare.push(buffer);
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
    /// Their shape.
    pub schema: TokenSchema,
    /// What the consumer waited for it.
    pub waited: Waited,
    pub(crate) buffer: Buffer,
    pub(crate) pool: Arc<Pool>,
}

impl Batch {
    /// The tokens of all samples, one row after the other, little-endian.
    #[must_use]
    pub fn tokens_le(&self) -> &[u8] {
        &self.buffer.tokens
    }

    /// As [`Batch::tokens_le`], to be written: a batch is its consumer's own until it is dropped.
    #[must_use]
    pub fn tokens_le_mut(&mut self) -> &mut [u8] {
        &mut self.buffer.tokens
    }

    /// The tokens of all samples, one row after the other.
    pub fn tokens(&self) -> impl Iterator<Item = u32> + '_ {
        let width = self.schema.token_bytes as usize;
        self.tokens_le().chunks_exact(width).map(|token| match *token {
            [a, b] => u32::from(u16::from_le_bytes([a, b])),
            [a, b, c, d] => u32::from_le_bytes([a, b, c, d]),
            _ => unreachable!("manifests with other token widths are refused when they are read"),
        })
    }

    /// The identities of the samples, in order.
    #[must_use]
    pub fn ids(&self) -> &[SampleId] {
        &self.buffer.ids
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.pool.give_back(std::mem::take(&mut self.buffer));
    }
}
