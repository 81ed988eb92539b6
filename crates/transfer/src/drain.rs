//! Draining: a staged file goes to the lake, verified on the way.
//!
//! The staged file stays until its owner releases it, which is after the commit that names the
//! lake's object.

use std::io::{Read, Write};

use forebay_lake::Purpose;
use forebay_types::{Digest, DigestWriter, Key};

use crate::{Error, Transfer};

/// Bytes in memory while draining.
const PIECE_BYTES: usize = 4 << 20;

impl Transfer {
    /// Copies the staged file `name` to `key`, unless the lake has it already; returns its length.
    ///
    /// # Errors
    /// [`Error::StagedDamaged`] when the staged bytes do not have `digest`: then nothing was
    /// written.
    pub fn drain(&self, name: &Key, key: &Key, digest: Digest) -> Result<u64, Error> {
        let local = |source| Error::Local { act: "drain", object: name.clone(), source };
        let lake = |source| Error::Lake {
            act: "drain to",
            object: key.clone(),
            lake: self.lake().url().into(),
            source: Box::new(source),
        };
        let failed = |source| Error::Drain { name: name.clone(), key: key.clone(), source };
        let mut file = self.local().staged_file(name).map_err(local)?;
        let mut writer = self.lake().writer(key, Purpose::Checkpoint).map_err(lake)?;
        let mut seen = DigestWriter::new();
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            let read = file.read(&mut piece).map_err(failed)?;
            if read == 0 {
                break;
            }
            seen.update(&piece[..read]);
            writer.write_all(&piece[..read]).map_err(failed)?;
        }
        if seen.finish() != digest {
            return Err(Error::StagedDamaged { name: name.clone() });
        }
        writer.finish().map_err(lake)
    }
}
