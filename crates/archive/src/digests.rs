//! Both digests of a file, in one pass over it.

use forebay_format::v1::package::PackageFile;
use forebay_types::{Digest, DigestWriter, Key, Sha256};
use sha2::{Digest as _, Sha256 as Sha256Hasher};

/// BLAKE3 for ourselves, SHA-256 for everybody else's tools.
#[derive(Default)]
pub(crate) struct Digests {
    blake3: DigestWriter,
    sha256: Sha256Hasher,
}

impl Digests {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let mut digests = Self::default();
        digests.update(bytes);
        digests
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.blake3.update(bytes);
        self.sha256.update(bytes);
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.blake3.len_bytes()
    }

    pub(crate) fn finish(self) -> (Digest, Sha256) {
        (self.blake3.finish(), Sha256::from_bytes(self.sha256.finalize().into()))
    }

    /// The entry of the file at `path` whose bytes these are the digests of.
    pub(crate) fn entry(self, path: Key) -> PackageFile {
        let bytes = self.bytes();
        let (blake3, sha256) = self.finish();
        PackageFile { path, bytes, blake3, sha256 }
    }
}
