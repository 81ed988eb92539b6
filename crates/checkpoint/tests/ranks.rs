//! Several ranks: complete or not there at all, and never of two attempts.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod support;

use std::borrow::Cow;

use forebay_checkpoint::{
    CheckpointSettings, Checkpointer, Error, Part, Recovery, StateTensor, Which, list, restore,
    verify,
};
use forebay_testing::{Fault, Request, TempTiers};
use forebay_types::{ErrorKind, Position, Rank};

use support::{keep_all, metadata, objects, run, state, told};

const WORLD: u32 = 3;

fn open(tiers: &TempTiers, rank: u32, launch: &str, wait_seconds: u64) -> Checkpointer {
    let rank = Rank::new(rank, WORLD).unwrap();
    let settings = CheckpointSettings { commit_wait_seconds: wait_seconds, ..keep_all() };
    let transfer = tiers.transfer();
    let runtime = &tiers.runtime;
    Checkpointer::open_launch(&transfer, &run(), rank, launch, &settings, runtime).unwrap()
}

/// The part of `rank` in the state that `seed` decides.
fn part(rank: u32, seed: u64) -> Vec<StateTensor<'static>> {
    let mut state = state(seed + 1000 * u64::from(rank));
    state.iter_mut().for_each(|tensor| tensor.name = Cow::Owned(format!("{}.{rank}", tensor.name)));
    state
}

fn save(checkpointer: &mut Checkpointer, rank: u32, step: u64, seed: u64) -> Result<(), Error> {
    let position = Position { step };
    checkpointer.save(step, position, &part(rank, seed), &metadata(seed))?;
    checkpointer.wait().map(drop)
}

fn steps(tiers: &TempTiers) -> Vec<u64> {
    list(&tiers.lake, &run()).unwrap().into_iter().map(|summary| summary.step).collect()
}

fn assert_whole(tiers: &TempTiers, step: u64, seed: u64) {
    verify(&tiers.lake, &run(), Some(step)).unwrap();
    let restored = restore(&tiers.transfer(), &run(), Which::Step(step), Part::All);
    let restored = restored.unwrap().unwrap();
    assert_eq!(restored.commit().world_size(), WORLD);
    let whole: Vec<_> = (0..WORLD).flat_map(|rank| part(rank, seed)).collect();
    support::assert_tensors(&restored, &whole);
}

#[test]
fn ranks_that_save_at_once_make_one_checkpoint() {
    let tiers = TempTiers::new(64 << 20);
    let work = |rank: usize| {
        let rank = u32::try_from(rank).unwrap();
        let mut checkpointer = open(&tiers, rank, "one", 60);
        for step in 1..=4 {
            save(&mut checkpointer, rank, step, step)?;
        }
        Ok::<_, Error>(())
    };
    tiers.runtime.workers("rank", WORLD as usize, work).unwrap();
    assert_eq!(steps(&tiers), [1, 2, 3, 4]);
    (1..=4).for_each(|step| assert_whole(&tiers, step, step));
    assert_eq!(objects(&tiers.transfer()).len(), 4 * (1 + 2 * WORLD as usize));
    assert!(tiers.local.staged().unwrap().is_empty());
}

#[test]
fn without_its_last_rank_a_step_does_not_exist() {
    let tiers = TempTiers::new(64 << 20);
    let mut ranks: Vec<_> = (0..WORLD).map(|rank| open(&tiers, rank, "one", 0)).collect();
    for rank in [2, 0] {
        let error = save(&mut ranks[rank as usize], rank, 1, 1).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(told(&error).contains("rank(s)") && told(&error).contains('1'), "{}", told(&error));
    }
    assert!(steps(&tiers).is_empty());
    assert!(restore(&tiers.transfer(), &run(), Which::Newest, Part::All).unwrap().is_none());
    // It comes late, and completes the step alone.
    save(&mut ranks[1], 1, 1, 1).unwrap();
    assert_eq!(steps(&tiers), [1]);
    assert_whole(&tiers, 1, 1);
}

#[test]
fn ranks_of_two_launches_are_never_committed_together() {
    let tiers = TempTiers::new(64 << 20);
    // The first launch dies before its rank 2 has saved.
    for rank in [0, 1] {
        save(&mut open(&tiers, rank, "first", 0), rank, 1, 7).unwrap_err();
    }
    // The second saves another state, and its rank 2 is the first to do so.
    for rank in [2, 1] {
        save(&mut open(&tiers, rank, "second", 0), rank, 1, 8).unwrap_err();
        assert!(steps(&tiers).is_empty());
    }
    save(&mut open(&tiers, 0, "second", 0), 0, 1, 8).unwrap();
    assert_whole(&tiers, 1, 8);
    // What the first left behind is gone.
    assert_eq!(objects(&tiers.transfer()).len(), 1 + 2 * WORLD as usize);
    // A process of the first that is still alive finds itself overtaken, and spoils nothing.
    let error = save(&mut open(&tiers, 2, "first", 0), 2, 1, 7).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert_whole(&tiers, 1, 8);
    assert_eq!(objects(&tiers.transfer()).len(), 1 + 2 * WORLD as usize);
}

