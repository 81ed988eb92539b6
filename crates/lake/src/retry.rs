//! Making a request again when its failure may pass.
//!
//! Six attempts, with pauses of up to 50, 100, 200, 400 and 800 ms: a hiccup of a store is waited
//! out, a store that is down is an error within two seconds. Each pause is drawn at random from
//! the upper half of its range, so that many clients do not come back at once. A request that is
//! made again may have had its effect the first time; all requests but a create can bear that, and
//! [`Lake::commit`](crate::Lake::commit) looks before it believes a create.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use forebay_runtime::{Cancelled, Random, Runtime};

use crate::Error;

const ATTEMPTS_MAX: u32 = 6;
const PAUSE_FIRST: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(crate) struct Retry {
    runtime: Runtime,
    jitter: Mutex<Random>,
}

impl Retry {
    pub(crate) fn new(runtime: &Runtime) -> Self {
        // Two processes that start in the same moment must not pause alike.
        let nonce = runtime.nonce().to_string();
        let seed = u64::from_str_radix(&nonce[..16], 16).unwrap_or_default();
        Self { runtime: runtime.clone(), jitter: Mutex::new(Random::new(seed)) }
    }

    /// Makes `request` until it succeeds, fails for good, or was made often enough; calls `again`
    /// each time before it is made again.
    pub(crate) fn run<T>(
        &self,
        mut request: impl FnMut() -> Result<T, Error>,
        again: impl Fn(),
    ) -> Result<T, Error> {
        let mut attempt = 1;
        loop {
            match request() {
                Err(error) if error.is_transient() && attempt < ATTEMPTS_MAX => {
                    if self.pause(attempt).is_err() {
                        return Err(Error::Cancelled(Box::new(error)));
                    }
                    again();
                    attempt += 1;
                }
                result => return result,
            }
        }
    }

    fn pause(&self, attempt: u32) -> Result<(), Cancelled> {
        let share = self.jitter.lock().unwrap_or_else(PoisonError::into_inner).unit();
        let longest = PAUSE_FIRST * 2u32.pow(attempt - 1);
        self.runtime.sleep(longest.mul_f64(0.5 + share / 2.0))
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, io};

    use forebay_types::{ErrorKind, Key};

    use super::*;

    fn failure(kind: io::ErrorKind) -> Result<(), Error> {
        let (key, place) = (Key::new("a").unwrap(), "x".into());
        Err(Error::Object { act: "read", key, place, source: kind.into() })
    }

    #[test]
    fn a_store_that_is_down_is_an_error_within_two_seconds() {
        let runtime = Runtime::manual(1);
        let (made, again) = (Cell::new(0), Cell::new(0));
        let request = || {
            made.set(made.get() + 1);
            failure(io::ErrorKind::TimedOut)
        };
        let error = Retry::new(&runtime).run(request, || again.set(again.get() + 1)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert_eq!((made.get(), again.get()), (ATTEMPTS_MAX, ATTEMPTS_MAX - 1));
        let paused = runtime.elapsed();
        assert!(paused >= Duration::from_millis(775) && paused <= Duration::from_millis(1550));
    }

    #[test]
    fn what_will_not_pass_is_not_tried_again() {
        let runtime = Runtime::manual(1);
        let request = || failure(io::ErrorKind::PermissionDenied);
        Retry::new(&runtime).run(request, || panic!("made again")).unwrap_err();
        assert_eq!(runtime.elapsed(), Duration::ZERO);
    }

    #[test]
    fn a_cancelled_wait_says_so_and_keeps_the_cause() {
        let runtime = Runtime::manual(1);
        runtime.cancel();
        let request = || failure(io::ErrorKind::TimedOut);
        let error = Retry::new(&runtime).run(request, || panic!("made again")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Interrupted);
        assert!(std::error::Error::source(&error).is_some());
    }
}
