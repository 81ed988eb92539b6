//! Retention: which checkpoints stay, and the removal of the others.
//!
//! The commit goes first, so a reader sees a checkpoint whole or not at all; its files follow. In
//! the same listing, what attempts without a commit left in the lake is removed: of a committed
//! step at once, because it is decided; of an earlier step after [`LEFTOVER_GRACE`], because a
//! slow rank might still complete it.
//!
//! # After a crash
//! Files without a commit, which a later retention removes as leftovers.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use forebay_format::v1::checkpoint;
use forebay_lake::{Lake, Listed};
use forebay_runtime::Runtime;
use forebay_types::{Key, Name};

use crate::{Error, keep, read, retention::valued, site::Site};

/// How long an attempt of an earlier step may lie uncommitted before it counts as left behind.
pub const LEFTOVER_GRACE: Duration = Duration::from_secs(24 * 3600);

/// Every object of a run's checkpoints, by step.
struct Inventory(BTreeMap<u64, Vec<Listed>>);

impl Inventory {
    fn read(lake: &Lake, run: &Name, prefix: &str) -> Result<Self, Error> {
        let mut steps: BTreeMap<u64, Vec<Listed>> = BTreeMap::new();
        lake.list(prefix, &mut |listed| {
            if let Some(step) = checkpoint::step_of(run, &listed.key) {
                steps.entry(step).or_default().push(listed);
            }
            Ok(())
        })?;
        Ok(Self(steps))
    }

    fn committed(&self, run: &Name) -> Vec<u64> {
        let has_commit = |(&step, objects): (&u64, &Vec<Listed>)| {
            let key = checkpoint::commit_key(run, step);
            objects.iter().any(|listed| listed.key == key).then_some(step)
        };
        self.0.iter().filter_map(has_commit).collect()
    }
}

/// The steps that the settings do not keep; never the newest.
fn surplus(site: &Site, committed: &[u64]) -> Result<Vec<u64>, Error> {
    let policy = site.settings.keep_policy();
    let kept = keep::kept(&valued(site.lake(), &site.run, committed, &policy)?, &policy);
    Ok(committed.iter().copied().filter(|step| !kept.contains_key(step)).collect())
}

/// Removes what need not stay now that `step` is committed; returns the checkpoints removed.
pub(crate) fn retain(site: &Site, step: u64) -> Result<Vec<u64>, Error> {
    let (lake, run) = (site.lake(), &site.run);
    let inventory = Inventory::read(lake, run, &checkpoint::checkpoints_prefix(run))?;
    let committed = inventory.committed(run);
    let removed = surplus(site, &committed)?;
    for one in &removed {
        remove_objects(lake, run, *one, &inventory.0[one])?;
    }
    let until = site.runtime.now().unix_ms().saturating_sub(millis(LEFTOVER_GRACE));
    let mut left = unnamed(lake, run, step, &inventory)?;
    left.extend(abandoned(&committed, &inventory, until));
    delete_all(lake, &left)?;
    Ok(removed)
}

/// Finds what attempts that were never committed, or a removal that was cut off, left of a run's
/// checkpoints, and deletes it if told to; says what.
///
/// Of steps older than the newest committed one it takes what was written before `older_than`; of
/// committed steps, what their commits do not name. Nothing that a commit names is touched. A job
/// that saves this run may still complete a step that is no older: give it time.
///
/// # Errors
/// When the lake cannot be read or written.
pub fn sweep(
    lake: &Lake,
    run: &Name,
    runtime: &Runtime,
    older_than: Duration,
    delete: bool,
) -> Result<Vec<Key>, Error> {
    let inventory = Inventory::read(lake, run, &checkpoint::checkpoints_prefix(run))?;
    let committed = inventory.committed(run);
    let until = runtime.now().unix_ms().saturating_sub(millis(older_than));
    let mut left = abandoned(&committed, &inventory, until);
    for &step in &committed {
        left.extend(unnamed(lake, run, step, &inventory)?);
    }
    if delete {
        delete_all(lake, &left)?;
    }
    Ok(left)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// What other attempts at a committed step left.
fn unnamed(lake: &Lake, run: &Name, step: u64, inventory: &Inventory) -> Result<Vec<Key>, Error> {
    let objects = inventory.0.get(&step).map_or(&[][..], Vec::as_slice);
    let Some(commit) = read::commit(lake, run, step)? else { return Ok(Vec::new()) };
    // The commit, and a record and a file for each rank.
    if objects.len() <= 1 + 2 * commit.ranks.len() {
        return Ok(Vec::new());
    }
    let mut named = BTreeSet::from([checkpoint::commit_key(run, step)]);
    for rank in 0..commit.world_size() {
        let record = read::rank_record(lake, &commit, rank)?;
        let digest = commit.ranks[rank as usize];
        named.insert(checkpoint::rank_key(run, step, rank, digest));
        named.insert(checkpoint::tensors_key(run, step, rank, record.file.digest));
    }
    let keys = objects.iter().map(|listed| listed.key.clone());
    Ok(keys.filter(|key| !named.contains(key)).collect())
}

/// What attempts at earlier steps left that were never committed, if all of it was written before.
fn abandoned(committed: &[u64], inventory: &Inventory, until_unix_ms: u64) -> Vec<Key> {
    let Some(&newest) = committed.last() else { return Vec::new() };
    let open = inventory.0.range(..newest).filter(|(step, _)| !committed.contains(step));
    let old = open
        .map(|(_, objects)| objects)
        .filter(|objects| objects.iter().all(|listed| listed.modified_unix_ms <= until_unix_ms));
    old.flatten().map(|listed| listed.key.clone()).collect()
}

fn delete_all(lake: &Lake, keys: &[Key]) -> Result<(), Error> {
    Ok(keys.iter().try_for_each(|key| lake.delete(key).map(drop))?)
}

fn remove_objects(lake: &Lake, run: &Name, step: u64, objects: &[Listed]) -> Result<(), Error> {
    lake.delete(&checkpoint::commit_key(run, step))?;
    Ok(objects.iter().try_for_each(|listed| lake.delete(&listed.key).map(drop))?)
}

/// Removes one checkpoint: a damaged one, or one that a run was taken back behind.
///
/// # Errors
/// [`Error::NoStep`] when it is not committed, [`Error::Newest`] when it is the newest and intact.
pub fn remove(lake: &Lake, run: &Name, step: u64) -> Result<(), Error> {
    let steps = read::steps(lake, run)?;
    if !steps.contains(&step) {
        read::existing(lake, run, step)?;
    }
    if steps.last() == Some(&step) && crate::verify(lake, run, Some(step)).is_ok() {
        return Err(Error::Newest { run: run.clone(), step });
    }
    remove_step(lake, run, step)
}

/// Removes a checkpoint, whichever it is.
pub(crate) fn remove_step(lake: &Lake, run: &Name, step: u64) -> Result<(), Error> {
    let inventory = Inventory::read(lake, run, &checkpoint::step_prefix(run, step))?;
    inventory.0.get(&step).map_or(Ok(()), |objects| remove_objects(lake, run, step, objects))
}
