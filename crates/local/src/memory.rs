//! Memory of this node that outlives its process, for what is not on the disk yet, or read best here.
//!
//! ```text
//! /dev/shm/forebay-<user>-<digest of the tier's directory>/
//!   .tier               a link to the directory
//!   .memory-<nonce>     in use by a process
//!   <key, `:` for `/`>  what is to be kept when its process dies
//!   .staged-<the same>  what is durable elsewhere too, and may be read here until it changes
//! ```
//!
//! A process writes into memory that has no name yet, gives it one when what it holds is whole, says
//! when that is durable elsewhere, and takes the name away before it changes. A rename is all that is
//! to it, so whoever finds a name finds something whole.
//!
//! What is kept is read by whoever takes it over. What is staged is read by any process, as a file and
//! without the owner's lock: it may begin to change while it is read, so a reader believes only what
//! has its digest once it was copied.
//!
//! The owner holds a lock on the file as long as the memory is mapped, and by the mapping alone: the
//! file is closed, and a forked child does not inherit the mapping. So the lock dies with the process,
//! whatever children it leaves.
//!
//! # Bounds
//! As much as is asked for, and never more than the system has available. It is the machine's memory
//! and no part of the tier's budget.
//!
//! # After a crash
//! Memory without a name whose owner is dead is removed when the tier is next opened. With a name it
//! stays until somebody takes it over, or the machine is started again. When the directory was removed
//! by hand, nobody can take it over: any tier that is opened a day later removes it.
//!
//! What was staged is a convenience: it also goes when the tier is cleared or opened a day later, and
//! when somebody of the tier needs memory that the node has not.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io,
    mem::ManuallyDrop,
    ops::{Deref, DerefMut, Range},
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::{Duration, UNIX_EPOCH},
};

use forebay_types::{Digest, Key};
use memmap2::{Advice, MmapMut, RemapOptions};

use crate::{Error, LocalTier, files, tier::is_hidden};

/// Where Linux has files that are memory.
const ROOT: &str = "/dev/shm";
const PREFIX: &str = "forebay";
const IN_USE: &str = ".memory-";
const STAGED: &str = ".staged-";
/// Says in a folder of memory which directory it belongs to.
const TIER: &str = ".tier";
/// How long memory of a directory that is gone stays: the directory may come back.
const ORPHAN_AGE: Duration = Duration::from_secs(24 * 3600);
/// How long what a dead process left staged stays: its run may be started again.
const STAGED_AGE: Duration = Duration::from_secs(24 * 3600);
/// Touched to have a page where the system cannot be asked for many at once.
const PAGE_BYTES: usize = 4096;

/// Memory that outlives this process once it has a name. Dropped without being kept, nothing is left.
#[derive(Debug)]
pub struct NodeMemory {
    tier: LocalTier,
    path: PathBuf,
    /// Released by hand: a forked child has no mapping to take back.
    map: ManuallyDrop<MmapMut>,
    standing: Standing,
}

/// What the name of memory says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Nameless,
    Kept,
    Staged,
}

/// What lies behind the first bytes of memory, and its name: memory is kept by way of it while others
/// read those bytes.
#[derive(Debug)]
pub struct MemoryEnd<'a> {
    tier: &'a LocalTier,
    path: &'a mut PathBuf,
    standing: &'a mut Standing,
    start: usize,
    mapped_bytes: usize,
}

/// Proof that no other process of the tier is taking memory. Dies with its process.
#[derive(Debug)]
pub struct MemoryLock {
    _lock: files::Lock,
}

impl LocalTier {
    /// Its folder in the node's memory: one for each user and directory. It is there while memory is.
    #[must_use]
    pub fn memory_folder(&self) -> PathBuf {
        let directory = Digest::of(self.directory().as_os_str().as_encoded_bytes()).to_string();
        Path::new(ROOT).join(format!("{}{}", prefix(), &directory[..16]))
    }

