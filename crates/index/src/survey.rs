//! What a file holds: found out once, and kept in the lake.
//!
//! The record's key is a digest over everything the survey depends on: the file's store, key,
//! length and time of writing, the dialect and its settings, the wanted length of extents. So a
//! file that changed is looked through again, and one that did not never is, by whichever run,
//! node or dataset. A file that was rewritten at the same length in the same millisecond would be
//! taken for the old one: its index would then name digests that its bytes do not have, which
//! every reader notices; [`crate::Index::fresh`] looks again.
//!
//! # After a crash
//! A survey is there whole or not at all: its first part is written last.

use std::{
    io,
    sync::atomic::{AtomicU64, Ordering},
};

use forebay_dialect::{Cut, Dialect};
use forebay_format::{
    record,
    v1::index::{BLOCK_BYTES, ExtentEntry, FileSurvey, survey_key},
};
use forebay_lake::{Lake, Purpose};
use forebay_runtime::{Runtime, crash_point};
use forebay_types::{Digest, DigestWriter, ErrorKind, Form, Schema};

use crate::{
    Error, Progress,
    assemble::pages,
    land::Lander,
    source::{File, Opened},
};

/// Changes when a dialect cuts files, or decodes extents, in another way than it did: surveys of
/// before are then not looked at.
const REVISION: u64 = 1;

/// What a file was found to hold.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Found {
    pub(crate) schema: Schema,
    pub(crate) context: String,
    pub(crate) extents: Vec<ExtentEntry>,
}

/// Looks through files, or remembers what was found.
pub(crate) struct Surveyor<'a> {
    /// Where surveys are kept.
    pub(crate) lake: &'a Lake,
    pub(crate) source: &'a Opened,
    pub(crate) lander: Lander<'a>,
    pub(crate) runtime: &'a Runtime,
    pub(crate) dialect: &'a dyn Dialect,
    pub(crate) extent_bytes: u64,
    pub(crate) progress: &'a dyn Progress,
    pub(crate) total_bytes: u64,
    /// Files that this run looked through, and their bytes.
    pub(crate) read_files: AtomicU64,
    pub(crate) read_bytes: AtomicU64,
}

