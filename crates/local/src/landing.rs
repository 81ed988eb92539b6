//! Landing: a file comes into the cache, verified, or not at all.
//!
//! Whoever downloads writes the bytes, in any order and from any thread ([`LandingFile`]), and shows
//! them to the digest, in order ([`Landing::see`]). Content that is stored in another form lands
//! beside it first ([`Spool`]); space for both is reserved at once, since two downloads that each
//! held one half and waited for the other would wait for ever.

use std::{
    fs::{self, File},
    io::{self, Write},
    ops::Deref,
    os::unix::fs::FileExt,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use forebay_types::{Digest, DigestWriter};
use memmap2::Mmap;

use crate::{
    CachedFile, Error, LocalTier,
    files::{self, Lock},
    ledger::Part,
    space,
};

/// Held by the one process of the node that downloads an object; dies with it.
#[derive(Debug)]
pub struct LandingLock {
    _lock: Lock,
}

/// A file on its way into the cache. Dropping it leaves nothing.
#[derive(Debug)]
pub struct Landing {
    private: Private,
    digest: Digest,
    file: LandingFile,
    seen: DigestWriter,
}

/// Where the bytes of a landing are written, by any number of threads.
#[derive(Clone, Debug)]
pub struct LandingFile {
    shared: Arc<Reserved>,
}

#[derive(Debug)]
struct Reserved {
    digest: Digest,
    file: File,
    bytes: u64,
    written_bytes: AtomicU64,
}

/// Stored bytes of content that is decoded when they are all there. Dropping it leaves nothing.
#[derive(Debug)]
pub struct Spool {
    private: Private,
    file: LandingFile,
}

/// The whole of a [`Spool`], mapped into memory.
#[derive(Debug)]
pub struct Spooled {
    /// `None` for an empty file, which cannot be mapped.
    map: Option<Mmap>,
    _private: Private,
}

/// A name in `landing` that is removed with this value.
#[derive(Debug)]
struct Private {
    tier: LocalTier,
    path: PathBuf,
    bytes: u64,
    is_named: bool,
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
        Ok(LandingLock { _lock: files::lock(&self.folder("locks"), &name)? })
    }

    /// Reserves `bytes` for a file of this digest.
    ///
    /// # Errors
    /// [`Error::Full`] when the budget has no room for it.
    pub fn land(&self, digest: Digest, bytes: u64) -> Result<Landing, Error> {
        let path = self.private_path(digest, "");
        let make = || space::make(&path, bytes);
        let file = self.reserve(&digest.to_string(), Part::Cached, bytes, make)?;
        Ok(self.landing(digest, path, file, bytes))
    }

    /// Reserves `bytes` for a file of this digest, and `stored_bytes` for what it is made of.
    ///
    /// # Errors
    /// [`Error::Full`] when the budget has no room for both.
    pub fn land_from(
        &self,
        digest: Digest,
        bytes: u64,
        stored_bytes: u64,
    ) -> Result<(Landing, Spool), Error> {
        let path = self.private_path(digest, "");
        let stored = self.private_path(digest, ".stored");
        let make = || {
            let spool = space::make(&stored, stored_bytes)?;
            match space::make(&path, bytes) {
                Ok(file) => Ok((file, spool)),
                Err(error) => {
                    files::remove(&stored)?;
                    Err(error)
                }
            }
        };
        let all_bytes = bytes.saturating_add(stored_bytes);
        let (file, spool) = self.reserve(&digest.to_string(), Part::Cached, all_bytes, make)?;
        let private = self.private(stored, stored_bytes);
        let spool = Spool { private, file: LandingFile::new(digest, spool, stored_bytes) };
        Ok((self.landing(digest, path, file, bytes), spool))
    }

    fn private_path(&self, digest: Digest, suffix: &str) -> PathBuf {
        self.folder("landing").join(format!("{digest}-{}{suffix}", self.runtime().nonce()))
    }

    fn private(&self, path: PathBuf, bytes: u64) -> Private {
        Private { tier: self.clone(), path, bytes, is_named: false }
    }

    fn landing(&self, digest: Digest, path: PathBuf, file: File, bytes: u64) -> Landing {
        let (private, seen) = (self.private(path, bytes), DigestWriter::new());
        Landing { private, digest, file: LandingFile::new(digest, file, bytes), seen }
    }
}

