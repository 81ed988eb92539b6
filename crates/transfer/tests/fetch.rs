//! Fetching: once per node, verified, within bounds, by known future.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex},
};

use forebay_lake::{Lake, Purpose};
use forebay_local::LocalTier;
use forebay_testing::{Fault, Request, TempTiers, key};
use forebay_transfer::{
    Decoder, Error, Foresight, Need, Needs, Object, Plan, PrefetchSettings, Prefetcher, Stored,
    Transfer,
};
use forebay_types::{Digest, ErrorKind};
use proptest::prelude::*;

fn put(tiers: &TempTiers, name: &str, body: &[u8]) -> Object {
    let (key, digest) = (key(name), Digest::of(body));
    tiers.lake.write(&key, Purpose::Shard, body).unwrap();
    Object::whole(key, digest, body.len() as u64, Purpose::Shard)
}

fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut random = forebay_runtime::Random::new(seed);
    (0..bytes).map(|_| random.next_u64() as u8).collect()
}

#[test]
fn an_object_of_many_pieces_comes_whole_and_once() {
    let tiers = TempTiers::new(64 << 20);
    let body = noise((23 << 20) + 17, 1);
    let object = put(&tiers, "shards/large", &body);
    let runtime = &tiers.runtime;
    // Handles of their own, as other processes have.
    runtime
        .workers("fetch", 3, |_| {
            let local = LocalTier::open(&tiers.local_path(), 64 << 20, runtime).unwrap();
            let transfer = Transfer::new(&tiers.lake, &local, runtime);
            assert!(*transfer.fetch(&object).unwrap() == *body);
            Ok::<_, ()>(())
        })
        .unwrap();
    assert_eq!(tiers.lake.traffic()[&Purpose::Shard].bytes_read, object.bytes);
    let empty = put(&tiers, "shards/empty", b"");
    assert!(tiers.transfer().fetch(&empty).unwrap().is_empty());
}

#[test]
fn a_bit_flipped_on_the_way_is_read_again_and_one_in_the_lake_is_named() {
    let tiers = TempTiers::new(64 << 20);
    let object = put(&tiers, "shards/a", &noise(9 << 20, 2));
    let transfer = tiers.transfer();
    tiers.store.inject(Request::Read, "shards/a", 1, Fault::FlipsBit);
    transfer.fetch(&object).unwrap();
    assert_eq!(transfer.fetch_stats().damaged, 1);

    tiers.local.clear().unwrap();
    tiers.store.inject(Request::Read, "shards/a", u64::MAX, Fault::FlipsBit);
    let error = transfer.fetch(&object).unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }), "{error:?}");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().starts_with("shards/a in the lake file://"), "{error}");
    assert_eq!(tiers.local.usage().unwrap().used_bytes(), 0, "no trace of either attempt");
}

#[test]
fn what_is_missing_or_cut_short_in_the_lake_is_named() {
    let tiers = TempTiers::new(64 << 20);
    let object = put(&tiers, "shards/a", &noise(9 << 20, 3));
    let missing = Object { key: key("shards/b"), ..object.clone() };
    let error = tiers.transfer().fetch(&missing).unwrap_err();
    assert!(matches!(error, Error::Missing { .. }), "{error:?}");
    let longer = Object { bytes: object.bytes + 1, ..object };
    let error = tiers.transfer().fetch(&longer).unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }), "{error:?}");
    assert_eq!(tiers.local.usage().unwrap().used_bytes(), 0);
}

/// Stored bytes are a run length and a byte, over and over.
#[derive(Debug)]
struct RunLength;

impl Decoder for RunLength {
    fn decode(&self, stored: &[u8], content: &mut dyn io::Write) -> io::Result<()> {
        for pair in stored.chunks(2) {
            let &[count, byte] = pair else { return Err(io::ErrorKind::InvalidData.into()) };
            content.write_all(&vec![byte; usize::from(count)])?;
        }
        Ok(())
    }
}

/// A part of a file of another store, from `offset` on.
fn part(lake: &Lake, name: &str, file: &[u8], offset: u64, content: &[u8]) -> Object {
    lake.write(&key(name), Purpose::Source, file).unwrap();
    let decoder: Arc<dyn Decoder> = Arc::new(RunLength);
    let (lake, bytes) = (Some(lake.clone()), file.len() as u64 - offset);
    let stored = Stored { lake, offset, bytes, decoder: Some(decoder) };
    let (digest, bytes) = (Digest::of(content), content.len() as u64);
    Object { key: key(name), digest, bytes, purpose: Purpose::Source, stored: Some(stored) }
}

