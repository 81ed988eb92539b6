//! The background: one thread completes and stages, one drains and commits.
//!
//! A lake that does not take staged files as they are has nearly all of a file when it is staged, see
//! [`forebay_transfer::Follow`]; nothing is on its way there while an earlier save is being drained.
//!
//! The arena travels with the save to the staging thread and back. So a save that comes while the
//! one before is being staged waits for it, and one that comes while it is being drained does not.
//! At most [`STAGED_MAX`] sealed saves queue for the drain; then staging waits, and through the
//! arena the trainer.
//!
//! A save that could not be drained because the lake was away stays sealed and is tried again with
//! the next save or wait. The newest committed save stays staged until the next is committed, so
//! that a restart on this node restores from the local tier. Its state also stays in the arena until
//! the next capture, and is read there first.
//!
//! A state that is still being copied is staged meanwhile, see [`crate::overlap`], unless some of it may
//! be what it was in the save before: that is seen when it is copied.
//!
//! A save may refer to tensors of the one staged before it. They reach the lake in that order; and
//! when one is lost, the next is written whole, and those between the two cannot be committed.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel},
    },
    time::Duration,
};

use forebay_format::v1::checkpoint::RankRecord;
use forebay_runtime::Task;
use forebay_transfer::{Follow, StagedBytes};
use forebay_types::{ErrorKind, Nonce, Rank};
use serde::Serialize;

use crate::{
    Error, PageLocks,
    arena::Arena,
    base::Base,
    capture::{Captured, Timing},
    copying::Verdict,
    failure,
    overlap::stage_overlapped,
    publish::{Outcome, publish},
    recover::is_lost,
    retain::{Commits, retain},
    site::Site,
    stage::{Sealed, Staged, stage},
};

/// Why a save is dropped that was copied beside the training.
const CHANGED: &str = "its state changed while it was copied";

/// Sealed saves that may wait for the lake.
pub const STAGED_MAX: usize = 2;

/// What one save came to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SaveReport {
    /// Its step.
    pub step: u64,
    /// The bytes of this rank's tensor file.
    pub bytes: u64,
    /// How long the trainer stood still, waiting included.
    pub pause_seconds: f64,
    /// How much of that it waited for the save before to be staged.
    pub waited_seconds: f64,
    /// From the capture until it was durable on the node.
    pub stage_seconds: f64,
    /// From the capture until it was committed in the lake.
    pub durable_seconds: f64,
    /// When it was seen to be committed, in milliseconds since 1970.
    pub committed_unix_ms: u64,
    /// Older checkpoints that were removed since they need not be kept.
    pub removed: Vec<u64>,
}

/// What the threads and the trainer tell each other.
#[derive(Default)]
struct Board {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Saves captured whose fate is open; parked ones are not among them.
    under_way: usize,
    /// Sealed saves in the drain's queue or hands.
    draining: usize,
    /// Sealed saves that could not be drained so far.
    parked: usize,
    drain_ended: bool,
    reports: Vec<SaveReport>,
    errors: VecDeque<Error>,
    /// Committed, and still staged.
    kept: Option<Sealed>,
    /// What the save that was staged last stored.
    base: Base,
    /// Goes up when a save is lost that later ones may refer to, or the run goes on from elsewhere.
    base_generation: u64,
}

/// What the staging thread is asked for; the arena comes back from it.
enum Job {
    Stage(Box<Captured<'static>>),
    /// Memory for a state of so many bytes.
    Ready(Arena, usize),
}

enum Order {
    Drain(Box<Sealed>, Option<Follow>),
    TryParked,
}

/// The trainer's end of the background.
pub(crate) struct Pipeline {
    site: Site,
    board: Arc<Board>,
    jobs: Option<SyncSender<Job>>,
    orders: Option<SyncSender<Order>>,
    arenas: Receiver<Arena>,
    /// The arena, when it came back and no save has taken it yet.
    idle: Option<Arena>,
    locks: Option<Arc<dyn PageLocks>>,
    tasks: Vec<Task<()>>,
}

impl Pipeline {
    pub(crate) fn start(site: &Site, kept: Option<Sealed>, arena: Arena) -> Self {
        let board = Arc::new(Board::default());
        board.lock().kept = kept;
        let (jobs, to_stage) = sync_channel(1);
        let (orders, to_drain) = sync_channel(STAGED_MAX);
        let (arena_back, arenas) = channel();
        arena_back.send(arena).expect("the receiver is held here");
        let stager = {
            let (site, board, orders) = (site.clone(), board.clone(), orders.clone());
            let stager = Stager { site, board, orders, arenas: arena_back };
            move || stager.run(&to_stage)
        };
        let drainer = {
            let (site, board) = (site.clone(), board.clone());
            move || drain_all(&site, &board, &to_drain)
        };
        let tasks = vec![
            site.runtime.spawn("checkpoint-stager", stager),
            site.runtime.spawn("checkpoint-drainer", drainer),
        ];
        let (jobs, orders) = (Some(jobs), Some(orders));
        Self { site: site.clone(), board, jobs, orders, arenas, idle: None, locks: None, tasks }
    }

