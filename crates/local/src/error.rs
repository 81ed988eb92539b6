//! What can go wrong with the local tier.

use std::{
    io,
    path::{Path, PathBuf},
};

use forebay_types::{Digest, ErrorKind, Key, NameError};

/// A failure of the local tier.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or directory of the tier cannot be used.
    #[error("cannot {act} {} on the local tier", path.display())]
    File {
        /// What was tried.
        act: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The byte budget leaves no room.
    #[error(
        "the local tier has no room for {needed_bytes} bytes of {object}: {used_bytes} of \
         {budget_bytes} bytes are taken; raise local_budget_bytes or clear the tier"
    )]
    Full {
        /// What was to be written.
        object: String,
        /// How much room it needs.
        needed_bytes: u64,
        /// How much is taken.
        used_bytes: u64,
        /// The budget.
        budget_bytes: u64,
    },
    /// The disk under the tier leaves no room, though the budget would.
    #[error(
        "the disk under the local tier is full: cannot {act} {}; free space on that disk, or put \
         the tier on another one",
        path.display()
    )]
    DiskFull {
        /// What was tried.
        act: &'static str,
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// A directory that holds something else.
    #[error(
        "{} is no local tier, and not empty: it holds {}; name an empty directory, since clearing \
         a tier removes what is in it",
        directory.display(),
        path.display()
    )]
    Foreign {
        /// The directory that was to be opened.
        directory: PathBuf,
        /// Something in it.
        path: PathBuf,
    },
    /// A name for working space that cannot be part of a path.
    #[error("cannot make working space on the local tier")]
    Scratch(#[source] NameError),
    /// A budget that holds nothing.
    #[error("a local tier of {0} bytes holds nothing; raise local_budget_bytes")]
    Budget(u64),
    /// Landed bytes are not the object they should be.
    #[error("{digest} landed with other bytes: {what}")]
    Corrupt {
        /// The object that was wanted.
        digest: Digest,
        /// What does not hold.
        what: String,
    },
    /// More bytes were written than space was reserved for.
    #[error("{object} has more than the {reserved_bytes} bytes that were reserved for it")]
    Overrun {
        /// What was written.
        object: String,
        /// The reservation.
        reserved_bytes: u64,
    },
    /// There is no such staged file.
    #[error("nothing is staged as {0}")]
    NotStaged(Key),
    /// Something staged has not reached the lake.
    #[error(
        "{} is not cleared: {count} staged or captured file(s) have not reached the lake ({}); start the run \
         again to drain them",
        directory.display(),
        names.join(", ")
    )]
    Undrained {
        /// The tier.
        directory: PathBuf,
        /// Their names, the first ten.
        names: Vec<String>,
        /// How many there are.
        count: usize,
    },
    /// The node has no memory that outlives a process, or not so much.
    #[error("cannot take {bytes} bytes of this node's shared memory")]
    Memory {
        /// How much was asked for.
        bytes: u64,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A live process works on the tier.
    #[error("{} is not cleared: a live process uses {}; stop it first", directory.display(), path.display())]
    InUse {
        /// The tier.
        directory: PathBuf,
        /// What it uses.
        path: PathBuf,
    },
}

impl Error {
    /// What the caller should do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::File { source, .. } => match ErrorKind::of_io(source) {
                ErrorKind::Invalid => ErrorKind::Invalid,
                _ => ErrorKind::Unavailable,
            },
            Self::Full { .. } | Self::DiskFull { .. } | Self::Memory { .. } => ErrorKind::Full,
            Self::Budget(_) | Self::Foreign { .. } | Self::Scratch(_) => ErrorKind::Invalid,
            Self::Corrupt { .. } => ErrorKind::Corrupt,
            Self::Overrun { .. } => ErrorKind::Internal,
            Self::NotStaged(_) => ErrorKind::NotFound,
            Self::Undrained { .. } | Self::InUse { .. } => ErrorKind::Refused,
        }
    }

    /// Makes an I/O error one of ours.
    pub(crate) fn at(act: &'static str, path: &Path) -> impl Fn(io::Error) -> Self {
        let path = path.to_owned();
        move |source| match ErrorKind::of_io(&source) {
            ErrorKind::Full => Self::DiskFull { act, path: path.clone(), source },
            _ => Self::File { act, path: path.clone(), source },
        }
    }
}
