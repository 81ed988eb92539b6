//! The second map: documents to rows, each in the bucket of its key.
//!
//! A task packs the documents of its chunks in their order. What does not fill a row at its end
//! is kept aside; when all tasks are done, these tails are packed in the tasks' order by one last
//! task. So at most one row of each split is lost, however many tasks and files there are.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    sync::{Mutex, PoisonError},
};

use forebay_format::v1::{
    dataset::{TokenSchema, TokenizerEntry},
    origin::Span,
};
use forebay_types::{Digest, DigestWriter, SampleId, Split};
use serde::Serialize;

use crate::{
    Error, Stage, TextRecords,
    cleaning::{ChunkEntry, text_file},
    document::Document,
    duplicates::{Loser, losers_of},
    job::{Job, first_u64, lock},
    pack::{Packer, read_tail, write_row},
    spill::{LaneWriter, Lanes, Spill, slot},
    tasks::Tasks,
    tokenizer::Tokens,
};

/// Buckets per split are at most so many; each costs a buffer and a file.
const BUCKETS_MAX: u64 = 1024;

/// What packing did.
#[derive(Clone, Debug, Default)]
pub(crate) struct Packed {
    pub(crate) duplicates: u64,
    /// Documents of which nothing is in a row.
    pub(crate) not_filled: u64,
    pub(crate) documents: BTreeMap<Split, u64>,
    pub(crate) tokens_cut: BTreeMap<Split, u64>,
    /// Rows in each bucket of a split.
    pub(crate) rows: BTreeMap<Split, u64>,
}

impl Packed {
    fn merge(&mut self, other: &Self) {
        self.duplicates += other.duplicates;
        for (split, count) in &other.documents {
            *self.documents.entry(*split).or_default() += count;
        }
        for (split, rows) in &other.rows {
            *self.rows.entry(*split).or_default() += rows;
        }
    }
}

/// The buckets of the splits, in the order of [`Split::ALL`].
pub(crate) type Buckets<'a> = [Lanes<'a>; 2];

/// How many buckets keep a bucket within `bucket_bytes`, as far as that can be foreseen.
pub(crate) fn buckets(job: &Job<'_>, text_bytes: u64) -> usize {
    // A token is at least a byte of text, nearly always.
    let rows_bytes = text_bytes.saturating_mul(u64::from(job.schema.token_bytes));
    rows_bytes.div_ceil(job.limits.bucket_bytes).clamp(1, BUCKETS_MAX) as usize
}

pub(crate) const fn index(split: Split) -> usize {
    match split {
        Split::Train => 0,
        Split::Validation => 1,
    }
}

/// Packs all tasks and then their tails.
pub(crate) fn run(
    job: &Job<'_>,
    tasks: &Tasks,
    losers: &Lanes<'_>,
    buckets: &Buckets<'_>,
) -> Result<Packed, Error> {
    let identities = Identities::new(job);
    let packed = Mutex::new(Packed::default());
    let (text, total) = (losers.spill(), tasks.len() as u64 + 1);
    job.tasks("tokenize", job.limits.tokenizers, tasks.len(), |task| {
        let lost = losers_of(losers, task)?;
        let mut worker = Worker::new(job, &identities, buckets);
        worker.run(text, tasks.chunks(task), &lost)?;
        worker.keep_tails(buckets[0].spill(), task)?;
        let done = worker.finish()?;
        lock(&packed).merge(&done);
        job.progress.add(Stage::Tokenize, 1, total);
        Ok(())
    })?;
    let mut packed = packed.into_inner().unwrap_or_else(PoisonError::into_inner);
    pack_tails(job, &identities, buckets, tasks.len(), &mut packed)?;
    job.progress.add(Stage::Tokenize, 1, total);
    Ok(packed)
}

fn pack_tails(
    job: &Job<'_>,
    identities: &Identities,
    buckets: &Buckets<'_>,
    tasks: usize,
    packed: &mut Packed,
) -> Result<(), Error> {
    let mut worker = Worker::new(job, identities, buckets);
    for task in 0..tasks {
        for split in Split::ALL {
            let bytes = buckets[0].spill().read(&tail_file(split, task))?;
            for (span, ids) in read_tail(&bytes).pieces(job.schema) {
                worker.push(split, span, &ids)?;
            }
        }
    }
    for split in Split::ALL {
        let tail = worker.take_packer(split).into_tail();
        let cut: u64 = tail.spans.iter().map(|span| u64::from(span.tokens)).sum();
        let lost = tail.spans.iter().filter(|span| span.token_start == 0).count() as u64;
        packed.tokens_cut.insert(split, cut);
        packed.not_filled += lost;
        *packed.documents.entry(split).or_default() -= lost;
    }
    packed.merge(&worker.finish()?);
    Ok(())
}

fn tail_file(split: Split, task: usize) -> String {
    format!("tail-{split}-{task}")
}

struct Worker<'a> {
    job: &'a Job<'a>,
    identities: &'a Identities,
    packers: [Packer; 2],
    buckets: [LaneWriter<'a>; 2],
    tokens: Tokens,
    packed: Packed,
}

impl<'a> Worker<'a> {
    fn new(job: &'a Job<'a>, identities: &'a Identities, buckets: &'a Buckets<'a>) -> Self {
        let held = job.limits.lane_bytes / 2;
        Self {
            job,
            identities,
            packers: [Packer::new(job.schema), Packer::new(job.schema)],
            buckets: [buckets[0].writer(held), buckets[1].writer(held)],
            tokens: Tokens::default(),
            packed: Packed::default(),
        }
    }

