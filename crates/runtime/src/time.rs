//! Wall-clock time and durations.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use crate::Runtime;

/// A moment of wall-clock time, to the millisecond.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The moment `unix_ms` milliseconds after 1970-01-01T00:00:00Z.
    #[must_use]
    pub const fn from_unix_ms(unix_ms: u64) -> Self {
        Self(unix_ms)
    }

    /// Milliseconds since 1970-01-01T00:00:00Z.
    #[must_use]
    pub const fn unix_ms(self) -> u64 {
        self.0
    }
}

/// Measures one duration.
#[derive(Clone, Debug)]
pub struct Stopwatch {
    runtime: Runtime,
    started: Duration,
}

impl Stopwatch {
    pub(crate) fn start(runtime: Runtime) -> Self {
        let started = runtime.elapsed();
        Self { runtime, started }
    }

    /// The time since it was started.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.runtime.elapsed().saturating_sub(self.started)
    }

    /// The time since it was started, in seconds.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        self.elapsed().as_secs_f64()
    }
}

pub(crate) enum Clock {
    System { started: Instant },
    Manual { elapsed: Mutex<Duration> },
}

/// Where manual clocks start: 2026-01-01T00:00:00Z, so that stored times look like times.
const MANUAL_EPOCH: Duration = Duration::from_secs(1_767_225_600);

impl Clock {
    #[allow(clippy::disallowed_methods, reason = "the one place where the clock is read")]
    pub(crate) fn system() -> Self {
        Self::System { started: Instant::now() }
    }

    pub(crate) fn manual() -> Self {
        Self::Manual { elapsed: Mutex::new(Duration::ZERO) }
    }

    pub(crate) const fn is_manual(&self) -> bool {
        matches!(self, Self::Manual { .. })
    }

    #[allow(clippy::disallowed_methods, reason = "the one place where the clock is read")]
    pub(crate) fn now(&self) -> Timestamp {
        let since_epoch = match self {
            Self::System { .. } => SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
            Self::Manual { .. } => MANUAL_EPOCH + self.elapsed(),
        };
        Timestamp(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
    }

    pub(crate) fn elapsed(&self) -> Duration {
        match self {
            Self::System { started } => started.elapsed(),
            Self::Manual { elapsed } => *elapsed.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }

    pub(crate) fn advance(&self, by: Duration) {
        if let Self::Manual { elapsed } = self {
            *elapsed.lock().unwrap_or_else(PoisonError::into_inner) += by;
        }
    }
}
