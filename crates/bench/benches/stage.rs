//! Staging: a checkpoint file made durable on the node. Limit: a plain sequential write and one
//! fsync.

use std::{fs::File, io::Write, path::Path};

use forebay_bench::{Bench, Scratch, Work};
use forebay_local::LocalTier;
use forebay_types::Key;

const PIECE_BYTES: usize = 1 << 20;

fn main() {
    let bench = Bench::begin("stage: a checkpoint file to durable storage of the node");
    let scratch = Scratch::new();
    let body: Vec<u8> = (0..bench.bytes()).map(|index| (index / 7) as u8).collect();
    let budget_bytes = 4 * bench.bytes() as u64;
    let local = LocalTier::open(&scratch.path().join("local"), budget_bytes, bench.runtime())
        .expect("a directory for the local tier");
    let name = Key::new("run/1/rank-0.safetensors").expect("a sound name");
    let plain = scratch.path().join("plain");

    bench
        .contest("stage", Work::Bytes(body.len() as u64))
        .with("stage", || {
            local.release(&name).expect("the file can go");
            bench.time(|| stage(&local, &name, &body))
        })
        .with("write and fsync", || {
            std::fs::remove_file(&plain).ok();
            bench.time(|| write(&plain, &body))
        })
        .run();
}

fn stage(local: &LocalTier, name: &Key, body: &[u8]) {
    let mut writer = local.stage(name, body.len() as u64).expect("room in the tier");
    body.chunks(PIECE_BYTES).try_for_each(|piece| writer.write_all(piece)).expect("room on disk");
    writer.finish().expect("the file becomes durable");
}

fn write(path: &Path, body: &[u8]) {
    let mut file = File::create(path).expect("a new file");
    body.chunks(PIECE_BYTES).try_for_each(|piece| file.write_all(piece)).expect("room on disk");
    file.sync_all().expect("the file becomes durable");
}
