//! States that can be told apart, and how to compare them.

#![allow(dead_code, reason = "not every test uses all of it")]

use std::{borrow::Cow, error::Error as _};

use forebay_checkpoint::{CheckpointSettings, Checkpointer, Dtype, Error, Restored, StateTensor};
use forebay_runtime::Runtime;
use forebay_transfer::Transfer;
use forebay_types::{Name, Position, Rank};
use serde_json::{Value, json};

pub fn run() -> Name {
    Name::new("day").unwrap()
}

pub fn keep_all() -> CheckpointSettings {
    CheckpointSettings { keep_last: 0, commit_wait_seconds: 0, ..CheckpointSettings::default() }
}

/// A small state that `seed` decides: weights, moments, a counter and an empty tensor.
pub fn state(seed: u64) -> Vec<StateTensor<'static>> {
    let tensor = |name: &str, dtype: Dtype, shape: &[u64]| {
        let bytes = shape.iter().product::<u64>() * dtype.bytes();
        let value = |at: u64| (at.wrapping_mul(0x9e37_79b9).wrapping_add(seed * 77) >> 3) as u8;
        StateTensor {
            name: Cow::Owned(name.to_owned()),
            dtype,
            shape: shape.to_vec(),
            bytes: Cow::Owned((0..bytes).map(value).collect()),
            part: None,
        }
    };
    vec![
        tensor("model.embedding", Dtype::F32, &[64, 16]),
        tensor("model.scale", Dtype::BF16, &[]),
        tensor("optimizer.first_moment.embedding", Dtype::F32, &[64, 16]),
        tensor("optimizer.empty", Dtype::F64, &[0, 3]),
        tensor("optimizer.step", Dtype::U64, &[]),
    ]
}

pub fn metadata(seed: u64) -> Value {
    json!({ "loss": 0.1 + seed as f64 / 3.0, "random": [u64::MAX - seed, seed] })
}

pub fn open(transfer: &Transfer, settings: &CheckpointSettings) -> Result<Checkpointer, Error> {
    Checkpointer::open(transfer, &run(), Rank::ALONE, settings, transfer.runtime())
}

pub fn save(checkpointer: &mut Checkpointer, step: u64) -> Result<(), Error> {
    let position = Position { step };
    checkpointer.save(step, position, &state(step), &metadata(step)).map(drop)
}

/// Panics unless `restored` is, bit for bit, what `save` saves at `step`.
pub fn assert_is(restored: &Restored, step: u64) {
    assert_eq!(restored.step(), step);
    assert_eq!(restored.position(), Position { step });
    assert_eq!(*restored.metadata(), metadata(step));
    assert_tensors(restored, &state(step));
}

pub fn assert_tensors(restored: &Restored, state: &[StateTensor<'_>]) {
    assert_eq!(restored.tensors().count(), state.len());
    for tensor in state {
        let found = restored.tensor(&tensor.name).unwrap();
        assert_eq!((found.dtype, found.shape), (tensor.dtype, &tensor.shape[..]));
        assert!(found.bytes == &*tensor.bytes, "{}", tensor.name);
    }
}

/// An error and all it came from, as a user reads it.
pub fn told(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

/// Every object of the run's checkpoints.
pub fn objects(transfer: &Transfer) -> Vec<String> {
    let mut found = Vec::new();
    let visit = &mut |listed: forebay_lake::Listed| {
        found.push(listed.key.to_string());
        Ok(())
    };
    transfer.lake().list("runs/day/checkpoints/", visit).unwrap();
    found.sort();
    found
}

/// Waits for `done`, not forever.
pub fn until(runtime: &Runtime, mut done: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if done() {
            return;
        }
        runtime.sleep(std::time::Duration::from_millis(10)).unwrap();
    }
    panic!("it never came to be");
}
