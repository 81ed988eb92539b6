//! Publishing: the moment at which a checkpoint comes to exist.
//!
//! Each rank drains its file, then writes its record, then looks whether all ranks of its attempt
//! have. Whoever sees all complete creates `commit.json` if absent. The commit is a pure function
//! of the rank records, so several ranks that see the same write the same bytes. A rank that gave its
//! part up says so where the others look for it, see [`crate::failure`], and they wait no longer.
//!
//! Whoever commits is the writer of the run, see [`crate::writer`].
//!
//! # After a crash
//! Before the commit: objects of an attempt that nothing names; the staged copy is drained again.
//! After it: nothing to do. There is no third case.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use forebay_format::{
    record,
    v1::{
        checkpoint::{self, CommitRecord, RankRecord, TensorEntry},
        failure::failure_of,
        writer::WriterRecord,
    },
};
use forebay_lake::{Commit, Purpose};
use forebay_runtime::crash_point;
use forebay_transfer::Follow;
use forebay_types::{Digest, Key};

use crate::{Error, failure, read, site::Site, stage::Sealed, writer};

const POLL_FIRST: Duration = Duration::from_millis(20);
const POLL_LONGEST: Duration = Duration::from_secs(1);

/// What became of a published save.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Our commit made it exist, under this claim.
    Committed(Option<WriterRecord>),
    /// It existed: by another rank, or this save in an earlier life.
    Existed,
    /// Another attempt's, with an equal state, stands; the files of ours are gone.
    Equal,
    /// These ranks have not published their part.
    Awaiting(Vec<u32>),
    /// A rank gave its part up, for this reason.
    GivenUp { rank: u32, reason: String },
}

/// Brings a sealed save to the lake, going on with what is on its way there, and commits it, waiting at
/// most `patience` for other ranks.
pub(crate) fn publish(
    site: &Site,
    sealed: &Sealed,
    patience: Duration,
    follow: Option<Follow>,
) -> Result<Outcome, Error> {
    let step = sealed.record.step;
    if let Some(commit) = read::commit(site.lake(), &site.run, step)? {
        return settle(site, sealed, &commit);
    }
    check_earlier(site, sealed)?;
    let digest = sealed.record.file.digest;
    let (name, key) = (sealed.names().file, sealed.file_key());
    site.transfer.drain(&name, &key, digest, sealed.bytes, follow)?;
    site.lake().write(&sealed.record_key(), Purpose::Checkpoint, &sealed.body)?;
    crash_point("checkpoint.before_commit");
    let outcome = await_ranks(site, sealed, patience)?;
    crash_point("checkpoint.after_commit");
    Ok(outcome)
}

/// Whether the earlier files that a save refers to are in the lake: the save before it may have been
/// lost, or its step been removed by hand.
fn check_earlier(site: &Site, sealed: &Sealed) -> Result<(), Error> {
    let RankRecord { run, step, earlier, .. } = &sealed.record;
    for file in earlier {
        let key = checkpoint::tensors_key(run, file.step, file.rank, file.digest);
        if site.lake().size(&key)? != Some(file.bytes) {
            let (run, step, needed) = (run.clone(), *step, file.step);
            return Err(Error::EarlierMissing { run, step, needed });
        }
    }
    Ok(())
}

fn await_ranks(site: &Site, sealed: &Sealed, patience: Duration) -> Result<Outcome, Error> {
    let watch = site.runtime.stopwatch();
    let mut ranks = Ranks::new(sealed);
    let mut pause = POLL_FIRST;
    loop {
        let missing = ranks.look(site, sealed)?;
        if missing.is_empty() {
            return commit(site, sealed, &ranks.complete());
        }
        if let Some(commit) = read::commit(site.lake(), &site.run, sealed.record.step)? {
            return settle(site, sealed, &commit);
        }
        if let Some((rank, key)) = ranks.failed()
            && let Some(reason) = failure::reason(site, key)?
        {
            return Ok(Outcome::GivenUp { rank, reason });
        }
        if watch.elapsed() >= patience || site.runtime.sleep(pause).is_err() {
            return Ok(Outcome::Awaiting(missing));
        }
        pause = (pause * 2).min(POLL_LONGEST);
    }
}

/// The records of one attempt, as they come in.
struct Ranks {
    found: Vec<Option<(RankRecord, Digest)>>,
    /// Records of other attempts, which need not be read again.
    foreign: BTreeSet<Key>,
    /// Failures that ranks of the attempt told of.
    failures: BTreeMap<u32, Key>,
}

impl Ranks {
    fn new(sealed: &Sealed) -> Self {
        let mut found = vec![None; sealed.record.world_size as usize];
        found[sealed.record.rank as usize] = Some((sealed.record.clone(), sealed.digest));
        Self { found, foreign: BTreeSet::new(), failures: BTreeMap::new() }
    }

