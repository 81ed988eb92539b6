//! What a user may set.

use serde::{Deserialize, Serialize};

use crate::{KeepBest, KeepPolicy};

/// When checkpoints are taken, how, and which are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CheckpointSettings {
    /// A checkpoint is due every so many steps; 0: only at the end.
    pub every_steps: u64,
    /// The newest so many are kept; 0: all.
    pub keep_last: u64,
    /// Steps divisible by this are kept for good; 0: none for that reason.
    pub keep_every: u64,
    /// Those of the best values of a metric are kept as well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_best: Option<KeepBest>,
    /// Whether a tensor that did not change since the save before is referred to where it lies
    /// instead of being written again.
    pub incremental: bool,
    /// Whether tensors are stored in less room, without loss, where that gains something. It costs
    /// processor time in the background of a save, and in a restore.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub compress: bool,
    /// The most memory that a copy of the state may take; none: as much as the node has available. What
    /// needs more is staged while the trainer waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arena_bytes_max: Option<u64>,
    /// Threads that copy, digest and read tensors. Beside them are some that wait for the disk.
    pub threads: usize,
    /// How long a rank whose part is published waits for the others, in seconds.
    pub commit_wait_seconds: u64,
}

impl Default for CheckpointSettings {
    fn default() -> Self {
        Self {
            every_steps: 50,
            keep_last: 3,
            keep_every: 0,
            keep_best: None,
            incremental: true,
            compress: false,
            arena_bytes_max: None,
            threads: 2,
            commit_wait_seconds: 600,
        }
    }
}

impl CheckpointSettings {
    /// Which checkpoints stay.
    #[must_use]
    pub fn keep_policy(&self) -> KeepPolicy {
        let Self { keep_last, keep_every, keep_best, .. } = self;
        KeepPolicy { keep_last: *keep_last, keep_every: *keep_every, keep_best: keep_best.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelled_setting_is_refused() {
        assert!(serde_json::from_str::<CheckpointSettings>(r#"{"every_step":5}"#).is_err());
        let some: CheckpointSettings = serde_json::from_str(r#"{"keep_last":7}"#).unwrap();
        assert_eq!(some, CheckpointSettings { keep_last: 7, ..CheckpointSettings::default() });
        let best: CheckpointSettings =
            serde_json::from_str(r#"{"keep_best":{"metric":"accuracy","goal":"max"}}"#).unwrap();
        assert_eq!(
            best.keep_best.unwrap(),
            KeepBest { count: 1, ..("accuracy:max".parse().unwrap()) }
        );
        // Runs that were begun before it existed have the same settings.
        let default = serde_json::to_value(CheckpointSettings::default()).unwrap();
        assert!(default.get("keep_best").is_none());
    }
}
