//! The first map: raw chunks to cleaned documents.
//!
//! A worker takes a source's reader, reads one chunk, puts the reader back for others, and cleans
//! what it has: sources are decompressed side by side, and one large source keeps all workers
//! busy. Results are named by source and chunk, so it does not matter who made them when.

use std::{
    collections::BTreeMap,
    sync::{
        Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use forebay_format::v1::quarantine::{Quarantined, Reason};
use forebay_runtime::crash_point;
use forebay_types::Digest;

use crate::{
    Error, Stage,
    clean::{Cleaned, Dropped, clean},
    document::Document,
    duplicates::{Entry, PARTITIONS},
    job::{Job, first_u64, lock},
    raw::{Chunk, RawReader, RawRecord},
    source::Text,
    spill::{LaneWriter, Lanes, Spill, slot},
};

/// A chunk whose documents lie in [`text_file`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ChunkEntry {
    pub(crate) source: u32,
    pub(crate) number: u32,
    pub(crate) text_bytes: u64,
}

/// What became of the records so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) dropped: BTreeMap<Dropped, u64>,
    pub(crate) quarantined: BTreeMap<Reason, u64>,
    /// Records of each source.
    pub(crate) records: Vec<u64>,
}

/// What cleaning leaves, besides the scratch files.
#[derive(Debug, Default)]
pub(crate) struct CleanedSources {
    /// Every chunk, ordered.
    pub(crate) chunks: Vec<ChunkEntry>,
    pub(crate) tally: Tally,
}

/// Where the documents of a chunk lie.
pub(crate) fn text_file(source: u32, chunk: u32) -> String {
    format!("text-{source}-{chunk}")
}

/// Where the quarantined records of a chunk lie, if it has any.
pub(crate) fn quarantine_file(source: u32, chunk: u32) -> String {
    format!("quarantine-{source}-{chunk}")
}

/// Cleans all sources.
pub(crate) fn run(
    job: &Job<'_>,
    spill: &Spill,
    entries: &Lanes<'_>,
) -> Result<CleanedSources, Error> {
    let pool = Pool::new(job);
    let cleaned = Mutex::new(CleanedSources::default());
    lock(&cleaned).tally.records = vec![0; job.sources.len()];
    job.runtime.workers("clean", job.limits.cleaners, |_| {
        let mut worker = Worker { job, spill, entries: entries.writer(job.limits.lane_bytes) };
        let outcome = worker.run(&pool, &cleaned);
        pool.failed.fetch_or(outcome.is_err(), Ordering::Relaxed);
        outcome
    })?;
    let mut cleaned = cleaned.into_inner().unwrap_or_else(PoisonError::into_inner);
    cleaned.chunks.sort_unstable();
    Ok(cleaned)
}

struct Worker<'a> {
    job: &'a Job<'a>,
    spill: &'a Spill,
    entries: LaneWriter<'a>,
}

impl Worker<'_> {
    fn run(&mut self, pool: &Pool<'_>, cleaned: &Mutex<CleanedSources>) -> Result<(), Error> {
        while let Some((source, chunk)) = pool.next_chunk()? {
            self.job.runtime.check()?;
            crash_point("prepare.map");
            let mut output = Output::default();
            self.clean(source, &chunk, &mut output)?;
            self.spill.append(&text_file(source, chunk.number), &output.documents)?;
            if !output.quarantined.is_empty() {
                let file = quarantine_file(source, chunk.number);
                self.spill.append(&file, output.quarantined.as_bytes())?;
            }
            lock(cleaned).add(source, &chunk, output);
        }
        self.entries.flush()
    }

    fn clean(&mut self, source: u32, chunk: &Chunk, output: &mut Output) -> Result<(), Error> {
        let lost = chunk.lost.as_ref().and(chunk.records.last());
        for record in &chunk.records {
            let bytes = &chunk.bytes[record.place.clone()];
            let cleaned = match &chunk.lost {
                Some(why) if lost == Some(record) => {
                    Cleaned::Bad(Reason::DamagedStream, why.clone())
                }
                _ if !record.whole => Cleaned::Bad(Reason::TooLarge, self.too_large(record)),
                _ => clean(bytes, self.job.sources[source as usize].cut, self.job.recipe),
            };
            match cleaned {
                Cleaned::Kept { text, group } => {
                    self.keep((source, chunk.number), record, &text, group.as_deref(), output)?;
                }
                Cleaned::Dropped(why) => *output.dropped.entry(why).or_default() += 1,
                Cleaned::Bad(reason, detail) => {
                    let source = self.job.sources[source as usize].name.clone();
                    output.quarantine(quarantined(source, record, reason, detail, bytes));
                }
            }
        }
        Ok(())
    }

    fn too_large(&self, record: &RawRecord) -> String {
        format!(
            "{} bytes, `record_bytes_max` is {}",
            record.bytes, self.job.recipe.record_bytes_max
        )
    }

    fn keep(
        &mut self,
        (source, chunk): (u32, u32),
        record: &RawRecord,
        text: &str,
        group: Option<&str>,
        output: &mut Output,
    ) -> Result<(), Error> {
        let digest = Digest::of(text.as_bytes());
        let split = self.job.split(group, digest);
        let RawRecord { number, offset, bytes, .. } = *record;
        Document { record: number, offset, bytes, split, text }.write(&mut output.documents);
        output.text_bytes += text.len() as u64;
        if !self.job.recipe.deduplicate {
            return Ok(());
        }
        let entry = Entry { digest, source, record: number, chunk };
        let (partition, _) = slot(first_u64(&digest), PARTITIONS);
        self.entries.push(partition, |bytes| entry.write(bytes))
    }
}

