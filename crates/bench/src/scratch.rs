//! A directory for the files of one workload, removed when it ends.

use std::path::Path;

/// A private directory.
#[derive(Debug)]
pub struct Scratch(tempfile::TempDir);

impl Scratch {
    /// An empty one, below `FOREBAY_BENCH_DIRECTORY` or the system's temporary directory.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn new() -> Self {
        let directory = std::env::var_os("FOREBAY_BENCH_DIRECTORY");
        let made = match &directory {
            Some(directory) => tempfile::tempdir_in(directory),
            None => tempfile::tempdir(),
        };
        Self(made.expect("a directory for the workload's files"))
    }

    /// Where it lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}
