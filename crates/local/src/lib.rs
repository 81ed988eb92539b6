//! The local tier: a node's fast disk, shared by all its processes without a daemon.
//!
//! ```text
//! <directory>/
//!   cache/<digest>               immutable files, named by their BLAKE3 digest
//!   landing/<digest>-<nonce>     files on their way into the cache
//!   staging/<key>                durable until released: what has not reached the lake
//!   staging/.incoming-<nonce>    files on their way into staging
//!   scratch/<name>-<nonce>/      working space of one process
//!   asks/<name>                  what a process of this node is asked for
//!   locks/<00..ff>               one download of an object per node
//!   locks/memory                 held while memory of the node is taken
//!   locks/space                  held while what is taken changes
//!   locks/ledger                 what is taken
//! ```
//!
//! Beside the directory there is memory of the node that outlives its process: see [`NodeMemory`].
//!
//! # Bounds
//! The sum of all files' lengths never exceeds the budget: a file is given its whole length when
//! it is made, under a lock, before its first byte is written. The sum is kept in a file that says
//! when it may be wrong, and is then made anew from the directory: see `ledger.rs`.
//!
//! # After a crash
//! Locks die with their process. Files on their way and scratch whose owner is dead are removed
//! at the next open; cached files were verified before they got their name; staged files stay
//! until they are released, whoever died.

mod asks;
mod cache;
mod clear;
mod direct;
mod error;
mod files;
mod landing;
mod ledger;
mod memory;
mod scratch;
mod space;
mod staging;
mod tier;

pub use cache::CachedFile;
pub use clear::Cleared;
pub use error::Error;
pub use landing::{Landing, LandingFile, LandingLock, Spool, Spooled};
pub use memory::{MemoryEnd, MemoryLock, NodeMemory};
pub use scratch::Scratch;
pub use space::Usage;
pub use staging::{Staged, StagedWriter};
pub use tier::LocalTier;
