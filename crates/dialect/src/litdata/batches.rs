//! LitData chunks compressed in batches: what its current releases write for `zstd`.
//!
//! ```text
//! 0    "LDFZ01\0\0"
//! 8    version 1, flags 0             u16 each
//! 12   samples n, samples in a batch, batches     u32 each
//! 24   offsets[n + 1]                 u32, in the samples as they are decompressed
//! …    for each batch: first sample u32, samples u32, offset in the file u64,
//!                      compressed bytes u32, decompressed bytes u32
//! …    one zstd frame a batch
//! ```
//!
//! [`unpack`] makes the chunk that LitData would have written without compression. The offsets say
//! how long it is, and every batch must have the bytes it claims; nothing is allocated for them.

use std::io::{Read, Write};

use crate::bytes::{u32_at, u64_at};

const MAGIC: [u8; 8] = *b"LDFZ01\0\0";
/// Version 1 without flags.
const VERSION: u32 = 1;
const HEAD_BYTES: usize = 24;
const ENTRY_BYTES: usize = 24;
/// How much is decompressed at once.
const PIECE_BYTES: usize = 128 << 10;

/// Why a chunk was not decompressed.
pub(super) enum Failure {
    Damaged(String),
    Write(std::io::Error),
}

/// Whether the bytes are a chunk compressed in batches. No raw chunk starts so: its offsets would
/// not be in order.
pub(super) fn is_batched(stored: &[u8]) -> bool {
    stored.starts_with(&MAGIC)
}

/// Writes the chunk as it was before compression.
pub(super) fn unpack(stored: &[u8], content: &mut dyn Write) -> Result<(), Failure> {
    let damaged = |what: &str| Failure::Damaged(what.to_owned());
    let number = |at: usize| u32_at(stored, at).ok_or_else(|| damaged("its head is cut short"));
    if !is_batched(stored) || number(8)? != VERSION {
        return Err(damaged("its batches are of no known version"));
    }
    let (samples, batches) = (number(12)?, number(20)? as usize);
    // One more offset than samples, and no chunk that offsets of 32 bits cannot address.
    let offsets = samples as usize + 1;
    let table = HEAD_BYTES + 4 * offsets;
    let data = batches
        .checked_mul(ENTRY_BYTES)
        .and_then(|bytes| table.checked_add(bytes))
        .filter(|data| *data <= stored.len())
        .ok_or_else(|| damaged("its tables are cut short"))?;
    write(content, &samples.to_le_bytes())?;
    let front = u32::try_from(4 + 4 * offsets).map_err(|_| damaged("it has too many samples"))?;
    let mut end = 0;
    for index in 0..offsets {
        end = number(HEAD_BYTES + 4 * index)?;
        let moved = end.checked_add(front).ok_or_else(|| damaged("its offsets overflow"))?;
        write(content, &moved.to_le_bytes())?;
    }
    let (mut next, mut bytes) = (0_u32, 0_u64);
    for batch in 0..batches {
        let at = table + batch * ENTRY_BYTES;
        if number(at)? != next {
            return Err(damaged("its batches do not follow each other"));
        }
        next = next
            .checked_add(number(at + 4)?)
            .filter(|next| *next <= samples)
            .ok_or_else(|| damaged("its batches have other samples than the chunk"))?;
        let compressed = u64_at(stored, at + 8)
            .and_then(|start| usize::try_from(start).ok())
            .filter(|start| *start >= data)
            .zip(u32_at(stored, at + 16))
            .and_then(|(start, length)| stored.get(start..start.checked_add(length as usize)?))
            .ok_or_else(|| damaged("a batch lies outside of it"))?;
        let wanted = u64::from(number(at + 20)?);
        // Sums of 32-bit numbers cannot overflow before the table ends.
        bytes += wanted;
        if bytes > u64::from(end) {
            return Err(damaged("its batches are longer than its samples"));
        }
        inflate(compressed, wanted, content)?;
    }
    if next != samples || bytes != u64::from(end) {
        return Err(damaged("its batches are not all of its samples"));
    }
    Ok(())
}

/// Decompresses one batch, which must have `wanted` bytes.
fn inflate(compressed: &[u8], wanted: u64, content: &mut dyn Write) -> Result<(), Failure> {
    let broken = |source: std::io::Error| {
        Failure::Damaged(format!("a batch cannot be decompressed ({source})"))
    };
    let reader = zstd::Decoder::with_buffer(compressed).map_err(broken)?;
    // One byte more than it may have tells a batch that is too long.
    let mut reader = reader.take(wanted + 1);
    let mut piece = vec![0; PIECE_BYTES];
    let mut found = 0;
    loop {
        let bytes = reader.read(&mut piece).map_err(broken)?;
        found += bytes as u64;
        if found > wanted || (bytes == 0 && found < wanted) {
            return Err(Failure::Damaged("a batch has other bytes than it claims".into()));
        }
        if bytes == 0 {
            return Ok(());
        }
        write(content, &piece[..bytes])?;
    }
}

fn write(content: &mut dyn Write, bytes: &[u8]) -> Result<(), Failure> {
    content.write_all(bytes).map_err(Failure::Write)
}
