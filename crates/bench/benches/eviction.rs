//! What a small tier saves the lake, epoch after epoch of a shuffled scan.
//!
//! The real feed runs over a tier that holds a share of the dataset, and the bytes it reads from the
//! lake are counted from the second epoch on. Beside it, on the same order: caches of the same size
//! that forget what was used longest ago (LRU) or landed longest ago (FIFO), and one that knows the
//! whole future (Belady's optimum). Those are asked once for each shard a stream enters and need no
//! room for shards in use, so they are better off than real ones.
//!
//! The bound is (1 - cached share) of the dataset in each epoch, and 2 % of the dataset besides.

mod dataset;

use std::collections::{BTreeSet, HashMap, VecDeque};

use dataset::{Shape, publish};
use forebay_bench::{Bench, Scratch};
use forebay_feed::{Feed, FeedDataset, FeedSettings, Order};
use forebay_format::v1::dataset::DatasetManifest;
use forebay_lake::Lake;
use forebay_local::LocalTier;
use forebay_transfer::Transfer;
use forebay_types::{Position, Rank, Split};

const SHARDS: u64 = 1024;
const SHAPE: Shape = Shape { rows_per_batch: 16, rows_per_shard: 16 };
const EPOCHS: u64 = 4;
const BATCH_SIZE: u32 = 64;

fn main() {
    let bench = Bench::begin("eviction: shares of the dataset read from the lake in later epochs");
    let lake = Lake::open("memory://", bench.runtime()).expect("memory");
    let (manifest, shards) = publish(&lake, SHARDS, SHAPE);
    let shard_bytes = shards.iter().map(|shard| shard.bytes).max().expect("there are shards");
    let settings = FeedSettings { seed: 9, batch_size: BATCH_SIZE, ..FeedSettings::default() };
    let trace = trace(&settings);
    println!("  cached  bound   feed  without lookahead  Belady    LRU   FIFO");
    for percent in (10..=90).step_by(10) {
        let slots = (SHARDS * percent / 100) as usize;
        let budget_bytes = slots as u64 * shard_bytes;
        let run = |settings: &FeedSettings| feed(&bench, &lake, &manifest, settings, budget_bytes);
        let ahead = run(&settings);
        let demand = run(&FeedSettings { prefetch_threads: 0, ..settings.clone() });
        let [optimum, lru, fifo] = [
            belady(&trace, slots),
            least_recent(&trace, slots, true),
            least_recent(&trace, slots, false),
        ];
        let bound = 100.0 - slots as f64 * 100.0 / SHARDS as f64 + 2.0;
        println!(
            "  {percent:>4} % {bound:>5.1}% {ahead:>5.1}% {demand:>17.1}% {optimum:>6.1}% \
             {lru:>5.1}% {fifo:>5.1}%{}",
            if ahead > bound { "   above the bound" } else { "" }
        );
    }
}

/// What the feed reads from the lake in an epoch from the second on, in percent of the dataset.
fn feed(
    bench: &Bench,
    lake: &Lake,
    manifest: &DatasetManifest,
    settings: &FeedSettings,
    budget_bytes: u64,
) -> f64 {
    let scratch = Scratch::new();
    let local = LocalTier::open(&scratch.path().join("local"), budget_bytes, bench.runtime());
    let transfer = Transfer::new(lake, &local.expect("a directory for the tier"), bench.runtime());
    let datasets = [FeedDataset::Prepared(manifest, Split::Train)];
    let settings = FeedSettings { epochs: Some(EPOCHS), ..settings.clone() };
    let mut feed = Feed::open(&transfer, &datasets, &settings, Rank::ALONE, Position::default())
        .expect("the dataset fits the settings");
    let steps = SHARDS * u64::from(SHAPE.rows_per_shard) / u64::from(BATCH_SIZE);
    for _ in 0..steps {
        feed.next().expect("the lake is there").expect("an epoch of steps");
    }
    let first = transfer.fetch_stats().fetched;
    while feed.next().expect("the lake is there").is_some() {}
    let later = transfer.fetch_stats().fetched - first;
    later as f64 * 100.0 / (SHARDS * (EPOCHS - 1)) as f64
}

/// The shards in the order in which their rows are first needed, epoch after epoch.
fn trace(settings: &FeedSettings) -> Vec<Vec<u32>> {
    let rows = SHARDS * u64::from(SHAPE.rows_per_shard);
    let order = Order::new(&settings.order(), rows, SHAPE.rows_per_shard);
    (0..EPOCHS)
        .map(|epoch| {
            let order = order.epoch(epoch);
            let mut met = BTreeSet::new();
            (0..rows).map(|p| order.place(p).shard).filter(|shard| met.insert(*shard)).collect()
        })
        .collect()
}

fn percent(misses: u64) -> f64 {
    misses as f64 * 100.0 / (SHARDS * (EPOCHS - 1)) as f64
}

/// Misses from the second epoch on, of whoever evicts what is needed last.
fn belady(trace: &[Vec<u32>], slots: usize) -> f64 {
    let uses: Vec<u32> = trace.iter().flatten().copied().collect();
    let mut next = vec![usize::MAX; uses.len()];
    let mut seen = HashMap::new();
    for (at, shard) in uses.iter().enumerate().rev() {
        next[at] = seen.insert(*shard, at).unwrap_or(usize::MAX);
    }
    let mut cached = BTreeSet::new();
    let mut misses = 0;
    for (at, &shard) in uses.iter().enumerate() {
        if !cached.remove(&(at, shard)) {
            misses += u64::from(at >= trace[0].len());
        }
        cached.insert((next[at], shard));
        if cached.len() > slots {
            cached.pop_last();
        }
    }
    percent(misses)
}

/// The same for whoever evicts what was used, or landed, longest ago.
fn least_recent(trace: &[Vec<u32>], slots: usize, uses_count: bool) -> f64 {
    let mut cached = VecDeque::new();
    let mut misses = 0;
    for (epoch, shard) in
        (0..).zip(trace).flat_map(|(epoch, uses)| uses.iter().map(move |s| (epoch, *s)))
    {
        match cached.iter().position(|&held| held == shard) {
            Some(at) if uses_count => {
                cached.remove(at);
                cached.push_back(shard);
            }
            Some(_) => {}
            None => {
                misses += u64::from(epoch > 0);
                cached.push_back(shard);
                if cached.len() > slots {
                    cached.pop_front();
                }
            }
        }
    }
    percent(misses)
}
