//! Tensors that several ranks hold in parts: stored by each, read by any other number.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod support;

use std::borrow::Cow;

use forebay_checkpoint::{
    Change, CheckpointSettings, Checkpointer, CommittedCheckpoint, Dtype, Error, Part, Region,
    StateTensor, TensorPart, Which, diff, restore,
};
use forebay_testing::TempTiers;
use forebay_types::{ErrorKind, Position, Rank};

use support::{keep_all, run};

const WHOLE: [u64; 2] = [7, 5];
/// The rows that each rank holds.
const ROWS: [std::ops::Range<u64>; 3] = [0..3, 3..3, 3..7];

fn value(step: u64, row: u64, column: u64) -> [u8; 2] {
    // Two steps differ in the last row.
    (100 * row + column + if row == 6 { step } else { 0 }).to_le_bytes()[..2].try_into().unwrap()
}

fn rows(step: u64, rows: std::ops::Range<u64>, columns: std::ops::Range<u64>) -> Vec<u8> {
    rows.flat_map(|row| columns.clone().flat_map(move |column| value(step, row, column))).collect()
}

fn part(step: u64, held: std::ops::Range<u64>) -> StateTensor<'static> {
    StateTensor {
        name: "model.weight".into(),
        dtype: Dtype::U16,
        shape: vec![held.end - held.start, WHOLE[1]],
        part: Some(TensorPart { whole: WHOLE.to_vec(), start: vec![held.start, 0] }),
        bytes: Cow::Owned(rows(step, held, 0..WHOLE[1])),
    }
}

fn alone(rank: usize) -> StateTensor<'static> {
    StateTensor {
        name: format!("random.{rank}").into(),
        dtype: Dtype::U8,
        shape: vec![3],
        bytes: Cow::Owned(vec![rank as u8; 3]),
        part: None,
    }
}

/// Each rank saves its rows of the steps.
fn save(tiers: &TempTiers, steps: &[u64]) {
    let transfer = tiers.transfer();
    let settings = CheckpointSettings { commit_wait_seconds: 60, ..keep_all() };
    let work = |rank: usize| {
        let number = Rank::new(u32::try_from(rank).unwrap(), 3).unwrap();
        let runtime = &tiers.runtime;
        let mut checkpointer =
            Checkpointer::open_launch(&transfer, &run(), number, "one", &settings, runtime)?;
        for &step in steps {
            let state = [part(step, ROWS[rank].clone()), alone(rank)];
            checkpointer.save(step, Position { step }, &state, &serde_json::json!({}))?;
            checkpointer.wait()?;
        }
        Ok::<_, Error>(())
    };
    tiers.runtime.workers("rank", 3, work).unwrap();
}

#[test]
fn any_box_is_put_together_from_the_parts_of_all_ranks() {
    let tiers = TempTiers::new(64 << 20);
    save(&tiers, &[1]);
    let transfer = tiers.transfer();
    let whole = restore(&transfer, &run(), Which::Newest, Part::All).unwrap().unwrap();
    assert_eq!(whole.tensors().count(), 4);
    let weight = whole.tensor("model.weight").unwrap();
    assert_eq!((weight.shape, weight.bytes), (&WHOLE[..], &rows(1, 0..7, 0..5)[..]));
    let opened = CommittedCheckpoint::open(&transfer, &run(), Which::Step(1)).unwrap().unwrap();
    for (held, columns) in [(0..7, 0..5), (2..6, 1..4), (3..7, 0..5), (4..5, 4..5), (2..2, 0..5)] {
        let expected = rows(1, held.clone(), columns.clone());
        let mut found = vec![0; expected.len()];
        let start = vec![held.start, columns.start];
        let shape = vec![held.end - held.start, columns.end - columns.start];
        let region = Region { name: "model.weight", start, shape, into: &mut found };
        opened.read(&transfer, vec![region]).unwrap();
        assert_eq!(found, expected, "{held:?} {columns:?}");
    }
}

