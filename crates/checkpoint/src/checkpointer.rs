//! The handle a training process saves and restores through.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use forebay_format::v1::{
    capture::CaptureFacts,
    checkpoint::{CheckpointReference, CommitRecord},
    run::DatasetReference,
};
use forebay_runtime::{Runtime, Stopwatch};
use forebay_transfer::Transfer;
use forebay_types::{Digest, DigestWriter, ErrorKind, Name, Nonce, Position, Rank};

use crate::{
    CheckpointSettings, CommittedCheckpoint, Error, PageLocks, Part, Recovered, Restored,
    SaveReport, StatePlan, StateTensor, Which,
    base::Base,
    capture::{Metadata, Timing, copied, lent},
    committed::Tiers,
    copying::Copying,
    failure,
    pipeline::Pipeline,
    read,
    recover::recover,
    restore::read_all,
    site::Site,
    writer::{self, launch_digest},
};

/// What the trainer waited for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Capture {
    /// The bytes of the tensor file.
    pub bytes: u64,
    /// How long the call took: waiting and copying.
    pub pause_seconds: f64,
    /// How much of that it waited for the save before to be staged.
    pub waited_seconds: f64,
    /// No memory held a copy of the state: it was written to this node while the call lasted.
    pub streamed: bool,
}

/// What of a state is not copied before a save returns; the tensors of a plan in this order, behind
/// those that are.
#[derive(Debug, Default)]
pub struct Deferred {
    /// What begins to be copied, and must not change before that is done.
    pub later: Vec<Cow<'static, [u8]>>,
    /// So many tensors that the caller brings over itself, see [`Copying::places`].
    pub filled: usize,
}

/// A save as the trainer asked for it.
struct Asked {
    step: u64,
    position: Position,
    attempt: Nonce,
    /// Since when the trainer waits.
    pause: Stopwatch,
}

/// Saves and restores the state of one rank of one run.
///
/// Dropping it waits for what is under way; call [`Checkpointer::wait`] before, to learn of errors.
pub struct Checkpointer {
    site: Site,
    pipeline: Pipeline,
    recovered: Vec<Recovered>,
    dataset: Option<DatasetReference>,
    /// Where the run was forked from: what its checkpoints said when it was opened.
    forked_from: Option<CheckpointReference>,
    launch: Option<String>,
    /// The launch as it claims the run, and whether it has.
    writer: Mutex<(Digest, bool)>,
    /// How often each step was saved; with the launch it tells attempts apart.
    saves: BTreeMap<u64, u64>,
    /// The last checkpoint captured or restored.
    last: Mutex<Option<u64>>,
}

impl Checkpointer {
    /// Opens the checkpoints of a run of one process, and finishes what a dead one left staged.
    ///
    /// # Errors
    /// [`Error::LaunchUnknown`] when there are more ranks, and what keeps staged data from the
    /// lake.
    pub fn open(
        transfer: &Transfer,
        run: &Name,
        rank: Rank,
        settings: &CheckpointSettings,
        runtime: &Runtime,
    ) -> Result<Self, Error> {
        if rank.world_size() > 1 {
            let (rank, world_size) = (rank.rank(), rank.world_size());
            return Err(Error::LaunchUnknown { rank, world_size });
        }
        Self::start(transfer, run, rank, None, settings, runtime)
    }

    /// Opens the checkpoints of a run of several ranks.
    ///
    /// `launch` is a text that all ranks of this launch share and no other launch has, such as
    /// torchrun's `TORCHELASTIC_RUN_ID` and `TORCHELASTIC_RESTART_COUNT`. Only ranks of one launch
    /// make a checkpoint together. When they restore, one of them chooses the step for all.
    ///
    /// # Errors
    /// What keeps staged data from the lake.
    pub fn open_launch(
        transfer: &Transfer,
        run: &Name,
        rank: Rank,
        launch: &str,
        settings: &CheckpointSettings,
        runtime: &Runtime,
    ) -> Result<Self, Error> {
        Self::start(transfer, run, rank, Some(launch.to_owned()), settings, runtime)
    }

