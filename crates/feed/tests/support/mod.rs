//! A published dataset whose rows are known by number, written with the formats alone.

#![allow(clippy::unwrap_used, dead_code, reason = "shared by tests that use parts of it")]

use forebay_feed::{Batch, Feed, FeedDataset, FeedSettings};
use forebay_format::{
    record,
    v1::{
        dataset::{
            DatasetManifest, ObjectEntry, RecordCounts, SHARDS_PER_PAGE, ShardEntry, ShardPage,
            SourceEntry, SplitEntry, TokenSchema, TokenizerEntry, manifest_key, origin_key,
            page_key, shard_key,
        },
        origin::{OriginWriter, Span},
        shard::ShardWriter,
    },
};
use forebay_lake::{Lake, Purpose};
use forebay_transfer::Transfer;
use forebay_types::{Digest, Name, Nonce, Position, Rank, SampleId, Split, Version};

pub const SCHEMA: TokenSchema = TokenSchema { row_tokens: 16, token_bytes: 2 };
pub const ROWS_PER_BATCH: u32 = 4;

/// The tokens of row `row`.
pub fn tokens_le(row: u64) -> Vec<u8> {
    (0..16u64).flat_map(|token| ((row * 31 + token) as u16).to_le_bytes()).collect()
}

/// The identity of row `row`.
pub fn id(row: u64) -> SampleId {
    SampleId::from_bytes((u128::from(row) << 7 | 5).to_le_bytes())
}

/// The number of the row with this identity.
pub fn number(id: &SampleId) -> u64 {
    (u128::from_le_bytes(*id.as_bytes()) >> 7) as u64
}

/// A dataset of `rows` training rows, and the shards it consists of.
pub struct Published {
    pub manifest: DatasetManifest,
    pub shards: Vec<ShardEntry>,
}

impl Published {
    pub fn dataset(&self) -> FeedDataset<'_> {
        FeedDataset::Prepared(&self.manifest, Split::Train)
    }
}

pub fn publish(lake: &Lake, rows: u64, rows_per_shard: u32) -> Published {
    let shards: Vec<ShardEntry> = (0..rows)
        .step_by(rows_per_shard as usize)
        .map(|first| publish_shard(lake, first..rows.min(first + u64::from(rows_per_shard))))
        .collect();
    let pages = shards
        .chunks(SHARDS_PER_PAGE as usize)
        .map(|shards| {
            let (bytes, digest) = record::encode(&ShardPage { shards: shards.to_vec() }).unwrap();
            lake.write(&page_key(digest), Purpose::Manifest, &bytes).unwrap();
            digest
        })
        .collect();
    let split = SplitEntry {
        split: Split::Train,
        rows,
        documents: rows,
        rows_per_shard,
        rows_per_batch: ROWS_PER_BATCH,
        shards: shards.len() as u32,
        pages,
    };
    let manifest = manifest(split, Version::FIRST);
    let (bytes, _) = record::encode(&manifest).unwrap();
    lake.commit(&manifest_key(&manifest.name, manifest.version), &bytes).unwrap();
    Published { manifest, shards }
}

fn publish_shard(lake: &Lake, rows: std::ops::Range<u64>) -> ShardEntry {
    let mut shard = ShardWriter::new(SCHEMA, ROWS_PER_BATCH).unwrap();
    let mut origins = OriginWriter::new();
    for row in rows {
        shard.push(id(row), &tokens_le(row)).unwrap();
        let (offset, bytes) = (row * 10, 10);
        let span = Span { source: 0, record: row, offset, bytes, token_start: 0, tokens: 16 };
        origins.push(&[span]).unwrap();
    }
    let shard = shard.finish().unwrap();
    lake.write(&shard_key(shard.digest), Purpose::Shard, &shard.bytes).unwrap();
    let origin = origins.finish().unwrap();
    let entry = ObjectEntry { digest: Digest::of(&origin), bytes: origin.len() as u64 };
    lake.write(&origin_key(entry.digest), Purpose::Shard, &origin).unwrap();
    ShardEntry {
        digest: shard.digest,
        bytes: shard.bytes.len() as u64,
        rows: shard.rows,
        batches: shard.batches,
        origin: entry,
    }
}

fn manifest(split: SplitEntry, version: Version) -> DatasetManifest {
    let digest = Digest::of(b"test");
    let rows = split.rows;
    DatasetManifest {
        name: Name::new("numbers").unwrap(),
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
            vocabulary_size: 1 << 16,
            end_of_document: 0,
        },
        schema: SCHEMA,
        sources: vec![SourceEntry {
            name: "numbers.jsonl".into(),
            bytes: rows * 10,
            digest,
            records: rows,
        }],
        splits: vec![split],
        counts: RecordCounts { read: rows, kept: rows, ..RecordCounts::default() },
        quarantine: None,
    }
}

/// Small and quick; the tests change what they are about.
pub fn settings() -> FeedSettings {
    FeedSettings {
        seed: 11,
        canonical_streams: 4,
        window_shards: 2,
        batch_size: 12,
        lookahead_bytes: 1 << 20,
        buffer_bytes: 4096,
        ..FeedSettings::default()
    }
}

pub fn open(
    transfer: &Transfer,
    published: &Published,
    settings: &FeedSettings,
    rank: Rank,
    step: u64,
) -> Feed {
    let from = Position { step };
    Feed::open(transfer, &[published.dataset()], settings, rank, from).unwrap()
}

/// The row numbers of a batch, after a look at its tokens.
pub fn rows(batch: &Batch) -> Vec<u64> {
    let rows: Vec<u64> = batch.ids().iter().map(|id| number(&id)).collect();
    let tokens: Vec<u8> = rows.iter().flat_map(|&row| tokens_le(row)).collect();
    assert_eq!(batch.tokens_le(), tokens);
    assert_eq!(batch.rows, rows.len());
    rows
}

/// The row numbers of the next `steps` batches.
pub fn take(feed: &mut Feed, steps: u64) -> Vec<Vec<u64>> {
    (0..steps).map(|_| rows(&feed.next().unwrap().unwrap())).collect()
}
