//! What can go wrong with checkpoints.

use std::{io, path::PathBuf};

use forebay_types::{ErrorKind, Key, Name};

/// A failure of a checkpoint.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The lake failed.
    #[error("cannot {act} of run {run} in the lake")]
    Lake {
        /// What was tried.
        act: &'static str,
        /// The run.
        run: Name,
        /// Why it failed.
        #[source]
        source: forebay_lake::Error,
    },
    /// The local tier failed.
    #[error("cannot {act} the checkpoint of run {run} at step {step}")]
    Local {
        /// What was tried.
        act: &'static str,
        /// The run.
        run: Name,
        /// The step.
        step: u64,
        /// Why it failed.
        #[source]
        source: forebay_local::Error,
    },
    /// A staged file could not be read or written.
    #[error("cannot {act} {name} on the local tier")]
    Staged {
        /// What was tried.
        act: &'static str,
        /// The staged file.
        name: Key,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// Moving a staged file to the lake failed.
    #[error(transparent)]
    Transfer(#[from] forebay_transfer::Error),
    /// Stored bytes are not what they must be, or a state cannot be stored.
    #[error(transparent)]
    Format(#[from] forebay_format::Error),
    /// The newest checkpoint is damaged.
    #[error(
        "the checkpoint of run {run} at step {step} cannot be restored{}",
        intact.map_or(String::new(), |step| format!("; step {step} is intact, choose it by name"))
    )]
    Unrestorable {
        /// The run.
        run: Name,
        /// The step.
        step: u64,
        /// The newest older step that is whole.
        intact: Option<u64>,
        /// Which object is damaged, and how.
        #[source]
        source: Box<Error>,
    },
    /// There is no such checkpoint.
    #[error("run {run} has no committed checkpoint{}", step.map_or(String::new(), |step| format!(" at step {step}")))]
    NoCheckpoint {
        /// The run.
        run: Name,
        /// The step, if one was asked for.
        step: Option<u64>,
    },
    /// A tensor's bytes do not fit its type and shape.
    #[error("tensor `{name}` has {found} bytes, its type and shape say {wanted}")]
    Shape {
        /// The tensor.
        name: String,
        /// What it has.
        found: u64,
        /// What it should have.
        wanted: u64,
    },
    /// Another attempt committed this step with another state.
    #[error("run {run} has another checkpoint at step {step}; another process is writing this run")]
    Conflict {
        /// The run.
        run: Name,
        /// The step.
        step: u64,
    },
    /// Two ranks hold a tensor of one name.
    #[error("two ranks of run {run} hold a tensor `{name}`")]
    Clash {
        /// The run.
        run: Name,
        /// The tensor.
        name: String,
    },
    /// The directory to restore into is in use.
    #[error("{} is not empty; name a directory that does not exist yet", .0.display())]
    NotEmpty(PathBuf),
    /// A restored file could not be written.
    #[error("cannot write {}", .0.display())]
    Write(PathBuf, #[source] io::Error),
    /// The background thread died.
    #[error(transparent)]
    Panicked(#[from] forebay_runtime::Panicked),
    /// An earlier failure in the background was reported already.
    #[error("checkpoints of run {0} stopped after an earlier failure; start the run again")]
    Stopped(Name),
}

impl Error {
    /// What the caller should do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Lake { source, .. } => source.kind(),
            Self::Local { source, .. } => source.kind(),
            Self::Staged { source, .. } | Self::Write(_, source) => ErrorKind::of_io(source),
            Self::Transfer(error) => error.kind(),
            Self::Format(error) => error.kind(),
            Self::Unrestorable { source, .. } => source.kind(),
            Self::NoCheckpoint { .. } => ErrorKind::NotFound,
            Self::Shape { .. } | Self::NotEmpty(_) => ErrorKind::Invalid,
            Self::Conflict { .. } | Self::Clash { .. } => ErrorKind::Conflict,
            Self::Panicked(_) | Self::Stopped(_) => ErrorKind::Internal,
        }
    }
}
