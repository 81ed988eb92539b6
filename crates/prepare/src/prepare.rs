//! The preparation from its beginning to its end.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Mutex, PoisonError},
};

use forebay_format::v1::dataset::{
    DatasetManifest, RecordCounts, SourceEntry, SplitEntry, tokenizer_key,
};
use forebay_lake::{Lake, Purpose};
use forebay_local::LocalTier;
use forebay_runtime::Runtime;
use forebay_types::{Digest, DigestWriter, Name, Split, Version};

use crate::{
    Error, Progress, Recipe, Stage,
    clean::Dropped,
    cleaning::{self, Tally},
    duplicates::{self, PARTITIONS},
    job::{Job, Limits, lock},
    publish::{self, Published},
    rows::{self, Packed},
    shards::{self, Uploads, Wanted},
    source::{self, Found, Source},
    spill::{Lanes, Spill},
    tasks::Tasks,
    tokenizer::Tokenizer,
};

/// What a preparation may use unless told otherwise.
pub const MEMORY_BYTES_DEFAULT: u64 = 512 << 20;

/// A preparation to be run.
#[derive(Clone, Copy)]
pub struct Prepare<'a> {
    /// Where the dataset is published.
    pub lake: &'a Lake,
    /// Where intermediate results lie.
    pub local: &'a LocalTier,
    /// Clock, nonces, threads.
    pub runtime: &'a Runtime,
    /// A directory of raw files, or one raw file.
    pub source: &'a Path,
    /// The dataset's name.
    pub dataset: &'a Name,
    /// What decides the samples.
    pub recipe: &'a Recipe,
    /// How many threads may work. Does not change the result.
    pub workers: usize,
    /// How much memory they may use. Does not change the result.
    pub memory_bytes: u64,
    /// Who is told how far it is.
    pub progress: &'a dyn Progress,
}

/// A dataset version that stands in the lake, and what it took.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// The version.
    pub manifest: DatasetManifest,
    /// The manifest's digest.
    pub digest: Digest,
    /// Whether the same dataset was there before, so that nothing was written.
    pub reused: bool,
    /// The files below the source that were left alone: other kinds, hidden, symbolic links.
    pub ignored: Vec<String>,
    /// The seconds each stage took; those that were not needed are absent.
    pub seconds: BTreeMap<Stage, f64>,
    /// Raw bytes of all sources, as they lie.
    pub source_bytes: u64,
    /// Bytes of cleaned text.
    pub text_bytes: u64,
    /// Bytes that were written to the lake.
    pub written_bytes: u64,
}

impl Prepare<'_> {
    /// Prepares and publishes; or finds that the newest version is what would come out.
    ///
    /// # Errors
    /// [`Error`]; then no version was published. Bad records are no errors.
    pub fn run(&self) -> Result<Prepared, Error> {
        self.recipe.check().map_err(|what| Error::Recipe { what })?;
        let limits = Limits::new(self.recipe, self.workers, self.memory_bytes)?;
        let tokenizer = Tokenizer::open(self.recipe)?;
        let found = source::find(self.source, self.recipe.text_records)?;
        let mut seconds = BTreeMap::new();
        let watch = self.runtime.stopwatch();
        let digests = self.digest(&found.sources)?;
        seconds.insert(Stage::Digest, watch.seconds());
        let recipe = stored_recipe(self.recipe, &tokenizer);
        let identity = identity(&recipe, &tokenizer, &found.sources, &digests);
        let mut prepared = match publish::newest(self.lake, self.dataset)? {
            Some((manifest, digest)) if manifest.identity == identity => {
                prepared(Published { manifest, digest, reused: true })
            }
            _ => {
                let job = Job {
                    recipe: self.recipe,
                    runtime: self.runtime,
                    progress: self.progress,
                    tokenizer: &tokenizer,
                    schema: tokenizer.schema(self.recipe.row_tokens),
                    sources: &found.sources,
                    digests: &digests,
                    limits,
                };
                self.make(&job, &recipe, identity, &mut seconds)?
            }
        };
        let Found { sources, ignored } = found;
        prepared.source_bytes = sources.iter().map(|source| source.bytes).sum();
        (prepared.ignored, prepared.seconds) = (ignored, seconds);
        Ok(prepared)
    }

    fn digest(&self, sources: &[Source]) -> Result<Vec<Digest>, Error> {
        let total = sources.iter().map(|source| source.bytes).sum();
        let digests = Mutex::new(vec![None; sources.len()]);
        self.runtime.tasks("digest", self.workers.max(1), sources.len(), |index| {
            let digest = sources[index].digest(|bytes| {
                self.progress.add(Stage::Digest, bytes, total);
                Ok(self.runtime.check()?)
            })?;
            lock(&digests)[index] = Some(digest);
            Ok::<(), Error>(())
        })?;
        let digests = digests.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(digests.into_iter().flatten().collect())
    }

    /// Runs the stages after the digests.
    fn make(
        &self,
        job: &Job<'_>,
        recipe: &Recipe,
        identity: Digest,
        seconds: &mut BTreeMap<Stage, f64>,
    ) -> Result<Prepared, Error> {
        let mut timed = Timed { runtime: self.runtime, seconds };
        let text = Spill::open(self.local)?;
        let row_spill = Spill::open(self.local)?;
        let entries = Lanes::new(&text, "digests", PARTITIONS);
        let cleaned = timed.stage(Stage::Clean, || cleaning::run(job, &text, &entries))?;
        let tasks = Tasks::new(cleaned.chunks);
        let losers = Lanes::new(&text, "losers", tasks.len());
        timed.stage(Stage::Deduplicate, || duplicates::run(job, &entries, &tasks, &losers))?;
        let count = rows::buckets(job, tasks.text_bytes());
        let lanes = |split: Split| Lanes::new(&row_spill, split.as_str(), count);
        let buckets = Split::ALL.map(lanes);
        let packed = timed.stage(Stage::Tokenize, || rows::run(job, &tasks, &losers, &buckets))?;
        let counts = counts(&cleaned.tally, &packed);
        if packed.rows.values().sum::<u64>() == 0 {
            let (read, kept) = (counts.read, packed.not_filled);
            return Err(Error::NoRows { read, kept, row_tokens: job.recipe.row_tokens });
        }
        let uploads = Uploads::new(self.lake);
        let quarantine = publish::write_quarantine(&uploads, &text, tasks.all())?;
        drop((losers, entries));
        drop(text);
        let splits = timed.stage(Stage::Write, || write(job, &uploads, &packed, &buckets))?;
        if let Some(file) = &job.tokenizer.file {
            let key = tokenizer_key(job.tokenizer.entry.digest);
            uploads.put(&key, Purpose::Manifest, file)?;
        }
        let manifest = DatasetManifest {
            name: self.dataset.clone(),
            version: Version::FIRST,
            parent: None,
            identity,
            created_unix_ms: self.runtime.now().unix_ms(),
            nonce: self.runtime.nonce(),
            recipe: serde_json::to_value(recipe).expect("plain fields make JSON"),
            recipe_digest: recipe_digest(recipe),
            tokenizer: job.tokenizer.entry.clone(),
            schema: job.schema,
            sources: source_entries(job, &cleaned.tally.records),
            splits,
            counts,
            quarantine,
        };
        let published = timed.stage(Stage::Publish, || {
            self.runtime.check()?;
            publish::publish(self.lake, manifest)
        })?;
        self.progress.add(Stage::Publish, 1, 1);
        let mut prepared = prepared(published);
        (prepared.text_bytes, prepared.written_bytes) =
            (tasks.text_bytes(), uploads.written_bytes());
        Ok(prepared)
    }
}

