//! The embedded engine: a directory.
//!
//! ```text
//! <root>/.incoming/<nonce>      objects on their way; keys never start with a dot, so no key
//!                               can name one
//! <root>/<key>                  objects
//! ```
//!
//! An object is written to a private file, synced, and only then given its key: by `rename` for
//! immutable payload, by a hard link for a create, which fails if the key is taken. The directories
//! on the way are synced too, so what was reported is there after a power failure.
//!
//! # After a crash
//! Private files of a dead process, which no key can name. The next open removes those older than
//! [`LEFTOVER_AGE`] whose owner is gone: a writer holds a lock on its file that dies with it.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{Duration, UNIX_EPOCH},
};

use forebay_runtime::Runtime;
use forebay_types::Key;

use crate::{Created, Error, Listed, ObjectWriter, Store};

const INCOMING: &str = ".incoming";

/// How old an abandoned private file is when it is removed.
pub const LEFTOVER_AGE: Duration = Duration::from_secs(3600);

/// What to do about a root that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Absent {
    Make,
    Refuse,
}

/// A directory that holds objects.
#[derive(Debug)]
pub struct Directory {
    root: PathBuf,
    url: String,
    runtime: Runtime,
}

impl Directory {
    /// Opens `root`, and makes it if its parent exists.
    ///
    /// # Errors
    /// [`Error::Root`] when it is no directory that can be read.
    pub fn open(root: &Path, runtime: &Runtime) -> Result<Self, Error> {
        Self::open_or(root, Absent::Make, runtime)
    }

    pub(crate) fn open_or(root: &Path, absent: Absent, runtime: &Runtime) -> Result<Self, Error> {
        let at = |source| Error::Root { path: root.to_owned(), source };
        if absent == Absent::Make {
            match make_directory(root) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists && !root.is_dir() => {
                    return Err(at(error));
                }
                _ => {}
            }
        }
        let root = root.canonicalize().map_err(at)?;
        if !root.is_dir() {
            return Err(at(io::Error::from(io::ErrorKind::NotADirectory)));
        }
        let url = format!("file://{}", root.display());
        let store = Self { root, url, runtime: runtime.clone() };
        store.sweep();
        Ok(store)
    }

    fn path(&self, key: &Key) -> PathBuf {
        self.root.join(key.as_str())
    }

    fn failed(&self, act: &'static str, key: &Key) -> impl Fn(io::Error) -> Error {
        let (key, place) = (key.clone(), self.path(key).display().to_string());
        move |source| Error::Object { act, key: key.clone(), place: place.clone(), source }
    }

    /// A private file, locked as long as its writer lives.
    fn incoming(&self) -> io::Result<(PathBuf, File)> {
        let folder = self.root.join(INCOMING);
        match make_directory(&folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let path = folder.join(self.runtime.nonce().to_string());
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        file.lock()?;
        Ok((path, file))
    }

    /// Makes the directories above `path` that are missing, and syncs those that got a new entry.
    fn make_parents(&self, path: &Path) -> io::Result<()> {
        let Some(parent) = path.parent() else { return Ok(()) };
        let mut missing = Vec::new();
        let mut above = parent;
        while above != self.root && !above.is_dir() {
            missing.push(above);
            above = above.parent().unwrap_or(&self.root);
        }
        for folder in missing.into_iter().rev() {
            match make_directory(folder) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => sync_directory(folder.parent().unwrap_or(&self.root))?,
            }
        }
        Ok(())
    }

    /// Removes what dead writers left. A leftover that cannot be removed costs space alone.
    fn sweep(&self) {
        let Ok(entries) = fs::read_dir(self.root.join(INCOMING)) else { return };
        let now = Duration::from_millis(self.runtime.now().unix_ms());
        for entry in entries.flatten() {
            let old = entry
                .metadata()
                .and_then(|metadata| metadata.modified())
                .ok()
                .and_then(|modified| modified.duration_since(UNIX_EPOCH).ok())
                .is_some_and(|modified| now.saturating_sub(modified) > LEFTOVER_AGE);
            if old && is_abandoned(&entry.path()) {
                let _kept = fs::remove_file(entry.path());
            }
        }
    }
}

/// Whether no process holds the file's lock.
fn is_abandoned(path: &Path) -> bool {
    let Ok(file) = File::open(path) else { return false };
    !matches!(file.try_lock(), Err(TryLockError::WouldBlock))
}

fn make_directory(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o700).create(path)
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

impl Store for Directory {
    fn url(&self) -> &str {
        &self.url
    }

    fn size(&self, key: &Key) -> Result<Option<u64>, Error> {
        match fs::metadata(self.path(key)) {
            Ok(metadata) if metadata.is_file() => Ok(Some(metadata.len())),
            Ok(_) => Ok(None),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(self.failed("look for", key)(error)),
        }
    }

