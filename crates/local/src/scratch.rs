//! Scratch: working space of one process, gone with it.
//!
//! The reservation is the length of a sparse file inside; what the owner writes beside it is its
//! own affair, and stays within what it reserved.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use forebay_types::Name;

use crate::{Error, LocalTier, files, ledger::Part, space};

/// The file that is locked by the owner, and whose length is the reservation.
pub(crate) const OWNER: &str = ".owner";

/// A directory to work in; removed on drop, or when its owner is dead.
#[derive(Debug)]
pub struct Scratch {
    tier: LocalTier,
    path: PathBuf,
    owner: File,
}

impl LocalTier {
    /// A new directory to work in, with nothing reserved yet.
    ///
    /// # Errors
    /// When `name` is no [`Name`], or the directory cannot be made.
    pub fn scratch(&self, name: &str) -> Result<Scratch, Error> {
        let name = Name::new(name).map_err(Error::Scratch)?;
        let path = self.folder("scratch").join(format!("{name}-{}", self.runtime().nonce()));
        // The lock keeps a process that opens the tier from taking it for a leftover.
        let lock = self.lock_space()?;
        self.make_folders()?;
        let owner = self.ledger(&lock)?.act(|_| {
            files::make_directory(&path)?;
            files::create_locked(&path.join(OWNER))
        })?;
        Ok(Scratch { tier: self.clone(), path, owner })
    }

    pub(crate) fn scratch_bytes(&self) -> Result<u64, Error> {
        let each = files::entries(&self.folder("scratch"))?;
        Ok(each
            .iter()
            .filter_map(|path| fs::metadata(path.join(OWNER)).ok())
            .map(|m| m.len())
            .sum())
    }
}

impl Scratch {
    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reserves `bytes` more.
    ///
    /// # Errors
    /// [`Error::Full`] when the budget has no room for them.
    pub fn reserve(&self, bytes: u64) -> Result<(), Error> {
        let path = self.path.join(OWNER);
        self.tier.reserve("scratch", Part::Scratch, bytes, || {
            let held = self.owner.metadata().map_err(Error::at("look at", &path))?.len();
            space::note(&self.owner, &path, held.saturating_add(bytes))
        })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.tier.is_forked() {
            return;
        }
        // What cannot be removed goes at the next open.
        let _gone = self.tier.change(|taken| {
            let path = self.path.join(OWNER);
            let held = self.owner.metadata().map_err(Error::at("look at", &path))?.len();
            fs::remove_dir_all(&self.path).map_err(Error::at("remove", &self.path))?;
            taken.give_back(Part::Scratch, held);
            Ok(())
        });
    }
}
