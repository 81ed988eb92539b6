//! What the model sees does not depend on how it is fed.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use std::collections::BTreeSet;

use forebay_feed::{Feed, FeedSettings};
use forebay_testing::TempTiers;
use forebay_types::{Position, Rank};
use support::{open, publish, rows, settings, take};

const ROWS: u64 = 500;
const STEPS: u64 = 90; // two epochs of 41 steps, and a part of the third

#[test]
fn batches_are_the_same_for_every_world_size_and_number_of_threads() {
    let tiers = TempTiers::new(1 << 20);
    let published = publish(&tiers.lake, ROWS, 24);
    let transfer = tiers.transfer();
    let expected = take(&mut open(&transfer, &published, &settings(), Rank::ALONE, 0), STEPS);
    for (world, threads, prefetch_threads) in
        [(1, 4, 0), (1, 1, 1), (2, 2, 2), (3, 3, 0), (4, 1, 2), (12, 1, 1)]
    {
        let settings = FeedSettings { threads, prefetch_threads, ..settings() };
        let mut parts: Vec<_> = (0..world)
            .map(|rank| open(&transfer, &published, &settings, Rank::new(rank, world).unwrap(), 0))
            .map(|mut feed| take(&mut feed, STEPS))
            .collect();
        let joined: Vec<Vec<u64>> = (0..STEPS as usize)
            .map(|step| {
                let mut parts: Vec<_> = parts
                    .iter_mut()
                    .map(|part| std::mem::take(&mut part[step]).into_iter())
                    .collect();
                (0..12).map(|sample| parts[sample % world as usize].next().unwrap()).collect()
            })
            .collect();
        assert_eq!(joined, expected, "{world} ranks, {threads} and {prefetch_threads} threads");
    }
}

#[test]
fn a_feed_opened_anywhere_goes_on_as_the_first_one_did() {
    let tiers = TempTiers::new(1 << 20);
    let published = publish(&tiers.lake, ROWS, 24);
    let transfer = tiers.transfer();
    let mut feed = open(&transfer, &published, &settings(), Rank::ALONE, 0);
    let expected = take(&mut feed, STEPS);
    assert_eq!(feed.position(), Position { step: STEPS });
    for step in [1, 40, 41, 42, 81, 82, 89] {
        let mut resumed = open(&transfer, &published, &settings(), Rank::ALONE, step);
        assert_eq!(resumed.position(), Position { step });
        assert_eq!(take(&mut resumed, STEPS - step), expected[step as usize..], "from {step}");
    }
}

#[test]
fn epochs_shuffle_anew_repeat_nothing_and_end() {
    let tiers = TempTiers::new(1 << 20);
    let published = publish(&tiers.lake, ROWS, 24);
    let settings = FeedSettings { epochs: Some(2), ..settings() };
    let mut feed = open(&tiers.transfer(), &published, &settings, Rank::ALONE, 0);
    let batches = take(&mut feed, 82);
    assert!(feed.next().unwrap().is_none() && feed.next().unwrap().is_none());
    let (first, second) = (batches[..41].concat(), batches[41..].concat());
    for epoch in [&first, &second] {
        assert_eq!(epoch.iter().collect::<BTreeSet<_>>().len(), 41 * 12);
    }
    assert_ne!(first, second);
    let stats = feed.stats();
    assert_eq!((stats.batches, stats.samples, stats.bytes), (82, 82 * 12, 82 * 12 * 32));
}

#[test]
fn a_sequential_feed_delivers_every_row_once_as_stored() {
    let tiers = TempTiers::new(1 << 20);
    let published = publish(&tiers.lake, 50, 24);
    let sequential = |rank| {
        let transfer = tiers.transfer();
        let (settings, start) = (settings().sequential(), Position::default());
        let mut feed =
            Feed::open(&transfer, &[published.dataset()], &settings, rank, start).unwrap();
        let mut batches = Vec::new();
        while let Some(batch) = feed.next().unwrap() {
            assert_eq!(batch.tokens().count(), batch.rows * 16);
            batches.push(rows(&batch));
        }
        batches
    };
    let batches = sequential(Rank::ALONE);
    assert_eq!(batches.concat(), (0..50).collect::<Vec<_>>());
    assert_eq!(batches.iter().map(Vec::len).collect::<Vec<_>>(), [12, 12, 12, 12, 2]);
    // A rank without rows in the last batch still gets one, so that no rank waits for it alone.
    let last = sequential(Rank::new(3, 4).unwrap());
    assert_eq!(last.iter().map(Vec::len).collect::<Vec<_>>(), [3, 3, 3, 3, 0]);
}

#[test]
fn a_trace_names_the_records_of_a_step() {
    let tiers = TempTiers::new(1 << 20);
    let published = publish(&tiers.lake, ROWS, 24);
    let transfer = tiers.transfer();
    let mut feed = open(&transfer, &published, &settings(), Rank::ALONE, 57);
    let batch = feed.next().unwrap().unwrap();
    let traced = forebay_feed::trace(&transfer, &[published.dataset()], &settings(), 57).unwrap();
    assert!(traced.iter().map(|sample| sample.id).eq(batch.ids().iter()));
    for (sample, row) in traced.iter().zip(rows(&batch)) {
        assert_eq!(sample.shard * 24 + u64::from(sample.row), row);
        let [origin] = sample.origins.as_slice() else { panic!("{sample:?}") };
        assert_eq!((origin.source.as_str(), origin.record), ("numbers.jsonl", row));
        assert_eq!((origin.offset, origin.bytes, origin.tokens), (row * 10, 10, 16));
    }
    let ends = FeedSettings { epochs: Some(1), ..settings() };
    let error = forebay_feed::trace(&transfer, &[published.dataset()], &ends, 41);
    let message = "step 41 does not exist: the feed ends after 41 steps";
    assert_eq!(error.unwrap_err().to_string(), message);
}
