//! How a command fails.

use std::{io, path::PathBuf};

use forebay::ErrorKind;

/// A command's failure.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The engine's.
    #[error(transparent)]
    Engine(#[from] forebay::Error),
    /// The configuration file cannot be read.
    #[error("cannot read the configuration file {}", .0.display())]
    ReadConfig(PathBuf, #[source] io::Error),
    /// The configuration file is not one.
    #[error("the configuration file {} is not usable", .0.display())]
    ParseConfig(PathBuf, #[source] toml::de::Error),
    /// A file that was asked for cannot be written.
    #[error("cannot write {}", .0.display())]
    Write(PathBuf, #[source] io::Error),
    /// The trainer process could not be started or watched.
    #[error("cannot {act} the trainer process")]
    Child {
        /// What could not be done.
        act: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The trainer process ended with an error, which it printed itself.
    #[error(
        "the trainer process of run {run} failed with exit code {code}; its message stands above"
    )]
    ChildFailed {
        /// The run.
        run: String,
        /// Its exit code.
        code: i32,
        /// What its exit code stands for.
        kind: ErrorKind,
    },
    /// Arguments that do not go together.
    #[error("{0}")]
    Usage(String),
    /// A promise of ours did not hold.
    #[error("{0}")]
    Broken(String),
}

impl CommandError {
    /// What the caller should do.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Engine(error) => error.kind(),
            Self::ReadConfig(_, source) | Self::Write(_, source) => ErrorKind::of_io(source),
            Self::ParseConfig(..) | Self::Usage(_) => crate::USAGE,
            Self::Child { .. } => ErrorKind::Unavailable,
            Self::ChildFailed { kind, .. } => *kind,
            Self::Broken(_) => ErrorKind::Internal,
        }
    }
}

macro_rules! from_engine {
    ($($error:ty),+) => {
        $(impl From<$error> for CommandError {
            fn from(error: $error) -> Self {
                Self::Engine(error.into())
            }
        })+
    };
}

from_engine!(
    forebay::archive::Error,
    forebay::checkpoint::Error,
    forebay::LakeError,
    forebay::IndexError,
    forebay::Cancelled
);