#[test]
fn two_tries_of_one_launch_are_never_committed_together() {
    let tiers = TempTiers::new(64 << 20);
    let mut ranks: Vec<_> = (0..WORLD).map(|rank| open(&tiers, rank, "one", 0)).collect();
    for rank in [0, 1] {
        save(&mut ranks[rank as usize], rank, 1, 7).unwrap_err();
    }
    // All were taken back and try step 1 again; rank 2 had failed the first time.
    let broken = [StateTensor { shape: vec![1], ..part(2, 7).remove(0) }];
    ranks[2].save(1, Position { step: 1 }, &broken, &metadata(7)).unwrap_err();
    for rank in [2, 1] {
        save(&mut ranks[rank as usize], rank, 1, 8).unwrap_err();
        assert!(steps(&tiers).is_empty());
    }
    save(&mut ranks[0], 0, 1, 8).unwrap();
    assert_whole(&tiers, 1, 8);
}

#[test]
fn ranks_that_stand_at_different_places_are_refused() {
    let tiers = TempTiers::new(64 << 20);
    let mut ranks: Vec<_> = (0..WORLD).map(|rank| open(&tiers, rank, "one", 0)).collect();
    for rank in [0, 1] {
        save(&mut ranks[rank as usize], rank, 1, 1).unwrap_err();
    }
    ranks[2].save(1, Position { step: 2 }, &part(2, 1), &metadata(1)).unwrap();
    let error = ranks[2].wait().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(told(&error).contains("another state"), "{}", told(&error));
    assert!(steps(&tiers).is_empty());
}

#[test]
fn what_all_ranks_sealed_is_committed_by_whoever_recovers_last() {
    let tiers = TempTiers::new(64 << 20);
    let fault = Fault::Fails(std::io::ErrorKind::PermissionDenied);
    tiers.store.inject(Request::Write, "", 99, fault);
    for rank in 0..WORLD {
        save(&mut open(&tiers, rank, "one", 0), rank, 1, 1).unwrap_err();
    }
    tiers.store.behave();
    for (rank, outcome) in [
        (1, Recovery::AwaitsRanks(vec![0, 2])),
        (0, Recovery::AwaitsRanks(vec![2])),
        (2, Recovery::Committed),
    ] {
        let checkpointer = open(&tiers, rank, "two", 0);
        assert_eq!(checkpointer.recovered()[0].outcome, outcome);
    }
    assert_whole(&tiers, 1, 1);
    assert!(tiers.local.staged().unwrap().is_empty());
}

#[test]
fn a_smaller_world_takes_care_of_what_lost_ranks_left() {
    let tiers = TempTiers::new(64 << 20);
    let fault = Fault::Fails(std::io::ErrorKind::PermissionDenied);
    tiers.store.inject(Request::Write, "", 99, fault);
    for rank in 0..WORLD {
        save(&mut open(&tiers, rank, "one", 0), rank, 1, 1).unwrap_err();
    }
    tiers.store.behave();
    let alone = support::open(&tiers.transfer(), &keep_all()).unwrap();
    assert_eq!(alone.recovered().len(), WORLD as usize);
    assert_whole(&tiers, 1, 1);
}

/// Killed jobs leave parts of steps that are never completed: a sweep lists them, then removes them,
/// and nothing else.
#[test]
fn a_sweep_removes_what_no_commit_names() {
    use std::time::Duration;

    let tiers = TempTiers::new(64 << 20);
    save(&mut open(&tiers, 0, "dead", 0), 0, 1, 9).unwrap_err();
    save(&mut open(&tiers, 0, "dead", 0), 0, 2, 9).unwrap_err();
    let work = |rank: usize| {
        let rank = u32::try_from(rank).unwrap();
        save(&mut open(&tiers, rank, "alive", 60), rank, 3, 4)
    };
    tiers.runtime.workers("rank", WORLD as usize, work).unwrap();
    // A later attempt that is not complete yet may still be.
    save(&mut open(&tiers, 0, "dead", 0), 0, 5, 9).unwrap_err();
    let sweep = |older_than, delete| {
        let swept =
            forebay_checkpoint::sweep(&tiers.lake, &run(), &tiers.runtime, older_than, delete);
        swept.unwrap().iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let before = objects(&tiers.transfer());
    assert_eq!(sweep(Duration::from_secs(3600), true), [""; 0]);
    let found = sweep(Duration::ZERO, false);
    assert_eq!(objects(&tiers.transfer()), before);
    assert_eq!(found.len(), 4, "{found:?}");
    assert!(
        found.iter().all(|key| key.contains("/000000000001/") || key.contains("/000000000002/"))
    );
    assert_eq!(sweep(Duration::ZERO, true), found);
    assert_eq!(objects(&tiers.transfer()).len(), before.len() - 4);
    assert_whole(&tiers, 3, 4);
}
