//! Saves that take less room: the same bytes come back, from every tier, in every shape, after a crash,
//! and what is damaged is found.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod support;

use std::{borrow::Cow, fs, os::unix::process::ExitStatusExt, path::Path, process::Command};

use forebay_checkpoint::{
    CheckpointSettings, Checkpointer, CommittedCheckpoint, Dtype, Part, Region, StateTensor, Tier,
    Which, export, restore, show, verify,
};
use forebay_lake::Lake;
use forebay_local::LocalTier;
use forebay_runtime::Runtime;
use forebay_testing::TempTiers;
use forebay_transfer::Transfer;
use forebay_types::{ErrorKind, Position};
use proptest::prelude::*;
use serde_json::Value;

use support::{assert_tensors, keep_all, objects, open, run, told, until};

const BUDGET_BYTES: u64 = 256 << 20;
const DIRECTORY: &str = "FOREBAY_TEST_DIRECTORY";

fn settings() -> CheckpointSettings {
    CheckpointSettings { compress: true, ..keep_all() }
}

fn noise(at: u64, seed: u64) -> u64 {
    let mixed = (at ^ seed << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

/// A tensor as training makes them: of one size, and no fraction like another.
fn learnt(name: &str, dtype: Dtype, shape: &[u64], seed: u64) -> StateTensor<'static> {
    let value = |at: u64| ((noise(at, seed) >> 40) as f32 / (1 << 24) as f32 - 0.5) * 0.04;
    let elements = shape.iter().product();
    let bytes: Vec<u8> = match dtype {
        Dtype::F32 => (0..elements).flat_map(|at| value(at).to_le_bytes()).collect(),
        Dtype::BF16 => (0..elements)
            .flat_map(|at| ((value(at).to_bits() >> 16) as u16).to_le_bytes())
            .collect(),
        Dtype::I64 => (0..elements).flat_map(|at| (at / 7 + seed).to_le_bytes()).collect(),
        _ => (0..elements * dtype.bytes()).map(|at| (noise(at, seed) >> 50) as u8).collect(),
    };
    StateTensor {
        name: Cow::Owned(name.to_owned()),
        dtype,
        shape: shape.to_vec(),
        bytes: Cow::Owned(bytes),
        part: None,
    }
}

/// Some that are worth it, of several blocks and of part of one, some that are not, and small ones.
fn state(seed: u64) -> Vec<StateTensor<'static>> {
    vec![
        learnt("model.embedding", Dtype::F32, &[1500, 411], seed),
        learnt("model.head", Dtype::BF16, &[301, 700], seed + 1),
        learnt("model.noise", Dtype::U8, &[3 << 20], seed + 2),
        learnt("model.small", Dtype::F32, &[9], seed + 3),
        learnt("optimizer.seen", Dtype::I64, &[70_000], seed + 4),
        learnt("optimizer.empty", Dtype::F64, &[0, 2], seed + 5),
        learnt("optimizer.scalar", Dtype::F32, &[], seed + 6),
    ]
}

