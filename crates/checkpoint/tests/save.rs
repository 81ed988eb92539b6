//! Saving and restoring in one process: what goes in comes out, and errors are told.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod support;

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use forebay_checkpoint::{
    Capture, CheckpointSettings, Checkpointer, Copying, Deferred, Dtype, PageLocks, Part, Recovery,
    StatePlan, StateTensor, Tier, Which, ask, export, launches, list, restore, show,
};
use forebay_lake::Purpose;
use forebay_local::LocalTier;
use forebay_testing::{Fault, Request, TempTiers};
use forebay_transfer::{Object, Transfer};
use forebay_types::{Digest, ErrorKind, Name, Position, Rank};
use proptest::prelude::*;
use serde_json::Value;

use support::{
    assert_is, assert_tensors, keep_all, metadata, objects, open, run, save, state, told, until,
};

const BUDGET_BYTES: u64 = 64 << 20;

fn steps(tiers: &TempTiers) -> Vec<u64> {
    list(&tiers.lake, &run()).unwrap().into_iter().map(|summary| summary.step).collect()
}

/// What is in memory of the only save that is staged.
fn memory(tiers: &TempTiers) -> PathBuf {
    let names = tiers.local.staged_memory().unwrap();
    let [name] = &names[..] else { panic!("{names:?}") };
    tiers.local.memory_folder().join(format!(".staged-{}", name.as_str().replace('/', ":")))
}

