//! A source: a tensor file on one of the tiers, and how it is read and checked.
//!
//! Nothing is believed that a record does not prove: the length and the header of a file, and each
//! tensor's bytes. What comes from a store is compared with its digest. What lies on this node, or in a
//! directory, is compared with its checksum, if it was stored with one: it finds what memory, a disk or a
//! copy spoils, and costs a tenth of a digest, which costs more than to read them from memory.
//!
//! # Bounds
//! A header, and the memory that it is asked to fill; of what is stored encoded some blocks.

use std::{fs::File, num::NonZeroU64, os::unix::fs::FileExt};

use forebay_format::v1::{
    checkpoint::{RankRecord, TensorEntry},
    encoding::{Decoder, Encoded},
};
use forebay_lake::{Lake, Purpose};
use forebay_types::{Checksum, ChecksumWriter, Digest, DigestWriter, Key};

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
            _ if self.is_remote() => GROUP_BYTES as usize,
            _ => NEAR_PIECE_BYTES,
        }
    }

    /// Whether it is a store's, beyond a network.
    fn is_remote(&self) -> bool {
        matches!(self, Self::Lake(lake, _) if lake.is_remote())
    }

    /// Whether reading waits for a disk, or a file system that is asked like one.
    pub(crate) fn is_on_disk(&self) -> bool {
        !self.is_remote() && !matches!(self, Self::Memory(..))
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

/// Where a tensor lies in a source, and how it is stored there, if not as it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stored {
    pub offset: u64,
    pub encoded: Option<Encoded>,
}

impl Stored {
    /// Where the file of its record has a tensor.
    pub(crate) const fn of(entry: &TensorEntry) -> Self {
        Self { offset: entry.offset, encoded: entry.encoded }
    }

    /// How long it lies there.
    pub(crate) fn bytes(&self, entry: &TensorEntry) -> u64 {
        self.encoded.map_or(entry.bytes, |encoded| encoded.bytes)
    }
}

/// Reads a stored tensor whole, and compares it while the bytes are in the processor's cache.
pub(crate) fn read_tensor(
    (source, ahead): (&Source<'_>, &ReadAhead<'_>),
    stored: Stored,
    entry: &TensorEntry,
    into: &mut [u8],
) -> Result<(), Error> {
    let mut check = Check::new(source, entry);
    if let Some(encoded) = stored.encoded {
        let mut rest = into;
        decode(
            source,
            stored.offset,
            encoded,
            entry,
            |stored| ahead.advance(stored.len() as u64),
            |values| {
                let (now, behind) = std::mem::take(&mut rest).split_at_mut(values.len());
                now.copy_from_slice(values);
                rest = behind;
                check.update(values);
            },
        )?;
        return check.finish(source.key(), entry);
    }
    let piece_bytes = source.piece_bytes();
    let pieces = into.chunks_mut(piece_bytes);
    for (offset, piece) in (stored.offset..).step_by(piece_bytes).zip(pieces) {
        ahead.advance(piece.len() as u64);
        source.read(offset, piece)?;
        check.update(piece);
    }
    check.finish(source.key(), entry)
}

/// Reads a tensor that is stored encoded: `seen` is shown its stored bytes, and `take` its values.
pub(crate) fn decode(
    source: &Source<'_>,
    offset: u64,
    encoded: Encoded,
    entry: &TensorEntry,
    mut seen: impl FnMut(&[u8]),
    mut take: impl FnMut(&[u8]),
) -> Result<(), Error> {
    let object = format!("{}, tensor `{}`,", source.key(), entry.name);
    let mut decoder = Decoder::new(encoded, (entry.bytes, entry.dtype.bytes()), object)?;
    let mut piece = Vec::new();
    let (mut at, end) = (offset, offset + encoded.bytes);
    while at < end {
        piece.resize(source.piece_bytes().min(usize::try_from(end - at).unwrap_or(usize::MAX)), 0);
        source.read(at, &mut piece)?;
        seen(&piece);
        decoder.push(&piece, |values| {
            take(values);
            Ok::<_, Error>(())
        })?;
        at += piece.len() as u64;
    }
    Ok(decoder.finish()?)
}

/// Compares the bytes of a tensor that were read from `source` with its record.
pub(crate) fn check_tensor(
    source: &Source<'_>,
    entry: &TensorEntry,
    bytes: &[u8],
) -> Result<(), Error> {
    let mut check = Check::new(source, entry);
    check.update(bytes);
    check.finish(source.key(), entry)
}

/// What the bytes of a tensor are compared by.
enum Check {
    Digest(Box<DigestWriter>),
    Checksum(Box<ChecksumWriter>),
}

impl Check {
    fn new(source: &Source<'_>, entry: &TensorEntry) -> Self {
        match entry.checksum {
            Some(_) if !source.is_remote() => Self::Checksum(Box::default()),
            _ => Self::Digest(Box::default()),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Digest(digest) => {
                digest.update(bytes);
            }
            Self::Checksum(checksum) => {
                checksum.update(bytes);
            }
        }
    }

    fn finish(&self, key: &Key, entry: &TensorEntry) -> Result<(), Error> {
        match self {
            Self::Digest(digest) => check_digest(key, entry, digest.finish()),
            Self::Checksum(checksum) => check_checksum(key, entry, checksum.finish()),
        }
    }
}

/// Compares what a tensor digests to with its record.
pub(crate) fn check_digest(key: &Key, entry: &TensorEntry, found: Digest) -> Result<(), Error> {
    expect(found == entry.digest, key, entry, "digest")
}

/// Compares a tensor's checksum with its record, if it was stored with one.
pub(crate) fn check_checksum(key: &Key, entry: &TensorEntry, found: Checksum) -> Result<(), Error> {
    expect(entry.checksum.is_none_or(|checksum| checksum == found), key, entry, "checksum")
}

fn expect(holds: bool, key: &Key, entry: &TensorEntry, what: &str) -> Result<(), Error> {
    if holds {
        return Ok(());
    }
    Err(Error::object(key, format!("tensor `{}` does not have its {what}", entry.name)))
}