/// What one chunk gives.
#[derive(Default)]
struct Output {
    documents: Vec<u8>,
    text_bytes: u64,
    dropped: BTreeMap<Dropped, u64>,
    quarantined: String,
    reasons: BTreeMap<Reason, u64>,
}

impl Output {
    fn quarantine(&mut self, entry: Quarantined) {
        *self.reasons.entry(entry.reason).or_default() += 1;
        self.quarantined.push_str(&entry.to_line());
    }
}

fn quarantined(
    source: String,
    record: &RawRecord,
    reason: Reason,
    detail: String,
    bytes: &[u8],
) -> Quarantined {
    let excerpt = Quarantined::excerpt(bytes);
    let RawRecord { number, offset, bytes, .. } = *record;
    Quarantined { source, record: number, offset, bytes, reason, detail, excerpt }
}

impl CleanedSources {
    fn add(&mut self, source: u32, chunk: &Chunk, output: Output) {
        let entry = ChunkEntry { source, number: chunk.number, text_bytes: output.text_bytes };
        self.chunks.push(entry);
        self.tally.records[source as usize] += chunk.records.len() as u64;
        for (why, count) in output.dropped {
            *self.tally.dropped.entry(why).or_default() += count;
        }
        for (reason, count) in output.reasons {
            *self.tally.quarantined.entry(reason).or_default() += count;
        }
    }
}

/// The sources' readers, shared by the workers.
struct Pool<'a> {
    job: &'a Job<'a>,
    total_bytes: u64,
    state: Mutex<Readers>,
    returned: Condvar,
    failed: AtomicBool,
}

#[derive(Default)]
struct Readers {
    idle: Vec<(u32, RawReader<Text>)>,
    /// The first source not yet opened.
    next: usize,
    /// Readers in the hands of workers.
    busy: usize,
}

impl<'a> Pool<'a> {
    fn new(job: &'a Job<'a>) -> Self {
        let total_bytes = job.sources.iter().map(|source| source.bytes).sum();
        let (state, returned) = (Mutex::default(), Condvar::new());
        Self { job, total_bytes, state, returned, failed: AtomicBool::new(false) }
    }

    /// The next chunk of any source; none when all are read, or when a worker failed.
    fn next_chunk(&self) -> Result<Option<(u32, Chunk)>, Error> {
        while let Some(mut taken) = self.take()? {
            let (source, reader) = taken.reader.as_mut().expect("a reader was just taken");
            let source = *source;
            let before = reader.source().raw_bytes();
            let chunk = reader.next_chunk();
            let read = reader.source().raw_bytes() - before;
            self.job.progress.add(Stage::Clean, read, self.total_bytes);
            match chunk {
                Some(chunk) => return Ok(Some((source, chunk))),
                None => taken.finish()?,
            }
        }
        Ok(None)
    }

    fn take(&self) -> Result<Option<Taken<'_, 'a>>, Error> {
        let mut state = lock(&self.state);
        loop {
            if self.failed.load(Ordering::Relaxed) {
                return Ok(None);
            }
            if let Some(reader) = state.idle.pop() {
                state.busy += 1;
                return Ok(Some(Taken { pool: self, reader: Some(reader) }));
            }
            if state.next < self.job.sources.len() {
                let index = state.next;
                (state.next, state.busy) = (index + 1, state.busy + 1);
                drop(state);
                let mut taken = Taken { pool: self, reader: None };
                let source = &self.job.sources[index];
                let text = source.open()?;
                let reader = RawReader::new(text, source.cut, self.job.recipe.record_bytes_max);
                taken.reader = Some((index as u32, reader));
                return Ok(Some(taken));
            }
            if state.busy == 0 {
                return Ok(None);
            }
            state = self.returned.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// A reader in the hands of a worker; it goes back, or is gone, whatever happens to the worker.
struct Taken<'p, 'a> {
    pool: &'p Pool<'a>,
    reader: Option<(u32, RawReader<Text>)>,
}

impl Taken<'_, '_> {
    /// Ends a source that was read to its end: it must be the one that was digested before.
    fn finish(mut self) -> Result<(), Error> {
        let Some((index, reader)) = self.reader.take() else { return Ok(()) };
        let source = &self.pool.job.sources[index as usize];
        if reader.into_source().finish(source)? == self.pool.job.digests[index as usize] {
            Ok(())
        } else {
            Err(Error::SourceChanged { name: source.name.clone() })
        }
    }
}

impl Drop for Taken<'_, '_> {
    fn drop(&mut self) {
        let mut state = lock(&self.pool.state);
        state.idle.extend(self.reader.take());
        state.busy -= 1;
        self.pool.returned.notify_all();
    }
}