#[test]
fn a_part_of_a_file_is_decoded_where_it_lands_and_leaves_its_content_alone() {
    let tiers = TempTiers::new(1000);
    let transfer = tiers.transfer();
    let other = Lake::open("memory://", &tiers.runtime).unwrap();
    let mut content = vec![b'a'; 200];
    content.extend([b'b'; 100]);
    let object = part(&other, "raw/file", b"head\xc8a\x64b", 4, &content);
    assert!(*transfer.fetch(&object).unwrap() == *content);
    assert_eq!(other.traffic()[&Purpose::Source].bytes_read, 4);
    assert!(!tiers.lake.traffic().contains_key(&Purpose::Source));
    assert_eq!((transfer.fetch_stats().fetched, transfer.fetch_stats().fetched_bytes), (1, 4));
    assert_eq!(tiers.local.usage().unwrap().used_bytes(), 300);

    // Space is needed for both at once, and other content goes for it.
    let large = part(&other, "raw/large", &b"\xc8c".repeat(4), 0, &[b'c'; 800]);
    transfer.fetch(&large).unwrap();
    assert_eq!(transfer.fetch_stats().evicted, 1);
    let larger = part(&other, "raw/larger", &b"\x31d".repeat(20), 0, &[b'd'; 980]);
    assert_eq!(transfer.fetch(&larger).unwrap_err().kind(), ErrorKind::Full);
}

#[test]
fn a_file_that_changed_since_it_was_indexed_is_read_twice_and_named() {
    let tiers = TempTiers::new(1000);
    let transfer = tiers.transfer();
    for (file, message) in [
        // Other content, too much of it, and what cannot be decoded.
        (b"\x05c".to_vec(), "raw/file in memory:// changed since it was indexed"),
        (b"\xffa".to_vec(), "cannot decode raw/file of memory://; if it changed since it was"),
        (b"\x05a\x01".to_vec(), "cannot decode raw/file of memory://; if it changed since it was"),
    ] {
        let other = Lake::open("memory://", &tiers.runtime).unwrap();
        let object = part(&other, "raw/file", &file, 0, b"aaaaa");
        let error = transfer.fetch(&object).unwrap_err();
        assert!(error.to_string().starts_with(message), "{error}");
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert_eq!(other.traffic()[&Purpose::Source].reads, 2);
        assert_eq!(tiers.local.usage().unwrap().used_bytes(), 0);
    }
}

#[test]
fn an_object_larger_than_the_tier_is_refused_with_both_numbers() {
    let tiers = TempTiers::new(1000);
    let kept = put(&tiers, "shards/kept", &[1; 400]);
    let large = put(&tiers, "shards/large", &[2; 1001]);
    tiers.transfer().fetch(&kept).unwrap();
    let error = tiers.transfer().fetch(&large).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Full);
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("1001 bytes") && source.contains("1000 bytes"), "{source}");
}

/// A future that a test writes down.
struct Known(BTreeMap<Digest, u64>);

impl Foresight for Known {
    fn position(&self) -> u64 {
        0
    }

    fn next_use(&self, digest: Digest, _after: u64) -> Option<u64> {
        self.0.get(&digest).copied()
    }
}

#[test]
fn what_is_needed_last_goes_first_and_the_unknown_before_it() {
    let tiers = TempTiers::new(300);
    let transfer = tiers.transfer();
    let objects: Vec<Object> =
        (0..6u8).map(|i| put(&tiers, &format!("shards/{i}"), &[i; 100])).collect();
    let known: Arc<dyn Foresight> =
        Arc::new(Known([(0, 5), (1, 9), (3, 1)].map(|(i, at)| (objects[i].digest, at)).into()));
    transfer.foresee(Arc::downgrade(&known));
    let there = || -> Vec<usize> {
        let cached = tiers.local.cached_bytes_of().unwrap();
        (0..6).filter(|&i| cached.iter().any(|(digest, _)| *digest == objects[i].digest)).collect()
    };
    let mapped = transfer.fetch(&objects[1]).unwrap();
    transfer.fetch(&objects[0]).unwrap();
    transfer.fetch(&objects[2]).unwrap();
    transfer.fetch(&objects[3]).unwrap();
    assert_eq!(there(), [0, 1, 3], "nobody foresees 2");
    transfer.fetch(&objects[4]).unwrap();
    assert_eq!(there(), [0, 3, 4], "1 is needed last");
    assert_eq!(*mapped, [1; 100], "who mapped it goes on reading it");
    drop(known);
    transfer.fetch(&objects[5]).unwrap();
    assert_eq!(there().len(), 3);
    assert_eq!(transfer.fetch_stats().evicted, 3);
}