fn flip(path: &Path, at: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

fn staged(tiers: &TempTiers) -> usize {
    tiers.local.staged().unwrap().len()
}

const DTYPES: [Dtype; 17] = [
    Dtype::C64,
    Dtype::F8E5M2,
    Dtype::F8E4M3,
    Dtype::F8E8M0,
    Dtype::F64,
    Dtype::F32,
    Dtype::F16,
    Dtype::BF16,
    Dtype::I64,
    Dtype::I32,
    Dtype::I16,
    Dtype::I8,
    Dtype::U64,
    Dtype::U32,
    Dtype::U16,
    Dtype::U8,
    Dtype::Bool,
];

fn any_state() -> impl Strategy<Value = Vec<StateTensor<'static>>> {
    let tensor = (0..DTYPES.len(), prop::collection::vec(0u64..6, 0..4), any::<u8>());
    prop::collection::btree_map("(model|optimizer)\\.[a-z]{0,4}", tensor, 0..40).prop_map(|map| {
        let one = |(name, (dtype, shape, first)): (String, (usize, Vec<u64>, u8))| {
            let dtype = DTYPES[dtype];
            let bytes = shape.iter().product::<u64>() * dtype.bytes();
            let bytes = (0..bytes).map(|at| first.wrapping_add(at as u8)).collect();
            StateTensor { name: name.into(), dtype, shape, bytes: Cow::Owned(bytes), part: None }
        };
        map.into_iter().map(one).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn every_state_comes_back_bit_for_bit(state in any_state(), bits: u64) {
        let tiers = TempTiers::new(BUDGET_BYTES);
        let transfer = tiers.transfer();
        let mut checkpointer = open(&transfer, &keep_all()).unwrap();
        let number = f64::from_bits(bits);
        let metadata = serde_json::json!({ "bits": bits, "number": number });
        checkpointer.save(3, Position { step: 3 }, &state, &metadata).unwrap();
        checkpointer.wait().unwrap();
        let restored = checkpointer.restore(Which::Newest, Part::All).unwrap().unwrap();
        assert_tensors(&restored, &state);
        prop_assert_eq!(restored.metadata(), &metadata);
        if number.is_finite() {
            prop_assert_eq!(restored.metadata()["number"].as_f64().unwrap().to_bits(), bits);
        }
        // So far out of memory; now out of the lake.
        drop(checkpointer);
        let restored = restore(&transfer, &run(), Which::Step(3), Part::All).unwrap().unwrap();
        assert_tensors(&restored, &state);
        prop_assert_eq!(restored.tier(), Tier::Lake);
        let weights = restore(&transfer, &run(), Which::Step(3), Part::Weights).unwrap().unwrap();
        let wanted: Vec<_> =
            state.into_iter().filter(|tensor| tensor.name.starts_with("model.")).collect();
        assert_tensors(&weights, &wanted);
    }
}

#[test]
fn large_tensors_survive_and_other_readers_read_the_file() {
    let tiers = TempTiers::new(BUDGET_BYTES);
    let transfer = tiers.transfer();
    let large: Vec<u8> =
        (0..21u32 << 18).flat_map(|at| (at.wrapping_mul(7)).to_le_bytes()).collect();
    let tensor = |name: &'static str, bytes: &[u8]| StateTensor {
        name: name.into(),
        dtype: Dtype::F32,
        shape: vec![bytes.len() as u64 / 4],
        bytes: Cow::Owned(bytes.to_vec()),
        part: None,
    };
    let state = [tensor("model.large", &large), tensor("optimizer.small", &large[..400])];
    let mut checkpointer = open(&transfer, &keep_all()).unwrap();
    checkpointer.save(1, Position { step: 1 }, &state, &Value::Null).unwrap();
    let report = checkpointer.wait().unwrap().remove(0);
    assert!(report.bytes > large.len() as u64);
    assert_eq!(report.step, 1);
    let restored = checkpointer.restore(Which::Newest, Part::All).unwrap().unwrap();
    assert_tensors(&restored, &state);

    let key = objects(&transfer).into_iter().find(|key| key.ends_with(".safetensors")).unwrap();
    let bytes = std::fs::read(tiers.lake_path().join(key)).unwrap();
    let judge = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert!(judge.tensor("model.large").unwrap().data() == large);

    drop(checkpointer);
    let read = |part| {
        let before = tiers.lake.traffic()[&Purpose::Checkpoint].bytes_read;
        restore(&transfer, &run(), Which::Newest, part).unwrap();
        tiers.lake.traffic()[&Purpose::Checkpoint].bytes_read - before
    };
    assert_eq!(read(Part::All) - read(Part::Weights), 400);
}

/// Saves the state of `step`, of which the first `now` tensors are copied at once.
fn save_overlapped(
    checkpointer: &mut Checkpointer,
    plan: &StatePlan,
    step: u64,
    now: usize,
) -> (Capture, Option<Copying>) {
    let state = state(step);
    let (now, later) = state.split_at(now);
    let now: Vec<&[u8]> = now.iter().map(|tensor| &*tensor.bytes).collect();
    let later = later.iter().map(|tensor| tensor.bytes.clone()).collect();
    let metadata = metadata(step).to_string();
    let deferred = Deferred { later, filled: 0 };
    checkpointer.save_overlapped(step, Position { step }, plan, &now, deferred, metadata).unwrap()
}

#[test]
fn values_that_do_not_fit_the_plan_are_refused_and_the_next_save_goes_on() {
    let tiers = TempTiers::new(BUDGET_BYTES);
    let mut checkpointer = open(&tiers.transfer(), &keep_all()).unwrap();
    let (plan, state) = (StatePlan::new(&state(0)).unwrap(), state(1));
    let values: Vec<&[u8]> = state.iter().map(|tensor| &*tensor.bytes).collect();
    let mut short = values.clone();
    short[2] = &short[2][1..];
    let said = metadata(1).to_string();
    let mut save = |now: &[&[u8]], later: &[&'static [u8]], said: &str| {
        let later = later.iter().map(|&one| Cow::Borrowed(one)).collect();
        let (position, said) = (Position { step: 1 }, said.to_owned());
        let deferred = Deferred { later, filled: 0 };
        checkpointer.save_overlapped(1, position, &plan, now, deferred, said).map(drop)
    };
    let few = save(&values[..4], &[], &said).unwrap_err();
    assert!(told(&few).contains("values of 4 tensors, and 5 were planned"), "{}", told(&few));
    let many = save(&values, &[&[]], &said).unwrap_err();
    assert!(told(&many).contains("values of 6 tensors"), "{}", told(&many));
    let short = save(&short, &[], &said).unwrap_err();
    assert!(
        told(&short).contains("`optimizer.first_moment.embedding` has 4095 bytes"),
        "{}",
        told(&short)
    );
    // The background reads what is said, and tells.
    save(&values, &[], "{").unwrap();
    let torn = checkpointer.wait().unwrap_err();
    assert!(told(&torn).contains("could not be staged"), "{}", told(&torn));
    assert!(told(&torn).contains("not JSON"), "{}", told(&torn));
    assert_eq!((torn.kind(), staged(&tiers)), (ErrorKind::Invalid, 0));
    save_overlapped(&mut checkpointer, &plan, 2, 5);
    assert_eq!(checkpointer.wait().unwrap().len(), 1);
    assert_is(&checkpointer.restore(Which::Newest, Part::All).unwrap().unwrap(), 2);
}

#[test]
fn what_is_copied_while_the_trainer_goes_on_is_kept_on_its_word_alone() {
    let tiers = TempTiers::new(BUDGET_BYTES);
    let transfer = tiers.transfer();
    let mut checkpointer = open(&transfer, &keep_all()).unwrap();
    let plan = StatePlan::new(&state(0)).unwrap();
    for (step, intact, now) in
        [(1, true, 2), (2, false, 2), (3, false, 2), (4, true, 0), (5, true, 5)]
    {
        let (_, copying) = save_overlapped(&mut checkpointer, &plan, step, now);
        assert_eq!(copying.is_some(), now < 5);
        let Some(copying) = copying else {
            assert_eq!(checkpointer.wait().unwrap()[0].step, step);
            continue;
        };
        while !copying.wait(Duration::from_millis(10)) {}
        if intact {
            copying.confirm();
            assert_eq!(checkpointer.wait().unwrap()[0].step, step);
            assert_is(&checkpointer.restore(Which::Newest, Part::All).unwrap().unwrap(), step);
        } else if step == 3 {
            copying.reject();
            assert!(checkpointer.wait().unwrap().is_empty());
        } else {
            drop(copying);
            let error = checkpointer.wait().unwrap_err();
            assert!(told(&error).contains("changed while it was copied"), "{}", told(&error));
            checkpointer.wait().unwrap();
        }
    }
    assert_eq!(steps(&tiers), [1, 4, 5]);
    assert_eq!(staged(&tiers), 0);
}

/// The file is whole before the trainer has said that the state is.
#[test]
fn a_state_that_changed_after_its_file_was_written_leaves_nothing() {
    let tiers = TempTiers::new(BUDGET_BYTES);
    let mut checkpointer = open(&tiers.transfer(), &keep_all()).unwrap();
    let plan = StatePlan::new(&state(0)).unwrap();
    for step in [1, 2, 3] {
        let (_, copying) = save_overlapped(&mut checkpointer, &plan, step, 2);
        until(&tiers.runtime, || staged(&tiers) == 1);
        assert!(tiers.local.kept_memory().unwrap().is_empty(), "it may be torn");
        let copying = copying.unwrap();
        match step {
            1 => {
                drop(copying);
                let error = checkpointer.wait().unwrap_err();
                assert!(told(&error).contains("changed while it was copied"), "{}", told(&error));
            }
            2 => copying.reject(),
            _ => copying.confirm(),
        }
        let saved = checkpointer.wait().unwrap();
        assert_eq!(saved.len(), usize::from(step == 3));
        assert_eq!((staged(&tiers), tiers.local.usage().unwrap().staged_bytes), (0, 0));
    }
    assert_is(&checkpointer.restore(Which::Newest, Part::All).unwrap().unwrap(), 3);
    assert_eq!(steps(&tiers), [3]);
}

#[test]
fn what_is_said_beside_a_state_that_is_being_copied_is_read_and_kept_however_long() {
    let tiers = TempTiers::new(BUDGET_BYTES);
    let transfer = tiers.transfer();
    let mut checkpointer = open(&transfer, &keep_all()).unwrap();
    let (plan, state) = (StatePlan::new(&state(0)).unwrap(), state(0));
    let said = serde_json::json!({ "text": "x".repeat(300_000) });
    for (step, text) in [(1, said.to_string()), (2, "{".into()), (3, said.to_string())] {
        let later = state.iter().map(|tensor| tensor.bytes.clone()).collect();
        let deferred = Deferred { later, filled: 0 };
        let saved =
            checkpointer.save_overlapped(step, Position { step }, &plan, &[], deferred, text);
        let copying = saved.unwrap().1.unwrap();
        while !copying.wait(Duration::from_millis(10)) {}
        copying.confirm();
        if step == 2 {
            let torn = checkpointer.wait().unwrap_err();
            assert!(told(&torn).contains("not JSON"), "{}", told(&torn));
            assert_eq!(staged(&tiers), 0);
            continue;
        }
        assert_eq!(checkpointer.wait().unwrap().len(), 1);
        let restored = restore(&transfer, &run(), Which::Step(step), Part::All).unwrap().unwrap();
        assert_eq!((restored.tier(), restored.step()), (Tier::Memory, step));
        assert_tensors(&restored, &state);
        assert_eq!(*restored.metadata(), said);
    }
}

/// The copy does not wait for room; the file does.
#[test]
fn a_save_that_is_being_copied_takes_the_room_of_the_one_that_is_committed() {
    // Of a save of 8.4 KiB, its record and a bit, but not of two.
    let tiers = TempTiers::new(16_000);
    let transfer = tiers.transfer();
    let mut checkpointer = open(&transfer, &keep_all()).unwrap();
    let plan = StatePlan::new(&state(0)).unwrap();
    for step in 1..=3 {
        let (_, copying) = save_overlapped(&mut checkpointer, &plan, step, 1);
        let copying = copying.unwrap();
        while !copying.wait(Duration::from_millis(10)) {}
        copying.confirm();
        until(&tiers.runtime, || !checkpointer.finished().is_empty());
        checkpointer.check().unwrap();
        assert_eq!(staged(&tiers), 2, "it stays staged, for a restart");
        let restored = restore(&transfer, &run(), Which::Step(step), Part::All).unwrap().unwrap();
        assert_is(&restored, step);
    }
}

/// Saves the state of `step`, of which the caller fills the tensors behind the third, one of the three
/// being copied later.
fn save_to_fill(checkpointer: &mut Checkpointer, plan: &StatePlan, step: u64) -> Copying {
    let state = state(step);
    let now: Vec<&[u8]> = state[..2].iter().map(|tensor| &*tensor.bytes).collect();
    let later = vec![state[2].bytes.clone()];
    let deferred = Deferred { later, filled: state.len() - 3 };
    let (position, said) = (Position { step }, metadata(step).to_string());
    let saved = checkpointer.save_overlapped(step, position, plan, &now, deferred, said);
    saved.unwrap().1.unwrap()
}

fn fill(copying: &mut Copying, step: u64) {
    let state = state(step);
    let places = copying.places();
    assert_eq!(places.len(), state.len() - 3);
    for (place, tensor) in places.into_iter().zip(&state[3..]) {
        place.copy_from_slice(&tensor.bytes);
    }
}

#[test]
fn what_the_caller_fills_is_waited_for_and_kept_on_its_word_alone() {
    let tiers = TempTiers::new(BUDGET_BYTES);
    let transfer = tiers.transfer();
    let mut checkpointer = open(&transfer, &keep_all()).unwrap();
    let plan = StatePlan::new(&state(0)).unwrap();
    let moment = Duration::from_millis(10);
    for step in [1, 2] {
        let mut copying = save_to_fill(&mut checkpointer, &plan, step);
        assert!(!copying.wait(moment));
        fill(&mut copying, step);
        assert!(!copying.wait(moment) && !checkpointer.await_ready(moment).unwrap());
        copying.filled();
        assert!(copying.places().is_empty());
        while !copying.wait(moment) {}
        copying.confirm();
        assert_eq!(checkpointer.wait().unwrap()[0].step, step);
        assert_is(&checkpointer.restore(Which::Newest, Part::All).unwrap().unwrap(), step);
    }
    // Given up before and after the places were asked for, and said too early.
    drop(save_to_fill(&mut checkpointer, &plan, 3));
    assert!(told(&checkpointer.wait().unwrap_err()).contains("changed while it was copied"));
    let mut copying = save_to_fill(&mut checkpointer, &plan, 4);
    fill(&mut copying, 4);
    copying.reject();
    assert!(checkpointer.wait().unwrap().is_empty());
    let mut copying = save_to_fill(&mut checkpointer, &plan, 5);
    fill(&mut copying, 5);
    copying.confirm();
    assert!(told(&checkpointer.wait().unwrap_err()).contains("changed while it was copied"));
    checkpointer.wait().unwrap();
    assert_eq!((steps(&tiers), staged(&tiers)), (vec![1, 2], 0));
}

#[test]
fn a_checkpointer_that_ends_waits_for_who_fills_its_memory() {
    let tiers = TempTiers::new(BUDGET_BYTES);
    let mut checkpointer = open(&tiers.transfer(), &keep_all()).unwrap();
    let plan = StatePlan::new(&state(0)).unwrap();
    let mut copying = save_to_fill(&mut checkpointer, &plan, 1);
    assert_eq!(copying.places().len(), state(0).len() - 3);
    let ended = Arc::new(AtomicBool::new(false));
    let ending = {
        let ended = ended.clone();
        tiers.runtime.spawn("end", move || {
            drop(checkpointer);
            ended.store(true, Ordering::Release);
        })
    };
    assert!(!copying.wait(Duration::from_millis(20)) && !ended.load(Ordering::Acquire));
    // The memory is there.
    fill(&mut copying, 1);
    copying.filled();
    while !copying.wait(Duration::from_millis(10)) {}
    copying.confirm();
    ending.join().unwrap();
    assert_eq!(steps(&tiers), [1]);
}

#[test]
fn where_no_memory_holds_a_copy_there_is_nothing_to_fill() {
    let tiers = TempTiers::new(BUDGET_BYTES);
    let settings = CheckpointSettings { arena_bytes_max: Some(1000), ..keep_all() };
    let mut checkpointer = open(&tiers.transfer(), &settings).unwrap();
    let plan = StatePlan::new(&state(0)).unwrap();
    assert!(!checkpointer.holds(&plan).unwrap());
    let deferred = Deferred { later: Vec::new(), filled: state(0).len() };
    let said = metadata(1).to_string();
    let position = Position { step: 1 };
    let refused = checkpointer.save_overlapped(1, position, &plan, &[], deferred, said);
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Full);
    // It goes on, without.
    assert!(save_overlapped(&mut checkpointer, &plan, 2, 2).0.streamed);
    assert_eq!(checkpointer.wait().unwrap().len(), 1);
    drop(checkpointer);
    let mut roomy = open(&tiers.transfer(), &keep_all()).unwrap();
    assert!(roomy.holds(&plan).unwrap());
}

