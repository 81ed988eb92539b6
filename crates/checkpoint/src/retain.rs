//! Retention: which checkpoints are let go, and in which order.
//!
//! The commit goes first, so that what is half deleted does not exist. The newest is never touched.

use forebay_format::v1::checkpoint::{commit_key, step_prefix};
use forebay_lake::Lake;
use forebay_types::{Key, Name};

use crate::{CheckpointSettings, Error, inspect};

/// Deletes the checkpoints of `run` that `settings` do not keep.
pub(crate) fn retain(lake: &Lake, run: &Name, settings: &CheckpointSettings) -> Result<(), Error> {
    let steps = inspect::steps(lake, run)?;
    chosen(&steps, settings).into_iter().try_for_each(|step| delete(lake, run, step))
}

/// The steps that go.
fn chosen(steps: &[u64], settings: &CheckpointSettings) -> Vec<u64> {
    if settings.keep_last == 0 {
        return Vec::new();
    }
    let old = steps.len().saturating_sub(settings.keep_last as usize);
    let kept = |step: u64| settings.keep_every > 0 && step.is_multiple_of(settings.keep_every);
    steps[..old].iter().copied().filter(|&step| !kept(step)).collect()
}

fn delete(lake: &Lake, run: &Name, step: u64) -> Result<(), Error> {
    let failed = |source| Error::Lake { act: "delete a checkpoint", run: run.clone(), source };
    lake.delete(&commit_key(run, step)).map_err(failed)?;
    let mut keys: Vec<Key> = Vec::new();
    lake.list(&step_prefix(run, step), &mut |listed| {
        keys.push(listed.key);
        Ok(())
    })
    .map_err(failed)?;
    keys.iter().try_for_each(|key| lake.delete(key).map(drop)).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_stay_and_so_do_milestones() {
        let settings = |keep_last, keep_every| CheckpointSettings {
            keep_last,
            keep_every,
            ..CheckpointSettings::default()
        };
        let steps = [10, 20, 30, 40];
        assert_eq!(chosen(&steps, &settings(0, 0)), []);
        assert_eq!(chosen(&steps, &settings(1, 0)), [10, 20, 30]);
        assert_eq!(chosen(&steps, &settings(1, 20)), [10, 30]);
        assert_eq!(chosen(&steps, &settings(9, 0)), []);
        assert_eq!(chosen(&[], &settings(1, 0)), []);
    }
}
