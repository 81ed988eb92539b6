//! The bounds of the S3 engine, in one place.

use std::time::Duration;

/// What the S3 engine allows itself. The default suits a training node.
#[derive(Clone, Debug)]
pub struct S3Settings {
    /// How long a connection may take to be made.
    pub connect_timeout: Duration,
    /// How long a connection may pass no byte before it is given up. There is no limit on a whole
    /// body: a slow store is slow, a silent one is dead.
    pub progress_timeout: Duration,
    /// The most requests in flight; a store that throttles gets fewer.
    pub requests_max: usize,
    /// The size of a part of a large object. The protocol allows 10 000 parts, and at least 5 MiB
    /// each; all are of one size because some stores insist on it.
    pub part_bytes: usize,
    /// The most parts of one object in flight. With the one being filled, a writer holds at most
    /// `(parts_max + 1) × part_bytes` of memory.
    pub parts_max: usize,
}

impl Default for S3Settings {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            progress_timeout: Duration::from_secs(10),
            requests_max: 64,
            part_bytes: 16 << 20,
            parts_max: 4,
        }
    }
}