    /// Takes `bytes` of the node's memory. Its pages come when they are touched, or by
    /// [`NodeMemory::populate`].
    ///
    /// # Errors
    /// [`Error::Memory`] where there is none, or not so much.
    pub fn memory(&self, bytes: usize) -> Result<NodeMemory, Error> {
        // Whoever removes what dead processes left holds it too, so the file is locked before.
        let _lock = self.lock_space()?;
        let folder = self.memory_folder();
        let unusable = |source| Error::Memory { bytes: bytes as u64, source };
        self.make_memory_folder(&folder).map_err(unusable)?;
        let path = folder.join(format!("{IN_USE}{}", self.runtime().nonce()));
        let make = || {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create_new(true).mode(0o600);
            let file = options.open(&path)?;
            file.lock()?;
            self.make_room(&folder, bytes)?;
            file.set_len(bytes as u64)?;
            map(&file)
        };
        match make() {
            Ok(map) => Ok(self.own(path, map, Standing::Nameless)),
            Err(error) => {
                files::remove(&path)?;
                Err(unusable(error))
            }
        }
    }

    /// Whoever takes memory holds this until it has its pages, so that the next one sees how much is left.
    ///
    /// # Errors
    /// When the tier cannot be written.
    pub fn lock_memory(&self) -> Result<MemoryLock, Error> {
        Ok(MemoryLock { _lock: files::lock(&self.folder("locks"), "memory")? })
    }

    fn make_memory_folder(&self, folder: &Path) -> io::Result<()> {
        private(folder)?;
        match std::os::unix::fs::symlink(self.directory(), folder.join(TIER)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        }
    }

    /// Makes sure that the node has so much left, if need be without what dead processes left staged.
    /// The space lock is held.
    fn make_room(&self, folder: &Path, bytes: usize) -> io::Result<()> {
        require_room(folder, bytes).or_else(|error| {
            self.remove_staged_memory(Duration::ZERO).map_err(|_| error)?;
            require_room(folder, bytes)
        })
    }

    fn own(&self, path: PathBuf, map: MmapMut, standing: Standing) -> NodeMemory {
        NodeMemory { tier: self.clone(), path, map: ManuallyDrop::new(map), standing }
    }

