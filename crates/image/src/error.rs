//! Why an image could not be made a tensor.

use forebay_types::ErrorKind;

use crate::{ImageSize, container::Format};

/// An image that became no tensor, or settings that make none. It does not know which sample it
/// was: the caller adds that.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting that makes no tensor.
    #[error("the image setting `{setting}` {reason} allowed")]
    Setting {
        /// Its name.
        setting: &'static str,
        /// Its value and what would do.
        reason: String,
    },
    /// Neither JPEG nor PNG nor WebP.
    #[error("the {bytes} bytes are no JPEG, PNG or WebP image; they begin with {head:02x?}")]
    Unknown {
        /// How many bytes there are.
        bytes: usize,
        /// The first of them.
        head: Vec<u8>,
    },
    /// A kind of image that is not decoded.
    #[error("cannot decode this {format} image: it is {what}; convert it, or leave it out")]
    Unsupported {
        /// Its format.
        format: Format,
        /// What it is.
        what: &'static str,
    },
    /// More pixels than the settings allow.
    #[error(
        "the {format} image has {size} pixels, more than the setting `pixels_max`, which is \
         {pixels_max}; raise it if the image is what you expect"
    )]
    TooLarge {
        /// Its format.
        format: Format,
        /// Its size.
        size: ImageSize,
        /// The setting.
        pixels_max: u64,
    },
    /// The encoded bytes are damaged.
    #[error("the {format} image of {bytes} bytes is damaged: {reason}")]
    Damaged {
        /// Its format.
        format: Format,
        /// How many bytes it has.
        bytes: usize,
        /// What the decoder said.
        reason: String,
    },
    /// The tensor has another size than the room for it.
    #[error("an image of {size} pixels takes {needed_bytes} bytes, and there is room for {bytes}")]
    Room {
        /// The size of the output.
        size: ImageSize,
        /// What its tensor takes.
        needed_bytes: usize,
        /// What was given.
        bytes: usize,
    },
    /// No memory for a decoder, or for pixels.
    #[error("no memory to decode the {format} image: {reason}")]
    Memory {
        /// Its format.
        format: Format,
        /// What could not be had.
        reason: String,
    },
}

impl Error {
    /// What the caller should do.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Setting { .. } | Self::Room { .. } => ErrorKind::Invalid,
            Self::Unknown { .. } | Self::Unsupported { .. } => ErrorKind::Invalid,
            Self::TooLarge { .. } => ErrorKind::Refused,
            Self::Damaged { .. } => ErrorKind::Corrupt,
            Self::Memory { .. } => ErrorKind::Unavailable,
        }
    }
}
