//! The cache: immutable files that were verified when they landed.

use std::{fmt, fs::File, io, ops::Deref, path::PathBuf, sync::Arc};

use forebay_types::Digest;
use memmap2::Mmap;

use crate::{Error, LocalTier, files, ledger::Part};

/// A cached file, mapped into memory. Stays readable after it was evicted.
#[derive(Clone)]
pub struct CachedFile {
    shared: Arc<Mapped>,
}

struct Mapped {
    digest: Digest,
    /// `None` for an empty file, which cannot be mapped.
    map: Option<Mmap>,
}

impl CachedFile {
    pub(crate) fn map(digest: Digest, file: &File) -> io::Result<Self> {
        let map = match file.metadata()?.len() {
            0 => None,
            // SAFETY: a mapping is sound as long as nobody shortens or changes the file under it.
            // Cached files are immutable: they are written under a private name, renamed when
            // they are complete, and only ever unlinked. What another program does to them is
            // found by the checksum that readers verify.
            _ => Some(unsafe { Mmap::map(file)? }),
        };
        Ok(Self { shared: Arc::new(Mapped { digest, map }) })
    }

    /// The digest the file had when it landed.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.shared.digest
    }

    /// Its length.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.len() as u64
    }
}

impl Deref for CachedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.shared.map.as_deref().unwrap_or_default()
    }
}

impl AsRef<[u8]> for CachedFile {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for CachedFile {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (digest, bytes) = (self.digest(), self.bytes());
        formatter
            .debug_struct("CachedFile")
            .field("digest", &digest)
            .field("bytes", &bytes)
            .finish()
    }
}

impl LocalTier {
    pub(crate) fn cache_path(&self, digest: Digest) -> PathBuf {
        self.folder("cache").join(digest.to_string())
    }

    /// The cached file of this digest, if it is there.
    ///
    /// # Errors
    /// When it is there and cannot be mapped.
    pub fn cached(&self, digest: Digest) -> Result<Option<CachedFile>, Error> {
        let path = self.cache_path(digest);
        match File::open(&path).and_then(|file| CachedFile::map(digest, &file)) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::at("map", &path)(error)),
        }
    }

    /// The digest of every cached file, in no order. Cheaper than [`LocalTier::cached_bytes_of`]:
    /// no file is looked at.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn cached_digests(&self) -> Result<Vec<Digest>, Error> {
        let paths = files::entries(&self.folder("cache"))?;
        let digest = |path: &PathBuf| path.file_name()?.to_str()?.parse().ok();
        Ok(paths.iter().filter_map(digest).collect())
    }

    /// Every cached file with its length, in the order of their digests.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn cached_bytes_of(&self) -> Result<Vec<(Digest, u64)>, Error> {
        let mut found = Vec::new();
        files::walk(&self.folder("cache"), &mut |path, bytes| {
            let digest = path.file_name().and_then(|name| name.to_str()?.parse().ok());
            found.extend(digest.map(|digest| (digest, bytes)));
        })?;
        found.sort_unstable();
        Ok(found)
    }

    /// Removes a cached file; who has it mapped goes on reading it. Says whether it was there.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn evict(&self, digest: Digest) -> Result<bool, Error> {
        let path = self.cache_path(digest);
        if files::length(&path)?.is_none() {
            return Ok(false);
        }
        self.change(|taken| {
            let bytes = files::length(&path)?;
            let removed = files::remove(&path)?;
            if let Some(bytes) = bytes.filter(|_| removed) {
                taken.give_back(Part::Cached, bytes);
                taken.cache_changed();
            }
            Ok(removed)
        })
    }
}
