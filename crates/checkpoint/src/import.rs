//! Importing: weights that other tools wrote, as a committed step of a run.
//!
//! ```text
//! safetensors files ──pass 1──> digests, which name the file and stand in the record
//!                   ──pass 2──> tensor file in the lake ──> rank record ──> commit
//! ```
//!
//! A tensor file is named by its digest, so the source is read twice. What is read the second time
//! must digest to what it did the first time before the file comes to exist: a source that changes
//! meanwhile is refused. Values are never looked at; they arrive bit for bit.
//!
//! # Bounds
//! Beside the tensors' names: a piece of [`PIECE_BYTES`], and what the lake's writer takes, whatever
//! the size of the model or of a tensor. Nothing is written on this node.
//!
//! # After a crash
//! Nothing, or objects that no commit names, see [`crate::adopt`].

use std::{io::Write, path::Path};

use forebay_format::v1::{
    checkpoint::{self, RankRecord, TensorEntry},
    dataset::ObjectEntry,
    tensors::{self, TensorPlan, TensorSpec},
};
use forebay_lake::{Lake, Purpose};
use forebay_runtime::Runtime;
use forebay_types::{Checksum, ChecksumWriter, Digest, DigestWriter, Name, Position};
use serde::Serialize;

use crate::{
    Error,
    adopt::{Adopted, adopt, is_committed},
    tree,
    weights::WeightFiles,
};

const PIECE_BYTES: usize = 4 << 20;

/// What was imported.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Imported {
    /// The run.
    pub run: Name,
    /// The step it is now.
    pub step: u64,
    /// The number of tensors.
    pub tensors: u64,
    /// The files they were read from.
    pub files: u64,
    /// The bytes of the tensor file in the lake.
    pub bytes: u64,
    /// Whether it was there already, from an import of the same weights.
    pub existed: bool,
}

/// What the tensors of a source are.
#[derive(Clone, Debug, PartialEq)]
pub enum Meaning {
    /// The tensors of the state of this name, `model` by custom: `x` is stored as `model.x`, and
    /// Python gets it back as `load_checkpoint(…)["model"]["x"]`.
    State(String),
    /// Those that this metadata names: each is stored under its own name.
    Metadata(serde_json::Value),
}

/// Commits the tensors in `source` as step `step` of `run`: a safetensors file, or a directory as
/// Hugging Face lays it out.
///
/// # Errors
/// [`Error::Source`] and the format's error say what is wrong with which file of the source.
/// [`Error::Conflict`] when the step is committed with another state.
pub fn import(
    lake: &Lake,
    runtime: &Runtime,
    run: &Name,
    step: u64,
    meaning: &Meaning,
    source: &Path,
) -> Result<Imported, Error> {
    let source = Source::open(source, meaning)?;
    let digests = source.pass(runtime, |_| Ok(()))?;
    let record = source.record(runtime, run, step, &digests);
    let mut imported = Imported {
        run: run.clone(),
        step,
        tensors: record.tensors.len() as u64,
        files: source.files.files() as u64,
        bytes: record.file.bytes,
        existed: true,
    };
    let records = vec![record];
    if !is_committed(lake, &records)? {
        source.write(lake, runtime, run, step, &digests)?;
        imported.existed = adopt(lake, records)? == Adopted::Existed;
    }
    Ok(imported)
}

/// Files to import, and the file that they become.
struct Source<'a> {
    path: &'a Path,
    meaning: &'a Meaning,
    files: WeightFiles,
    plan: TensorPlan,
}

/// What a pass over a source found.
#[derive(PartialEq, Eq)]
struct Digests {
    file: Digest,
    /// In the order of the plan.
    tensors: Vec<(Digest, Checksum)>,
}

impl<'a> Source<'a> {
    fn open(path: &'a Path, meaning: &'a Meaning) -> Result<Self, Error> {
        if matches!(meaning, Meaning::State(state) if !tree::is_state_name(state)) {
            return Err(Error::source(path, "a state needs a name, which does not start with `$`"));
        }
        let files = WeightFiles::open(path)?;
        let specs = files.weights().iter().map(|weight| {
            let TensorSpec { name, dtype, shape } = weight.place.spec.clone();
            let name = match meaning {
                Meaning::State(state) => tree::stored_name(state, &name),
                Meaning::Metadata(_) => name,
            };
            TensorSpec { name, dtype, shape }
        });
        let plan = tensors::plan(&specs.collect::<Vec<_>>())?;
        Ok(Self { path, meaning, files, plan })
    }

