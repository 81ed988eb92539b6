//! Forking: a run that goes on from a committed step of another one.
//!
//! ```text
//! runs/<run>/checkpoints/<step>/rank-….safetensors ──the store copies──┐
//! runs/<fork>/checkpoints/<step>/rank-….safetensors  <─────────────────┘
//!                               /rank-….json, commit.json              the same facts, and forked_from
//! ```
//!
//! The fork owns all that it needs, so nothing that happens to the other run, retention and removal
//! included, can touch it. Copying costs little: a directory gives the file a second name, S3 copies
//! by itself. Where a store cannot, the bytes go through this process and must have their digest.
//!
//! Every later checkpoint of the fork says where the run came from, too: the forked step itself may
//! be removed one day.
//!
//! # Bounds
//! One piece of [`PIECE_BYTES`] where the store does not copy.
//!
//! # After a crash
//! The same call does the rest: its records are a function of what is forked, so they are written
//! alike. Before that there are objects that no commit names, as in [`crate::adopt`].

use std::io::Write;

use forebay_format::{
    record,
    v1::{
        checkpoint::{self, CheckpointReference, CommitRecord, EarlierFile, RankRecord},
        dataset::ObjectEntry,
    },
};
use forebay_lake::{Lake, Purpose};
use forebay_runtime::Runtime;
use forebay_types::{DigestWriter, Key, Name};
use serde::Serialize;

use crate::{
    Error,
    adopt::{Adopted, adopt, is_committed},
    read,
};

const PIECE_BYTES: usize = 4 << 20;

/// What a fork came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Forked {
    /// The new run.
    pub run: Name,
    /// What it goes on from.
    pub from: CheckpointReference,
    /// The bytes of tensor files that it holds.
    pub bytes: u64,
    /// How many of them went through this process, because the store could not copy them.
    pub moved_bytes: u64,
    /// Whether the fork was there already.
    pub existed: bool,
}

/// Makes `fork` a run that goes on from a committed step of `run`, the newest if `step` is `None`.
///
/// Asking again for a fork that is there changes nothing, however far it has gone since.
///
/// # Errors
/// [`Error::NoStep`] when the step is not committed, [`Error::ForkTaken`] when `fork` has
/// checkpoints that do not come from there.
pub fn fork(
    lake: &Lake,
    runtime: &Runtime,
    run: &Name,
    step: Option<u64>,
    fork: &Name,
) -> Result<Forked, Error> {
    let step = read::chosen(lake, run, step)?;
    let taken = || Error::ForkTaken { fork: fork.clone(), run: run.clone(), step };
    if fork == run {
        return Err(taken());
    }
    let standing = read::steps(lake, fork)?.pop();
    if let Some(newest) = standing {
        let origin = read::existing(lake, fork, newest)?.forked_from;
        let same = |from: &CheckpointReference| from.run == *run && from.step == step;
        let from = origin.filter(same).ok_or_else(taken)?;
        return Ok(Forked { run: fork.clone(), from, bytes: 0, moved_bytes: 0, existed: true });
    }
    let commit = read::existing(lake, run, step)?;
    let from = reference(&commit)?;
    let mut forked = Forked { run: fork.clone(), from, bytes: 0, moved_bytes: 0, existed: true };
    let mut records = Vec::with_capacity(commit.ranks.len());
    for rank in 0..commit.world_size() {
        let found = read::rank_record(lake, &commit, rank)?;
        for (key, fork_key, object) in files(&found, fork) {
            forked.moved_bytes += copy(lake, runtime, &key, &fork_key, &object)?;
            forked.bytes += object.bytes;
        }
        records.push(forked_record(found, fork, &forked.from));
    }
    if !is_committed(lake, &records)? {
        forked.existed = adopt(lake, records)? == Adopted::Existed;
    }
    Ok(forked)
}

/// Where run `name` was forked from, as its newest checkpoint says; `None` if it was not, or has none.
///
/// # Errors
/// When the lake cannot be read, or that checkpoint's commit is damaged.
pub fn forked_from(lake: &Lake, name: &Name) -> Result<Option<CheckpointReference>, Error> {
    let Some(newest) = read::steps(lake, name)?.pop() else { return Ok(None) };
    Ok(read::commit(lake, name, newest)?.and_then(|commit| commit.forked_from))
}

fn reference(commit: &CommitRecord) -> Result<CheckpointReference, Error> {
    let (_, digest) = record::encode(commit)?;
    Ok(CheckpointReference { run: commit.run.clone(), step: commit.step, digest })
}

/// The tensor files that a rank's record names: where each lies, and where in the fork.
fn files(record: &RankRecord, fork: &Name) -> Vec<(Key, Key, ObjectEntry)> {
    let own = (record.step, record.rank, record.file);
    let earlier = record.earlier.iter().map(|file| {
        let EarlierFile { step, rank, digest, bytes } = *file;
        (step, rank, ObjectEntry { digest, bytes })
    });
    let key =
        |run, step, rank, file: &ObjectEntry| checkpoint::tensors_key(run, step, rank, file.digest);
    let both = |(step, rank, file)| {
        (key(&record.run, step, rank, &file), key(fork, step, rank, &file), file)
    };
    std::iter::once(own).chain(earlier).map(both).collect()
}

fn forked_record(of: RankRecord, fork: &Name, from: &CheckpointReference) -> RankRecord {
    // A parent is a step of the same run, and the fork has none before.
    // No launch has claimed the fork yet.
    let (run, forked_from) = (fork.clone(), Some(from.clone()));
    RankRecord { run, launch: None, parent: None, forked_from, ..of }
}

/// Copies an object; returns how many bytes went through this process.
fn copy(
    lake: &Lake,
    runtime: &Runtime,
    from: &Key,
    to: &Key,
    object: &ObjectEntry,
) -> Result<u64, Error> {
    if lake.copy(from, to, Purpose::Checkpoint)? {
        return Ok(0);
    }
    let mut writer = lake.writer(to, Purpose::Checkpoint)?;
    let mut digest = DigestWriter::new();
    let mut piece = vec![0; PIECE_BYTES];
    while digest.len_bytes() < object.bytes {
        runtime.check()?;
        let left = usize::try_from(object.bytes - digest.len_bytes()).unwrap_or(PIECE_BYTES);
        let piece = &mut piece[..left.min(PIECE_BYTES)];
        lake.read_range(from, Purpose::Checkpoint, digest.len_bytes(), piece)?;
        digest.update(piece);
        writer.write_all(piece).map_err(Error::file("write", to))?;
    }
    if digest.finish() != object.digest {
        return Err(Error::object(from, "it does not have its digest"));
    }
    writer.finish()?;
    Ok(object.bytes)
}
