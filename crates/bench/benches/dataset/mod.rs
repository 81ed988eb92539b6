//! Published datasets of counting tokens.

#![allow(dead_code, reason = "shared by benches that use parts of it")]

use std::{collections::BTreeSet, path::Path};

use forebay_bench::Bench;
use forebay_feed::Place;
use forebay_format::{
    record,
    v1::{
        dataset::{
            BatchEntry, DatasetManifest, ObjectEntry, RecordCounts, SHARDS_PER_PAGE, ShardEntry,
            ShardPage, SplitEntry, TokenSchema, TokenizerEntry, page_key, shard_key,
        },
        shard::{ShardReader, ShardWriter},
    },
};
use forebay_lake::{Lake, Purpose};
use forebay_local::{CachedFile, LocalTier};
use forebay_transfer::{Object, Transfer};
use forebay_types::{Digest, Name, Nonce, SampleId, Split, Version};

pub const SCHEMA: TokenSchema = TokenSchema { row_tokens: 513, token_bytes: 2 };
const ROWS_PER_BATCH: u32 = 1024;
const ROWS_PER_SHARD: u32 = 8 * ROWS_PER_BATCH;

/// The dataset, and its shards as mapped files.
pub struct Dataset {
    pub transfer: Transfer,
    pub manifest: DatasetManifest,
    pub rows: u64,
    pub rows_per_shard: u32,
    pub shards: Vec<CachedFile>,
    readers: Vec<ShardReader<CachedFile>>,
}

impl Dataset {
    /// As many whole shards as the bench moves bytes in a round.
    pub fn publish(bench: &Bench, directory: &Path) -> Self {
        let shard_bytes = ROWS_PER_SHARD as usize * SCHEMA.row_bytes();
        let shards = (bench.bytes() / shard_bytes).max(1) as u64;
        let transfer = tiers(bench, directory);
        let (manifest, entries) = publish(transfer.lake(), shards, SHAPE);
        let rows = shards * u64::from(ROWS_PER_SHARD);
        let shards: Vec<CachedFile> = entries
            .iter()
            .map(|entry| transfer.fetch(&object(entry)).expect("it was put"))
            .collect();
        let open = |file: &CachedFile| ShardReader::new(file.clone(), SCHEMA, "shard");
        let readers = shards.iter().map(|file| open(file).expect("it was put")).collect();
        Self { transfer, manifest, rows, rows_per_shard: ROWS_PER_SHARD, shards, readers }
    }

    /// The tokens of one row.
    pub fn row(&self, place: Place) -> &[u8] {
        self.readers[place.shard as usize].row(place.row).tokens_le
    }
}

/// How many rows a record batch and a shard have.
#[derive(Clone, Copy)]
pub struct Shape {
    pub rows_per_batch: u32,
    pub rows_per_shard: u32,
}

const SHAPE: Shape = Shape { rows_per_batch: ROWS_PER_BATCH, rows_per_shard: ROWS_PER_SHARD };

/// Puts `shards` whole shards into `lake`.
pub fn publish(lake: &Lake, shards: u64, shape: Shape) -> (DatasetManifest, Vec<ShardEntry>) {
    let entries: Vec<ShardEntry> =
        (0..shards).map(|number| put_shard(lake, number, shape)).collect();
    let pages = entries.chunks(SHARDS_PER_PAGE as usize);
    let pages = pages.map(|shards| put_page(lake, shards)).collect();
    (manifest(split(shards, pages, shape)), entries)
}