impl Surveyor<'_> {
    /// What `file` holds. `remember`: a survey that is there is as good as a new one.
    pub(crate) fn survey(&self, file: &File, remember: bool) -> Result<Found, Error> {
        let of = self.depends_on(file, None);
        let known = if remember { self.load(file, of)? } else { None };
        match known {
            Some(found) => {
                self.progress.add(file.bytes, self.total_bytes);
                Ok(found)
            }
            None => {
                let progress = |bytes| self.progress.add(bytes, self.total_bytes);
                let found = self.make(file, None, progress)?;
                self.keep(file, of, &found)?;
                Ok(found)
            }
        }
    }

    /// What `file` holds, with extents as they are in a dataset of `schema`. A dialect that decodes
    /// its extents may do so by the schema, so where the file's own differs, they are made again.
    pub(crate) fn under(
        &self,
        file: &File,
        schema: &Schema,
        remember: bool,
    ) -> Result<Found, Error> {
        // The survey was made a moment ago, by us or before.
        let found = match self.load(file, self.depends_on(file, None))? {
            Some(found) => found,
            None => self.make(file, None, |_| ())?,
        };
        let by_schema = |extent: &ExtentEntry| matches!(extent.form, Form::Dialect(_));
        if found.schema == *schema || !found.extents.iter().any(by_schema) {
            return Ok(found);
        }
        let of = self.depends_on(file, Some(schema));
        if let Some(found) = if remember { self.load(file, of)? } else { None } {
            return Ok(found);
        }
        let found = self.make(file, Some(schema), |_| ())?;
        self.keep(file, of, &found)?;
        Ok(found)
    }

    fn depends_on(&self, file: &File, schema: Option<&Schema>) -> Digest {
        let mut digest = DigestWriter::for_context("forebay index 1: survey of a file");
        let mut text = |text: &str| {
            digest.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
        };
        text(self.source.store.as_deref().unwrap_or_default());
        text(file.key.as_str());
        text(self.dialect.name());
        // A dialect is plain settings, and this prints them.
        text(&format!("{:?}", self.dialect));
        text(&schema.map(|schema| format!("{schema:?}")).unwrap_or_default());
        for number in [REVISION, file.bytes, file.modified_unix_ms, self.extent_bytes] {
            digest.update(&number.to_le_bytes());
        }
        digest.finish()
    }

    /// The survey that is kept, if it is there and sound: if it is not, another can be made.
    fn load(&self, file: &File, of: Digest) -> Result<Option<Found>, Error> {
        let Some(first) = self.load_part(file, of, 0)? else { return Ok(None) };
        let FileSurvey { parts, schema, context, mut extents, .. } = first;
        for part in 1..parts {
            match self.load_part(file, of, part)? {
                Some(more) if more.parts == parts => extents.extend(more.extents),
                _ => return Ok(None),
            }
        }
        Ok(Some(Found { schema, context, extents }))
    }

    fn load_part(&self, file: &File, of: Digest, part: u32) -> Result<Option<FileSurvey>, Error> {
        let key = survey_key(of, part);
        let bytes = self.lake.read(&key, Purpose::Manifest, record::LEN_BYTES_MAX)?;
        let Some(bytes) = bytes else { return Ok(None) };
        match record::decode::<FileSurvey>(&bytes, key.as_str()) {
            Ok((survey, _)) => {
                Ok(Some(survey).filter(|survey| survey.part == part && survey.file == file.key))
            }
            Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::NewerFormat) => {
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn keep(&self, file: &File, of: Digest, found: &Found) -> Result<(), Error> {
        let mut parts: Vec<&[ExtentEntry]> = pages(&found.extents).collect();
        if parts.is_empty() {
            parts.push(&[]);
        }
        for (part, extents) in parts.iter().enumerate().rev() {
            let survey = FileSurvey {
                file: file.key.clone(),
                part: part as u32,
                parts: parts.len() as u32,
                schema: found.schema.clone(),
                context: found.context.clone(),
                extents: extents.to_vec(),
            };
            let (bytes, _) = record::encode(&survey)?;
            self.lake.write(&survey_key(of, survey.part), Purpose::Manifest, &bytes)?;
        }
        crash_point("index.file");
        Ok(())
    }

    /// Looks through the file.
    fn make(
        &self,
        file: &File,
        schema: Option<&Schema>,
        progress: impl Fn(u64),
    ) -> Result<Found, Error> {
        let found = self.lander.with(file, progress, |stored| {
            let object = file.key.as_str();
            let survey = self.dialect.survey(stored, object, self.extent_bytes);
            let survey = survey.map_err(|error| self.refused(error))?;
            let schema = schema.unwrap_or(&survey.schema);
            let (mut extents, mut end) = (Vec::with_capacity(survey.cuts.len()), 0);
            // A file without rows may still be one extent.
            for cut in survey.cuts.iter().filter(|cut| cut.rows > 0) {
                self.runtime.check()?;
                let bytes = self.cut(file, stored, cut, end)?;
                end = cut.offset + cut.bytes;
                extents.push(self.extent(file, bytes, cut, schema)?);
            }
            Ok(Found { schema: survey.schema, context: survey.context, extents })
        })?;
        self.read_files.fetch_add(1, Ordering::Relaxed);
        self.read_bytes.fetch_add(file.bytes, Ordering::Relaxed);
        Ok(found)
    }

    /// The bytes of a cut, which must start at `end` or later.
    fn cut<'b>(
        &self,
        file: &File,
        stored: &'b [u8],
        cut: &Cut,
        end: u64,
    ) -> Result<&'b [u8], Error> {
        let until = cut.offset.checked_add(cut.bytes).filter(|_| cut.offset >= end);
        let bytes = until.and_then(|until| stored.get(cut.offset as usize..until as usize));
        bytes.ok_or_else(|| {
            let (offset, length) = (cut.offset, cut.bytes);
            let what = format!("{length} bytes of rows at {offset}, after some that end at {end}");
            Error::Survey { file: file.key.clone(), dialect: self.dialect.name(), what }
        })
    }

    fn extent(
        &self,
        file: &File,
        stored: &[u8],
        cut: &Cut,
        schema: &Schema,
    ) -> Result<ExtentEntry, Error> {
        let mut proof = Proof::default();
        match &cut.form {
            Form::Plain => proof.update(stored),
            form => self
                .dialect
                .decode(stored, form, schema, file.key.as_str(), &mut proof)
                .map_err(|error| self.refused(error))?,
        }
        let (digest, bytes, blocks_crc32c) = proof.finish();
        Ok(ExtentEntry {
            file: file.key.clone(),
            offset: cut.offset,
            stored_bytes: cut.bytes,
            form: cut.form.clone(),
            digest,
            bytes,
            rows: cut.rows,
            blocks_crc32c,
        })
    }

    fn refused(&self, source: forebay_dialect::Error) -> Error {
        Error::Dialect { store: self.source.url().into(), source }
    }
}

/// Digest and checksums of content that goes by: decoded content may be larger than memory and
/// than the scratch space, and nobody needs it here.
#[derive(Debug, Default)]
struct Proof {
    digest: DigestWriter,
    /// Checksums of whole blocks.
    blocks: Vec<u32>,
    /// The checksum of the block that is not whole yet.
    block: u32,
}

impl Proof {
    fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = BLOCK_BYTES - self.digest.len_bytes() % BLOCK_BYTES;
            let (now, later) = bytes.split_at(bytes.len().min(room as usize));
            self.block = crc32c::crc32c_append(self.block, now);
            self.digest.update(now);
            if self.digest.len_bytes().is_multiple_of(BLOCK_BYTES) {
                self.blocks.push(std::mem::take(&mut self.block));
            }
            bytes = later;
        }
    }

    fn finish(mut self) -> (Digest, u64, Vec<u32>) {
        let bytes = self.digest.len_bytes();
        if !bytes.is_multiple_of(BLOCK_BYTES) {
            self.blocks.push(self.block);
        }
        (self.digest.finish(), bytes, self.blocks)
    }
}

impl io::Write for Proof {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proofs_do_not_depend_on_how_content_comes() {
        let content: Vec<u8> = (0..2 * BLOCK_BYTES + 77).map(|n| ((n * n) >> 7) as u8).collect();
        let blocks: Vec<u32> = content.chunks(BLOCK_BYTES as usize).map(crc32c::crc32c).collect();
        for pieces in [1000, 4096, BLOCK_BYTES as usize, content.len()] {
            let mut proof = Proof::default();
            content.chunks(pieces).for_each(|piece| proof.update(piece));
            let wanted = (Digest::of(&content), content.len() as u64, blocks.clone());
            assert_eq!(proof.finish(), wanted, "{pieces}");
        }
        assert_eq!(Proof::default().finish(), (Digest::of(b""), 0, vec![]));
    }
}
