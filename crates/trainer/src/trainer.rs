//! The model with its optimizer: one step at a time, and its whole state as named tensors.

use std::ops::Range;

use burn::tensor::{Tensor, activation};
use forebay::{Random, Restored, Runtime, StateTensor};

use crate::{
    Error, TrainerSettings, attention,
    batch::Rows,
    lanes,
    model::{Model, ModelShape},
    optimizer::{AdamW, clip_scale, norm},
    parameters::Parameters,
    schedule::Schedule,
    state::{Metadata, Role, Stored, encode},
};

/// What one step did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// The mean loss per prediction before the step, in nats.
    pub loss: f64,
    /// The learning rate it was taken with.
    pub learning_rate: f64,
    /// The gradient's norm before clipping.
    pub gradient_norm: f64,
}

/// A model that learns.
#[derive(Clone, Debug)]
pub struct Trainer {
    settings: TrainerSettings,
    shape: ModelShape,
    schedule: Schedule,
    runtime: Runtime,
    parameters: Parameters,
    optimizer: AdamW,
    random: Random,
    loss: Option<f64>,
    bias: Tensor<4>,
}

impl Trainer {
    /// An untrained model, for rows of `row_tokens` tokens and a run of `steps` steps.
    ///
    /// # Errors
    /// [`Error::Setting`] and [`Error::RowTooShort`].
    pub fn new(
        settings: &TrainerSettings,
        vocabulary_size: usize,
        row_tokens: usize,
        steps: u64,
        seed: u64,
        runtime: &Runtime,
    ) -> Result<Self, Error> {
        settings.check()?;
        if row_tokens < 2 {
            return Err(Error::RowTooShort { row_tokens });
        }
        let shape = ModelShape::new(&settings.model, vocabulary_size, row_tokens - 1);
        let mut random = Random::new(seed);
        let parameters = shape.parameters(&mut random);
        Ok(Self {
            settings: settings.clone(),
            schedule: Schedule::new(&settings.optimizer, steps),
            runtime: runtime.clone(),
            optimizer: AdamW::new(&settings.optimizer, &parameters),
            parameters,
            random,
            loss: None,
            bias: Tensor::from_inner(attention::bias(&shape)),
            shape,
        })
    }

    /// Steps taken so far, those before a restored checkpoint included.
    #[must_use]
    pub const fn steps_taken(&self) -> u64 {
        self.optimizer.step
    }

    /// The loss of the last step, if one was taken.
    #[must_use]
    pub const fn loss(&self) -> Option<f64> {
        self.loss
    }

    /// Learns from a batch: its rows one after the other.
    ///
    /// # Errors
    /// [`Error::BatchShape`] and [`Error::Token`], after which nothing has changed;
    /// [`Error::Diverged`], after which the weights are those before the step.
    pub fn step(&mut self, tokens: &[u32]) -> Result<StepReport, Error> {
        let rows = Rows::new(tokens, &self.shape)?;
        let (noise, vocabulary_size) = (self.settings.input_noise, self.shape.vocabulary_size);
        let noisy = rows.with_noise(noise, vocabulary_size, &mut self.random);
        let (loss, gradients) = self.gradients(Rows::new(&noisy, &self.shape)?, rows);
        let gradient_norm = norm(&gradients);
        let step = self.optimizer.step;
        if !(loss.is_finite() && gradient_norm.is_finite()) {
            return Err(Error::Diverged { step, loss, gradient_norm });
        }
        let learning_rate = self.schedule.learning_rate(step);
        let scale = clip_scale(gradient_norm, self.settings.optimizer.gradient_norm_max);
        self.optimizer.update(&mut self.parameters, gradients, scale, learning_rate);
        self.loss = Some(loss);
        Ok(StepReport { loss, learning_rate, gradient_norm })
    }

