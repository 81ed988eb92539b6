//! Tiers for one test.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use forebay_lake::{Directory, Lake};
use forebay_local::LocalTier;
use forebay_runtime::Runtime;
use forebay_transfer::Transfer;

use crate::FaultStore;

/// A directory lake that can fail and a local tier, both removed with this value.
pub struct TempTiers {
    folder: Folder,
    budget_bytes: u64,
    /// The clock and threads of both.
    pub runtime: Runtime,
    /// The lake's store, through which faults are asked for.
    pub store: Arc<FaultStore>,
    /// The lake.
    pub lake: Lake,
    /// The local tier.
    pub local: LocalTier,
}

/// What goes with the tiers: their directory, and what was kept in memory for the local one.
struct Folder {
    directory: tempfile::TempDir,
    memory: PathBuf,
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _nothing_kept = std::fs::remove_dir_all(&self.memory);
    }
}

impl TempTiers {
    /// Fresh tiers with room for `budget_bytes` on the node.
    ///
    /// # Panics
    /// When no temporary directory can be made.
    #[must_use]
    pub fn new(budget_bytes: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let runtime = Runtime::system();
        let directory = Directory::open(&folder.path().join("lake"), &runtime).unwrap();
        let store = Arc::new(FaultStore::new(Arc::new(directory)));
        let lake = Lake::new(store.clone(), &runtime);
        let local = LocalTier::open(&folder.path().join("local"), budget_bytes, &runtime).unwrap();
        let folder = Folder { directory: folder, memory: local.memory_folder() };
        Self { folder, budget_bytes, runtime, store, lake, local }
    }

    /// Both tiers joined.
    #[must_use]
    pub fn transfer(&self) -> Transfer {
        Transfer::new(&self.lake, &self.local, &self.runtime)
    }

    /// Opens both directories anew, as another process would: nothing in memory is shared.
    ///
    /// # Panics
    /// When they cannot be opened.
    #[must_use]
    pub fn reopen(self) -> Self {
        let directory = Directory::open(&self.lake_path(), &self.runtime).unwrap();
        let store = Arc::new(FaultStore::new(Arc::new(directory)));
        let lake = Lake::new(store.clone(), &self.runtime);
        let path = self.local_path();
        let Self { folder, budget_bytes, runtime, local, .. } = self;
        drop(local);
        let local = LocalTier::open(&path, budget_bytes, &runtime).unwrap();
        Self { folder, budget_bytes, runtime, store, lake, local }
    }

    /// The directory of both.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.directory.path()
    }

    /// The lake's directory.
    #[must_use]
    pub fn lake_path(&self) -> PathBuf {
        self.path().join("lake")
    }

    /// The local tier's directory.
    #[must_use]
    pub fn local_path(&self) -> PathBuf {
        self.path().join("local")
    }
}
