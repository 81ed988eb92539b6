//! The journal: what a run did, append-only, in the lake.
//!
//! Entries are kept in memory until [`Journal::flush`] seals them into a segment, which is created
//! by one conditional put under the next number. Segments form a chain that starts at the run
//! record; whoever reads the journal follows it from the first to the last.
//!
//! # Bounds
//! A segment has at most 4 MiB; a journal that grows beyond it is flushed by itself.
//!
//! # After a crash
//! Entries that were not flushed are lost. The steps they told of are taken again, by a later
//! attempt; [`timeline`] is the one place that says which of two entries counts.

mod error;
mod host;
mod journal;
mod read;
mod timeline;

pub use error::Error;
pub use host::host;
pub use journal::Journal;
pub use read::{read, run_record};
pub use timeline::{Timeline, timeline};
