//! Where the lake and the local tier meet: the only crate that knows both.
//!
//! - [`Transfer::fetch`] brings an immutable object to the node, once for all its processes, and
//!   hands it out as a mapped file whose digest was verified.
//! - [`Prefetcher`] does so ahead of need and makes room by known future: what is needed last goes
//!   first, and nothing goes that is needed sooner than what it would make room for.
//! - [`Transfer::stage`] takes the room of cached objects for what the lake has not yet,
//!   [`Transfer::follow`] and [`Transfer::drain`] bring it there.
//! - [`dataset`] opens published datasets and reads their shard lists page by page; [`index`] does
//!   so for those that were indexed where they lie.
//!
//! # Bounds
//! A fetch holds at most [`FETCH_BYTES_MAX`] of memory whatever the object's size. The local
//! tier's byte budget is never exceeded: space is reserved before the first byte is asked for.
//!
//! # After a crash
//! A landing that did not finish is a private file which the tier removes when it is next opened;
//! the landing lock died with its process. There is nothing to repair.

pub mod dataset;
mod drain;
mod error;
mod fetch;
mod follow;
pub mod index;
mod known;
mod object;
mod pages;
mod pieces;
mod prefetch;
mod room;
mod stage;
mod transfer;

pub use drain::StagedBytes;
pub use error::Error;
pub use follow::{Follow, Written};
pub use object::{Decoder, Object, Stored};
pub use pieces::FETCH_BYTES_MAX;
pub use prefetch::{Need, Needs, Plan, PrefetchSettings, PrefetchStats, Prefetcher};
pub use room::Foresight;
pub use transfer::{FetchStats, Transfer};
