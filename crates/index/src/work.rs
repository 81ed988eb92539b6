//! Many small tasks on few threads.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

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
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let results = Mutex::new(Vec::from_iter((0..count).map(|_| None)));
    runtime.workers("index", workers.clamp(1, count.max(1)), |_| {
        while !failed.load(Ordering::Relaxed) {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= count {
                break;
            }
            let outcome = runtime.check().map_err(Error::from).and_then(|()| task(index));
            failed.fetch_or(outcome.is_err(), Ordering::Relaxed);
            lock(&results)[index] = Some(outcome?);
        }
        Ok::<(), Error>(())
    })?;
    let results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(results.into_iter().flatten().collect())
}

/// Locks, also after a panic elsewhere: that panic is carried to the caller anyway.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