    /// The names of memory that was kept, in their order, whether or not its owner lives.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn kept_memory(&self) -> Result<Vec<Key>, Error> {
        self.memory_named("")
    }

    /// The names of memory whose content is staged, in their order, whether or not its owner lives.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn staged_memory(&self) -> Result<Vec<Key>, Error> {
        self.memory_named(STAGED)
    }

    fn memory_named(&self, prefix: &str) -> Result<Vec<Key>, Error> {
        let paths = self.memory_files()?;
        let mut names: Vec<_> = paths.iter().filter_map(|path| name_of(path, prefix)).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// Memory whose content is staged, to be read from as a file; nothing if there is none. It may
    /// change while it is read.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn staged_memory_file(&self, name: &Key) -> Result<Option<File>, Error> {
        let folder = self.memory_folder();
        let path = folder.join(format!("{STAGED}{}", file_name(name)));
        match is_private(&folder).and_then(|()| File::open(&path)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            result => result.map(Some).map_err(Error::at("read", &path)),
        }
    }

    /// Takes over what a dead process kept under a name; nothing if its owner lives, or it is gone.
    ///
    /// # Errors
    /// When it cannot be mapped.
    pub fn take_memory(&self, name: &Key) -> Result<Option<NodeMemory>, Error> {
        self.take(&file_name(name), Standing::Kept)
    }

    /// Takes over what a dead process left staged; nothing if its owner lives, or it is gone.
    ///
    /// # Errors
    /// When it cannot be mapped.
    pub fn take_staged_memory(&self, name: &Key) -> Result<Option<NodeMemory>, Error> {
        self.take(&format!("{STAGED}{}", file_name(name)), Standing::Staged)
    }

    fn take(&self, name: &str, standing: Standing) -> Result<Option<NodeMemory>, Error> {
        let _lock = self.lock_space()?;
        let folder = self.memory_folder();
        let path = folder.join(name);
        let open = || {
            is_private(&folder)?;
            let file = OpenOptions::new().read(true).write(true).open(&path)?;
            match file.try_lock() {
                Err(TryLockError::WouldBlock) => Ok(None),
                Err(TryLockError::Error(error)) => Err(error),
                Ok(()) if file.metadata()?.len() == 0 => Err(io::ErrorKind::UnexpectedEof.into()),
                // Its owner has just removed it, and only then let go of it.
                Ok(()) if !path.try_exists()? => Ok(None),
                Ok(()) => map(&file).map(Some),
            }
        };
        match open() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            result => {
                let map = result.map_err(Error::at("map", &path))?;
                Ok(map.map(|map| self.own(path, map, standing)))
            }
        }
    }

    /// Removes memory whose owner is dead and that nobody will take over. The space lock is held.
    pub(crate) fn recover_memory(&self) -> Result<(), Error> {
        let is_nameless = |path: &Path| is_hidden(path) && name_of(path, STAGED).is_none();
        self.remove_memory(is_nameless)?;
        self.remove_staged_memory(STAGED_AGE)?;
        forget(&self.memory_folder());
        self.remove_orphans();
        Ok(())
    }

    /// Removes what dead processes left staged so long ago. The space lock is held.
    pub(crate) fn remove_staged_memory(&self, age: Duration) -> Result<(), Error> {
        let now = Duration::from_millis(self.runtime().now().unix_ms());
        self.remove_memory(|path| name_of(path, STAGED).is_some() && is_older(path, now, age))
    }

    fn remove_memory(&self, is_meant: impl Fn(&Path) -> bool) -> Result<(), Error> {
        for path in self.memory_files()?.iter().filter(|path| is_meant(path)) {
            if !files::is_locked(path) {
                files::remove(path)?;
            }
        }
        Ok(())
    }

    /// The files of memory, named or not.
    pub(crate) fn memory_files(&self) -> Result<Vec<PathBuf>, Error> {
        let folder = self.memory_folder();
        if is_private(&folder).is_err() {
            // None was taken, or others have put something there, which is left alone.
            return Ok(Vec::new());
        }
        let mut files = files::entries(&folder)?;
        files.retain(|path| !path.ends_with(TIER));
        Ok(files)
    }

    /// Removes what was kept for directories that are gone. What cannot be removed costs memory alone.
    fn remove_orphans(&self) {
        let folders = files::entries(Path::new(ROOT)).unwrap_or_default();
        let ours = |path: &&PathBuf| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.is_some_and(|name| name.starts_with(&prefix())) && is_private(path).is_ok()
        };
        let now = Duration::from_millis(self.runtime().now().unix_ms());
        for folder in folders.iter().filter(ours) {
            let files = files::entries(folder).unwrap_or_default();
            let is_gone = fs::read_link(folder.join(TIER)).is_ok_and(|tier| {
                matches!(tier.try_exists(), Ok(false)) && age(folder, now) > ORPHAN_AGE
            });
            if is_gone && !files.iter().any(|path| files::is_locked(path)) {
                let _stays = fs::remove_dir_all(folder);
            }
        }
    }
}

