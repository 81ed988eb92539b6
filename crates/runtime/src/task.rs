//! Named threads whose panics are carried to whoever joins them.

use std::{any::Any, io, panic::resume_unwind, thread};

/// Work that runs on a thread of its own.
///
/// Dropping a task lets its thread go on unobserved; [`Task::join`] waits for it.
#[derive(Debug)]
pub struct Task<T> {
    name: String,
    handle: thread::JoinHandle<T>,
}

/// A thread ended by a panic: a defect, never an expected outcome.
#[derive(Debug, thiserror::Error)]
#[error("thread `{name}` panicked: {message}")]
pub struct Panicked {
    name: String,
    message: String,
}

const SPAWN_FAILED: &str = "the operating system could not start a thread";

impl<T: Send + 'static> Task<T> {
    #[allow(clippy::disallowed_methods, reason = "the one place where threads start")]
    pub(crate) fn spawn(name: &str, work: impl FnOnce() -> T + Send + 'static) -> Self {
        let handle: io::Result<_> = thread::Builder::new().name(name.to_owned()).spawn(work);
        Self { name: name.to_owned(), handle: handle.expect(SPAWN_FAILED) }
    }
}

impl<T> Task<T> {
    /// Whether the work has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.handle.is_finished()
    }

    /// Waits for the work and returns its result.
    ///
    /// # Errors
    /// [`Panicked`] when it panicked.
    pub fn join(self) -> Result<T, Panicked> {
        self.handle
            .join()
            .map_err(|panic| Panicked { name: self.name, message: message(panic.as_ref()) })
    }
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".into())
}

pub(crate) fn workers<E: Send>(
    name: &str,
    threads: usize,
    work: impl Fn(usize) -> Result<(), E> + Sync,
) -> Result<(), E> {
    let work = &work;
    let outcomes = thread::scope(|scope| {
        let handles: Vec<_> = (0..threads)
            .map(|index| {
                let builder = thread::Builder::new().name(format!("{name}-{index}"));
                builder.spawn_scoped(scope, move || work(index)).expect(SPAWN_FAILED)
            })
            .collect();
        handles.into_iter().map(thread::ScopedJoinHandle::join).collect::<Vec<_>>()
    });
    outcomes
        .into_iter()
        .try_for_each(|outcome| outcome.unwrap_or_else(|panic| resume_unwind(panic)))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_panic_is_carried_with_the_thread_s_name() {
        let task = crate::Runtime::system().spawn("drain", || panic!("lost {}", 3));
        let error = task.join().unwrap_err();
        assert_eq!(error.to_string(), "thread `drain` panicked: lost 3");
    }
}
