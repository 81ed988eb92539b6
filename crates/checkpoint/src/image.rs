//! The image: the state of a save as this node still has it in memory, to be restored from.
//!
//! A capture holds every tensor of its rank, those too that its save referred to in earlier files. It is
//! read as a file, without the lock of whoever captured it, in this process or another. So it may begin
//! to change for the next capture while it is read; what is read is therefore compared with its record
//! where it was copied to, and what differs is read from the next tier.
//!
//! # Bounds
//! The record of the capture, of at most [`record::LEN_BYTES_MAX`], and a place for each tensor.

use std::{collections::HashMap, fs::File, os::unix::fs::FileExt};

use forebay_format::{
    record,
    v1::{
        capture::{CaptureRecord, Label},
        checkpoint::{RankRecord, TensorEntry, TensorPart},
    },
};
use forebay_local::LocalTier;
use forebay_types::Key;

use crate::{
    Error,
    capture::kept_as,
    source::{Source, Stored},
};

/// Where the tensors of a rank lie in this node's memory.
pub(crate) struct Image {
    pub source: Source<'static>,
    /// Offset and length of each, by its name and what it is a part of.
    places: HashMap<(String, Option<TensorPart>), (u64, u64)>,
}

impl Image {
    /// The image of the save that `record` describes, if this node has it and it looks sound.
    pub(crate) fn find(local: &LocalTier, record: &RankRecord) -> Option<Self> {
        let name = kept_as(&record.run, record.step, record.attempt, record.rank);
        let file = local.staged_memory_file(&name).ok()??;
        Self::read(file, name).ok()
    }

    fn read(file: File, name: Key) -> Result<Self, Error> {
        let failed = |source| Error::file("read", &name)(source);
        let cut = || Error::object(&name, "it is shorter than its label says");
        let mut label = [0; Label::BYTES];
        let length = file.metadata().map_err(&failed)?.len();
        let label_start = length.checked_sub(label.len() as u64).ok_or_else(cut)?;
        file.read_exact_at(&mut label, label_start).map_err(&failed)?;
        let Label { image_bytes, record_bytes } = Label::decode(&label, name.as_str())?;
        let record_end = image_bytes.checked_add(record_bytes);
        record_end
            .filter(|&end| end <= label_start && record_bytes <= record::LEN_BYTES_MAX)
            .ok_or_else(cut)?;
        let mut body = vec![0; record_bytes as usize];
        file.read_exact_at(&mut body, image_bytes).map_err(&failed)?;
        let (record, _) = record::decode::<CaptureRecord>(&body, name.as_str())?;
        let facts = &record.facts;
        if kept_as(&facts.run, facts.step, facts.attempt, facts.rank) != name {
            return Err(Error::object(&name, "it does not belong where it lies"));
        }
        let plan = record.plan()?;
        if plan.file_bytes != image_bytes {
            return Err(Error::object(&name, "its image is not what its record says"));
        }
        let tensors = record.tensors.into_iter().zip(plan.places);
        let places = tensors
            .map(|(tensor, (_, place))| ((tensor.name, tensor.part), (place.offset, place.bytes)));
        Ok(Self { places: places.collect(), source: Source::Memory(file, name) })
    }

    /// Where a tensor lies in it, always as it is.
    pub(crate) fn place_of(&self, entry: &TensorEntry) -> Option<Stored> {
        let (offset, bytes) = self.places.get(&(entry.name.clone(), entry.part.clone()))?;
        (*bytes == entry.bytes).then_some(Stored { offset: *offset, encoded: None })
    }
}
