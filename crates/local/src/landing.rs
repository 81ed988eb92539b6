//! Landing: a file comes into the cache, verified, or not at all.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::PathBuf,
};

use forebay_types::{Digest, DigestWriter};

use crate::{CachedFile, Error, LocalTier, files, space};

/// Held by the one process of the node that downloads an object; dies with it.
#[derive(Debug)]
pub struct LandingLock {
    _file: File,
}

/// A file on its way into the cache. Dropping it leaves nothing.
#[derive(Debug)]
pub struct Landing {
    tier: LocalTier,
    digest: Digest,
    path: PathBuf,
    file: File,
    bytes: u64,
    seen: DigestWriter,
}

impl LocalTier {
    /// Waits until this process alone may download `digest`.
    ///
    /// Two objects may share a lock, so a thread must not ask for one while it holds another.
    ///
    /// # Errors
    /// When the lock file cannot be made.
    pub fn lock(&self, digest: Digest) -> Result<LandingLock, Error> {
        let name = format!("{:02x}", digest.as_bytes()[0]);
        Ok(LandingLock { _file: files::lock(&self.folder("locks"), &name)? })
    }

    /// Reserves `bytes` for a file of this digest.
    ///
    /// # Errors
    /// [`Error::Full`] when the budget has no room for it.
    pub fn land(&self, digest: Digest, bytes: u64) -> Result<Landing, Error> {
        let name = format!("{digest}-{}", self.runtime().nonce());
        let path = self.folder("landing").join(name);
        self.reserve(&digest.to_string(), bytes, || {
            let file = files::create_locked(&path)?;
            let seen = DigestWriter::new();
            let landing = Landing { tier: self.clone(), digest, path, file, bytes, seen };
            space::allocate(&landing.file, &landing.path, bytes)?;
            Ok(landing)
        })
    }
}

impl Landing {
    /// Checks length and digest, and gives the file its name in the cache.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when the bytes are not those of the digest.
    pub fn finish(self) -> Result<CachedFile, Error> {
        let corrupt = |what| Error::Corrupt { digest: self.digest, what };
        if self.seen.len_bytes() != self.bytes {
            let seen = self.seen.len_bytes();
            return Err(corrupt(format!("{seen} bytes instead of {}", self.bytes)));
        }
        let found = self.seen.finish();
        if found != self.digest {
            return Err(corrupt(format!("they have the digest {found}")));
        }
        // Not synced, which would halve the speed: a cached file can be had again, and every reader
        // checks what it uses.
        let path = self.tier.cache_path(self.digest);
        fs::rename(&self.path, &path).map_err(Error::at("name", &path))?;
        CachedFile::map(self.digest, &self.file).map_err(Error::at("map", &path))
    }
}

impl Write for Landing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.seen.len_bytes() + bytes.len() as u64 > self.bytes {
            let overrun =
                Error::Overrun { object: self.digest.to_string(), reserved_bytes: self.bytes };
            return Err(io::Error::new(io::ErrorKind::InvalidData, overrun));
        }
        let written = self.file.write(bytes)?;
        self.seen.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        // Already renamed, or not wanted; what cannot be removed goes at the next open.
        let _gone = fs::remove_file(&self.path);
    }
}
