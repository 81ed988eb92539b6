//! Evaluations of a model whose scores are known, on a dataset that was really prepared.

#![allow(clippy::unwrap_used, reason = "a test may")]

use std::{borrow::Cow, collections::BTreeMap, fs};

use forebay_checkpoint::{CheckpointSettings, Checkpointer, Dtype, Restored, StateTensor};
use forebay_evaluate::{Error, Evaluation, EvaluationRecord, Gate, Score, Scorer};
use forebay_feed::Batch;
use forebay_format::v1::run::{DatasetReference, RunRecord, json_digest};
use forebay_journal::Journal;
use forebay_prepare::{Prepare, Prepared, Recipe, Silent};
use forebay_testing::TempTiers;
use forebay_types::{ErrorKind, Name, Position, Rank, Split};

const ROW_TOKENS: u32 = 32;
/// Ids a byte tokenizer can give, its end of document included.
const VOCABULARY: usize = 257;

struct Evening {
    tiers: TempTiers,
    prepared: Prepared,
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

impl Evening {
    /// A prepared dataset and a run with two checkpoints: all weights 0 at step 10; at step 20 the
    /// weights are the logarithms of the byte frequencies of English-like text.
    fn new(gate: Gate) -> Self {
        let tiers = TempTiers::new(64 << 20);
        let source = tiers.path().join("raw");
        fs::create_dir(&source).unwrap();
        let record = |n: u32| {
            format!(
                "{{\"text\":\"record {n} speaks of the basin above the turbines, for the {n}th time\"}}\n"
            )
        };
        fs::write(source.join("a.jsonl"), (0..400).map(record).collect::<String>()).unwrap();
        let prepared = Prepare {
            lake: &tiers.lake,
            local: &tiers.local,
            runtime: &tiers.runtime,
            source: &source,
            dataset: &name("text"),
            recipe: &Recipe {
                row_tokens: ROW_TOKENS,
                validation_share: 0.2,
                shard_bytes: 8 << 10,
                batch_bytes: 2 << 10,
                ..Recipe::default()
            },
            workers: 2,
            memory_bytes: forebay_prepare::MEMORY_BYTES_DEFAULT,
            progress: &Silent,
        }
        .run()
        .unwrap();
        let evening = Self { tiers, prepared };
        evening.begin(gate);
        evening.save(10, [0.0; VOCABULARY]);
        evening.save(20, LEARNED.map(f32::from));
        evening
    }

    fn begin(&self, gate: Gate) {
        let configuration = serde_json::json!({});
        let manifest = &self.prepared.manifest;
        let record = RunRecord {
            run: name("day"),
            created_unix_ms: 0,
            nonce: self.tiers.runtime.nonce(),
            seed: 1,
            steps: 20,
            dataset: DatasetReference {
                name: manifest.name.clone(),
                version: manifest.version,
                digest: self.prepared.digest,
            },
            configuration_digest: json_digest(&configuration),
            configuration,
            gate_digest: gate.digest(),
            gate,
            trainer: "test".into(),
            parent: None,
        };
        Journal::open(&self.tiers.lake, &record, &self.tiers.runtime).unwrap();
    }

    fn save(&self, step: u64, weights: [f32; VOCABULARY]) {
        let transfer = self.tiers.transfer();
        let settings = CheckpointSettings { keep_last: 0, ..CheckpointSettings::default() };
        let (run, runtime) = (name("day"), &self.tiers.runtime);
        let mut saver =
            Checkpointer::open(&transfer, &run, Rank::ALONE, &settings, runtime).unwrap();
        let bytes: Vec<u8> = weights.iter().flat_map(|weight| weight.to_le_bytes()).collect();
        let tensor = |name: &'static str| StateTensor {
            name: Cow::Borrowed(name),
            dtype: Dtype::F32,
            shape: vec![VOCABULARY as u64],
            bytes: Cow::Borrowed(&bytes),
            part: None,
        };
        let tensors = [tensor("model.logits"), tensor("optimizer.moment")];
        saver.save(step, Position { step }, &tensors, &serde_json::json!({})).unwrap();
        saver.wait().unwrap();
    }

