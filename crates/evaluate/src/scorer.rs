//! What knows the network: the one part of an evaluation that is not ours.

use forebay_checkpoint::Restored;
use forebay_feed::Batch;

use crate::BoxError;

/// Scores a model on batches. Implemented by whoever trains it.
pub trait Scorer {
    /// Takes up the weights of a checkpoint: tensors named `model.…`, nothing else.
    ///
    /// # Errors
    /// Why they do not fit the network.
    fn load(&mut self, state: &Restored) -> Result<(), BoxError>;

    /// Scores one batch.
    ///
    /// # Errors
    /// Why it could not be scored.
    fn score(&mut self, batch: &Batch) -> Result<Score, BoxError>;

    /// What computes: `cpu (flex)`, `cuda`, … It stands in the record, since scores may depend on
    /// it.
    fn device(&self) -> String {
        "not stated".into()
    }
}

/// The scores of one batch, or of several added up.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Score {
    /// Tokens predicted.
    pub predictions: u64,
    /// The sum of their losses, in nats.
    pub loss_sum: f64,
    /// Predictions whose likeliest token was the right one.
    pub correct: u64,
}

impl std::ops::AddAssign for Score {
    fn add_assign(&mut self, other: Self) {
        self.predictions += other.predictions;
        self.loss_sum += other.loss_sum;
        self.correct += other.correct;
    }
}
