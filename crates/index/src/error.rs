//! What can stop an indexing.

use std::{io, path::PathBuf};

use forebay_runtime::Cancelled;
use forebay_types::{ErrorKind, Key, Name, Split};

/// Why no version was published.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The lake itself, without a path, would be looked through.
    #[error(
        "{lake} is the lake itself: name the path below which the dataset's files lie, so that \
         what Forebay keeps there is not taken for data"
    )]
    WholeLake {
        /// The lake.
        lake: String,
    },
    /// A path under which nothing lies.
    #[error(
        "there are no files at `{path}` in {store}: check the path, and that file names have only \
         letters, digits, `.`, `_` and `-`"
    )]
    NothingThere {
        /// The path.
        path: String,
        /// The store.
        store: String,
    },
    /// Files, but none that can be read.
    #[error("none of the {files} files in {store} is of a format that is read here{passed_over}")]
    NoFiles {
        /// The store.
        store: String,
        /// How many there are.
        files: u64,
        /// Their endings, in parentheses.
        passed_over: String,
    },
    /// A format that this build does not have.
    #[error("there is no format `{format}`: expected one of {known}")]
    Format {
        /// What was asked for.
        format: String,
        /// The formats there are.
        known: String,
    },
    /// As many bytes of one format as of another.
    #[error("the files in {store} may be {first} or {second}: say which with the format")]
    Ambiguous {
        /// The store.
        store: String,
        /// One format.
        first: &'static str,
        /// Another.
        second: &'static str,
    },
    /// A rule that gives a split no file.
    #[error("no file lies below `{prefix}`, which is to be split {split}: check the prefix")]
    EmptyPrefix {
        /// The split.
        split: Split,
        /// The prefix.
        prefix: String,
    },
    /// A rule that cannot be read.
    #[error(
        "`{text}` is no rule for splits: expected `names`, or any number of `train=PREFIX` and \
         `validation=PREFIX`"
    )]
    SplitRule {
        /// What was given.
        text: String,
    },
    /// A prefix that is to be two splits.
    #[error("`{prefix}` is to be split {first} and split {second}: a file has one")]
    TwoSplits {
        /// The prefix.
        prefix: String,
        /// One split.
        first: Split,
        /// The other.
        second: Split,
    },
    /// Extents of no bytes.
    #[error("`extent_bytes` is {given_bytes}: it must be at least {min_bytes}")]
    ExtentBytes {
        /// What was asked for.
        given_bytes: u64,
        /// The least there is.
        min_bytes: u64,
    },
    /// A file that has no place on this node.
    #[error(
        "{file} has {bytes} bytes and is looked through on the local tier, whose budget is \
         {budget_bytes}: raise local_budget_bytes"
    )]
    FileTooLarge {
        /// The file.
        file: Key,
        /// Its length.
        bytes: u64,
        /// The tier's budget.
        budget_bytes: u64,
    },
    /// A file that was written to, replaced or removed meanwhile.
    #[error("{file} in {store} changed while it was indexed: start again when nobody writes to it")]
    FileChanged {
        /// The file.
        file: Key,
        /// Its store.
        store: String,
    },
    /// A file that is not what its name says.
    #[error("cannot index {store}")]
    Dialect {
        /// The store.
        store: String,
        /// Which file, and what is wrong with it.
        #[source]
        source: forebay_dialect::Error,
    },
    /// A dialect that contradicts itself.
    #[error("{dialect} found in {file} what cannot be: {what}; this is a defect of Forebay")]
    Survey {
        /// The file.
        file: Key,
        /// The dialect.
        dialect: &'static str,
        /// What cannot be.
        what: String,
    },
    /// Files that are not of one dataset.
    #[error(
        "{first} and {second} have samples of different fields ({what}): index them as two datasets"
    )]
    Schemas {
        /// A file that is like those before it.
        first: Key,
        /// The first that is not.
        second: Key,
        /// The difference.
        what: String,
    },
    /// Files that must be read differently.
    #[error("{first} and {second} must be read differently: index them as two datasets")]
    Contexts {
        /// The first file.
        first: Key,
        /// The first that differs.
        second: Key,
    },
    /// Files without rows.
    #[error("nothing to publish: the {files} files in {store} hold no rows")]
    NoRows {
        /// The store.
        store: String,
        /// How many there are.
        files: u64,
    },
    /// A scratch file that cannot be written or mapped.
    #[error("cannot {act} the scratch file {}", path.display())]
    Scratch {
        /// `write`, `map`.
        act: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Others published versions of this dataset faster than we could.
    #[error(
        "dataset {name}: {attempts} version numbers in a row were taken by other writers; find out \
         who publishes to it, then start again"
    )]
    Contended {
        /// The dataset.
        name: Name,
        /// How many numbers were tried.
        attempts: u32,
    },
    /// A store refused or failed.
    #[error(transparent)]
    Lake(#[from] forebay_lake::Error),
    /// The local tier refused or failed.
    #[error(transparent)]
    Local(#[from] forebay_local::Error),
    /// A published version could not be read.
    #[error(transparent)]
    Transfer(#[from] forebay_transfer::Error),
    /// Something that the formats cannot hold.
    #[error(transparent)]
    Stored(#[from] forebay_format::Error),
    /// Stopped from outside.
    #[error("indexing was stopped before it published anything; start it again to go on")]
    Cancelled(#[from] Cancelled),
}

impl Error {
    /// What the caller should do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::WholeLake { .. }
            | Self::Format { .. }
            | Self::Ambiguous { .. }
            | Self::EmptyPrefix { .. }
            | Self::TwoSplits { .. }
            | Self::SplitRule { .. }
            | Self::ExtentBytes { .. }
            | Self::Schemas { .. }
            | Self::Contexts { .. }
            | Self::NoRows { .. } => ErrorKind::Invalid,
            Self::NothingThere { .. } | Self::NoFiles { .. } => ErrorKind::NotFound,
            Self::FileTooLarge { .. } => ErrorKind::Full,
            Self::FileChanged { .. } | Self::Contended { .. } => ErrorKind::Conflict,
            Self::Survey { .. } => ErrorKind::Internal,
            Self::Scratch { source, .. } => ErrorKind::of_io(source),
            Self::Dialect { source, .. } => source.kind(),
            Self::Lake(error) => error.kind(),
            Self::Local(error) => error.kind(),
            Self::Transfer(error) => error.kind(),
            Self::Stored(error) => error.kind(),
            Self::Cancelled(_) => ErrorKind::Interrupted,
        }
    }
}
