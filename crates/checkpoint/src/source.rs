//! A source: a tensor file on one of the tiers, and how it is read and checked.
//!
//! Nothing is believed that a record does not prove: the length and the header of a file, and each
//! tensor's bytes by their digest.
//!
//! # Bounds
//! A header, and the memory that it is asked to fill.

use std::{fs::File, num::NonZeroU64, os::unix::fs::FileExt};

use forebay_format::v1::checkpoint::{RankRecord, TensorEntry};
use forebay_lake::{Lake, Purpose};
use forebay_types::{Digest, DigestWriter, Key};

use crate::{Error, ahead::ReadAhead};

/// Neighbouring tensors are read together up to this many bytes, and long ones in such pieces.
pub(crate) const GROUP_BYTES: u64 = 8 << 20;
const NEAR_PIECE_BYTES: usize = 512 << 10;

/// A tensor file on one of the tiers.
pub(crate) enum Source<'a> {
    Memory(File, Key),
    Local(File, Key),
    Lake(&'a Lake, Key),
}

impl Source<'_> {
    pub(crate) const fn key(&self) -> &Key {
        match self {
            Self::Memory(_, key) | Self::Local(_, key) | Self::Lake(_, key) => key,
        }
    }

    /// What is read at once: from a disk what a processor's cache holds until it is digested.
    fn piece_bytes(&self) -> usize {
        match self {
            Self::Lake(lake, _) if lake.is_remote() => GROUP_BYTES as usize,
            _ => NEAR_PIECE_BYTES,
        }
    }

    /// Whether reading waits for a disk, or a file system that is asked like one.
    pub(crate) fn is_on_disk(&self) -> bool {
        match self {
            Self::Memory(..) => false,
            Self::Local(..) => true,
            Self::Lake(lake, _) => !lake.is_remote(),
        }
    }

    /// Has a stretch brought into the page cache. A hint: what it does not help is read all the same.
    pub(crate) fn will_read(&self, offset: u64, bytes: u64) {
        match self {
            Self::Memory(..) => {}
            Self::Local(file, _) => {
                let advice = rustix::fs::Advice::WillNeed;
                let _hint = rustix::fs::fadvise(file, offset, NonZeroU64::new(bytes), advice);
            }
            Self::Lake(lake, key) => lake.will_read(key, offset, bytes),
        }
    }

    fn bytes(&self) -> Result<u64, Error> {
        match self {
            Self::Memory(file, key) | Self::Local(file, key) => {
                Ok(file.metadata().map_err(Error::file("read", key))?.len())
            }
            Self::Lake(lake, key) => {
                let size = lake.size(key)?;
                size.ok_or_else(|| Error::object(key, "it is missing, though a commit names it"))
            }
        }
    }

    pub(crate) fn check_bytes(&self, expected: u64) -> Result<(), Error> {
        match self.bytes()? {
            found if found == expected => Ok(()),
            found => {
                let what = format!("it has {found} bytes, and its record says {expected}");
                Err(Error::object(self.key(), what))
            }
        }
    }

    pub(crate) fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), Error> {
        match self {
            Self::Memory(file, key) | Self::Local(file, key) => {
                file.read_exact_at(into, offset).map_err(Error::file("read", key))
            }
            Self::Lake(lake, key) => Ok(lake.read_range(key, Purpose::Checkpoint, offset, into)?),
        }
    }
}

/// Length and header are decided by the record; anything else is damage.
pub(crate) fn check_header(source: &Source<'_>, record: &RankRecord) -> Result<(), Error> {
    source.check_bytes(record.file.bytes)?;
    let expected = record.plan()?.header;
    let mut header = vec![0; expected.len()];
    source.read(0, &mut header)?;
    if header == expected {
        Ok(())
    } else {
        Err(Error::object(source.key(), "its header is not what its record says"))
    }
}

/// Reads a stored tensor whole, its digest while the bytes are in the processor's cache.
pub(crate) fn read_tensor(
    (source, ahead): (&Source<'_>, &ReadAhead<'_>),
    offset: u64,
    entry: &TensorEntry,
    into: &mut [u8],
) -> Result<(), Error> {
    let mut digest = DigestWriter::new();
    let piece_bytes = source.piece_bytes();
    let pieces = into.chunks_mut(piece_bytes);
    for (offset, piece) in (offset..).step_by(piece_bytes).zip(pieces) {
        ahead.advance(piece.len() as u64);
        source.read(offset, piece)?;
        digest.update(piece);
    }
    check_tensor(source.key(), entry, digest.finish())
}

/// Checks a tensor's bytes against its record.
pub(crate) fn check_tensor(key: &Key, entry: &TensorEntry, found: Digest) -> Result<(), Error> {
    if found == entry.digest {
        Ok(())
    } else {
        Err(Error::object(key, format!("tensor `{}` does not have its digest", entry.name)))
    }
}
