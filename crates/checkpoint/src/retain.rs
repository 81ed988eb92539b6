//! Retention: which checkpoints stay, and the removal of the others.
//!
//! The commit goes first, so a reader sees a checkpoint whole or not at all; its files follow. In
//! the same listing, what attempts without a commit left in the lake is removed: of a committed
//! step at once, because it is decided; of an earlier step after [`LEFTOVER_GRACE`], because a
//! slow rank might still complete it. Tensor files that a checkpoint which stays refers to are kept,
//! whatever becomes of the checkpoint they were written for; they go with the last that needs them.
//!
//! # After a crash
//! Files without a commit, which a later retention removes as leftovers.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use forebay_format::v1::{checkpoint, writer::WriterRecord};
use forebay_lake::{Lake, Listed};
use forebay_runtime::Runtime;
use forebay_types::{Digest, Key, Name};

use crate::{
    Error,
    keep::{self, KeepBest, KeepPolicy},
    read,
    site::Site,
};

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
fn surplus(site: &Site, committed: &[u64], commits: &mut Commits) -> Result<Vec<u64>, Error> {
    let policy = site.settings.keep_policy();
    let kept = keep::kept(&commits.valued(site.lake(), &site.run, committed)?, &policy);
    Ok(committed.iter().copied().filter(|step| !kept.contains_key(step)).collect())
}

/// What retention must know of a commit.
#[derive(Debug)]
struct Known {
    /// The earlier steps whose tensor files it refers to.
    needs: BTreeSet<u64>,
    launch: Option<Digest>,
    /// The value of the metric that is asked for.
    value: Option<f64>,
}

/// The commits that were read so far, each once: a commit never changes.
#[derive(Debug, Default)]
pub(crate) struct Commits {
    /// Which metric is asked for.
    best: Option<KeepBest>,
    known: BTreeMap<u64, Known>,
}

impl Commits {
    pub(crate) fn new(policy: &KeepPolicy) -> Self {
        // Where all stay, none is the best.
        let best = policy.keep_best.clone().filter(|_| policy.keep_last > 0);
        Self { best, known: BTreeMap::new() }
    }

    /// The steps with the values of the metric that is asked for; commits are read only for it. What
    /// cannot be read has no value, and is no reason to keep everything else.
    pub(crate) fn valued(
        &mut self,
        lake: &Lake,
        run: &Name,
        steps: &[u64],
    ) -> Result<BTreeMap<u64, Option<f64>>, Error> {
        if self.best.is_some() {
            self.learn(lake, run, steps)?;
        }
        let value = |step: &u64| self.known.get(step).and_then(|known| known.value);
        Ok(steps.iter().map(|step| (*step, value(step))).collect())
    }

    /// Reads what is not known yet; returns those that cannot be read.
    fn learn(&mut self, lake: &Lake, run: &Name, steps: &[u64]) -> Result<Vec<u64>, Error> {
        let mut unreadable = Vec::new();
        for &step in steps {
            if self.known.contains_key(&step) {
                continue;
            }
            match read::commit(lake, run, step) {
                Ok(Some(commit)) => {
                    let needs = commit.needs.into_iter().collect();
                    let value = self.best.as_ref().and_then(|rule| rule.value(&commit.metadata));
                    self.known.insert(step, Known { needs, launch: commit.launch, value });
                }
                Ok(None) => {}
                Err(Error::Format(_) | Error::Object { .. }) => unreadable.push(step),
                Err(error) => return Err(error),
            }
        }
        Ok(unreadable)
    }

    /// What the steps that stay refer to. A commit that cannot be read may refer to anything before it.
    fn needed(
        &mut self,
        lake: &Lake,
        run: &Name,
        staying: &[u64],
        inventory: &Inventory,
    ) -> Result<BTreeSet<u64>, Error> {
        let mut needed = BTreeSet::new();
        for step in self.learn(lake, run, staying)? {
            needed.extend(inventory.0.range(..step).map(|(&step, _)| step));
        }
        needed.extend(
            staying.iter().filter_map(|step| self.known.get(step)).flat_map(|one| &one.needs),
        );
        Ok(needed)
    }

    /// Those of the steps that were committed after the claim by launches it had replaced.
    fn strays(
        &mut self,
        lake: &Lake,
        claim: &WriterRecord,
        committed: &[u64],
    ) -> Result<Vec<u64>, Error> {
        let is_late = |step: &u64| claim.newest_step.is_none_or(|newest| *step > newest);
        let mut late: Vec<u64> = committed.iter().copied().filter(is_late).collect();
        self.learn(lake, &claim.run, &late)?;
        late.retain(|step| {
            self.known.get(step).is_some_and(|known| known.launch != Some(claim.launch))
        });
        Ok(late)
    }
}

