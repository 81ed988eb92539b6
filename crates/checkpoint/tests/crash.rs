//! A trainer is killed by SIGKILL at every place that leaves something of its own kind. What is
//! committed loads; what is torn is never chosen; what was sealed is not lost; nothing stays.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod support;

use std::{
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use forebay_checkpoint::{
    CheckpointSettings, Checkpointer, Deferred, Part, StatePlan, Tier, Which, list, restore, verify,
};
use forebay_lake::Lake;
use forebay_local::LocalTier;
use forebay_runtime::Runtime;
use forebay_transfer::Transfer;
use forebay_types::{Name, Position, Rank};

use support::{assert_is, keep_all, metadata, objects, open, run, save, state, until};

const DIRECTORY: &str = "FOREBAY_TEST_DIRECTORY";
const STEPS: [u64; 3] = [10, 20, 30];

/// Most of the state is copied while the trainer goes on; in a save that is to die it may never say that
/// the state is whole.
const OVERLAPPED: &str = "FOREBAY_TEST_OVERLAPPED";

const ROOM_FOR_ONE: &str = "FOREBAY_TEST_ROOM_FOR_ONE";
/// Of a save of 8.4 KiB, its record and a bit, but not of two.
const ONE_BYTES: u64 = 16_000;

fn tiers(directory: &Path) -> Transfer {
    tiers_with(directory, 1 << 20)
}

fn tiers_with(directory: &Path, budget_bytes: u64) -> Transfer {
    let runtime = Runtime::system();
    let lake = Lake::open(directory.join("lake").to_str().unwrap(), &runtime).unwrap();
    let local = LocalTier::open(&directory.join("local"), budget_bytes, &runtime).unwrap();
    Transfer::new(&lake, &local, &runtime)
}

/// Not a test: what the process that dies runs. Without its variable it has nothing to do.
#[test]
fn trainer() {
    let Some(directory) = std::env::var_os(DIRECTORY).map(PathBuf::from) else { return };
    let room_for_one = std::env::var_os(ROOM_FOR_ONE).is_some();
    let transfer = tiers_with(&directory, if room_for_one { ONE_BYTES } else { 1 << 20 });
    // What may be at rest is copied before it is staged, and in a second save that is everything.
    let incremental = std::env::var_os(OVERLAPPED).is_none();
    let settings = CheckpointSettings { incremental, ..keep_all() };
    let mut checkpointer = open(&transfer, &settings).unwrap();
    let restored = checkpointer.restore(Which::Newest, Part::All).unwrap();
    let from = restored.map_or(0, |restored| {
        assert_is(&restored, restored.step());
        restored.step()
    });
    for step in STEPS.into_iter().filter(|&step| step > from) {
        match std::env::var(OVERLAPPED) {
            Ok(how) => save_overlapped(&mut checkpointer, step, how == "silent" && step == 20),
            Err(_) => save(&mut checkpointer, step).unwrap(),
        }
        // One save at a time, so that the second to pass a point is the one of step 20.
        match room_for_one {
            // What is committed stays staged.
            true => until(transfer.runtime(), || !checkpointer.finished().is_empty()),
            false => drop(checkpointer.wait().unwrap()),
        }
    }
}

fn save_overlapped(checkpointer: &mut Checkpointer, step: u64, is_silent: bool) {
    let (state, said) = (state(step), metadata(step).to_string());
    let plan = StatePlan::new(&state).unwrap();
    let mut later: Vec<_> = state.into_iter().map(|tensor| tensor.bytes).collect();
    let now = later.remove(0);
    let (position, deferred) = (Position { step }, Deferred { later, filled: 0 });
    let saved =
        checkpointer.save_overlapped(step, position, &plan, &[&now], deferred, said).unwrap();
    let copying = saved.1.unwrap();
    until(&Runtime::system(), || !is_silent && copying.wait(Duration::ZERO));
    copying.confirm();
}

/// Trains in a process of its own; says whether SIGKILL ended it.
fn train(directory: &Path, crash_at: Option<&str>) -> bool {
    train_with(directory, crash_at, &[])
}

fn train_with(directory: &Path, crash_at: Option<&str>, variables: &[(&str, &str)]) -> bool {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "trainer"]).env(DIRECTORY, directory);
    command.env_remove("FOREBAY_CRASH_AT").envs(variables.iter().copied());
    if let Some(point) = crash_at {
        command.env("FOREBAY_CRASH_AT", point);
    }
    let output = command.output().unwrap();
    let killed = output.status.signal() == Some(9);
    assert!(killed || output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    killed
}

/// What a crash at `point` in the save of step `20` must leave committed, before and after the
/// next open; with a lake on the local tier's disk, and with one elsewhere.
fn crash_at(point: &str, before: &[u64], after: &[u64]) {
    crash_with(&[], point, before, after);
}

fn crash_with(variables: &[(&str, &str)], point: &str, before: &[u64], after: &[u64]) {
    let folder = tempfile::tempdir().unwrap();
    crash_in(folder.path(), variables, point, before, after);
    let (folder, elsewhere) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir_in("/dev/shm").unwrap());
    std::os::unix::fs::symlink(elsewhere.path(), folder.path().join("lake")).unwrap();
    crash_in(folder.path(), variables, point, before, after);
}

