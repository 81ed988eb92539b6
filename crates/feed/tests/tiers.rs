//! What the feed does with the tiers: bounds, damage, sharing, waiting.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use std::{fs, io, time::Duration};

use forebay_feed::{Feed, FeedSettings, WaitCause};
use forebay_format::v1::dataset::shard_key;
use forebay_lake::{Lake, Purpose};
use forebay_local::LocalTier;
use forebay_testing::{Fault, Request, TempTiers};
use forebay_transfer::Transfer;
use forebay_types::{ErrorKind, Position, Rank};
use support::{Published, open, publish, settings, take};

const ROWS: u64 = 500;

fn bytes_of(published: &Published) -> u64 {
    published.shards.iter().map(|shard| shard.bytes).sum()
}

fn shard_bytes_read(lake: &Lake) -> u64 {
    lake.traffic().get(&Purpose::Shard).map_or(0, |traffic| traffic.bytes_read)
}

#[test]
fn a_tier_smaller_than_the_dataset_streams_it() {
    let probe = TempTiers::new(1 << 20);
    let published = publish(&probe.lake, ROWS, 10);
    let expected = take(&mut open(&probe.transfer(), &published, &settings(), Rank::ALONE, 0), 100);
    // 50 shards; 8 are read at once, and the tier holds twelve.
    let budget_bytes = published.shards[0].bytes * 12;
    let tiers = TempTiers::new(budget_bytes);
    let published = publish(&tiers.lake, ROWS, 10);
    for prefetch_threads in [0, 2] {
        let settings = FeedSettings { prefetch_threads, threads: 3, ..settings() };
        let mut feed = open(&tiers.transfer(), &published, &settings, Rank::ALONE, 0);
        for expected in &expected {
            assert_eq!(&take(&mut feed, 1)[0], expected);
        }
        drop(feed);
        assert!(tiers.local.usage().unwrap().cached_bytes <= budget_bytes);
    }
}

/// Belady's rule on a reshuffled scan: what can stay for the next epoch stays.
#[test]
fn a_later_epoch_fetches_only_what_was_evicted() {
    let tiers = TempTiers::new(1 << 20);
    let published = publish(&tiers.lake, ROWS, 10);
    let transfer = tiers.transfer();
    take(&mut open(&transfer, &published, &settings(), Rank::ALONE, 0), 41 * 3);
    assert_eq!(shard_bytes_read(&tiers.lake), bytes_of(&published));
    assert_eq!(transfer.fetch_stats().evicted, 0);

    let half = TempTiers::new(published.shards[0].bytes * 25);
    let published = publish(&half.lake, ROWS, 10);
    let transfer = half.transfer();
    // One thread and nothing ahead: then the count does not depend on who comes first.
    let settings = FeedSettings { threads: 1, prefetch_threads: 0, ..settings() };
    let mut feed = open(&transfer, &published, &settings, Rank::ALONE, 0);
    take(&mut feed, 41 * 6);
    drop(feed);
    let stats = transfer.fetch_stats();
    assert!(stats.evicted > 0 && stats.fetched <= stats.evicted + 25, "{stats:?}");
    // LRU would fetch nearly all 50 shards in each of six epochs.
    assert!(stats.fetched < 6 * 50 * 4 / 5, "{stats:?}");
}

