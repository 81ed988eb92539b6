//! Several ranks: complete or not there at all, and never of two attempts.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod support;

use std::{borrow::Cow, fs, sync::Mutex, time::Duration};

use forebay_checkpoint::{
    CheckpointSettings, Checkpointer, Deferred, Error, Part, Recovery, StatePlan, StateTensor,
    Which, list, restore, sweep, verify,
};
use forebay_local::LocalTier;
use forebay_testing::{Fault, Request, TempTiers};
use forebay_transfer::Transfer;
use forebay_types::{ErrorKind, Position, Rank};

use support::{keep_all, metadata, objects, run, state, told, until};

const WORLD: u32 = 3;

fn open(tiers: &TempTiers, rank: u32, launch: &str, wait_seconds: u64) -> Checkpointer {
    open_on(&tiers.transfer(), rank, launch, wait_seconds)
}

fn open_on(transfer: &Transfer, rank: u32, launch: &str, wait_seconds: u64) -> Checkpointer {
    let rank = Rank::new(rank, WORLD).unwrap();
    let settings = CheckpointSettings { commit_wait_seconds: wait_seconds, ..keep_all() };
    let runtime = transfer.runtime();
    Checkpointer::open_launch(transfer, &run(), rank, launch, &settings, runtime).unwrap()
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
        let swept = sweep(&tiers.lake, &run(), &tiers.runtime, older_than, delete);
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

fn failures(tiers: &TempTiers) -> usize {
    objects(&tiers.transfer()).iter().filter(|key| key.contains("/failed-")).count()
}

/// Has ranks 0 and 2 save step 1 and wait for rank 1, which does `fail` meanwhile and not what they wait
/// for; returns what they are told.
fn told_of(tiers: &TempTiers, launch: &str, fail: impl Fn() + Sync) -> Vec<String> {
    let said = Mutex::new(Vec::new());
    let is_record = |key: &String| key.contains("/rank-") && key.ends_with(".json");
    let records = || objects(&tiers.transfer()).iter().filter(|key| is_record(key)).count();
    let before = records();
    let work = |rank: usize| {
        let rank = u32::try_from(rank).unwrap();
        if rank == 1 {
            // The others have brought their parts to the lake, and look for ours.
            until(&tiers.runtime, || records() == before + 2);
            fail();
            return Ok::<_, Error>(());
        }
        let error = save(&mut open(tiers, rank, launch, 60), rank, 1, 1).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(matches!(error, Error::RankFailed { rank: 1, step: 1, .. }), "{}", told(&error));
        said.lock().unwrap().push(told(&error));
        Ok(())
    };
    tiers.runtime.workers("rank", WORLD as usize, work).unwrap();
    assert!(steps(tiers).is_empty());
    said.into_inner().unwrap()
}

#[test]
fn a_rank_whose_state_is_refused_or_changes_tells_those_that_wait() {
    let tiers = TempTiers::new(64 << 20);
    let position = Position { step: 1 };
    let refused = told_of(&tiers, "refused", || {
        let broken = [StateTensor { shape: vec![1], ..part(1, 1).remove(0) }];
        let mut checkpointer = open(&tiers, 1, "refused", 60);
        checkpointer.save(1, position, &broken, &metadata(1)).unwrap_err();
    });
    let sure = |said: &[String], what: &str| {
        assert_eq!(said.len(), 2);
        assert!(said.iter().all(|one| one.contains("rank 1 gave its part up")), "{said:?}");
        assert!(said.iter().all(|one| one.contains(what)), "{said:?}");
    };
    sure(&refused, "it could not be captured: the state was refused");
    // What it was about is for the rank's own error to say.
    assert!(refused.iter().all(|one| !one.contains("embedding")), "{refused:?}");
    for is_silent in [false, true] {
        let launch = format!("changed {is_silent}");
        let changed = told_of(&tiers, &launch, || {
            let mut checkpointer = open(&tiers, 1, &launch, 60);
            let (state, said) = (part(1, 1), metadata(1).to_string());
            let plan = StatePlan::new(&state).unwrap();
            let later = state.iter().map(|tensor| tensor.bytes.clone()).collect();
            let deferred = Deferred { later, filled: 0 };
            let saved = checkpointer.save_overlapped(1, position, &plan, &[], deferred, said);
            let copying = saved.unwrap().1.unwrap();
            if is_silent {
                drop(copying);
            } else {
                copying.reject();
            }
            assert_eq!(checkpointer.wait().is_err(), is_silent);
        });
        sure(&changed, "its state changed while it was copied");
    }
}

#[test]
fn a_rank_that_has_no_room_tells_those_that_wait_and_the_next_start_of_it_commits() {
    let tiers = TempTiers::new(64 << 20);
    let small = tiers.path().join("small");
    let told = told_of(&tiers, "one", || {
        let local = LocalTier::open(&small, 6000, &tiers.runtime).unwrap();
        let transfer = Transfer::new(&tiers.lake, &local, &tiers.runtime);
        let error = save(&mut open_on(&transfer, 1, "one", 60), 1, 1, 1).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Full);
    });
    assert!(told.iter().all(|one| one.contains("it could not be staged: there was no room")));
    assert_eq!(failures(&tiers), 1);
    // The node has kept what it captured: where there is room, its part comes after all.
    let local = LocalTier::open(&small, 64 << 20, &tiers.runtime).unwrap();
    let transfer = Transfer::new(&tiers.lake, &local, &tiers.runtime);
    let checkpointer = open_on(&transfer, 1, "two", 0);
    assert_eq!(checkpointer.recovered()[0].outcome, Recovery::Committed);
    assert_whole(&tiers, 1, 1);
    local.clear().unwrap_err();
    drop(checkpointer);
    // Swept as what the commit does not name.
    let swept = sweep(&tiers.lake, &run(), &tiers.runtime, Duration::ZERO, true).unwrap();
    assert_eq!((swept.len(), failures(&tiers)), (1, 0));
    assert_whole(&tiers, 1, 1);
}

