//! The parts a dataset is divided into.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Which part of a dataset a sample belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// What the model learns from.
    Train,
    /// What it is scored on and never learns from.
    Validation,
}

/// A text that names no split.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a split: expected `train` or `validation`")]
pub struct SplitError(String);

impl Split {
    /// Every split, in the order manifests list them.
    pub const ALL: [Self; 2] = [Self::Train, Self::Validation];

    /// The split as one word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Validation => "validation",
        }
    }
}

impl fmt::Display for Split {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl FromStr for Split {
    type Err = SplitError;

    fn from_str(text: &str) -> Result<Self, SplitError> {
        Self::ALL
            .into_iter()
            .find(|split| split.as_str() == text)
            .ok_or_else(|| SplitError(text.chars().take(80).collect()))
    }
}
