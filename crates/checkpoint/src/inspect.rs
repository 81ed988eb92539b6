//! Looking at checkpoints without restoring them.

use std::collections::BTreeMap;

use forebay_format::v1::{
    checkpoint::{CommitRecord, RankRecord, TensorEntry},
    tensors,
};
use forebay_lake::Lake;
use forebay_types::{ChecksumWriter, Digest, DigestWriter, Name, Position};
use serde::Serialize;

use crate::{
    Error,
    committed::file_key,
    read,
    source::{Source, check_checksum, check_digest, check_header, decode},
};

const PIECE_BYTES: usize = 4 << 20;
/// What a tensor file says first: the length of its header.
const PREFIX_BYTES: usize = 8;

/// One committed checkpoint, in a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CheckpointSummary {
    /// Its step.
    pub step: u64,
    /// The bytes of its tensor files.
    pub bytes: u64,
    /// The number of its tensors.
    pub tensors: u64,
    /// The number of its ranks.
    pub world_size: u32,
    /// When it was captured, in milliseconds since 1970.
    pub created_unix_ms: u64,
    /// The checkpoint before it.
    pub parent: Option<u64>,
    /// Why its commit cannot be read, if it cannot; then only the step is known.
    pub problem: Option<String>,
}

impl CheckpointSummary {
    fn of(commit: &CommitRecord) -> Self {
        Self {
            step: commit.step,
            bytes: commit.bytes,
            tensors: commit.tensors,
            world_size: commit.world_size(),
            created_unix_ms: commit.created_unix_ms,
            parent: commit.parent,
            problem: None,
        }
    }

    fn unreadable(step: u64, problem: String) -> Self {
        Self {
            step,
            bytes: 0,
            tensors: 0,
            world_size: 0,
            created_unix_ms: 0,
            parent: None,
            problem: Some(problem),
        }
    }
}

/// Every committed checkpoint of a run, oldest first.
///
/// # Errors
/// When the lake cannot be read. A commit that is damaged is listed with its problem.
pub fn list(lake: &Lake, run: &Name) -> Result<Vec<CheckpointSummary>, Error> {
    let mut found = Vec::new();
    for step in read::steps(lake, run)? {
        match read::commit(lake, run, step) {
            Ok(commit) => found.extend(commit.as_ref().map(CheckpointSummary::of)),
            Err(error @ (Error::Format(_) | Error::Object { .. })) => {
                found.push(CheckpointSummary::unreadable(step, error.to_string()));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// A checkpoint's records, all that is known of it without its tensors' bytes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Shown {
    /// The commit.
    pub commit: CommitRecord,
    /// The record of each rank.
    pub ranks: Vec<RankRecord>,
}

impl Shown {
    /// The digest of every tensor, by name.
    #[must_use]
    pub fn tensor_digests(&self) -> BTreeMap<String, Digest> {
        let tensors = self.ranks.iter().flat_map(|rank| &rank.tensors);
        tensors.map(|tensor| (tensor.name.clone(), tensor.digest)).collect()
    }

    /// Where the run stood in its data.
    #[must_use]
    pub const fn position(&self) -> Position {
        self.commit.position
    }

    /// What the trainer said of itself besides tensors.
    #[must_use]
    pub const fn metadata(&self) -> &serde_json::Value {
        &self.commit.metadata
    }
}

/// Reads the records of a committed step.
///
/// # Errors
/// [`Error::NoStep`] when it is not committed, and when a record is damaged.
pub fn show(lake: &Lake, run: &Name, step: u64) -> Result<Shown, Error> {
    let commit = read::existing(lake, run, step)?;
    let ranks = (0..commit.world_size()).map(|rank| read::rank_record(lake, &commit, rank));
    Ok(Shown { ranks: ranks.collect::<Result<_, _>>()?, commit })
}

/// A checkpoint whose every byte was read and compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// Its step.
    pub step: u64,
    /// The number of its tensors.
    pub tensors: u64,
    /// The bytes of tensor files that were read, of earlier ones those of its tensors.
    pub bytes: u64,
}

/// Reads every byte of a checkpoint, the newest if `step` is `None`, and compares it with what
/// its commit names.
///
/// # Errors
/// The first thing that does not hold, with the object and, where it is one, the tensor.
pub fn verify(lake: &Lake, run: &Name, step: Option<u64>) -> Result<Verified, Error> {
    let step = read::chosen(lake, run, step)?;
    let shown = show(lake, run, step)?;
    let mut verified = Verified { step, tensors: 0, bytes: 0 };
    for record in &shown.ranks {
        verify_rank(lake, record)?;
        verified.tensors += record.tensors.len() as u64;
        verified.bytes += record.file.bytes + earlier_bytes(record);
    }
    Ok(verified)
}

fn verify_rank(lake: &Lake, record: &RankRecord) -> Result<(), Error> {
    let key = file_key(record);
    let source = Source::Lake(lake, key.clone());
    check_header(&source, record)?;
    let header = record.plan()?.header;
    // What outsiders will read must also stand on its own.
    tensors::parse(&header[PREFIX_BYTES..], record.file.bytes, key.as_str())?;
    let mut whole = DigestWriter::new();
    whole.update(&header);
    let mut piece = vec![0; PIECE_BYTES];
    for tensor in record.tensors.iter().filter(|tensor| tensor.earlier.is_none()) {
        verify_tensor(&source, tensor, &mut piece, &mut whole)?;
    }
    if whole.finish() != record.file.digest {
        return Err(Error::object(&key, "it does not have its digest"));
    }
    let mut earlier = record.tensors.iter().filter(|tensor| tensor.earlier.is_some());
    earlier.try_for_each(|tensor| {
        let source = Source::Lake(lake, record.file_key(tensor));
        verify_tensor(&source, tensor, &mut piece, &mut DigestWriter::new())
    })
}

/// Reads a tensor, into the digest of its file too.
fn verify_tensor(
    source: &Source<'_>,
    tensor: &TensorEntry,
    piece: &mut [u8],
    whole: &mut DigestWriter,
) -> Result<(), Error> {
    let (mut digest, mut checksum) = (DigestWriter::new(), ChecksumWriter::new());
    if let Some(encoded) = tensor.encoded {
        let seen = |stored: &[u8]| {
            whole.update(stored);
        };
        decode(source, tensor.offset, encoded, tensor, seen, |values| {
            digest.update(values);
            checksum.update(values);
        })?;
    }
    while digest.len_bytes() < tensor.bytes {
        let left = tensor.bytes - digest.len_bytes();
        let piece = &mut piece[..usize::try_from(left).unwrap_or(PIECE_BYTES).min(PIECE_BYTES)];
        source.read(tensor.offset + digest.len_bytes(), piece)?;
        digest.update(piece);
        checksum.update(piece);
        whole.update(piece);
    }
    check_digest(source.key(), tensor, digest.finish())?;
    check_checksum(source.key(), tensor, checksum.finish())
}

/// The bytes of a rank's tensors that lie in earlier files.
fn earlier_bytes(record: &RankRecord) -> u64 {
    let earlier = record.tensors.iter().filter(|tensor| tensor.earlier.is_some());
    earlier.map(TensorEntry::stored_bytes).sum()
}
