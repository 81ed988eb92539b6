//! A fork has all that it forked, says where it comes from, and owes the other run nothing.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod support;

use std::{borrow::Cow, io::ErrorKind as Io, os::unix::fs::MetadataExt};

use forebay_checkpoint::{
    CheckpointSettings, Checkpointer, Dtype, Error, Forked, StateTensor, TensorPart, Which, fork,
    forked_from, list, remove, restore, show, sweep, verify,
};
use forebay_lake::Purpose;
use forebay_testing::{Fault, Request, TempTiers};
use forebay_types::{ErrorKind, Name, Position, Rank};
use serde_json::json;

use support::{assert_is, keep_all, metadata, open, run, save, state};

const BUDGET_BYTES: u64 = 64 << 20;

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// A run of three checkpoints.
fn run_of_three() -> TempTiers {
    let tiers = TempTiers::new(BUDGET_BYTES);
    let mut checkpointer = open(&tiers.transfer(), &keep_all()).unwrap();
    for step in [10, 20, 30] {
        save(&mut checkpointer, step).unwrap();
    }
    checkpointer.wait().unwrap();
    tiers
}

fn fork_at(tiers: &TempTiers, step: u64, new_run: &str) -> Result<Forked, Error> {
    fork(&tiers.lake, &tiers.runtime, &run(), Some(step), &name(new_run))
}

fn steps(tiers: &TempTiers, run: &Name) -> Vec<u64> {
    list(&tiers.lake, run).unwrap().into_iter().map(|one| one.step).collect()
}

fn files(tiers: &TempTiers, run: &str, step: u64) -> Vec<std::path::PathBuf> {
    let folder = tiers.lake_path().join(format!("runs/{run}/checkpoints/{step:012}"));
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.extension().is_some_and(|kind| kind == "safetensors")).collect()
}

#[test]
fn a_fork_goes_on_from_the_step_and_outlives_the_run_it_came_from() {
    let tiers = run_of_three();
    let forked = fork_at(&tiers, 20, "b").unwrap();
    assert!(!forked.existed);
    assert_eq!(forked.moved_bytes, 0, "a directory gives the file a second name");
    let inode = |path: &std::path::PathBuf| std::fs::metadata(path).unwrap().ino();
    assert_eq!(inode(&files(&tiers, "day", 20)[0]), inode(&files(&tiers, "b", 20)[0]));

    for step in [10, 20] {
        remove(&tiers.lake, &run(), step).unwrap();
    }
    sweep(&tiers.lake, &run(), &tiers.runtime, std::time::Duration::ZERO, true).unwrap();
    assert_eq!(steps(&tiers, &run()), [30]);
    verify(&tiers.lake, &name("b"), None).unwrap();
    let transfer = tiers.transfer();
    let restored =
        restore(&transfer, &name("b"), Which::Newest, forebay_checkpoint::Part::All).unwrap();
    assert_is(&restored.unwrap(), 20);

    let settings = CheckpointSettings { keep_last: 1, ..keep_all() };
    let mut checkpointer =
        Checkpointer::open(&transfer, &name("b"), Rank::ALONE, &settings, &tiers.runtime).unwrap();
    checkpointer.save(25, Position { step: 25 }, &state(25), &metadata(25)).unwrap();
    checkpointer.wait().unwrap();
    assert_eq!(steps(&tiers, &name("b")), [25], "retention works in a fork as anywhere");
    let origin = forked_from(&tiers.lake, &name("b")).unwrap().unwrap();
    assert_eq!(origin, forked.from, "what came after says it too");
    assert_eq!((origin.run, origin.step), (run(), 20));
    assert_eq!(forked_from(&tiers.lake, &run()).unwrap(), None);
}

#[test]
fn a_fork_that_is_there_is_found_and_another_run_is_left_alone() {
    let tiers = run_of_three();
    fork_at(&tiers, 20, "b").unwrap();
    let mut checkpointer =
        Checkpointer::open(&tiers.transfer(), &name("b"), Rank::ALONE, &keep_all(), &tiers.runtime)
            .unwrap();
    checkpointer.save(25, Position { step: 25 }, &state(25), &metadata(25)).unwrap();
    checkpointer.wait().unwrap();
    remove(&tiers.lake, &name("b"), 20).unwrap();
    assert!(fork_at(&tiers, 20, "b").unwrap().existed, "however far it has gone");
    assert_eq!(steps(&tiers, &name("b")), [25]);
    for (step, new_run) in [(10, "b"), (20, "day")] {
        let error = fork_at(&tiers, step, new_run).unwrap_err();
        assert!(matches!(error, Error::ForkTaken { .. }), "{error}");
        assert_eq!(error.kind(), ErrorKind::Conflict);
    }
    assert_eq!(fork_at(&tiers, 15, "c").unwrap_err().kind(), ErrorKind::NotFound);
    assert!(steps(&tiers, &name("c")).is_empty());
    fork(&tiers.lake, &tiers.runtime, &name("b"), None, &name("d")).unwrap();
    let origin = forked_from(&tiers.lake, &name("d")).unwrap().unwrap();
    assert_eq!((origin.run, origin.step), (name("b"), 25), "a fork of a fork");
}

