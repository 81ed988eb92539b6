//! What can go wrong with the lake.

use std::{io, path::PathBuf};

use forebay_types::{ErrorKind, Key};

/// A failure of the lake.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A store URL this build cannot open.
    #[error("cannot open the store `{url}`: {why}")]
    Url {
        /// What was asked for.
        url: String,
        /// Why it cannot be opened, and what can.
        why: String,
    },
    /// The store's root cannot be used.
    #[error("cannot use {} as a lake; check that it exists and may be written", path.display())]
    Root {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A request for the store as a whole failed.
    #[error("cannot {act} the store {url}")]
    Store {
        /// What was tried: `open`, `list`.
        act: &'static str,
        /// The store.
        url: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A request for one object failed.
    #[error("cannot {act} {key} in the lake ({place})")]
    Object {
        /// What was tried: `read`, `write`, …
        act: &'static str,
        /// The object.
        key: Key,
        /// Where it lies or would lie.
        place: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// An object is shorter than it must be.
    #[error("{key} in the lake is damaged: {wanted} bytes are needed, it has {length}")]
    Truncated {
        /// The object.
        key: Key,
        /// How long it must at least be.
        wanted: u64,
        /// How long it is.
        length: u64,
    },
    /// An object is longer than the reader accepts.
    #[error("{key} in the lake has {length} bytes, where at most {limit} are expected")]
    TooLarge {
        /// The object.
        key: Key,
        /// How long it is.
        length: u64,
        /// The most that is accepted.
        limit: u64,
    },
    /// The work was stopped while a request waited to be made again.
    #[error("stopped while waiting to try again")]
    Cancelled(#[source] Box<Self>),
    /// The store does not keep the promise that commits rest on.
    #[error("the store {url} cannot be published to: {why}")]
    Unsuited {
        /// The store.
        url: String,
        /// What it does wrong.
        why: String,
    },
}

impl Error {
    /// What the caller should do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Url { .. } => ErrorKind::Invalid,
            Self::Root { source, .. } => match ErrorKind::of_io(source) {
                ErrorKind::Corrupt | ErrorKind::Conflict => ErrorKind::Unavailable,
                kind => kind,
            },
            Self::Store { source, .. } | Self::Object { source, .. } => ErrorKind::of_io(source),
            Self::Truncated { .. } | Self::TooLarge { .. } => ErrorKind::Corrupt,
            Self::Cancelled(_) => ErrorKind::Interrupted,
            Self::Unsuited { .. } => ErrorKind::Unavailable,
        }
    }

    /// Whether the store let itself be read but not written.
    pub(crate) fn is_read_only(&self) -> bool {
        use io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
        matches!(self, Self::Object { source, .. }
            if matches!(source.kind(), PermissionDenied | ReadOnlyFilesystem))
    }

    /// Whether the same request may succeed a moment later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        use io::ErrorKind as Io;
        match self {
            Self::Store { source, .. } | Self::Object { source, .. } => matches!(
                source.kind(),
                Io::Interrupted
                    | Io::TimedOut
                    | Io::WouldBlock
                    | Io::ConnectionReset
                    | Io::ConnectionAborted
                    | Io::ConnectionRefused
                    | Io::BrokenPipe
                    | Io::ResourceBusy
                    | Io::StaleNetworkFileHandle
            ),
            _ => false,
        }
    }
}
