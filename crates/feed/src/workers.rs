//! The threads that assemble batches, and the consumer where it lends a hand.
//!
//! Idle threads go on when half of what may be ready was taken, many batches at a time: to be woken
//! for each would cost more than to gather one.

use std::{
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use forebay_transfer::Prefetcher;

use crate::{
    Error,
    assemble::{Assembled, Assembler},
    backlog::Backlog,
};

/// How long a waiting thread goes without asking whether the runtime was cancelled.
pub(crate) const PATIENCE: Duration = Duration::from_millis(100);

/// What the threads and the consumer share.
pub(crate) struct Shared {
    pub assembler: Assembler,
    pub prefetcher: Prefetcher,
    pub steps: u64,
    state: Mutex<State>,
    /// The consumer waits for a batch.
    delivered: Condvar,
    /// Threads wait for something to do.
    freed: Condvar,
}

pub(crate) struct State {
    pub backlog: Backlog,
    /// Threads that wait.
    idle: u32,
    /// Whether the consumer waits.
    awaited: bool,
    stopped: bool,
    pub panicked: bool,
}

impl Shared {
    pub(crate) fn new(
        assembler: Assembler,
        prefetcher: Prefetcher,
        steps: u64,
        backlog: Backlog,
    ) -> Self {
        let state = State { backlog, idle: 0, awaited: false, stopped: false, panicked: false };
        let (delivered, freed) = (Condvar::new(), Condvar::new());
        Self { assembler, prefetcher, steps, state: Mutex::new(state), delivered, freed }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until something is ready, at most for `patience`.
    pub(crate) fn wait_for_delivery<'a>(
        &self,
        mut state: MutexGuard<'a, State>,
        patience: Duration,
    ) -> MutexGuard<'a, State> {
        state.awaited = true;
        state = wait(&self.delivered, state, patience);
        state.awaited = false;
        state
    }

    /// Wakes idle threads if there is enough for them to do.
    pub(crate) fn wake(&self, state: MutexGuard<'_, State>) {
        let is_due = state.idle > 0 && state.backlog.is_due();
        drop(state);
        if is_due {
            self.freed.notify_all();
        }
    }

    /// Assembles `step` on the consumer's own thread, if no other has begun it and all it needs is
    /// open: on a busy machine that is sooner done than waited for. Nothing blocks here.
    pub(crate) fn assemble_now(&self, step: u64) -> Option<Result<Assembled, Error>> {
        let mut state = self.lock();
        if state.stopped || state.panicked || !state.backlog.claim_for_consumer(step) {
            return None;
        }
        drop(state);
        let outcome = self.assembler.assemble_if_open(step);
        let mut state = self.lock();
        state.backlog.settle(step, matches!(outcome, Some(Ok(_))));
        let front = state.backlog.front();
        self.wake(state);
        self.pass(front);
        outcome
    }

    /// Nothing before `step` will be read again.
    fn pass(&self, step: u64) {
        let position = self.assembler.course.start(step.min(self.steps));
        self.prefetcher.advance(position);
        self.assembler.shelf.close_before(position);
    }

    pub(crate) fn stop(&self) {
        self.lock().stopped = true;
        self.assembler.shelf.stop();
        self.delivered.notify_all();
        self.freed.notify_all();
    }

    /// A thread's life.
    pub(crate) fn work(&self) {
        let _farewell = Farewell(self);
        while let Some(step) = self.claim() {
            let outcome = self.assembler.assemble(step);
            let mut state = self.lock();
            state.backlog.put(step, outcome);
            let (front, awaited) = (state.backlog.front(), state.awaited);
            drop(state);
            if awaited {
                self.delivered.notify_all();
            }
            self.pass(front);
        }
    }

    fn claim(&self) -> Option<u64> {
        let mut state = self.lock();
        loop {
            if state.stopped {
                return None;
            }
            if let Some(step) = state.backlog.claim() {
                return Some(step);
            }
            state.idle += 1;
            state = wait(&self.freed, state, PATIENCE);
            state.idle -= 1;
        }
    }
}

fn wait<'a>(
    condition: &Condvar,
    state: MutexGuard<'a, State>,
    patience: Duration,
) -> MutexGuard<'a, State> {
    condition.wait_timeout(state, patience).unwrap_or_else(PoisonError::into_inner).0
}

/// Tells the consumer when a thread ends by a panic, so that it does not wait for ever.
struct Farewell<'a>(&'a Shared);

impl Drop for Farewell<'_> {
    fn drop(&mut self) {
        self.0.lock().panicked |= std::thread::panicking();
        self.0.delivered.notify_all();
    }
}
