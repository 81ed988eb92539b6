//! Files that are private, locked by their owner, and synced where it matters.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use crate::Error;

/// Makes a directory for its owner alone, if it is not there.
pub(crate) fn make_directory(path: &Path) -> Result<(), Error> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        result => result.map_err(Error::at("make the directory", path)),
    }
}

/// Makes `path` and the directories above it that are missing below `root`; syncs each.
pub(crate) fn make_directories(root: &Path, path: &Path) -> Result<(), Error> {
    if path == root || path.is_dir() {
        return Ok(());
    }
    let above = path.parent().unwrap_or(root);
    make_directories(root, above)?;
    make_directory(path)?;
    sync_directory(above)
}

pub(crate) fn sync_directory(path: &Path) -> Result<(), Error> {
    let sync = || File::open(path)?.sync_all();
    sync().map_err(Error::at("sync", path))
}

/// A new file for its owner alone, locked until it is closed.
pub(crate) fn create_locked(path: &Path) -> Result<File, Error> {
    let create = || {
        let file =
            OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
        file.lock()?;
        Ok(file)
    };
    create().map_err(Error::at("create", path))
}

/// A lock that is held until this value is dropped, or its process dies.
#[derive(Debug)]
pub(crate) struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing the file would do, unless a child was forked meanwhile: it has the file open too.
        let _closed = self.0.unlock();
    }
}

/// Opens or makes a lock file and waits for its lock.
///
/// The file may be removed while we wait (the tier was cleared); a lock on a file without a name
/// excludes nobody, so it is taken again on the one that has the name.
pub(crate) fn lock(folder: &Path, name: &str) -> Result<Lock, Error> {
    let path = folder.join(name);
    loop {
        make_directory(folder)?;
        match lock_once(&path) {
            Ok(Some(file)) => return Ok(Lock(file)),
            Ok(None) => {}
            // Cleared between the two lines above.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !folder.is_dir() => {}
            Err(error) => return Err(Error::at("lock", &path)(error)),
        }
    }
}

/// `None` when the file lost its name while its lock was waited for.
fn lock_once(path: &Path) -> io::Result<Option<File>> {
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(false).mode(0o600).open(path)?;
    file.lock()?;
    let (ours, named) = (file.metadata()?, fs::metadata(path));
    let same = named.is_ok_and(|named| (named.dev(), named.ino()) == (ours.dev(), ours.ino()));
    Ok(same.then_some(file))
}

/// Whether a live process holds the lock of `path`.
pub(crate) fn is_locked(path: &Path) -> bool {
    File::open(path)
        .is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

/// The entries of a directory; none if it is not there.
pub(crate) fn entries(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let read = || fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>();
    match read() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        result => result.map_err(Error::at("list", folder)),
    }
}

/// Calls `visit` with every file below `folder` and its length.
pub(crate) fn walk(folder: &Path, visit: &mut dyn FnMut(&Path, u64)) -> Result<(), Error> {
    for path in entries(folder)? {
        match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_dir() => walk(&path, visit)?,
            Ok(metadata) => visit(&path, metadata.len()),
            // Another process was quicker to remove it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::at("look at", &path)(error)),
        }
    }
    Ok(())
}

/// The length of a file; nothing if there is none.
pub(crate) fn length(path: &Path) -> Result<Option<u64>, Error> {
    match fs::symlink_metadata(path) {
        Ok(metadata) => Ok(Some(metadata.len())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::at("look at", path)(error)),
    }
}

/// Removes a file that may be gone already; says whether it was there.
pub(crate) fn remove(path: &Path) -> Result<bool, Error> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::at("remove", path)(error)),
    }
}