#[test]
fn what_several_readers_need_goes_by_the_first_of_them() {
    let tiers = TempTiers::new(300);
    let transfer = tiers.transfer();
    let objects: Vec<Object> =
        (0..4u8).map(|i| put(&tiers, &format!("shards/{i}"), &[i; 100])).collect();
    let known = |uses: [(usize, u64); 3]| -> Arc<dyn Foresight> {
        Arc::new(Known(uses.map(|(i, at)| (objects[i].digest, at)).into()))
    };
    let (one, other) = (known([(0, 9), (1, 6), (2, 7)]), known([(0, 1), (1, 8), (2, 7)]));
    transfer.foresee(Arc::downgrade(&one));
    transfer.foresee(Arc::downgrade(&other));
    for object in &objects {
        transfer.fetch(object).unwrap();
    }
    assert!(transfer.cached(&objects[2]).unwrap().is_none(), "both need it in 7");
    assert_eq!(tiers.local.cached_digests().unwrap().len(), 3);
    drop(other);
    transfer.fetch(&objects[2]).unwrap();
    // Nobody knows of 3.
    assert!(transfer.cached(&objects[3]).unwrap().is_none());
}

/// A plan over a list of objects, one for each position.
struct Sequence(Vec<Object>);

impl Plan for Sequence {
    fn needs(self: Arc<Self>, from: u64) -> Needs {
        Box::new((from..self.0.len() as u64).map(move |position| {
            let object = self.0[position as usize].clone();
            Ok(Need { object, first: position, last: position })
        }))
    }

    fn next_use(&self, digest: Digest, after: u64) -> Option<u64> {
        let after = after as usize;
        let ahead = self.0.get(after..)?.iter().position(|object| object.digest == digest)?;
        Some((after + ahead) as u64)
    }
}

/// Downloads that Belady's rule with bypass needs for `uses` in a cache of `room` objects.
fn belady(uses: &[usize], room: usize) -> u64 {
    let mut cached: Vec<usize> = Vec::new();
    let mut downloads = 0;
    for (at, object) in uses.iter().enumerate() {
        if cached.contains(object) {
            continue;
        }
        downloads += 1;
        let next = |x: &usize| uses[at..].iter().position(|y| y == x).unwrap_or(usize::MAX);
        if cached.len() == room {
            let farthest = (0..room).max_by_key(|&i| next(&cached[i])).unwrap();
            cached.swap_remove(farthest);
        }
        cached.push(*object);
    }
    downloads
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Without lookahead every download is the consumer's, so the count is exactly Belady's.
    #[test]
    fn downloads_are_those_of_beladys_rule(
        uses in prop::collection::vec(0usize..8, 1..60), room in 1usize..6,
    ) {
        let tiers = TempTiers::new(room as u64 * 100);
        let transfer = tiers.transfer();
        let objects: Vec<Object> =
            (0..8u8).map(|i| put(&tiers, &format!("shards/{i}"), &[i; 100])).collect();
        let plan: Vec<Object> = uses.iter().map(|&i| objects[i].clone()).collect();
        let settings = PrefetchSettings { threads: 0, lookahead_bytes: 0 };
        let prefetcher = Prefetcher::start(&transfer, Arc::new(Sequence(plan.clone())), 0, settings);
        for (position, object) in plan.iter().enumerate() {
            prefetcher.advance(position as u64);
            transfer.fetch(object).unwrap();
        }
        prop_assert_eq!(transfer.fetch_stats().fetched, belady(&uses, room));
    }

    /// With threads that read ahead the consumer still gets everything, within every bound.
    #[test]
    fn prefetching_never_blocks_a_consumer(
        uses in prop::collection::vec(0usize..8, 1..60), room in 1u64..6,
        threads in 1usize..4, lookahead in 0u64..6,
    ) {
        let tiers = TempTiers::new(room * 100);
        let transfer = tiers.transfer();
        let objects: Vec<Object> =
            (0..8u8).map(|i| put(&tiers, &format!("shards/{i}"), &[i; 100])).collect();
        let plan: Vec<Object> = uses.iter().map(|&i| objects[i].clone()).collect();
        let settings = PrefetchSettings { threads, lookahead_bytes: lookahead * 100 };
        let prefetcher = Prefetcher::start(&transfer, Arc::new(Sequence(plan.clone())), 0, settings);
        for (position, (object, body)) in plan.iter().zip(&uses).enumerate() {
            prefetcher.advance(position as u64);
            let file = transfer.fetch(object).unwrap();
            prop_assert_eq!(file.to_vec(), vec![*body as u8; 100]);
        }
        drop(prefetcher);
        prop_assert!(tiers.local.usage().unwrap().used_bytes() <= room * 100);
    }
}