/// Locks nothing, and knows what it locked. Memory is there when it is locked, and still when it no
/// longer is.
#[derive(Default)]
struct Watched {
    locked: Mutex<BTreeMap<usize, usize>>,
    times: AtomicUsize,
    refuses: AtomicBool,
}

impl Watched {
    fn locked(&self) -> BTreeMap<usize, usize> {
        self.locked.lock().unwrap().clone()
    }
}

fn is_mapped(start: usize, bytes: usize) -> bool {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let mut ranges: Vec<(usize, usize)> = maps
        .lines()
        .map(|line| {
            let (from, to) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
            let parse = |text| usize::from_str_radix(text, 16).unwrap();
            (parse(from), parse(to))
        })
        .collect();
    ranges.sort_unstable();
    let reached = ranges.into_iter().fold(
        start,
        |at, (from, to)| {
            if from <= at && at < to { to } else { at }
        },
    );
    reached >= start + bytes
}

impl PageLocks for Watched {
    fn lock(&self, address: usize, bytes: usize) -> bool {
        assert!(is_mapped(address, bytes));
        let before = self.locked.lock().unwrap().insert(address, bytes);
        self.times.fetch_add(1, Ordering::Relaxed);
        before.is_none()
    }

    fn unlock(&self, address: usize) -> bool {
        if self.refuses.load(Ordering::Relaxed) {
            return false;
        }
        let bytes = self.locked.lock().unwrap().remove(&address);
        bytes.is_some_and(|bytes| is_mapped(address, bytes))
    }
}

