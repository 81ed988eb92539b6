//! What did not change is not written again, and never lost while a checkpoint needs it.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod support;

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    io,
    time::Duration,
};

use forebay_checkpoint::{
    CheckpointSettings, Checkpointer, CommittedCheckpoint, Deferred, Dtype, Part, StatePlan,
    StateTensor, Tier, Which, list, remove, restore, show, sweep, verify,
};
use forebay_testing::{Fault, Request, TempTiers};
use forebay_transfer::Transfer;
use forebay_types::{ErrorKind, Position};
use proptest::prelude::*;
use serde_json::Value;

use support::{assert_tensors, keep_all, objects, open, run, told};

const BUDGET_BYTES: u64 = 64 << 20;
const TENSOR_BYTES: usize = 64 << 10;

/// Tensors of 64 KiB, each full of its own value.
fn state(values: &[u8]) -> Vec<StateTensor<'static>> {
    let tensor = |(number, &value): (usize, &u8)| StateTensor {
        name: format!("model.t{number:02}").into(),
        dtype: Dtype::U8,
        shape: vec![TENSOR_BYTES as u64],
        bytes: Cow::Owned(vec![value; TENSOR_BYTES]),
        part: None,
    };
    values.iter().enumerate().map(tensor).collect()
}

/// Saves and waits; returns the bytes that were written.
fn save(checkpointer: &mut Checkpointer, step: u64, values: &[u8]) -> u64 {
    checkpointer.save(step, Position { step }, &state(values), &Value::Null).unwrap();
    let reports = checkpointer.wait().unwrap();
    assert_eq!(reports.len(), 1);
    reports[0].bytes
}

fn assert_step(transfer: &Transfer, step: u64, values: &[u8]) {
    let restored = restore(transfer, &run(), Which::Step(step), Part::All).unwrap().unwrap();
    assert_tensors(&restored, &state(values));
    verify(transfer.lake(), &run(), Some(step)).unwrap();
}

fn keep_last(keep_last: u64) -> CheckpointSettings {
    CheckpointSettings { keep_last, ..keep_all() }
}

#[test]
fn only_what_changed_is_written_and_each_step_is_whole() {
    let tiers = TempTiers::new(BUDGET_BYTES);
    let transfer = tiers.transfer();
    let mut checkpointer = open(&transfer, &keep_all()).unwrap();
    let mut values = [7; 100];
    save(&mut checkpointer, 1, &values);
    values[42] = 8;
    let written = save(&mut checkpointer, 2, &values);
    assert!(written as f64 <= 1.05 * TENSOR_BYTES as f64, "{written}");
    // What just changed is taken to change again, and found to be at rest.
    let again = save(&mut checkpointer, 3, &values);
    assert!(again as f64 <= 1.05 * TENSOR_BYTES as f64, "{again}");
    let unchanged = save(&mut checkpointer, 4, &values);
    assert!(unchanged < 100, "a header without tensors: {unchanged}");
    assert_step(&transfer, 1, &[7; 100]);
    (2..=4).for_each(|step| assert_step(&transfer, step, &values));
    // What lies in earlier files is in memory with the rest.
    let restored = restore(&transfer, &run(), Which::Step(4), Part::All).unwrap().unwrap();
    assert_eq!(restored.tier(), Tier::Memory);
    values[0] = 1;
    save(&mut checkpointer, 5, &values);
    assert_step(&transfer, 5, &values);
    // No chains: each refers to where the tensor lies.
    assert_eq!(show(&tiers.lake, &run(), 5).unwrap().commit.needs, [1, 3]);
}

/// What may be at rest is looked at before anything is written; what changes each time is not waited for.
#[test]
fn what_is_copied_while_the_trainer_goes_on_is_written_again_if_it_changed_alone() {
    let tiers = TempTiers::new(BUDGET_BYTES);
    let transfer = tiers.transfer();
    let mut checkpointer = open(&transfer, &keep_all()).unwrap();
    let plan = StatePlan::new(&state(&[0; 10])).unwrap();
    let mut save = |step: u64, values: &[u8]| {
        let position = Position { step };
        let later = state(values).into_iter().map(|tensor| tensor.bytes).collect();
        let deferred = Deferred { later, filled: 0 };
        let saved = checkpointer
            .save_overlapped(step, position, &plan, &[], deferred, "null".into())
            .unwrap();
        let copying = saved.1.unwrap();
        while !copying.wait(Duration::from_millis(10)) {}
        copying.confirm();
        let written = checkpointer.wait().unwrap()[0].bytes as f64;
        assert_step(&transfer, step, values);
        (written / TENSOR_BYTES as f64).round() as u64
    };
    assert_eq!(save(1, &[7; 10]), 10);
    let mut values = [7; 10];
    for step in 2..=4 {
        values[3] = step as u8;
        assert_eq!(save(step, &values), 1);
    }
    for step in 5..=8 {
        assert_eq!(save(step, &[step as u8; 10]), 10);
    }
    assert_eq!(save(9, &[8; 10]), 10, "at rest, which is noticed a save later");
    assert_eq!(save(10, &[8; 10]), 0);
}

