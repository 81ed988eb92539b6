//! Assembling batches from mapped shards. Limits: copying the same bytes from memory to memory,
//! and gathering the same rows, in the same order, from bare maps without a check.

mod dataset;

use std::hint::black_box;

use dataset::{Dataset, SCHEMA};
use forebay_bench::{Bench, Scratch, Work};
use forebay_feed::{Feed, FeedDataset, FeedSettings, Order, Place};
use forebay_types::{Position, Rank, Split};

/// Samples of a batch: half a mebibyte of tokens.
const BATCH_SIZE: u32 = 512;

fn main() {
    let bench = Bench::begin("feed: rows of shards on the node into batches");
    let scratch = Scratch::new();
    let dataset = Dataset::publish(&bench, scratch.path());
    let steps = dataset.rows / u64::from(BATCH_SIZE);
    let row_bytes = SCHEMA.row_bytes();
    let batch_bytes = BATCH_SIZE as usize * row_bytes;
    let work = Work::Bytes(steps * batch_bytes as u64);
    let (mut batch, mut copy) = (vec![0; batch_bytes], vec![0; batch_bytes]);
    let all = dataset.shards.iter().flat_map(|shard| shard.iter().copied()).collect::<Vec<u8>>();

    for threads in [1, 2] {
        let settings = FeedSettings { threads, ..settings() };
        let places = places(&settings, &dataset, steps);
        // Opened once and left open, as a trainer does: an epoch a round.
        let mut feed = Feed::open(
            &dataset.transfer,
            &[FeedDataset::Prepared(&dataset.manifest, Split::Train)],
            &settings,
            Rank::ALONE,
            Position::default(),
        )
        .expect("the dataset fits the settings");
        bench
            .contest(&format!("batches, {threads} thread(s)"), work)
            .with("feed", || bench.time(|| (0..steps).map(|_| next(&mut feed)).sum::<usize>()))
            .with("a bare gather from maps", || {
                bench.time(|| gather(&dataset, &places, &mut batch))
            })
            .with("memcpy of the same bytes", || {
                bench.time(|| {
                    for rows in all.chunks_exact(batch_bytes).take(steps as usize) {
                        copy.copy_from_slice(black_box(rows));
                        black_box(&copy);
                    }
                })
            })
            .run();
    }
}

/// So few batches ahead that hardly one is assembled while the others take their turns.
fn settings() -> FeedSettings {
    let buffer_bytes = 4 * u64::from(BATCH_SIZE) * SCHEMA.row_bytes() as u64;
    FeedSettings { seed: 5, batch_size: BATCH_SIZE, buffer_bytes, ..FeedSettings::default() }
}

fn next(feed: &mut Feed) -> usize {
    let batch = feed.next().expect("the data is sound").expect("epochs follow one another");
    black_box(batch.tokens_le()).len()
}

/// Where the samples of the first epoch lie, in order.
fn places(settings: &FeedSettings, dataset: &Dataset, steps: u64) -> Vec<Place> {
    let order = Order::new(&settings.order(), dataset.rows, dataset.rows_per_shard);
    let epoch = order.epoch(0);
    (0..steps * u64::from(BATCH_SIZE)).map(|position| epoch.place(position)).collect()
}

fn gather(dataset: &Dataset, places: &[Place], batch: &mut [u8]) {
    let row_bytes = SCHEMA.row_bytes();
    for places in places.chunks_exact(BATCH_SIZE as usize) {
        for (place, row) in places.iter().zip(batch.chunks_exact_mut(row_bytes)) {
            row.copy_from_slice(dataset.row(*place));
        }
        black_box(&batch);
    }
}
