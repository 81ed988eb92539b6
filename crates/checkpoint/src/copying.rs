//! Copying while the trainer goes on: who copies, and who vouches for what was copied.
//!
//! What cannot change before the optimizer's next step need not be copied before the next forward
//! pass begins. The background copies it, and then waits for the trainer's word that nothing changed
//! meanwhile: without it, the save is dropped and told of, so that a torn state is never committed.
//!
//! What lies on a device the caller brings over itself: it is given the places where those tensors
//! belong, and until it says that they are filled the background touches nothing of that memory.
//!
//! # After a crash
//! As while capturing: nothing was sealed. At most a file is left that nobody takes for a save.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The caller may ask for the places that it fills.
    Offered,
    /// It has them, and alone.
    Filling,
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
pub struct Copying {
    shared: Arc<Shared>,
    places: Vec<Place>,
}

/// Where a tensor belongs that the caller fills.
#[derive(Debug)]
pub(crate) struct Place {
    pub memory: *mut u8,
    pub bytes: usize,
}

// SAFETY: it is but an address; who may use it when, `Copying::places` says.
unsafe impl Send for Place {}
// SAFETY: as above; through `&Place` nothing is done with it.
unsafe impl Sync for Place {}

/// The background's end of it. Dropped early, it counts as broken.
pub(crate) struct Copier(Arc<Shared>);

/// Both ends, of a state of which the caller fills `places`.
///
/// They lie in memory that the thing which holds the [`Copier`] owns, apart from each other. It drops the
/// copier first, and no reference to that memory is made before [`Copier::await_filled`] has returned.
pub(crate) fn copying(places: Vec<Place>) -> (Copying, Copier) {
    let state = if places.is_empty() { State::UnderWay } else { State::Offered };
    let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
    (Copying { shared: shared.clone(), places }, Copier(shared))
}

/// What is not over, seen from the trainer's side.
const OPEN: [State; 4] = [State::Offered, State::Filling, State::UnderWay, State::Copied];

impl Copying {
    /// The places of the tensors that the caller fills, in the order of the plan. There are none once it
    /// said [`Copying::filled`], and when the save is over because the background has stopped.
    #[must_use]
    pub fn places(&mut self) -> Vec<&mut [u8]> {
        self.shared.set(&[State::Offered], State::Filling);
        if *self.shared.lock() != State::Filling {
            return Vec::new();
        }
        let slice = |place: &mut Place| {
            // SAFETY: from `Filling` on, and until `filled`, `confirm`, `reject` or the drop of this
            // value, which all wait for the borrow of `self` to end, the memory is neither moved,
            // freed nor looked at: the background waits in `Copier::await_filled`, or in the copier's
            // drop, which comes before the memory's. Places lie apart.
            unsafe { std::slice::from_raw_parts_mut(place.memory, place.bytes) }
        };
        self.places.iter_mut().map(slice).collect()
    }

    /// Says that the places are filled, and will not be written any more.
    pub fn filled(&mut self) {
        self.places.clear();
        self.shared.set(&[State::Offered, State::Filling], State::UnderWay);
    }

    /// Waits until everything was copied, at most so long; says whether it was. The memory that was
    /// given must stay, unchanged, until it is. What the caller fills is not waited for before it said
    /// that it is.
    #[must_use]
    pub fn wait(&self, patience: Duration) -> bool {
        let state = self.shared.lock();
        let under_way =
            |state: &mut State| matches!(*state, State::Offered | State::Filling | State::UnderWay);
        let waited = self.shared.changed.wait_timeout_while(state, patience, under_way);
        !under_way(&mut waited.unwrap_or_else(PoisonError::into_inner).0)
    }

    /// Says that nothing changed while it was copied, so that the save goes on.
    pub fn confirm(self) {
        self.shared.set(&[State::Copied], State::Said(Verdict::Intact));
    }

    /// Says that something changed while it was copied: the save is dropped, and nobody told of it.
    pub fn reject(self) {
        self.shared.set(&OPEN, State::Said(Verdict::Rejected));
    }
}

impl Drop for Copying {
    fn drop(&mut self) {
        self.shared.set(&OPEN, State::Said(Verdict::Silent));
    }
}

impl Copier {
    /// Waits until the caller has filled its places; false when it will not. Then nothing that it gave
    /// may be looked at.
    pub(crate) fn await_filled(&self) -> bool {
        let found = self.wait_while(|state| matches!(state, State::Offered | State::Filling));
        !matches!(found, State::Said(_))
    }

    /// Says that everything was copied, and waits for the trainer's word on it.
    pub(crate) fn verdict(&self) -> Verdict {
        self.0.set(&[State::UnderWay], State::Copied);
        let said = self.wait_while(|state| !matches!(state, State::Said(_)));
        if let State::Said(verdict) = said { verdict } else { Verdict::Silent }
    }

    fn wait_while(&self, is_awaited: impl Fn(State) -> bool) -> State {
        let state = self.0.lock();
        let waited = self.0.changed.wait_while(state, |state| is_awaited(*state));
        *waited.unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Copier {
    /// The memory goes after this: whoever was given places in it is waited for.
    fn drop(&mut self) {
        self.0.set(&[State::Offered], State::Said(Verdict::Silent));
        self.wait_while(|state| state == State::Filling);
        self.0.set(&[State::UnderWay], State::Said(Verdict::Silent));
    }
}