#[test]
fn retention_removal_and_sweep_keep_what_is_referred_to_and_no_longer() {
    let tiers = TempTiers::new(BUDGET_BYTES);
    let transfer = tiers.transfer();
    let mut checkpointer = open(&transfer, &keep_last(1)).unwrap();
    save(&mut checkpointer, 1, &[7; 10]);
    for step in 2..=6 {
        let mut values = [7; 10];
        values[0] = step as u8;
        save(&mut checkpointer, step, &values);
        let steps: Vec<_> = list(&tiers.lake, &run()).unwrap().iter().map(|one| one.step).collect();
        assert_eq!(steps, [step]);
        sweep(&tiers.lake, &run(), transfer.runtime(), Duration::ZERO, true).unwrap();
        assert_step(&transfer, step, &values);
    }
    // Of step 1 its tensor file is left; of the others nothing.
    let left: Vec<_> = objects(&transfer);
    assert_eq!(left.len(), 4, "{left:?}");
    assert!(left[0].contains("000000000001/rank-0-") && left[0].ends_with(".safetensors"));
    // All else anew: nothing refers to it any more.
    let other = [9; 10];
    save(&mut checkpointer, 7, &other);
    sweep(&tiers.lake, &run(), transfer.runtime(), Duration::ZERO, true).unwrap();
    assert_eq!(objects(&transfer).len(), 3);
    assert_step(&transfer, 7, &other);
}

#[test]
fn a_checkpoint_that_others_need_can_be_removed_by_hand() {
    let tiers = TempTiers::new(BUDGET_BYTES);
    let transfer = tiers.transfer();
    let mut checkpointer = open(&transfer, &keep_all()).unwrap();
    save(&mut checkpointer, 1, &[7; 10]);
    save(&mut checkpointer, 2, &[7, 7, 7, 7, 7, 7, 7, 7, 7, 8]);
    remove(&tiers.lake, &run(), 1).unwrap();
    assert!(restore(&transfer, &run(), Which::Step(1), Part::All).is_err());
    assert_step(&transfer, 2, &[7, 7, 7, 7, 7, 7, 7, 7, 7, 8]);
}

#[test]
fn a_file_of_which_little_is_of_use_is_let_go() {
    let tiers = TempTiers::new(BUDGET_BYTES);
    let transfer = tiers.transfer();
    let mut checkpointer = open(&transfer, &keep_all()).unwrap();
    save(&mut checkpointer, 1, &[7; 10]);
    let mut values = [8; 10];
    values[..4].fill(7);
    let written = save(&mut checkpointer, 2, &values);
    assert!(written >= 10 * TENSOR_BYTES as u64);
    assert!(show(&tiers.lake, &run(), 2).unwrap().commit.needs.is_empty());
}

#[test]
fn what_comes_to_rest_is_noticed_one_save_later() {
    let tiers = TempTiers::new(BUDGET_BYTES);
    let transfer = tiers.transfer();
    let mut checkpointer = open(&transfer, &keep_all()).unwrap();
    let written: Vec<bool> = [1, 2, 3, 3, 3]
        .iter()
        .zip(1..)
        .map(|(&value, step)| save(&mut checkpointer, step, &[value; 4]) > TENSOR_BYTES as u64)
        .collect();
    assert_eq!(written, [true, true, true, true, false]);
}

#[test]
fn a_run_that_goes_on_refers_to_what_it_restored_and_a_new_one_does_not() {
    let tiers = TempTiers::new(BUDGET_BYTES);
    let transfer = tiers.transfer();
    save(&mut open(&transfer, &keep_all()).unwrap(), 1, &[7; 10]);
    let mut checkpointer = open(&transfer, &keep_all()).unwrap();
    let opened = CommittedCheckpoint::open(&transfer, &run(), Which::Newest).unwrap().unwrap();
    checkpointer.go_on_from(&opened);
    assert!(save(&mut checkpointer, 2, &[7; 10]) < 100);
    assert_eq!(list(&tiers.lake, &run()).unwrap()[1].parent, Some(1));
    let mut another = open(&transfer, &keep_all()).unwrap();
    assert!(save(&mut another, 3, &[7; 10]) > 10 * TENSOR_BYTES as u64);
    let settings = CheckpointSettings { incremental: false, ..keep_all() };
    let mut whole = open(&transfer, &settings).unwrap();
    whole.restore(Which::Newest, Part::All).unwrap();
    assert!(save(&mut whole, 4, &[7; 10]) > 10 * TENSOR_BYTES as u64);
}

