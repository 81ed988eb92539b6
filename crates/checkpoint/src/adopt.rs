//! Adopting: a checkpoint that no trainer saved here becomes a step of a run.
//!
//! The tensor files are in the lake already, whole and durable; records follow, the commit is last,
//! as in [`crate::publish`]. A step that is committed stands: adopting an equal one again is no
//! error, so what was cut off is done by asking again.
//!
//! # After a crash
//! Objects that no commit names. The same call writes them again; retention and
//! [`crate::sweep`] remove them otherwise.

use forebay_format::{
    record,
    v1::checkpoint::{self, CommitRecord, RankRecord},
};
use forebay_lake::{Commit, Lake, Purpose};
use forebay_runtime::crash_point;

use crate::{Error, read};

/// What adopting a checkpoint came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Adopted {
    /// It exists since now.
    New,
    /// An equal one existed.
    Existed,
}

/// Whether the step that `records` would make is committed, which is a conflict unless it is equal.
pub(crate) fn is_committed(lake: &Lake, records: &[RankRecord]) -> Result<bool, Error> {
    let Some(RankRecord { run, step, .. }) = records.first() else { return Ok(false) };
    match read::commit(lake, run, *step)? {
        None => Ok(false),
        Some(standing) => require_equal(lake, &standing, records).map(|()| true),
    }
}

/// Commits `records`, all ranks of one checkpoint, whose files are in the lake.
pub(crate) fn adopt(lake: &Lake, records: Vec<RankRecord>) -> Result<Adopted, Error> {
    let Some(RankRecord { run, step, .. }) = records.first().cloned() else {
        return Err(Error::Stopped);
    };
    let mut ranks = Vec::with_capacity(records.len());
    for record in records {
        let (body, digest) = record::encode(&record)?;
        let key = checkpoint::rank_key(&run, step, record.rank, digest);
        lake.write(&key, Purpose::Checkpoint, &body)?;
        ranks.push((record, digest));
    }
    let disagree = |what| Error::RanksDisagree { run: run.clone(), step, what };
    let (body, _) = record::encode(&CommitRecord::of(&ranks).map_err(disagree)?)?;
    let key = checkpoint::commit_key(&run, step);
    crash_point("checkpoint.before_adoption");
    match lake.commit(&key, &body)? {
        Commit::Won => Ok(Adopted::New),
        Commit::Lost(found) => {
            let standing = read::commit_of(&found, &key, &run, step)?;
            let records: Vec<_> = ranks.into_iter().map(|(record, _)| record).collect();
            require_equal(lake, &standing, &records).map(|()| Adopted::Existed)
        }
    }
}

/// Requires that what is committed holds the same, whoever committed it and when.
fn require_equal(
    lake: &Lake,
    standing: &CommitRecord,
    records: &[RankRecord],
) -> Result<(), Error> {
    let conflict = || Error::Conflict { run: standing.run.clone(), step: standing.step };
    if standing.ranks.len() != records.len() {
        return Err(conflict());
    }
    for ours in records {
        let theirs = read::rank_record(lake, standing, ours.rank)?;
        let same = theirs.tensors == ours.tensors
            && theirs.file == ours.file
            && theirs.position == ours.position
            && theirs.metadata == ours.metadata;
        if !same {
            return Err(conflict());
        }
    }
    Ok(())
}
