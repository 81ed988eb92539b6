//! Draining: staged bytes reach the lake whole, or not at all.

#![allow(clippy::unwrap_used, reason = "a test may")]

use std::{
    io::{self, Write},
    os::unix::fs::MetadataExt,
};

use forebay_lake::Lake;
use forebay_testing::{Fault, Request, TempTiers, key};
use forebay_transfer::{StagedBytes, Transfer};
use forebay_types::{Digest, ErrorKind};

const BYTES: usize = 3 << 20;

/// Tiers with a file staged as `staged/one`, and its digest.
fn staged() -> (TempTiers, Digest) {
    let tiers = TempTiers::new(16 << 20);
    let bytes: Vec<u8> = (0..BYTES).map(|at| ((at * 31) >> 4) as u8).collect();
    let mut writer = tiers.local.stage(&key("staged/one"), BYTES as u64).unwrap();
    writer.write_all(&bytes).unwrap();
    writer.finish().unwrap();
    (tiers, Digest::of(&bytes))
}

fn drain(tiers: &TempTiers, digest: Digest) -> Result<u64, forebay_transfer::Error> {
    tiers.transfer().drain(&key("staged/one"), &key("lake/one"), digest, StagedBytes::Found, None)
}

fn in_lake(tiers: &TempTiers) -> Option<Digest> {
    let purpose = forebay_lake::Purpose::Checkpoint;
    let bytes = tiers.lake.read(&key("lake/one"), purpose, BYTES as u64).unwrap();
    bytes.map(|bytes| Digest::of(&bytes))
}

#[test]
fn what_is_staged_reaches_the_lake_and_stays_until_released() {
    let (tiers, digest) = staged();
    assert_eq!(drain(&tiers, digest).unwrap(), BYTES as u64);
    assert_eq!(in_lake(&tiers), Some(digest));
    assert_eq!(tiers.local.staged().unwrap().len(), 1);
    // Once more changes nothing.
    assert_eq!(drain(&tiers, digest).unwrap(), BYTES as u64);
    assert_eq!(in_lake(&tiers), Some(digest));
}

#[test]
fn bytes_that_went_bad_on_the_node_are_not_written() {
    let (tiers, _) = staged();
    let error = drain(&tiers, Digest::of(b"others")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("staged/one"), "{error}");
    assert_eq!(in_lake(&tiers), None);
}

#[test]
fn a_full_lake_is_told_and_gets_nothing() {
    let (tiers, digest) = staged();
    tiers.store.inject(Request::Write, "lake/one", 1, Fault::FullAfter(1 << 20));
    let error = drain(&tiers, digest).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Full);
    assert!(error.to_string().contains("lake/one"), "{error}");
    assert_eq!(in_lake(&tiers), None);
    drain(&tiers, digest).unwrap();
    assert_eq!(in_lake(&tiers), Some(digest));
}

#[test]
fn a_passing_failure_is_tried_again() {
    for fault in [Fault::Fails(io::ErrorKind::TimedOut), Fault::ReplyLost(io::ErrorKind::TimedOut)]
    {
        let (tiers, digest) = staged();
        tiers.store.inject(Request::Write, "lake/one", 1, fault);
        drain(&tiers, digest).unwrap();
        assert_eq!(in_lake(&tiers), Some(digest), "{fault:?}");
    }
}

#[test]
fn what_is_not_staged_is_named() {
    let (tiers, digest) = staged();
    let error = tiers
        .transfer()
        .drain(&key("staged/two"), &key("lake/two"), digest, StagedBytes::Found, None)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("staged/two"), "{error}");
}

/// A directory on the same file system takes the file as it is; what it holds is looked at all the
/// same, but for what was written a moment ago.
#[test]
fn a_directory_takes_the_file_itself_and_never_a_bad_one() {
    for known in [StagedBytes::JustWritten, StagedBytes::Found] {
        let (tiers, digest) = staged();
        let lake = Lake::open(tiers.lake_path().to_str().unwrap(), &tiers.runtime).unwrap();
        let transfer = Transfer::new(&lake, &tiers.local, &tiers.runtime);
        let (staged, object) = (key("staged/one"), key("lake/one"));
        let written = lake.traffic();
        // Once more changes nothing.
        for _ in 0..2 {
            assert_eq!(
                transfer.drain(&staged, &object, digest, known, None).unwrap(),
                BYTES as u64
            );
        }
        assert_eq!(lake.traffic(), written, "it was copied");
        let inode = |path: &std::path::Path| std::fs::metadata(path).unwrap().ino();
        let in_lake = tiers.lake_path().join("lake/one");
        assert_eq!(inode(&in_lake), inode(&tiers.local_path().join("staging/staged/one")));
        tiers.local.release(&staged).unwrap();
        assert_eq!(Digest::of(&std::fs::read(&in_lake).unwrap()), digest);
    }
    let (tiers, _) = staged();
    let lake = Lake::open(tiers.lake_path().to_str().unwrap(), &tiers.runtime).unwrap();
    let transfer = Transfer::new(&lake, &tiers.local, &tiers.runtime);
    let (name, object, other) = (key("staged/one"), key("lake/one"), Digest::of(b"others"));
    let error = transfer.drain(&name, &object, other, StagedBytes::Found, None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert_eq!(lake.size(&object).unwrap(), None);
}
