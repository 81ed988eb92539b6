//! How training fails.

use forebay::ErrorKind;

/// A trainer's failure.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting that cannot work.
    #[error("setting `{setting}` is {value}: it must be {must_be}")]
    Setting {
        /// Its name in the configuration file.
        setting: &'static str,
        /// What it was set to.
        value: String,
        /// What it must be.
        must_be: &'static str,
    },
    /// The dataset's rows leave nothing to predict.
    #[error("rows of {row_tokens} tokens hold no prediction: prepare rows of at least 2 tokens")]
    RowTooShort {
        /// Tokens in a row.
        row_tokens: usize,
    },
    /// A batch that was not made for this model.
    #[error("a batch of {tokens} tokens is not one or more rows of {row_tokens} tokens")]
    BatchShape {
        /// All its tokens.
        tokens: usize,
        /// The tokens per row the model was made for.
        row_tokens: usize,
    },
    /// A token outside the vocabulary.
    #[error(
        "the batch holds token {token}, and the vocabulary ends at {vocabulary_size}: \
         the dataset was made with another tokenizer"
    )]
    Token {
        /// The token.
        token: u32,
        /// The first number that is no token.
        vocabulary_size: usize,
    },
    /// A checkpoint without a tensor that the model has.
    #[error(
        "checkpoint step {step} lacks tensor `{tensor}`: it was made with other trainer settings"
    )]
    MissingTensor {
        /// The checkpoint.
        step: u64,
        /// The tensor.
        tensor: String,
    },
    /// A checkpoint with a tensor that the model lacks.
    #[error(
        "checkpoint step {step} holds tensor `{tensor}`, which the model lacks: it was made with \
         other trainer settings"
    )]
    UnexpectedTensor {
        /// The checkpoint.
        step: u64,
        /// The tensor.
        tensor: String,
    },
    /// A tensor of another shape or type.
    #[error(
        "tensor `{tensor}` of checkpoint step {step} is {found}, the model's is {expected}: \
         it was made with other trainer settings"
    )]
    TensorShape {
        /// The checkpoint.
        step: u64,
        /// The tensor.
        tensor: String,
        /// What the checkpoint holds.
        found: String,
        /// What the model needs.
        expected: String,
    },
    /// A checkpoint whose metadata is not this trainer's.
    #[error("the metadata of checkpoint step {step} is not that of this trainer")]
    Metadata {
        /// The checkpoint.
        step: u64,
        /// What does not fit.
        #[source]
        source: serde_json::Error,
    },
    /// A checkpoint that disagrees with itself.
    #[error(
        "checkpoint step {step} was saved by an optimizer that had taken {optimizer_step} steps"
    )]
    StepMismatch {
        /// The checkpoint.
        step: u64,
        /// What the optimizer says.
        optimizer_step: u64,
    },
    /// The loss is no number any more.
    #[error(
        "training diverged at step {step}: loss {loss}, gradient norm {gradient_norm}; lower \
         `train.optimizer.learning_rate` and go on from an earlier checkpoint"
    )]
    Diverged {
        /// The step.
        step: u64,
        /// Its loss.
        loss: f64,
        /// Its gradient norm.
        gradient_norm: f64,
    },
    /// A run's trainer settings that are not this trainer's.
    #[error("the run's record does not hold settings of this trainer")]
    RecordedSettings(#[source] serde_json::Error),
    /// The engine's.
    #[error(transparent)]
    Engine(#[from] forebay::Error),
}

impl Error {
    /// What the caller should do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Diverged { .. } => ErrorKind::Refused,
            Self::Engine(error) => error.kind(),
            _ => ErrorKind::Invalid,
        }
    }
}

impl From<Error> for forebay::Error {
    fn from(error: Error) -> Self {
        let not = |value: &str| (value.to_owned(), error.to_string());
        let (value, why) = match error {
            Error::Engine(error) => return error,
            Error::Setting { setting, value, must_be } => {
                return Self::Setting { setting, value, why: format!("it must be {must_be}") };
            }
            Error::Diverged { .. } => return Self::Refused(error.to_string()),
            Error::RowTooShort { .. } | Error::BatchShape { .. } | Error::Token { .. } => {
                not("not for this dataset")
            }
            _ => not("not what the checkpoint was made with"),
        };
        Self::Setting { setting: "train", value, why }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engine_s_error_keeps_kind_and_words() {
        let tensor = String::from("model.head.weight");
        type Make = fn(String) -> Error;
        let errors: [(Make, &str); 4] = [
            (|tensor| Error::MissingTensor { step: 3, tensor }, "model.head.weight"),
            (|_| Error::Token { token: 300, vocabulary_size: 257 }, "token 300"),
            (|_| Error::Diverged { step: 9, loss: f64::NAN, gradient_norm: 1.0 }, "step 9"),
            (|_| Error::Engine(forebay::Error::Interrupted), "stopped"),
        ];
        for (make, words) in errors {
            let engine = forebay::Error::from(make(tensor.clone()));
            assert_eq!(engine.kind(), make(tensor.clone()).kind());
            assert!(engine.to_string().contains(words), "{engine}");
        }
    }
}