/// Waits for what other threads do, without a clock of its own.
fn eventually(tiers: &TempTiers, what: impl Fn() -> bool) {
    while !what() {
        tiers.runtime.sleep(std::time::Duration::from_millis(1)).unwrap();
    }
}

#[test]
fn no_more_lands_ahead_than_the_lookahead() {
    let tiers = TempTiers::new(10_000);
    let transfer = tiers.transfer();
    let plan: Vec<Object> =
        (0..20u8).map(|i| put(&tiers, &format!("shards/{i}"), &[i; 100])).collect();
    let settings = PrefetchSettings { threads: 2, lookahead_bytes: 300 };
    let prefetcher = Prefetcher::start(&transfer, Arc::new(Sequence(plan)), 0, settings);
    for reached in 0..16u64 {
        prefetcher.advance(reached);
        // The one that is needed now, and three ahead.
        eventually(&tiers, || transfer.fetch_stats().fetched >= reached + 4);
        assert_eq!(transfer.fetch_stats().fetched, reached + 4);
    }
    assert_eq!(prefetcher.stats().failed, 0);
}

#[test]
fn a_failed_prefetch_is_the_consumers_to_meet() {
    let tiers = TempTiers::new(10_000);
    let transfer = tiers.transfer();
    let plan: Vec<Object> =
        (0..4u8).map(|i| put(&tiers, &format!("shards/{i}"), &[i; 100])).collect();
    let denied = Fault::Fails(io::ErrorKind::PermissionDenied);
    tiers.store.inject(Request::Read, "shards/1", u64::MAX, denied);
    let settings = PrefetchSettings { threads: 1, lookahead_bytes: 1000 };
    let sequence = Arc::new(Sequence(plan.clone()));
    let prefetcher = Prefetcher::start(&transfer, sequence, 0, settings);
    eventually(&tiers, || transfer.fetch_stats().fetched == 3);
    assert_eq!(prefetcher.stats().failed, 1);
    assert!(transfer.fetch(&plan[1]).is_err());
    tiers.store.behave();
    transfer.fetch(&plan[1]).unwrap();
}

/// A plan that cannot be read for a while, as a dataset's pages may be.
struct Stutters(Mutex<u32>, Object);

impl Plan for Stutters {
    fn needs(self: Arc<Self>, _from: u64) -> Needs {
        let mut done = false;
        Box::new(std::iter::from_fn(move || {
            let mut left = self.0.lock().unwrap();
            if *left > 0 {
                *left -= 1;
                let lake = "test".into();
                return Some(Err(Error::Missing { object: self.1.key.clone(), lake }));
            }
            (!std::mem::replace(&mut done, true))
                .then(|| Ok(Need { object: self.1.clone(), first: 0, last: 9 }))
        }))
    }

    fn next_use(&self, _digest: Digest, _after: u64) -> Option<u64> {
        None
    }
}

#[test]
fn a_plan_that_fails_is_asked_again() {
    let tiers = TempTiers::new(10_000);
    let transfer = tiers.transfer();
    let object = put(&tiers, "shards/late", &[7; 100]);
    let plan = Arc::new(Stutters(Mutex::new(2), object));
    let settings = PrefetchSettings { threads: 1, lookahead_bytes: 0 };
    let prefetcher = Prefetcher::start(&transfer, plan, 0, settings);
    eventually(&tiers, || transfer.fetch_stats().fetched == 1);
    assert_eq!(prefetcher.stats().failed, 2);
}
