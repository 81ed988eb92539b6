//! The bridge between Forebay and Python: convert, release the interpreter, call, map errors.
//!
//! It decides nothing. The package `python/forebay` is what people import; this module's names are
//! listed in `_forebay.pyi`. Plain data (settings, statistics, traces) crosses as JSON text, since
//! both sides have it already; samples and
//! tensors cross as memory, without a copy ([`column`], [`checkpoint`]).
//!
//! - **The interpreter** is released around every call that may wait.
//! - **Ctrl-C** works in all of them: a wait is cut into slices, and Python's signal handlers run in
//!   between ([`interrupt`]).
//! - **Forks** do not take the engine's threads along. Every object knows the process it was made
//!   in and refuses to work in another ([`process`]).
//! - **Threads** may share every object: each is immutable or has a lock inside.

mod batch;
mod checkpoint;
mod column;
mod dlpack;
mod engine;
mod errors;
mod feed;
mod interrupt;
mod process;

/// Forebay's engine, as the package `forebay` uses it.
#[pyo3::pymodule(gil_used = false)]
mod _forebay {
    use pyo3::pyfunction;

    #[pymodule_export]
    use crate::{
        batch::Batch,
        checkpoint::{Checkpoint, Checkpointer, Copying, StatePlan},
        column::Column,
        engine::Engine,
        feed::Feed,
    };

    /// The number of this process, without a call into the kernel.
    #[pyfunction]
    fn process_id() -> u32 {
        forebay::process_id()
    }

    /// The version of the engine and of the package.
    #[pymodule_export]
    const VERSION: &str = env!("CARGO_PKG_VERSION");
}