/// A dataset of `shards` shards of which only `wanted` are there, and the pages that list them: as
/// much of it as a few steps read.
pub fn publish_part(
    lake: &Lake,
    shards: u64,
    shape: Shape,
    wanted: &BTreeSet<u32>,
) -> DatasetManifest {
    let absent = |number: u64| ShardEntry {
        digest: Digest::of(&number.to_le_bytes()),
        bytes: u64::from(shape.rows_per_shard) * SCHEMA.row_bytes() as u64,
        rows: shape.rows_per_shard,
        batches: vec![
            BatchEntry { offset: 0, bytes: 0, crc32c: 0 };
            shape.rows_per_shard.div_ceil(shape.rows_per_batch) as usize
        ],
        origin: ObjectEntry { digest: Digest::of(&[]), bytes: 0 },
    };
    let entry = |number: u64| match wanted.contains(&(number as u32)) {
        true => put_shard(lake, number, shape),
        false => absent(number),
    };
    let page = |first: u64| {
        let numbers = first..(first + u64::from(SHARDS_PER_PAGE)).min(shards);
        match wanted.range(numbers.start as u32..numbers.end as u32).next() {
            Some(_) => put_page(lake, &numbers.map(entry).collect::<Vec<_>>()),
            None => Digest::of(&first.to_be_bytes()),
        }
    };
    let pages = (0..shards).step_by(SHARDS_PER_PAGE as usize).map(page).collect();
    manifest(split(shards, pages, shape))
}

fn tiers(bench: &Bench, directory: &Path) -> Transfer {
    let runtime = bench.runtime();
    let url = directory.join("lake").display().to_string();
    let lake = Lake::open(&url, runtime).expect("a directory for the lake");
    let budget_bytes = 4 * bench.bytes() as u64 + (64 << 20);
    let local = LocalTier::open(&directory.join("local"), budget_bytes, runtime);
    Transfer::new(&lake, &local.expect("a directory for the local tier"), runtime)
}

fn put_shard(lake: &Lake, number: u64, shape: Shape) -> ShardEntry {
    let mut shard = ShardWriter::new(SCHEMA, shape.rows_per_batch).expect("a sound schema");
    let rows = u64::from(shape.rows_per_shard);
    for row in number * rows..(number + 1) * rows {
        let tokens =
            (0..SCHEMA.row_tokens).flat_map(|token| (row as u16 ^ token as u16).to_le_bytes());
        let id = SampleId::from_bytes(u128::from(row).to_le_bytes());
        shard.push(id, &tokens.collect::<Vec<_>>()).expect("a row of the schema");
    }
    let shard = shard.finish().expect("a shard in memory");
    let key = shard_key(shard.digest);
    lake.write(&key, Purpose::Shard, &shard.bytes).expect("room in the lake");
    ShardEntry {
        digest: shard.digest,
        bytes: shard.bytes.len() as u64,
        rows: shard.rows,
        batches: shard.batches,
        // Nobody asks where these rows came from.
        origin: ObjectEntry { digest: Digest::of(&[]), bytes: 0 },
    }
}

fn object(entry: &ShardEntry) -> Object {
    let (key, digest) = (shard_key(entry.digest), entry.digest);
    Object::whole(key, digest, entry.bytes, Purpose::Shard)
}

fn put_page(lake: &Lake, shards: &[ShardEntry]) -> Digest {
    let page = ShardPage { shards: shards.to_vec() };
    let (bytes, digest) = record::encode(&page).expect("a page");
    lake.write(&page_key(digest), Purpose::Manifest, &bytes).expect("room in the lake");
    digest
}

fn split(shards: u64, pages: Vec<Digest>, shape: Shape) -> SplitEntry {
    let rows = shards * u64::from(shape.rows_per_shard);
    SplitEntry {
        split: Split::Train,
        rows,
        documents: rows,
        rows_per_shard: shape.rows_per_shard,
        rows_per_batch: shape.rows_per_batch,
        shards: shards as u32,
        pages,
    }
}

fn manifest(split: SplitEntry) -> DatasetManifest {
    let digest = Digest::of(b"bench");
    DatasetManifest {
        name: Name::new("bench").expect("a sound name"),
        version: Version::FIRST,
        parent: None,
        identity: digest,
        created_unix_ms: 0,
        nonce: Nonce::from_bits(1),
        recipe: Default::default(),
        recipe_digest: digest,
        tokenizer: TokenizerEntry {
            kind: "byte".into(),
            digest,
            vocabulary_size: 1 << 16,
            end_of_document: 0,
        },
        schema: SCHEMA,
        sources: Vec::new(),
        counts: RecordCounts { read: split.rows, kept: split.rows, ..RecordCounts::default() },
        splits: vec![split],
        quarantine: None,
    }
}
