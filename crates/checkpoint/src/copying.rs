//! Copying while the trainer goes on: who copies, and who vouches for what was copied.
//!
//! What cannot change before the optimizer's next step need not be copied before the next forward
//! pass begins. The background copies it, and then waits for the trainer's word that nothing changed
//! meanwhile: without it, the save is dropped and told of, so that a torn state is never committed.
//!
//! # After a crash
//! As while capturing: nothing was sealed. At most a file is left that nobody takes for a save.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    UnderWay,
    Copied,
    Said(Verdict),
}

/// What the trainer says of a state that was copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing changed.
    Intact,
    /// Something did, and the trainer knows that the save is dropped.
    Rejected,
    /// Nobody said anything.
    Silent,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, from: &[State], to: State) {
        let mut state = self.lock();
        if from.contains(&state) {
            *state = to;
            self.changed.notify_all();
        }
    }
}

/// A state that is being copied. Dropped without a word, it counts as changed, which a later call tells.
#[derive(Debug)]
pub struct Copying(Arc<Shared>);

/// The background's end of it. Dropped early, it counts as broken.
pub(crate) struct Copier(Arc<Shared>);

/// Both ends.
pub(crate) fn copying() -> (Copying, Copier) {
    let shared = Arc::new(Shared { state: Mutex::new(State::UnderWay), changed: Condvar::new() });
    (Copying(shared.clone()), Copier(shared))
}

impl Copying {
    /// Waits until everything was copied, at most so long; says whether it was. The memory that was
    /// given must stay, unchanged, until it is.
    #[must_use]
    pub fn wait(&self, patience: Duration) -> bool {
        let state = self.0.lock();
        let under_way = |state: &mut State| *state == State::UnderWay;
        let waited = self.0.changed.wait_timeout_while(state, patience, under_way);
        *waited.unwrap_or_else(PoisonError::into_inner).0 != State::UnderWay
    }

    /// Says that nothing changed while it was copied, so that the save goes on.
    pub fn confirm(self) {
        self.0.set(&[State::Copied], State::Said(Verdict::Intact));
    }

    /// Says that something changed while it was copied: the save is dropped, and nobody told of it.
    pub fn reject(self) {
        self.0.set(&[State::UnderWay, State::Copied], State::Said(Verdict::Rejected));
    }
}

impl Drop for Copying {
    fn drop(&mut self) {
        self.0.set(&[State::UnderWay, State::Copied], State::Said(Verdict::Silent));
    }
}

impl Copier {
    /// Says that everything was copied, and waits for the trainer's word on it.
    pub(crate) fn verdict(&self) -> Verdict {
        self.0.set(&[State::UnderWay], State::Copied);
        let mut state = self.0.lock();
        loop {
            if let State::Said(verdict) = *state {
                return verdict;
            }
            state = self.0.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Copier {
    fn drop(&mut self) {
        self.0.set(&[State::UnderWay], State::Said(Verdict::Silent));
    }
}
