//! What can go wrong between the tiers.

use forebay_runtime::Cancelled;
use forebay_types::{Digest, ErrorKind, Key, Name, Version};

/// A transfer that failed, and at which object.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The lake failed.
    #[error("cannot {act} {object} in the lake {lake}")]
    Lake {
        /// What was tried, as a verb.
        act: &'static str,
        /// The object's key.
        object: Key,
        /// The lake's URL.
        lake: String,
        /// Why.
        #[source]
        source: Box<forebay_lake::Error>,
    },
    /// The local tier failed.
    #[error("cannot {act} {object} in the local tier")]
    Local {
        /// What was tried, as a verb.
        act: &'static str,
        /// The object's key in the lake.
        object: Key,
        /// Why.
        #[source]
        source: forebay_local::Error,
    },
    /// A byte could not be written on this node.
    #[error("cannot write {object} into the local tier")]
    Write {
        /// The object's key in the lake.
        object: Key,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A staged file could not be read.
    #[error("cannot read the staged {name} on the local tier")]
    Staged {
        /// The staged file.
        name: Key,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A staged file changed on this node's disk before the lake had it.
    #[error(
        "the staged {name} on the local tier is damaged: it does not have the digest {digest} it \
         was staged with"
    )]
    StagedDamaged {
        /// The staged file.
        name: Key,
        /// What it should have been.
        digest: Digest,
    },
    /// The local tier could not say what it holds.
    #[error("cannot look into the local tier")]
    Tier(#[source] forebay_local::Error),
    /// The lake gave other bytes than the manifest promises, twice.
    #[error(
        "{object} in the lake {lake} is damaged: its bytes do not have the digest their manifest \
         names, nor did they when read again; restore it from another copy or prepare the dataset \
         again"
    )]
    Damaged {
        /// The object's key.
        object: Key,
        /// The lake's URL.
        lake: String,
    },
    /// A part of an indexed file is not what it was when it was indexed.
    #[error(
        "{object} in {lake} changed since it was indexed, or is damaged: its bytes do not have the \
         digest the index names, nor did they when read again; restore the file or index it again"
    )]
    Changed {
        /// The file's key.
        object: Key,
        /// The URL of its store.
        lake: String,
    },
    /// Stored bytes cannot be decoded.
    #[error("cannot decode {object} of {lake}; if it changed since it was indexed, index it again")]
    Decode {
        /// The file's key.
        object: Key,
        /// The URL of its store.
        lake: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// An object that a manifest relies on is not there.
    #[error(
        "{object} is missing from the lake {lake}, though a manifest names it; restore it from \
         another copy or prepare the dataset again"
    )]
    Missing {
        /// The object's key.
        object: Key,
        /// The lake's URL.
        lake: String,
    },
    /// A manifest or page that cannot be read.
    #[error("cannot use what the lake {lake} holds")]
    Format {
        /// The lake's URL.
        lake: String,
        /// What is wrong with which object.
        #[source]
        source: forebay_format::Error,
    },
    /// No version of the dataset was published.
    #[error("the lake {lake} holds no dataset `{name}`; check the name, or prepare it first")]
    NoDataset {
        /// The dataset's name.
        name: Name,
        /// The lake's URL.
        lake: String,
    },
    /// The dataset lacks this version.
    #[error("the lake {lake} holds no version {version} of dataset `{name}`")]
    NoVersion {
        /// The dataset's name.
        name: Name,
        /// The version asked for.
        version: Version,
        /// The lake's URL.
        lake: String,
    },
    /// The tier cannot hold what is read at once.
    #[error(
        "the local tier leaves {available_bytes} bytes for cached shards, and reading this order \
         keeps {needed_bytes} bytes of them in use at once; raise the tier's budget, or lower \
         `canonical_streams` or `window_shards`"
    )]
    BudgetTooSmall {
        /// What the shards in use take.
        needed_bytes: u64,
        /// The budget less what is staged and scratch.
        available_bytes: u64,
    },
    /// Used in a forked child.
    #[error(
        "the tiers were opened before a fork, by process {opened}, and cannot be used in its child \
         {child}, which has none of its threads; open them in the child"
    )]
    Forked {
        /// The process that opened them.
        opened: u32,
        /// The one that used them.
        child: u32,
    },
    /// The work was told to stop.
    #[error("fetching {object} was cancelled")]
    Cancelled {
        /// The object's key.
        object: Key,
        /// Who said so.
        #[source]
        source: Cancelled,
    },
}

impl Error {
    /// What the caller should do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Lake { source, .. } => source.kind(),
            Self::Local { source, .. } | Self::Tier(source) => source.kind(),
            Self::Format { source, .. } => source.kind(),
            Self::Write { source, .. }
            | Self::Staged { source, .. }
            | Self::Decode { source, .. } => ErrorKind::of_io(source),
            // A manifest is there and relies on it, so the lake lost it: nothing to be looked up.
            Self::Damaged { .. }
            | Self::Changed { .. }
            | Self::Missing { .. }
            | Self::StagedDamaged { .. } => ErrorKind::Corrupt,
            Self::NoDataset { .. } | Self::NoVersion { .. } => ErrorKind::NotFound,
            Self::BudgetTooSmall { .. } | Self::Forked { .. } => ErrorKind::Invalid,
            Self::Cancelled { .. } => ErrorKind::Interrupted,
        }
    }
}
