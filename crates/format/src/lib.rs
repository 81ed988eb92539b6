//! Every stored byte of both tiers, and nothing else: no I/O, no clock, no threads.
//!
//! Small objects (manifests, commits, journals' heads) are *records*: one JSON document in a
//! fixed frame that carries its format, its version and the BLAKE3 digest of its body, see
//! [`record`]. Large objects are formats other tools read: Arrow IPC files and safetensors.
//!
//! Each version of the formats is a folder; [`v1`] is the only one so far. Once released, a
//! version is never edited: its golden files in `golden/v1` are read by every later build.

mod error;
mod ipc;
mod number;
pub mod record;
pub mod v1;

pub use error::Error;
