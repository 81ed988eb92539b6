//! Clock, randomness and threads: everything that would make two runs differ.
//!
//! The engine asks a [`Runtime`] for the time, for nonces and for threads, and nobody else; a
//! lint bans the ambient ones. A test that makes its runtime with [`Runtime::manual`] holds the
//! clock and repeats the nonces. Randomness that shapes *results* (order, initialization,
//! augmentation) never comes from here: it is a pure function of a seed, see [`Random`].

mod crash;
mod memory;
mod nonce;
mod process;
mod random;
mod task;
mod time;

use std::{
    fmt,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

pub use crash::crash_point;
pub use memory::available_memory_bytes;
pub use process::process_id;
pub use random::Random;
pub use task::{Panicked, Task};
pub use time::{Stopwatch, Timestamp};

use forebay_types::Nonce;
use nonce::NonceSource;
use time::Clock;

/// The handle through which all code reaches the clock, nonces and threads.
///
/// Cloning is cheap and gives the same runtime.
#[derive(Clone)]
pub struct Runtime {
    shared: Arc<Shared>,
}

struct Shared {
    clock: Clock,
    nonces: NonceSource,
    cancelled: AtomicBool,
    sleepers: Mutex<()>,
    wake: Condvar,
}

/// The work was told to stop while it waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the work was cancelled")]
pub struct Cancelled;

impl Runtime {
    /// The real clock and the operating system's randomness.
    #[must_use]
    pub fn system() -> Self {
        Self::with(Clock::system(), NonceSource::system())
    }

    /// A clock that only [`Runtime::advance`] moves (and [`Runtime::sleep`], by what it would have
    /// slept), and nonces that `seed` decides.
    #[must_use]
    pub fn manual(seed: u64) -> Self {
        Self::with(Clock::manual(), NonceSource::seeded(seed))
    }

    fn with(clock: Clock, nonces: NonceSource) -> Self {
        Self {
            shared: Arc::new(Shared {
                clock,
                nonces,
                cancelled: AtomicBool::new(false),
                sleepers: Mutex::new(()),
                wake: Condvar::new(),
            }),
        }
    }

    /// The wall-clock time. It may jump; measure durations with [`Runtime::elapsed`].
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.shared.clock.now()
    }

    /// The time since this runtime was made. Never runs backwards.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.shared.clock.elapsed()
    }

    /// Starts measuring a duration.
    #[must_use]
    pub fn stopwatch(&self) -> Stopwatch {
        Stopwatch::start(self.clone())
    }

    /// Moves a manual clock forward; does nothing to the system clock.
    pub fn advance(&self, by: Duration) {
        self.shared.clock.advance(by);
    }

    /// A value no other call will ever return.
    #[must_use]
    pub fn nonce(&self) -> Nonce {
        self.shared.nonces.next()
    }

    /// Waits for `duration`, or until the runtime is cancelled.
    ///
    /// # Errors
    /// [`Cancelled`] when it was.
    pub fn sleep(&self, duration: Duration) -> Result<(), Cancelled> {
        if self.shared.clock.is_manual() {
            self.advance(duration);
            return self.check();
        }
        let deadline = self.elapsed() + duration;
        let mut guard = self.shared.sleepers.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            self.check()?;
            let left = deadline.saturating_sub(self.elapsed());
            if left.is_zero() {
                return Ok(());
            }
            (guard, _) =
                self.shared.wake.wait_timeout(guard, left).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Asks all work on this runtime to stop at its next [`Runtime::check`].
    pub fn cancel(&self) {
        // The lock orders the flag before the wake-up, so no sleeper misses it.
        let _guard = self.shared.sleepers.lock().unwrap_or_else(PoisonError::into_inner);
        self.shared.cancelled.store(true, Ordering::SeqCst);
        self.shared.wake.notify_all();
    }

    /// Whether the work may go on.
    ///
    /// # Errors
    /// [`Cancelled`] after [`Runtime::cancel`].
    pub fn check(&self) -> Result<(), Cancelled> {
        if self.shared.cancelled.load(Ordering::SeqCst) { Err(Cancelled) } else { Ok(()) }
    }

    /// Runs `work` on a thread of its own, named `name`.
    ///
    /// # Panics
    /// When the operating system has no thread left.
    pub fn spawn<T: Send + 'static>(
        &self,
        name: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Task<T> {
        Task::spawn(name, work)
    }

    /// Runs `work(0)`, …, `work(threads - 1)` at once, and returns when all have ended.
    ///
    /// Every worker runs to its end; of several errors the one with the lowest index is returned.
    ///
    /// # Errors
    /// What a worker returned.
    ///
    /// # Panics
    /// When a worker panicked, with its panic.
    pub fn workers<E: Send>(
        &self,
        name: &str,
        threads: usize,
        work: impl Fn(usize) -> Result<(), E> + Sync,
    ) -> Result<(), E> {
        task::workers(name, threads, work)
    }

    /// Runs `task(0)`, …, `task(count - 1)` on at most `workers` threads, in any order; after a
    /// failure, or once the runtime is cancelled, no new task starts.
    ///
    /// # Errors
    /// What a task returned, or [`Cancelled`].
    ///
    /// # Panics
    /// When a task panicked, with its panic.
    pub fn tasks<E: Send + From<Cancelled>>(
        &self,
        name: &str,
        workers: usize,
        count: usize,
        task: impl Fn(usize) -> Result<(), E> + Sync,
    ) -> Result<(), E> {
        let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
        self.workers(name, workers.min(count), |_| {
            while !failed.load(Ordering::Relaxed) {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= count {
                    break;
                }
                let outcome = self.check().map_err(E::from).and_then(|()| task(index));
                failed.fetch_or(outcome.is_err(), Ordering::Relaxed);
                outcome?;
            }
            Ok(())
        })
    }
}

