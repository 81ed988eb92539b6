//! Many small tasks on few threads.

use std::sync::{Mutex, MutexGuard, PoisonError};

use forebay_runtime::Runtime;

use crate::Error;

/// Runs `task(0)`, …, `task(count - 1)` on `workers` threads, in any order, and returns what they
/// returned; after a failure no new task starts.
pub(crate) fn tasks<T: Send>(
    runtime: &Runtime,
    workers: usize,
    count: usize,
    task: impl Fn(usize) -> Result<T, Error> + Sync,
) -> Result<Vec<T>, Error> {
    let results = Mutex::new(Vec::from_iter((0..count).map(|_| None)));
    runtime.tasks("index", workers.max(1), count, |index| {
        let result = task(index)?;
        lock(&results)[index] = Some(result);
        Ok::<(), Error>(())
    })?;
    let results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(results.into_iter().flatten().collect())
}

/// Locks, also after a panic elsewhere: that panic is carried to the caller anyway.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