    fn metadata(&self) -> serde_json::Value {
        match self.meaning {
            Meaning::Metadata(metadata) => metadata.clone(),
            Meaning::State(state) => {
                let weights = self.files.weights().iter();
                let mut names: Vec<_> = weights.map(|weight| &*weight.place.spec.name).collect();
                names.sort_unstable();
                tree::metadata(state, &names)
            }
        }
    }

    /// Gives every byte of the planned file to `sink`, in order; returns what they digest to.
    fn pass(
        &self,
        runtime: &Runtime,
        mut sink: impl FnMut(&[u8]) -> Result<(), Error>,
    ) -> Result<Digests, Error> {
        let mut whole = DigestWriter::new();
        whole.update(&self.plan.header);
        sink(&self.plan.header)?;
        let mut reader = self.files.reader();
        let mut piece = vec![0; PIECE_BYTES];
        let mut tensors = Vec::with_capacity(self.plan.places.len());
        for (index, place) in &self.plan.places {
            let (mut digest, mut checksum) = (DigestWriter::new(), ChecksumWriter::new());
            while digest.len_bytes() < place.bytes {
                runtime.check()?;
                let left = usize::try_from(place.bytes - digest.len_bytes()).unwrap_or(PIECE_BYTES);
                let piece = &mut piece[..left.min(PIECE_BYTES)];
                reader.read(&self.files.weights()[*index], digest.len_bytes(), piece)?;
                digest.update(piece);
                checksum.update(piece);
                whole.update(piece);
                sink(piece)?;
            }
            tensors.push((digest.finish(), checksum.finish()));
        }
        Ok(Digests { file: whole.finish(), tensors })
    }

    fn write(
        &self,
        lake: &Lake,
        runtime: &Runtime,
        run: &Name,
        step: u64,
        expected: &Digests,
    ) -> Result<(), Error> {
        let key = checkpoint::tensors_key(run, step, 0, expected.file);
        let mut writer = lake.writer(&key, Purpose::Checkpoint)?;
        let found = self
            .pass(runtime, |bytes| writer.write_all(bytes).map_err(Error::file("write", &key)))?;
        if found != *expected {
            return Err(Error::source(self.path, "it changed while it was read; try again"));
        }
        writer.finish()?;
        Ok(())
    }

    fn record(&self, runtime: &Runtime, run: &Name, step: u64, digests: &Digests) -> RankRecord {
        let places = self.plan.places.iter().map(|(_, place)| place);
        let tensors =
            places.zip(&digests.tensors).map(|(place, &(digest, checksum))| TensorEntry {
                name: place.spec.name.clone(),
                dtype: place.spec.dtype,
                shape: place.spec.shape.clone(),
                offset: place.offset,
                bytes: place.bytes,
                digest,
                checksum: Some(checksum),
                encoded: None,
                earlier: None,
                part: None,
            });
        RankRecord {
            run: run.clone(),
            step,
            rank: 0,
            world_size: 1,
            attempt: runtime.nonce(),
            launch: None,
            position: Position { step },
            parent: None,
            dataset: None,
            forked_from: None,
            captured_unix_ms: runtime.now().unix_ms(),
            metadata: self.metadata(),
            file: ObjectEntry { digest: digests.file, bytes: self.plan.file_bytes },
            earlier: Vec::new(),
            tensors: tensors.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use forebay_testing::TempTiers;

    use super::*;

    #[test]
    fn a_source_that_changes_between_its_two_passes_never_comes_to_exist() {
        let tiers = TempTiers::new(1 << 20);
        let path = tiers.path().join("model.safetensors");
        let spec = TensorSpec { name: "a".into(), dtype: crate::Dtype::U8, shape: vec![1 << 20] };
        let mut file = tensors::plan(&[spec]).expect("a sound tensor").header;
        let header_bytes = file.len();
        file.resize(header_bytes + (1 << 20), 7);
        std::fs::write(&path, &file).unwrap();
        let meaning = Meaning::State("model".into());
        let source = Source::open(&path, &meaning).unwrap();
        let digests = source.pass(&tiers.runtime, |_| Ok(())).unwrap();
        file[header_bytes + 99] ^= 1;
        std::fs::write(&path, &file).unwrap();
        let run = Name::new("r").unwrap();
        let error = source.write(&tiers.lake, &tiers.runtime, &run, 0, &digests).unwrap_err();
        assert!(error.to_string().contains("changed while it was read"), "{error}");
        let mut objects = 0;
        tiers
            .lake
            .list("", &mut |_| {
                objects += 1;
                Ok(())
            })
            .unwrap();
        assert_eq!(objects, 0);
    }
}