/// A state of one tensor.
fn of_bytes(bytes: usize) -> Vec<StateTensor<'static>> {
    vec![StateTensor {
        name: Cow::Borrowed("one"),
        dtype: Dtype::U8,
        shape: vec![bytes as u64],
        bytes: Cow::Owned(vec![7; bytes]),
        part: None,
    }]
}

#[test]
fn pages_are_locked_once_and_unlocked_before_they_go() {
    let tiers = TempTiers::new(BUDGET_BYTES);
    let mut checkpointer = open(&tiers.transfer(), &keep_all()).unwrap();
    let locks = Arc::new(Watched::default());
    checkpointer.lock_pages(locks.clone());
    // Opening it has memory made ready too.
    while !checkpointer.await_ready(Duration::from_millis(10)).unwrap() {}
    checkpointer.expect(1 << 20).unwrap();
    let mut save = |step: u64, bytes: usize, said: &Value| {
        checkpointer.save(step, Position { step }, &of_bytes(bytes), said).unwrap();
        checkpointer.wait().unwrap();
        // It is locked before it is back.
        while !checkpointer.await_ready(Duration::from_millis(10)).unwrap() {}
        locks.locked()
    };
    let first = save(1, 1000, &metadata(1));
    assert_eq!(first.len(), 1);
    assert_eq!(save(2, 900 << 10, &metadata(2)), first);
    assert_eq!(locks.times.load(Ordering::Relaxed), 1);
    // It grows in the save, but not for what is said beside the tensors, which others than it read.
    let second = save(3, 3 << 20, &metadata(3));
    assert!(second.len() == 1 && second.values().all(|&bytes| bytes >= 3 << 20));
    let said = serde_json::json!({ "long": "x".repeat(200 << 10) });
    assert_eq!(save(4, 3 << 20, &said), second);
    assert_eq!(locks.times.load(Ordering::Relaxed), 2);
    drop(checkpointer);
    assert!(locks.locked().is_empty());
}

#[test]
fn memory_that_cannot_be_unlocked_stays_where_it_is() {
    let tiers = TempTiers::new(BUDGET_BYTES);
    let mut checkpointer = open(&tiers.transfer(), &keep_all()).unwrap();
    let locks = Arc::new(Watched::default());
    checkpointer.lock_pages(locks.clone());
    let plan = |bytes| StatePlan::new(&of_bytes(bytes)).unwrap();
    assert!(checkpointer.holds(&plan(1000)).unwrap());
    checkpointer.expect(1000).unwrap();
    while !checkpointer.await_ready(Duration::from_millis(10)).unwrap() {}
    locks.refuses.store(true, Ordering::Relaxed);
    checkpointer.save(1, Position { step: 1 }, &of_bytes(3 << 20), &metadata(1)).unwrap();
    assert_eq!(checkpointer.wait().unwrap().len(), 1);
    drop(checkpointer);
    let locked = locks.locked();
    assert_eq!(locked.len(), 2);
    assert!(locked.into_iter().all(|(address, bytes)| is_mapped(address, bytes)));
}