    /// The arena, once the save before is staged.
    pub(crate) fn arena(&mut self) -> Result<Arena, Error> {
        let mut arena = match self.idle.take() {
            Some(arena) => arena,
            None => self.arenas.recv().map_err(|_| self.dead())?,
        };
        if let Some(locks) = &self.locks {
            arena.set_locks(locks.clone());
        }
        Ok(arena)
    }

    /// Gives back an arena that nothing was captured into.
    pub(crate) fn put_back(&mut self, arena: Arena) {
        self.idle = Some(arena);
    }

    /// Has the pages of the arena locked, when it is next in the background.
    pub(crate) fn lock_pages(&mut self, locks: Arc<dyn PageLocks>) {
        self.locks = Some(locks);
    }

    /// Waits for the arena, at most so long; says whether it is there.
    pub(crate) fn await_arena(&mut self, patience: Duration) -> Result<bool, Error> {
        if self.idle.is_none() {
            match self.arenas.recv_timeout(patience) {
                Ok(arena) => self.idle = Some(arena),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(self.dead()),
            }
        }
        Ok(self.idle.is_some())
    }

    /// What the next save is compared with.
    pub(crate) fn begin_with(&self, base: Base) {
        self.board.lock().set_base(base);
    }

    /// Has memory made ready for a state of so many bytes. When a save is under way, it made ready what
    /// the next one takes.
    pub(crate) fn expect(&mut self, bytes: usize) -> Result<(), Error> {
        if !self.await_arena(Duration::ZERO)? {
            return Ok(());
        }
        let arena = self.arena()?;
        self.ask(Job::Ready(arena, bytes))
    }

    pub(crate) fn submit(&mut self, captured: Captured<'static>) -> Result<(), Error> {
        self.board.lock().under_way += 1;
        self.ask(Job::Stage(Box::new(captured)))
    }

    fn ask(&mut self, job: Job) -> Result<(), Error> {
        let sent = self.jobs.as_ref().is_some_and(|jobs| jobs.send(job).is_ok());
        if sent { Ok(()) } else { Err(self.dead()) }
    }

    /// Stages what no memory holds a copy of, while the trainer waits; `timing` is asked when that is
    /// done. The arena, of no use, shows that nothing is being staged.
    pub(crate) fn stage_now(
        &mut self,
        arena: Arena,
        captured: Captured<'_>,
        timing: impl FnOnce() -> Timing,
    ) -> Result<(), Error> {
        self.put_back(arena);
        let (mut sealed, follow) = stage_next(&self.site, &self.board, &captured, None)?;
        sealed.timing = timing();
        self.board.update(|state| {
            state.under_way += 1;
            state.draining += 1;
        });
        let order = Order::Drain(Box::new(sealed), follow);
        let sent = self.orders.as_ref().is_some_and(|orders| orders.send(order).is_ok());
        if sent { Ok(()) } else { Err(self.dead()) }
    }

    /// Whether there is an error that nobody was told of.
    pub(crate) fn has_failed(&self) -> bool {
        !self.board.lock().errors.is_empty()
    }

    /// The oldest error that nobody was told of.
    pub(crate) fn check(&self) -> Result<(), Error> {
        self.board.lock().errors.pop_front().map_or(Ok(()), Err)
    }

    pub(crate) fn reports(&self) -> Vec<SaveReport> {
        std::mem::take(&mut self.board.lock().reports)
    }

    /// Until nothing is under way; then nothing stays staged either.
    pub(crate) fn wait(&mut self) -> Result<Vec<SaveReport>, Error> {
        self.check()?;
        if self.board.lock().parked > 0 {
            self.try_parked()?;
        }
        self.settle()?;
        self.check()?;
        if let Some(kept) = self.board.lock().kept.take() {
            kept.release(&self.site)?;
        }
        Ok(self.reports())
    }

