//! Crash points: named places where a test kills the process.
//!
//! `FOREBAY_CRASH_AT=checkpoint.stage:2` sends SIGKILL to this process the second time it passes
//! `crash_point("checkpoint.stage")`. SIGKILL cannot be caught, so what the test finds afterwards
//! is what any crash would leave. Without the feature `crash-points` the call compiles to nothing.

/// Dies here if a test asked for it.
#[cfg(feature = "crash-points")]
pub fn crash_point(name: &str) {
    use std::sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    };

    static REQUEST: OnceLock<Option<(String, u64)>> = OnceLock::new();
    static PASSED: AtomicU64 = AtomicU64::new(0);

    let request = REQUEST.get_or_init(|| {
        let text = std::env::var("FOREBAY_CRASH_AT").ok()?;
        let (name, count) = text.rsplit_once(':').unwrap_or((&text, "1"));
        Some((name.to_owned(), count.parse().expect("FOREBAY_CRASH_AT is NAME:COUNT")))
    });
    let Some((wanted, count)) = request else { return };
    if wanted == name && PASSED.fetch_add(1, Ordering::SeqCst) + 1 == *count {
        let this = rustix::process::getpid();
        rustix::process::kill_process(this, rustix::process::Signal::KILL)
            .expect("SIGKILL is sent");
        // The signal may arrive a moment later; nothing after this point may run.
        loop {
            std::hint::spin_loop();
        }
    }
}

/// Does nothing: the feature `crash-points` is off.
#[cfg(not(feature = "crash-points"))]
#[inline(always)]
pub fn crash_point(_name: &str) {}
