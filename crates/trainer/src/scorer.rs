//! Scoring: a checkpoint's weights on batches they never learned from.

use std::ops::Range;

use burn::tensor::{Tensor, activation};
use forebay::{Batch, Engine, Restored, RunRecord, Runtime, Score, Scorer};

use crate::{
    Error, TrainerSettings, attention,
    batch::Rows,
    lanes,
    model::{Model, ModelShape},
    parameters::Parameters,
    state::{Role, Stored},
};

/// Scores language models that [`crate::train`] made.
#[derive(Debug)]
pub struct LanguageModelScorer {
    shape: ModelShape,
    lanes: usize,
    runtime: Runtime,
    parameters: Parameters,
    bias: Tensor<4>,
}

impl LanguageModelScorer {
    /// A scorer for the checkpoints of the run that `record` describes.
    ///
    /// # Errors
    /// When the run's dataset cannot be opened, or its trainer was not this one.
    pub fn new(engine: &Engine, record: &RunRecord) -> Result<Self, forebay::Error> {
        let settings = TrainerSettings::recorded(&record.configuration)?;
        let dataset = &record.dataset;
        let (manifest, _) = engine.dataset(&dataset.name, Some(dataset.version))?;
        let (vocabulary_size, row_tokens) = crate::shape_of(&manifest);
        Ok(Self::untrained(&settings, vocabulary_size, row_tokens, engine.runtime())?)
    }

    pub(crate) fn untrained(
        settings: &TrainerSettings,
        vocabulary_size: usize,
        row_tokens: usize,
        runtime: &Runtime,
    ) -> Result<Self, Error> {
        settings.check()?;
        if row_tokens < 2 {
            return Err(Error::RowTooShort { row_tokens });
        }
        let shape = ModelShape::new(&settings.model, vocabulary_size, row_tokens - 1);
        Ok(Self {
            lanes: settings.lanes as usize,
            runtime: runtime.clone(),
            parameters: shape.zeros(),
            bias: attention::bias(&shape),
            shape,
        })
    }

    /// Takes the weights out of a checkpoint, whether or not the rest of the state is there.
    pub(crate) fn load_stored(&mut self, mut stored: Stored<'_>) -> Result<(), Error> {
        let weights = stored.take(Role::Weight, &self.parameters)?;
        stored.finish_weights()?;
        self.parameters.replace(weights);
        Ok(())
    }

    /// Scores rows that lie one after the other.
    pub(crate) fn score_tokens(&self, tokens: &[u32]) -> Result<Score, Error> {
        let rows = Rows::new(tokens, &self.shape)?;
        let lanes = lanes::cut(rows.count(), self.lanes);
        let scores = lanes::across(&self.runtime, &lanes, |lane| self.lane(rows, &lane));
        let mut total = Score::default();
        scores.into_iter().for_each(|score| total += score);
        Ok(total)
    }

    /// Scores one lane; losses are added up in 64 bits.
    fn lane(&self, rows: Rows<'_>, lane: &Range<usize>) -> Score {
        let device = crate::device();
        let model = Model::over(&self.shape, self.parameters.values());
        let inputs = rows.inputs(lane, self.shape.lookback_tokens, &device);
        let logits = model.logits(inputs, &self.bias);
        let targets = rows.targets(lane, &device);
        let [predictions, _] = targets.dims();
        let hits = logits.clone().argmax(1).equal(targets.clone()).int().sum();
        let likelihoods = activation::log_softmax(logits, 1).gather(1, targets);
        Score {
            predictions: predictions as u64,
            loss_sum: -likelihoods.into_data().iter::<f64>().sum::<f64>(),
            correct: hits.into_scalar::<i64>() as u64,
        }
    }
}

impl Scorer for LanguageModelScorer {
    fn load(&mut self, state: &Restored) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        Ok(self.load_stored(Stored::of(state))?)
    }

    fn score(&mut self, batch: &Batch) -> Result<Score, Box<dyn std::error::Error + Send + Sync>> {
        let tokens: Vec<u32> = batch.tokens().collect();
        Ok(self.score_tokens(&tokens)?)
    }

    fn device(&self) -> String {
        crate::DEVICE.to_owned()
    }
}