    fn try_parked(&mut self) -> Result<(), Error> {
        self.board.lock().under_way += 1;
        let sent = self.orders.as_ref().is_some_and(|orders| orders.send(Order::TryParked).is_ok());
        if sent { Ok(()) } else { Err(self.dead()) }
    }

    fn settle(&mut self) -> Result<(), Error> {
        let mut state = self.board.lock();
        while state.under_way > 0 {
            let poll = Duration::from_millis(200);
            let waited = self.board.changed.wait_timeout(state, poll);
            (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
            if self.tasks.iter().any(Task::is_finished) {
                drop(state);
                return Err(self.dead());
            }
        }
        Ok(())
    }

    /// Ends the threads once they have done what was asked of them.
    fn stop(&mut self) -> Vec<Result<(), forebay_runtime::Panicked>> {
        (self.jobs, self.orders) = (None, None);
        self.tasks.drain(..).map(Task::join).collect()
    }

    /// Why a thread is gone that should be there.
    fn dead(&mut self) -> Error {
        let panic = self.stop().into_iter().find_map(Result::err);
        panic.map_or(Error::Stopped, Error::Panicked)
    }
}

impl Drop for Pipeline {
    /// Waits for what is under way. What could not be drained stays staged.
    fn drop(&mut self) {
        let _nobody_to_tell = self.stop();
        if let Some(kept) = self.board.lock().kept.take() {
            let _stays_staged = kept.release(&self.site);
        }
    }
}

impl Board {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn update(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    /// What the next save is compared with, and its generation; nothing, if its staging has begun in one
    /// that is over.
    fn base(&self, begun_in: Option<u64>) -> (Base, u64) {
        let mut state = self.lock();
        match begun_in {
            Some(over) if over != state.base_generation => (Base::default(), over),
            _ => (std::mem::take(&mut state.base), state.base_generation),
        }
    }

    /// Whether a save may be staged before all of it is copied, because no look at its values would tell
    /// that some of them need not be written, or how they are to be stored; and of which generation the
    /// base is that says so.
    fn may_overlap(&self, site: &Site, captured: &Captured<'_>) -> Option<u64> {
        let (tensors, step) = (&captured.tensors, captured.facts.step);
        let state = self.lock();
        let is_changed = state.base.candidates(tensors, step).is_empty();
        let may_overlap = is_changed && captured.later.is_some() && !site.settings.compress;
        may_overlap.then_some(state.base_generation)
    }

    /// Whether the next file is on its way to the lake while it is staged: one at a time is, and none whose
    /// head is written last.
    fn follows(&self, site: &Site) -> bool {
        let may_follow = !site.transfer.adopts_staged() && !site.settings.compress;
        may_follow && self.lock().draining == 0
    }

    /// Makes room on the local tier; false when there is nothing to wait for.
    fn make_room(&self, site: &Site) -> Result<bool, Error> {
        let mut state = self.lock();
        if let Some(kept) = state.kept.take() {
            kept.release(site)?;
            return Ok(true);
        }
        let draining = state.draining;
        while state.draining == draining && draining > 0 && !state.drain_ended {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(draining > 0 && !state.drain_ended)
    }
}

impl State {
    fn set_base(&mut self, base: Base) {
        self.base = base;
        self.base_generation += 1;
    }
}

/// Tells those who wait for the drain that it ended, also when it panicked.
struct DrainEnds<'a>(&'a Board);

impl Drop for DrainEnds<'_> {
    fn drop(&mut self) {
        self.0.update(|state| state.drain_ended = true);
    }
}

/// The thread that stages.
struct Stager {
    site: Site,
    board: Arc<Board>,
    orders: SyncSender<Order>,
    arenas: Sender<Arena>,
}

/// Why a save is not staged.
enum Lost {
    /// Its state changed while it was copied, which the trainer may know.
    Changed {
        is_known: bool,
    },
    Failed(Error),
}

impl Stager {
    fn run(&self, jobs: &Receiver<Job>) {
        for job in jobs {
            let is_drained = match job {
                Job::Stage(captured) => self.stage(*captured),
                Job::Ready(mut arena, bytes) => {
                    // What it holds ends where it ends. The save that finds it wanting tells what is to be
                    // told.
                    if !arena.is_named() {
                        let _ready = arena.expect(bytes, &self.site);
                    }
                    self.give_back(arena);
                    true
                }
            };
            if !is_drained {
                // The drain panicked, which the trainer's next call tells.
                return;
            }
        }
    }

