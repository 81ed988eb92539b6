//! What a user may set.

use serde::{Deserialize, Serialize};

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
    /// Whether a tensor that did not change since the save before is referred to where it lies
    /// instead of being written again.
    pub incremental: bool,
    /// Threads that copy, digest and read tensors.
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
            incremental: true,
            threads: 2,
            commit_wait_seconds: 600,
        }
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
    }
}
