//! What can be wrong with stored bytes.

use forebay_types::ErrorKind;

/// Bytes that are not what the named object must hold.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The bytes were changed, cut short, or never were this format.
    #[error("{object} is damaged: {what}; restore it from another copy or make it again")]
    Damaged {
        /// The object, as people know it (a key or a path).
        object: String,
        /// What does not hold.
        what: String,
    },
    /// Written by a newer Forebay.
    #[error(
        "{object} is {format} version {found}, and this Forebay reads up to version {known}; \
         use a newer Forebay"
    )]
    Newer {
        /// The object, as people know it.
        object: String,
        /// The format's name.
        format: &'static str,
        /// The version found.
        found: u32,
        /// The newest version this build reads.
        known: u32,
    },
    /// Another kind of record than asked for.
    #[error("{object} is a `{found}` record, where a `{wanted}` record is expected")]
    OtherFormat {
        /// The object, as people know it.
        object: String,
        /// The format's name that was asked for.
        wanted: &'static str,
        /// The format's name found.
        found: String,
    },
    /// A value that the format cannot hold.
    #[error("cannot write {object}: {what}")]
    Unwritable {
        /// What was to be written.
        object: String,
        /// Why it cannot be.
        what: String,
    },
}

impl Error {
    /// An [`Error::Damaged`].
    pub fn damaged(object: impl ToString, what: impl ToString) -> Self {
        Self::Damaged { object: object.to_string(), what: what.to_string() }
    }

    /// What the caller should do.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            // A key holds one kind of record, so another kind there is not what was written.
            Self::Damaged { .. } | Self::OtherFormat { .. } => ErrorKind::Corrupt,
            Self::Newer { .. } => ErrorKind::NewerFormat,
            Self::Unwritable { .. } => ErrorKind::Invalid,
        }
    }
}
