//! Time to the first batch, and memory, whatever the number of samples.
//!
//! Two datasets, a thousand times apart in size: 10^6 samples in 10^3 shards and 10^9 in 10^6, of
//! which only what the steps read is there. Each trial does what a process does that starts: it
//! opens both tiers, looks for the newest version, opens the feed at the first step or in the
//! middle of an epoch, and takes a batch. The small dataset is the large one's limit.

mod dataset;

use std::{collections::BTreeSet, fs, path::PathBuf, time::Duration};

use dataset::{Shape, publish_part};
use forebay_bench::{Bench, Scratch, Work};
use forebay_feed::{Feed, FeedDataset, FeedSettings, Order};
use forebay_format::{
    record,
    v1::dataset::{DatasetManifest, manifest_key},
};
use forebay_lake::{Lake, Purpose};
use forebay_local::LocalTier;
use forebay_testing::anonymous_bytes;
use forebay_transfer::{Transfer, dataset::open_dataset};
use forebay_types::{Position, Rank, Split};

const SHAPE: Shape = Shape { rows_per_batch: 1000, rows_per_shard: 1000 };
const SMALL_SHARDS: u64 = 1000;
const LARGE_SHARDS: u64 = 1_000_000;
const BUDGET_BYTES: u64 = 1 << 30;
/// Batches after which memory is looked at.
const BATCHES: usize = 256;

fn main() {
    let bench = Bench::begin("scale: from nothing to the first batch, at 10^9 samples and at 10^6");
    let scratch = Scratch::new();
    let small = World::publish(&bench, scratch.path().join("small"), SMALL_SHARDS);
    let large = World::publish(&bench, scratch.path().join("large"), LARGE_SHARDS);
    for (place, step) in
        [("start", World::first_step as fn(&World) -> u64), ("resume", World::middle)]
    {
        for (temperature, cold) in [("empty", true), ("warm", false)] {
            let time = |world: &World| {
                if cold {
                    fs::remove_dir_all(world.directory.join("local")).ok();
                }
                world.first_batch(&bench, step(world))
            };
            bench
                .contest(&format!("{place}, {temperature} tier: 10^9"), Work::Calls(1))
                .with("10^9", || time(&large))
                .with("10^6 samples", || time(&small))
                .run();
        }
    }
    for (name, world) in [("10^6", &small), ("10^9", &large)] {
        let before_bytes = anonymous_bytes();
        let mut feed = world.open(&bench, world.middle());
        for _ in 0..BATCHES {
            feed.next().expect("the shards are there").expect("an epoch of steps");
        }
        let mib = anonymous_bytes().saturating_sub(before_bytes) as f64 / f64::from(1 << 20);
        println!("  {name} samples: {mib:.1} MiB of memory after {BATCHES} batches");
    }
}

/// A dataset in a lake, and a place for a tier beside it.
struct World {
    directory: PathBuf,
    rows: u64,
}

impl World {
    fn publish(bench: &Bench, directory: PathBuf, shards: u64) -> Self {
        fs::create_dir(&directory).expect("a directory");
        let rows = shards * u64::from(SHAPE.rows_per_shard);
        let world = Self { directory, rows };
        let order = Order::new(&settings().order(), rows, SHAPE.rows_per_shard).epoch(0);
        // As many positions as make every stream go through two windows of shards.
        let positions = 2 * u64::from(SHAPE.rows_per_shard) * shards_in_use();
        let wanted: BTreeSet<u32> = [world.first_step(), world.middle()]
            .map(|step| step * u64::from(settings().batch_size))
            .into_iter()
            .flat_map(|first| first..(first + positions).min(rows))
            .map(|position| order.place(position).shard)
            // Its length is asked for, as that of any shard.
            .chain([0])
            .collect();
        let lake = world.lake(bench);
        let manifest = publish_part(&lake, shards, SHAPE, &wanted);
        let (bytes, _) = record::encode(&manifest).expect("a manifest");
        let key = manifest_key(&manifest.name, manifest.version);
        lake.write(&key, Purpose::Manifest, &bytes).expect("room in the lake");
        world
    }

    const fn first_step(&self) -> u64 {
        0
    }

    fn middle(&self) -> u64 {
        self.rows / u64::from(settings().batch_size) / 2
    }

    fn lake(&self, bench: &Bench) -> Lake {
        let url = self.directory.join("lake").display().to_string();
        Lake::open(&url, bench.runtime()).expect("a directory for the lake")
    }

    /// Opens both tiers and a feed at `step`, as a process that knows nothing yet.
    fn open(&self, bench: &Bench, step: u64) -> Feed {
        let (lake, local) = (self.lake(bench), self.directory.join("local"));
        let local = LocalTier::open(&local, BUDGET_BYTES, bench.runtime());
        let local = local.expect("a directory for the tier");
        let transfer = Transfer::new(&lake, &local, bench.runtime());
        let (manifest, _) = newest(&lake);
        let datasets = [FeedDataset::Prepared(&manifest, Split::Train)];
        Feed::open(&transfer, &datasets, &settings(), Rank::ALONE, Position { step })
            .expect("the dataset fits the settings")
    }

    fn first_batch(&self, bench: &Bench, step: u64) -> Duration {
        let mut feed = None;
        // What closing costs is not the first batch's.
        bench.time(|| {
            let feed = feed.insert(self.open(bench, step));
            feed.next().expect("the shards are there").expect("an epoch of steps").rows
        })
    }
}

fn newest(lake: &Lake) -> (DatasetManifest, forebay_types::Digest) {
    let name = forebay_types::Name::new("bench").expect("a sound name");
    open_dataset(lake, &name, None).expect("it was published")
}

fn settings() -> FeedSettings {
    let lookahead_bytes = u64::from(SHAPE.rows_per_shard) * 1024 * shards_in_use() / 2;
    FeedSettings { seed: 3, lookahead_bytes, ..FeedSettings::default() }
}

/// The shards that the streams have at hand together.
fn shards_in_use() -> u64 {
    let FeedSettings { canonical_streams, window_shards, .. } = FeedSettings::default();
    u64::from(canonical_streams * window_shards)
}