#[test]
fn a_fork_that_was_cut_off_is_done_by_asking_again() {
    let fails = Fault::Fails(Io::PermissionDenied);
    let cuts =
        [(Request::Copy, "runs/b/"), (Request::Write, "runs/b/"), (Request::Create, "runs/b/")];
    for (request, key) in cuts {
        let tiers = run_of_three();
        tiers.store.inject(request, key, 9, fails);
        fork_at(&tiers, 20, "b").unwrap_err();
        assert!(steps(&tiers, &name("b")).is_empty(), "{request:?}");
        tiers.store.behave();
        assert!(!fork_at(&tiers, 20, "b").unwrap().existed);
        verify(&tiers.lake, &name("b"), None).unwrap();
    }
    let tiers = run_of_three();
    tiers.store.inject(Request::Create, "runs/b/", 1, Fault::ReplyLost(Io::TimedOut));
    assert!(!fork_at(&tiers, 20, "b").unwrap().existed);
}

#[test]
fn where_the_store_cannot_copy_the_bytes_pass_through_here_and_are_verified() {
    let tiers = run_of_three();
    tiers.store.inject(Request::Copy, "", 9, Fault::CannotCopy);
    let forked = fork_at(&tiers, 20, "b").unwrap();
    assert_eq!((forked.moved_bytes, forked.existed), (forked.bytes, false));
    verify(&tiers.lake, &name("b"), None).unwrap();
    tiers.store.inject(Request::Read, "day/checkpoints/000000000030/rank-0", 9, Fault::FlipsBit);
    assert_eq!(fork_at(&tiers, 30, "c").unwrap_err().kind(), ErrorKind::Corrupt);
    assert!(steps(&tiers, &name("c")).is_empty());
}

#[test]
fn every_rank_is_forked_with_its_part() {
    let tiers = TempTiers::new(BUDGET_BYTES);
    let mut ranks: Vec<_> = (0..3)
        .map(|rank| {
            let rank = Rank::new(rank, 3).unwrap();
            let transfer = tiers.transfer();
            Checkpointer::open_launch(&transfer, &run(), rank, "x", &keep_all(), &tiers.runtime)
                .unwrap()
        })
        .collect();
    for (rank, checkpointer) in (0..).zip(&mut ranks) {
        let tensor = StateTensor {
            name: Cow::Borrowed("model.rows"),
            dtype: Dtype::U8,
            shape: vec![2, 4],
            bytes: Cow::Owned(vec![rank as u8; 8]),
            part: Some(TensorPart { whole: vec![6, 4], start: vec![2 * rank, 0] }),
        };
        checkpointer.save(5, Position { step: 5 }, &[tensor], &json!({ "rank": rank })).unwrap();
    }
    for checkpointer in &mut ranks {
        // Only the last to publish sees all complete.
        let _awaited = checkpointer.wait();
    }
    fork_at(&tiers, 5, "b").unwrap();
    let shown = show(&tiers.lake, &name("b"), 5).unwrap();
    assert_eq!(shown.ranks.len(), 3);
    for (rank, record) in shown.ranks.iter().enumerate() {
        assert_eq!(record.metadata, json!({ "rank": rank }));
        assert_eq!(record.forked_from.as_ref().unwrap().run, run());
    }
    let part = forebay_checkpoint::Part::All;
    let restored = restore(&tiers.transfer(), &name("b"), Which::Newest, part).unwrap().unwrap();
    let rows = [[0u8; 8], [1; 8], [2; 8]].concat();
    assert_eq!(restored.tensor("model.rows").unwrap().bytes, rows);
}

#[test]
fn a_fork_of_a_damaged_file_is_found_by_whoever_reads_it() {
    let tiers = run_of_three();
    let key = &files(&tiers, "day", 20)[0];
    let key = key.strip_prefix(tiers.lake_path()).unwrap().to_str().unwrap().to_owned();
    tiers.lake.write(&forebay_testing::key(&key), Purpose::Checkpoint, b"short").unwrap();
    fork_at(&tiers, 20, "b").unwrap();
    assert_eq!(verify(&tiers.lake, &name("b"), None).unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn a_fork_has_the_earlier_files_that_its_step_refers_to() {
    let tiers = TempTiers::new(BUDGET_BYTES);
    let transfer = tiers.transfer();
    let tensor = |number: u8, value: u8| StateTensor {
        name: format!("model.t{number}").into(),
        dtype: Dtype::U8,
        shape: vec![64 << 10],
        bytes: Cow::Owned(vec![value; 64 << 10]),
        part: None,
    };
    let mut checkpointer = open(&transfer, &keep_all()).unwrap();
    for step in [10, 20] {
        let state: Vec<_> = (0..8).map(|number| tensor(number, step * (number / 7))).collect();
        let position = Position { step: step.into() };
        checkpointer.save(step.into(), position, &state, &json!({})).unwrap();
        checkpointer.wait().unwrap();
    }
    drop(checkpointer);
    fork_at(&tiers, 20, "b").unwrap();
    assert_eq!(show(&tiers.lake, &name("b"), 20).unwrap().commit.needs, [10]);
    for one in ["checkpoints/000000000010", "checkpoints/000000000020"] {
        std::fs::remove_dir_all(tiers.lake_path().join("runs/day").join(one)).unwrap();
    }
    sweep(&tiers.lake, &name("b"), &tiers.runtime, std::time::Duration::ZERO, true).unwrap();
    verify(&tiers.lake, &name("b"), Some(20)).unwrap();
    assert_eq!(steps(&tiers, &name("b")), [20]);
}
