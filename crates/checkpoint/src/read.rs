//! Reading commits and rank records, each verified by what names it.

use forebay_format::{
    record::{self, Record},
    v1::checkpoint::{self, CommitRecord, RankRecord},
};
use forebay_lake::{Lake, Purpose};
use forebay_types::{Digest, ErrorKind, Key, Name};

use crate::Error;

/// The committed steps of a run, oldest first.
///
/// Every store that can be a lake lists what was written before; so what is missing here was not
/// committed when the listing began.
pub(crate) fn steps(lake: &Lake, run: &Name) -> Result<Vec<u64>, Error> {
    let mut steps = Vec::new();
    lake.list(&checkpoint::checkpoints_prefix(run), &mut |listed| {
        let step = checkpoint::step_of(run, &listed.key);
        steps.extend(step.filter(|&step| checkpoint::commit_key(run, step) == listed.key));
        Ok(())
    })?;
    steps.sort_unstable();
    Ok(steps)
}

/// The commit of a step, if there is one.
pub(crate) fn commit(lake: &Lake, run: &Name, step: u64) -> Result<Option<CommitRecord>, Error> {
    let key = checkpoint::commit_key(run, step);
    let body = lake.read(&key, Purpose::Checkpoint, record::LEN_BYTES_MAX)?;
    body.map(|body| commit_of(&body, &key, run, step)).transpose()
}

/// The commit that `body`, found at `key`, holds.
pub(crate) fn commit_of(
    body: &[u8],
    key: &Key,
    run: &Name,
    step: u64,
) -> Result<CommitRecord, Error> {
    let (commit, _) = decode::<CommitRecord>(body, key)?;
    if commit.run != *run || commit.step != step {
        return Err(Error::object(key, "it is the commit of another step"));
    }
    Ok(commit)
}

/// The commit of a step that must be there.
pub(crate) fn existing(lake: &Lake, run: &Name, step: u64) -> Result<CommitRecord, Error> {
    match commit(lake, run, step)? {
        Some(commit) => Ok(commit),
        None => Err(Error::NoStep { run: run.clone(), step, known: known(&steps(lake, run)?) }),
    }
}

/// The step asked for, or the newest.
pub(crate) fn chosen(lake: &Lake, run: &Name, step: Option<u64>) -> Result<u64, Error> {
    match step {
        Some(step) => Ok(step),
        None => steps(lake, run)?.pop().ok_or_else(|| Error::NoCheckpoint { run: run.clone() }),
    }
}

fn known(steps: &[u64]) -> String {
    let newest: Vec<_> = steps.iter().rev().take(5).map(ToString::to_string).collect();
    match steps.len() {
        0 => "none".into(),
        1..=5 => newest.join(", "),
        more => format!("{} and {} older", newest.join(", "), more - 5),
    }
}

/// The record of a rank, as its commit names it.
pub(crate) fn rank_record(
    lake: &Lake,
    commit: &CommitRecord,
    rank: u32,
) -> Result<RankRecord, Error> {
    let wanted = commit.ranks[rank as usize];
    let key = checkpoint::rank_key(&commit.run, commit.step, rank, wanted);
    let found = published(lake, &key)?;
    let record =
        found.ok_or_else(|| Error::object(&key, "it is missing, though a commit names it"))?;
    let itself = (&record.run, record.step, record.rank, record.attempt)
        == (&commit.run, commit.step, rank, commit.attempt);
    if itself { Ok(record) } else { Err(Error::object(&key, "it is another rank's record")) }
}

/// The rank record at `key`, verified by the digest in its name; `None` if there is none.
pub(crate) fn published(lake: &Lake, key: &Key) -> Result<Option<RankRecord>, Error> {
    let body = lake.read(key, Purpose::Checkpoint, record::LEN_BYTES_MAX)?;
    let Some(body) = body else { return Ok(None) };
    let (record, digest) = decode::<RankRecord>(&body, key)?;
    match checkpoint::rank_of(key) {
        Some((rank, named)) if named == digest && rank == record.rank => Ok(Some(record)),
        _ => Err(Error::object(key, "it is not the record its name says")),
    }
}

/// Decodes the record at `key`. What lies at a checkpoint's key and is another record is damage.
fn decode<R: Record>(body: &[u8], key: &Key) -> Result<(R, Digest), Error> {
    record::decode(body, key.as_str()).map_err(|error| match error {
        forebay_format::Error::OtherFormat { found, .. } => {
            Error::object(key, format!("it is a `{found}` record"))
        }
        error => error.into(),
    })
}

/// Says of a damaged step which older one is whole.
pub(crate) fn explain(lake: &Lake, run: &Name, step: u64, error: Error) -> Error {
    if error.kind() != ErrorKind::Corrupt {
        return error;
    }
    let older = steps(lake, run).unwrap_or_default().into_iter().rev().filter(|&one| one < step);
    let intact = older.into_iter().find(|&one| crate::verify(lake, run, Some(one)).is_ok());
    let advice = match intact {
        Some(intact) => format!(
            "step {intact} is intact: choose it with `--step {intact}`, or put the damaged object \
             back from another copy"
        ),
        None => "no older step is intact: put the damaged object back from another copy".into(),
    };
    Error::Damaged { run: run.clone(), step, advice, source: Box::new(error) }
}
