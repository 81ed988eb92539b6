//! What the tests of the archive share.

#![allow(dead_code, reason = "each test takes what it needs")]
#![allow(clippy::unwrap_used, reason = "a test may")]

pub mod evening;
pub mod story;
