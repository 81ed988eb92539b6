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
//! on the way are synced too, so what was reported is there after a power failure. Symbolic links
//! below the root are never followed, see [`crate::folder`].
//!
//! A directory that a deletion leaves empty is removed, and those above it, up to the root. A writer
//! that is about to name an object in it finds it gone and makes it again, at most [`PLACE_ATTEMPTS_MAX`]
//! times: each time somebody must have deleted an object there meanwhile.
//!
//! # After a crash
//! Empty directories, if it hit a deletion; they go with the next object that is deleted in them.
//! Private files of a dead process, which no key can name. The next open removes those older than
//! [`LEFTOVER_AGE`] whose owner is gone: a writer holds a lock on its file that dies with it.

use std::{
    collections::HashMap,
    fs::{self, File, TryLockError},
    io::{self, Write},
    num::NonZeroU64,
    os::unix::fs::{DirBuilderExt, FileExt, MetadataExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, UNIX_EPOCH},
};

use forebay_runtime::Runtime;
use forebay_types::Key;
use rustix::fs::FileType;

use crate::{
    Created, Error, Listed, ObjectWriter, Store,
    folder::{self, Folder, Identity},
};

const INCOMING: &str = ".incoming";

/// How old an abandoned private file is when it is removed.
pub const LEFTOVER_AGE: Duration = Duration::from_secs(3600);

/// Directories remembered as synced; beyond that they are synced again.
const SYNCED_MAX: usize = 4096;

/// How often a directory is made for an object when others remove it meanwhile.
const PLACE_ATTEMPTS_MAX: u32 = 32;

/// What to do about a root that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Absent {
    Make,
    Refuse,
}

/// A directory that holds objects. Cloning is cheap and gives the same store.
#[derive(Clone, Debug)]
pub struct Directory {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    root: PathBuf,
    url: String,
    runtime: Runtime,
    /// Directories whose own name this store has synced: they need it once. One of the same name that was
    /// made after it is another.
    synced: Mutex<HashMap<String, Identity>>,
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
            match fs::DirBuilder::new().mode(0o700).create(root) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists && !root.is_dir() => {
                    return Err(at(error));
                }
                _ => {}
            }
        }
        let root = root.canonicalize().map_err(at)?;
        let url = format!("file://{}", root.display());
        let (runtime, synced) = (runtime.clone(), Mutex::default());
        let store = Self { shared: Arc::new(Shared { root, url, runtime, synced }) };
        store.sweep(&store.root().map_err(at)?);
        Ok(store)
    }

    /// Opened anew each time, so that a root that was removed or unmounted is noticed; and what
    /// cannot be reached is not absent.
    fn root(&self) -> io::Result<Folder> {
        Folder::root(&self.shared.root).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => io::Error::other("the lake's own directory is gone"),
            _ => error,
        })
    }

    fn failed(&self, act: &'static str, key: &Key) -> impl Fn(io::Error) -> Error {
        let place = self.shared.root.join(key.as_str()).display().to_string();
        let key = key.clone();
        move |source| Error::Object { act, key: key.clone(), place: place.clone(), source }
    }

    /// The directory that `path` names, the root if it is empty.
    fn enter(&self, path: &str) -> io::Result<Folder> {
        segments(path).try_fold(self.root()?, |folder, segment| folder.enter(segment))
    }

    /// The same, made where it is missing. Each directory's name is synced, whoever made it:
    /// another writer may have made it a moment ago and not have come to that.
    fn make(&self, path: &str) -> io::Result<Folder> {
        let (mut folder, mut so_far) = (self.root()?, String::new());
        for segment in segments(path) {
            so_far.push('/');
            so_far.push_str(segment);
            let (inner, is_new) = folder.make(segment)?;
            let identity = inner.identity()?;
            if is_new || identity.is_none() || self.synced().get(&so_far) != identity.as_ref() {
                folder.sync()?;
                self.remember_synced(&so_far, identity);
            }
            folder = inner;
        }
        Ok(folder)
    }

    /// Makes the directory `above` and has `place` name an object in it; again when it was removed in
    /// between, and `place` so finds nothing.
    fn place<T>(
        &self,
        above: &str,
        mut place: impl FnMut(&Folder) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut attempt = 1;
        loop {
            match self.make(above).and_then(|folder| place(&folder)) {
                Err(error)
                    if error.kind() == io::ErrorKind::NotFound && attempt < PLACE_ATTEMPTS_MAX =>
                {
                    attempt += 1;
                }
                outcome => return outcome,
            }
        }
    }

    /// Removes the directories of `path` that are empty, from the innermost on. One that cannot be removed
    /// costs a directory alone.
    fn prune(&self, path: &str) -> io::Result<()> {
        let (mut folders, mut inner) = (Vec::new(), self.root()?);
        for segment in segments(path) {
            let next = match inner.enter(segment) {
                // Somebody has removed it; those above it may be left.
                Err(error) if is_absent(&error) => break,
                next => next?,
            };
            folders.push((inner, segment));
            inner = next;
        }
        while let Some((folder, segment)) = folders.pop() {
            match folder.remove_folder(segment) {
                Err(error) if !is_absent(&error) => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    fn synced(&self) -> MutexGuard<'_, HashMap<String, Identity>> {
        self.shared.synced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember_synced(&self, path: &str, identity: Option<Identity>) {
        let mut synced = self.synced();
        if synced.len() >= SYNCED_MAX {
            synced.clear();
        }
        if let Some(identity) = identity {
            synced.insert(path.to_owned(), identity);
        }
    }

    /// A private file, locked as long as its writer lives.
    fn incoming(&self, key: &Key) -> io::Result<Incoming> {
        let (folder, _) = self.root()?.make(INCOMING)?;
        let name = self.shared.runtime.nonce().to_string();
        let file = folder.new_file(&name)?;
        let incoming = Incoming { store: self.clone(), key: key.clone(), folder, name, file };
        incoming.file.lock()?;
        Ok(incoming)
    }

    /// Removes what dead writers left. A leftover that cannot be removed costs space alone.
    fn sweep(&self, root: &Folder) {
        let Ok(folder) = root.enter(INCOMING) else { return };
        let Ok(entries) = folder.entries() else { return };
        let now = Duration::from_millis(self.shared.runtime.now().unix_ms());
        for entry in entries.flatten().filter(|entry| entry.kind == FileType::RegularFile) {
            if folder.file(&entry.name).is_ok_and(|file| is_abandoned(&file, now)) {
                let _kept = folder.remove(&entry.name);
            }
        }
    }
}

/// Whether a private file is old and no process holds its lock.
fn is_abandoned(file: &File, now: Duration) -> bool {
    let modified = file.metadata().and_then(|metadata| metadata.modified()).ok();
    let old = modified
        .and_then(|modified| modified.duration_since(UNIX_EPOCH).ok())
        .is_some_and(|modified| now.saturating_sub(modified) > LEFTOVER_AGE);
    old && !matches!(file.try_lock(), Err(TryLockError::WouldBlock))
}

fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|segment| !segment.is_empty())
}

