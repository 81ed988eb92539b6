//! What can go wrong with a journal.

use forebay_types::{ErrorKind, Key, Name};

/// A failure of a journal.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The lake failed.
    #[error("cannot {act} the journal of run {run}")]
    Lake {
        /// What was tried.
        act: &'static str,
        /// The run.
        run: Name,
        /// Why it failed.
        #[source]
        source: forebay_lake::Error,
    },
    /// Stored bytes are not what they must be.
    #[error(transparent)]
    Format(#[from] forebay_format::Error),
    /// There is no such run.
    #[error("run {run} does not exist in {lake}; start it with `forebay train {run}`")]
    NoRun {
        /// The run.
        run: Name,
        /// The lake that was asked.
        lake: String,
    },
    /// The run was started with other settings.
    #[error(
        "run {run} was started with other settings ({}); start a run with another name, or go \
         back to its settings", differences.join("; ")
    )]
    OtherSettings {
        /// The run.
        run: Name,
        /// `setting: then, now`, each.
        differences: Vec<String>,
    },
    /// Another process writes this journal.
    #[error(
        "another process is writing run {run}: it took {segment}; stop it, then start this one again"
    )]
    OtherWriter {
        /// The run.
        run: Name,
        /// The segment it wrote.
        segment: Key,
    },
}

impl Error {
    /// What the caller should do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Lake { source, .. } => source.kind(),
            Self::Format(error) => error.kind(),
            Self::NoRun { .. } => ErrorKind::NotFound,
            Self::OtherSettings { .. } | Self::OtherWriter { .. } => ErrorKind::Conflict,
        }
    }
}
