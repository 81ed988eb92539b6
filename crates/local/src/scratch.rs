//! Scratch: working space of one process, gone with it.
//!
//! The reservation is the length of a sparse file inside; what the owner writes beside it is its
//! own affair, and stays within what it reserved.

use std::{
    fs::{self, File},
    ops::Deref,
    path::{Path, PathBuf},
};

use forebay_types::Name;
use memmap2::Mmap;

use crate::{Error, LocalTier, files, space};

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
        let _lock = self.lock_space()?;
        self.make_folders()?;
        files::make_directory(&path)?;
        let owner = files::create_locked(&path.join(OWNER))?;
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
        self.tier.reserve("scratch", bytes, || {
            let held = self.owner.metadata().map_err(Error::at("look at", &path))?.len();
            space::note(&self.owner, &path, held.saturating_add(bytes))
        })
    }
}

/// A finished file of a scratch directory, mapped into memory.
#[derive(Debug)]
pub struct ScratchFile {
    /// `None` for an empty file, which cannot be mapped.
    map: Option<Mmap>,
}

impl Scratch {
    /// Maps the file `name`, which nobody writes any more.
    ///
    /// # Errors
    /// When there is none, or it cannot be mapped.
    pub fn map(&self, name: &Name) -> Result<ScratchFile, Error> {
        let path = self.path.join(name.as_str());
        let map = || {
            let file = File::open(&path)?;
            Ok(match file.metadata()?.len() {
                0 => None,
                // SAFETY: a mapping is sound as long as nobody shortens or changes the file under
                // it. The directory is this process's own, under a name no other process uses, and
                // its owner says that the file is finished.
                _ => Some(unsafe { Mmap::map(&file)? }),
            })
        };
        map().map(|map| ScratchFile { map }).map_err(Error::at("map", &path))
    }
}

impl Deref for ScratchFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.map.as_deref().unwrap_or_default()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed goes at the next open.
        let _gone = fs::remove_dir_all(&self.path);
    }
}