/// The directory part of a key and its last segment.
fn split(key: &Key) -> (&str, &str) {
    key.as_str().rsplit_once('/').unwrap_or(("", key.as_str()))
}

impl Store for Directory {
    fn url(&self) -> &str {
        &self.shared.url
    }

    fn size(&self, key: &Key) -> Result<Option<u64>, Error> {
        let (above, name) = split(key);
        match self.enter(above).and_then(|folder| folder.look(name)) {
            Ok(stat) => match FileType::from_raw_mode(stat.st_mode) {
                FileType::RegularFile => Ok(Some(stat.st_size.unsigned_abs())),
                FileType::Symlink => Err(self.failed("look for", key)(folder::is_link(name))),
                _ => Ok(None),
            },
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(self.failed("look for", key)(error)),
        }
    }

    fn read_range(&self, key: &Key, offset: u64, into: &mut [u8]) -> Result<(), Error> {
        let failed = self.failed("read", key);
        let (above, name) = split(key);
        let file = self.enter(above).and_then(|folder| folder.file(name)).map_err(&failed)?;
        match file.read_exact_at(into, offset) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                let length = file.metadata().map_err(&failed)?.len();
                let wanted = offset.saturating_add(into.len() as u64);
                Err(Error::Truncated { key: key.clone(), wanted, length })
            }
            result => result.map_err(failed),
        }
    }

    fn will_read(&self, key: &Key, offset: u64, bytes: u64) {
        let (above, name) = split(key);
        if let Ok(file) = self.enter(above).and_then(|folder| folder.file(name)) {
            let advice = rustix::fs::Advice::WillNeed;
            let _hint = rustix::fs::fadvise(&file, offset, NonZeroU64::new(bytes), advice);
        }
    }

    fn writer(&self, key: &Key) -> Result<Box<dyn ObjectWriter>, Error> {
        Ok(Box::new(self.incoming(key).map_err(self.failed("write", key))?))
    }

    fn create(&self, key: &Key, body: &[u8]) -> Result<Created, Error> {
        self.incoming(key)
            .and_then(|incoming| incoming.create(body))
            .map_err(self.failed("create", key))
    }

    /// A second name for the same file: objects are never written again, and each name is removed
    /// by itself.
    fn copy(&self, from: &Key, to: &Key, _bytes: u64) -> Result<bool, Error> {
        let ((above, name), (new_above, new_name)) = (split(from), split(to));
        let link = || {
            let source = self.enter(above)?;
            source.look(name)?;
            self.place(new_above, |new_above| match source.link(name, new_above, new_name) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
                // Also when it exists: who made it may not have come to syncing its name.
                _ => new_above.sync(),
            })
        };
        match link() {
            Ok(()) => Ok(true),
            Err(error) if is_absent(&error) => Err(self.failed("copy", from)(error)),
            // A file system without second names, a file with too many: whoever asked copies.
            Err(_) => Ok(false),
        }
    }

    /// A network's file system keeps a directory open and reads ahead: it is asked like a disk.
    fn is_remote(&self) -> bool {
        false
    }

    fn adopts(&self, directory: &Path) -> bool {
        let device = |path: &Path| fs::metadata(path).map(|found| found.dev());
        matches!((device(&self.shared.root), device(directory)), (Ok(ours), Ok(theirs)) if ours == theirs)
    }

    /// A second name for the same file, where it lies on the same file system.
    fn adopt(&self, file: &File, key: &Key) -> Result<bool, Error> {
        let (above, name) = split(key);
        let adopted = self.place(above, |above| match above.adopt(file, name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(error),
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Ok(false),
            // Also when it exists: who made it may not have come to syncing its name.
            _ => above.sync().map(|()| true),
        });
        match adopted {
            // It is the file that has no name any more.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            adopted => adopted.map_err(self.failed("write", key)),
        }
    }

    fn list(
        &self,
        prefix: &str,
        visit: &mut dyn FnMut(Listed) -> Result<(), Error>,
    ) -> Result<(), Error> {
        // Only the directory that every match lies in is walked. A prefix that no key can have
        // matches nothing.
        let above = prefix.rsplit_once('/').map_or("", |(above, _)| above);
        if !above.is_empty() && Key::new(above).is_err() {
            return Ok(());
        }
        let mut folders = vec![above.to_owned()];
        while let Some(folder) = folders.pop() {
            self.list_folder(&folder, &mut folders, prefix, visit)?;
        }
        Ok(())
    }

    fn delete(&self, key: &Key) -> Result<bool, Error> {
        let (above, name) = split(key);
        let remove = || {
            let folder = self.enter(above)?;
            folder.remove(name)?;
            folder.sync()
        };
        match remove() {
            Ok(()) => {
                let _other_objects_in_it = self.prune(above);
                Ok(true)
            }
            Err(error) if is_absent(&error) => Ok(false),
            Err(error) => Err(self.failed("delete", key)(error)),
        }
    }
}

