//! The process an object belongs to.
//!
//! A fork copies an object's memory and none of its threads, and whatever lock another thread held
//! stays locked in the child for ever. So nothing of the engine is touched there, not even to free
//! it; the child is told what to do instead.

use std::mem::ManuallyDrop;

use forebay::{ErrorKind, process_id};
use pyo3::prelude::*;

use crate::errors;

/// A part of the engine that belongs to the process which made it.
#[derive(Debug)]
pub struct Owned<T> {
    value: ManuallyDrop<T>,
    process: u32,
}

impl<T> Owned<T> {
    pub fn new(value: T) -> Self {
        Self { value: ManuallyDrop::new(value), process: process_id() }
    }

    /// The value, unless this is a forked child.
    pub fn here(&self) -> Option<&T> {
        (self.process == process_id()).then_some(&*self.value)
    }

    /// The value, or the exception that tells a forked child what to do.
    pub fn get(&self, py: Python<'_>) -> PyResult<&T> {
        self.here().ok_or_else(|| {
            let why = format!(
                "this was opened in process {} and is used in process {}, its fork, which has \
                 none of its threads; open it after the fork, or stay in one process \
                 (num_workers=0): the engine's threads do the work of workers",
                self.process,
                process_id()
            );
            errors::raise(py, ErrorKind::Refused, &why)
        })
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        if self.here().is_some() {
            // SAFETY: dropped here alone, and never used after.
            unsafe { ManuallyDrop::drop(&mut self.value) };
        }
    }
}
