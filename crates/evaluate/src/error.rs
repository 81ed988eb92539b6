//! What can go wrong while a model is scored.

use forebay_runtime::Cancelled;
use forebay_types::{ErrorKind, Name, Split};

use crate::Score;

/// What a scorer fails with.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// An evaluation that came to no verdict.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The run's record could not be read.
    #[error(transparent)]
    Journal(#[from] forebay_journal::Error),
    /// The checkpoint could not be restored.
    #[error(transparent)]
    Checkpoint(#[from] forebay_checkpoint::Error),
    /// The samples could not be read.
    #[error(transparent)]
    Feed(#[from] forebay_feed::Error),
    /// The dataset could not be read.
    #[error(transparent)]
    Transfer(#[from] forebay_transfer::Error),
    /// Stored bytes are not what they must be.
    #[error(transparent)]
    Format(#[from] forebay_format::Error),
    /// The record could not be committed.
    #[error("cannot record the evaluation of run {run} at step {step}; evaluate it again")]
    Lake {
        /// The run.
        run: Name,
        /// The step.
        step: u64,
        /// Why.
        #[source]
        source: forebay_lake::Error,
    },
    /// There is nothing to score yet.
    #[error("run {run} has no committed checkpoint to evaluate; train it first")]
    NoCheckpoint {
        /// The run.
        run: Name,
    },
    /// The split is not held out.
    #[error(
        "split `{split}` of dataset `{dataset}` is not held out: {records} of its records and \
         {shards} of its shards are in the training split too; prepare the dataset again"
    )]
    Seen {
        /// The dataset.
        dataset: Name,
        /// The split.
        split: Split,
        /// Raw records in both.
        records: u64,
        /// Shards in both.
        shards: u64,
    },
    /// The scorer did not take the weights.
    #[error("the scorer cannot load the checkpoint of run {run} at step {step}")]
    Load {
        /// The run.
        run: Name,
        /// The step.
        step: u64,
        /// Why.
        #[source]
        source: BoxError,
    },
    /// The scorer failed.
    #[error("the scorer failed at batch {batch} with the checkpoint of run {run} at step {step}")]
    Score {
        /// The run.
        run: Name,
        /// The step.
        step: u64,
        /// The batch, from 0.
        batch: u64,
        /// Why.
        #[source]
        source: BoxError,
    },
    /// The scorer counted what cannot be.
    #[error(
        "the scorer of run {run} reported {} correct of {} predictions; a scorer predicts \
         something, and no more is correct than was predicted",
        score.correct, score.predictions
    )]
    Impossible {
        /// The run.
        run: Name,
        /// What it reported.
        score: Score,
    },
    /// The work was told to stop.
    #[error("the evaluation was stopped; start it again")]
    Cancelled(#[from] Cancelled),
}

impl Error {
    /// What the caller should do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Journal(error) => error.kind(),
            Self::Checkpoint(error) => error.kind(),
            Self::Feed(error) => error.kind(),
            Self::Transfer(error) => error.kind(),
            Self::Format(error) => error.kind(),
            Self::Lake { source, .. } => source.kind(),
            Self::NoCheckpoint { .. } => ErrorKind::NotFound,
            Self::Seen { .. } => ErrorKind::Refused,
            Self::Load { .. } | Self::Score { .. } => ErrorKind::Invalid,
            Self::Impossible { .. } => ErrorKind::Internal,
            Self::Cancelled(_) => ErrorKind::Interrupted,
        }
    }
}
