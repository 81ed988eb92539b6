//! A restore of files that are not in the page cache: the same bytes, from a disk and from memory that
//! is no disk at all.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod support;

use std::{
    fs::{self, File},
    path::Path,
};

use forebay_checkpoint::{
    CommittedCheckpoint, Dtype, Part, Region, StateTensor, Tier, Which, restore,
};
use forebay_lake::Lake;
use forebay_local::LocalTier;
use forebay_runtime::Runtime;
use forebay_transfer::Transfer;
use forebay_types::{ErrorKind, Position};
use serde_json::Value;

use support::{assert_tensors, keep_all, open, run, until};

/// Tensors of many sizes that lie at odd places, one larger than what is read at once.
fn state() -> Vec<StateTensor<'static>> {
    let tensor = |(number, bytes): (usize, usize)| StateTensor {
        name: format!("model.t{number:02}").into(),
        dtype: Dtype::U8,
        shape: vec![bytes as u64],
        bytes: (0..bytes).map(|at| (at * 31 + (at >> 9) + number) as u8).collect::<Vec<_>>().into(),
        part: None,
    };
    let sizes = [1, 9 << 20, 4095, 300 << 10, (2 << 20) + 1, 0, 4097, 70_001, 256 << 10, 5 << 20];
    sizes.into_iter().enumerate().map(tensor).collect()
}

/// Tiers without a store between, as a job has them.
fn tiers(directory: &Path) -> Transfer {
    let runtime = Runtime::system();
    let lake = Lake::open(directory.join("lake").to_str().unwrap(), &runtime).unwrap();
    let local = LocalTier::open(&directory.join("local"), 64 << 20, &runtime).unwrap();
    Transfer::new(&lake, &local, &runtime)
}

/// Every tensor file below a directory, dropped from the page cache.
fn drop_cached(directory: &Path, change: &mut dyn FnMut(&Path)) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            drop_cached(&path, change);
        } else if path.extension().is_some_and(|extension| extension == "safetensors") {
            change(&path);
            let file = File::open(&path).unwrap();
            file.sync_all().unwrap();
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        }
    }
}

fn restored_cold_in(directory: &Path) {
    let (transfer, state) = (tiers(directory), state());
    let mut checkpointer = open(&transfer, &keep_all()).unwrap();
    checkpointer.save(1, Position { step: 1 }, &state, &Value::Null).unwrap();
    until(transfer.runtime(), || !checkpointer.finished().is_empty());
    for name in transfer.local().staged_memory().unwrap() {
        let file = format!(".staged-{}", name.as_str().replace('/', ":"));
        fs::remove_file(transfer.local().memory_folder().join(file)).unwrap();
    }
    for tier in [Tier::Local, Tier::Lake] {
        drop_cached(directory, &mut |_| {});
        let restored = restore(&transfer, &run(), Which::Newest, Part::All).unwrap().unwrap();
        assert_eq!(restored.tier(), tier);
        assert_tensors(&restored, &state);
        drop_cached(directory, &mut |_| {});
        part_is_read(&transfer, &state[1]);
        // The next comes from the lake.
        checkpointer.wait().unwrap();
    }
    drop(checkpointer);
    drop_cached(&directory.join("lake"), &mut |path| {
        let mut bytes = fs::read(path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(path, bytes).unwrap();
    });
    let error = restore(&transfer, &run(), Which::Newest, Part::All).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}

/// Of a tensor whose neighbours nobody wants.
fn part_is_read(transfer: &Transfer, tensor: &StateTensor<'_>) {
    let checkpoint = CommittedCheckpoint::open(transfer, &run(), Which::Newest).unwrap().unwrap();
    let mut into = vec![0; 1000];
    let (name, start, shape) = (&*tensor.name, vec![5_000_001], vec![1000]);
    let region = Region { name, start, shape, into: &mut into };
    checkpoint.read(transfer, vec![region]).unwrap();
    assert!(into == tensor.bytes[5_000_001..][..1000]);
}

#[test]
fn what_is_not_in_the_page_cache_comes_back_from_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    restored_cold_in(folder.path());
}

#[test]
fn a_file_system_that_is_memory_is_read_too() {
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    restored_cold_in(folder.path());
}