    /// Completes a save and stages it; false when nobody drains any more.
    fn stage(&self, mut captured: Captured<'static>) -> bool {
        let Self { site, board, .. } = self;
        let (step, attempt) = (captured.facts.step, captured.facts.attempt);
        let captured_at = captured.timing.captured_at;
        let (completed, begun) = match board.may_overlap(site, &captured) {
            None => (captured.complete(site), None),
            Some(generation) => {
                let follows = board.follows(site);
                let (completed, staged) = stage_overlapped(site, &mut captured, follows);
                (completed, staged.map(|staged| (generation, staged)))
            }
        };
        let outcome = match completed {
            Ok(Verdict::Intact) => stage_next(site, board, &captured, begun).map_err(Lost::Failed),
            Ok(verdict) => Err(Lost::Changed { is_known: verdict == Verdict::Rejected }),
            Err(error) => Err(Lost::Failed(error)),
        };
        let mut arena = captured.into_arena();
        match outcome {
            Ok((mut sealed, follow)) => {
                // Found on the disk too, it is staged once. What cannot be said costs a restore a read of
                // it.
                let _on_disk = arena.mark_staged();
                self.give_back(arena);
                sealed.timing.stage_seconds = seconds_since(site, captured_at);
                board.update(|state| state.draining += 1);
                self.orders.send(Order::Drain(Box::new(sealed), follow)).is_ok()
            }
            Err(lost) => {
                self.give_up(arena, step, attempt, lost);
                true
            }
        }
    }

    /// Tells the trainer and the other ranks of a save that is not staged.
    fn give_up(&self, arena: Arena, step: u64, attempt: Nonce, lost: Lost) {
        let Self { site, board, .. } = self;
        let reason = match &lost {
            Lost::Changed { .. } => Some(CHANGED.to_owned()),
            Lost::Failed(error) => failure::reason_of("staged", error),
        };
        let told = match lost {
            Lost::Changed { is_known } => {
                (!is_known).then(|| Error::Changed { run: site.run.clone(), step })
            }
            Lost::Failed(source) => Some(background(site, step, "staged", source)),
        };
        // Before the arena is to be had: it may be all that there is of this save, and whoever takes it
        // sees first that something went wrong.
        board.update(|state| state.errors.extend(told));
        self.give_back(arena);
        if let Some(reason) = reason {
            failure::tell(site, step, attempt, reason);
        }
        board.update(|state| state.under_way -= 1);
    }