    fn start(
        transfer: &Transfer,
        run: &Name,
        rank: Rank,
        launch: Option<String>,
        settings: &CheckpointSettings,
        runtime: &Runtime,
    ) -> Result<Self, Error> {
        let site = Site {
            transfer: transfer.clone(),
            run: run.clone(),
            rank,
            settings: settings.clone(),
            runtime: runtime.clone(),
        };
        let (recovered, kept, arena) = recover(&site)?;
        let newest = newest(&site)?;
        // What was asked of a process that is dead.
        site.local().take_ask(run)?;
        let usual = newest.as_ref().map_or(0, |commit| usual_bytes(&site, commit));
        let mut pipeline = Pipeline::start(&site, kept, arena);
        pipeline.expect(usual)?;
        let writer = match &launch {
            Some(launch) => launch_digest(launch),
            None => launch_digest(&runtime.nonce().to_string()),
        };
        let writer = Mutex::new((writer, false));
        let forked_from = newest.and_then(|commit| commit.forked_from);
        let (saves, last) = (BTreeMap::new(), Mutex::new(None));
        Ok(Self {
            site,
            pipeline,
            recovered,
            dataset: None,
            forked_from,
            launch,
            writer,
            saves,
            last,
        })
    }

    /// Names the dataset in every checkpoint from now on.
    #[must_use]
    pub fn with_dataset(mut self, dataset: DatasetReference) -> Self {
        self.dataset = Some(dataset);
        self
    }

    /// What opening found staged, and what became of it.
    #[must_use]
    pub fn recovered(&self) -> &[Recovered] {
        &self.recovered
    }

    /// Becomes the writer of the run, replacing who was before; saving and restoring do it first.
    ///
    /// What dead processes left staged must have been finished on all nodes: what is brought to the
    /// lake under the name of a launch that was replaced is not committed.
    ///
    /// # Errors
    /// [`Error::Replaced`] when another launch has claimed the run since this one did.
    pub fn claim(&self) -> Result<(), Error> {
        let (launch, claimed) = &mut *self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if !*claimed {
            writer::claim(&self.site, *launch)?;
            *claimed = true;
        }
        Ok(())
    }

