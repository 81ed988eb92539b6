//! Reserving space, and how much is taken.
//!
//! A reservation *is* a file of the reserved length, made while `locks/space` is held. Whoever
//! looks at the directory sees it, and it goes when the file goes; so a crash can leave a
//! leftover, never a wrong sum. The `ledger` saves looking.

use std::{fs::File, path::Path};

use rustix::{fs::FallocateFlags, io::Errno};

use crate::{
    Error, LocalTier, files,
    ledger::{Ledger, Part, Taken},
    tier::LOCKS,
};

/// How the budget is used, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// The most the tier may hold.
    pub budget_bytes: u64,
    /// Cached files and those on their way into the cache.
    pub cached_bytes: u64,
    /// Staged files and those on their way into staging.
    pub staged_bytes: u64,
    /// Working space of live processes.
    pub scratch_bytes: u64,
}

impl Usage {
    /// All that is taken.
    #[must_use]
    pub const fn used_bytes(&self) -> u64 {
        self.cached_bytes + self.staged_bytes + self.scratch_bytes
    }
}

impl LocalTier {
    /// How the budget is used now, crash leftovers included.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn usage(&self) -> Result<Usage, Error> {
        // A cleared tier: to take its lock would be to begin it anew, only to say that it is empty.
        if !self.folder(LOCKS).is_dir() {
            return Ok(Usage { budget_bytes: self.budget_bytes(), ..Usage::default() });
        }
        let lock = self.lock_space()?;
        Ok(self.ledger(&lock)?.usage())
    }

    /// A number that grows with every file that gets its name in the cache or loses it, whichever
    /// process does it, and jumps when that was not counted.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn cache_changes(&self) -> Result<u64, Error> {
        let lock = self.lock_space()?;
        Ok(self.ledger(&lock)?.changes())
    }

    /// Calls `make` with the space lock held, if `bytes` more fit into the budget.
    pub(crate) fn reserve<T>(
        &self,
        object: &str,
        part: Part,
        bytes: u64,
        make: impl FnOnce() -> Result<T, Error>,
    ) -> Result<T, Error> {
        let lock = self.lock_space()?;
        self.make_folders()?;
        let budget_bytes = self.budget_bytes();
        let mut ledger = self.ledger(&lock)?;
        let full =
            |ledger: &Ledger<'_>| ledger.usage().used_bytes().saturating_add(bytes) > budget_bytes;
        // Another process may have died since this one opened the tier.
        if full(&ledger) && !ledger.recover()? && ledger.is_due() {
            ledger.recount()?;
        }
        if full(&ledger) {
            let (object, used_bytes) = (object.to_owned(), ledger.usage().used_bytes());
            return Err(Error::Full { object, needed_bytes: bytes, used_bytes, budget_bytes });
        }
        ledger.act(|taken| {
            let made = make()?;
            taken.add(part, bytes);
            Ok(made)
        })
    }

    /// Does `act` with the space lock held, in the ledger.
    pub(crate) fn change<T>(
        &self,
        act: impl FnOnce(&mut Taken) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let lock = self.lock_space()?;
        self.ledger(&lock)?.act(act)
    }

    /// Whoever holds this may make, name, remove and sum up files; everybody else waits.
    pub(crate) fn lock_space(&self) -> Result<SpaceLock, Error> {
        Ok(SpaceLock { _lock: files::lock(&self.folder("locks"), "space")? })
    }
}

/// Proof that this process alone changes what is taken. Dies with it.
#[derive(Debug)]
pub(crate) struct SpaceLock {
    _lock: files::Lock,
}

/// Makes a file on its way, locked, of its whole length. If that fails nothing is left.
pub(crate) fn make(path: &Path, bytes: u64) -> Result<File, Error> {
    let file = files::create_locked(path)?;
    match allocate(&file, path, bytes) {
        Ok(()) => Ok(file),
        Err(error) => {
            files::remove(path)?;
            Err(error)
        }
    }
}

/// Gives `file` its whole length and its place on the disk at once: the ledger counts it from now
/// on, and a full disk is met here and not in the middle of a file.
fn allocate(file: &File, path: &Path, bytes: u64) -> Result<(), Error> {
    if bytes == 0 {
        return Ok(());
    }
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes) {
        // Not every file system can; then the length alone is given.
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => note(file, path, bytes),
        result => result.map_err(|error| Error::at("reserve space for", path)(error.into())),
    }
}

/// Gives `file` a length without a place on the disk: a number that the ledger counts.
pub(crate) fn note(file: &File, path: &Path, bytes: u64) -> Result<(), Error> {
    file.set_len(bytes).map_err(Error::at("reserve space for", path))
}