fn save(checkpointer: &mut Checkpointer, step: u64, state: &[StateTensor<'_>]) -> u64 {
    checkpointer.save(step, Position { step }, state, &Value::Null).unwrap();
    checkpointer.wait().unwrap()[0].bytes
}

fn newest(transfer: &Transfer) -> forebay_checkpoint::Restored {
    restore(transfer, &run(), Which::Newest, Part::All).unwrap().unwrap()
}

fn tensor_file(tiers: &TempTiers) -> std::path::PathBuf {
    let keys = objects(&tiers.transfer());
    tiers.lake_path().join(keys.iter().find(|key| key.ends_with(".safetensors")).unwrap())
}

#[test]
fn less_is_written_and_the_same_comes_back_from_every_tier() {
    let tiers = TempTiers::new(BUDGET_BYTES);
    let transfer = tiers.transfer();
    let state = state(1);
    let mut checkpointer = open(&transfer, &settings()).unwrap();
    checkpointer.save(1, Position { step: 1 }, &state, &Value::Null).unwrap();
    until(transfer.runtime(), || !checkpointer.finished().is_empty());
    let restored = newest(&transfer);
    assert_eq!(restored.tier(), Tier::Memory);
    assert_tensors(&restored, &state);
    for name in transfer.local().staged_memory().unwrap() {
        let file = format!(".staged-{}", name.as_str().replace('/', ":"));
        fs::remove_file(transfer.local().memory_folder().join(file)).unwrap();
    }
    let restored = newest(&transfer);
    assert_eq!(restored.tier(), Tier::Local);
    assert_tensors(&restored, &state);
    drop(checkpointer);
    let restored = newest(&transfer);
    assert_eq!(restored.tier(), Tier::Lake);
    assert_tensors(&restored, &state);
    verify(&tiers.lake, &run(), None).unwrap();

    let record = show(&tiers.lake, &run(), 1).unwrap().ranks.remove(0);
    let encoded = record.tensors.iter().filter(|tensor| tensor.encoded.is_some());
    let mut names: Vec<_> = encoded.map(|tensor| &*tensor.name).collect();
    names.sort_unstable();
    assert_eq!(names, ["model.embedding", "model.head", "optimizer.seen"]);
    let bytes: usize = state.iter().map(|tensor| tensor.bytes.len()).sum();
    assert!(record.file.bytes * 100 < bytes as u64 * 90, "{} of {bytes}", record.file.bytes);
    assert_eq!(fs::metadata(tensor_file(&tiers)).unwrap().len(), record.file.bytes);

    let output = tiers.path().join("exported");
    export(&tiers.lake, &run(), None, Part::All, &output).unwrap();
    let exported = fs::read(output.join("state.safetensors")).unwrap();
    let exported = safetensors::SafeTensors::deserialize(&exported).unwrap();
    for tensor in &state {
        assert!(exported.tensor(&tensor.name).unwrap().data() == &*tensor.bytes);
    }
}

#[test]
fn a_box_of_it_is_read_as_of_any_other() {
    let tiers = TempTiers::new(BUDGET_BYTES);
    let transfer = tiers.transfer();
    let state = state(2);
    save(&mut open(&transfer, &settings()).unwrap(), 1, &state);
    let opened = CommittedCheckpoint::open(&transfer, &run(), Which::Newest).unwrap().unwrap();
    let mut into = vec![0; 700 * 5 * 4];
    let (start, shape) = (vec![800, 17], vec![700, 5]);
    let region = Region { name: "model.embedding", start, shape, into: &mut into };
    opened.read(&transfer, vec![region]).unwrap();
    let rows = into.chunks_exact(20).zip(800..);
    for (row, number) in rows {
        let offset = (number * 411 + 17) * 4;
        assert!(row == &state[0].bytes[offset..offset + 20], "row {number}");
    }
}

#[test]
fn what_did_not_change_is_referred_to_as_it_is_stored() {
    let tiers = TempTiers::new(BUDGET_BYTES);
    let transfer = tiers.transfer();
    let mut checkpointer = open(&transfer, &settings()).unwrap();
    let (mut state, other) = (state(3), state(4));
    save(&mut checkpointer, 1, &state);
    state[1] = other[1].clone();
    let written = save(&mut checkpointer, 2, &state);
    assert!(written < 100 + state[1].bytes.len() as u64, "{written}");
    // A save of plain tensors refers to encoded ones, and the other way round.
    drop(checkpointer);
    let mut plain = open(&transfer, &keep_all()).unwrap();
    plain.restore(Which::Newest, Part::All).unwrap().unwrap();
    state[4] = other[4].clone();
    let written = save(&mut plain, 3, &state);
    assert!(written < 2000 + state[4].bytes.len() as u64, "{written}");
    drop(plain);
    let mut checkpointer = open(&transfer, &settings()).unwrap();
    checkpointer.restore(Which::Newest, Part::All).unwrap().unwrap();
    state[6] = other[6].clone();
    assert!(save(&mut checkpointer, 4, &state) < 2000);
    drop(checkpointer);
    assert_tensors(&newest(&transfer), &state);
    for step in 1..=4 {
        verify(&tiers.lake, &run(), Some(step)).unwrap();
    }
}

#[test]
fn a_flipped_bit_anywhere_is_found() {
    let tiers = TempTiers::new(BUDGET_BYTES);
    let transfer = tiers.transfer();
    save(&mut open(&transfer, &settings()).unwrap(), 1, &state(5));
    let path = tensor_file(&tiers);
    let sound = fs::read(&path).unwrap();
    let between = (0..sound.len()).step_by(sound.len() / 61 + 1);
    for at in (0..20).chain(between).chain(sound.len() - 20..sound.len()) {
        let mut changed = sound.clone();
        changed[at] ^= 1 << (at % 8);
        fs::write(&path, &changed).unwrap();
        let read = restore(&transfer, &run(), Which::Newest, Part::All).map(drop);
        for outcome in [read, verify(&tiers.lake, &run(), None).map(drop)] {
            let error = outcome.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "byte {at}: {}", told(&error));
        }
    }
}

