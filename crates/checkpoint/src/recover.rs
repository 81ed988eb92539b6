//! Recovery: what a dead process left on this node, in memory and staged.
//!
//! What it had captured is staged; a sealed save is drained and committed: its process died, its data
//! did not. A tensor file that was never sealed is removed. A rank takes care of its own files, and of
//! those of ranks that no longer exist because the world has shrunk.
//!
//! A state that is staged and still in memory is taken over to be restored from, until the next capture
//! takes its place. That of other runs, whose processes are dead, is let go: they have it on the disk.

use std::{collections::BTreeSet, fmt, io::Read, time::Duration};

use forebay_format::{
    record,
    v1::checkpoint::{self, RankRecord},
};
use forebay_transfer::StagedBytes;
use forebay_types::{ErrorKind, Key};
use serde::Serialize;

use crate::{
    Error,
    arena::Arena,
    base::Base,
    capture::{Captured, Timing, read_kept},
    publish::{Outcome, publish},
    site::Site,
    stage::{Sealed, StagedNames, stage},
};

/// One thing that was found staged, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Recovered {
    /// Its name on the local tier.
    pub name: String,
    /// The step it belongs to.
    pub step: u64,
    /// What became of it.
    pub outcome: Recovery,
}

/// What became of something that was found staged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Recovery {
    /// Its checkpoint is committed, by us or before.
    Committed,
    /// Its part is in the lake; these ranks' parts are not.
    AwaitsRanks(Vec<u32>),
    /// Its part is in the lake; this rank's is not, and will not come: it gave it up.
    RankFailed(u32),
    /// Another state is committed as its step, or another launch has claimed the run since; it was
    /// removed.
    Superseded,
    /// It went bad on the node and was removed.
    Damaged(String),
    /// It was never sealed and was removed.
    Unsealed,
}

impl fmt::Display for Recovered {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} of step {}: ", self.name, self.step)?;
        match &self.outcome {
            Recovery::Committed => formatter.write_str("drained and committed"),
            Recovery::AwaitsRanks(ranks) => write!(formatter, "drained; awaits ranks {ranks:?}"),
            Recovery::RankFailed(rank) => {
                write!(formatter, "drained; not committed: rank {rank} gave up its part")
            }
            Recovery::Superseded => {
                formatter.write_str("removed: another launch went on without it")
            }
            Recovery::Damaged(what) => write!(formatter, "removed: {what}"),
            Recovery::Unsealed => formatter.write_str("removed: it was never complete"),
        }
    }
}

/// Drains, commits or removes everything that dead processes left for this rank; also returns the newest
/// save that is committed, whose files stay staged to be restored from, and memory to be used again.
pub(crate) fn recover(site: &Site) -> Result<(Vec<Recovered>, Option<Sealed>, Arena), Error> {
    let mut names: BTreeSet<Key> = staged_names(site)?;
    let seals: BTreeSet<Key> = names.iter().filter(|name| is_seal(name)).cloned().collect();
    let (mut recovered, mut kept) = (Vec::new(), None);
    for name in &seals {
        let outcome = match read_seal(site, name)? {
            Ok(sealed) => {
                names.remove(&sealed.names().file);
                finish(site, sealed, &mut kept)?
            }
            Err(what) => {
                site.local().release(name)?;
                Recovery::Damaged(what)
            }
        };
        names.remove(name);
        recovered.push(said(site, name, outcome));
    }
    for name in names {
        site.local().release(&name)?;
        recovered.push(said(site, &name, Recovery::Unsealed));
    }
    let arena = recover_captured(site, &seals, &mut recovered, &mut kept)?;
    let arena = take_staged(site, arena)?;
    let is_too_large = arena.exceeds(site.settings.arena_bytes_max);
    Ok((recovered, kept, if is_too_large { Arena::default() } else { arena }))
}

fn said(site: &Site, name: &Key, outcome: Recovery) -> Recovered {
    let step = checkpoint::step_of(&site.run, name).unwrap_or_default();
    Recovered { name: name.to_string(), step, outcome }
}

/// Stages, drains and commits what was captured and not sealed. What it was interrupted in is gone by
/// now, so there is the room that it had.
fn recover_captured(
    site: &Site,
    sealed: &BTreeSet<Key>,
    recovered: &mut Vec<Recovered>,
    kept: &mut Option<Sealed>,
) -> Result<Arena, Error> {
    let mut arena = Arena::default();
    for name in site.local().kept_memory()?.into_iter().filter(|name| is_ours(site, name)) {
        // Of a process that lives, and will see to it.
        let Some(mut memory) = site.local().take_memory(&name)? else { continue };
        let (record, plan) = match read_kept(&memory, &name) {
            Ok(read) => read,
            // A newer Forebay captured it, and will stage it.
            Err(error) if error.kind() == ErrorKind::NewerFormat => return Err(error),
            Err(error) => {
                memory.unkeep()?;
                recovered.push(said(site, &name, Recovery::Damaged(error.to_string())));
                continue;
            }
        };
        let captured = Captured::take_over(memory, record, plan);
        let seal = StagedNames::of_capture(&captured.facts).record;
        if !sealed.contains(&seal) {
            let staged = stage_in_room(site, &captured, kept)?;
            let outcome = finish(site, staged, kept)?;
            recovered.push(said(site, &seal, outcome));
        }
        arena = captured.into_arena();
        arena.mark_staged()?;
    }
    Ok(arena)
}

