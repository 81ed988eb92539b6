//! Waiting so that Ctrl-C works.
//!
//! Python's signal handlers run on its main thread, and only when that thread asks. So the work is
//! done on a thread of its own, and the caller waits in slices, with the interpreter released, and
//! asks in between. A caller that is interrupted leaves at once; the work ends at its next look at
//! the runtime, or when what it hangs in lets go, and its result is thrown away.

use std::{
    sync::mpsc::{RecvTimeoutError, channel},
    time::Duration,
};

use forebay::Runtime;
use pyo3::prelude::*;

use crate::errors;

/// How long a wait goes on without asking for signals.
pub const SLICE: Duration = Duration::from_millis(50);

/// What an interrupted caller does about the work it leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// Cancels the whole runtime: nothing else works on it.
    Cancel,
    /// Cancels the whole runtime, and waits until the work has let go of the caller's memory.
    CancelAndWait,
    /// Lets the work end by itself: it is short, or others work on the same runtime.
    Running,
}

/// Runs `work` on a thread of its own and waits for it.
///
/// # Errors
/// What a signal handler raised (`KeyboardInterrupt`), or a panic of the work.
pub fn interruptible<T: Send + 'static>(
    py: Python<'_>,
    runtime: &Runtime,
    leave: Leave,
    work: impl FnOnce() -> T + Send + 'static,
) -> PyResult<T> {
    let (sender, mut receiver) = channel();
    let task = runtime.spawn("python-call", move || {
        // The caller may have left.
        let _ = sender.send(work());
    });
    loop {
        let waiting = &mut receiver;
        match py.detach(move || waiting.recv_timeout(SLICE)) {
            Ok(outcome) => return Ok(outcome),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                let panic = py.detach(|| task.join()).err();
                let panic = panic.map_or_else(|| "a call broke".to_owned(), |it| it.to_string());
                return Err(errors::defect(py, &panic));
            }
        }
        if let Err(raised) = py.check_signals() {
            if leave != Leave::Running {
                runtime.cancel();
            }
            if leave == Leave::CancelAndWait {
                let waiting = &mut receiver;
                let _thrown_away = py.detach(move || waiting.recv());
            }
            return Err(raised);
        }
    }
}
