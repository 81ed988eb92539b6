//! Whatever byte of a checkpoint changes, it is found, and the object is named.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod support;

use std::{fs, path::Path};

use forebay_checkpoint::{Error, Part, Which, list, remove, restore, verify};
use forebay_testing::TempTiers;
use forebay_types::ErrorKind;

use support::{assert_is, keep_all, objects, open, run, save, told};

/// Tiers with checkpoints at steps 1 and 2, nothing staged.
fn two_checkpoints() -> TempTiers {
    let tiers = TempTiers::new(64 << 20);
    let mut checkpointer = open(&tiers.transfer(), &keep_all()).unwrap();
    for step in [1, 2] {
        save(&mut checkpointer, step).unwrap();
        checkpointer.wait().unwrap();
    }
    drop(checkpointer);
    tiers
}

fn newest(tiers: &TempTiers) -> Result<(), Error> {
    restore(&tiers.transfer(), &run(), Which::Newest, Part::All).map(drop)
}

fn of_step(tiers: &TempTiers, step: u64) -> Vec<String> {
    let step = format!("/{step:012}/");
    objects(&tiers.transfer()).into_iter().filter(|key| key.contains(&step)).collect()
}

/// Changes the file, tries, and puts it back.
fn with(path: &Path, change: impl FnOnce(&mut Vec<u8>), test: impl FnOnce(&str)) {
    let sound = fs::read(path).unwrap();
    let mut changed = sound.clone();
    change(&mut changed);
    fs::write(path, changed).unwrap();
    test(&path.display().to_string());
    fs::write(path, sound).unwrap();
}

fn assert_found(tiers: &TempTiers, key: &str, place: &str) {
    let checks = [newest(tiers), verify(&tiers.lake, &run(), None).map(drop)];
    for (check, outcome) in ["restore", "verify"].into_iter().zip(checks) {
        let error = outcome.expect_err(&format!("{check} {place}"));
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{check} {place}: {}", told(&error));
        assert!(told(&error).contains(key), "{check} {place}: {}", told(&error));
    }
    let advice = newest(tiers).unwrap_err().to_string();
    assert!(advice.contains("step 2 of run day is damaged; step 1 is intact"), "{advice}");
    assert!(advice.contains("--step 1"), "{advice}");
}

#[test]
fn a_flipped_bit_anywhere_is_found_and_the_object_named() {
    let tiers = two_checkpoints();
    for key in of_step(&tiers, 2) {
        let path = tiers.lake_path().join(&key);
        let length = fs::metadata(&path).unwrap().len() as usize;
        // Every byte of the beginning and the end, and a sample between.
        let between = (0..length).step_by(length / 97 + 1);
        for at in (0..40).chain(length - 40..length).chain(between) {
            let flip = 1 << (at % 8);
            with(
                &path,
                |bytes| bytes[at] ^= flip,
                |_| {
                    // A record of a version that is not known yet is no damage.
                    let error = newest(&tiers).unwrap_err();
                    if error.kind() != ErrorKind::NewerFormat {
                        assert_found(&tiers, &key, &format!("{key} byte {at}"));
                    }
                },
            );
        }
    }
    newest(&tiers).unwrap();
}

#[test]
fn a_missing_cut_or_grown_object_is_found_and_named() {
    let tiers = two_checkpoints();
    for key in of_step(&tiers, 2).into_iter().filter(|key| !key.ends_with("commit.json")) {
        let path = tiers.lake_path().join(&key);
        with(&path, |bytes| bytes.truncate(bytes.len() - 1), |_| assert_found(&tiers, &key, "cut"));
        with(&path, |bytes| bytes.clear(), |_| assert_found(&tiers, &key, "emptied"));
        with(&path, |bytes| bytes.push(0), |_| assert_found(&tiers, &key, "grown"));
        let elsewhere = tiers.path().join("elsewhere");
        fs::rename(&path, &elsewhere).unwrap();
        assert_found(&tiers, &key, "missing");
        fs::rename(&elsewhere, &path).unwrap();
    }
}

#[test]
fn the_damaged_tensor_is_named() {
    let tiers = two_checkpoints();
    let key = of_step(&tiers, 2).into_iter().find(|key| key.ends_with(".safetensors")).unwrap();
    let path = tiers.lake_path().join(key);
    // The last bytes are those of the narrowest element: `model.scale`.
    with(
        &path,
        |bytes| *bytes.last_mut().unwrap() ^= 1,
        |_| {
            let error = newest(&tiers).unwrap_err();
            assert!(told(&error).contains("tensor `model.scale`"), "{}", told(&error));
        },
    );
}

#[test]
fn files_of_two_checkpoints_are_never_mixed() {
    let tiers = two_checkpoints();
    let pairs = of_step(&tiers, 1).into_iter().zip(of_step(&tiers, 2));
    for (older, newer) in pairs {
        let older = fs::read(tiers.lake_path().join(older)).unwrap();
        let path = tiers.lake_path().join(&newer);
        with(&path, |bytes| *bytes = older, |_| assert_found(&tiers, &newer, "of another step"));
    }
}

#[test]
fn a_newer_format_is_refused_as_such() {
    let tiers = two_checkpoints();
    for key in of_step(&tiers, 2).into_iter().filter(|key| key.ends_with(".json")) {
        let newer = |bytes: &mut Vec<u8>| {
            let text = String::from_utf8(bytes.clone()).unwrap();
            *bytes = text.replacen("\"version\":1", "\"version\":2", 1).into_bytes();
        };
        with(&tiers.lake_path().join(&key), newer, |_| {
            let error = newest(&tiers).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NewerFormat, "{}", told(&error));
            assert!(told(&error).contains(&key), "{}", told(&error));
        });
    }
}

#[test]
fn a_damaged_commit_is_listed_with_its_problem_and_can_be_removed() {
    let tiers = two_checkpoints();
    let error = remove(&tiers.lake, &run(), 2).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    let commit = of_step(&tiers, 2).into_iter().find(|key| key.ends_with("commit.json")).unwrap();
    fs::write(tiers.lake_path().join(&commit), "{}").unwrap();
    let listed = list(&tiers.lake, &run()).unwrap();
    assert_eq!(listed[0].problem, None);
    assert!(listed[1].problem.as_ref().unwrap().contains(&commit), "{listed:?}");

    // Training goes on from the intact step, once the damaged one is out of the way.
    let mut checkpointer = open(&tiers.transfer(), &keep_all()).unwrap();
    let restored = checkpointer.restore(Which::Step(1), Part::All).unwrap().unwrap();
    assert_is(&restored, 1);
    remove(&tiers.lake, &run(), 2).unwrap();
    assert_eq!(remove(&tiers.lake, &run(), 2).unwrap_err().kind(), ErrorKind::NotFound);
    save(&mut checkpointer, 2).unwrap();
    checkpointer.wait().unwrap();
    assert_is(&checkpointer.restore(Which::Newest, Part::All).unwrap().unwrap(), 2);
}

#[test]
fn a_flipped_bit_on_the_way_is_found_too() {
    let tiers = two_checkpoints();
    let fault = forebay_testing::Fault::FlipsBit;
    tiers.store.inject(forebay_testing::Request::Read, ".safetensors", 99, fault);
    let error = newest(&tiers).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(told(&error).contains("no older step is intact"), "{}", told(&error));
}
