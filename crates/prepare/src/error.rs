//! What can stop a preparation. Bad records never do.

use std::{io, path::PathBuf};

use forebay_runtime::Cancelled;
use forebay_types::{ErrorKind, Name};

/// Why no dataset version was published.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting that cannot work.
    #[error("the recipe cannot be followed: {what}")]
    Recipe {
        /// The setting and what is wrong with it.
        what: String,
    },
    /// Not enough memory allowed for even one worker.
    #[error(
        "`memory_bytes` is {given_bytes}; this recipe needs at least {needed_bytes}: raise it, or \
         lower `record_bytes_max` or `shard_bytes`"
    )]
    Memory {
        /// What was allowed.
        given_bytes: u64,
        /// What one worker needs.
        needed_bytes: u64,
    },
    /// A file or directory that cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A source without anything to prepare.
    #[error(
        "{path} holds no raw text: expected files named .jsonl, .ndjson or .txt, or these with \
         .gz or .zst"
    )]
    NoSources {
        /// The source.
        path: PathBuf,
    },
    /// A file whose name cannot be kept in a manifest.
    #[error("cannot use {path}: {what}")]
    SourceName {
        /// The file.
        path: PathBuf,
        /// What is wrong with its name.
        what: &'static str,
    },
    /// More files than a manifest lists.
    #[error("{path} holds {found} files of raw text, the limit is {limit}: join them into fewer")]
    TooManySources {
        /// The source.
        path: PathBuf,
        /// How many there are.
        found: usize,
        /// How many there may be.
        limit: usize,
    },
    /// A source that was written to while it was read.
    #[error("{name} changed while it was being read: start again when nobody writes to it")]
    SourceChanged {
        /// The file, below the source.
        name: String,
    },
    /// A file that is no tokenizer.
    #[error("{path} cannot be used as a tokenizer: {what}")]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// Why.
        what: String,
    },
    /// A text the tokenizer fails on.
    #[error("the tokenizer failed on a document of {name}, record {record}: {what}")]
    Encode {
        /// The source.
        name: String,
        /// The record in it.
        record: u64,
        /// What the tokenizer says.
        what: String,
    },
    /// Sources whose good records do not fill one row.
    #[error(
        "nothing to publish: {kept} of {read} records are usable, and they do not fill one row of \
         {row_tokens} tokens; give more text or lower `row_tokens`"
    )]
    NoRows {
        /// All records.
        read: u64,
        /// Those with usable text.
        kept: u64,
        /// The length of a row.
        row_tokens: u32,
    },
    /// A scratch file that cannot be written or read back.
    #[error("cannot {act} the scratch file {path}")]
    Scratch {
        /// `write`, `read`.
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
    /// The lake refused or failed.
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
    Format(#[from] forebay_format::Error),
    /// Stopped from outside.
    #[error("the preparation was stopped before it published anything")]
    Cancelled(#[from] Cancelled),
}

impl Error {
    /// What the caller should do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Recipe { .. }
            | Self::Memory { .. }
            | Self::SourceName { .. }
            | Self::TooManySources { .. }
            | Self::Tokenizer { .. }
            | Self::Encode { .. }
            | Self::NoRows { .. } => ErrorKind::Invalid,
            Self::NoSources { .. } => ErrorKind::NotFound,
            Self::SourceChanged { .. } | Self::Contended { .. } => ErrorKind::Conflict,
            Self::Read { source, .. } | Self::Scratch { source, .. } => ErrorKind::of_io(source),
            Self::Lake(error) => error.kind(),
            Self::Local(error) => error.kind(),
            Self::Transfer(error) => error.kind(),
            Self::Format(error) => error.kind(),
            Self::Cancelled(_) => ErrorKind::Interrupted,
        }
    }
}
