//! Asking a process of this node for something: a file that it finds, and removes when it does.
//!
//! It costs whoever may be asked one call of the system to look. Of several that answer to one name,
//! one is told.
//!
//! # After a crash
//! A question that nobody answered. Who begins to answer to a name forgets what was asked before.

use std::{fs::OpenOptions, os::unix::fs::OpenOptionsExt, path::PathBuf};

use forebay_types::Name;

use crate::{Error, LocalTier, files};

impl LocalTier {
    fn ask_path(&self, name: &Name) -> PathBuf {
        self.folder("asks").join(name.as_str())
    }

    /// Asks whoever answers to `name`. Asking again before somebody does changes nothing.
    ///
    /// # Errors
    /// When the directory cannot be written.
    pub fn ask(&self, name: &Name) -> Result<(), Error> {
        let path = self.ask_path(name);
        let _lock = self.lock_space()?;
        self.make_folders()?;
        let mut options = OpenOptions::new();
        let made = options.write(true).create(true).truncate(true).mode(0o600).open(&path);
        made.map(drop).map_err(Error::at("create", &path))
    }

    /// Whether `name` was asked, and not told of it yet.
    ///
    /// # Errors
    /// When the directory cannot be written.
    pub fn take_ask(&self, name: &Name) -> Result<bool, Error> {
        files::remove(&self.ask_path(name))
    }
}
