//! How many requests one store gets at once, and when.
//!
//! The limit starts in the middle, grows by one with every full round of successes, and halves
//! when the store throttles, at most once a second: the answers to one burst are one complaint. A
//! store that says how long to wait is left alone for that long, by every thread of this engine.

use std::{
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use forebay_runtime::{Cancelled, Runtime};

const START: usize = 16;
/// Complaints closer together than this are one.
const HALVE_EVERY: Duration = Duration::from_secs(1);
/// The longest that a store's `Retry-After` is believed.
const PAUSE_MAX: Duration = Duration::from_secs(20);
/// How often a thread that waits for its turn looks whether it was cancelled.
const LOOK_EVERY: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(super) struct Limit {
    runtime: Runtime,
    state: Mutex<State>,
    freed: Condvar,
    requests_max: usize,
}

#[derive(Debug)]
struct State {
    allowed: usize,
    in_flight: usize,
    /// Successes since the limit last changed.
    successes: usize,
    halved: Option<Duration>,
    paused_until: Duration,
}

impl Limit {
    pub(super) fn new(requests_max: usize, runtime: &Runtime) -> Self {
        let requests_max = requests_max.max(1);
        let state = State {
            allowed: START.min(requests_max),
            in_flight: 0,
            successes: 0,
            halved: None,
            paused_until: Duration::ZERO,
        };
        Self {
            runtime: runtime.clone(),
            state: Mutex::new(state),
            freed: Condvar::new(),
            requests_max,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a turn. Who has one calls [`Limit::leave`] when it is over.
    pub(super) fn enter(&self) -> Result<(), Cancelled> {
        loop {
            self.runtime.check()?;
            let mut state = self.lock();
            let pause = state.paused_until.saturating_sub(self.runtime.elapsed());
            if !pause.is_zero() {
                drop(state);
                self.runtime.sleep(pause)?;
            } else if state.in_flight < state.allowed {
                state.in_flight += 1;
                return Ok(());
            } else {
                let _woken = self.freed.wait_timeout(state, LOOK_EVERY);
            }
        }
    }

    pub(super) fn leave(&self) {
        self.lock().in_flight -= 1;
        self.freed.notify_one();
    }

    /// A request was served.
    pub(super) fn served(&self) {
        let mut state = self.lock();
        state.successes += 1;
        if state.successes >= state.allowed && state.allowed < self.requests_max {
            state.allowed += 1;
            state.successes = 0;
        }
    }

    /// The store asked for fewer requests, and maybe for a pause.
    pub(super) fn throttled(&self, pause: Option<Duration>) {
        let now = self.runtime.elapsed();
        let mut state = self.lock();
        if state.halved.is_none_or(|halved| now.saturating_sub(halved) >= HALVE_EVERY) {
            state.allowed = (state.allowed / 2).max(1);
            state.successes = 0;
            state.halved = Some(now);
        }
        if let Some(pause) = pause {
            state.paused_until = state.paused_until.max(now + pause.min(PAUSE_MAX));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_halves_once_a_burst_and_grows_by_rounds() {
        let runtime = Runtime::manual(1);
        let limit = Limit::new(64, &runtime);
        let allowed = || limit.lock().allowed;
        for _ in 0..10 {
            limit.throttled(None);
        }
        assert_eq!(allowed(), START / 2);
        runtime.advance(HALVE_EVERY);
        limit.throttled(None);
        assert_eq!(allowed(), START / 4);
        for _ in 0..4 {
            limit.served();
        }
        assert_eq!(allowed(), START / 4 + 1);
        for _ in 0..10_000 {
            limit.served();
        }
        assert_eq!(allowed(), 64);
        for _ in 0..10 {
            runtime.advance(HALVE_EVERY);
            limit.throttled(None);
        }
        assert_eq!(allowed(), 1, "never none");
    }

    #[test]
    fn a_store_that_asks_for_a_pause_gets_it_within_reason() {
        let runtime = Runtime::manual(1);
        let limit = Limit::new(64, &runtime);
        let before = runtime.elapsed();
        limit.throttled(Some(Duration::from_secs(3)));
        limit.enter().unwrap();
        assert_eq!(runtime.elapsed() - before, Duration::from_secs(3));
        limit.throttled(Some(Duration::from_secs(86_400)));
        limit.enter().unwrap();
        assert_eq!(runtime.elapsed() - before, Duration::from_secs(3) + PAUSE_MAX);
        runtime.cancel();
        assert!(limit.enter().is_err());
    }
}
