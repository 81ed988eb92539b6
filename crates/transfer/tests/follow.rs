//! Following: the lake has a file's bytes while it is being staged, and the object when it is drained.

#![allow(clippy::unwrap_used, reason = "a test may")]

use std::{io, io::Write, time::Duration};

use forebay_lake::Purpose;
use forebay_local::StagedWriter;
use forebay_testing::{Fault, Request, TempTiers, key};
use forebay_transfer::{Follow, StagedBytes, Written};
use forebay_types::Digest;

const BYTES: usize = 5 << 20;

fn bytes() -> Vec<u8> {
    (0..BYTES).map(|at| ((at * 31) >> 4) as u8).collect()
}

/// A file that is half staged, and followed.
fn half_staged(tiers: &TempTiers) -> (StagedWriter, Written, Follow) {
    let mut writer = tiers.local.stage(&key("staged/one"), BYTES as u64).unwrap();
    let written = Written::default();
    let follow = tiers.transfer().follow(writer.reader().unwrap(), &written, &key("lake/one"));
    writer.write_all(&bytes()[..BYTES / 2]).unwrap();
    written.advance(BYTES as u64 / 2);
    (writer, written, follow)
}

/// The bytes of objects that are on their way into the lake.
fn on_their_way(tiers: &TempTiers) -> u64 {
    let files = std::fs::read_dir(tiers.lake_path().join(".incoming")).into_iter().flatten();
    files.map(|file| file.unwrap().metadata().unwrap().len()).sum()
}

fn await_on_their_way(tiers: &TempTiers, bytes: u64) {
    for _ in 0..1000 {
        if on_their_way(tiers) == bytes {
            return;
        }
        tiers.runtime.sleep(Duration::from_millis(10)).unwrap();
    }
    panic!("{} bytes are on their way, not {bytes}", on_their_way(tiers));
}

fn in_lake(tiers: &TempTiers, name: &str) -> Option<Digest> {
    let bytes = tiers.lake.read(&key(name), Purpose::Checkpoint, BYTES as u64).unwrap();
    bytes.map(|bytes| Digest::of(&bytes))
}

fn drain(tiers: &TempTiers, object: &str, follow: Follow) -> u64 {
    let (name, object, digest) = (key("staged/one"), key(object), Digest::of(&bytes()));
    let known = StagedBytes::JustWritten;
    tiers.transfer().drain(&name, &object, digest, known, Some(follow)).unwrap()
}

#[test]
fn what_is_written_is_in_the_lake_before_the_rest_is() {
    let tiers = TempTiers::new(16 << 20);
    let (mut writer, written, follow) = half_staged(&tiers);
    await_on_their_way(&tiers, BYTES as u64 / 2);
    assert_eq!(in_lake(&tiers, "lake/one"), None);
    writer.write_all(&bytes()[BYTES / 2..]).unwrap();
    written.advance(BYTES as u64);
    writer.finish().unwrap();
    assert_eq!(drain(&tiers, "lake/one", follow), BYTES as u64);
    assert_eq!(in_lake(&tiers, "lake/one"), Some(Digest::of(&bytes())));
}

#[test]
fn what_was_not_followed_to_its_end_is_read_from_the_staged_file() {
    let tiers = TempTiers::new(16 << 20);
    let (mut writer, _, follow) = half_staged(&tiers);
    writer.write_all(&bytes()[BYTES / 2..]).unwrap();
    writer.finish().unwrap();
    assert_eq!(drain(&tiers, "lake/one", follow), BYTES as u64);
    assert_eq!(in_lake(&tiers, "lake/one"), Some(Digest::of(&bytes())));
}

#[test]
fn a_file_that_is_not_staged_leaves_nothing_in_the_lake() {
    let tiers = TempTiers::new(16 << 20);
    let (writer, _, follow) = half_staged(&tiers);
    await_on_their_way(&tiers, BYTES as u64 / 2);
    drop((writer, follow));
    await_on_their_way(&tiers, 0);
    assert_eq!(in_lake(&tiers, "lake/one"), None);
}

#[test]
fn a_lake_that_fails_on_the_way_is_written_anew() {
    for fault in [Fault::Fails(io::ErrorKind::TimedOut), Fault::FullAfter(1 << 20)] {
        let tiers = TempTiers::new(16 << 20);
        tiers.store.inject(Request::Write, "lake/one", 1, fault);
        let (mut writer, written, follow) = half_staged(&tiers);
        writer.write_all(&bytes()[BYTES / 2..]).unwrap();
        written.advance(BYTES as u64);
        writer.finish().unwrap();
        assert_eq!(drain(&tiers, "lake/one", follow), BYTES as u64);
        assert_eq!(in_lake(&tiers, "lake/one"), Some(Digest::of(&bytes())), "{fault:?}");
    }
}

#[test]
fn what_was_on_its_way_as_another_object_is_let_go() {
    let tiers = TempTiers::new(16 << 20);
    let (mut writer, written, follow) = half_staged(&tiers);
    writer.write_all(&bytes()[BYTES / 2..]).unwrap();
    written.advance(BYTES as u64);
    writer.finish().unwrap();
    assert_eq!(drain(&tiers, "lake/other", follow), BYTES as u64);
    assert_eq!(in_lake(&tiers, "lake/other"), Some(Digest::of(&bytes())));
    await_on_their_way(&tiers, 0);
    assert_eq!(in_lake(&tiers, "lake/one"), None);
}