#[test]
fn what_is_not_there_as_asked_for_is_refused_by_name() {
    let tiers = TempTiers::new(64 << 20);
    save(&tiers, &[1]);
    let transfer = tiers.transfer();
    let opened = CommittedCheckpoint::open(&transfer, &run(), Which::Newest).unwrap().unwrap();
    let error = |name, start: [u64; 2], shape: [u64; 2], bytes| {
        let mut into = vec![0; bytes];
        let region = Region { name, start: start.into(), shape: shape.into(), into: &mut into };
        let error = opened.read(&transfer, vec![region]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        error.to_string()
    };
    assert!(error("model.bias", [0, 0], [1, 1], 2).contains("`model.bias` of step 1"));
    assert!(error("model.weight", [6, 0], [2, 5], 20).contains("[2, 5] from [6, 0]"));
    assert!(error("model.weight", [0, 0], [1, 5], 9).contains("10 bytes are to be put"));
    let mut outside = part(1, 5..7);
    outside.part = Some(TensorPart { whole: WHOLE.to_vec(), start: vec![6, 0] });
    let mut checkpointer = support::open(&transfer, &keep_all()).unwrap();
    let refused =
        checkpointer.save(2, Position { step: 2 }, &[outside], &serde_json::json!({})).unwrap_err();
    assert!(refused.to_string().contains("`model.weight`"), "{refused}");
}

#[test]
fn a_hole_between_the_parts_is_no_tensor() {
    let tiers = TempTiers::new(64 << 20);
    let transfer = tiers.transfer();
    let mut checkpointer = support::open(&transfer, &keep_all()).unwrap();
    let state = [part(1, 0..3)];
    checkpointer.save(1, Position { step: 1 }, &state, &serde_json::json!({})).unwrap();
    checkpointer.wait().unwrap();
    let refused = restore(&transfer, &run(), Which::Newest, Part::All).unwrap_err();
    assert!(refused.to_string().contains("15 of 35 elements were saved"), "{refused}");
}

#[test]
fn a_difference_names_what_changed_and_by_how_much() {
    let tiers = TempTiers::new(64 << 20);
    save(&tiers, &[1, 4]);
    let found = diff(&tiers.lake, &run(), 1, 4).unwrap();
    assert_eq!((found.before, found.after, found.equal), (1, 4, 3));
    let [weight] = &found.tensors[..] else { panic!("{found:?}") };
    assert_eq!(weight.name, "model.weight");
    let (norm_before, norm_of_change) = (None, None);
    let change = Change::Values { elements: 35, changed: 5, norm_before, norm_of_change };
    assert_eq!(weight.change, change);
    assert_eq!(diff(&tiers.lake, &run(), 4, 4).unwrap().tensors, []);
}

#[test]
fn a_difference_of_floats_has_a_norm() {
    let tiers = TempTiers::new(64 << 20);
    let transfer = tiers.transfer();
    let mut checkpointer = support::open(&transfer, &keep_all()).unwrap();
    let state = |values: [f32; 2], name: &'static str| StateTensor {
        name: name.into(),
        dtype: Dtype::F32,
        shape: vec![2],
        bytes: Cow::Owned(values.iter().flat_map(|value| value.to_le_bytes()).collect()),
        part: None,
    };
    let steps = [
        [state([3.0, 4.0], "model.a"), state([1.0, 1.0], "model.old")],
        [state([3.0, 3.0], "model.a"), state([1.0, 1.0], "model.new")],
    ];
    for (step, state) in (1..).zip(&steps) {
        checkpointer.save(step, Position { step }, state, &serde_json::json!({})).unwrap();
        checkpointer.wait().unwrap();
    }
    let found = diff(&tiers.lake, &run(), 1, 2).unwrap();
    let changes: Vec<_> =
        found.tensors.iter().map(|one| (one.name.as_str(), one.change.clone())).collect();
    let values = Change::Values {
        elements: 2,
        changed: 1,
        norm_before: Some(5.0),
        norm_of_change: Some(1.0),
    };
    let expected =
        [("model.a", values), ("model.new", Change::Added), ("model.old", Change::Removed)];
    assert_eq!(changes, expected);
}
