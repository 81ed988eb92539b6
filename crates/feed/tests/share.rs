//! A tier that holds a part of the dataset saves the lake that part of every later epoch.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use forebay_feed::FeedSettings;
use forebay_lake::Purpose;
use forebay_testing::TempTiers;
use forebay_types::Rank;
use support::{open, publish, settings, take};

/// The bound is 2 %; here threads may meet in an order that costs a little more.
#[test]
fn lake_bytes_of_later_epochs_are_what_the_tier_cannot_hold() {
    const SHARDS: u64 = 100;
    const EPOCHS: u64 = 4;
    let probe = TempTiers::new(1 << 20);
    let shard_bytes = publish(&probe.lake, 12, 12).shards[0].bytes;
    for percent in [20, 50, 80] {
        let tiers = TempTiers::new(shard_bytes * SHARDS * percent / 100);
        let published = publish(&tiers.lake, SHARDS * 12, 12);
        let settings = FeedSettings { canonical_streams: 2, ..settings() };
        let mut feed = open(&tiers.transfer(), &published, &settings, Rank::ALONE, 0);
        let bytes_read = || tiers.lake.traffic()[&Purpose::Shard].bytes_read;
        take(&mut feed, SHARDS);
        let first = bytes_read();
        take(&mut feed, SHARDS * (EPOCHS - 1));
        let epoch_bytes = (bytes_read() - first) / (EPOCHS - 1);
        let dataset_bytes = SHARDS * shard_bytes;
        let bound_bytes = dataset_bytes * (100 - percent + 5) / 100;
        assert!(epoch_bytes <= bound_bytes, "{epoch_bytes} of {dataset_bytes} at {percent} %");
        // Nothing is free either: this is no count of nothing.
        assert!(epoch_bytes >= dataset_bytes * (100 - percent - 10) / 100, "{epoch_bytes}");
    }
}