/// Takes over the newest state of this rank that is staged and still in memory, unless there is one
/// already. What it does not take is removed, but for that of other ranks that will come.
fn take_staged(site: &Site, mut arena: Arena) -> Result<Arena, Error> {
    // Names sort by step.
    for name in site.local().staged_memory()?.into_iter().rev() {
        let is_of_run = checkpoint::step_of(&site.run, &name).is_some();
        if is_of_run && !is_ours(site, &name) {
            continue;
        }
        // Nothing of a process that lives; what is dropped is removed.
        let Some(memory) = site.local().take_staged_memory(&name)? else { continue };
        let is_wanted = is_of_run && rank_of(&name) == Some(site.rank.rank()) && !arena.is_named();
        if let (true, Ok((_, plan))) = (is_wanted, read_kept(&memory, &name)) {
            arena = Arena::holding(memory, plan.file_bytes as usize);
        }
    }
    Ok(arena)
}

/// Stages a save, if need be in the room of one that is committed.
fn stage_in_room(
    site: &Site,
    captured: &Captured<'_>,
    kept: &mut Option<Sealed>,
) -> Result<Sealed, Error> {
    loop {
        match stage(site, captured, &Base::default(), false) {
            Err(error) if error.kind() == ErrorKind::Full => match kept.take() {
                Some(committed) => committed.release(site)?,
                None => return Err(error),
            },
            outcome => return outcome.map(|(sealed, _)| sealed),
        }
    }
}

fn is_seal(name: &Key) -> bool {
    name.as_str().ends_with(".json")
}

fn staged_names(site: &Site) -> Result<BTreeSet<Key>, Error> {
    let names = site.local().staged()?.into_iter().map(|staged| staged.name);
    Ok(names.filter(|name| is_ours(site, name)).collect())
}

/// Whether this rank takes care of a staged file.
fn is_ours(site: &Site, name: &Key) -> bool {
    checkpoint::step_of(&site.run, name).is_some()
        && rank_of(name).is_some_and(|rank| rank % site.rank.world_size() == site.rank.rank())
}

fn rank_of(name: &Key) -> Option<u32> {
    name.file_name().strip_prefix("rank-")?.split('.').next()?.parse().ok()
}

fn read_seal(site: &Site, name: &Key) -> Result<Result<Sealed, String>, Error> {
    let mut body = Vec::new();
    let file = site.local().staged_file(name)?;
    file.take(record::LEN_BYTES_MAX + 1)
        .read_to_end(&mut body)
        .map_err(Error::file("read", name))?;
    let (record, digest) = match record::decode::<RankRecord>(&body, name.as_str()) {
        Ok(decoded) => decoded,
        // A newer Forebay staged it, and will drain it.
        Err(error) if error.kind() == ErrorKind::NewerFormat => {
            return Err(error.into());
        }
        Err(error) => return Ok(Err(error.to_string())),
    };
    let (timing, bytes) = (Timing::default(), StagedBytes::Found);
    let sealed = Sealed { record, body, digest, timing, bytes };
    let itself = sealed.names().record == *name;
    Ok(if itself { Ok(sealed) } else { Err("it does not belong where it lies".into()) })
}

fn finish(site: &Site, sealed: Sealed, kept: &mut Option<Sealed>) -> Result<Recovery, Error> {
    let outcome = match publish(site, &sealed, Duration::ZERO, None) {
        Ok(Outcome::Committed(_) | Outcome::Existed | Outcome::Equal) => {
            // Names sort by step, so the last one seen is the newest.
            if let Some(older) = kept.replace(sealed) {
                older.release(site)?;
            }
            return Ok(Recovery::Committed);
        }
        Ok(Outcome::Awaiting(ranks)) => Recovery::AwaitsRanks(ranks),
        Ok(Outcome::GivenUp { rank, .. }) => Recovery::RankFailed(rank),
        Err(Error::Conflict { .. } | Error::Replaced { .. }) => Recovery::Superseded,
        Err(error) if is_lost(&error) => Recovery::Damaged(error.to_string()),
        Err(error) => return Err(error),
    };
    sealed.release(site)?;
    Ok(outcome)
}

/// Whether the staged bytes themselves are gone, so that trying again cannot help.
pub(crate) fn is_lost(error: &Error) -> bool {
    use forebay_transfer::Error as Transfer;
    match error {
        Error::Transfer(Transfer::StagedDamaged { .. }) | Error::EarlierMissing { .. } => true,
        Error::Transfer(Transfer::Local { source, .. }) => {
            matches!(source, forebay_local::Error::NotStaged(_))
        }
        _ => false,
    }
}
