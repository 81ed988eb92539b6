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
/// Epochs whose peaks are compared with those of as many before them.
const SPAN: usize = 5;
const EPOCHS: usize = 3 * SPAN;

/// 24 MiB an epoch through a tier that holds a third of them.
///
/// What is kept of every batch or epoch grows in every span. The allocator's arenas settle late in
/// some runs, by a MiB or three, and then stay: growth in one span alone is theirs.
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
    let spans: Vec<u64> =
        peaks.chunks(SPAN).map(|span| span.iter().copied().max().unwrap()).collect();
    assert!(spans[0] <= BUFFER_BYTES + 64 * MIB, "{} MiB", spans[0] / MIB);
    let grows = |pair: &[u64]| pair[1] > pair[0] + 2 * MIB;
    assert!(!spans.windows(2).all(grows), "grew in every span: {spans:?} bytes");
}