impl NodeMemory {
    /// Has the pages of a part, so that writing to them is as fast as writing to memory can be. Parts
    /// that lie apart may be asked for by several threads at once.
    ///
    /// # Errors
    /// [`Error::Memory`] when the node has no more; then the memory is not to be used.
    pub fn populate(&self, part: Range<usize>) -> Result<(), Error> {
        let unusable = |source| Error::Memory { bytes: part.len() as u64, source };
        if part.is_empty() {
            return Ok(());
        }
        match self.map.advise_range(Advice::PopulateWrite, part.start, part.len()) {
            // Before Linux 5.14; and what is not there is reserved, so that touching it is safe.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                let file = File::options().write(true).open(&self.path).map_err(unusable)?;
                let (start, length) = (part.start as u64, part.len() as u64);
                let reserve = rustix::fs::FallocateFlags::empty();
                rustix::fs::fallocate(&file, reserve, start, length)
                    .map_err(|error| unusable(error.into()))?;
                for byte in self.map[part].iter().step_by(PAGE_BYTES) {
                    std::hint::black_box(*byte);
                }
                Ok(())
            }
            result => result.map_err(unusable),
        }
    }

    /// Makes it longer, keeping what it holds and the pages that it has.
    ///
    /// # Errors
    /// [`Error::Memory`] when there is not so much; then it is as it was.
    pub fn grow(&mut self, bytes: usize) -> Result<(), Error> {
        let unusable = |source| Error::Memory { bytes: bytes as u64, source };
        if bytes <= self.map.len() {
            return Ok(());
        }
        let lock = self.tier.lock_space()?;
        let folder = self.path.parent().unwrap_or(&self.path);
        self.tier.make_room(folder, bytes - self.map.len()).map_err(unusable)?;
        drop(lock);
        let file = File::options().write(true).open(&self.path).map_err(unusable)?;
        file.set_len(bytes as u64).map_err(unusable)?;
        // SAFETY: the file is as long as that, and `&mut` says that nobody holds the old address.
        unsafe { self.map.remap(bytes, RemapOptions::new().may_move(true)) }.map_err(unusable)
    }

    /// Its first bytes, and what is behind them.
    pub fn split(&mut self, bytes: usize) -> (&mut [u8], MemoryEnd<'_>) {
        let Self { tier, path, map, standing } = self;
        let (start, mapped_bytes) = (bytes, map.len());
        (&mut map[..bytes], MemoryEnd { tier, path, standing, start, mapped_bytes })
    }

    /// Gives it a name: from now on what it holds is there for others when this process dies.
    ///
    /// # Errors
    /// When it cannot be named.
    pub fn keep(&mut self, name: &Key) -> Result<(), Error> {
        self.rename(&file_name(name), Standing::Kept)
    }

    /// Whether it has a name: others may read what it holds.
    #[must_use]
    pub const fn is_named(&self) -> bool {
        !matches!(self.standing, Standing::Nameless)
    }

    /// Says of what is kept that it is durable elsewhere by now. When this process dies, it may still be
    /// read here; when this value is dropped, nothing is left.
    ///
    /// # Errors
    /// When it cannot be renamed.
    pub fn mark_staged(&mut self) -> Result<(), Error> {
        match (self.standing, self.path.file_name()) {
            (Standing::Kept, Some(name)) => {
                let name = format!("{STAGED}{}", name.to_string_lossy());
                self.rename(&name, Standing::Staged)
            }
            _ => Ok(()),
        }
    }

    /// Takes the name away: when this process dies now, what it holds goes with it.
    ///
    /// # Errors
    /// When it cannot be renamed.
    pub fn unkeep(&mut self) -> Result<(), Error> {
        if !self.is_named() {
            return Ok(());
        }
        let nameless = format!("{IN_USE}{}", self.tier.runtime().nonce());
        match self.rename(&nameless, Standing::Nameless) {
            // Somebody removed the file: nobody finds it, and it is this process's as before.
            Err(_) if !self.path.exists() => {
                self.standing = Standing::Nameless;
                Ok(())
            }
            outcome => outcome,
        }
    }

    fn rename(&mut self, name: &str, standing: Standing) -> Result<(), Error> {
        rename(&mut self.path, name)?;
        self.standing = standing;
        Ok(())
    }
}

impl MemoryEnd<'_> {
    /// Writes `next` right behind the first bytes and `last` where the memory ends, which becomes longer
    /// if they want it, and gives it a name as [`NodeMemory::keep`] does. What is longer is there for
    /// whoever takes it over; here, it is as long as it was.
    ///
    /// # Errors
    /// [`Error::Memory`] when there is not so much, or it cannot be named.
    pub fn keep(&mut self, name: &Key, next: &[u8], last: &[u8]) -> Result<(), Error> {
        let wanted = (self.start + next.len() + last.len()).next_multiple_of(PAGE_BYTES);
        let length = wanted.max(self.mapped_bytes);
        let more = length - self.mapped_bytes;
        let write = || {
            if more > 0 {
                let _lock = self.tier.lock_space().map_err(io::Error::other)?;
                self.tier.make_room(self.path.parent().unwrap_or(self.path), more)?;
            }
            // Through the file: to map more of it may take the first bytes elsewhere.
            let file = File::options().write(true).open(&self.path)?;
            file.set_len(length as u64)?;
            file.write_all_at(next, self.start as u64)?;
            file.write_all_at(last, (length - last.len()) as u64)
        };
        write().map_err(|source| Error::Memory { bytes: wanted as u64, source })?;
        rename(self.path, &file_name(name))?;
        *self.standing = Standing::Kept;
        Ok(())
    }
}

/// Gives a file another name in its folder.
fn rename(path: &mut PathBuf, name: &str) -> Result<(), Error> {
    let renamed = path.with_file_name(name);
    fs::rename(&*path, &renamed).map_err(Error::at("name", &renamed))?;
    *path = renamed;
    Ok(())
}