    /// Looks for those not seen yet; returns who is still missing.
    fn look(&mut self, site: &Site, sealed: &Sealed) -> Result<Vec<u32>, Error> {
        if !self.missing().is_empty() {
            for key in self.candidates(site, sealed)? {
                self.add(site, sealed, key)?;
            }
        }
        Ok(self.missing())
    }

    /// Records in the lake that might be those of missing ranks; notes which of them have failed.
    fn candidates(&mut self, site: &Site, sealed: &Sealed) -> Result<Vec<Key>, Error> {
        let Self { found, foreign, failures } = self;
        let RankRecord { step, attempt, .. } = &sealed.record;
        let is_missing = |rank: u32| matches!(found.get(rank as usize), Some(None));
        let mut keys = Vec::new();
        failures.clear();
        site.lake().list(&checkpoint::step_prefix(&site.run, *step), &mut |listed| {
            let record = checkpoint::rank_of(&listed.key).map(|(rank, _)| rank);
            let failure = failure_of(&listed.key).filter(|(of, _)| of == attempt);
            if record.is_some_and(is_missing) && !foreign.contains(&listed.key) {
                keys.push(listed.key);
            } else if let Some((_, rank)) = failure.filter(|(_, rank)| is_missing(*rank)) {
                failures.insert(rank, listed.key);
            }
            Ok(())
        })?;
        Ok(keys)
    }

    /// The first rank that is missing and told that it failed.
    fn failed(&self) -> Option<(u32, &Key)> {
        let is_missing = |rank: u32| self.found[rank as usize].is_none();
        let mut failures = self.failures.iter().map(|(&rank, key)| (rank, key));
        failures.find(|(rank, _)| is_missing(*rank))
    }

    fn add(&mut self, site: &Site, sealed: &Sealed, key: Key) -> Result<(), Error> {
        let Some(record) = read::published(site.lake(), &key)? else { return Ok(()) };
        let digest = checkpoint::rank_of(&key).map(|(_, digest)| digest);
        match digest.filter(|_| record.attempt == sealed.record.attempt) {
            Some(digest) => {
                let rank = record.rank as usize;
                self.found[rank] = Some((record, digest));
            }
            None => {
                self.foreign.insert(key);
            }
        }
        Ok(())
    }

    fn missing(&self) -> Vec<u32> {
        let ranks = (0..).zip(&self.found);
        ranks.filter(|(_, found)| found.is_none()).map(|(rank, _)| rank).collect()
    }

    fn complete(self) -> Vec<(RankRecord, Digest)> {
        self.found.into_iter().flatten().collect()
    }
}

fn commit(site: &Site, sealed: &Sealed, ranks: &[(RankRecord, Digest)]) -> Result<Outcome, Error> {
    let step = sealed.record.step;
    let disagree = |what| Error::RanksDisagree { run: site.run.clone(), step, what };
    let (body, _) = record::encode(&CommitRecord::of(ranks).map_err(disagree)?)?;
    let key = checkpoint::commit_key(&site.run, step);
    let check = || writer::check(site.lake(), &site.run, sealed.record.launch);
    check()?;
    match site.lake().commit(&key, &body)? {
        Commit::Won => Ok(Outcome::Committed(check()?)),
        Commit::Lost(found) => {
            settle(site, sealed, &read::commit_of(&found, &key, &site.run, step)?)
        }
    }
}

/// Compares a save with what is committed as its step.
fn settle(site: &Site, sealed: &Sealed, commit: &CommitRecord) -> Result<Outcome, Error> {
    let ours = &sealed.record;
    if commit.ranks.get(ours.rank as usize) == Some(&sealed.digest) {
        return Ok(Outcome::Existed);
    }
    let conflict = || Error::Conflict { run: site.run.clone(), step: ours.step };
    if commit.world_size() != ours.world_size {
        return Err(conflict());
    }
    let theirs = read::rank_record(site.lake(), commit, ours.rank)?;
    let same_file = theirs.file == ours.file;
    let same = is_same_state(&theirs, ours);
    // Another attempt stands; what ours may have left in the lake is of no use to anybody.
    site.lake().delete(&sealed.record_key())?;
    if !same_file {
        site.lake().delete(&sealed.file_key())?;
    }
    if same { Ok(Outcome::Equal) } else { Err(conflict()) }
}

/// Whether two records say the same of the training, wherever their tensors lie.
fn is_same_state(one: &RankRecord, other: &RankRecord) -> bool {
    let tensors = |record: &RankRecord| -> Vec<TensorEntry> {
        let place = |tensor: &TensorEntry| TensorEntry {
            offset: 0,
            earlier: None,
            checksum: None,
            encoded: None,
            ..tensor.clone()
        };
        let mut tensors: Vec<_> = record.tensors.iter().map(place).collect();
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
        tensors
    };
    one.position == other.position
        && one.metadata == other.metadata
        && tensors(one) == tensors(other)
}
