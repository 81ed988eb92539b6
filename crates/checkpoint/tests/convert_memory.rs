//! Importing and exporting take memory that does not grow with the model. Alone in its process, so
//! that nothing else is measured.

#![allow(clippy::unwrap_used, reason = "a test may")]

use std::{
    fs::File,
    io::{BufWriter, Write},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use forebay_checkpoint::{Meaning, export_shards, import};
use forebay_testing::{TempTiers, anonymous_bytes};
use forebay_types::Name;

const TENSORS: u64 = 24;
const TENSOR_BYTES: u64 = 32 << 20;
/// The largest read at once, and a little for everything else.
const GROWTH_BYTES_MAX: u64 = (64 + 32) << 20;

#[test]
fn a_model_many_times_as_large_goes_through_bounded_memory() {
    let tiers = TempTiers::new(1 << 20);
    let source = tiers.path().join("model.safetensors");
    let mut header = serde_json::Map::new();
    for number in 0..TENSORS {
        let offsets = [number * TENSOR_BYTES, (number + 1) * TENSOR_BYTES];
        let row = serde_json::json!({
            "dtype": "U8", "shape": [TENSOR_BYTES], "data_offsets": offsets,
        });
        header.insert(format!("t{number:02}"), row);
    }
    let header = serde_json::to_vec(&header).unwrap();
    let mut file = BufWriter::new(File::create(&source).unwrap());
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(&header).unwrap();
    let piece: Vec<u8> = (0..1u32 << 20).map(|at| (at % 251) as u8).collect();
    for _ in 0..(TENSORS * TENSOR_BYTES) >> 20 {
        file.write_all(&piece).unwrap();
    }
    file.flush().unwrap();
    drop(file);

    let (done, highest) = (AtomicBool::new(false), AtomicU64::new(0));
    let before = anonymous_bytes();
    let watch = |_| {
        while !done.load(Ordering::Relaxed) {
            highest.fetch_max(anonymous_bytes(), Ordering::Relaxed);
            tiers.runtime.sleep(Duration::from_millis(2)).unwrap();
        }
        Ok::<(), ()>(())
    };
    let run = Name::new("large").unwrap();
    let work = || {
        let meaning = Meaning::State("model".into());
        import(&tiers.lake, &tiers.runtime, &run, 0, &meaning, &source).unwrap();
        let output = tiers.path().join("output");
        export_shards(&tiers.lake, &run, None, Some("model"), 256 << 20, &output).unwrap();
        done.store(true, Ordering::Relaxed);
        Ok(())
    };
    let workers = |index| if index == 0 { work() } else { watch(index) };
    tiers.runtime.workers("measured", 2, workers).unwrap();
    let growth = highest.load(Ordering::Relaxed).saturating_sub(before);
    assert!(growth <= GROWTH_BYTES_MAX, "{} MiB more", growth >> 20);
}