fn crash_in(
    directory: &Path,
    variables: &[(&str, &str)],
    point: &str,
    before: &[u64],
    after: &[u64],
) {
    let crash_at = format!("{point}:2");
    assert!(train_with(directory, Some(&crash_at), variables), "{point} was never passed");

    let transfer = tiers(directory);
    assert_committed(&transfer, before, point);
    let checkpointer = open(&transfer, &keep_all()).unwrap();
    assert_committed(&transfer, after, point);
    let restored = checkpointer.restore(Which::Newest, Part::All).unwrap().unwrap();
    assert_is(&restored, *after.last().unwrap());
    // What was captured whole need not come from the disk.
    let tier = if after.contains(&20) { Tier::Memory } else { Tier::Lake };
    assert_eq!(restored.tier(), tier, "{point}");
    drop((checkpointer, transfer));

    assert!(!train(directory, None));
    let transfer = tiers(directory);
    assert_committed(&transfer, &STEPS, point);
    assert!(transfer.local().staged().unwrap().is_empty(), "{point}");
    assert!(!transfer.local().memory_folder().exists(), "{point}");
    // A commit, a record and a tensor file for each step, and nothing else.
    assert_eq!(objects(&transfer).len(), 3 * STEPS.len(), "{point}: {:?}", objects(&transfer));
}

fn assert_committed(transfer: &Transfer, steps: &[u64], point: &str) {
    let found = list(transfer.lake(), &run()).unwrap();
    let found: Vec<_> = found.into_iter().map(|summary| summary.step).collect();
    assert_eq!(found, steps, "{point}");
    for &step in steps {
        verify(transfer.lake(), &run(), Some(step)).unwrap();
        let restored = restore(transfer, &run(), Which::Step(step), Part::All).unwrap().unwrap();
        assert_is(&restored, step);
    }
}

#[test]
fn killed_while_capturing() {
    crash_at("checkpoint.capture", &[10], &[10]);
}

#[test]
fn killed_when_captured() {
    crash_at("checkpoint.captured", &[10], &[10, 20]);
}

/// The room that is left is taken by a save that is committed, and kept to be restored from.
#[test]
fn killed_when_captured_with_room_for_one() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "trainer"]).env(DIRECTORY, folder.path()).env(ROOM_FOR_ONE, "1");
    let output = command.env("FOREBAY_CRASH_AT", "checkpoint.captured:2").output().unwrap();
    assert_eq!(output.status.signal(), Some(9), "{}", String::from_utf8_lossy(&output.stdout));
    let transfer = tiers_with(folder.path(), ONE_BYTES);
    assert_eq!(transfer.local().staged().unwrap().len(), 2, "that of step 10, and its seal");
    assert_committed(&transfer, &[10], "captured");
    let checkpointer = open(&transfer, &keep_all()).unwrap();
    assert_committed(&transfer, &[10, 20], "captured");
    drop(checkpointer);
    transfer.local().clear().unwrap();
}

#[test]
fn killed_while_staging() {
    crash_at("checkpoint.stage", &[10], &[10, 20]);
}

/// Half of the file is on the disk, and nobody knows that the state is whole.
#[test]
fn killed_while_staging_what_nobody_has_vouched_for() {
    crash_with(&[(OVERLAPPED, "silent")], "checkpoint.stage", &[10], &[10]);
}

/// The file is written meanwhile, as far as it comes.
#[test]
fn killed_when_captured_while_staging() {
    crash_with(&[(OVERLAPPED, "vouched")], "checkpoint.captured", &[10], &[10, 20]);
}

#[test]
fn killed_before_sealing_what_was_staged_while_it_was_copied() {
    crash_with(&[(OVERLAPPED, "vouched")], "checkpoint.unsealed", &[10], &[10, 20]);
    crash_with(&[(OVERLAPPED, "vouched")], "checkpoint.sealed", &[10], &[10, 20]);
}

#[test]
fn killed_before_sealing() {
    crash_at("checkpoint.unsealed", &[10], &[10, 20]);
}

#[test]
fn killed_when_sealed() {
    crash_at("checkpoint.sealed", &[10], &[10, 20]);
}

#[test]
fn killed_while_draining() {
    crash_at("checkpoint.drain", &[10], &[10, 20]);
}

#[test]
fn killed_before_the_commit() {
    crash_at("checkpoint.before_commit", &[10], &[10, 20]);
}

#[test]
fn killed_after_the_commit() {
    crash_at("checkpoint.after_commit", &[10, 20], &[10, 20]);
}

/// A process that reads and never saves finds it too, and leaves it there; the run's next start takes it
/// over. Another run, which needs memory of its own, lets it go.
#[test]
fn what_is_left_in_memory_is_read_by_all_and_let_go_by_others() {
    let folder = tempfile::tempdir().unwrap();
    assert!(train(folder.path(), Some("checkpoint.after_commit:2")));
    let transfer = tiers(folder.path());
    let left = || transfer.local().staged_memory().unwrap().len();
    for _ in 0..2 {
        let restored = restore(&transfer, &run(), Which::Newest, Part::All).unwrap().unwrap();
        assert_is(&restored, 20);
        assert_eq!((restored.tier(), left()), (Tier::Memory, 1));
    }
    let (night, settings) = (Name::new("night").unwrap(), keep_all());
    let runtime = transfer.runtime();
    let other = Checkpointer::open(&transfer, &night, Rank::ALONE, &settings, runtime).unwrap();
    assert_eq!(left(), 0);
    drop(other);
    assert!(!transfer.local().memory_folder().exists());
}

#[test]
fn what_is_left_in_memory_is_within_what_a_copy_may_take() {
    let folder = tempfile::tempdir().unwrap();
    assert!(train(folder.path(), Some("checkpoint.after_commit:2")));
    let transfer = tiers(folder.path());
    let settings = CheckpointSettings { arena_bytes_max: Some(0), ..keep_all() };
    let checkpointer = open(&transfer, &settings).unwrap();
    assert!(transfer.local().staged_memory().unwrap().is_empty());
    let restored = checkpointer.restore(Which::Newest, Part::All).unwrap().unwrap();
    assert_is(&restored, 20);
    assert_eq!(restored.tier(), Tier::Local);
}