#[test]
fn saves_that_could_not_be_drained_wait_for_those_they_refer_to() {
    let tiers = TempTiers::new(BUDGET_BYTES);
    let transfer = tiers.transfer();
    let mut checkpointer = open(&transfer, &keep_all()).unwrap();
    let away = Fault::Fails(io::ErrorKind::PermissionDenied);
    tiers.store.inject(Request::Write, "000000000001", 3, away);
    for step in 1..=3 {
        // What the background says of the first may be told here; the state is given again then.
        while checkpointer.save(step, Position { step }, &state(&[7; 10]), &Value::Null).is_err() {}
    }
    while checkpointer.wait().is_err() {}
    let summaries = list(&tiers.lake, &run()).unwrap();
    assert_eq!(summaries.iter().map(|one| one.step).collect::<Vec<_>>(), [1, 2, 3]);
    assert!(summaries[2].bytes < 100, "it refers to the first");
    (1..=3).for_each(|step| assert_step(&transfer, step, &[7; 10]));
}

#[test]
fn a_save_whose_base_is_gone_is_refused_by_name_and_the_next_is_whole() {
    let tiers = TempTiers::new(BUDGET_BYTES);
    let transfer = tiers.transfer();
    let mut checkpointer = open(&transfer, &keep_all()).unwrap();
    save(&mut checkpointer, 1, &[7; 10]);
    let file = objects(&transfer).into_iter().find(|key| key.ends_with(".safetensors")).unwrap();
    std::fs::remove_file(tiers.lake_path().join(file)).unwrap();
    checkpointer.save(2, Position { step: 2 }, &state(&[7; 10]), &Value::Null).unwrap();
    let error = checkpointer.wait().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(told(&error).contains("step 1 is not in the lake"), "{}", told(&error));
    assert!(save(&mut checkpointer, 3, &[7; 10]) > 10 * TENSOR_BYTES as u64);
    assert_step(&transfer, 3, &[7; 10]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever changes, is kept, removed or begun anew: every checkpoint that exists is whole.
    #[test]
    fn every_listed_checkpoint_is_whole(
        saves in prop::collection::vec(
            (prop::collection::vec(0..3u8, 6), 0..8u8, any::<prop::sample::Index>()), 1..12,
        ),
        last in 0u64..4,
    ) {
        let tiers = TempTiers::new(BUDGET_BYTES);
        let transfer = tiers.transfer();
        let mut checkpointer = open(&transfer, &keep_last(last)).unwrap();
        let mut saved = BTreeMap::new();
        for (step, (values, act, index)) in (1..).zip(saves) {
            save(&mut checkpointer, step, &values);
            saved.insert(step, values);
            let steps: Vec<_> =
                list(&tiers.lake, &run()).unwrap().iter().map(|one| one.step).collect();
            match act {
                0 => {
                    checkpointer = open(&transfer, &keep_last(last)).unwrap();
                    checkpointer.restore(Which::Newest, Part::Weights).unwrap();
                }
                1 => checkpointer = open(&transfer, &keep_last(last)).unwrap(),
                2 if steps.len() > 1 => {
                    remove(&tiers.lake, &run(), steps[index.index(steps.len() - 1)]).unwrap();
                }
                3 => drop(sweep(&tiers.lake, &run(), transfer.runtime(), Duration::ZERO, true).unwrap()),
                _ => {}
            }
            for one in list(&tiers.lake, &run()).unwrap() {
                assert_step(&transfer, one.step, &saved[&one.step]);
            }
        }
        sweep(&tiers.lake, &run(), transfer.runtime(), Duration::ZERO, true).unwrap();
        // Nothing is left that nobody needs: two files a step that exists and its commit, and
        // the tensor files of those that are needed.
        let listed = list(&tiers.lake, &run()).unwrap();
        let mut expected = listed.len() * 3;
        let exists = |step: &u64| listed.iter().any(|one| one.step == *step);
        let needed: BTreeSet<u64> = listed
            .iter()
            .flat_map(|one| show(&tiers.lake, &run(), one.step).unwrap().commit.needs)
            .collect();
        expected += needed.iter().filter(|step| !exists(step)).count();
        prop_assert_eq!(objects(&transfer).len(), expected);
    }
}
