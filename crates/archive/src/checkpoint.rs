//! The weights of a checkpoint, as they become the weights of a package.
//!
//! The archive meets checkpoints in their published records, not in the code that makes them.
//! Tensors named `model.…` are taken and lose that prefix: in a file that holds nothing but the
//! model it says nothing, and the loaders of other libraries expect names without it.

use forebay_format::{
    record,
    v1::{
        checkpoint::{CommitRecord, RankRecord, TensorEntry, commit_key, rank_key},
        encoding::Decoder,
        package::WeightEntry,
        tensors::{self, TensorPlan, TensorSpec},
    },
};
use forebay_lake::{Lake, Purpose};
use forebay_runtime::Runtime;
use forebay_types::{Digest, DigestWriter, ErrorKind, Key, Name};

use crate::Error;

/// What tells a weight from the rest of a training state.
const PREFIX: &str = "model.";

/// Bytes read at once.
const PIECE_BYTES: u64 = 8 << 20;

/// Takes a file piece by piece.
pub(crate) type Take<'a> = &'a mut dyn FnMut(&[u8]) -> Result<(), Error>;

/// The weights of a committed checkpoint, planned as one tensor file.
pub(crate) struct Weights {
    plan: TensorPlan,
    /// In the order of the planned file.
    tensors: Vec<Weight>,
}

struct Weight {
    /// The file it lies in now.
    key: Key,
    entry: TensorEntry,
    name: String,
}

impl Weights {
    /// The weights of `run` at `step`, whose commit must have the digest `commit`.
    pub(crate) fn open(lake: &Lake, run: &Name, step: u64, commit: Digest) -> Result<Self, Error> {
        let found = weights(lake, run, step, commit)?;
        if found.is_empty() {
            return Err(Error::NoWeights { run: run.clone(), step });
        }
        let spec = |weight: &Weight| TensorSpec {
            name: weight.name.clone(),
            dtype: weight.entry.dtype,
            shape: weight.entry.shape.clone(),
        };
        let plan = tensors::plan(&found.iter().map(spec).collect::<Vec<_>>())?;
        let mut found: Vec<_> = found.into_iter().map(Some).collect();
        let tensors = plan.places.iter().filter_map(|(index, _)| found[*index].take()).collect();
        Ok(Self { plan, tensors })
    }

    /// The digest of what stands before the data.
    pub(crate) fn header(&self) -> Digest {
        Digest::of(&self.plan.header)
    }

    /// What the file will hold.
    pub(crate) fn entries(&self) -> Vec<WeightEntry> {
        let entry = |weight: &Weight| WeightEntry {
            name: weight.name.clone(),
            digest: weight.entry.digest,
        };
        self.tensors.iter().map(entry).collect()
    }

    /// The numbers the model consists of.
    pub(crate) fn parameters(&self) -> u64 {
        self.tensors.iter().map(|weight| weight.entry.shape.iter().product::<u64>()).sum()
    }

    /// Hands the file to `take`; each tensor is read once, and verified on the way.
    pub(crate) fn stream(
        &self,
        lake: &Lake,
        runtime: &Runtime,
        model: &Name,
        take: Take<'_>,
    ) -> Result<(), Error> {
        take(&self.plan.header)?;
        let mut piece = Vec::new();
        for weight in &self.tensors {
            let mut digest = DigestWriter::new();
            let mut values = |values: &[u8]| {
                digest.update(values);
                take(values)
            };
            let mut decoder = weight.decoder()?;
            let end = weight.entry.offset + weight.entry.stored_bytes();
            let mut offset = weight.entry.offset;
            while offset < end {
                runtime.check()?;
                piece.resize((end - offset).min(PIECE_BYTES) as usize, 0);
                weight.read(lake, model, offset, &mut piece)?;
                match &mut decoder {
                    Some(decoder) => decoder.push(&piece, &mut values)?,
                    None => values(&piece)?,
                }
                offset += piece.len() as u64;
            }
            decoder.map_or(Ok(()), Decoder::finish)?;
            if digest.finish() != weight.entry.digest {
                return Err(weight.damaged("it does not have the digest it was stored with"));
            }
        }
        Ok(())
    }
}

impl Weight {
    /// What decodes it, if it is stored encoded.
    fn decoder(&self) -> Result<Option<Decoder>, Error> {
        let TensorEntry { bytes, dtype, encoded, .. } = &self.entry;
        let decoder =
            encoded.map(|encoded| Decoder::new(encoded, (*bytes, dtype.bytes()), self.described()));
        Ok(decoder.transpose()?)
    }

    fn described(&self) -> String {
        format!("{}, tensor `{}`", self.key, self.entry.name)
    }

    fn read(&self, lake: &Lake, model: &Name, offset: u64, into: &mut [u8]) -> Result<(), Error> {
        match lake.read_range(&self.key, Purpose::Checkpoint, offset, into) {
            Err(error) if error.kind() == ErrorKind::NotFound => Err(self.damaged("it is missing")),
            outcome => outcome.map_err(|source| Error::Lake {
                act: "read the weights of",
                model: model.clone(),
                source,
            }),
        }
    }

    fn damaged(&self, what: &str) -> Error {
        forebay_format::Error::damaged(self.described(), what).into()
    }
}

/// Every weight of every rank of a committed step.
fn weights(lake: &Lake, run: &Name, step: u64, wanted: Digest) -> Result<Vec<Weight>, Error> {
    let key = commit_key(run, step);
    let (commit, digest) = read::<CommitRecord>(lake, &key)?;
    if digest != wanted || commit.run != *run || commit.step != step {
        let what = "it is not the checkpoint that was evaluated; evaluate it again";
        return Err(forebay_format::Error::damaged(key, what).into());
    }
    let mut found = Vec::new();
    for (rank, wanted) in (0..).zip(commit.ranks) {
        let key = rank_key(run, step, rank, wanted);
        let (record, digest) = read::<RankRecord>(lake, &key)?;
        if digest != wanted || record.rank != rank {
            return Err(forebay_format::Error::damaged(key, "it is another rank's record").into());
        }
        found.extend(record.tensors.iter().filter_map(|entry| {
            let name = entry.name.strip_prefix(PREFIX)?.to_owned();
            Some(Weight { key: record.file_key(entry), entry: entry.clone(), name })
        }));
    }
    Ok(found)
}

fn read<R: record::Record>(lake: &Lake, key: &Key) -> Result<(R, Digest), Error> {
    let bytes = lake
        .read(key, Purpose::Checkpoint, record::LEN_BYTES_MAX)
        .map_err(|source| Error::Record { object: key.clone(), source })?
        .ok_or_else(|| Error::Missing { object: key.clone(), lake: lake.url().to_owned() })?;
    Ok(record::decode(&bytes, key.as_str())?)
}