    /// The next capture is copied into it. The trainer may be gone.
    fn give_back(&self, mut arena: Arena) {
        arena.lock_pages();
        let _sent = self.arenas.send(arena);
    }
}

/// Stages a save but for what the one before holds, unless that was `begun` already, in a generation of
/// the base; and notes what the next may leave out.
fn stage_next(
    site: &Site,
    board: &Board,
    captured: &Captured<'_>,
    begun: Option<(u64, Result<Staged, Error>)>,
) -> Result<Staged, Error> {
    let (begun_in, begun) = begun.unzip();
    let (base, generation) = board.base(begun_in);
    let base = base.for_step(captured.facts.step);
    let outcome = stage_patiently(site, board, captured, &base, begun);
    if site.settings.incremental {
        let next = match &outcome {
            Ok((sealed, _)) => base.followed_by(&sealed.record, captured),
            Err(_) => base,
        };
        board.update(|state| {
            if state.base_generation == generation {
                state.base = next;
            }
        });
    }
    outcome
}

fn stage_patiently(
    site: &Site,
    board: &Board,
    captured: &Captured<'_>,
    base: &Base,
    mut begun: Option<Result<Staged, Error>>,
) -> Result<Staged, Error> {
    loop {
        let next = || stage(site, captured, base, board.follows(site));
        match begun.take().unwrap_or_else(next) {
            Err(error) if error.kind() == ErrorKind::Full && board.make_room(site)? => {}
            outcome => return outcome,
        }
    }
}

fn drain_all(site: &Site, board: &Board, orders: &Receiver<Order>) {
    let _ends = DrainEnds(board);
    let (mut parked, mut commits) = (Vec::new(), Commits::new(&site.settings.keep_policy()));
    for order in orders {
        let mut waiting: Vec<Staged> =
            std::mem::take(&mut parked).into_iter().map(|sealed| (sealed, None)).collect();
        let fresh = match order {
            Order::Drain(sealed, follow) => {
                waiting.push((*sealed, follow));
                true
            }
            Order::TryParked => false,
        };
        for (sealed, follow) in waiting {
            // It may refer to what one before it has yet to bring to the lake.
            let behind = !parked.is_empty() && !sealed.record.earlier.is_empty();
            parked.extend(if behind {
                Some(sealed)
            } else {
                drain(site, board, &mut commits, sealed, follow)
            });
        }
        board.update(|state| {
            state.parked = parked.len();
            state.draining -= usize::from(fresh);
            state.under_way -= 1;
        });
    }
}

/// Publishes one save; gives it back when it should be tried again.
fn drain(
    site: &Site,
    board: &Board,
    commits: &mut Commits,
    sealed: Sealed,
    follow: Option<Follow>,
) -> Option<Sealed> {
    let RankRecord { step, attempt, .. } = sealed.record;
    let patience = match site.rank {
        Rank::ALONE => Duration::ZERO,
        _ => Duration::from_secs(site.settings.commit_wait_seconds),
    };
    let outcome = publish(site, &sealed, patience, follow);
    let error = match outcome {
        Ok(Outcome::Awaiting(missing)) => missing_ranks(site, step, &missing),
        Ok(Outcome::GivenUp { rank, reason }) => {
            Error::RankFailed { run: site.run.clone(), step, rank, reason }
        }
        Ok(outcome) => {
            committed(site, board, commits, sealed, &outcome);
            return None;
        }
        Err(error) => {
            // What others published in its place they see for themselves.
            if is_lost(&error) {
                failure::tell_error(site, step, attempt, "published", &error);
            }
            background(site, step, "published", error)
        }
    };
    let again = matches!(&error, Error::Background { source, .. }
        if !is_lost(source) && source.kind() != ErrorKind::Conflict);
    board.update(|state| {
        state.errors.push_back(error);
        if !again {
            state.set_base(Base::default());
        }
    });
    if again {
        return Some(Sealed { bytes: StagedBytes::Found, ..sealed });
    }
    release(site, board, &sealed);
    None
}

fn committed(site: &Site, board: &Board, commits: &mut Commits, sealed: Sealed, outcome: &Outcome) {
    if *outcome == Outcome::Equal {
        // What was saved after it may refer to a file that is not kept.
        board.update(|state| state.set_base(Base::default()));
    }
    let record = &sealed.record;
    let mut report = SaveReport {
        step: record.step,
        bytes: record.file.bytes,
        pause_seconds: sealed.timing.pause_seconds,
        waited_seconds: sealed.timing.waited_seconds,
        stage_seconds: sealed.timing.stage_seconds,
        durable_seconds: seconds_since(site, sealed.timing.captured_at),
        committed_unix_ms: site.runtime.now().unix_ms(),
        removed: Vec::new(),
    };
    let older = board.lock().kept.replace(sealed);
    if let Some(older) = older {
        release(site, board, &older);
    }
    if let Outcome::Committed(claim) = outcome {
        match retain(site, report.step, claim.as_ref(), commits) {
            Ok(removed) => report.removed = removed,
            Err(source) => {
                let (run, step, source) = (site.run.clone(), report.step, Box::new(source));
                board
                    .update(|state| state.errors.push_back(Error::Retention { run, step, source }));
            }
        }
    }
    board.update(|state| state.reports.push(report));
}

fn release(site: &Site, board: &Board, sealed: &Sealed) {
    if let Err(error) = sealed.release(site) {
        board.update(|state| state.errors.push_back(error));
    }
}

fn background(site: &Site, step: u64, act: &'static str, source: Error) -> Error {
    Error::Background { run: site.run.clone(), step, act, source: Box::new(source) }
}

fn missing_ranks(site: &Site, step: u64, missing: &[u32]) -> Error {
    let names: Vec<_> = missing.iter().take(10).map(ToString::to_string).collect();
    Error::RanksMissing { run: site.run.clone(), step, missing: names.join(", ") }
}

fn seconds_since(site: &Site, moment: Duration) -> f64 {
    site.runtime.elapsed().saturating_sub(moment).as_secs_f64()
}