#[test]
fn without_memory_for_a_copy_the_state_is_staged_from_where_it_lies() {
    let tiers = TempTiers::new(BUDGET_BYTES);
    let transfer = tiers.transfer();
    let settings = CheckpointSettings { arena_bytes_max: Some(1000), ..keep_all() };
    let mut checkpointer = open(&transfer, &settings).unwrap();
    let plan = StatePlan::new(&state(0)).unwrap();
    for step in [1, 2] {
        let (capture, copying) = save_overlapped(&mut checkpointer, &plan, step, 2);
        assert!(capture.streamed && copying.is_none());
        // It is on this node when the call returns.
        assert!(staged(&tiers) >= 2);
    }
    let steps_saved: Vec<_> = checkpointer.wait().unwrap().iter().map(|one| one.step).collect();
    assert_eq!(steps_saved, [1, 2]);
    for step in [1, 2] {
        let restored = checkpointer.restore(Which::Step(step), Part::All).unwrap().unwrap();
        assert_is(&restored, step);
    }
    assert_eq!(staged(&tiers), 0);
    assert!(!tiers.local.memory_folder().exists());
}

#[test]
fn what_could_not_be_staged_is_in_memory_for_the_next_process() {
    // Room for the file of one save, and not for its record.
    let tiers = TempTiers::new(9000);
    let transfer = tiers.transfer();
    let mut checkpointer = open(&transfer, &keep_all()).unwrap();
    save(&mut checkpointer, 1).unwrap();
    let error = checkpointer.wait().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Full);
    drop(checkpointer);
    assert_eq!(tiers.local.kept_memory().unwrap().len(), 1);
    assert!(matches!(tiers.local.clear(), Err(forebay_local::Error::Undrained { .. })));
    drop(transfer);
    let roomy = LocalTier::open(&tiers.local_path(), BUDGET_BYTES, &tiers.runtime).unwrap();
    let transfer = Transfer::new(&tiers.lake, &roomy, &tiers.runtime);
    let checkpointer = open(&transfer, &keep_all()).unwrap();
    assert_eq!(checkpointer.recovered()[0].outcome, Recovery::Committed);
    assert_is(&checkpointer.restore(Which::Newest, Part::All).unwrap().unwrap(), 1);
    drop(checkpointer);
    roomy.clear().unwrap();
}

#[test]
fn after_the_wait_memory_alone_has_it_until_the_next_capture_or_the_end() {
    let tiers = TempTiers::new(BUDGET_BYTES);
    let transfer = tiers.transfer();
    let mut checkpointer = open(&transfer, &keep_all()).unwrap();
    let tier = |step| {
        let restored = restore(&transfer, &run(), Which::Step(step), Part::All).unwrap().unwrap();
        assert_is(&restored, step);
        restored.tier()
    };
    for step in [1, 2] {
        save(&mut checkpointer, step).unwrap();
        checkpointer.wait().unwrap();
        assert_eq!((staged(&tiers), tier(step)), (0, Tier::Memory));
        assert!(tiers.local.kept_memory().unwrap().is_empty(), "nothing is to be staged again");
    }
    assert_eq!(tier(1), Tier::Lake);
    drop(checkpointer);
    assert_eq!(tier(2), Tier::Lake);
    tiers.local.clear().unwrap();
}

#[test]
fn memory_of_another_attempt_at_the_step_is_not_read() {
    let (tiers, other) = (TempTiers::new(BUDGET_BYTES), TempTiers::new(BUDGET_BYTES));
    let mut checkpointer = open(&tiers.transfer(), &keep_all()).unwrap();
    save(&mut checkpointer, 1).unwrap();
    checkpointer.wait().unwrap();
    let mut elsewhere = open(&other.transfer(), &keep_all()).unwrap();
    save(&mut elsewhere, 1).unwrap();
    elsewhere.wait().unwrap();
    let ours = memory(&tiers);
    std::fs::rename(&ours, ours.with_file_name("aside")).unwrap();
    std::fs::copy(memory(&other), ours).unwrap();
    let restored = checkpointer.restore(Which::Newest, Part::All).unwrap().unwrap();
    assert_eq!(restored.tier(), Tier::Lake);
    assert_is(&restored, 1);
}

/// Whoever reads beside captures gets a state that was saved, whole, wherever it comes from.
#[test]
fn a_reader_and_the_next_capture_never_mix() {
    let tiers = TempTiers::new(BUDGET_BYTES);
    let transfer = tiers.transfer();
    let state = |step: u64| -> Vec<StateTensor<'static>> {
        let tensor = |number: usize| StateTensor {
            name: format!("model.t{number}").into(),
            dtype: Dtype::U8,
            shape: vec![1 << 20],
            bytes: vec![step as u8; 1 << 20].into(),
            part: None,
        };
        (0..4).map(tensor).collect()
    };
    let mut checkpointer = open(&transfer, &keep_all()).unwrap();
    let (reading, done) = (transfer.clone(), Arc::new(AtomicBool::new(false)));
    let reader = tiers.runtime.spawn("reader", {
        let done = done.clone();
        move || {
            let mut read = 0;
            while !done.load(Ordering::Relaxed) {
                let found = restore(&reading, &run(), Which::Newest, Part::All).unwrap();
                if let Some(restored) = found {
                    assert_tensors(&restored, &state(restored.step()));
                    read += 1;
                }
            }
            read
        }
    });
    for step in 1..=20 {
        checkpointer.save(step, Position { step }, &state(step), &Value::Null).unwrap();
    }
    checkpointer.wait().unwrap();
    done.store(true, Ordering::Relaxed);
    assert!(reader.join().unwrap() > 0);
}