/// Whether an object of `step` stays because another checkpoint needs it.
fn is_needed(key: &Key, step: u64, needed: &BTreeSet<u64>) -> bool {
    needed.contains(&step) && key.file_name().ends_with(".safetensors")
}

/// Removes what need not stay now that `step` is committed; returns the checkpoints removed.
///
/// What launches that `claim` replaced committed after it goes too.
pub(crate) fn retain(
    site: &Site,
    step: u64,
    claim: Option<&WriterRecord>,
    commits: &mut Commits,
) -> Result<Vec<u64>, Error> {
    let (lake, run) = (site.lake(), &site.run);
    let inventory = Inventory::read(lake, run, &checkpoint::checkpoints_prefix(run))?;
    // It may have been committed before, and removed by hand.
    commits.known.remove(&step);
    let mut committed = inventory.committed(run);
    let mut removed = match claim {
        Some(claim) => commits.strays(lake, claim, &committed)?,
        None => Vec::new(),
    };
    committed.retain(|step| !removed.contains(step));
    let surplus = surplus(site, &committed, commits)?;
    committed.retain(|step| !surplus.contains(step));
    removed.extend(surplus);
    let needed = commits.needed(lake, run, &committed, &inventory)?;
    for one in &removed {
        remove_objects(lake, run, *one, &inventory.0[one], &needed)?;
    }
    let until = site.runtime.now().unix_ms().saturating_sub(millis(LEFTOVER_GRACE));
    let mut left = unnamed(lake, run, step, &inventory, &needed)?;
    left.extend(abandoned(&committed, &inventory, until, &needed));
    delete_all(lake, &left)?;
    Ok(removed)
}

/// Finds what attempts that were never committed, or a removal that was cut off, left of a run's
/// checkpoints, and deletes it if told to; says what.
///
/// Of steps older than the newest committed one it takes what was written before `older_than`; of
/// committed steps, what their commits do not name. Nothing that a commit needs is touched. A job
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
    let needed = Commits::default().needed(lake, run, &committed, &inventory)?;
    let mut left = abandoned(&committed, &inventory, until, &needed);
    for &step in &committed {
        left.extend(unnamed(lake, run, step, &inventory, &needed)?);
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
fn unnamed(
    lake: &Lake,
    run: &Name,
    step: u64,
    inventory: &Inventory,
    needed: &BTreeSet<u64>,
) -> Result<Vec<Key>, Error> {
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
    Ok(keys.filter(|key| !named.contains(key) && !is_needed(key, step, needed)).collect())
}

/// What attempts at earlier steps left that were never committed, if all of it was written before.
fn abandoned(
    committed: &[u64],
    inventory: &Inventory,
    until_unix_ms: u64,
    needed: &BTreeSet<u64>,
) -> Vec<Key> {
    let Some(&newest) = committed.last() else { return Vec::new() };
    let open = inventory.0.range(..newest).filter(|(step, _)| !committed.contains(step));
    let old = open.filter(|(_, objects)| {
        objects.iter().all(|listed| listed.modified_unix_ms <= until_unix_ms)
    });
    let keys = old.flat_map(|(&step, objects)| objects.iter().map(move |one| (step, &one.key)));
    keys.filter(|(step, key)| !is_needed(key, *step, needed)).map(|(_, key)| key.clone()).collect()
}

fn delete_all(lake: &Lake, keys: &[Key]) -> Result<(), Error> {
    Ok(keys.iter().try_for_each(|key| lake.delete(key).map(drop))?)
}

fn remove_objects(
    lake: &Lake,
    run: &Name,
    step: u64,
    objects: &[Listed],
    needed: &BTreeSet<u64>,
) -> Result<(), Error> {
    lake.delete(&checkpoint::commit_key(run, step))?;
    let mut gone = objects.iter().filter(|listed| !is_needed(&listed.key, step, needed));
    Ok(gone.try_for_each(|listed| lake.delete(&listed.key).map(drop))?)
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
    remove_steps(lake, run, &[step])
}

/// Removes checkpoints, whichever they are, but for what others need of them.
pub(crate) fn remove_steps(lake: &Lake, run: &Name, steps: &[u64]) -> Result<(), Error> {
    let inventory = Inventory::read(lake, run, &checkpoint::checkpoints_prefix(run))?;
    let mut staying = inventory.committed(run);
    staying.retain(|step| !steps.contains(step));
    let needed = Commits::default().needed(lake, run, &staying, &inventory)?;
    steps.iter().try_for_each(|step| {
        let objects = inventory.0.get(step).map_or(&[][..], Vec::as_slice);
        remove_objects(lake, run, *step, objects, &needed)
    })
}
