//! The handle of a node's directory.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use forebay_runtime::Runtime;

use crate::{Error, files};

/// One node's directory. Cloning is cheap and gives the same tier.
#[derive(Clone)]
pub struct LocalTier {
    shared: Arc<Shared>,
}

struct Shared {
    directory: PathBuf,
    budget_bytes: u64,
    runtime: Runtime,
}

/// What a tier is made of, besides files on their way.
pub(crate) const FOLDERS: [&str; 5] = ["cache", "landing", "staging", "scratch", "locks"];

impl LocalTier {
    /// Opens `directory` (made if its parent exists) and removes what dead processes left.
    ///
    /// # Errors
    /// [`Error::Budget`] for a budget of nothing, [`Error::File`] when it cannot be written.
    pub fn open(directory: &Path, budget_bytes: u64, runtime: &Runtime) -> Result<Self, Error> {
        if budget_bytes == 0 {
            return Err(Error::Budget(budget_bytes));
        }
        files::make_directory(directory)?;
        let directory = directory.canonicalize().map_err(Error::at("open", directory))?;
        let shared = Shared { directory, budget_bytes, runtime: runtime.clone() };
        let tier = Self { shared: Arc::new(shared) };
        tier.make_folders()?;
        tier.recover()?;
        Ok(tier)
    }

    /// The directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.shared.directory
    }

    /// The most it may hold.
    #[must_use]
    pub fn budget_bytes(&self) -> u64 {
        self.shared.budget_bytes
    }

    pub(crate) fn runtime(&self) -> &Runtime {
        &self.shared.runtime
    }

    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        self.shared.directory.join(name)
    }

    /// Another process may have cleared the tier since it was opened.
    pub(crate) fn make_folders(&self) -> Result<(), Error> {
        FOLDERS.iter().try_for_each(|name| files::make_directory(&self.folder(name)))
    }

    /// Removes files on their way and scratch whose owner is dead.
    fn recover(&self) -> Result<(), Error> {
        // Whoever makes such a file holds this lock until its own is held.
        let _lock = self.lock_space()?;
        for path in self.on_their_way()? {
            if !files::is_locked(&path) {
                files::remove(&path)?;
            }
        }
        for path in files::entries(&self.folder("scratch"))? {
            if !files::is_locked(&path.join(crate::scratch::OWNER)) {
                fs::remove_dir_all(&path).map_err(Error::at("remove", &path))?;
            }
        }
        Ok(())
    }

    /// Files on their way into the cache or into staging.
    pub(crate) fn on_their_way(&self) -> Result<Vec<PathBuf>, Error> {
        let mut found = files::entries(&self.folder("landing"))?;
        let staging = files::entries(&self.folder("staging"))?;
        found.extend(staging.into_iter().filter(|path| is_hidden(path)));
        Ok(found)
    }
}

/// Names that start with a dot belong to nobody but their writer: no key has one.
pub(crate) fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

impl fmt::Debug for LocalTier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shared { directory, budget_bytes, .. } = &*self.shared;
        formatter
            .debug_struct("LocalTier")
            .field("directory", directory)
            .field("budget_bytes", budget_bytes)
            .finish_non_exhaustive()
    }
}