fn prepared(published: Published) -> Prepared {
    let Published { manifest, digest, reused } = published;
    Prepared {
        manifest,
        digest,
        reused,
        ignored: Vec::new(),
        seconds: BTreeMap::new(),
        source_bytes: 0,
        text_bytes: 0,
        written_bytes: 0,
    }
}

/// Measures stages.
struct Timed<'a> {
    runtime: &'a Runtime,
    seconds: &'a mut BTreeMap<Stage, f64>,
}

impl Timed<'_> {
    fn stage<T>(
        &mut self,
        stage: Stage,
        work: impl FnOnce() -> Result<T, Error>,
    ) -> Result<T, Error> {
        let watch = self.runtime.stopwatch();
        let outcome = work();
        self.seconds.insert(stage, watch.seconds());
        outcome
    }
}

fn write(
    job: &Job<'_>,
    uploads: &Uploads<'_>,
    packed: &Packed,
    buckets: &rows::Buckets<'_>,
) -> Result<Vec<SplitEntry>, Error> {
    let total_rows = packed.rows.values().sum();
    let of = |counts: &BTreeMap<Split, u64>, split| counts.get(&split).copied().unwrap_or(0);
    Split::ALL
        .into_iter()
        .map(|split| {
            let (rows, documents) = (of(&packed.rows, split), of(&packed.documents, split));
            let wanted = Wanted { split, rows, documents, total_rows };
            shards::run(job, uploads, wanted, &buckets[rows::index(split)])
        })
        .collect()
}

fn counts(tally: &Tally, packed: &Packed) -> RecordCounts {
    let mut dropped = tally.dropped.clone();
    for (why, count) in
        [(Dropped::Duplicate, packed.duplicates), (Dropped::RowNotFilled, packed.not_filled)]
    {
        if count > 0 {
            dropped.insert(why, count);
        }
    }
    RecordCounts {
        read: tally.records.iter().sum(),
        kept: packed.documents.values().sum(),
        dropped: dropped.into_iter().map(|(why, count)| (why.as_str().into(), count)).collect(),
        quarantined: tally
            .quarantined
            .iter()
            .map(|(reason, count)| (reason.as_str().into(), *count))
            .collect(),
        tokens_cut: packed.tokens_cut.clone(),
    }
}

fn source_entries(job: &Job<'_>, records: &[u64]) -> Vec<SourceEntry> {
    let of = |((source, digest), records): ((&Source, &Digest), &u64)| SourceEntry {
        name: source.name.clone(),
        bytes: source.bytes,
        digest: *digest,
        records: *records,
    };
    job.sources.iter().zip(job.digests).zip(records).map(of).collect()
}

/// The recipe as it is stored and digested: a tokenizer is named by where the lake has it, so it
/// does not matter where it lay here.
fn stored_recipe(recipe: &Recipe, tokenizer: &Tokenizer) -> Recipe {
    let mut stored = recipe.clone();
    if tokenizer.file.is_some() {
        stored.tokenizer = tokenizer_key(tokenizer.entry.digest).to_string();
    }
    stored
}

fn recipe_digest(recipe: &Recipe) -> Digest {
    Digest::of(&serde_json::to_vec(recipe).expect("plain fields make JSON"))
}

/// Equal identities have equal samples.
fn identity(
    recipe: &Recipe,
    tokenizer: &Tokenizer,
    sources: &[Source],
    digests: &[Digest],
) -> Digest {
    let mut hash = DigestWriter::for_context("forebay dataset 1: identity of a dataset");
    hash.update(recipe_digest(recipe).as_bytes());
    hash.update(tokenizer.entry.digest.as_bytes());
    for (source, digest) in sources.iter().zip(digests) {
        hash.update(&(source.name.len() as u64).to_le_bytes());
        hash.update(source.name.as_bytes()).update(digest.as_bytes());
    }
    hash.finish()
}
