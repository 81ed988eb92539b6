//! Staging: what is on this node alone, until the lake has it.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use forebay_types::{ByteRanges, Key};

use crate::{
    Error, LocalTier,
    direct::{self, DirectFile},
    files,
    ledger::Part,
    space,
    tier::is_hidden,
};

/// A staged file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Staged {
    /// Its name.
    pub name: Key,
    /// Its length.
    pub bytes: u64,
}

/// A file on its way into staging. Dropping it leaves nothing.
#[derive(Debug)]
pub struct StagedWriter {
    tier: LocalTier,
    name: Key,
    temporary: PathBuf,
    file: File,
    reserved_bytes: u64,
    written_bytes: u64,
    is_named: bool,
}

impl LocalTier {
    fn staged_path(&self, name: &Key) -> PathBuf {
        self.folder("staging").join(name.as_str())
    }

    /// Reserves `bytes` for a file that will be staged as `name`, in place of one that is.
    ///
    /// # Errors
    /// [`Error::Full`] when the budget has no room for it; nothing staged is ever evicted.
    pub fn stage(&self, name: &Key, bytes: u64) -> Result<StagedWriter, Error> {
        let incoming = format!(".incoming-{}", self.runtime().nonce());
        let temporary = self.folder("staging").join(incoming);
        let make = || space::make(&temporary, bytes);
        let file = self.reserve(name.as_str(), Part::Staged, bytes, make)?;
        Ok(StagedWriter {
            tier: self.clone(),
            name: name.clone(),
            temporary,
            file,
            reserved_bytes: bytes,
            written_bytes: 0,
            is_named: false,
        })
    }

    /// Every staged file, in the order of their names.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn staged(&self) -> Result<Vec<Staged>, Error> {
        let root = self.folder("staging");
        let mut found = Vec::new();
        files::walk(&root, &mut |path, bytes| {
            let name = path.strip_prefix(&root).ok().and_then(Path::to_str);
            let name = name.filter(|_| !is_hidden(path)).and_then(|name| Key::new(name).ok());
            found.extend(name.map(|name| Staged { name, bytes }));
        })?;
        found.sort_unstable();
        Ok(found)
    }

    /// A staged file, for reading.
    ///
    /// # Errors
    /// [`Error::NotStaged`] when there is none.
    pub fn staged_file(&self, name: &Key) -> Result<File, Error> {
        let path = self.staged_path(name);
        match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(Error::NotStaged(name.clone()))
            }
            result => result.map_err(Error::at("read", &path)),
        }
    }

    /// Lets a staged file go, because the lake has it. Not being there is no error.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn release(&self, name: &Key) -> Result<(), Error> {
        let path = self.staged_path(name);
        // Nobody may be about to name a file in a directory that is removed here.
        let lock = self.lock_space()?;
        if files::length(&path)?.is_none() {
            return Ok(());
        }
        self.ledger(&lock)?.act(|taken| {
            let bytes = files::length(&path)?.unwrap_or(0);
            if files::remove(&path)? {
                taken.give_back(Part::Staged, bytes);
            }
            self.prune(&path)
        })
    }

    /// Removes the directories above `path` that are empty now, and syncs what is left.
    fn prune(&self, path: &Path) -> Result<(), Error> {
        let root = self.folder("staging");
        let mut above = path.parent();
        // A directory that holds another file is not empty and stays.
        while let Some(folder) = above.filter(|folder| *folder != root) {
            if fs::remove_dir(folder).is_err() {
                return files::sync_directory(folder);
            }
            above = folder.parent();
        }
        files::sync_directory(&root)
    }
}

impl StagedWriter {
    /// What [`StagedWriter::write_direct`] asks for and writes at once, from the first byte on. A block
    /// that lies in one slice, at the beginning of a page, is written from where it lies.
    pub const BLOCK_BYTES: u64 = direct::BLOCK_BYTES;

    /// The file, to be read while it is written.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn reader(&self) -> Result<File, Error> {
        self.file.try_clone().map_err(Error::at("open", &self.temporary))
    }

    /// Writes `bytes` past the page cache, as fast as they come and the disk takes them; through it where
    /// the file system has no such way. Whoever reads the file afterwards reads the disk. `wrote` is told
    /// how many bytes were written, again and again, from several threads and in no order.
    ///
    /// # Errors
    /// As [`Write::write`]; then some of them may have been written, and the file is good for nothing.
    pub fn write_direct(
        &mut self,
        bytes: &dyn ByteRanges,
        wrote: &(dyn Fn(u64) + Sync),
    ) -> io::Result<()> {
        self.require_reserved(bytes.len_bytes())?;
        let file = DirectFile::new(&self.file, &self.temporary);
        file.write(bytes, self.written_bytes, self.tier.runtime(), wrote)?;
        self.written_bytes += bytes.len_bytes();
        Ok(())
    }

    /// Writes over what was written from `offset` on.
    ///
    /// # Errors
    /// As [`Write::write`]; also when that was not written yet.
    pub fn overwrite(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let end = offset.checked_add(bytes.len() as u64);
        if end.is_none_or(|end| end > self.written_bytes) {
            let what = "what was not written cannot be written over";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        self.file.write_all_at(bytes, offset)
    }

    fn require_reserved(&self, bytes: u64) -> io::Result<()> {
        let Self { reserved_bytes, written_bytes, .. } = *self;
        if bytes <= reserved_bytes - written_bytes {
            return Ok(());
        }
        let overrun = Error::Overrun { object: self.name.to_string(), reserved_bytes };
        Err(io::Error::new(io::ErrorKind::InvalidData, overrun))
    }

    /// Makes the file durable under its name.
    ///
    /// # Errors
    /// When it could not be; then nothing is staged under this name that was not before.
    pub fn finish(mut self) -> Result<(), Error> {
        let path = self.tier.staged_path(&self.name);
        let seal = || {
            self.file.set_len(self.written_bytes)?;
            self.file.sync_all()
        };
        seal().map_err(Error::at("sync", &self.temporary))?;
        let folder = path.parent().unwrap_or(&path);
        // Whoever sums up the tier sees the file under its old name or its new one, and no
        // directory is pruned before the file is in it.
        let (reserved_bytes, written_bytes) = (self.reserved_bytes, self.written_bytes);
        self.tier.change(|taken| {
            files::make_directories(&self.tier.folder("staging"), folder)?;
            let replaced_bytes = files::length(&path)?.unwrap_or(0);
            fs::rename(&self.temporary, &path).map_err(Error::at("name", &path))?;
            taken.give_back(Part::Staged, replaced_bytes + (reserved_bytes - written_bytes));
            files::sync_directory(folder)
        })?;
        self.is_named = true;
        Ok(())
    }
}

impl Write for StagedWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.require_reserved(bytes.len() as u64)?;
        let written = self.file.write_at(bytes, self.written_bytes)?;
        self.written_bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for StagedWriter {
    fn drop(&mut self) {
        if self.is_named || self.tier.is_forked() {
            return;
        }
        // Not wanted; what cannot be removed goes at the next open.
        let _gone = self.tier.change(|taken| {
            if files::remove(&self.temporary)? {
                taken.give_back(Part::Staged, self.reserved_bytes);
            }
            Ok(())
        });
    }
}
