//! One evaluation, from the run's name to the verdict.

use forebay_checkpoint::{Part, Restored, Which, restore};
use forebay_feed::{Feed, FeedDataset, FeedSettings};
use forebay_format::record;
use forebay_format::v1::{
    dataset::DatasetManifest,
    evaluation::{EvaluationRecord, HeldOut, Measures},
    run::RunRecord,
};
use forebay_journal::{host, run_record};
use forebay_runtime::Runtime;
use forebay_transfer::{Transfer, dataset::open_dataset};
use forebay_types::{Name, Position, Rank, SampleId, Split};

use crate::{Error, Score, Scorer, entropy::Frequencies, held_out, store};

/// What models are scored on.
const SPLIT: Split = Split::Validation;

/// The tokenizer under which a token is a byte.
const BYTE_TOKENIZER: &str = "byte";

/// What to score.
#[derive(Clone, Copy, Debug)]
pub struct Evaluation<'a> {
    /// Both tiers.
    pub transfer: &'a Transfer,
    /// Clock, nonces, threads.
    pub runtime: &'a Runtime,
    /// The run whose model is scored.
    pub run: &'a Name,
    /// Which of its checkpoints; the newest if `None`.
    pub step: Option<u64>,
    /// Samples scored at once.
    pub batch_size: u32,
}

impl Evaluation<'_> {
    /// Scores the checkpoint and commits what was found.
    ///
    /// # Errors
    /// When there is no such run or checkpoint, when it or the data is damaged, when the scorer
    /// fails, and [`Error::Seen`] when the split is not held out. A gate that is not passed is no
    /// error: the record says so.
    pub fn run(&self, scorer: &mut dyn Scorer) -> Result<EvaluationRecord, Error> {
        let watch = self.runtime.stopwatch();
        let (run, _) = run_record(self.transfer.lake(), self.run)?;
        let manifest = self.dataset(&run)?;
        let held_out = self.prove(&manifest)?;
        let state = self.restore()?;
        scorer.load(&state).map_err(|source| Error::Load {
            run: self.run.clone(),
            step: state.step(),
            source,
        })?;
        let measures = self.measure(&manifest, state.step(), scorer)?;
        let rules = run.gate.judge(&measures);
        let record = EvaluationRecord {
            run: run.run,
            step: state.step(),
            checkpoint: record::encode(state.commit())?.1,
            dataset: run.dataset,
            split: SPLIT,
            batch_size: self.batch_size,
            measures,
            held_out,
            gate: run.gate,
            passed: rules.iter().all(|outcome| outcome.passed),
            rules,
            seconds: watch.seconds(),
            host: host(scorer.device()),
            created_unix_ms: self.runtime.now().unix_ms(),
            nonce: self.runtime.nonce(),
        };
        store::commit(self.transfer.lake(), record)
    }

    /// The dataset of the run, as it was when the run began.
    fn dataset(&self, run: &RunRecord) -> Result<DatasetManifest, Error> {
        let reference = &run.dataset;
        let lake = self.transfer.lake();
        let (manifest, digest) = open_dataset(lake, &reference.name, Some(reference.version))?;
        if digest == reference.digest {
            return Ok(manifest);
        }
        let what = format!("its manifest is {digest}, the run began with {}", reference.digest);
        let object = format!("dataset {}@{}", reference.name, reference.version.number());
        Err(forebay_format::Error::damaged(object, what).into())
    }

    fn prove(&self, manifest: &DatasetManifest) -> Result<HeldOut, Error> {
        let held_out = held_out::prove(self.transfer, manifest, SPLIT)?;
        if held_out.shared_records == 0 && held_out.shared_shards == 0 {
            return Ok(held_out);
        }
        Err(Error::Seen {
            dataset: manifest.name.clone(),
            split: SPLIT,
            records: held_out.shared_records,
            shards: held_out.shared_shards,
        })
    }

    fn restore(&self) -> Result<Restored, Error> {
        let which = self.step.map_or(Which::Newest, Which::Step);
        let state = restore(self.transfer, self.run, which, Part::Weights)?;
        state.ok_or_else(|| Error::NoCheckpoint { run: self.run.clone() })
    }

    fn measure(
        &self,
        manifest: &DatasetManifest,
        step: u64,
        scorer: &mut dyn Scorer,
    ) -> Result<Measures, Error> {
        let settings = self.feed_settings(manifest);
        let datasets = [FeedDataset::Prepared(manifest, SPLIT)];
        let start = Position::default();
        let mut feed = Feed::open(self.transfer, &datasets, &settings, Rank::ALONE, start)?;
        let (mut samples, mut sum) = (0, Score::default());
        let mut frequencies = Frequencies::default();
        while let Some(batch) = feed.next()? {
            self.runtime.check()?;
            samples += batch.rows as u64;
            batch.tokens().for_each(|token| frequencies.add(token));
            let failed =
                |source| Error::Score { run: self.run.clone(), step, batch: batch.step, source };
            let score = scorer.score(&batch).map_err(failed)?;
            if score.correct > score.predictions {
                return Err(Error::Impossible { run: self.run.clone(), score });
            }
            sum += score;
        }
        if sum.predictions == 0 {
            return Err(Error::Impossible { run: self.run.clone(), score: sum });
        }
        let bytewise = manifest.tokenizer.kind == BYTE_TOKENIZER;
        Ok(measures(samples, sum, frequencies.entropy(), bytewise))
    }

    fn feed_settings(&self, manifest: &DatasetManifest) -> FeedSettings {
        let settings = FeedSettings { batch_size: self.batch_size, ..FeedSettings::default() };
        // One batch in the scorer's hands, one being assembled.
        let two = 2
            * u64::from(self.batch_size)
            * (manifest.schema.row_bytes() + size_of::<SampleId>()) as u64;
        FeedSettings { buffer_bytes: settings.buffer_bytes.max(two), ..settings }.sequential()
    }
}

#[allow(clippy::cast_precision_loss, reason = "counts of predictions lie far below 2^53")]
fn measures(samples: u64, sum: Score, unigram_entropy: f64, bytewise: bool) -> Measures {
    let predictions = sum.predictions as f64;
    let loss = sum.loss_sum / predictions;
    Measures {
        samples,
        predictions: sum.predictions,
        loss,
        perplexity: loss.exp(),
        accuracy: sum.correct as f64 / predictions,
        unigram_entropy,
        bits_per_byte: bytewise.then_some(loss / std::f64::consts::LN_2),
    }
}
