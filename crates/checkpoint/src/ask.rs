//! Asking a run for a checkpoint from outside.

use std::time::Duration;

use forebay_lake::Lake;
use forebay_local::LocalTier;
use forebay_runtime::Runtime;
use forebay_types::Name;

use crate::{Error, read};

const POLL: Duration = Duration::from_millis(100);

/// Asks a process of `run` on this node to save after its next step; waits for the commit, at most
/// `patience`. Returns the step; none when there was no new one, and then the question is taken back.
///
/// # Errors
/// When a tier fails, or the wait is cancelled.
pub fn ask(
    lake: &Lake,
    local: &LocalTier,
    run: &Name,
    patience: Duration,
    runtime: &Runtime,
) -> Result<Option<u64>, Error> {
    let before = read::steps(lake, run)?.pop();
    local.ask(run)?;
    let watch = runtime.stopwatch();
    loop {
        let newest = read::steps(lake, run)?.pop();
        if newest > before {
            return Ok(newest);
        }
        if watch.elapsed() >= patience {
            local.take_ask(run)?;
            return Ok(None);
        }
        runtime.sleep(POLL)?;
    }
}
