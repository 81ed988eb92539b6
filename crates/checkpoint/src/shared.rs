//! What the threads of one piece of work share: looked at by one at a time, also when another panicked.

use std::sync::{Mutex, MutexGuard, PoisonError};

pub(crate) fn lock<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is there for one of them.
pub(crate) fn take<T>(value: &Mutex<Option<T>>) -> Option<T> {
    lock(value).take()
}

/// The next job that nobody has.
pub(crate) fn next<T>(left: &Mutex<impl Iterator<Item = T>>) -> Option<T> {
    lock(left).next()
}

/// What they leave behind.
pub(crate) fn into_inner<T>(value: Mutex<T>) -> T {
    value.into_inner().unwrap_or_else(PoisonError::into_inner)
}
