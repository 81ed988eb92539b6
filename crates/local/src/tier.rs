//! The handle of a node's directory.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use forebay_runtime::Runtime;

use crate::{
    Error, files,
    ledger::{self, Ledger},
};

/// One node's directory. Cloning is cheap and gives the same tier.
#[derive(Clone)]
pub struct LocalTier {
    shared: Arc<Shared>,
}

struct Shared {
    directory: PathBuf,
    budget_bytes: u64,
    runtime: Runtime,
    /// What names this boot of the machine.
    boot: Option<[u8; 16]>,
    /// The process that opened it.
    process: u32,
}

/// The directory that marks another as a local tier: made first, removed last.
pub(crate) const LOCKS: &str = "locks";
/// What a tier is made of, in the order in which it is made.
pub(crate) const FOLDERS: [&str; 6] = [LOCKS, "cache", "landing", "staging", "scratch", "asks"];
/// Those whose files take space.
pub(crate) const TAKING: [&str; 4] = ["cache", "landing", "staging", "scratch"];
/// What a file system puts into its own root.
const LOST_AND_FOUND: &str = "lost+found";

impl LocalTier {
    /// Opens `directory` (made if its parent exists) and removes what dead processes left.
    ///
    /// # Errors
    /// [`Error::Budget`] for a budget of nothing, [`Error::Foreign`] when the directory holds
    /// something else, [`Error::File`] when it cannot be written.
    pub fn open(directory: &Path, budget_bytes: u64, runtime: &Runtime) -> Result<Self, Error> {
        if budget_bytes == 0 {
            return Err(Error::Budget(budget_bytes));
        }
        files::make_directory(directory)?;
        let directory = directory.canonicalize().map_err(Error::at("open", directory))?;
        let (boot, process) = (ledger::boot(), forebay_runtime::process_id());
        let shared = Shared { directory, budget_bytes, runtime: runtime.clone(), boot, process };
        let tier = Self { shared: Arc::new(shared) };
        tier.refuse_foreign()?;
        // Whoever makes a file on its way holds this lock until the file's own is held.
        let lock = tier.lock_space()?;
        tier.make_folders()?;
        tier.ledger(&lock)?.recover()?;
        tier.recover_memory()?;
        drop(lock);
        Ok(tier)
    }

    /// A mistyped path must not make somebody's files ours to remove.
    fn refuse_foreign(&self) -> Result<(), Error> {
        let directory = self.directory();
        let found = files::entries(directory)?;
        let found = found.into_iter().find(|path| !path.ends_with(LOST_AND_FOUND));
        match found {
            // Asked after the entries were read: another process may be opening it too.
            Some(path) if !self.folder(LOCKS).is_dir() => {
                Err(Error::Foreign { directory: directory.into(), path })
            }
            _ => Ok(()),
        }
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

    pub(crate) fn boot(&self) -> Option<[u8; 16]> {
        self.shared.boot
    }

    /// Whether this process is a fork of the one that opened the tier: what that one has under way
    /// is not ours to remove.
    pub(crate) fn is_forked(&self) -> bool {
        self.shared.process != forebay_runtime::process_id()
    }

    pub(crate) fn runtime(&self) -> &Runtime {
        &self.shared.runtime
    }

    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        self.shared.directory.join(name)
    }

    /// Another process may have cleared the tier since it was opened.
    pub(crate) fn make_folders(&self) -> Result<(), Error> {
        let mut folders = FOLDERS.iter().map(|name| self.folder(name));
        // Asked before it is tried: they are there nearly always, and asking is cheaper.
        folders
            .try_for_each(|path| if path.is_dir() { Ok(()) } else { files::make_directory(&path) })
    }

    /// Files on their way into the cache or into staging.
    pub(crate) fn on_their_way(&self) -> Result<Vec<PathBuf>, Error> {
        let mut found = files::entries(&self.folder("landing"))?;
        let staging = files::entries(&self.folder("staging"))?;
        found.extend(staging.into_iter().filter(|path| is_hidden(path)));
        Ok(found)
    }
}

impl Ledger<'_> {
    /// Removes files on their way and scratch whose owner is dead; says whether there were any.
    pub(crate) fn recover(&mut self) -> Result<bool, Error> {
        let tier = self.tier();
        let mut dead = tier.on_their_way()?;
        dead.retain(|path| !files::is_locked(path));
        let mut dead_scratch = files::entries(&tier.folder("scratch"))?;
        dead_scratch.retain(|path| !files::is_locked(&path.join(crate::scratch::OWNER)));
        if dead.is_empty() && dead_scratch.is_empty() {
            return Ok(false);
        }
        self.act(|taken| {
            // Nobody can say what a dead owner had noted of them.
            taken.doubt();
            dead.iter().try_for_each(|path| files::remove(path).map(drop))?;
            dead_scratch
                .iter()
                .try_for_each(|path| fs::remove_dir_all(path).map_err(Error::at("remove", path)))
        })?;
        self.recount()?;
        Ok(true)
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
