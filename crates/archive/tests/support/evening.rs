//! A run that is ready to be archived, written as its published records.

use std::fs;

use forebay_archive::{Error, Publish, Published};
use forebay_format::{
    record,
    v1::{
        checkpoint::{CommitRecord, RankRecord, TensorEntry, commit_key, rank_key, tensors_key},
        dataset::{
            DatasetManifest, ObjectEntry, RecordCounts, SourceEntry, SplitEntry, TokenSchema,
            TokenizerEntry, manifest_key,
        },
        evaluation::{EvaluationRecord, HeldOut, Measures},
        journal::{Evaluated, Event},
        run::{DatasetReference, RunRecord},
        tensors::{Dtype, TensorSpec, plan},
    },
};
use forebay_journal::Journal;
use forebay_lake::Purpose;
use forebay_testing::TempTiers;
use forebay_types::{Digest, Nonce, Position, Split, Version};

use super::story::{self, name};

/// The step that was evaluated.
pub const STEP: u64 = 240;

pub struct Evening {
    pub tiers: TempTiers,
    pub run: RunRecord,
    pub evaluation: EvaluationRecord,
}

/// The weights of rank `rank`, under the names they have in a checkpoint.
pub fn weights(rank: u32) -> Vec<(String, Dtype, Vec<u64>, Vec<u8>)> {
    let values = |count: u64, seed: u64| -> Vec<u8> {
        (0..count).map(|index| (index * 31 + seed * 7 + u64::from(rank)) as u8).collect()
    };
    vec![
        (format!("model.block.{rank}.weight"), Dtype::F32, vec![30, 7], values(840, 1)),
        (format!("model.block.{rank}.scale"), Dtype::BF16, vec![9], values(18, 2)),
        (format!("optimizer.block.{rank}.weight"), Dtype::F32, vec![30, 7], values(840, 3)),
    ]
}

impl Evening {
    pub fn new() -> Self {
        Self::with_measures(story::measures())
    }

    pub fn with_measures(measures: Measures) -> Self {
        let tiers = TempTiers::new(1 << 20);
        let dataset = publish_dataset(&tiers);
        let run = story::run(dataset.clone());
        let mut journal = Journal::open(&tiers.lake, &run, &tiers.runtime).unwrap();
        for entry in story::training(run.created_unix_ms) {
            journal.record(entry.event).unwrap();
        }
        journal.flush().unwrap();
        let checkpoint = publish_checkpoint(&tiers);
        let rules = run.gate.judge(&measures);
        let evaluation = EvaluationRecord {
            run: run.run.clone(),
            step: STEP,
            checkpoint,
            dataset,
            split: Split::Validation,
            batch_size: 16,
            measures,
            held_out: HeldOut {
                scored_rows: 412,
                scored_records: 118,
                training_rows: 21_480,
                ..HeldOut::default()
            },
            gate: run.gate,
            passed: rules.iter().all(|rule| rule.passed),
            rules,
            seconds: 4.1,
            host: story::host(),
            created_unix_ms: run.created_unix_ms + 120_000,
            nonce: Nonce::from_bits(9),
        };
        let (body, _) = record::encode(&evaluation).unwrap();
        tiers.lake.commit(&evaluation.key(), &body).unwrap();
        Self { tiers, run, evaluation }
    }

    pub fn note(&self, event: Event) {
        let (lake, runtime) = (&self.tiers.lake, &self.tiers.runtime);
        let mut journal = Journal::open_existing(lake, &self.run.run, runtime).unwrap();
        journal.record(event).unwrap();
        journal.flush().unwrap();
    }

    pub fn note_evaluated(&self) {
        let (_, evaluation) = record::encode(&self.evaluation).unwrap();
        let EvaluationRecord { step, measures, rules, passed, seconds, .. } =
            self.evaluation.clone();
        self.note(Event::Evaluated(Evaluated {
            step,
            evaluation,
            measures,
            rules,
            passed,
            seconds,
        }));
    }

    pub fn publish(&self) -> Result<Published, Error> {
        publish_with(&self.tiers, &self.evaluation, &self.run)
    }

    pub fn file(&self, published: &Published, path: &str) -> std::path::PathBuf {
        self.folder(published).join(path)
    }

    pub fn folder(&self, published: &Published) -> std::path::PathBuf {
        self.tiers.lake_path().join(format!("packages/day/{}", published.content))
    }

