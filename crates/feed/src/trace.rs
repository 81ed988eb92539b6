//! Tracing: from a step to its samples, and from them to the raw records they were made of.
//!
//! Nothing was logged while training: the order says which rows a step read, and the side file of
//! each shard says where its rows come from.

use std::{collections::HashMap, sync::Arc};

use forebay_format::v1::{
    dataset::{DatasetManifest, ShardEntry, origin_key},
    origin::{OriginReader, Span},
};
use forebay_transfer::{
    Transfer,
    dataset::{Shards, origin_object},
};
use forebay_types::{Digest, Key, Rank, SampleId, Split};
use serde::Serialize;

use crate::{
    Cursor, Error, FeedSettings,
    course::Course,
    feed::empty,
    shelf::Shelf,
    source::{Prepared, Source},
    stats::Timeline,
};

/// A sample of a step, and what it was made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TracedSample {
    /// Its identity.
    pub id: SampleId,
    /// The shard it lies in, in stored order from 0.
    pub shard: u32,
    /// The shard's digest.
    pub shard_digest: Digest,
    /// Its row there.
    pub row: u32,
    /// The pieces it consists of, in order.
    pub origins: Vec<Origin>,
}

/// A piece of a sample and the raw record it comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Origin {
    /// The source object's name.
    pub source: String,
    /// The record's number in it, from 0.
    pub record: u64,
    /// Where the record starts in it, decompressed.
    pub offset: u64,
    /// The record's length.
    pub bytes: u64,
    /// The first token of the piece, counted in the record.
    pub token_start: u32,
    /// The tokens of the piece.
    pub tokens: u32,
}

/// The samples of the global batch of `step`, in order, with their origins.
///
/// # Errors
/// When there is no such step, or a shard or side file cannot be had.
pub fn trace(
    transfer: &Transfer,
    manifest: &DatasetManifest,
    split: Split,
    settings: &FeedSettings,
    step: u64,
) -> Result<Vec<TracedSample>, Error> {
    settings.check(1)?;
    let entry = manifest.split(split).filter(|entry| entry.rows > 0);
    let entry = entry.ok_or_else(|| empty(&manifest.name, split))?;
    let source = Arc::new(Prepared::new(transfer.lake(), manifest, entry));
    let course = Course::new(&[source.shape()], settings, Rank::ALONE, Cursor::default())?;
    if let Some(steps) = course.steps().filter(|steps| step >= *steps) {
        return Err(Error::NoStep { step, steps });
    }
    let sources: [Arc<dyn Source>; 1] = [source.clone()];
    let shelf = Shelf::new(transfer, &sources);
    let shards = source.shards().clone();
    let mut tracer = Tracer { shelf, transfer, manifest, shards, step, origins: HashMap::new() };
    let places = course.positions(step).map(|position| {
        let sample = course.sample(position);
        course.epoch(sample.dataset, sample.epoch).place(sample.position)
    });
    places.map(|place| tracer.sample(place.shard, place.row)).collect()
}

struct Tracer<'a> {
    transfer: &'a Transfer,
    manifest: &'a DatasetManifest,
    shards: Shards,
    shelf: Shelf,
    step: u64,
    /// Decoded side files: as many as the step has shards.
    origins: HashMap<u32, Arc<OriginReader>>,
}

impl Tracer<'_> {
    fn sample(&mut self, shard: u32, row: u32) -> Result<TracedSample, Error> {
        let entry = self.shards.get(shard).map_err(|source| self.unread(source))?;
        let (slot, rows) = ((0, u64::from(shard)), std::iter::once(row));
        let open = self.shelf.extent(slot, rows, u64::MAX, self.step, &mut Timeline::default())?;
        let origins = self.origin(shard, &entry)?;
        let spans = origins.row(row);
        let origins =
            spans.iter().map(|span| self.name(span, &entry)).collect::<Result<Vec<_>, _>>()?;
        let id = open.rows.id(row);
        Ok(TracedSample { id, shard, shard_digest: entry.digest, row, origins })
    }

    fn origin(&mut self, shard: u32, entry: &ShardEntry) -> Result<Arc<OriginReader>, Error> {
        if let Some(reader) = self.origins.get(&shard) {
            return Ok(reader.clone());
        }
        let object = origin_object(entry.origin);
        let mut file = self.transfer.fetch(&object).map_err(|source| self.unread(source))?;
        if Digest::of(&file) != object.digest {
            file = self.transfer.refetch(&object).map_err(|source| self.unread(source))?;
        }
        let reader = OriginReader::new(&file, object.key.as_str())
            .map_err(|source| self.damaged(&object.key, source))?;
        if reader.rows() != entry.rows as usize {
            let what = format!("it has {} rows, its shard {}", reader.rows(), entry.rows);
            let source = forebay_format::Error::damaged(&object.key, what);
            return Err(self.damaged(&object.key, source));
        }
        let reader = Arc::new(reader);
        self.origins.insert(shard, reader.clone());
        Ok(reader)
    }

    fn name(&self, span: &Span, entry: &ShardEntry) -> Result<Origin, Error> {
        let Span { source, record, offset, bytes, token_start, tokens } = *span;
        let Some(named) = self.manifest.sources.get(source as usize) else {
            let key = origin_key(entry.origin.digest);
            let what = format!("it names source {source}, which the manifest does not have");
            return Err(self.damaged(&key, forebay_format::Error::damaged(&key, what)));
        };
        Ok(Origin { source: named.name.clone(), record, offset, bytes, token_start, tokens })
    }

    fn unread(&self, source: forebay_transfer::Error) -> Error {
        Error::Read { step: self.step, source: Box::new(source) }
    }

    fn damaged(&self, object: &Key, source: forebay_format::Error) -> Error {
        Error::Damaged { step: self.step, object: object.clone(), source: source.into() }
    }
}