    /// The mean loss of predicting `targets` from `inputs`, and its gradient.
    fn gradients(&self, inputs: Rows<'_>, targets: Rows<'_>) -> (f64, Vec<Tensor<2>>) {
        let lanes = lanes::cut(targets.count(), self.settings.lanes as usize);
        let results =
            lanes::across(&self.runtime, &lanes, |rows| self.lane(inputs, targets, &rows));
        let predictions = targets.predictions() as f64;
        let mut loss = 0.0;
        let sum = results.into_iter().map(|(lane_loss, gradients)| {
            loss += lane_loss;
            gradients
        });
        let sum = sum.reduce(add).expect("a batch has at least one row, hence one lane");
        let mean = sum.into_iter().map(|gradient| gradient.div_scalar(predictions)).collect();
        (loss / predictions, mean)
    }

    /// The summed loss of `rows`, and its gradient.
    fn lane(
        &self,
        inputs: Rows<'_>,
        targets: Rows<'_>,
        rows: &Range<usize>,
    ) -> (f64, Vec<Tensor<2>>) {
        let device = crate::device().autodiff();
        let leaves = self.parameters.leaves();
        let model = Model::over(&self.shape, leaves.iter().cloned());
        let inputs = inputs.inputs(rows, self.shape.lookback_tokens, &device);
        let likelihoods = activation::log_softmax(model.logits(inputs, &self.bias), 1);
        let loss = likelihoods.gather(1, targets.targets(rows, &device)).sum().neg();
        let mut gradients = loss.backward();
        let of = |leaf: &Tensor<2>| leaf.grad_remove(&mut gradients);
        let of = leaves.iter().map(of).map(|found| found.expect("every weight shapes the loss"));
        let of = of.collect();
        (f64::from(loss.into_scalar::<f32>()), of)
    }

    /// The whole state's tensors, to be saved together with [`Trainer::metadata`].
    #[must_use]
    pub fn state(&self) -> Vec<StateTensor<'static>> {
        let (parameters, optimizer) = (&self.parameters, &self.optimizer);
        let weights = encode(Role::Weight, parameters, parameters.values());
        let first = encode(Role::FirstMoment, parameters, optimizer.first_moments.clone());
        let second = encode(Role::SecondMoment, parameters, optimizer.second_moments.clone());
        weights.chain(first).chain(second).collect()
    }

    /// All of the state that is no tensor: steps taken and the random generator.
    #[must_use]
    pub fn metadata(&self) -> serde_json::Value {
        let (step, random) = (self.optimizer.step, self.random.clone());
        serde_json::to_value(Metadata { step, random, loss: self.loss })
            .expect("integers and a finite number are JSON")
    }

    /// Takes up the state of a checkpoint, exactly.
    ///
    /// # Errors
    /// When a tensor is missing, unexpected or of another shape, or the metadata is not ours; the
    /// trainer is then as it was.
    pub fn load(&mut self, restored: &Restored) -> Result<(), Error> {
        self.load_stored(Stored::of(restored), restored.metadata())
    }

    fn load_stored(
        &mut self,
        mut stored: Stored<'_>,
        metadata: &serde_json::Value,
    ) -> Result<(), Error> {
        let step = stored.step();
        let metadata: Metadata = serde_json::from_value(metadata.clone())
            .map_err(|source| Error::Metadata { step, source })?;
        if metadata.step != step {
            return Err(Error::StepMismatch { step, optimizer_step: metadata.step });
        }
        let weights = stored.take(Role::Weight, &self.parameters)?;
        let first_moments = stored.take(Role::FirstMoment, &self.parameters)?;
        let second_moments = stored.take(Role::SecondMoment, &self.parameters)?;
        stored.finish()?;
        self.parameters.replace(weights);
        self.optimizer.restore(metadata.step, first_moments, second_moments);
        self.random = metadata.random;
        self.loss = metadata.loss;
        Ok(())
    }
}

fn add(left: Vec<Tensor<2>>, right: Vec<Tensor<2>>) -> Vec<Tensor<2>> {
    left.into_iter().zip(right).map(|(left, right)| left + right).collect()
}

#[cfg(test)]
mod tests;