impl Deref for NodeMemory {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}

impl DerefMut for NodeMemory {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.map
    }
}

impl Drop for NodeMemory {
    fn drop(&mut self) {
        if self.tier.is_forked() {
            return;
        }
        if self.standing != Standing::Kept {
            // What cannot be removed goes at the next open.
            let _gone = files::remove(&self.path);
            forget(self.path.parent().unwrap_or(&self.path));
        }
        // SAFETY: it is not used again.
        unsafe { ManuallyDrop::drop(&mut self.map) };
    }
}

/// Maps a file that is locked. The mapping holds the lock when the file is closed.
fn map(file: &File) -> io::Result<MmapMut> {
    // SAFETY: a mapping is sound as long as nobody else writes or shortens the file. It lies in a
    // folder of this user's alone, and whoever does not hold its lock leaves it alone.
    let map = unsafe { MmapMut::map_mut(file) }?;
    map.advise(Advice::DontFork)?;
    // Where the system has large pages for it, copying is faster; where not, nothing is lost.
    let _hint = map.advise(Advice::HugePage);
    Ok(map)
}

/// Makes a folder for this user alone. `/dev/shm` is everybody's: what lies there under our name is
/// not trusted.
fn private(folder: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().create(folder) {
        Ok(()) => fs::set_permissions(folder, fs::Permissions::from_mode(0o700)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => is_private(folder),
        Err(error) => Err(error),
    }
}

fn is_private(folder: &Path) -> io::Result<()> {
    let found = fs::symlink_metadata(folder)?;
    let ours = found.uid() == rustix::process::geteuid().as_raw();
    if found.is_dir() && ours && found.mode() & 0o077 == 0 {
        return Ok(());
    }
    let words = format!("{} is not a folder of this user alone", folder.display());
    Err(io::Error::new(io::ErrorKind::PermissionDenied, words))
}

/// The system gives what it has not, and kills a process when it is used.
fn require_room(folder: &Path, bytes: usize) -> io::Result<()> {
    let disk = rustix::fs::statvfs(folder)?;
    let room = disk.f_bavail.saturating_mul(disk.f_frsize);
    let room = forebay_runtime::available_memory_bytes().map_or(room, |free| free.min(room));
    if bytes as u64 <= room {
        return Ok(());
    }
    let words = format!("{} has {room} bytes left", folder.parent().unwrap_or(folder).display());
    Err(io::Error::new(io::ErrorKind::StorageFull, words))
}

/// Removes the folder if no memory is in it.
fn forget(folder: &Path) {
    let Ok(tier) = fs::read_link(folder.join(TIER)) else { return };
    if files::entries(folder).is_ok_and(|found| found.len() == 1) {
        let _gone = fs::remove_file(folder.join(TIER));
        if fs::remove_dir(folder).is_err() {
            // Another process has just taken memory.
            let _there = std::os::unix::fs::symlink(tier, folder.join(TIER));
        }
    }
}

/// What the names of this user's folders begin with.
fn prefix() -> String {
    format!("{PREFIX}-{}-", rustix::process::geteuid().as_raw())
}

/// Whether memory got its name so long ago.
fn is_older(path: &Path, now: Duration, age: Duration) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| {
        let named = Duration::from_secs(u64::try_from(found.ctime()).unwrap_or(0));
        now.saturating_sub(named) >= age
    })
}

/// How long ago a name in a folder last appeared or went.
fn age(folder: &Path, now: Duration) -> Duration {
    let changed = fs::metadata(folder).and_then(|found| found.modified()).ok();
    let changed = changed.and_then(|changed| changed.duration_since(UNIX_EPOCH).ok());
    changed.map_or(Duration::ZERO, |changed| now.saturating_sub(changed))
}

fn file_name(name: &Key) -> String {
    name.as_str().replace('/', ":")
}

/// The name that memory has, behind `prefix`. No key has a colon, and none begins with a dot.
fn name_of(path: &Path, prefix: &str) -> Option<Key> {
    let name = path.file_name()?.to_str()?.strip_prefix(prefix)?;
    Key::new(name.replace(':', "/")).ok()
}
