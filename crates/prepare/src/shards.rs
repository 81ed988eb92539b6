//! The second reduce, second half: rows in order into shards, shards into the lake.
//!
//! Workers take turns at the stream of rows, each until its shard is full, and then encode,
//! digest and upload it beside each other. Shards are named by their digest, so what a run before
//! a crash has uploaded is found and not written again.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use forebay_format::{
    record,
    v1::{
        dataset::{
            ObjectEntry, SHARDS_PER_PAGE, ShardEntry, ShardPage, SplitEntry, origin_key, page_key,
            shard_key,
        },
        origin::OriginWriter,
        shard::ShardWriter,
    },
};
use forebay_lake::{Lake, Purpose};
use forebay_runtime::crash_point;
use forebay_types::{Digest, Key, Split};

use crate::{
    Error, Stage,
    job::{Job, lock},
    shuffle::Shuffled,
    spill::Lanes,
};

/// Writes content-named objects and counts what it wrote.
pub(crate) struct Uploads<'a> {
    pub(crate) lake: &'a Lake,
    written_bytes: AtomicU64,
}

impl<'a> Uploads<'a> {
    pub(crate) const fn new(lake: &'a Lake) -> Self {
        Self { lake, written_bytes: AtomicU64::new(0) }
    }

    /// Writes an object unless it is there: its name is its digest, so it is the same one.
    pub(crate) fn put(&self, key: &Key, purpose: Purpose, bytes: &[u8]) -> Result<(), Error> {
        if self.lake.size(key)? == Some(bytes.len() as u64) {
            return Ok(());
        }
        self.lake.write(key, purpose, bytes)?;
        self.count(bytes.len() as u64);
        Ok(())
    }

    pub(crate) fn count(&self, bytes: u64) {
        self.written_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn written_bytes(&self) -> u64 {
        self.written_bytes.load(Ordering::Relaxed)
    }
}

/// What is known of a split before its shards are written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) split: Split,
    pub(crate) rows: u64,
    pub(crate) documents: u64,
    /// The rows of all splits.
    pub(crate) total_rows: u64,
}

/// Writes the shards and pages of one split.
pub(crate) fn run(
    job: &Job<'_>,
    uploads: &Uploads<'_>,
    wanted: Wanted,
    buckets: &Lanes<'_>,
) -> Result<SplitEntry, Error> {
    let (rows_per_batch, rows_per_shard) = job.recipe.rows(job.schema.row_bytes());
    let Wanted { split, rows, documents, total_rows } = wanted;
    let shards = rows.div_ceil(u64::from(rows_per_shard)) as u32;
    let stream =
        Mutex::new(Stream { rows: Shuffled::new(buckets, job.limits.bucket_bytes), next: 0 });
    let entries = Mutex::new(vec![None; shards as usize]);
    job.tasks("write", job.limits.writers, shards as usize, |_| {
        let filled = lock(&stream).fill(job, rows_per_batch, rows_per_shard)?;
        let (number, rows) = (filled.number, u64::from(filled.shard.rows()));
        lock(&entries)[number] = Some(filled.upload(uploads)?);
        job.progress.add(Stage::Write, rows, total_rows);
        Ok(())
    })?;
    let entries = entries.into_inner().unwrap_or_else(PoisonError::into_inner);
    let entries: Vec<ShardEntry> = entries.into_iter().flatten().collect();
    let pages = entries
        .chunks(SHARDS_PER_PAGE as usize)
        .map(|shards| write_page(uploads, shards))
        .collect::<Result<_, _>>()?;
    Ok(SplitEntry { split, rows, documents, rows_per_shard, rows_per_batch, shards, pages })
}

struct Stream<'a> {
    rows: Shuffled<'a>,
    next: usize,
}

/// A shard with all its rows.
struct Filled {
    number: usize,
    shard: ShardWriter,
    origin: OriginWriter,
}

impl Stream<'_> {
    fn fill(&mut self, job: &Job<'_>, rows_per_batch: u32, rows: u32) -> Result<Filled, Error> {
        let mut shard = ShardWriter::new(job.schema, rows_per_batch)?;
        let mut origin = OriginWriter::new();
        while shard.rows() < rows {
            let Some(row) = self.rows.next()? else { break };
            shard.push(row.id, row.tokens_le)?;
            origin.push(&row.spans)?;
        }
        let number = self.next;
        self.next += 1;
        Ok(Filled { number, shard, origin })
    }
}

impl Filled {
    fn upload(self, uploads: &Uploads<'_>) -> Result<ShardEntry, Error> {
        let shard = self.shard.finish()?;
        let origin = self.origin.finish()?;
        crash_point("prepare.reduce");
        uploads.put(&shard_key(shard.digest), Purpose::Shard, &shard.bytes)?;
        let entry = ObjectEntry { digest: Digest::of(&origin), bytes: origin.len() as u64 };
        uploads.put(&origin_key(entry.digest), Purpose::Shard, &origin)?;
        Ok(ShardEntry {
            digest: shard.digest,
            bytes: shard.bytes.len() as u64,
            rows: shard.rows,
            batches: shard.batches,
            origin: entry,
        })
    }
}

fn write_page(uploads: &Uploads<'_>, shards: &[ShardEntry]) -> Result<Digest, Error> {
    let (bytes, digest) = record::encode(&ShardPage { shards: shards.to_vec() })?;
    uploads.put(&page_key(digest), Purpose::Manifest, &bytes)?;
    Ok(digest)
}
