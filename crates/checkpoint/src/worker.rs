//! The background thread: stages, drains, commits, lets go.

use std::sync::{
    Arc, Condvar, Mutex, MutexGuard, PoisonError,
    mpsc::{Receiver, SyncSender, sync_channel},
};

use forebay_runtime::{Runtime, Stopwatch, Task, crash_point};
use forebay_transfer::Transfer;

use crate::{
    CheckpointSettings, Error,
    arena::Arena,
    commit, retain,
    stage::{self, Captured, Origin},
};

/// What became of one save.
#[derive(Clone, Debug, PartialEq)]
pub struct SaveReport {
    /// Steps taken when it was captured.
    pub step: u64,
    /// The bytes of its tensors.
    pub bytes: u64,
    /// How long the trainer stood still, waiting for the save before it included.
    pub pause_seconds: f64,
    /// How much of the pause was waiting for the save before it.
    pub waited_seconds: f64,
    /// From the capture until it was sealed on the local tier.
    pub stage_seconds: f64,
    /// From the capture until it was committed in the lake.
    pub durable_seconds: f64,
    /// When it was committed, in milliseconds since 1970.
    pub committed_unix_ms: u64,
    /// Whether this rank completed the step: false while other ranks were missing.
    pub committed: bool,
}

/// A captured state on its way to the thread.
pub(crate) struct Job {
    pub captured: Captured,
    pub pause_seconds: f64,
    pub waited_seconds: f64,
    /// Started when the capture was over.
    pub since: Stopwatch,
}

/// The thread, and what it has to say.
pub(crate) struct Worker {
    jobs: Option<SyncSender<Job>>,
    news: Arc<News>,
    task: Option<Task<()>>,
}

#[derive(Default)]
struct News {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    under_way: u64,
    reports: Vec<SaveReport>,
    error: Option<Error>,
    /// After an error nothing further is staged or committed.
    stopped: bool,
}

impl News {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the thread works with.
pub(crate) struct Tools {
    pub transfer: Transfer,
    pub runtime: Runtime,
    pub origin: Origin,
    pub settings: CheckpointSettings,
    pub arena: Arena,
}

impl Worker {
    pub(crate) fn start(tools: Tools) -> Self {
        // One save may wait while another is drained; a third waits in `save`, for the arena.
        let (jobs, queue) = sync_channel(1);
        let news = Arc::new(News::default());
        let heard = Arc::clone(&news);
        let runtime = tools.runtime.clone();
        let task = runtime.spawn("checkpoint", move || run(&tools, &queue, &heard));
        Self { jobs: Some(jobs), news, task: Some(task) }
    }

    /// Hands a captured state over.
    pub(crate) fn submit(&self, job: Job) {
        self.news.lock().under_way += 1;
        if let Some(jobs) = &self.jobs {
            // The thread ends only after `jobs` is dropped, or by a panic that `wait` carries.
            let _delivered = jobs.send(job);
        }
    }

    /// The reports since the last call.
    pub(crate) fn finished(&self) -> Vec<SaveReport> {
        std::mem::take(&mut self.news.lock().reports)
    }

    /// The error that stopped the thread, once; then that it is stopped.
    pub(crate) fn check(&self, origin: &Origin) -> Result<(), Error> {
        let mut state = self.news.lock();
        match state.error.take() {
            Some(error) => Err(error),
            None if state.stopped => Err(Error::Stopped(origin.run.clone())),
            None => Ok(()),
        }
    }

    /// Waits until nothing is under way.
    pub(crate) fn wait(&mut self) -> Result<(), Error> {
        let mut state = self.news.lock();
        while state.under_way > 0 && !self.task.as_ref().is_none_or(Task::is_finished) {
            let patience = std::time::Duration::from_millis(100);
            let woken = self.news.changed.wait_timeout(state, patience);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        let lost = state.under_way > 0;
        drop(state);
        match self.task.take_if(|_| lost) {
            Some(task) => Ok(task.join()?),
            None => Ok(()),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(task) = self.task.take() {
            // What it was told before is finished; its errors have no hearer any more, but what
            // was sealed is drained by the next start of the run.
            let _ended = task.join();
        }
    }
}

fn run(tools: &Tools, queue: &Receiver<Job>, news: &News) {
    while let Ok(job) = queue.recv() {
        let outcome = match news.lock().stopped {
            true => Ok(None),
            false => save(tools, job),
        };
        let mut state = news.lock();
        match outcome {
            Ok(report) => state.reports.extend(report),
            Err(error) => {
                state.error = Some(error);
                state.stopped = true;
            }
        }
        state.under_way -= 1;
        drop(state);
        news.changed.notify_all();
    }
}

fn save(tools: &Tools, job: Job) -> Result<Option<SaveReport>, Error> {
    let Job { mut captured, pause_seconds, waited_seconds, since } = job;
    let staged = stage::stage(tools.transfer.local(), &tools.origin, &captured);
    let bytes = captured.values.len() as u64;
    // The trainer may capture again from here on, whether or not this one could be staged.
    tools.arena.give_back(std::mem::take(&mut captured.values));
    let sealed = staged?;
    crash_point("checkpoint.sealed");
    let stage_seconds = since.seconds();
    let committed = commit::drain(&tools.transfer, &tools.runtime, &sealed)?;
    let report = SaveReport {
        step: captured.step,
        bytes,
        pause_seconds,
        waited_seconds,
        stage_seconds,
        durable_seconds: since.seconds(),
        committed_unix_ms: tools.runtime.now().unix_ms(),
        committed,
    };
    if committed {
        retain::retain(tools.transfer.lake(), &tools.origin.run, &tools.settings)?;
    }
    Ok(Some(report))
}
