//! What several threads make, taken in order by one.
//!
//! # Bounds
//! So many that are made and not taken: whoever would make more waits.

use std::{
    collections::BTreeMap,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
};

/// Numbered things on their way from those who make them to the one who takes them.
pub(crate) struct InOrder<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
    /// How many there are in all.
    count: usize,
    ahead_max: usize,
}

struct State<T> {
    /// The next that nobody makes yet.
    next: usize,
    /// The next that is to be taken.
    taken: usize,
    made: BTreeMap<usize, T>,
    is_ended: bool,
}

impl<T> InOrder<T> {
    pub(crate) const fn new(count: usize, ahead_max: usize) -> Self {
        let state = State { next: 0, taken: 0, made: BTreeMap::new(), is_ended: false };
        Self { state: Mutex::new(state), changed: Condvar::new(), count, ahead_max }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State<T>>) -> MutexGuard<'a, State<T>> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of what the caller is to make, once there is room for it; none when all are made or
    /// nobody wants them any more.
    pub(crate) fn claim(&self) -> Option<usize> {
        let mut state = self.lock();
        while !state.is_ended && state.next < self.count {
            if state.next < state.taken + self.ahead_max {
                state.next += 1;
                return Some(state.next - 1);
            }
            state = self.wait(state);
        }
        None
    }

    /// Hands over what was claimed.
    pub(crate) fn put(&self, number: usize, made: T) {
        self.lock().made.insert(number, made);
        self.changed.notify_all();
    }

    /// The next, once it is made; none when it never will be.
    pub(crate) fn take(&self) -> Option<T> {
        let mut state = self.lock();
        loop {
            let number = state.taken;
            if let Some(made) = state.made.remove(&number) {
                state.taken += 1;
                drop(state);
                self.changed.notify_all();
                return Some(made);
            }
            if state.is_ended || number == self.count {
                return None;
            }
            state = self.wait(state);
        }
    }

    /// Ends it: what was not made never will be, and nobody waits any more.
    pub(crate) fn end(&self) {
        self.lock().is_ended = true;
        self.changed.notify_all();
    }

    /// Ends it when it is dropped: nobody waits any more.
    pub(crate) const fn end_on_drop(&self) -> Ends<'_, T> {
        Ends { of: self, only_in_panic: false }
    }

    /// Ends it when it is dropped in a panic.
    pub(crate) const fn end_on_panic(&self) -> Ends<'_, T> {
        Ends { of: self, only_in_panic: true }
    }
}

/// Somebody whom the others need.
pub(crate) struct Ends<'a, T> {
    of: &'a InOrder<T>,
    only_in_panic: bool,
}

impl<T> Drop for Ends<'_, T> {
    fn drop(&mut self) {
        if !self.only_in_panic || std::thread::panicking() {
            self.of.end();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use forebay_runtime::Runtime;

    use super::*;

    #[test]
    fn all_are_taken_in_order_and_no_more_than_so_many_are_ahead() {
        let (queue, made, taken) = (InOrder::new(200, 3), AtomicUsize::new(0), AtomicUsize::new(0));
        let work = |index| {
            if index == 0 {
                let _ends = queue.end_on_drop();
                for expected in 0..200 {
                    assert_eq!(queue.take(), Some(expected));
                    taken.fetch_add(1, Ordering::SeqCst);
                }
                assert_eq!(queue.take(), None);
                return Ok::<_, std::convert::Infallible>(());
            }
            let _ends = queue.end_on_panic();
            while let Some(number) = queue.claim() {
                let ahead = made.fetch_add(1, Ordering::SeqCst) - taken.load(Ordering::SeqCst);
                // The one that is being taken is counted by neither yet.
                assert!(ahead <= 3 + 1, "{ahead}");
                queue.put(number, number);
            }
            Ok(())
        };
        Runtime::system().workers("t", 4, work).unwrap();
        assert_eq!(taken.into_inner(), 200);
    }

    #[test]
    fn nobody_waits_for_what_cannot_be_made() {
        let queue = InOrder::<()>::new(200, 1);
        let work = |index| {
            if index == 0 {
                assert_eq!(queue.take(), None);
            } else {
                queue.claim();
                queue.end();
            }
            Ok::<_, std::convert::Infallible>(())
        };
        Runtime::system().workers("t", 2, work).unwrap();
    }

    #[test]
    fn nobody_waits_for_whoever_is_gone() {
        let queue = InOrder::new(200, 1);
        let work = |index| {
            if index == 0 {
                let _ends = queue.end_on_drop();
                queue.take();
                return Ok::<_, std::convert::Infallible>(());
            }
            while let Some(number) = queue.claim() {
                queue.put(number, ());
            }
            Ok(())
        };
        Runtime::system().workers("t", 3, work).unwrap();
        assert_eq!(queue.take(), None);
    }
}