#[test]
fn a_run_is_asked_for_a_checkpoint_from_outside() {
    let tiers = TempTiers::new(BUDGET_BYTES);
    let (lake, local, runtime) = (&tiers.lake, &tiers.local, &tiers.runtime);
    local.ask(&run()).unwrap();
    let transfer = tiers.transfer();
    let mut checkpointer = open(&transfer, &keep_all()).unwrap();
    assert!(!checkpointer.asked(), "whoever was asked is dead");
    save(&mut checkpointer, 1).unwrap();
    checkpointer.wait().unwrap();
    let asking = {
        let (lake, local, runtime) = (lake.clone(), local.clone(), runtime.clone());
        let ask = move || ask(&lake, &local, &run(), Duration::from_secs(600), &runtime);
        tiers.runtime.spawn("ask", ask)
    };
    until(runtime, || checkpointer.asked());
    assert!(!checkpointer.asked(), "it is told once");
    save(&mut checkpointer, 2).unwrap();
    assert_eq!(asking.join().unwrap().unwrap(), Some(2));
    let nobody = Name::new("nobody").unwrap();
    assert_eq!(ask(lake, local, &nobody, Duration::ZERO, runtime).unwrap(), None);
    assert!(!local.take_ask(&nobody).unwrap(), "it was taken back");
    drop(checkpointer);
    local.clear().unwrap();
}

#[test]
fn the_launches_of_a_run_are_known() {
    let tiers = TempTiers::new(BUDGET_BYTES);
    assert!(launches(&tiers.lake, &run()).unwrap().is_empty());
    for step in 1..=3 {
        let transfer = tiers.transfer();
        let mut checkpointer = open(&transfer, &keep_all()).unwrap();
        save(&mut checkpointer, step).unwrap();
        checkpointer.wait().unwrap();
    }
    let launches = launches(&tiers.lake, &run()).unwrap();
    assert_eq!(launches.len(), 3);
    assert!(launches.is_sorted_by_key(|launch| launch.claimed_unix_ms));
}

/// A feed whose dataset is larger than the tier fills it; what it can fetch again makes way.
#[test]
fn a_tier_full_of_cached_objects_makes_way_for_a_save() {
    let tiers = TempTiers::new(100_000);
    let transfer = tiers.transfer();
    let fill = || {
        for number in 0..12_u8 {
            let body = vec![number; 9000];
            let key = forebay_testing::key(&format!("shards/{number}"));
            tiers.lake.write(&key, Purpose::Shard, &body).unwrap();
            let object = Object::whole(key, Digest::of(&body), 9000, Purpose::Shard);
            drop(transfer.fetch(&object).unwrap());
        }
    };
    fill();
    let free_bytes = |tiers: &TempTiers| {
        let usage = tiers.local.usage().unwrap();
        usage.budget_bytes - usage.used_bytes()
    };
    assert!(free_bytes(&tiers) < 9000);
    let mut checkpointer = open(&transfer, &keep_all()).unwrap();
    for step in [1, 2] {
        save(&mut checkpointer, step).unwrap();
        checkpointer.wait().unwrap();
        assert_is(&checkpointer.restore(Which::Newest, Part::All).unwrap().unwrap(), step);
        assert!(tiers.local.usage().unwrap().cached_bytes > 50_000, "no more than was needed");
        fill();
    }
    // What never fits evicts nothing.
    let before = tiers.local.usage().unwrap();
    let refused = transfer.stage(&forebay_testing::key("staged/large"), 100_001).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Full);
    assert_eq!(tiers.local.usage().unwrap(), before);
}

#[test]
fn saves_do_not_wait_for_the_drain_and_each_names_the_one_before() {
    let tiers = TempTiers::new(BUDGET_BYTES);
    let transfer = tiers.transfer();
    let mut checkpointer = open(&transfer, &keep_all()).unwrap();
    for step in 1..=12 {
        save(&mut checkpointer, step).unwrap();
    }
    let reports = checkpointer.wait().unwrap();
    assert_eq!(reports.len(), 12);
    for report in &reports {
        assert!(report.stage_seconds <= report.durable_seconds, "{report:?}");
        assert!(report.waited_seconds <= report.pause_seconds, "{report:?}");
    }
    assert_eq!(steps(&tiers), (1..=12).collect::<Vec<_>>());
    for summary in list(&tiers.lake, &run()).unwrap() {
        assert_eq!(summary.parent, (summary.step > 1).then_some(summary.step - 1));
        let restored = restore(&transfer, &run(), Which::Step(summary.step), Part::All);
        assert_is(&restored.unwrap().unwrap(), summary.step);
    }
    assert_eq!(staged(&tiers), 0);
}

#[test]
fn a_run_without_checkpoints_has_none_and_a_step_that_is_not_there_is_named() {
    let tiers = TempTiers::new(BUDGET_BYTES);
    let transfer = tiers.transfer();
    let mut checkpointer = open(&transfer, &keep_all()).unwrap();
    assert!(checkpointer.restore(Which::Newest, Part::All).unwrap().is_none());
    save(&mut checkpointer, 5).unwrap();
    checkpointer.wait().unwrap();
    let error = checkpointer.restore(Which::Step(6), Part::All).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(error.to_string(), "run day has no committed checkpoint at step 6; it has 5");
}

#[test]
fn a_state_that_cannot_be_stored_is_refused_and_named() {
    let tiers = TempTiers::new(BUDGET_BYTES);
    let mut checkpointer = open(&tiers.transfer(), &keep_all()).unwrap();
    let mut wrong = state(1);
    wrong[0].shape[0] += 1;
    let position = Position { step: 1 };
    let error = checkpointer.save(1, position, &wrong, &Value::Null).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("model.embedding"), "{error}");
    let twice = [state(1).remove(0), state(2).remove(0)];
    let error = checkpointer.save(1, position, &twice, &Value::Null).unwrap_err();
    assert!(error.to_string().contains("model.embedding"), "{error}");
    // The checkpointer goes on.
    save(&mut checkpointer, 2).unwrap();
    checkpointer.wait().unwrap();
    assert_eq!(steps(&tiers), [2]);
}

