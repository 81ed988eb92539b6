//! Capturing a state: the trainer's only pause. Limits: copying the same bytes into memory that
//! was touched before, which is what a capture is for, and into memory that was not, which is what
//! a capture without a kept arena would cost.

use std::{borrow::Cow, hint::black_box};

use forebay_bench::{Bench, Scratch, Work};
use forebay_checkpoint::{CheckpointSettings, Checkpointer, Dtype, StateTensor};
use forebay_lake::Lake;
use forebay_local::LocalTier;
use forebay_transfer::Transfer;
use forebay_types::{Name, Position, Rank};

/// Tensors of the state, all of one size.
const TENSORS: usize = 16;

fn main() {
    let bench = Bench::begin("capture: a training state out of the trainer's hands");
    let tensor_bytes = bench.bytes() / TENSORS / 4 * 4;
    let all: Vec<u8> = (0..tensor_bytes * TENSORS).map(|index| index as u8).collect();
    let tensors = all.chunks_exact(tensor_bytes).enumerate();
    let state: Vec<StateTensor<'_>> = tensors.map(|(number, v)| tensor(number, v)).collect();
    let mut warm = all.clone();

    for threads in [1, 2] {
        let scratch = Scratch::new();
        let mut checkpointer = open(&bench, &scratch, threads);
        let mut step = 0;
        bench
            .contest(&format!("save, {threads} thread(s)"), Work::Bytes(all.len() as u64))
            .with("capture", || {
                step += 1;
                let metadata = serde_json::Value::Null;
                let mut save = || checkpointer.save(step, Position { step }, &state, &metadata);
                let time = bench.time(|| save().expect("the state is sound"));
                // The rest of the afternoon is not the trainer's: it ends before others measure.
                checkpointer.wait().expect("room in both tiers");
                time
            })
            .with("memcpy to warm memory", || bench.time(|| warm.copy_from_slice(black_box(&all))))
            .with("memcpy to fresh memory", || {
                let mut fresh = Vec::new();
                let time = bench.time(|| fresh.extend_from_slice(black_box(&all)));
                drop(fresh);
                time
            })
            .run();
    }
}

fn tensor(number: usize, values: &[u8]) -> StateTensor<'_> {
    StateTensor {
        name: Cow::Owned(format!("model.layer.{number}")),
        dtype: Dtype::F32,
        shape: vec![values.len() as u64 / 4],
        bytes: Cow::Borrowed(values),
        part: None,
    }
}

fn open(bench: &Bench, scratch: &Scratch, threads: usize) -> Checkpointer {
    let runtime = bench.runtime();
    let url = scratch.path().join("lake").display().to_string();
    let lake = Lake::open(&url, runtime).expect("a directory for the lake");
    let budget_bytes = 4 * bench.bytes() as u64 + (64 << 20);
    let local = LocalTier::open(&scratch.path().join("local"), budget_bytes, runtime);
    let transfer = Transfer::new(&lake, &local.expect("a directory for the tier"), runtime);
    let settings = CheckpointSettings { keep_last: 1, threads, ..CheckpointSettings::default() };
    let run = Name::new("bench").expect("a sound name");
    Checkpointer::open(&transfer, &run, Rank::ALONE, &settings, runtime)
        .expect("nothing was left behind")
}