    fn evaluate(&self, step: Option<u64>, batch_size: u32) -> Result<EvaluationRecord, Error> {
        self.evaluate_with(step, batch_size, &mut Unigram::default())
    }

    fn evaluate_with(
        &self,
        step: Option<u64>,
        batch_size: u32,
        scorer: &mut dyn Scorer,
    ) -> Result<EvaluationRecord, Error> {
        let transfer = self.tiers.transfer();
        let (run, runtime) = (name("day"), &self.tiers.runtime);
        Evaluation { transfer: &transfer, runtime, run: &run, step, batch_size }.run(scorer)
    }
}

/// Logits that favour what English-like text is made of: blanks and vowels.
const LEARNED: [i8; VOCABULARY] = {
    let mut logits = [-4; VOCABULARY];
    let mut letter = b'a';
    while letter <= b'z' {
        logits[letter as usize] = 2;
        letter += 1;
    }
    logits[b' ' as usize] = 4;
    logits[b'e' as usize] = 3;
    logits
};

/// A model that ignores context, so that its scores can be computed by hand.
#[derive(Default)]
struct Unigram {
    logits: Vec<f32>,
    seen: BTreeMap<u32, u64>,
}

impl Scorer for Unigram {
    fn load(&mut self, state: &Restored) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        assert!(state.tensor("optimizer.moment").is_none(), "weights only");
        let tensor = state.tensor("model.logits").ok_or("no logits")?;
        let chunks = tensor.bytes.chunks_exact(4);
        self.logits = chunks.map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect();
        Ok(())
    }

    fn score(&mut self, batch: &Batch) -> Result<Score, Box<dyn std::error::Error + Send + Sync>> {
        let sum: f64 = self.logits.iter().map(|logit| f64::from(*logit).exp()).sum();
        let best = (0..self.logits.len() as u32)
            .max_by(|a, b| self.logits[*a as usize].total_cmp(&self.logits[*b as usize]));
        let mut score = Score::default();
        for (index, token) in batch.tokens().enumerate() {
            *self.seen.entry(token).or_default() += 1;
            if index % ROW_TOKENS as usize != 0 {
                score.predictions += 1;
                score.loss_sum += sum.ln() - f64::from(self.logits[token as usize]);
                score.correct += u64::from(Some(token) == best);
            }
        }
        Ok(score)
    }
}

fn gate() -> Gate {
    Gate { loss_max: Some(4.0), accuracy_min: Some(0.05), ..Gate::default() }
}

#[test]
fn the_newest_checkpoint_is_scored_on_every_row_once_and_the_record_is_kept() {
    let evening = Evening::new(gate());
    let mut scorer = Unigram::default();
    let record = evening.evaluate_with(None, 7, &mut scorer).unwrap();
    let rows = evening.prepared.manifest.split(Split::Validation).unwrap().rows;
    let measures = record.measures;
    assert!(rows > 20 && !rows.is_multiple_of(7), "{rows}");
    assert_eq!((record.step, measures.samples), (20, rows));
    assert_eq!(measures.predictions, rows * u64::from(ROW_TOKENS - 1));
    assert!(record.passed && record.rules.len() == 2);
    assert_eq!(measures.perplexity, measures.loss.exp());
    let bits = measures.bits_per_byte.unwrap();
    assert!((bits * 2f64.ln() - measures.loss).abs() < 1e-12);

    let total = (rows * u64::from(ROW_TOKENS)) as f64;
    let shares = scorer.seen.values().map(|count| *count as f64 / total);
    let entropy: f64 = shares.map(|share| -share * share.ln()).sum();
    assert!((measures.unigram_entropy - entropy).abs() < 1e-9);

    assert_eq!(evening.tiers.lake.size(&record.key()).unwrap().map(|bytes| bytes > 0), Some(true));
}