#[test]
fn a_state_that_no_memory_holds_twice_is_written_from_where_it_lies() {
    let tiers = TempTiers::new(BUDGET_BYTES);
    let transfer = tiers.transfer();
    let settings = CheckpointSettings { arena_bytes_max: Some(0), ..settings() };
    let mut checkpointer = open(&transfer, &settings).unwrap();
    let saved = checkpointer.save(1, Position { step: 1 }, &state(6), &Value::Null).unwrap();
    assert!(saved.streamed);
    checkpointer.wait().unwrap();
    assert_tensors(&newest(&transfer), &state(6));
}

fn tiers(directory: &Path) -> Transfer {
    let runtime = Runtime::system();
    let lake = Lake::open(directory.join("lake").to_str().unwrap(), &runtime).unwrap();
    let local = LocalTier::open(&directory.join("local"), BUDGET_BYTES, &runtime).unwrap();
    Transfer::new(&lake, &local, &runtime)
}

/// Not a test: what the process that dies runs. Without its variable it has nothing to do.
#[test]
fn trainer() {
    let Some(directory) = std::env::var_os(DIRECTORY) else { return };
    let transfer = tiers(Path::new(&directory));
    let mut checkpointer = open(&transfer, &settings()).unwrap();
    save(&mut checkpointer, 1, &state(7));
    save(&mut checkpointer, 2, &state(8));
}

#[test]
fn a_kill_loses_nothing_that_was_captured() {
    for point in ["captured", "stage", "unsealed", "sealed", "before_commit"] {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "trainer"]).env(DIRECTORY, folder.path());
        let output = command.env("FOREBAY_CRASH_AT", format!("checkpoint.{point}:2")).output();
        assert_eq!(output.unwrap().status.signal(), Some(9), "{point} was never passed");
        let transfer = tiers(folder.path());
        drop(open(&transfer, &settings()).unwrap());
        let restored = newest(&transfer);
        assert_eq!(restored.step(), 2, "{point}");
        assert_tensors(&restored, &state(8));
        verify(transfer.lake(), &run(), None).unwrap();
        assert_eq!(objects(&transfer).len(), 6, "{point}");
        assert!(transfer.local().staged().unwrap().is_empty(), "{point}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Whatever is chosen to be encoded, and however it is cut into threads, all comes back.
    #[test]
    fn all_comes_back(
        kinds in prop::collection::vec((0_usize..4, 1_u64..400_000), 0..6),
        threads in 1_usize..4,
    ) {
        let dtypes = [Dtype::F32, Dtype::BF16, Dtype::I64, Dtype::U8];
        let state: Vec<_> = kinds
            .iter()
            .zip(0..)
            .map(|(&(kind, elements), at)| {
                learnt(&format!("model.t{at}"), dtypes[kind], &[elements], at)
            })
            .collect();
        let tiers = TempTiers::new(BUDGET_BYTES);
        let transfer = tiers.transfer();
        let settings = CheckpointSettings { threads, ..settings() };
        save(&mut open(&transfer, &settings).unwrap(), 1, &state);
        assert_tensors(&newest(&transfer), &state);
        verify(&tiers.lake, &run(), None).unwrap();
    }
}
