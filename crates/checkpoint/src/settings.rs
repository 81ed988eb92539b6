//! Settings of the afternoon.

use serde::{Deserialize, Serialize};

/// When checkpoints are made, and which are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CheckpointSettings {
    /// A checkpoint after so many steps; 0: only at the end.
    pub every_steps: u64,
    /// The newest checkpoints that are kept; 0: all.
    pub keep_last: u64,
    /// Checkpoints whose step this divides are kept as well; 0: none.
    pub keep_every: u64,
    /// Threads that copy the state.
    pub threads: u32,
}

impl Default for CheckpointSettings {
    fn default() -> Self {
        Self { every_steps: 40, keep_last: 3, keep_every: 0, threads: 2 }
    }
}
