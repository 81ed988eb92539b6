//! Staging: a checkpoint made durable on the node, as a file alone, and as a save with its digests and its
//! seal. Limits: the same bytes from the same kind of memory past the page cache, in order, and one fsync;
//! and through the page cache.

use std::{
    borrow::Cow,
    fs::{File, OpenOptions},
    io::Write,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
    time::Duration,
};

use forebay_bench::{Bench, Scratch, Work};
use forebay_checkpoint::{CheckpointSettings, Checkpointer, Dtype, StateTensor};
use forebay_lake::Lake;
use forebay_local::LocalTier;
use forebay_transfer::Transfer;
use forebay_types::{Key, Name, Position, Rank, Scattered};
use rustix::fs::{FallocateFlags, OFlags};

const BLOCK_BYTES: usize = 16 << 20;
const PIECE_BYTES: usize = 1 << 20;
/// Tensors of the state, all of one size.
const TENSORS: usize = 16;

fn main() {
    let bench = Bench::begin("stage: a checkpoint to durable storage of the node");
    let scratch = Scratch::new();
    let runtime = bench.runtime();
    let budget_bytes = 4 * bench.bytes() as u64 + (64 << 20);
    let local = LocalTier::open(&scratch.path().join("local"), budget_bytes, runtime);
    let local = local.expect("a directory for the local tier");
    let url = scratch.path().join("lake").display().to_string();
    let lake = Lake::open(&url, runtime).expect("a directory for the lake");
    // What an arena is made of.
    let mut body = local.memory(bench.bytes()).expect("as much memory");
    body.iter_mut().enumerate().for_each(|(index, byte)| *byte = (index / 7) as u8);
    let plain = scratch.path().join("plain");
    let name = Key::new("run/1/rank-0.safetensors").expect("a sound name");

    bench
        .contest("file", Work::Bytes(body.len() as u64))
        .with("stage", || {
            local.release(&name).expect("the file can go");
            bench.time(|| stage(&local, &name, &body))
        })
        .with("direct write and fsync", || {
            std::fs::remove_file(&plain).ok();
            bench.time(|| write_direct(&plain, &body))
        })
        .with("write and fsync", || {
            std::fs::remove_file(&plain).ok();
            bench.time(|| write(&plain, &body))
        })
        .run();
    local.release(&name).expect("the file can go");

    let mut checkpointer = open(&Transfer::new(&lake, &local, runtime));
    let tensor_bytes = bench.bytes() / TENSORS / 4 * 4;
    let tensors = body.chunks_exact(tensor_bytes).take(TENSORS).enumerate();
    let state: Vec<StateTensor<'_>> = tensors.map(|(number, v)| tensor(number, v)).collect();
    let mut step = 0;
    bench
        .contest("save, once captured", Work::Bytes((tensor_bytes * TENSORS) as u64))
        .with("stage", || {
            step += 1;
            save(&mut checkpointer, step, &state)
        })
        .with("direct write and fsync", || {
            std::fs::remove_file(&plain).ok();
            bench.time(|| write_direct(&plain, &body))
        })
        .run();
}

fn stage(local: &LocalTier, name: &Key, body: &[u8]) {
    let mut writer = local.stage(name, body.len() as u64).expect("room in the tier");
    writer.write_direct(&Scattered::from(body), &|_| ()).expect("room on disk");
    writer.finish().expect("the file becomes durable");
}

fn write_direct(path: &Path, body: &[u8]) {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).custom_flags(OFlags::DIRECT.bits() as i32);
    let file = options.open(path).expect("a file system that can be written past the page cache");
    rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, body.len() as u64)
        .expect("room on disk");
    let blocks = body.chunks(BLOCK_BYTES).zip((0..).step_by(BLOCK_BYTES));
    blocks.for_each(|(block, offset)| file.write_all_at(block, offset).expect("room on disk"));
    file.sync_all().expect("the file becomes durable");
}

fn write(path: &Path, body: &[u8]) {
    let mut file = File::create(path).expect("a new file");
    body.chunks(PIECE_BYTES).try_for_each(|piece| file.write_all(piece)).expect("room on disk");
    file.sync_all().expect("the file becomes durable");
}

/// From the end of the capture until it is durable on this node.
fn save(checkpointer: &mut Checkpointer, step: u64, state: &[StateTensor<'_>]) -> Duration {
    let metadata = serde_json::Value::Null;
    checkpointer.save(step, Position { step }, state, &metadata).expect("the state is sound");
    let reports = checkpointer.wait().expect("room in both tiers");
    Duration::from_secs_f64(reports[0].stage_seconds)
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

fn open(transfer: &Transfer) -> Checkpointer {
    // The state is the same each time, and is to be written each time.
    let settings =
        CheckpointSettings { keep_last: 1, incremental: false, ..CheckpointSettings::default() };
    let run = Name::new("bench").expect("a sound name");
    Checkpointer::open(transfer, &run, Rank::ALONE, &settings, transfer.runtime())
        .expect("nothing was left behind")
}