    fn read_range(&self, key: &Key, offset: u64, into: &mut [u8]) -> Result<(), Error> {
        let failed = self.failed("read", key);
        let file = File::open(self.path(key)).map_err(&failed)?;
        match file.read_exact_at(into, offset) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                let length = file.metadata().map_err(&failed)?.len();
                Err(Error::Truncated {
                    key: key.clone(),
                    wanted: offset + into.len() as u64,
                    length,
                })
            }
            result => result.map_err(failed),
        }
    }

    fn writer(&self, key: &Key) -> Result<Box<dyn ObjectWriter>, Error> {
        let (temporary, file) = self.incoming().map_err(self.failed("write", key))?;
        let store =
            Self { root: self.root.clone(), url: self.url.clone(), runtime: self.runtime.clone() };
        Ok(Box::new(Incoming { store, key: key.clone(), temporary, file }))
    }

    fn create(&self, key: &Key, body: &[u8]) -> Result<Created, Error> {
        let failed = self.failed("create", key);
        let (temporary, file) = self.incoming().map_err(&failed)?;
        let mut incoming = Incoming { store: self.share(), key: key.clone(), temporary, file };
        incoming.write_all(body).map_err(&failed)?;
        incoming.file.sync_all().map_err(&failed)?;
        let path = self.path(key);
        self.make_parents(&path).map_err(&failed)?;
        match fs::hard_link(&incoming.temporary, &path) {
            Ok(()) => {
                sync_parent(&path).map_err(failed)?;
                Ok(Created::New)
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(Created::Exists),
            Err(error) => Err(failed(error)),
        }
    }

    fn list(
        &self,
        prefix: &str,
        visit: &mut dyn FnMut(Listed) -> Result<(), Error>,
    ) -> Result<(), Error> {
        // Only the directory that every match lies in is walked.
        let above = prefix.rsplit_once('/').map_or("", |(above, _)| above);
        let mut folders = vec![self.root.join(above)];
        while let Some(folder) = folders.pop() {
            self.list_folder(&folder, &mut folders, prefix, visit)?;
        }
        Ok(())
    }

    fn delete(&self, key: &Key) -> Result<bool, Error> {
        let path = self.path(key);
        match fs::remove_file(&path) {
            Ok(()) => {
                sync_parent(&path).map_err(self.failed("delete", key))?;
                Ok(true)
            }
            Err(error) if is_absent(&error) => Ok(false),
            Err(error) => Err(self.failed("delete", key)(error)),
        }
    }
}

impl Directory {
    fn share(&self) -> Self {
        Self { root: self.root.clone(), url: self.url.clone(), runtime: self.runtime.clone() }
    }

    fn list_folder(
        &self,
        folder: &Path,
        folders: &mut Vec<PathBuf>,
        prefix: &str,
        visit: &mut dyn FnMut(Listed) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let failed = |source| Error::Root { path: folder.to_owned(), source };
        let entries = match fs::read_dir(folder) {
            Err(error) if is_absent(&error) => return Ok(()),
            entries => entries.map_err(failed)?,
        };
        for entry in entries {
            let entry = entry.map_err(failed)?;
            let Ok(kind) = entry.file_type() else { continue };
            let path = entry.path();
            let relative = path.strip_prefix(&self.root).ok().and_then(Path::to_str);
            // What has no sound key is not an object: private files, foreign files.
            let Some(key) = relative.and_then(|text| Key::new(text).ok()) else { continue };
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() && key.as_str().starts_with(prefix) {
                let Ok(metadata) = entry.metadata() else { continue };
                let modified_unix_ms = u64::try_from(metadata.mtime()).unwrap_or(0) * 1000
                    + u64::try_from(metadata.mtime_nsec()).unwrap_or(0) / 1_000_000;
                visit(Listed { key, bytes: metadata.len(), modified_unix_ms })?;
            }
        }
        Ok(())
    }
}

/// `a/b` is absent too where `a` is an object.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn sync_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), sync_directory)
}

/// A private file that becomes an object when it is finished, and is removed otherwise.
struct Incoming {
    store: Directory,
    key: Key,
    temporary: PathBuf,
    file: File,
}

impl Write for Incoming {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl ObjectWriter for Incoming {
    fn finish(self: Box<Self>) -> Result<(), Error> {
        let failed = self.store.failed("write", &self.key);
        self.file.sync_all().map_err(&failed)?;
        let path = self.store.path(&self.key);
        self.store.make_parents(&path).map_err(&failed)?;
        fs::rename(&self.temporary, &path).map_err(&failed)?;
        sync_parent(&path).map_err(failed)
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        // Already renamed, or not wanted; either way the name must not stay.
        let _gone = fs::remove_file(&self.temporary);
    }
}
