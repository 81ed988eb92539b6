//! The lake: large, shared, durable storage of immutable objects.
//!
//! It is not a file system: an object is there whole or not at all, is never changed, and is
//! found by its key and not by walking. That is little enough for every object store to offer, and
//! enough for all that Forebay promises. Engines implement [`Store`]; everybody else holds a
//! [`Lake`], which adds retries and counting.
//!
//! # Consistency
//! An object that was written is read by everyone from then on. [`Lake::commit`] is the only way
//! to publish: of any number of writers at most one wins.
//!
//! # After a crash
//! What was finished is there; what was not is invisible, and is removed after a while.

mod commit;
mod directory;
mod error;
mod folder;
mod lake;
mod memory;
mod probe;
mod retry;
mod s3;
mod store;
mod traffic;
mod url;
mod writer;

pub use commit::Commit;
use directory::Absent;
pub use directory::Directory;
pub use error::Error;
pub use lake::Lake;
pub use memory::Memory;
pub use s3::{S3, S3Settings};
pub use store::{Created, Listed, ObjectWriter, Store};
pub use traffic::{Purpose, Traffic};
pub use writer::LakeWriter;