impl Landing {
    /// Where its bytes are written.
    #[must_use]
    pub fn file(&self) -> LandingFile {
        self.file.clone()
    }

    /// Takes the next bytes into the digest. They are written elsewhere, or will be.
    pub fn see(&mut self, bytes: &[u8]) {
        self.seen.update(bytes);
    }

    /// Checks length and digest, and gives the file its name in the cache.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when the bytes are not those of the digest.
    pub fn finish(mut self) -> Result<CachedFile, Error> {
        let corrupt = |what| Error::Corrupt { digest: self.digest, what };
        let Reserved { ref file, bytes, .. } = *self.file.shared;
        let written_bytes = self.file.written_bytes().min(self.seen.len_bytes());
        if written_bytes != bytes {
            return Err(corrupt(format!("{written_bytes} bytes instead of {bytes}")));
        }
        let found = self.seen.finish();
        if found != self.digest {
            return Err(corrupt(format!("they have the digest {found}")));
        }
        // Not synced, which would halve the speed: a cached file can be had again, and every reader
        // checks what it uses.
        let tier = &self.private.tier;
        let path = tier.cache_path(self.digest);
        tier.change(|taken| {
            // What is there already was cut short, or nobody would have come so far.
            let replaced_bytes = files::length(&path)?.unwrap_or(0);
            fs::rename(&self.private.path, &path).map_err(Error::at("name", &path))?;
            taken.give_back(Part::Cached, replaced_bytes);
            taken.cache_changed();
            Ok(())
        })?;
        let mapped = CachedFile::map(self.digest, file).map_err(Error::at("map", &path));
        self.private.is_named = true;
        mapped
    }
}

impl LandingFile {
    fn new(digest: Digest, file: File, bytes: u64) -> Self {
        let written_bytes = AtomicU64::new(0);
        let shared = Reserved { digest, file, bytes, written_bytes };
        Self { shared: Arc::new(shared) }
    }

    fn written_bytes(&self) -> u64 {
        self.shared.written_bytes.load(Ordering::Acquire)
    }

    /// Writes `bytes` at `offset`. Every byte of the file is to be written once.
    ///
    /// # Errors
    /// When they cannot be written, or lie beyond what was reserved.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let Reserved { digest, ref file, bytes: reserved_bytes, ref written_bytes } = *self.shared;
        let length = bytes.len() as u64;
        if offset.checked_add(length).is_none_or(|end| end > reserved_bytes) {
            let overrun = Error::Overrun { object: digest.to_string(), reserved_bytes };
            return Err(io::Error::new(io::ErrorKind::InvalidData, overrun));
        }
        file.write_all_at(bytes, offset)?;
        written_bytes.fetch_add(length, Ordering::AcqRel);
        Ok(())
    }
}

impl Write for Landing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_at(self.seen.len_bytes(), bytes)?;
        self.seen.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Spool {
    /// Where its bytes are written.
    #[must_use]
    pub fn file(&self) -> LandingFile {
        self.file.clone()
    }

    /// Maps the whole of it.
    ///
    /// # Errors
    /// When it cannot be mapped.
    pub fn map(self) -> Result<Spooled, Error> {
        let map = match self.private.bytes {
            0 => None,
            _ => {
                // SAFETY: a mapping is sound as long as nobody shortens the file under it, and its
                // bytes stay as they are while it is read. The file has a name that no other
                // process uses, nobody shortens it, and who made it has written it by now.
                let map = unsafe { Mmap::map(&self.file.shared.file) };
                Some(map.map_err(Error::at("map", &self.private.path))?)
            }
        };
        Ok(Spooled { map, _private: self.private })
    }
}

impl Deref for Spooled {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.map.as_deref().unwrap_or_default()
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        if self.is_named || self.tier.is_forked() {
            return;
        }
        // Not wanted; what cannot be removed goes at the next open.
        let _gone = self.tier.change(|taken| {
            if files::remove(&self.path)? {
                taken.give_back(Part::Cached, self.bytes);
            }
            Ok(())
        });
    }
}