    /// Packs the documents of `chunks` but for those that lost to an equal text.
    fn run(&mut self, text: &Spill, chunks: &[ChunkEntry], lost: &[Loser]) -> Result<(), Error> {
        for chunk in chunks {
            self.job.runtime.check()?;
            let file = text_file(chunk.source, chunk.number);
            let bytes = text.read(&file)?;
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                let document = Document::take(&mut rest)
                    .ok_or_else(|| text.unreadable(&file, io::ErrorKind::InvalidData.into()))?;
                if lost.binary_search(&(chunk.source, document.record)).is_ok() {
                    self.packed.duplicates += 1;
                } else {
                    self.document(chunk.source, &document)?;
                }
            }
            text.remove(&file)?;
        }
        Ok(())
    }

    fn document(&mut self, source: u32, document: &Document<'_>) -> Result<(), Error> {
        let Document { record, offset, bytes, split, text } = *document;
        let mut tokens = std::mem::take(&mut self.tokens);
        self.job.tokenizer.encode(text, &mut tokens).map_err(|what| {
            let name = self.job.sources[source as usize].name.clone();
            Error::Encode { name, record, what }
        })?;
        let span = Span { source, record, offset, bytes, token_start: 0, tokens: 0 };
        self.push(split, span, &tokens.ids)?;
        self.tokens = tokens;
        *self.packed.documents.entry(split).or_default() += 1;
        Ok(())
    }

    fn push(&mut self, split: Split, span: Span, ids: &[u32]) -> Result<(), Error> {
        let (bucket, packed) = (&mut self.buckets[index(split)], &mut self.packed);
        let identities = self.identities;
        self.packers[index(split)].push(span, ids, &mut |spans, tokens_le| {
            *packed.rows.entry(split).or_default() += 1;
            let id = identities.sample(spans);
            let key = identities.key(id);
            let (lane, _) = slot(key, bucket.lanes());
            bucket.push(lane, |bytes| {
                bytes.extend_from_slice(&key.to_le_bytes());
                bytes.extend_from_slice(id.as_bytes());
                write_row(spans, tokens_le, bytes);
            })
        })
    }

    fn take_packer(&mut self, split: Split) -> Packer {
        std::mem::replace(&mut self.packers[index(split)], Packer::new(self.job.schema))
    }

    fn keep_tails(&mut self, spill: &Spill, task: usize) -> Result<(), Error> {
        for split in Split::ALL {
            let tail = self.take_packer(split).into_tail();
            let mut bytes = Vec::new();
            write_row(&tail.spans, &tail.tokens_le, &mut bytes);
            spill.append(&tail_file(split, task), &bytes)?;
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Packed, Error> {
        self.buckets.iter_mut().try_for_each(LaneWriter::flush)?;
        Ok(self.packed)
    }
}

/// Names samples and puts them in order.
struct Identities {
    seed: u64,
    /// Equal rules make equal tokens of equal bytes.
    rules: Digest,
    /// Each source's digest, and how many sources with the same digest come before it.
    sources: Vec<(Digest, u32)>,
}

impl Identities {
    fn new(job: &Job<'_>) -> Self {
        let mut seen: HashMap<Digest, u32> = HashMap::new();
        let mut numbered = |digest: &Digest| {
            let count = seen.entry(*digest).or_default();
            *count += 1;
            (*digest, *count - 1)
        };
        let sources = job.digests.iter().map(&mut numbered).collect();
        Self { seed: job.recipe.seed, rules: rules(job), sources }
    }

    /// The sample made of these spans. Neither the seed nor a file's name is in it.
    fn sample(&self, spans: &[Span]) -> SampleId {
        let mut hash = DigestWriter::for_context("forebay dataset 1: identity of a sample");
        hash.update(self.rules.as_bytes());
        for span in spans {
            let (digest, number) = self.sources[span.source as usize];
            hash.update(digest.as_bytes()).update(&number.to_le_bytes());
            for value in [span.record, span.offset, span.bytes] {
                hash.update(&value.to_le_bytes());
            }
            hash.update(&span.token_start.to_le_bytes()).update(&span.tokens.to_le_bytes());
        }
        let digest = hash.finish();
        let (first, _) = digest.as_bytes().split_first_chunk().expect("a digest has 32 bytes");
        SampleId::from_bytes(*first)
    }

    /// A sample's place in the global order of this seed.
    fn key(&self, id: SampleId) -> u64 {
        let mut hash = DigestWriter::for_context("forebay dataset 1: place of a sample");
        first_u64(&hash.update(&self.seed.to_le_bytes()).update(id.as_bytes()).finish())
    }
}

/// What makes tokens of a record.
#[derive(Serialize)]
struct Rules<'a> {
    text_fields: &'a [String],
    text_records: TextRecords,
    nfc: bool,
    whitespace: bool,
    control_characters: bool,
    tokenizer: &'a TokenizerEntry,
    schema: TokenSchema,
}

fn rules(job: &Job<'_>) -> Digest {
    let recipe = job.recipe;
    let rules = Rules {
        text_fields: &recipe.text_fields,
        text_records: recipe.text_records,
        nfc: recipe.nfc,
        whitespace: recipe.whitespace,
        control_characters: recipe.control_characters,
        tokenizer: &job.tokenizer.entry,
        schema: job.schema,
    };
    Digest::of(&serde_json::to_vec(&rules).expect("plain fields make JSON"))
}
