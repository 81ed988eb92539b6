//! Where does position p of an epoch lie? Limit: reading the answer from a table, which costs
//! 8 bytes of memory for each sample.

use forebay_bench::{Bench, Work};
use forebay_feed::{Order, OrderSettings};
use forebay_runtime::Random;

const CALLS: u64 = 1 << 20;

fn main() {
    let bench = Bench::begin("order: finding the sample at a position");
    let rows = (bench.bytes() / size_of::<u64>()) as u64;
    let settings =
        OrderSettings { seed: 1, shuffle: true, canonical_streams: 64, window_shards: 32 };
    let order = Order::new(&settings, rows, 4096);
    let epoch = order.epoch(3);
    let place = |position| {
        let place = epoch.place(position);
        u64::from(place.shard) << 32 | u64::from(place.row)
    };
    let table: Vec<u64> = (0..rows).map(place).collect();
    let mut random = Random::new(2);
    let scattered: Vec<u64> = (0..CALLS).map(|_| random.below(rows)).collect();
    let table_at = |position: u64| table[position as usize];
    bench
        .contest("positions one after the other", Work::Calls(CALLS))
        .with("order", || bench.time(|| (0..CALLS).map(|p| place(p % rows)).fold(0, mix)))
        .with("a table in memory", || {
            bench.time(|| (0..CALLS).map(|p| table_at(p % rows)).fold(0, mix))
        })
        .run();
    bench
        .contest("positions at random", Work::Calls(CALLS))
        .with("order", || bench.time(|| scattered.iter().map(|&p| place(p)).fold(0, mix)))
        .with("a table in memory", || {
            bench.time(|| scattered.iter().map(|&p| table_at(p)).fold(0, mix))
        })
        .run();
}

/// Uses every answer, so that none can be left out.
fn mix(sum: u64, place: u64) -> u64 {
    sum.rotate_left(1) ^ place
}