impl Directory {
    fn list_folder(
        &self,
        path: &str,
        folders: &mut Vec<String>,
        prefix: &str,
        visit: &mut dyn FnMut(Listed) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let failed = |source| Error::Root { path: self.shared.root.join(path), source };
        let folder = match self.enter(path) {
            Err(error) if is_absent(&error) => return Ok(()),
            folder => folder.map_err(failed)?,
        };
        let entries = match folder.entries() {
            // Removed since it was entered.
            Err(error) if is_absent(&error) => return Ok(()),
            entries => entries.map_err(failed)?,
        };
        for entry in entries {
            let entry = match entry {
                Err(error) if is_absent(&error) => return Ok(()),
                entry => entry.map_err(failed)?,
            };
            let text =
                if path.is_empty() { entry.name.clone() } else { format!("{path}/{}", entry.name) };
            // What has no sound key is not an object: private files, foreign files.
            let Ok(key) = Key::new(text) else { continue };
            // Some file systems do not say in the directory what an entry is; gone is gone.
            let Ok(stat) = folder.look(&entry.name) else { continue };
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => folders.push(key.as_str().to_owned()),
                FileType::RegularFile if key.as_str().starts_with(prefix) => {
                    let modified_unix_ms = unix_ms(stat.st_mtime, stat.st_mtime_nsec as i64);
                    visit(Listed { key, bytes: stat.st_size.unsigned_abs(), modified_unix_ms })?;
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn unix_ms(seconds: i64, nanoseconds: i64) -> u64 {
    u64::try_from(seconds).unwrap_or(0) * 1000 + u64::try_from(nanoseconds).unwrap_or(0) / 1_000_000
}

/// `a/b` is absent too where `a` is an object.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// A private file that becomes an object when it is finished, and is removed otherwise.
struct Incoming {
    store: Directory,
    key: Key,
    folder: Folder,
    name: String,
    file: File,
}

impl Incoming {
    fn create(mut self, body: &[u8]) -> io::Result<Created> {
        let (above, name) = split(&self.key);
        self.file.write_all(body)?;
        self.file.sync_all()?;
        self.store.place(above, |above| {
            let created = match self.folder.link(&self.name, above, name) {
                Ok(()) => Created::New,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Created::Exists,
                Err(error) => return Err(error),
            };
            // Also when it exists: who made it may not have come to syncing its name, and what we
            // report must stay.
            above.sync()?;
            Ok(created)
        })
    }

    fn publish(&self) -> io::Result<()> {
        let (above, name) = split(&self.key);
        self.file.sync_all()?;
        self.store.place(above, |above| {
            self.folder.rename(&self.name, above, name)?;
            above.sync()
        })
    }
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
        self.publish().map_err(self.store.failed("write", &self.key))
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        // Already renamed, or not wanted; either way the name must not stay.
        let _gone = self.folder.remove(&self.name);
    }
}
