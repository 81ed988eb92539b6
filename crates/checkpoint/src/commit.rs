//! Draining and committing: a sealed checkpoint comes to exist in the lake.
//!
//! Whoever drains a rank then looks which ranks of its attempt are there. If all are, it commits;
//! if not, a rank that drains later will. There is no barrier and no coordinator, and several that
//! see all ranks complete write the same thing: one wins, the others find theirs done.

use std::collections::BTreeMap;

use forebay_format::{
    record,
    v1::checkpoint::{
        CommitRecord, RankRecord, commit_key, rank_key, step_prefix, tensors_key,
    },
};
use forebay_lake::{Commit, Lake, Purpose};
use forebay_runtime::{Runtime, crash_point};
use forebay_transfer::Transfer;
use forebay_types::{Digest, Name};

use crate::{
    Error,
    stage::{Sealed, staged_name},
};

/// Uploads what is sealed, commits if this completes the step, and releases what was staged.
///
/// True when the step is committed now; false while other ranks are missing.
pub(crate) fn drain(
    transfer: &Transfer,
    runtime: &Runtime,
    sealed: &Sealed,
) -> Result<bool, Error> {
    let RankRecord { run, step, rank, file, .. } = &sealed.record;
    let tensors = staged_name(run, *step, *rank, "safetensors");
    transfer.drain(&tensors, &tensors_key(run, *step, *rank, file.digest), file.digest)?;
    crash_point("checkpoint.drain");
    let (body, _) = record::encode(&sealed.record)?;
    let key = rank_key(run, *step, *rank, sealed.digest);
    transfer
        .lake()
        .write(&key, Purpose::Checkpoint, &body)
        .map_err(|source| Error::Lake { act: "write a rank", run: run.clone(), source })?;
    crash_point("checkpoint.before_commit");
    let committed = commit(transfer.lake(), runtime, &sealed.record)?;
    crash_point("checkpoint.after_commit");
    release(transfer, &sealed.record)?;
    Ok(committed)
}

/// Lets go what was staged of a rank's checkpoint.
pub(crate) fn release(transfer: &Transfer, record: &RankRecord) -> Result<(), Error> {
    let RankRecord { run, step, rank, .. } = record;
    for extension in ["json", "safetensors"] {
        let name = staged_name(run, *step, *rank, extension);
        transfer.local().release(&name).map_err(|source| Error::Local {
            act: "release",
            run: run.clone(),
            step: *step,
            source,
        })?;
    }
    Ok(())
}

/// Commits `of.step` if every rank of its attempt is there.
fn commit(lake: &Lake, runtime: &Runtime, of: &RankRecord) -> Result<bool, Error> {
    let failed = |source| Error::Lake { act: "commit a checkpoint", run: of.run.clone(), source };
    let ranks = complete(lake, of)?;
    let Some(ranks) = ranks else { return Ok(false) };
    let commit = CommitRecord {
        run: of.run.clone(),
        step: of.step,
        position: of.position,
        ranks,
        created_unix_ms: runtime.now().unix_ms(),
        nonce: runtime.nonce(),
    };
    let (body, _) = record::encode(&commit)?;
    let key = commit_key(&of.run, of.step);
    let Commit::Lost(standing) = lake.commit(&key, &body).map_err(failed)? else {
        return Ok(true);
    };
    let (standing, _) = record::decode::<CommitRecord>(&standing, key.as_str())?;
    require_same_state(lake, of, &standing)?;
    Ok(true)
}

/// Another attempt was first: fine if it holds, for this rank, the same state.
fn require_same_state(lake: &Lake, of: &RankRecord, standing: &CommitRecord) -> Result<(), Error> {
    let conflict = || Error::Conflict { run: of.run.clone(), step: of.step };
    let digest = standing.ranks.get(of.rank as usize).ok_or_else(conflict)?;
    let theirs = read_rank(lake, &of.run, of.step, of.rank, *digest)?;
    let same = theirs.file == of.file
        && theirs.position == of.position
        && theirs.metadata == of.metadata
        && theirs.world_size == of.world_size;
    if same { Ok(()) } else { Err(conflict()) }
}

/// The digests of the records of all ranks of one attempt, if all are there.
fn complete(lake: &Lake, of: &RankRecord) -> Result<Option<Vec<Digest>>, Error> {
    let failed = |source| Error::Lake { act: "list a checkpoint", run: of.run.clone(), source };
    let mut found = Vec::new();
    lake.list(&step_prefix(&of.run, of.step), &mut |listed| {
        found.extend(rank_of(listed.key.file_name()));
        Ok(())
    })
    .map_err(failed)?;
    let mut ranks = BTreeMap::new();
    for (rank, digest) in found {
        let record = read_rank(lake, &of.run, of.step, rank, digest)?;
        let together = record.attempt == of.attempt
            && record.world_size == of.world_size
            && record.position == of.position;
        if together {
            ranks.insert(rank, digest);
        }
    }
    let all = ranks.len() as u64 == u64::from(of.world_size);
    Ok(all.then(|| ranks.into_values().collect()))
}

/// The rank and digest in a rank record's name.
fn rank_of(file_name: &str) -> Option<(u32, Digest)> {
    let (rank, digest) =
        file_name.strip_prefix("rank-")?.strip_suffix(".json")?.split_once('-')?;
    Some((rank.parse().ok()?, digest.parse().ok()?))
}

/// A rank's record, verified against the digest that names it.
pub(crate) fn read_rank(
    lake: &Lake,
    run: &Name,
    step: u64,
    rank: u32,
    digest: Digest,
) -> Result<RankRecord, Error> {
    let key = rank_key(run, step, rank, digest);
    let bytes = lake
        .read(&key, Purpose::Checkpoint, record::LEN_BYTES_MAX)
        .map_err(|source| Error::Lake { act: "read a rank", run: run.clone(), source })?
        .ok_or_else(|| forebay_format::Error::damaged(&key, "it is missing"))?;
    let (record, found) = record::decode::<RankRecord>(&bytes, key.as_str())?;
    let itself = record.run == *run && record.step == step && record.rank == rank;
    if found == digest && itself {
        Ok(record)
    } else {
        Err(forebay_format::Error::damaged(key, "it is another rank's record").into())
    }
}