    /// Captures the state after `step` steps, and returns as soon as it may be changed again.
    ///
    /// # Errors
    /// What is wrong with this state, or what went wrong in the background with one before; in
    /// the second case this state was not captured.
    pub fn save(
        &mut self,
        step: u64,
        position: Position,
        tensors: &[StateTensor<'_>],
        metadata: &serde_json::Value,
    ) -> Result<Capture, Error> {
        let asked = self.asked_for(step, position);
        let values: Vec<&[u8]> = tensors.iter().map(|tensor| &*tensor.bytes).collect();
        let metadata = Metadata::Read(metadata.clone());
        let plan = StatePlan::new(tensors);
        let saved =
            plan.and_then(|plan| self.begin(&asked, &plan, &values, Deferred::default(), metadata));
        self.told(&asked, saved).map(|(capture, _)| capture)
    }

    /// Captures the state of `plan`: the values of its first tensors are those of `now`; what is
    /// `deferred` comes behind. The save goes on when [`Copying::confirm`] says that nothing changed while
    /// that was copied. Where nothing is left to copy, there is no [`Copying`]. `metadata` is JSON, which
    /// the background reads.
    ///
    /// # Errors
    /// As [`Checkpointer::save`]. A state that changed is told of as [`Error::Changed`] by a later call.
    /// Where no memory holds a copy there is no place to fill, which [`Checkpointer::holds`] tells before.
    pub fn save_overlapped(
        &mut self,
        step: u64,
        position: Position,
        plan: &StatePlan,
        now: &[&[u8]],
        deferred: Deferred,
        metadata: String,
    ) -> Result<(Capture, Option<Copying>), Error> {
        let asked = self.asked_for(step, position);
        let saved = self.begin(&asked, plan, now, deferred, Metadata::Text(metadata));
        self.told(&asked, saved)
    }

    /// Tells the other ranks of a save that was not captured here: they wait for this one's part.
    fn told<T>(&self, asked: &Asked, saved: Result<T, Error>) -> Result<T, Error> {
        saved.inspect_err(|error| {
            failure::tell_error(&self.site, asked.step, asked.attempt, "captured", error);
        })
    }

    /// Whether memory holds a copy of the state of `plan`. Waits for the save before to be staged, and
    /// has that memory ready. What went wrong with that one, the save tells.
    ///
    /// # Errors
    /// When the background has stopped.
    pub fn holds(&mut self, plan: &StatePlan) -> Result<bool, Error> {
        let mut arena = self.pipeline.arena()?;
        if self.pipeline.has_failed() {
            // It may be all that there is of the save before.
            self.pipeline.put_back(arena);
            return Ok(true);
        }
        let begun = arena.begin(plan.file(), &self.site);
        self.pipeline.put_back(arena);
        match begun {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::Full => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// From now on the pages of the memory that captures lie in are locked, in the background: what
    /// [`Checkpointer::expect`] makes ready, and what a save has left there.
    pub fn lock_pages(&mut self, locks: Arc<dyn PageLocks>) {
        self.pipeline.lock_pages(locks);
    }

    /// A save begins; it counts as an attempt whatever becomes of it, as it does on the other ranks.
    fn asked_for(&mut self, step: u64, position: Position) -> Asked {
        let pause = self.site.runtime.stopwatch();
        Asked { step, position, attempt: self.attempt(step), pause }
    }

    fn begin(
        &mut self,
        asked: &Asked,
        plan: &StatePlan,
        now: &[&[u8]],
        deferred: Deferred,
        metadata: Metadata,
    ) -> Result<(Capture, Option<Copying>), Error> {
        let &Asked { step, position, attempt, ref pause } = asked;
        self.pipeline.check()?;
        self.claim()?;
        let launch = self.writer.get_mut().unwrap_or_else(PoisonError::into_inner).0;
        plan.check(now, &deferred)?;
        let bytes = plan.file_bytes();
        let ready = pause.seconds();
        let mut arena = self.pipeline.arena()?;
        let waited_seconds = pause.seconds() - ready;
        if let Err(error) = self.pipeline.check() {
            // It may hold all that there is of the save that went wrong meanwhile.
            self.pipeline.put_back(arena);
            return Err(error);
        }
        let facts = CaptureFacts {
            run: self.site.run.clone(),
            step,
            rank: self.site.rank.rank(),
            world_size: self.site.rank.world_size(),
            position,
            attempt,
            launch,
            parent: self.follow(step),
            dataset: self.dataset.clone(),
            forked_from: self.forked_from.clone(),
            captured_unix_ms: self.site.runtime.now().unix_ms(),
            metadata: serde_json::Value::Null,
        };
        let streamed = match arena.begin(plan.file(), &self.site) {
            Ok(()) => false,
            Err(error) if error.kind() == ErrorKind::Full && deferred.filled == 0 => true,
            Err(error) => {
                self.pipeline.put_back(arena);
                return Err(error);
            }
        };
        let timing = || Timing {
            captured_at: self.site.runtime.elapsed(),
            pause_seconds: pause.seconds(),
            waited_seconds,
            ..Timing::default()
        };
        let mut copying = None;
        if streamed {
            let all: Vec<&[u8]> =
                now.iter().copied().chain(deferred.later.iter().map(|one| &**one)).collect();
            self.pipeline.stage_now(arena, lent(plan, &all, facts, metadata)?, timing)?;
        } else {
            let mut captured = copied(&self.site, plan, arena, now, facts, metadata);
            copying = captured.copy_later(plan, deferred, now.len());
            captured.timing = timing();
            self.pipeline.submit(captured)?;
        }
        let pause_seconds = pause.seconds();
        Ok((Capture { bytes, pause_seconds, waited_seconds, streamed }, copying))
    }

    /// Begins, in the background, to have memory ready for a state of so many bytes, so that the first
    /// save of it waits for no page. Until it is, a save waits for that.
    ///
    /// # Errors
    /// When the background has stopped.
    pub fn expect(&mut self, bytes: u64) -> Result<(), Error> {
        self.pipeline.expect(usize::try_from(bytes).unwrap_or(usize::MAX))
    }

    /// Whether somebody on this node asked the run for a checkpoint, see [`crate::ask`]; one process of the
    /// node is told, once. To look costs a call of the system.
    #[must_use]
    pub fn asked(&self) -> bool {
        // What cannot be looked for was not asked; what else is wrong with the tier a save will tell.
        self.site.local().take_ask(&self.site.run).unwrap_or(false)
    }

    /// Waits until a save would not wait for the one before, at most so long; says whether that is.
    ///
    /// # Errors
    /// When the background has stopped.
    pub fn await_ready(&mut self, patience: Duration) -> Result<bool, Error> {
        self.pipeline.await_arena(patience)
    }

    /// What went wrong in the background and nobody was told of yet.
    ///
    /// # Errors
    /// That.
    pub fn check(&self) -> Result<(), Error> {
        self.pipeline.check()
    }

    /// The saves that were committed since the last call.
    pub fn finished(&mut self) -> Vec<SaveReport> {
        self.pipeline.reports()
    }

    /// Waits until every save is committed, and leaves nothing staged.
    ///
    /// # Errors
    /// What went wrong in the background. A save that could not reach the lake stays staged, and
    /// the next wait tries it again.
    pub fn wait(&mut self) -> Result<Vec<SaveReport>, Error> {
        self.pipeline.wait()
    }

    /// Restores a committed checkpoint, as [`crate::restore`] does; `None` if there is none yet.
    ///
    /// # Errors
    /// When it is damaged, or not there.
    pub fn restore(&self, which: Which, part: Part) -> Result<Option<Restored>, Error> {
        self.claim()?;
        let tiers = Tiers::of(&self.site.transfer);
        let opened = CommittedCheckpoint::open_in(tiers, &self.site.run, which)?;
        let Some(opened) = opened else { return Ok(None) };
        self.go_on_from(&opened);
        read_all(tiers, opened, part).map(Some)
    }

    /// Says which checkpoint the state comes from: the next save names it as its parent, and does not
    /// write again what did not change since.
    pub fn go_on_from(&self, checkpoint: &CommittedCheckpoint) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(checkpoint.commit().step);
        if self.site.settings.incremental {
            self.pipeline.begin_with(Base::of(checkpoint.ranks()));
        }
    }

    /// Makes `step` the last one, and returns the one before it.
    fn follow(&mut self, step: u64) -> Option<u64> {
        let last = self.last.get_mut().unwrap_or_else(PoisonError::into_inner);
        last.replace(step).filter(|&parent| parent < step)
    }

    /// Tells this save from every other; ranks that save in step agree on it.
    fn attempt(&mut self, step: u64) -> Nonce {
        let saves = self.saves.entry(step).or_default();
        *saves += 1;
        match &self.launch {
            None => self.site.runtime.nonce(),
            Some(launch) => shared_nonce(launch, step, *saves),
        }
    }
}

fn shared_nonce(launch: &str, step: u64, save: u64) -> Nonce {
    let mut digest = DigestWriter::for_context("forebay 2026 checkpoint attempt");
    digest.update(&step.to_le_bytes()).update(&save.to_le_bytes()).update(launch.as_bytes());
    let digest = digest.finish();
    let half = digest.as_bytes().first_chunk().expect("a digest has 32 bytes");
    Nonce::from_bits(u128::from_le_bytes(*half))
}

/// The newest commit, if it can be read.
fn newest(site: &Site) -> Result<Option<CommitRecord>, Error> {
    let Some(newest) = read::steps(site.lake(), &site.run)?.pop() else { return Ok(None) };
    // A damaged commit is no reason not to save; restoring will speak of it.
    Ok(read::commit(site.lake(), &site.run, newest).ok().flatten())
}

/// What a rank's part of a checkpoint took, what lies in earlier files included, so that the arena is
/// ready before the first save.
fn usual_bytes(site: &Site, commit: &CommitRecord) -> usize {
    let (ranks, ours) = (commit.world_size(), site.rank.world_size());
    // As above: a damaged record is no reason not to save.
    let Ok(record) = read::rank_record(site.lake(), commit, site.rank.rank() % ranks) else {
        return 0;
    };
    let tensors: u64 = record.tensors.iter().map(|tensor| tensor.bytes).sum();
    let header = record.plan().map_or(0, |plan| plan.header.len() as u64);
    let bytes = (tensors + header).saturating_mul(ranks.into()) / u64::from(ours);
    usize::try_from(bytes).unwrap_or(0)
}
