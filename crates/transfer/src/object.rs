//! What can be fetched: immutable content and everything that proves it.

use std::{fmt, io, sync::Arc};

use forebay_lake::{Lake, Purpose};
use forebay_types::{Digest, Key};

use crate::Transfer;

/// Immutable content, found by a key of the lake and proved by its digest.
///
/// Mostly it is a whole object. In a dataset that is fed where it lies it is a part of a file
/// ([`Stored`]), maybe of another store, maybe in another form.
#[derive(Clone, Debug)]
pub struct Object {
    /// Where it lies in the lake.
    pub key: Key,
    /// The digest of the content.
    pub digest: Digest,
    /// The length of the content.
    pub bytes: u64,
    /// What its traffic is counted as.
    pub purpose: Purpose,
    /// How it is stored; absent when the content is the whole object.
    pub stored: Option<Stored>,
}

/// Content that is a part of a stored file.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The store it lies in, if that is another one than the lake.
    pub lake: Option<Lake>,
    /// Where it starts in the file.
    pub offset: u64,
    /// How long it is there.
    pub bytes: u64,
    /// Makes the content of the stored bytes; absent when they are the content.
    pub decoder: Option<Arc<dyn Decoder>>,
}

/// Makes content of stored bytes: decompresses them, or turns columns into rows.
pub trait Decoder: Send + Sync + fmt::Debug {
    /// Writes the content that `stored` bytes stand for. The same bytes give the same content.
    ///
    /// # Errors
    /// When the bytes are damaged ([`io::ErrorKind::InvalidData`]), or writing failed.
    fn decode(&self, stored: &[u8], content: &mut dyn io::Write) -> io::Result<()>;
}

impl Object {
    /// Content that is a whole object of the lake.
    #[must_use]
    pub const fn whole(key: Key, digest: Digest, bytes: u64, purpose: Purpose) -> Self {
        Self { key, digest, bytes, purpose, stored: None }
    }

    /// The store it lies in.
    pub(crate) fn lake<'a>(&'a self, transfer: &'a Transfer) -> &'a Lake {
        let stored = self.stored.as_ref().and_then(|stored| stored.lake.as_ref());
        stored.unwrap_or_else(|| transfer.lake())
    }

    /// Where it starts in its file, and how long it is there.
    pub(crate) fn place(&self) -> (u64, u64) {
        self.stored.as_ref().map_or((0, self.bytes), |stored| (stored.offset, stored.bytes))
    }

    /// The bytes its content takes while it lands: beside it, what it is decoded from.
    pub(crate) fn landing_bytes(&self) -> u64 {
        match self.decoder() {
            Some(_) => self.bytes.saturating_add(self.place().1),
            None => self.bytes,
        }
    }

    pub(crate) fn decoder(&self) -> Option<&dyn Decoder> {
        self.stored.as_ref().and_then(|stored| stored.decoder.as_deref())
    }
}

impl PartialEq for Object {
    fn eq(&self, other: &Self) -> bool {
        (&self.key, self.digest, self.bytes, self.place())
            == (&other.key, other.digest, other.bytes, other.place())
    }
}

impl Eq for Object {}