#[test]
fn a_lake_that_is_away_is_told_of_and_nothing_is_lost() {
    let tiers = TempTiers::new(BUDGET_BYTES);
    let transfer = tiers.transfer();
    let mut checkpointer = open(&transfer, &keep_all()).unwrap();
    save(&mut checkpointer, 1).unwrap();
    checkpointer.wait().unwrap();
    tiers.store.inject(
        Request::Write,
        "000000000002",
        9,
        Fault::Fails(io::ErrorKind::PermissionDenied),
    );
    save(&mut checkpointer, 2).unwrap();
    let error = checkpointer.wait().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(
        told(&error).contains("checkpoint step 2 of run day is not committed"),
        "{}",
        told(&error)
    );
    assert_eq!((steps(&tiers), staged(&tiers)), (vec![1], 2));
    // Told once; the next wait tries again.
    tiers.store.behave();
    assert_eq!(checkpointer.wait().unwrap().len(), 1);
    assert_eq!((steps(&tiers), staged(&tiers)), (vec![1, 2], 0));
}

#[test]
fn the_next_save_tells_the_error_and_the_one_after_it_drains_both() {
    let tiers = TempTiers::new(BUDGET_BYTES);
    let transfer = tiers.transfer();
    let mut checkpointer = open(&transfer, &keep_all()).unwrap();
    // Once while it is staged, which is not told, and once when it is drained.
    tiers.store.inject(Request::Write, "000000000001", 2, Fault::FullAfter(500));
    save(&mut checkpointer, 1).unwrap();
    let mut error = None;
    until(&tiers.runtime, || {
        error = save(&mut checkpointer, 2).err();
        error.is_some()
    });
    assert_eq!(error.unwrap().kind(), ErrorKind::Full);
    save(&mut checkpointer, 3).unwrap();
    checkpointer.wait().unwrap();
    assert!(steps(&tiers).starts_with(&[1]) && steps(&tiers).ends_with(&[3]));
}

#[test]
fn what_a_process_could_not_drain_the_next_one_does() {
    let tiers = TempTiers::new(BUDGET_BYTES);
    let mut checkpointer = open(&tiers.transfer(), &keep_all()).unwrap();
    tiers.store.inject(Request::Write, "", 99, Fault::Fails(io::ErrorKind::PermissionDenied));
    save(&mut checkpointer, 1).unwrap();
    drop(checkpointer);
    // While the lake is away, opening says so and keeps everything.
    assert_eq!(open(&tiers.transfer(), &keep_all()).err().unwrap().kind(), ErrorKind::Unavailable);
    let tiers = tiers.reopen();
    let checkpointer = open(&tiers.transfer(), &keep_all()).unwrap();
    assert_eq!(checkpointer.recovered().len(), 1);
    assert_eq!(checkpointer.recovered()[0].outcome, Recovery::Committed);
    let restored = checkpointer.restore(Which::Newest, Part::All).unwrap().unwrap();
    assert_is(&restored, 1);
    assert_eq!(restored.tier(), Tier::Local);
    drop(checkpointer);
    assert_eq!(staged(&tiers), 0);
}

#[test]
fn staged_bytes_that_went_bad_never_reach_the_lake() {
    for part in [".safetensors", ".json"] {
        let tiers = TempTiers::new(BUDGET_BYTES);
        let mut checkpointer = open(&tiers.transfer(), &keep_all()).unwrap();
        save(&mut checkpointer, 1).unwrap();
        checkpointer.wait().unwrap();
        tiers.store.inject(Request::Write, "", 9, Fault::Fails(io::ErrorKind::PermissionDenied));
        save(&mut checkpointer, 2).unwrap();
        drop(checkpointer);
        let name = tiers.local.staged().unwrap().into_iter().map(|staged| staged.name.to_string());
        let path = tiers
            .local_path()
            .join("staging")
            .join({ name }.find(|name| name.ends_with(part)).unwrap());
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let tiers = tiers.reopen();
        let checkpointer = open(&tiers.transfer(), &keep_all()).unwrap();
        let outcome = &checkpointer.recovered()[0].outcome;
        assert!(
            matches!(outcome, Recovery::Damaged(what) if what.contains("damaged")),
            "{outcome:?}"
        );
        assert_eq!((steps(&tiers), staged(&tiers)), (vec![1], 0));
    }
}

#[test]
fn lost_replies_of_the_commit_change_nothing() {
    let lost = Fault::ReplyLost(io::ErrorKind::ConnectionReset);
    for fault in [lost, Fault::SaysExists, Fault::Fails(io::ErrorKind::TimedOut)] {
        let tiers = TempTiers::new(BUDGET_BYTES);
        tiers.store.inject(Request::Create, "commit.json", 1, fault);
        let mut checkpointer = open(&tiers.transfer(), &keep_all()).unwrap();
        save(&mut checkpointer, 1).unwrap();
        assert_eq!(checkpointer.wait().unwrap().len(), 1, "{fault:?}");
        assert_is(&checkpointer.restore(Which::Newest, Part::All).unwrap().unwrap(), 1);
    }
}

#[test]
fn a_committed_step_stands() {
    let tiers = TempTiers::new(BUDGET_BYTES);
    let transfer = tiers.transfer();
    let mut checkpointer = open(&transfer, &keep_all()).unwrap();
    save(&mut checkpointer, 1).unwrap();
    checkpointer.wait().unwrap();
    let before = objects(&transfer);
    // The same state again, as a resumed run makes it.
    save(&mut checkpointer, 1).unwrap();
    assert_eq!(checkpointer.wait().unwrap().len(), 1);
    assert_eq!(objects(&transfer), before);
    // Other tensors; other metadata; another position.
    let ours = (state(1), metadata(1), Position { step: 1 });
    for (tensors, metadata, position) in [
        (state(99), ours.1.clone(), ours.2),
        (ours.0.clone(), metadata(99), ours.2),
        (ours.0.clone(), ours.1.clone(), Position { step: 2 }),
    ] {
        checkpointer.save(1, position, &tensors, &metadata).unwrap();
        let error = checkpointer.wait().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert!(told(&error).contains("step 1 of run day is committed already"), "{error}");
    }
    assert_eq!((objects(&transfer), staged(&tiers)), (before, 0));
    assert_is(&checkpointer.restore(Which::Newest, Part::All).unwrap().unwrap(), 1);
}