#[test]
fn a_budget_that_cannot_work_is_refused_at_once() {
    let probe = TempTiers::new(1 << 20);
    let shard_bytes = publish(&probe.lake, ROWS, 10).shards[0].bytes;
    let tiers = TempTiers::new(shard_bytes * 8 - 1);
    let published = publish(&tiers.lake, ROWS, 10);
    let open = |settings: &FeedSettings, world| {
        let rank = Rank::new(0, world).unwrap();
        let (transfer, from) = (tiers.transfer(), Position::default());
        Feed::open(&transfer, &[published.dataset()], settings, rank, from)
    };
    let error = open(&settings(), 1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let cause = std::error::Error::source(&error).unwrap().to_string();
    for number in [shard_bytes * 8, shard_bytes * 8 - 1] {
        assert!(cause.contains(&number.to_string()), "{cause}");
    }
    open(&settings(), 2).expect("half the streams fit");

    let error = open(&FeedSettings { buffer_bytes: 1000, ..settings() }, 1).unwrap_err();
    assert!(error.to_string().contains("two batches take 1248"), "{error}");
    let error = open(&FeedSettings { window_shards: 0, ..settings() }, 1).unwrap_err();
    assert_eq!(error.to_string(), "the feed's setting `window_shards` is 0; it must be at least 1");
    let error = open(&FeedSettings { skip_steps: vec![(4, 4)], ..settings() }, 1).unwrap_err();
    assert!(error.to_string().contains("`skip_steps` cannot work"), "{error}");
    let error = open(&FeedSettings { batch_size: 501, buffer_bytes: 1 << 20, ..settings() }, 1);
    assert!(error.unwrap_err().to_string().contains("501 samples does not fit"));
}

/// The cached files this process has mapped, and how many of them are gone from the tier.
#[cfg(target_os = "linux")]
fn mapped(tiers: &TempTiers) -> (usize, usize) {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let cache = tiers.local_path().join("cache").display().to_string();
    let mapped: Vec<&str> = maps.lines().filter(|line| line.contains(&cache)).collect();
    (mapped.len(), mapped.iter().filter(|line| line.ends_with("(deleted)")).count())
}

/// A dataset that fits is mapped once, and a file that the tier gave up keeps no blocks.
#[test]
#[cfg(target_os = "linux")]
fn extents_rest_between_epochs_until_the_tier_changes() {
    let tiers = TempTiers::new(1 << 20);
    let published = publish(&tiers.lake, ROWS, 10);
    let mut feed = open(&tiers.transfer(), &published, &settings(), Rank::ALONE, 0);
    take(&mut feed, 41);
    // Once nothing lands any more, an epoch gathers them all.
    let all_rest = (0..4000).any(|_| {
        take(&mut feed, 1);
        tiers.runtime.sleep(Duration::from_millis(1)).unwrap();
        mapped(&tiers) == (published.shards.len(), 0)
    });
    assert!(all_rest, "{:?}", mapped(&tiers));
    let digest = published.shards[7].digest;
    assert!(tiers.local.evict(digest).unwrap());
    assert_eq!(mapped(&tiers).1, 1);
    let all_there = (0..4000).any(|_| {
        take(&mut feed, 1);
        tiers.runtime.sleep(Duration::from_millis(1)).unwrap();
        mapped(&tiers).1 == 0
    });
    assert!(all_there, "{:?}", mapped(&tiers));
}

/// The error's whole chain in one line.
fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}

#[test]
fn a_flipped_byte_in_the_lake_is_found_and_named() {
    let tiers = TempTiers::new(1 << 20);
    let published = publish(&tiers.lake, ROWS, 100);
    let key = shard_key(published.shards[2].digest);
    let path = tiers.lake_path().join(key.as_str());
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::remove_file(&path).unwrap();
    fs::write(&path, &bytes).unwrap();
    let mut feed = open(&tiers.transfer(), &published, &settings(), Rank::ALONE, 0);
    let error = (0..41).find_map(|_| feed.next().err()).unwrap();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(chain(&error).contains(key.as_str()), "{}", chain(&error));
    // The step that failed is the step that is tried again, and nothing was skipped.
    let position = feed.position();
    assert!(feed.next().is_err());
    assert_eq!(feed.position(), position);
    bytes[middle] ^= 1;
    fs::write(&path, &bytes).unwrap();
    // An attempt from before the repair may still be under way.
    let healed = (0..10).find_map(|_| feed.next().ok()).unwrap().unwrap();
    assert_eq!(healed.step, position.step);
}

#[test]
fn a_flipped_byte_on_the_node_is_fetched_again_once() {
    for place in ["middle", "head", "cut"] {
        let tiers = TempTiers::new(1 << 20);
        let published = publish(&tiers.lake, ROWS, 100);
        let transfer = tiers.transfer();
        let expected = take(&mut open(&transfer, &published, &settings(), Rank::ALONE, 0), 41);
        let before = shard_bytes_read(&tiers.lake);
        let shard = &published.shards[1];
        let path = find(&tiers.local_path(), &shard.digest.to_string());
        let mut bytes = fs::read(&path).unwrap();
        match place {
            "middle" => bytes[shard.batches[3].offset as usize + 300] ^= 0x40,
            "head" => bytes[1] ^= 0x40,
            _ => bytes.truncate(100),
        }
        fs::remove_file(&path).unwrap();
        fs::write(&path, bytes).unwrap();
        let mut feed = open(&transfer, &published, &settings(), Rank::ALONE, 0);
        let found = take(&mut feed, 41);
        if place != "head" {
            // Arrow's magic is beyond what a row is read by: it may go unnoticed, and harmless.
            let fetched = shard_bytes_read(&tiers.lake) - before;
            assert_eq!(fetched, shard.bytes, "{place}");
            assert_eq!(feed.stats().refetches, u64::from(place == "middle"), "{place}");
        }
        assert_eq!(found, expected, "{place}");
    }
}

