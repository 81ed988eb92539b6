//! What can be wrong with a file of another project's format.

use forebay_types::ErrorKind;

/// A file, an extent or a row that cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The bytes are not what the format says.
    #[error("{object} is not sound {format}: {what}")]
    Damaged {
        /// The format.
        format: &'static str,
        /// The file, and where in it.
        object: String,
        /// What is wrong.
        what: String,
    },
    /// The format allows it, and this build does not read it.
    #[error("{object} cannot be fed as {format}: {what}")]
    Unsupported {
        /// The format.
        format: &'static str,
        /// The file, and where in it.
        object: String,
        /// What is not read, and what to do instead.
        what: String,
    },
    /// Decoded content could not be written.
    #[error("could not write the content of {object}")]
    Write {
        /// The file, and where in it.
        object: String,
        /// Why.
        source: std::io::Error,
    },
}

impl Error {
    /// What the caller should do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Damaged { .. } => ErrorKind::Corrupt,
            Self::Unsupported { .. } => ErrorKind::Invalid,
            Self::Write { source, .. } => ErrorKind::of_io(source),
        }
    }
}