#[test]
fn a_rank_tells_when_trying_again_cannot_help_and_not_before() {
    let tiers = TempTiers::new(64 << 20);
    let fault = Fault::Fails(std::io::ErrorKind::PermissionDenied);
    tiers.store.inject(Request::Write, "rank-1-", 99, fault);
    let told = told_of(&tiers, "one", || {
        let mut checkpointer = open(&tiers, 1, "one", 60);
        let error = save(&mut checkpointer, 1, 1, 1).unwrap_err();
        assert_eq!((error.kind(), failures(&tiers)), (ErrorKind::Unavailable, 0));
        let staged = tiers.local.staged().unwrap();
        let is_file = |name: &str| name.ends_with("rank-1.safetensors");
        let file = staged.iter().find(|one| is_file(one.name.as_str())).unwrap();
        let path = tiers.local_path().join("staging").join(file.name.as_str());
        let mut bytes = fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&path, bytes).unwrap();
        tiers.store.behave();
        assert_eq!(checkpointer.wait().unwrap_err().kind(), ErrorKind::Corrupt);
    });
    assert!(told.iter().all(|one| one.contains("what was staged is damaged")), "{told:?}");
}

/// Of an attempt that was given up nothing is in the way of the next, and nothing stays.
#[test]
fn a_failure_counts_for_its_attempt_alone_and_goes_with_what_it_left() {
    let tiers = TempTiers::new(64 << 20);
    let refuse = |checkpointer: &mut Checkpointer, step| {
        let broken = [StateTensor { shape: vec![1], ..part(1, 1).remove(0) }];
        checkpointer.save(step, Position { step }, &broken, &metadata(1)).unwrap_err();
    };
    let work = |rank: usize| {
        let rank = u32::try_from(rank).unwrap();
        let mut checkpointer = open(&tiers, rank, "one", 60);
        for step in [1, 2] {
            if rank == 1 {
                refuse(&mut checkpointer, step);
            } else {
                save(&mut checkpointer, rank, step, step).unwrap_err();
            }
        }
        // All were taken back, and step 1 is never tried again.
        save(&mut checkpointer, rank, 2, 8)
    };
    tiers.runtime.workers("rank", WORLD as usize, work).unwrap();
    assert_eq!(steps(&tiers), [2]);
    assert_whole(&tiers, 2, 8);
    // With its commit went what its first attempt had left.
    let left = objects(&tiers.transfer());
    assert_eq!(left.iter().filter(|key| key.contains("/000000000002/")).count(), 7);
    assert_eq!((left.len(), failures(&tiers)), (7 + 5, 1));
    let swept = sweep(&tiers.lake, &run(), &tiers.runtime, Duration::ZERO, true).unwrap();
    assert_eq!((swept.len(), failures(&tiers)), (5, 0));
    assert_whole(&tiers, 2, 8);
}

#[test]
fn a_lake_that_cannot_be_told_leaves_the_others_waiting_as_long_as_they_would() {
    let tiers = TempTiers::new(64 << 20);
    let fault = Fault::Fails(std::io::ErrorKind::PermissionDenied);
    tiers.store.inject(Request::Write, "/failed-", 99, fault);
    let broken = [StateTensor { shape: vec![1], ..part(1, 1).remove(0) }];
    let error =
        open(&tiers, 1, "one", 0).save(1, Position { step: 1 }, &broken, &metadata(1)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let error = save(&mut open(&tiers, 0, "one", 0), 0, 1, 1).unwrap_err();
    assert!(matches!(error, Error::RanksMissing { .. }), "{}", told(&error));
}