#[test]
fn the_scores_do_not_depend_on_the_batch_size_and_a_repeat_finds_the_record() {
    let evening = Evening::new(gate());
    let one = evening.evaluate(Some(10), 1).unwrap();
    let two = evening.evaluate(Some(10), 64).unwrap();
    assert!((one.measures.loss - two.measures.loss).abs() < 1e-12);
    assert!((one.measures.loss - (VOCABULARY as f64).ln()).abs() < 1e-9);
    assert_eq!(one.measures.unigram_entropy, two.measures.unigram_entropy);
    assert_ne!(one.key(), two.key());
    assert_eq!(evening.evaluate(Some(10), 64).unwrap(), two);
}

#[test]
fn a_gate_that_is_not_passed_is_an_answer() {
    let evening = Evening::new(Gate { loss_max: Some(0.1), ..Gate::default() });
    let record = evening.evaluate(None, 8).unwrap();
    assert!(!record.passed && !record.rules[0].passed);
    assert_eq!(record.rules[0].measured, record.measures.loss);
}

#[test]
fn a_loss_that_is_no_number_fails_every_rule_and_is_recorded() {
    let evening = Evening::new(Gate { accuracy_min: Some(0.0), ..Gate::default() });
    evening.save(30, [f32::NAN; VOCABULARY]);
    let record = evening.evaluate(None, 8).unwrap();
    assert!(record.measures.loss.is_nan() && !record.passed);
    assert_eq!(evening.evaluate(None, 8).unwrap().created_unix_ms, record.created_unix_ms);
}

#[test]
fn the_proof_looks_at_every_row_and_finds_records_on_both_sides() {
    let evening = Evening::new(gate());
    let proof = evening.evaluate(None, 8).unwrap().held_out;
    let rows = |split| evening.prepared.manifest.split(split).unwrap().rows;
    assert_eq!(
        (proof.scored_rows, proof.training_rows),
        (rows(Split::Validation), rows(Split::Train))
    );
    assert!(proof.scored_records > 20 && proof.shared_records == 0 && proof.shared_shards == 0);

    // A manifest whose validation split is its training split: every record is on both sides.
    let mut manifest = evening.prepared.manifest.clone();
    manifest.name = name("leaking");
    manifest.splits[1] = forebay_format::v1::dataset::SplitEntry {
        split: Split::Validation,
        ..manifest.splits[0].clone()
    };
    let (body, digest) = forebay_format::record::encode(&manifest).unwrap();
    let key = forebay_format::v1::dataset::manifest_key(&manifest.name, manifest.version);
    evening.tiers.lake.commit(&key, &body).unwrap();
    let leaking = Evening {
        prepared: Prepared { manifest, digest, ..evening.prepared },
        tiers: TempTiers::new(64 << 20),
    };
    copy(&evening.tiers.lake_path().join("shards"), &leaking.tiers.lake_path().join("shards"));
    leaking.tiers.lake.commit(&key, &body).unwrap();
    leaking.begin(gate());
    leaking.save(10, [0.0; VOCABULARY]);
    let error = leaking.evaluate(None, 8).unwrap_err();
    assert!(matches!(error, Error::Seen { records, shards, .. } if records > 100 && shards > 1));
    assert_eq!(error.kind(), ErrorKind::Refused);
}

#[test]
fn what_does_not_exist_or_does_not_fit_is_named() {
    let evening = Evening::new(gate());
    assert_eq!(evening.evaluate(Some(11), 8).unwrap_err().kind(), ErrorKind::NotFound);
    struct Broken;
    impl Scorer for Broken {
        fn load(&mut self, _: &Restored) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
            Ok(())
        }
        fn score(&mut self, _: &Batch) -> Result<Score, Box<dyn std::error::Error + Send + Sync>> {
            Ok(Score { predictions: 1, loss_sum: 0.0, correct: 2 })
        }
    }
    let error = evening.evaluate_with(None, 8, &mut Broken).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Internal);
    let folder = evening.tiers.lake_path().join("runs/day/evaluations");
    assert!(!folder.exists(), "no verdict, no record");
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    fs::create_dir_all(to).unwrap();
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}
