//! What can go wrong with packages.

use std::{fmt, io, path::PathBuf};

use forebay_types::{ErrorKind, Key, Name, Version};
use serde::Serialize;

/// A failure of the archive.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The lake failed.
    #[error("cannot {act} a package of model {model}")]
    Lake {
        /// What was tried.
        act: &'static str,
        /// The model.
        model: Name,
        /// Why.
        #[source]
        source: forebay_lake::Error,
    },
    /// A record that the package is made from could not be read.
    #[error("cannot read {object}")]
    Record {
        /// The record.
        object: Key,
        /// Why.
        #[source]
        source: forebay_lake::Error,
    },
    /// The run's record or journal could not be read.
    #[error(transparent)]
    Journal(#[from] forebay_journal::Error),
    /// The run's dataset could not be read.
    #[error(transparent)]
    Transfer(#[from] forebay_transfer::Error),
    /// Stored bytes are not what they must be, or a file cannot be stored.
    #[error(transparent)]
    Format(#[from] forebay_format::Error),
    /// The evaluation did not pass its gate.
    #[error(
        "run {run} at step {step} did not pass its gate ({}), so nothing is archived",
        rules.join(", ")
    )]
    NotPassed {
        /// The run.
        run: Name,
        /// The step.
        step: u64,
        /// Each rule that does not hold.
        rules: Vec<String>,
    },
    /// The evaluation was held against another gate than the run's.
    #[error(
        "run {run} at step {step} was held against another gate than the one its record names; \
         evaluate it again"
    )]
    OtherGate {
        /// The run.
        run: Name,
        /// The step.
        step: u64,
    },
    /// Something the package is made from is not in the lake.
    #[error("{object} does not exist in {lake}, and the package is made from it")]
    Missing {
        /// The object.
        object: Key,
        /// The lake that was asked.
        lake: String,
    },
    /// The checkpoint holds no weights.
    #[error(
        "the checkpoint of run {run} at step {step} holds no tensor named `model.…`, so there is \
         no model to archive"
    )]
    NoWeights {
        /// The run.
        run: Name,
        /// The step.
        step: u64,
    },
    /// No such package.
    #[error("model {model} has no package{} in {lake}; `forebay archive publish` makes one",
        version.map_or(String::new(), |version| format!(" {version}")))]
    NoPackage {
        /// The model.
        model: Name,
        /// The version, if one was asked for.
        version: Option<Version>,
        /// The lake that was asked.
        lake: String,
    },
    /// Files are not what the manifest says.
    #[error("package {package} is damaged: {}; restore it from another copy", told(findings))]
    Damaged {
        /// The package, or the directory it was restored to.
        package: String,
        /// Each file that is not what it was, ordered by path.
        findings: Vec<Finding>,
    },
    /// The directory to restore into is in use.
    #[error("{} exists and is not empty; name another directory", .0.display())]
    NotEmpty(PathBuf),
    /// A file on this machine could not be read or written.
    #[error("cannot {act} {}", path.display())]
    File {
        /// What was tried.
        act: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A package's file cannot have this path.
    #[error("a package cannot hold a file at {0}: the path is too long")]
    Path(Key),
    /// Others published version after version while we tried.
    #[error("others keep publishing packages of model {0}; publish again")]
    Busy(Name),
    /// The work was told to stop.
    #[error("archiving was stopped; start it again")]
    Cancelled(#[from] forebay_runtime::Cancelled),
}

/// A file of a package that is not what it was.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// Its path in the package.
    pub path: String,
    /// What is wrong with it.
    pub harm: Harm,
}

/// What can be wrong with a file of a package.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Harm {
    /// It is not there.
    Missing,
    /// It has another length than it had.
    Resized {
        /// The length it had.
        wanted: u64,
        /// The length it has.
        found: u64,
    },
    /// It has other bytes than it had.
    Changed,
    /// The package never had it.
    Added,
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = &self.path;
        match self.harm {
            Harm::Missing => write!(formatter, "{path} is missing"),
            Harm::Resized { wanted, found } => {
                write!(formatter, "{path} has {found} bytes instead of {wanted}")
            }
            Harm::Changed => write!(formatter, "{path} was changed"),
            Harm::Added => write!(formatter, "{path} was added"),
        }
    }
}

/// The findings a message has room for.
const TOLD_MAX: usize = 10;

fn told(findings: &[Finding]) -> String {
    let mut told: Vec<_> = findings.iter().take(TOLD_MAX).map(ToString::to_string).collect();
    if findings.len() > TOLD_MAX {
        told.push(format!("{} more", findings.len() - TOLD_MAX));
    }
    told.join("; ")
}

impl Error {
    /// What the caller should do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Lake { source, .. } | Self::Record { source, .. } => source.kind(),
            Self::Journal(error) => error.kind(),
            Self::Transfer(error) => error.kind(),
            Self::Format(error) => error.kind(),
            Self::NotPassed { .. } | Self::OtherGate { .. } => ErrorKind::Refused,
            Self::NoPackage { .. } | Self::Missing { .. } => ErrorKind::NotFound,
            Self::Damaged { .. } => ErrorKind::Corrupt,
            Self::NotEmpty(_) | Self::Path(_) | Self::NoWeights { .. } => ErrorKind::Invalid,
            Self::File { source, .. } => ErrorKind::of_io(source),
            Self::Busy(_) => ErrorKind::Conflict,
            Self::Cancelled(_) => ErrorKind::Interrupted,
        }
    }
}