#[test]
fn a_budget_too_small_is_told_with_what_is_needed() {
    let tiers = TempTiers::new(6000);
    let mut checkpointer = open(&tiers.transfer(), &keep_all()).unwrap();
    save(&mut checkpointer, 1).unwrap();
    let error = checkpointer.wait().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Full);
    assert!(told(&error).contains("6000 bytes"), "{}", told(&error));
    assert_eq!((steps(&tiers), staged(&tiers)), (vec![], 0));
}

#[test]
fn a_budget_for_one_save_makes_the_next_wait_for_its_drain() {
    // A file of some 8.7 KB and its record of some 3 KB fit once and not twice.
    let tiers = TempTiers::new(16_000);
    let mut checkpointer = open(&tiers.transfer(), &keep_all()).unwrap();
    for step in 1..=5 {
        save(&mut checkpointer, step).unwrap();
    }
    assert_eq!(checkpointer.wait().unwrap().len(), 5);
    assert_eq!(steps(&tiers), [1, 2, 3, 4, 5]);
}

#[test]
fn the_newest_is_restored_from_the_node_while_it_is_there_and_sound() {
    let tiers = TempTiers::new(BUDGET_BYTES);
    let mut checkpointer = open(&tiers.transfer(), &keep_all()).unwrap();
    save(&mut checkpointer, 1).unwrap();
    until(&tiers.runtime, || !checkpointer.finished().is_empty());
    let restored = checkpointer.restore(Which::Newest, Part::All).unwrap().unwrap();
    assert_eq!(restored.tier(), Tier::Memory);
    assert_is(&restored, 1);
    let names = tiers.local.staged().unwrap();
    let file = names.iter().find(|staged| staged.name.as_str().ends_with(".safetensors")).unwrap();
    let path = tiers.local_path().join("staging").join(file.name.as_str());
    // The last byte of the image is that of the narrowest element, `model.scale`.
    for (path, next) in [(memory(&tiers), Tier::Local), (path, Tier::Lake)] {
        flip(&path, file.bytes - 1);
        let restored = checkpointer.restore(Which::Newest, Part::All).unwrap().unwrap();
        assert_eq!(restored.tier(), next);
        assert_is(&restored, 1);
    }
    checkpointer.wait().unwrap();
    assert_eq!(staged(&tiers), 0);
}

#[test]
fn retention_keeps_the_last_and_every_nth_and_leaves_no_file_of_others() {
    let tiers = TempTiers::new(BUDGET_BYTES);
    let transfer = tiers.transfer();
    let settings = CheckpointSettings { keep_last: 2, keep_every: 30, ..keep_all() };
    let mut checkpointer = open(&transfer, &settings).unwrap();
    let mut removed = Vec::new();
    for step in [10, 20, 30, 40, 50] {
        save(&mut checkpointer, step).unwrap();
        removed.extend(checkpointer.wait().unwrap().remove(0).removed);
    }
    assert_eq!((steps(&tiers), removed), (vec![30, 40, 50], vec![10, 20]));
    assert_eq!(objects(&transfer).len(), 9);
    // A removal that fails is told, and made good by the next.
    tiers.store.inject(
        Request::Delete,
        "000000000040",
        1,
        Fault::Fails(io::ErrorKind::PermissionDenied),
    );
    save(&mut checkpointer, 60).unwrap();
    let error = checkpointer.wait().unwrap_err();
    assert!(told(&error).contains("step 60 of run day is committed, but"), "{}", told(&error));
    save(&mut checkpointer, 70).unwrap();
    checkpointer.wait().unwrap();
    assert_eq!(steps(&tiers), [30, 60, 70]);
}

#[test]
fn the_commit_names_the_dataset_and_records_show_every_digest() {
    let tiers = TempTiers::new(BUDGET_BYTES);
    let dataset = forebay_format::v1::run::DatasetReference {
        name: run(),
        version: forebay_types::Version::FIRST,
        digest: forebay_types::Digest::of(b"manifest"),
    };
    let mut checkpointer =
        open(&tiers.transfer(), &keep_all()).unwrap().with_dataset(dataset.clone());
    save(&mut checkpointer, 4).unwrap();
    checkpointer.wait().unwrap();
    let shown = show(&tiers.lake, &run(), 4).unwrap();
    assert_eq!(shown.commit.dataset, Some(dataset));
    for tensor in state(4) {
        let digest = forebay_types::Digest::of(&tensor.bytes);
        assert_eq!(shown.tensor_digests()[&*tensor.name], digest);
    }
}

#[test]
fn an_export_is_read_by_others_and_never_written_over_anything() {
    let tiers = TempTiers::new(BUDGET_BYTES);
    let mut checkpointer = open(&tiers.transfer(), &keep_all()).unwrap();
    save(&mut checkpointer, 4).unwrap();
    checkpointer.wait().unwrap();
    let output = tiers.path().join("out");
    let exported = export(&tiers.lake, &run(), None, Part::Weights, &output).unwrap();
    assert_eq!((exported.step, exported.tensors), (4, 2));
    let bytes = std::fs::read(output.join("model.safetensors")).unwrap();
    let judge = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(judge.len(), 2);
    assert!(judge.tensor("model.embedding").unwrap().data() == &*state(4)[0].bytes);
    let error = export(&tiers.lake, &run(), None, Part::All, &output).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

#[test]
fn several_ranks_must_say_which_launch_they_are() {
    let tiers = TempTiers::new(BUDGET_BYTES);
    let rank = Rank::new(1, 2).unwrap();
    let opened = Checkpointer::open(&tiers.transfer(), &run(), rank, &keep_all(), &tiers.runtime);
    assert_eq!(opened.err().unwrap().kind(), ErrorKind::Invalid);
}