fn find(folder: &std::path::Path, name: &str) -> std::path::PathBuf {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false if path.file_name().unwrap() == name => return path,
                false => {}
            }
        }
    }
    panic!("{name} is not cached");
}

/// Two processes on one node: nothing in memory is shared, and every shard comes once.
#[test]
fn ranks_that_share_a_tier_download_each_shard_once() {
    let tiers = TempTiers::new(1 << 20);
    let published = publish(&tiers.lake, ROWS, 10);
    let read = std::sync::atomic::AtomicU64::new(0);
    let runtime = &tiers.runtime;
    runtime
        .workers("rank", 4, |rank| {
            let lake = Lake::open(tiers.lake_path().to_str().unwrap(), runtime).unwrap();
            let local = LocalTier::open(&tiers.local_path(), 1 << 20, runtime).unwrap();
            let transfer = Transfer::new(&lake, &local, runtime);
            let rank = Rank::new(rank as u32, 4).unwrap();
            take(&mut open(&transfer, &published, &settings(), rank, 0), 41 * 2);
            read.fetch_add(shard_bytes_read(&lake), std::sync::atomic::Ordering::SeqCst);
            Ok::<_, ()>(())
        })
        .unwrap();
    assert_eq!(read.into_inner(), bytes_of(&published));
}

#[test]
fn an_outage_reaches_the_consumer_and_passes() {
    let tiers = TempTiers::new(1 << 20);
    let published = publish(&tiers.lake, ROWS, 100);
    let expected = take(&mut open(&tiers.transfer(), &published, &settings(), Rank::ALONE, 0), 3);
    let tiers = tiers.reopen();
    tiers.local.clear().unwrap();
    let refused = Fault::Fails(io::ErrorKind::PermissionDenied);
    tiers.store.inject(Request::Read, ".arrow", u64::MAX, refused);
    let mut feed = open(&tiers.transfer(), &published, &settings(), Rank::ALONE, 0);
    let error = feed.next().unwrap_err();
    assert_eq!(error.to_string(), "cannot read the samples of step 0");
    tiers.store.behave();
    // Attempts from before the repair may still be under way; each may fail a call.
    let found: Vec<_> = (0..100).filter_map(|_| feed.next().ok()).flatten().take(3).collect();
    assert_eq!(found.iter().map(support::rows).collect::<Vec<_>>(), expected);
}

#[test]
fn waiting_is_measured_and_named() {
    let tiers = TempTiers::new(1 << 20);
    let published = publish(&tiers.lake, ROWS, 100);
    // With more threads, two may miss the same shard at once; one of them downloads it.
    let settings = FeedSettings { prefetch_threads: 0, threads: 1, ..settings() };
    // The lake answers late: the consumer asks before that, however busy the machine.
    tiers.store.inject(Request::Read, ".arrow", 3, Fault::Fails(io::ErrorKind::TimedOut));
    let mut feed = open(&tiers.transfer(), &published, &settings, Rank::ALONE, 0);
    let first = feed.next().unwrap().unwrap();
    assert!(first.waited.lake > Duration::ZERO, "{:?}", first.waited);
    take(&mut feed, 40);
    let stats = feed.stats();
    assert!(stats.waited.total() >= first.waited.total());
    assert_eq!((stats.cache_misses, stats.lake_bytes), (5, bytes_of(&published)));
    let mut warm = open(&tiers.transfer(), &published, &settings, Rank::ALONE, 0);
    take(&mut warm, 41);
    let stats = warm.stats();
    assert!(stats.cache_hits >= 5);
    assert_eq!((stats.cache_misses, stats.lake_bytes), (0, 0));
    assert_eq!(stats.waited.lake, Duration::ZERO);
    assert_ne!(stats.waited.cause(), Some(WaitCause::Lake));
}

#[test]
fn a_cancelled_run_gets_an_answer() {
    let tiers = TempTiers::new(1 << 20);
    let published = publish(&tiers.lake, ROWS, 100);
    let mut feed = open(&tiers.transfer(), &published, &settings(), Rank::ALONE, 0);
    feed.next().unwrap().unwrap();
    tiers.runtime.cancel();
    // Batches that are ready may still come; then the feed says why it ends.
    let error = (0..100).find_map(|_| feed.next().err()).unwrap();
    assert_eq!(error.kind(), ErrorKind::Interrupted);
}
