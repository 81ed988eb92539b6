//! What the tests of several crates share. Never a part of a build that users get.
//!
//! - [`TempTiers`]: a lake and a local tier in a directory that goes with the test.
//! - [`FaultStore`]: a store that fails when it is told to, in the ways real ones do.
//! - [`S3Server`]: a real S3 server on loopback, and [`FaultProxy`], a bad network before it.
//! - [`anonymous_bytes`]: how much memory this process takes.
//! - [`lake_contract`]: what every engine must do, as one suite.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod contract;
mod fault;
mod fault_proxy;
mod memory;
mod s3_server;
mod tiers;

pub use contract::lake_contract;
pub use fault::{Fault, FaultStore, Request};
pub use fault_proxy::{FaultProxy, WireFault};
pub use memory::anonymous_bytes;
pub use s3_server::{BUCKET, Group, S3Server, free_ports, tool, variables};
pub use tiers::TempTiers;

use forebay_types::Key;

/// The key that `text` spells.
///
/// # Panics
/// When it spells none.
#[must_use]
pub fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}