impl fmt::Debug for Runtime {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Runtime").field("manual", &self.shared.clock.is_manual()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manual_clock_moves_only_when_told() {
        let runtime = Runtime::manual(1);
        let before = (runtime.now(), runtime.elapsed());
        assert_eq!(before, (runtime.now(), runtime.elapsed()));
        runtime.advance(Duration::from_secs(2));
        runtime.sleep(Duration::from_secs(3)).unwrap();
        assert_eq!(runtime.elapsed() - before.1, Duration::from_secs(5));
        assert_eq!(runtime.now().unix_ms() - before.0.unix_ms(), 5000);
    }

    #[test]
    fn a_seed_repeats_its_nonces_and_the_system_does_not() {
        let nonces = |runtime: Runtime| [runtime.nonce(), runtime.nonce()];
        assert_eq!(nonces(Runtime::manual(7)), nonces(Runtime::manual(7)));
        assert_ne!(nonces(Runtime::manual(7)), nonces(Runtime::manual(8)));
        assert_ne!(nonces(Runtime::system()), nonces(Runtime::system()));
    }

    #[test]
    fn cancelling_wakes_a_sleeper() {
        let runtime = Runtime::system();
        let sleeper = {
            let runtime = runtime.clone();
            runtime.clone().spawn("sleeper", move || runtime.sleep(Duration::from_secs(3600)))
        };
        runtime.cancel();
        assert_eq!(sleeper.join().unwrap(), Err(Cancelled));
    }

    #[test]
    fn tasks_are_run_once_each_until_one_fails() {
        let runtime = Runtime::system();
        let seen = Mutex::new(Vec::new());
        let task = |index| {
            seen.lock().unwrap().push(index);
            if index == 7 { Err(Cancelled) } else { Ok(()) }
        };
        runtime.tasks("t", 3, 7, task).unwrap();
        let mut first = std::mem::take(&mut *seen.lock().unwrap());
        first.sort_unstable();
        assert_eq!(first, (0..7).collect::<Vec<_>>());
        assert_eq!(runtime.tasks("t", 1, 100, task), Err(Cancelled));
        assert_eq!(*seen.lock().unwrap(), (0..8).collect::<Vec<_>>());
        runtime.cancel();
        assert_eq!(runtime.tasks("t", 2, 5, |_| panic!("it began")), Err(Cancelled));
    }

    #[test]
    fn workers_all_run_and_the_lowest_error_wins() {
        let seen = Mutex::new(Vec::new());
        let result = Runtime::system().workers("w", 4, |index| {
            seen.lock().unwrap().push(index);
            if index >= 2 { Err(index) } else { Ok(()) }
        });
        assert_eq!(result, Err(2));
        let mut seen = seen.into_inner().unwrap();
        seen.sort_unstable();
        assert_eq!(seen, [0, 1, 2, 3]);
    }
}
