//! Directories below a root, entered one by one and never through a symbolic link.
//!
//! A path is resolved by the operating system in one go and follows every link on the way; a link
//! planted in a shared lake could make a write land anywhere. Here each step is relative to a
//! directory that is already open, so what was checked is what is used. The root itself may be
//! reached through links: who names it says where it is.

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, StatxFlags},
    io::Errno,
};

/// An open directory.
#[derive(Debug)]
pub(crate) struct Folder(OwnedFd);

/// A directory, whatever its name: numbers are used again, but not at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    number: u64,
    made: (i64, u32),
}

/// What a name in a directory stands for.
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) kind: FileType,
}

impl Folder {
    /// The root of a lake.
    pub(crate) fn root(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::openat(CWD, path, flags, Mode::empty())?))
    }

    /// The directory `name` in this one.
    ///
    /// An object of this name is `NotADirectory`, and a link is an error of its own.
    pub(crate) fn enter(&self, name: &str) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.0, name, flags, Mode::empty()) {
            Ok(folder) => Ok(Self(folder)),
            Err(error) => Err(self.explain(name, error.into())),
        }
    }

    /// The directory `name` in this one, made for its owner alone if it is not there; says whether
    /// it was made.
    pub(crate) fn make(&self, name: &str) -> io::Result<(Self, bool)> {
        let is_new = match rustix::fs::mkdirat(&self.0, name, Mode::RWXU) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(error) => return Err(error.into()),
        };
        Ok((self.enter(name)?, is_new))
    }

    /// The file `name`, for reading.
    pub(crate) fn file(&self, name: &str) -> io::Result<File> {
        // Without NONBLOCK, opening a pipe somebody left here would wait for ever.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.0, name, flags, Mode::empty());
        file.map(File::from).map_err(|error| self.explain(name, error.into()))
    }

    /// A new file `name`, for its owner alone.
    pub(crate) fn new_file(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&self.0, name, flags, Mode::RUSR | Mode::WUSR)?.into())
    }

    /// What `name` is, without following it.
    pub(crate) fn look(&self, name: &str) -> io::Result<Stat> {
        Ok(rustix::fs::statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// Moves the file `name` to `new_name` in `to`, over what is there.
    pub(crate) fn rename(&self, name: &str, to: &Self, new_name: &str) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.0, name, &to.0, new_name)?)
    }

    /// Gives the file `name` a second name in `to`, if that is free.
    pub(crate) fn link(&self, name: &str, to: &Self, new_name: &str) -> io::Result<()> {
        Ok(rustix::fs::linkat(&self.0, name, &to.0, new_name, AtFlags::empty())?)
    }

    /// Gives an open file another name, here, if that is free.
    pub(crate) fn adopt(&self, file: &File, name: &str) -> io::Result<()> {
        // A file is named by its descriptor, so that it is this one and no other of the same name.
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        Ok(rustix::fs::linkat(CWD, path, &self.0, name, AtFlags::SYMLINK_FOLLOW)?)
    }

    pub(crate) fn remove(&self, name: &str) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.0, name, AtFlags::empty())?)
    }

    /// Removes the directory `name`, if nothing is in it; a link is none.
    pub(crate) fn remove_folder(&self, name: &str) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.0, name, AtFlags::REMOVEDIR)?)
    }

    /// What tells it from a directory that had its name before; `None` where the system does not say when
    /// it was made.
    pub(crate) fn identity(&self) -> io::Result<Option<Identity>> {
        let asked = StatxFlags::INO | StatxFlags::BTIME;
        let found = rustix::fs::statx(&self.0, "", AtFlags::EMPTY_PATH, asked)?;
        let is_said = found.stx_mask & asked.bits() == asked.bits();
        Ok(is_said.then_some(Identity {
            number: found.stx_ino,
            made: (found.stx_btime.tv_sec, found.stx_btime.tv_nsec),
        }))
    }

    /// Waits until the names in this directory are on the device.
    pub(crate) fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(&self.0)?)
    }

    /// What is in it, one after the other; names that are not UTF-8 are left out.
    pub(crate) fn entries(&self) -> io::Result<impl Iterator<Item = io::Result<Entry>>> {
        let named = |entry: rustix::fs::DirEntry| {
            let name = entry.file_name().to_str().ok()?.to_owned();
            Some(Entry { kind: entry.file_type(), name })
        };
        let entries = Dir::read_from(&self.0)?;
        Ok(entries.filter_map(move |entry| match entry {
            Ok(entry) => named(entry).map(Ok),
            Err(error) => Some(Err(error.into())),
        }))
    }

    /// The system's word for a link met on the way is "not a directory" or "too many levels".
    fn explain(&self, name: &str, error: io::Error) -> io::Error {
        let linked = |stat: Stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
        if self.look(name).is_ok_and(linked) {
            return is_link(name);
        }
        error
    }
}

/// The error for a symbolic link where a directory or an object should be.
pub(crate) fn is_link(name: &str) -> io::Error {
    io::Error::other(format!("`{name}` is a symbolic link, and links in a lake are not followed"))
}
