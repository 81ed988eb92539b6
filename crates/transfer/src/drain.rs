//! Draining: what is staged on this node becomes an object in the lake.
//!
//! The staged file is read once, in pieces; its digest is computed on the way, and the object
//! appears only if the digest is the expected one. So bytes that went bad on the node never reach
//! the lake. The caller releases the staged file when it no longer needs it.
//!
//! A lake that is a directory of the same file system gives the file a second name instead, and what
//! was written a moment ago is not read for that. To any other lake the bytes can be on their way while
//! they are being staged: see [`Transfer::follow`].
//!
//! # Bounds
//! One piece of memory, whatever the file's length. A drain whose request fails for a passing
//! reason is made again from the start, a few times; [`forebay_lake::Lake`] waits in between.
//!
//! # After a crash
//! The object is there, whole, or it is not; the staged file stays, and draining it again gives
//! the same object.

use std::{
    fs::File,
    io::{self, Write},
    os::unix::fs::FileExt,
};

use forebay_lake::{LakeWriter, Purpose};
use forebay_runtime::crash_point;
use forebay_types::{Digest, DigestWriter, Key};

use crate::{Error, Follow, Transfer, follow::PIECE_BYTES};

const ATTEMPTS_MAX: u32 = 3;

/// What is known of the bytes of a staged file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StagedBytes {
    /// This process digested them as it wrote them, a moment ago.
    JustWritten,
    /// They were found, or lay there for a while: they are digested again.
    Found,
}

/// What is done with each piece, which comes with the bytes so far.
type Take<'a> = dyn FnMut(&[u8], u64) -> Result<(), Error> + 'a;

/// A staged file on its way.
struct StagedObject<'a> {
    file: File,
    name: &'a Key,
    digest: Digest,
    is_verified: bool,
}

impl StagedObject<'_> {
    /// Gives all of it to `take`; then says whether it is whole.
    fn read(&self, take: &mut Take<'_>) -> Result<(), Error> {
        let failed = |source| Error::Staged { name: self.name.clone(), source };
        let (mut seen, mut piece) = (DigestWriter::new(), vec![0; PIECE_BYTES]);
        loop {
            let count = match self.file.read_at(&mut piece, seen.len_bytes()) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                result => result.map_err(failed)?,
            };
            if count == 0 {
                break;
            }
            seen.update(&piece[..count]);
            take(&piece[..count], seen.len_bytes())?;
        }
        if seen.finish() == self.digest {
            return Ok(());
        }
        Err(Error::StagedDamaged { name: self.name.clone(), digest: self.digest })
    }
}

impl Transfer {
    /// Whether the lake takes staged files as they are, so that nothing is to be uploaded.
    #[must_use]
    pub fn adopts_staged(&self) -> bool {
        self.lake().adopts(self.local().directory())
    }

    /// Makes the file staged as `name` the object `key` of the lake; returns its length. What was
    /// `begun` as the same object is gone on with, if the file was written a moment ago.
    ///
    /// # Errors
    /// [`Error::StagedDamaged`] when the staged bytes do not have `digest`; then nothing is
    /// written.
    pub fn drain(
        &self,
        name: &Key,
        key: &Key,
        digest: Digest,
        known: StagedBytes,
        begun: Option<Follow>,
    ) -> Result<u64, Error> {
        self.require_process()?;
        let local = |source| Error::Local { act: "read", object: name.clone(), source };
        let mut staged = StagedObject {
            file: self.local().staged_file(name).map_err(local)?,
            name,
            digest,
            is_verified: known == StagedBytes::JustWritten,
        };
        // Whatever went wrong with what was begun: it is begun anew, and tells of it then.
        let begun = begun.filter(|_| staged.is_verified);
        if let Some(length) = begun.and_then(|follow| self.complete(follow, &staged, key)) {
            return Ok(length);
        }
        let mut attempt = 1;
        loop {
            match self.drain_once(&mut staged, key) {
                Err(Error::Lake { source, .. })
                    if source.is_transient() && attempt < ATTEMPTS_MAX =>
                {
                    attempt += 1;
                }
                outcome => return outcome,
            }
        }
    }

    fn drain_once(&self, staged: &mut StagedObject<'_>, key: &Key) -> Result<u64, Error> {
        let lake = |source| self.lake_failed("write", key, source);
        let failed = |source| Error::Staged { name: staged.name.clone(), source };
        let length = staged.file.metadata().map_err(failed)?.len();
        if self.adopt(staged, key)? {
            return self.check_length(key, length);
        }
        let mut writer = self.lake().writer(key, Purpose::Checkpoint).map_err(lake)?;
        let mut halfway = false;
        staged.read(&mut |piece, seen| {
            self.write_piece(&mut writer, key, piece)?;
            if !halfway && 2 * seen >= length {
                halfway = true;
                crash_point("checkpoint.drain");
            }
            Ok(())
        })?;
        writer.finish().map_err(lake)?;
        self.check_length(key, length)
    }

    /// Writes what is left of an object that is on its way, from the staged file.
    fn complete(&self, follow: Follow, staged: &StagedObject<'_>, key: &Key) -> Option<u64> {
        let (mut writer, sent) = follow.join(key)?;
        let length = staged.file.metadata().ok()?.len();
        let mut piece = vec![0; PIECE_BYTES];
        self.send(&staged.file, sent..length, &mut piece, &mut writer, key).ok()?;
        crash_point("checkpoint.drain");
        writer.finish().ok()?;
        self.check_length(key, length).ok()
    }

    pub(crate) fn write_piece(
        &self,
        writer: &mut LakeWriter,
        key: &Key,
        piece: &[u8],
    ) -> Result<(), Error> {
        let unwritten = |error| self.lake_failed("write", key, self.unwritten(key, error));
        writer.write_all(piece).map_err(unwritten)
    }

    /// Gives the file to a lake that can take it as it is.
    fn adopt(&self, staged: &mut StagedObject<'_>, key: &Key) -> Result<bool, Error> {
        if !self.adopts_staged() {
            return Ok(false);
        }
        if !staged.is_verified {
            staged.read(&mut |_, _| Ok(()))?;
            staged.is_verified = true;
        }
        crash_point("checkpoint.drain");
        let adopted = self.lake().adopt(&staged.file, key, Purpose::Checkpoint);
        adopted.map_err(|source| self.lake_failed("write", key, source))
    }

    fn check_length(&self, key: &Key, length: u64) -> Result<u64, Error> {
        match self.lake().size(key).map_err(|source| self.lake_failed("look up", key, source))? {
            Some(found) if found == length => Ok(length),
            _ => Err(Error::Missing { object: key.clone(), lake: self.lake().url().to_owned() }),
        }
    }

    pub(crate) fn lake_failed(
        &self,
        act: &'static str,
        key: &Key,
        source: forebay_lake::Error,
    ) -> Error {
        let (object, lake) = (key.clone(), self.lake().url().to_owned());
        Error::Lake { act, object, lake, source: Box::new(source) }
    }

    fn unwritten(&self, key: &Key, source: io::Error) -> forebay_lake::Error {
        let place = self.lake().url().to_owned();
        forebay_lake::Error::Object { act: "write", key: key.clone(), place, source }
    }
}
