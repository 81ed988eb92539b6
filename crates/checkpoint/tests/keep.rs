//! Which checkpoints stay: as a run goes on, and on demand.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod support;

use forebay_checkpoint::{
    CheckpointSettings, Checkpointer, KeepBest, KeepPolicy, Kept, Retention, list,
};
use forebay_testing::{Fault, Request, TempTiers};
use forebay_types::Position;
use serde_json::json;

use support::{keep_all, open, run, state};

fn save(checkpointer: &mut Checkpointer, step: u64, loss: serde_json::Value) {
    let metadata = json!({ "metrics": { "loss": loss } });
    checkpointer.save(step, Position { step }, &state(step), &metadata).unwrap();
    checkpointer.wait().unwrap();
}

fn steps(tiers: &TempTiers) -> Vec<u64> {
    list(&tiers.lake, &run()).unwrap().into_iter().map(|one| one.step).collect()
}

fn best(count: u64) -> Option<KeepBest> {
    Some(KeepBest { count, ..("loss:min".parse().unwrap()) })
}

#[test]
fn the_best_so_far_stays_while_the_run_goes_on() {
    let tiers = TempTiers::new(64 << 20);
    let settings = CheckpointSettings { keep_last: 1, keep_best: best(1), ..keep_all() };
    let mut checkpointer = open(&tiers.transfer(), &settings).unwrap();
    let after = |checkpointer: &mut Checkpointer, step, loss| {
        save(checkpointer, step, loss);
        steps(&tiers)
    };
    assert_eq!(after(&mut checkpointer, 1, json!(0.9)), [1]);
    assert_eq!(after(&mut checkpointer, 2, json!(0.4)), [2]);
    assert_eq!(after(&mut checkpointer, 3, json!(0.7)), [2, 3]);
    assert_eq!(after(&mut checkpointer, 4, json!("nan")), [2, 4]);
    assert_eq!(after(&mut checkpointer, 5, json!(0.1)), [5]);
}

#[test]
fn a_plan_says_what_becomes_of_each_and_removes_exactly_that() {
    let tiers = TempTiers::new(64 << 20);
    let mut checkpointer = open(&tiers.transfer(), &keep_all()).unwrap();
    for (step, loss) in [(10, 0.5), (15, 0.1), (20, 0.3), (25, 0.2), (30, 0.4)] {
        save(&mut checkpointer, step, json!(loss));
    }
    let policy = KeepPolicy { keep_last: 1, keep_every: 10, keep_best: best(2) };
    let plan = Retention::plan(&tiers.lake, &run(), &policy).unwrap();
    let found: Vec<_> =
        plan.steps.iter().map(|one| (one.step, one.value.unwrap(), &one.kept[..])).collect();
    let expected: [(u64, f64, &[Kept]); 5] = [
        (10, 0.5, &[Kept::Every]),
        (15, 0.1, &[Kept::Best]),
        (20, 0.3, &[Kept::Every]),
        (25, 0.2, &[Kept::Best]),
        (30, 0.4, &[Kept::Last, Kept::Every]),
    ];
    assert_eq!(found, expected);
    assert_eq!(plan.surplus().count(), 0);

    let policy = KeepPolicy { keep_last: 1, keep_every: 0, keep_best: best(1) };
    let plan = Retention::plan(&tiers.lake, &run(), &policy).unwrap();
    assert_eq!(plan.surplus().collect::<Vec<_>>(), [10, 20, 25]);
    assert_eq!(steps(&tiers), [10, 15, 20, 25, 30], "a plan removes nothing");
    // What is committed meanwhile is none of the plan's business.
    save(&mut checkpointer, 35, json!(9.0));
    plan.remove(&tiers.lake).unwrap();
    assert_eq!(steps(&tiers), [15, 30, 35]);
    plan.remove(&tiers.lake).unwrap();
}

#[test]
fn a_lake_that_does_not_answer_removes_nothing() {
    let tiers = TempTiers::new(64 << 20);
    let mut checkpointer = open(&tiers.transfer(), &keep_all()).unwrap();
    for step in [1, 2, 3] {
        save(&mut checkpointer, step, json!(step));
    }
    tiers.store.inject(
        Request::Read,
        "commit.json",
        99,
        Fault::Fails(std::io::ErrorKind::TimedOut),
    );
    tiers.store.inject(
        Request::Size,
        "commit.json",
        99,
        Fault::Fails(std::io::ErrorKind::TimedOut),
    );
    let policy = KeepPolicy { keep_last: 1, keep_every: 0, keep_best: best(1) };
    assert!(Retention::plan(&tiers.lake, &run(), &policy).is_err());
    tiers.store.behave();
    assert_eq!(steps(&tiers), [1, 2, 3]);
}
