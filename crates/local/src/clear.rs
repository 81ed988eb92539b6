//! Clearing: the tier is emptied for the next job, and nothing is lost.

use std::{fs, io::ErrorKind, time::Duration};

use crate::{
    Error, LocalTier, files,
    tier::{FOLDERS, LOCKS, TAKING},
};

/// Names that an error lists at most.
const NAMES_MAX: usize = 10;

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cleared {
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl LocalTier {
    /// Empties the tier.
    ///
    /// # Errors
    /// [`Error::Undrained`] while anything staged has not reached the lake, [`Error::InUse`] while
    /// a live process lands, stages or works; then nothing is removed.
    pub fn clear(&self) -> Result<Cleared, Error> {
        let lock = self.lock_space()?;
        self.make_folders()?;
        self.require_drained()?;
        self.require_idle()?;
        self.remove_staged_memory(Duration::ZERO)?;
        self.recover_memory()?;
        self.forget_ledger(&lock)?;
        let mut cleared = Cleared::default();
        for name in TAKING {
            files::walk(&self.folder(name), &mut |_, bytes| {
                cleared.files += 1;
                cleared.bytes += bytes;
            })?;
        }
        // The locks go last: they mark the directory as a tier until nothing else is in it.
        for name in FOLDERS.into_iter().rev() {
            let path = self.folder(name);
            match fs::remove_dir_all(&path) {
                // Somebody who waited for a lock made it anew, and uses an empty tier.
                Err(error) if name == LOCKS && error.kind() == ErrorKind::DirectoryNotEmpty => {}
                result => result.map_err(Error::at("remove", &path))?,
            }
        }
        drop(lock);
        Ok(cleared)
    }

    fn require_drained(&self) -> Result<(), Error> {
        let staged = self.staged()?.into_iter().map(|staged| staged.name);
        let undrained: Vec<_> = staged.chain(self.kept_memory()?).collect();
        if undrained.is_empty() {
            return Ok(());
        }
        let names = undrained.iter().take(NAMES_MAX).map(ToString::to_string).collect();
        Err(Error::Undrained { directory: self.directory().into(), names, count: undrained.len() })
    }

    fn require_idle(&self) -> Result<(), Error> {
        let owners = files::entries(&self.folder("scratch"))?;
        let owners = owners.into_iter().map(|path| path.join(crate::scratch::OWNER));
        let owned = self.on_their_way()?.into_iter().chain(self.memory_files()?).chain(owners);
        match owned.into_iter().find(|path| files::is_locked(path)) {
            Some(path) => Err(Error::InUse { directory: self.directory().into(), path }),
            None => Ok(()),
        }
    }
}
