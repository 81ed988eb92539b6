//! Two launches that write one run: the later one goes on, the earlier one is told, nothing mixes.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod support;

use std::{fs, io, path::PathBuf, time::Duration};

use forebay_checkpoint::{Checkpointer, Part, Recovery, Which, list};
use forebay_testing::{Fault, Request, TempTiers};
use forebay_transfer::Transfer;
use forebay_types::ErrorKind;

use support::{assert_is, keep_all, open, run, save, told};

const BUDGET_BYTES: u64 = 64 << 20;

fn steps(tiers: &TempTiers) -> Vec<u64> {
    list(&tiers.lake, &run()).unwrap().into_iter().map(|summary| summary.step).collect()
}

/// Two nodes, of which the first has committed step 1.
struct Nodes {
    tiers: TempTiers,
    elsewhere: Transfer,
    earlier: Checkpointer,
    /// The second node's local tier.
    _other: TempTiers,
}

impl Nodes {
    fn new() -> Self {
        let (tiers, other) = (TempTiers::new(BUDGET_BYTES), TempTiers::new(BUDGET_BYTES));
        let elsewhere = Transfer::new(&tiers.lake, &other.local, &tiers.runtime);
        let mut earlier = open(&tiers.transfer(), &keep_all()).unwrap();
        save(&mut earlier, 1).unwrap();
        earlier.wait().unwrap();
        Self { tiers, elsewhere, earlier, _other: other }
    }
}

/// The claims of the run, in order.
fn claims(tiers: &TempTiers) -> Vec<PathBuf> {
    let folder = fs::read_dir(tiers.lake_path().join("runs/day/writers")).unwrap();
    let mut found: Vec<_> = folder.map(|entry| entry.unwrap().path()).collect();
    found.sort();
    found
}

#[test]
fn the_earlier_launch_is_told_and_commits_no_more() {
    let Nodes { tiers, elsewhere, mut earlier, _other } = Nodes::new();

    let mut later = open(&elsewhere, &keep_all()).unwrap();
    let restored = later.restore(Which::Newest, Part::All).unwrap().unwrap();
    assert_is(&restored, 1);

    save(&mut earlier, 2).unwrap();
    let error = earlier.wait().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(told(&error).contains("runs/day/writers/000000000002.json"), "{}", told(&error));
    assert_eq!(steps(&tiers), [1]);

    save(&mut later, 2).unwrap();
    later.wait().unwrap();
    assert_eq!(steps(&tiers), [1, 2]);
}

#[test]
fn what_was_committed_behind_a_claim_is_removed() {
    let Nodes { tiers, elsewhere, mut earlier, _other } = Nodes::new();
    let mut later = open(&elsewhere, &keep_all()).unwrap();
    later.restore(Which::Newest, Part::All).unwrap();

    // As if the earlier one had looked for claims before that one, and put its commit after it.
    let claim = claims(&tiers).pop().unwrap();
    let body = fs::read(&claim).unwrap();
    fs::remove_file(&claim).unwrap();
    save(&mut earlier, 3).unwrap();
    earlier.wait().unwrap();
    assert_eq!(steps(&tiers), [1, 3]);
    fs::write(&claim, body).unwrap();

    save(&mut later, 2).unwrap();
    let reports = later.wait().unwrap();
    assert_eq!(reports[0].removed, [3]);
    assert_eq!(steps(&tiers), [1, 2]);
}

#[test]
fn a_staged_save_of_a_replaced_launch_is_removed_with_a_word() {
    let Nodes { tiers, elsewhere, mut earlier, _other } = Nodes::new();
    let away = Fault::Fails(io::ErrorKind::PermissionDenied);
    tiers.store.inject(Request::Write, "000000000002", 9, away);
    save(&mut earlier, 2).unwrap();
    drop(earlier);
    tiers.store.behave();
    let later = open(&elsewhere, &keep_all()).unwrap();
    later.claim().unwrap();
    let again = open(&tiers.transfer(), &keep_all()).unwrap();
    assert_eq!(again.recovered()[0].outcome, Recovery::Superseded);
    assert_eq!(steps(&tiers), [1]);
    assert!(tiers.local.staged().unwrap().is_empty());
}

/// One launch saves as fast as it can, another takes over at any moment: what the first was told is
/// committed, the second goes on from.
#[test]
fn nothing_that_was_acknowledged_is_lost_to_the_next_launch() {
    for round in 0..20u64 {
        let Nodes { tiers, elsewhere, mut earlier, _other } = Nodes::new();
        let runtime = tiers.runtime.clone();
        let saving = runtime.spawn("earlier", move || {
            let mut acknowledged = 1;
            for step in 2.. {
                match save(&mut earlier, step).and_then(|()| earlier.wait()) {
                    Ok(_) => acknowledged = step,
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::Conflict, "{}", told(&error));
                        break;
                    }
                }
            }
            acknowledged
        });
        runtime.sleep(Duration::from_millis(round * 3)).unwrap();
        let mut later = open(&elsewhere, &keep_all()).unwrap();
        let restored = later.restore(Which::Newest, Part::All).unwrap().unwrap().step();
        let acknowledged = saving.join().unwrap();
        assert!(acknowledged <= restored, "{acknowledged} was promised, {restored} went on");
        save(&mut later, restored + 2).unwrap();
        later.wait().unwrap();
        let beyond: Vec<_> = steps(&tiers).into_iter().filter(|&step| step > restored).collect();
        assert_eq!(beyond, [restored + 2]);
    }
}
