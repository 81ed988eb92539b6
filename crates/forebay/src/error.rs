//! The one error type that outsiders meet.

use forebay_types::ErrorKind;

/// Anything the engine can refuse or fail at.
///
/// [`Error::kind`] says what to do; the message says what happened, to which object, and how to
/// go on; `source()` leads to the cause.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The lake refused or failed.
    #[error(transparent)]
    Lake(#[from] forebay_lake::Error),
    /// The local tier refused or failed.
    #[error(transparent)]
    Local(#[from] forebay_local::Error),
    /// Moving bytes between the tiers failed.
    #[error(transparent)]
    Transfer(#[from] forebay_transfer::Error),
    /// Preparing a dataset failed.
    #[error(transparent)]
    Prepare(#[from] forebay_prepare::Error),
    /// Indexing a dataset where it lies failed.
    #[error(transparent)]
    Index(#[from] forebay_index::Error),
    /// Feeding batches failed.
    #[error(transparent)]
    Feed(#[from] forebay_feed::Error),
    /// A checkpoint could not be made or read.
    #[error(transparent)]
    Checkpoint(#[from] forebay_checkpoint::Error),
    /// The run's journal could not be written or read.
    #[error(transparent)]
    Journal(#[from] forebay_journal::Error),
    /// Evaluation failed.
    #[error(transparent)]
    Evaluate(#[from] forebay_evaluate::Error),
    /// A package could not be made, verified or restored.
    #[error(transparent)]
    Archive(#[from] forebay_archive::Error),
    /// Stored bytes are not what they must be.
    #[error(transparent)]
    Format(#[from] forebay_format::Error),
    /// A setting that cannot work.
    #[error("setting `{setting}` is {value}: {why}")]
    Setting {
        /// Its name in the configuration file.
        setting: &'static str,
        /// What it was set to.
        value: String,
        /// What it must be.
        why: String,
    },
    /// The directory of the default tiers cannot be made.
    #[error("cannot make {}; name tiers elsewhere with --store and --local", path.display())]
    Home {
        /// The directory.
        path: std::path::PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file or directory of this node cannot be used.
    #[error("cannot use {}", path.display())]
    Unusable {
        /// The file or directory.
        path: std::path::PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The doctor found what work will fail at.
    #[error("{count} of the doctor's checks failed, first: {first}")]
    Unfit {
        /// How many.
        count: usize,
        /// What the first of them found.
        first: String,
        /// What its error stands for.
        kind: ErrorKind,
    },
    /// The named object does not exist.
    #[error("{what} does not exist in {store}; {hint}")]
    NotFound {
        /// The object.
        what: String,
        /// The lake that was asked.
        store: String,
        /// How to make or find it.
        hint: String,
    },
    /// The trainer that works on the engine failed.
    #[error("the trainer failed at {act}")]
    Trainer {
        /// What it did.
        act: String,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A rule said no.
    #[error("{0}")]
    Refused(String),
    /// The work was stopped from outside.
    #[error("stopped; start the same command again to go on from where it stood")]
    Interrupted,
}

impl Error {
    /// What the caller should do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Lake(error) => error.kind(),
            Self::Local(error) => error.kind(),
            Self::Transfer(error) => error.kind(),
            Self::Prepare(error) => error.kind(),
            Self::Index(error) => error.kind(),
            Self::Feed(error) => error.kind(),
            Self::Checkpoint(error) => error.kind(),
            Self::Journal(error) => error.kind(),
            Self::Evaluate(error) => error.kind(),
            Self::Archive(error) => error.kind(),
            Self::Format(error) => error.kind(),
            Self::Setting { .. } => ErrorKind::Invalid,
            Self::Home { source, .. } | Self::Unusable { source, .. } => ErrorKind::of_io(source),
            Self::Unfit { kind, .. } => *kind,
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::Trainer { .. } => ErrorKind::Internal,
            Self::Refused(_) => ErrorKind::Refused,
            Self::Interrupted => ErrorKind::Interrupted,
        }
    }

    /// The failure of a trainer at `act`.
    pub fn trainer(
        act: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Trainer { act: act.into(), source: source.into() }
    }
}

impl From<forebay_runtime::Cancelled> for Error {
    fn from(_: forebay_runtime::Cancelled) -> Self {
        Self::Interrupted
    }
}
