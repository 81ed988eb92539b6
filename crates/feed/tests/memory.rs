//! Memory is bounded by the settings, never by the data. Alone in its process, whose memory it reads.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]
#![cfg(target_os = "linux")]

mod support;

use forebay_feed::FeedSettings;
use forebay_testing::{TempTiers, anonymous_bytes};
use forebay_types::Rank;
use support::{open, publish, settings};

const MIB: u64 = 1 << 20;
const BUFFER_BYTES: u64 = 4 * MIB;
const EPOCHS: usize = 10;

/// 24 MiB an epoch through a tier that holds a third of them, three times the bound in ten epochs.
#[test]
fn ten_epochs_take_no_more_memory_than_one() {
    let rows = 512 * 1024;
    let probe = TempTiers::new(MIB);
    let shard_bytes = publish(&probe.lake, 4096, 4096).shards[0].bytes;
    let tiers = TempTiers::new(shard_bytes * rows / 4096 / 3);
    let published = publish(&tiers.lake, rows, 4096);
    let batch_size = 8192;
    let settings = FeedSettings { batch_size, buffer_bytes: BUFFER_BYTES, ..settings() };
    let before_bytes = anonymous_bytes();
    let mut feed = open(&tiers.transfer(), &published, &settings, Rank::ALONE, 0);
    let mut peaks = [0; EPOCHS];
    for peak in &mut peaks {
        for _ in 0..feed.steps_per_epoch() {
            let batch = feed.next().unwrap().unwrap();
            assert_eq!(batch.rows, batch_size as usize);
            *peak = anonymous_bytes().saturating_sub(before_bytes).max(*peak);
        }
    }
    assert!(feed.stats().lake_bytes > 4 * 24 * MIB, "the lake was read in every epoch");
    let (early, late) = peaks.split_at(EPOCHS / 2);
    let (early, late) = (*early.iter().max().unwrap(), *late.iter().max().unwrap());
    assert!(early <= BUFFER_BYTES + 64 * MIB, "{} MiB", early / MIB);
    assert!(late <= early + 2 * MIB, "grew from {early} to {late} bytes");
}
