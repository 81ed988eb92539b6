//! Opening datasets: the newest without listing, pages verified, memory bounded.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::fs;

use forebay_format::{
    record,
    v1::dataset::{
        BatchEntry, DatasetManifest, ObjectEntry, RecordCounts, SHARDS_PER_PAGE, ShardEntry,
        ShardPage, SplitEntry, TokenSchema, TokenizerEntry, manifest_key, page_key,
    },
};
use forebay_lake::{Lake, Purpose};
use forebay_testing::TempTiers;
use forebay_transfer::{
    Error,
    dataset::{PAGES_MAX, Shards, newest_version, open_dataset},
};
use forebay_types::{Digest, ErrorKind, Name, Nonce, Split, Version};

fn name() -> Name {
    Name::new("rfc").unwrap()
}

fn publish(lake: &Lake, version: Version) {
    let digest = Digest::of(b"x");
    let manifest = DatasetManifest {
        name: name(),
        version,
        parent: None,
        identity: digest,
        created_unix_ms: 0,
        nonce: Nonce::from_bits(1),
        recipe: serde_json::json!({}),
        recipe_digest: digest,
        tokenizer: TokenizerEntry {
            kind: "byte".into(),
            digest,
            vocabulary_size: 256,
            end_of_document: 0,
        },
        schema: TokenSchema { row_tokens: 8, token_bytes: 2 },
        sources: Vec::new(),
        splits: Vec::new(),
        counts: RecordCounts::default(),
        quarantine: None,
    };
    let (bytes, _) = record::encode(&manifest).unwrap();
    lake.commit(&manifest_key(&name(), version), &bytes).unwrap();
}

#[test]
fn the_newest_version_is_found_whatever_their_number() {
    let tiers = TempTiers::new(1000);
    let lake = &tiers.lake;
    let error = open_dataset(lake, &name(), None).unwrap_err();
    assert!(matches!(error, Error::NoDataset { .. }), "{error:?}");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    for number in 1..40 {
        let version = Version::new(number).unwrap();
        publish(lake, version);
        assert_eq!(newest_version(lake, &name()).unwrap(), Some(version));
        assert_eq!(open_dataset(lake, &name(), None).unwrap().0.version, version);
    }
    let (third, _) = open_dataset(lake, &name(), Version::new(3)).unwrap();
    assert_eq!(third.version.number(), 3);
    let error = open_dataset(lake, &name(), Version::new(40)).unwrap_err();
    assert!(matches!(error, Error::NoVersion { .. }), "{error:?}");
}

#[test]
fn a_changed_or_newer_manifest_is_named() {
    let tiers = TempTiers::new(1000);
    publish(&tiers.lake, Version::FIRST);
    let path = tiers.lake_path().join("datasets/rfc/v1.json");
    let text = fs::read_to_string(&path).unwrap();
    let spoil = |text: String| {
        fs::remove_file(&path).unwrap();
        fs::write(&path, text).unwrap();
        let error = open_dataset(&tiers.lake, &name(), None).unwrap_err();
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.starts_with("datasets/rfc/v1.json is"), "{source}");
        error.kind()
    };
    assert_eq!(spoil(text.replace("\"byte\"", "\"bite\"")), ErrorKind::Corrupt);
    let newer = text.replace("\"version\":1,\"digest\"", "\"version\":2,\"digest\"");
    assert_eq!(spoil(newer), ErrorKind::NewerFormat);
}

fn shard(number: u32) -> ShardEntry {
    let digest = Digest::of(&number.to_le_bytes());
    ShardEntry {
        digest,
        bytes: 100,
        rows: 1,
        batches: vec![BatchEntry { offset: 8, bytes: 64, crc32c: number }],
        origin: ObjectEntry { digest, bytes: 10 },
    }
}

/// A split of `count` shards of one row each.
fn split(lake: &Lake, count: u32) -> SplitEntry {
    let shards: Vec<ShardEntry> = (0..count).map(shard).collect();
    let pages = shards
        .chunks(SHARDS_PER_PAGE as usize)
        .map(|shards| {
            let (bytes, digest) = record::encode(&ShardPage { shards: shards.to_vec() }).unwrap();
            lake.write(&page_key(digest), Purpose::Manifest, &bytes).unwrap();
            digest
        })
        .collect();
    SplitEntry {
        split: Split::Train,
        rows: u64::from(count),
        documents: 1,
        rows_per_shard: 1,
        rows_per_batch: 1,
        shards: count,
        pages,
    }
}

#[test]
fn pages_are_read_when_needed_and_a_bounded_number_is_kept() {
    let tiers = TempTiers::new(1000);
    let pages = PAGES_MAX as u32 + 2;
    let split = split(&tiers.lake, (pages - 1) * SHARDS_PER_PAGE + 1);
    let shards = Shards::new(&tiers.lake, &split);
    let reads = || tiers.lake.traffic().get(&Purpose::Manifest).map_or(0, |traffic| traffic.reads);
    let reads_per_page = {
        shards.get(5).unwrap();
        reads()
    };
    assert_eq!(shards.numbers_of(shard(7).digest), Some(7..=7));
    assert_eq!(shards.numbers_of(shard(SHARDS_PER_PAGE).digest), None, "not read");
    for page in 0..pages {
        let number = page * SHARDS_PER_PAGE;
        assert_eq!(*shards.get(number).unwrap(), shard(number));
        assert_eq!(*shards.get(0).unwrap(), shard(0), "used all the time");
    }
    assert_eq!(reads(), reads_per_page * u64::from(pages));
    for number in [0, SHARDS_PER_PAGE, 3 * SHARDS_PER_PAGE + 9] {
        let found = shards.numbers_of(shard(number).digest);
        assert_eq!(found, Some(number..=number), "known still, although its page may be gone");
    }
    shards.get(SHARDS_PER_PAGE).unwrap();
    assert_eq!(reads(), reads_per_page * u64::from(pages + 1), "it was used longest ago");
}

#[test]
fn a_page_that_is_not_the_one_named_is_refused() {
    let tiers = TempTiers::new(1000);
    let lake = &tiers.lake;
    let entry = split(lake, 3);
    let fewer = SplitEntry { shards: 2, rows: 2, ..entry.clone() };
    let swapped = {
        let other = split(lake, 4);
        let path = tiers.lake_path().join(page_key(entry.pages[0]).as_str());
        fs::remove_file(&path).unwrap();
        fs::copy(tiers.lake_path().join(page_key(other.pages[0]).as_str()), &path).unwrap();
        entry
    };
    let error = Shards::new(lake, &swapped).get(0).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    let honest = SplitEntry { pages: split(lake, 3).pages, ..fewer };
    // The page lies at its name again, and lists more shards than the split has.
    let path = tiers.lake_path().join(page_key(honest.pages[0]).as_str());
    fs::remove_file(&path).unwrap();
    split(lake, 3);
    let error = Shards::new(lake, &honest).get(0).unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("it lists 3 shards instead of 2"), "{source}");
    fs::remove_file(&path).unwrap();
    let error = Shards::new(lake, &honest).get(0).unwrap_err();
    assert!(matches!(error, Error::Missing { .. }), "{error:?}");
}