    /// The versions that exist.
    pub fn manifests(&self) -> Vec<String> {
        let Ok(folder) = fs::read_dir(self.tiers.lake_path().join("packages/day")) else {
            return Vec::new();
        };
        let names = folder.map(|file| file.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.filter(|name| name.ends_with(".json")).collect();
        names.sort();
        names
    }
}

pub fn publish_with(
    tiers: &TempTiers,
    evaluation: &EvaluationRecord,
    run: &RunRecord,
) -> Result<Published, Error> {
    Publish {
        lake: &tiers.lake,
        runtime: &tiers.runtime,
        model: &name("day"),
        evaluation,
        feed: &run.configuration["feed"],
    }
    .run()
}

fn publish_dataset(tiers: &TempTiers) -> DatasetReference {
    let split = |split, rows: u64| SplitEntry {
        split,
        rows,
        documents: rows / 4,
        rows_per_shard: 50_000,
        rows_per_batch: 1000,
        shards: 1,
        pages: vec![Digest::of(b"page")],
    };
    let manifest = DatasetManifest {
        name: name("day-text"),
        version: Version::FIRST,
        parent: None,
        identity: Digest::of(b"identity"),
        created_unix_ms: 0,
        nonce: Nonce::from_bits(3),
        recipe: serde_json::json!({ "row_tokens": 256 }),
        recipe_digest: Digest::of(b"recipe"),
        tokenizer: TokenizerEntry {
            kind: "byte".into(),
            digest: Digest::of(b"byte"),
            vocabulary_size: 257,
            end_of_document: 256,
        },
        schema: TokenSchema { row_tokens: 256, token_bytes: 2 },
        sources: vec![SourceEntry {
            name: "speeches <b>|`x`.jsonl".into(),
            bytes: 4_812_220,
            digest: Digest::of(b"raw"),
            records: 10,
        }],
        splits: vec![split(Split::Train, 21_480), split(Split::Validation, 412)],
        counts: RecordCounts { read: 10, kept: 10, ..RecordCounts::default() },
        quarantine: None,
    };
    let (body, digest) = record::encode(&manifest).unwrap();
    tiers.lake.commit(&manifest_key(&manifest.name, manifest.version), &body).unwrap();
    DatasetReference { name: manifest.name, version: manifest.version, digest }
}

/// Two ranks, each with two weights and one tensor of the optimizer.
fn publish_checkpoint(tiers: &TempTiers) -> Digest {
    let ranks: Vec<_> = (0..2).map(|rank| publish_rank(tiers, rank)).collect();
    let commit = CommitRecord::of(&ranks).unwrap();
    let (body, digest) = record::encode(&commit).unwrap();
    tiers.lake.commit(&commit_key(&name("day-1"), STEP), &body).unwrap();
    digest
}

fn publish_rank(tiers: &TempTiers, rank: u32) -> (RankRecord, Digest) {
    let tensors = weights(rank);
    let spec = |(name, dtype, shape, _): &(String, Dtype, Vec<u64>, Vec<u8>)| TensorSpec {
        name: name.clone(),
        dtype: *dtype,
        shape: shape.clone(),
    };
    let plan = plan(&tensors.iter().map(spec).collect::<Vec<_>>()).unwrap();
    let mut file = plan.header.clone();
    let mut entries = Vec::new();
    for (index, place) in &plan.places {
        let (name, dtype, shape, bytes) = &tensors[*index];
        file.extend(bytes);
        entries.push(TensorEntry {
            name: name.clone(),
            dtype: *dtype,
            shape: shape.clone(),
            offset: place.offset,
            bytes: place.bytes,
            digest: Digest::of(bytes),
            checksum: None,
            encoded: None,
            earlier: None,
            part: None,
        });
    }
    let run = name("day-1");
    let file_digest = Digest::of(&file);
    let key = tensors_key(&run, STEP, rank, file_digest);
    tiers.lake.write(&key, Purpose::Checkpoint, &file).unwrap();
    let record = RankRecord {
        run: run.clone(),
        step: STEP,
        rank,
        world_size: 2,
        attempt: Nonce::from_bits(1),
        launch: None,
        position: Position { step: STEP },
        parent: None,
        dataset: None,
        forked_from: None,
        captured_unix_ms: 0,
        metadata: serde_json::json!({}),
        file: ObjectEntry { digest: file_digest, bytes: file.len() as u64 },
        earlier: Vec::new(),
        tensors: entries,
    };
    let (body, digest) = record::encode(&record).unwrap();
    tiers.lake.write(&rank_key(&run, STEP, rank, digest), Purpose::Checkpoint, &body).unwrap();
    (record, digest)
}
