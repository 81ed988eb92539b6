//! Draining: what is staged on this node becomes an object in the lake.
//!
//! The staged file is read once, in pieces; its digest is computed on the way, and the object
//! appears only if the digest is the expected one. So bytes that went bad on the node never reach
//! the lake. The caller releases the staged file when it no longer needs it.
//!
//! # Bounds
//! One piece of memory, whatever the file's length. A drain whose request fails for a passing
//! reason is made again from the start, a few times; [`forebay_lake::Lake`] waits in between.
//!
//! # After a crash
//! The object is there, whole, or it is not; the staged file stays, and draining it again gives
//! the same object.

use std::io::{self, Read, Write};

use forebay_lake::Purpose;
use forebay_runtime::crash_point;
use forebay_types::{Digest, DigestWriter, Key};

use crate::{Error, Transfer};

const PIECE_BYTES: usize = 1 << 20;
const ATTEMPTS_MAX: u32 = 3;

impl Transfer {
    /// Writes the file staged as `name` to the lake as `key`; returns its length.
    ///
    /// # Errors
    /// [`Error::StagedDamaged`] when the staged bytes do not have `digest`; then nothing is
    /// written.
    pub fn drain(&self, name: &Key, key: &Key, digest: Digest) -> Result<u64, Error> {
        self.require_process()?;
        let mut attempt = 1;
        loop {
            match self.drain_once(name, key, digest) {
                Err(Error::Lake { source, .. })
                    if source.is_transient() && attempt < ATTEMPTS_MAX =>
                {
                    attempt += 1;
                }
                outcome => return outcome,
            }
        }
    }

    fn drain_once(&self, name: &Key, key: &Key, digest: Digest) -> Result<u64, Error> {
        let lake = |source| self.lake_failed("write", key, source);
        let local = |source| Error::Local { act: "read", object: name.clone(), source };
        let failed = |source| Error::Staged { name: name.clone(), source };
        let mut file = self.local().staged_file(name).map_err(local)?;
        let length = file.metadata().map_err(failed)?.len();
        let mut writer = self.lake().writer(key, Purpose::Checkpoint).map_err(lake)?;
        let mut seen = DigestWriter::new();
        let mut piece = vec![0; PIECE_BYTES];
        let mut halfway = false;
        loop {
            let count = file.read(&mut piece).map_err(failed)?;
            if count == 0 {
                break;
            }
            seen.update(&piece[..count]);
            writer.write_all(&piece[..count]).map_err(|error| lake(self.unwritten(key, error)))?;
            if !halfway && 2 * seen.len_bytes() >= length {
                halfway = true;
                crash_point("checkpoint.drain");
            }
        }
        if seen.finish() != digest {
            return Err(Error::StagedDamaged { name: name.clone(), digest });
        }
        writer.finish().map_err(lake)?;
        self.check_length(key, length)
    }

    fn check_length(&self, key: &Key, length: u64) -> Result<u64, Error> {
        match self.lake().size(key).map_err(|source| self.lake_failed("look up", key, source))? {
            Some(found) if found == length => Ok(length),
            _ => Err(Error::Missing { object: key.clone(), lake: self.lake().url().to_owned() }),
        }
    }

    fn lake_failed(&self, act: &'static str, key: &Key, source: forebay_lake::Error) -> Error {
        let (object, lake) = (key.clone(), self.lake().url().to_owned());
        Error::Lake { act, object, lake, source: Box::new(source) }
    }

    fn unwritten(&self, key: &Key, source: io::Error) -> forebay_lake::Error {
        let place = self.lake().url().to_owned();
        forebay_lake::Error::Object { act: "write", key: key.clone(), place, source }
    }
}
