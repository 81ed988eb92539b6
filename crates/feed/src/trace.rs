//! Tracing: from a step to its samples, and from them to the raw records they were made of.
//!
//! Nothing was logged while training: the order says which rows a step read, and the side file of
//! each shard says where its rows come from.

use std::{collections::HashMap, sync::Arc};

use forebay_format::v1::{
    dataset::{DatasetManifest, ShardEntry, origin_key},
    origin::{OriginReader, Span},
};
use forebay_transfer::{Transfer, dataset::origin_object};
use forebay_types::{Digest, Key, Name, Rank, SampleId};
use serde::Serialize;

use crate::{
    Cursor, Error, FeedDataset, FeedSettings, Place,
    course::Course,
    dataset::{indexed, prepared},
    mixture::by_samples,
    shelf::Shelf,
    source::{Indexed, Prepared, Source},
};

/// A sample of a step, and what it was made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TracedSample {
    /// The dataset it was drawn from.
    pub dataset: Name,
    /// Its identity.
    pub id: SampleId,
    /// The shard it lies in, in stored order from 0; in an indexed dataset, the extent.
    pub shard: u64,
    /// The digest of that.
    pub shard_digest: Digest,
    /// Its row there.
    pub row: u32,
    /// What people know it by, where the format names samples.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// The pieces it consists of, in order.
    pub origins: Vec<Origin>,
}

/// A piece of a sample and the raw record it comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Origin {
    /// The source object's name.
    pub source: String,
    /// The record's number in it, from 0; in an indexed dataset, in the byte range given here.
    pub record: u64,
    /// Where the record starts in it, decompressed; in an indexed dataset, where the range of
    /// whole rows that it lies in starts, as stored.
    pub offset: u64,
    /// The length of that.
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
    datasets: &[FeedDataset<'_>],
    settings: &FeedSettings,
    step: u64,
) -> Result<Vec<TracedSample>, Error> {
    settings.check(datasets.len())?;
    let mut tracers = Vec::with_capacity(datasets.len());
    for dataset in datasets {
        tracers.push(Tracer::open(transfer, dataset, step)?);
    }
    let names = datasets.iter().map(FeedDataset::name);
    let schemas = tracers.iter().map(|tracer| tracer.source().schema());
    let settings = &*by_samples(settings, names.zip(schemas))?;
    let shapes: Vec<_> = tracers.iter().map(|tracer| tracer.source().shape()).collect();
    let course = Course::new(&shapes, settings, Rank::ALONE, Cursor::default())?;
    if let Some(steps) = course.steps().filter(|steps| step >= *steps) {
        return Err(Error::NoStep { step, steps });
    }
    let samples = course.positions(step).map(|position| course.sample(position));
    samples
        .map(|sample| {
            let place = course.epoch(sample.dataset, sample.epoch).place(sample.position);
            tracers[sample.dataset].sample(place)
        })
        .collect()
}

/// What leads from the rows of one dataset to what they were made of.
enum Tracer<'a> {
    Prepared(PreparedTracer<'a>),
    Indexed { source: Arc<Indexed>, name: &'a Name, shelf: Shelf, step: u64 },
}

impl<'a> Tracer<'a> {
    fn open(transfer: &'a Transfer, dataset: &FeedDataset<'a>, step: u64) -> Result<Self, Error> {
        Ok(match *dataset {
            FeedDataset::Prepared(manifest, split) => {
                let source = Arc::new(prepared(transfer, manifest, split)?);
                let sources: [Arc<dyn Source>; 1] = [source.clone()];
                let shelf = Shelf::new(transfer, &sources);
                let origins = HashMap::new();
                Self::Prepared(PreparedTracer { transfer, manifest, source, shelf, step, origins })
            }
            FeedDataset::Indexed(manifest, split) => {
                let source = Arc::new(indexed(transfer, manifest, split)?);
                let sources: [Arc<dyn Source>; 1] = [source.clone()];
                let (shelf, name) = (Shelf::new(transfer, &sources), &manifest.name);
                Self::Indexed { source, name, shelf, step }
            }
        })
    }

    fn source(&self) -> &dyn Source {
        match self {
            Self::Prepared(tracer) => &*tracer.source,
            Self::Indexed { source, .. } => &**source,
        }
    }

    fn sample(&mut self, place: Place) -> Result<TracedSample, Error> {
        match self {
            Self::Prepared(tracer) => tracer.sample(place.shard, place.row),
            Self::Indexed { source, name, shelf, step } => {
                let unread = |error| Error::Read { step: *step, source: Box::new(error) };
                let ((entry, _, number), row) = source.located(place).map_err(unread)?;
                let open = shelf.extent_of((0, number), row, *step)?;
                let origin = Origin {
                    source: entry.file.to_string(),
                    record: u64::from(row),
                    offset: entry.offset,
                    bytes: entry.stored_bytes,
                    token_start: 0,
                    tokens: 0,
                };
                Ok(TracedSample {
                    dataset: (*name).clone(),
                    id: open.rows.id(row),
                    shard: number,
                    shard_digest: entry.digest,
                    row,
                    label: open.rows.label(row),
                    origins: vec![origin],
                })
            }
        }
    }
}

struct PreparedTracer<'a> {
    transfer: &'a Transfer,
    manifest: &'a DatasetManifest,
    source: Arc<Prepared>,
    shelf: Shelf,
    step: u64,
    /// Decoded side files: as many as the step has shards.
    origins: HashMap<u32, Arc<OriginReader>>,
}

impl PreparedTracer<'_> {
    fn sample(&mut self, shard: u32, row: u32) -> Result<TracedSample, Error> {
        let entry = self.source.shards().get(shard).map_err(|source| self.unread(source))?;
        let open = self.shelf.extent_of((0, u64::from(shard)), row, self.step)?;
        let origins = self.origin(shard, &entry)?;
        let spans = origins.row(row);
        let origins =
            spans.iter().map(|span| self.name(span, &entry)).collect::<Result<Vec<_>, _>>()?;
        Ok(TracedSample {
            dataset: self.manifest.name.clone(),
            id: open.rows.id(row),
            shard: u64::from(shard),
            shard_digest: entry.digest,
            row,
            label: None,
            origins,
        })
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
