//! The tables of version 1, as they were first written, are read by every later build.

#![allow(clippy::unwrap_used, reason = "a test may")]

use std::{fs, path::PathBuf};

use forebay_format::{
    record,
    v1::{
        dataset::{
            DatasetManifest, ObjectEntry, RecordCounts, ShardEntry, ShardPage, SourceEntry,
            SplitEntry, TokenSchema, TokenizerEntry,
        },
        origin::{OriginReader, OriginWriter, Span},
        quarantine,
        shard::{EncodedShard, ShardReader, ShardWriter},
    },
};
use forebay_types::{Digest, Name, Nonce, SampleId, Split, Version};

const SCHEMA: TokenSchema = TokenSchema { row_tokens: 6, token_bytes: 2 };
const ROWS: u16 = 5;

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden/v1").join(name)
}

fn id(row: u16) -> SampleId {
    SampleId::from_bytes(std::array::from_fn(|byte| (row as u8 + 1) * (byte as u8 + 1)))
}

fn tokens_le(row: u16) -> Vec<u8> {
    (0..6).flat_map(|column| (row * 1000 + column).to_le_bytes()).collect()
}

fn shard() -> EncodedShard {
    let mut writer = ShardWriter::new(SCHEMA, 2).unwrap();
    (0..ROWS).for_each(|row| writer.push(id(row), &tokens_le(row)).unwrap());
    writer.finish().unwrap()
}

fn spans(row: u16) -> Vec<Span> {
    let piece = |index: u64| Span {
        source: u32::from(row / 4),
        record: 2 * u64::from(row) + index,
        offset: 100 * u64::from(row) + 40 * index,
        bytes: 30 + index,
        token_start: 3 * (1 - index as u32),
        tokens: 3,
    };
    vec![piece(0), piece(1)]
}

fn origin() -> Vec<u8> {
    let mut writer = OriginWriter::new();
    (0..ROWS).for_each(|row| writer.push(&spans(row)).unwrap());
    writer.finish().unwrap()
}

fn page() -> ShardPage {
    let shard = shard();
    let entry = ShardEntry {
        digest: shard.digest,
        bytes: shard.bytes.len() as u64,
        rows: shard.rows,
        batches: shard.batches,
        origin: ObjectEntry { digest: Digest::of(b"origin"), bytes: 6 },
    };
    ShardPage { shards: vec![entry] }
}

fn manifest() -> DatasetManifest {
    let object = |name: &str| ObjectEntry { digest: Digest::of(name.as_bytes()), bytes: 4 };
    let split = |split, rows, shards, pages| SplitEntry {
        split,
        rows,
        documents: rows,
        rows_per_shard: 6,
        rows_per_batch: 2,
        shards,
        pages,
    };
    DatasetManifest {
        name: Name::new("golden").unwrap(),
        version: Version::FIRST.next(),
        parent: Some(Version::FIRST),
        identity: Digest::of(b"identity"),
        created_unix_ms: 1_767_225_600_000,
        nonce: Nonce::from_bits(7),
        recipe: serde_json::json!({ "seed": 1 }),
        recipe_digest: Digest::of(b"recipe"),
        tokenizer: TokenizerEntry {
            kind: "byte".into(),
            digest: Digest::of(b"tokenizer"),
            vocabulary_size: 257,
            end_of_document: 256,
        },
        schema: SCHEMA,
        sources: vec![SourceEntry {
            name: "a/b.jsonl.gz".into(),
            bytes: 99,
            digest: Digest::of(b"source"),
            records: 9,
        }],
        splits: vec![
            split(Split::Train, 5, 1, vec![Digest::of(b"page")]),
            split(Split::Validation, 0, 0, vec![]),
        ],
        counts: RecordCounts {
            read: 9,
            kept: 5,
            dropped: [("duplicate".into(), 2), ("empty".into(), 1)].into(),
            quarantined: [("invalid_json".into(), 1)].into(),
            tokens_cut: [(Split::Train, 3), (Split::Validation, 0)].into(),
        },
        quarantine: Some(object("quarantine")),
    }
}

#[test]
fn the_first_manifest_and_page_are_still_read_and_still_written_alike() {
    let bytes = fs::read(golden("dataset.json")).unwrap();
    let (found, digest) = record::decode::<DatasetManifest>(&bytes, "golden dataset").unwrap();
    assert_eq!(found, manifest());
    assert_eq!(record::encode(&manifest()).unwrap(), (bytes, digest));
    let bytes = fs::read(golden("page.json")).unwrap();
    let (found, digest) = record::decode::<ShardPage>(&bytes, "golden page").unwrap();
    assert_eq!(found, page());
    assert_eq!(record::encode(&page()).unwrap(), (bytes, digest));
}

#[test]
fn the_first_shard_is_still_read_and_still_written_alike() {
    let bytes = fs::read(golden("shard.arrow")).unwrap();
    let shard = shard();
    let reader = ShardReader::new(&bytes, SCHEMA, "golden shard").unwrap();
    assert_eq!(u32::from(ROWS), reader.rows());
    for row in 0..ROWS {
        let found = reader.row(row.into());
        assert_eq!((found.id, found.tokens_le.to_vec()), (id(row), tokens_le(row)));
    }
    for (index, entry) in shard.batches.iter().enumerate() {
        reader.verify_batch(index, entry).unwrap();
    }
    assert!(shard.bytes == bytes, "the same rows no longer give the same shard");
}

#[test]
fn the_first_origin_file_is_still_read() {
    // Not compared byte by byte: another release of zstd may compress another way.
    let bytes = fs::read(golden("origin.arrow")).unwrap();
    let reader = OriginReader::new(&bytes, "golden origin").unwrap();
    assert_eq!(reader.rows(), usize::from(ROWS));
    (0..ROWS).for_each(|row| assert_eq!(reader.row(row.into()), spans(row)));
}

#[test]
fn the_first_quarantine_file_is_still_read() {
    let text = fs::read_to_string(golden("quarantine.jsonl")).unwrap();
    let entries: Vec<_> = quarantine::decode(&text, "golden").collect::<Result<_, _>>().unwrap();
    assert_eq!(entries.len(), 2);
    assert_eq!(entries[1].reason, quarantine::Reason::DamagedStream);
    assert_eq!(entries.iter().map(quarantine::Quarantined::to_line).collect::<String>(), text);
}

/// Writes what is missing in `golden/v1`; what is there is never written again.
#[test]
#[ignore = "run by hand when a format is added"]
fn write_what_is_missing() {
    let files = [
        ("shard.arrow", shard().bytes),
        ("origin.arrow", origin()),
        ("dataset.json", record::encode(&manifest()).unwrap().0),
        ("page.json", record::encode(&page()).unwrap().0),
    ];
    for (name, bytes) in files.into_iter().filter(|(name, _)| !golden(name).exists()) {
        fs::write(golden(name), bytes).unwrap();
    }
}
