//! Exporting in the layout of Hugging Face: what `from_pretrained` and its like read.
//!
//! ```text
//! <output>/model.safetensors                        when all fits into one file, or
//! <output>/model-00001-of-00003.safetensors, …      files of at most so many bytes of tensors
//! <output>/model.safetensors.index.json             which tensor lies in which; written last
//! ```
//!
//! A tensor keeps the name it has in its state. Every one is verified while it is read; its values
//! arrive bit for bit. A model's configuration and tokenizer are no part of a checkpoint.
//!
//! # Bounds
//! [`READ_BYTES`], or the largest tensor where that is larger, and the tensors' names.
//!
//! # After a crash
//! Files of an export that is not whole: of several, the index is missing. A directory that is not
//! empty is never written, so nobody takes them for another export's.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    path::Path,
};

use forebay_format::v1::tensors::{self, TensorPlace, TensorSpec};
use forebay_lake::Lake;
use forebay_types::Name;
use serde::Serialize;

use crate::{
    CommittedCheckpoint, Error, Region, Which,
    committed::Tiers,
    export::{make_directory, sync, write},
    read, tree,
    weights::{INDEX, SINGLE},
};

/// Tensors are read together up to so many bytes.
const READ_BYTES: u64 = 64 << 20;
/// Who names an output like this expects one file.
const FILE_EXTENSIONS: [&str; 5] = ["safetensors", "pt", "pth", "bin", "ckpt"];
/// Names of files count in five digits.
const FILES_MAX: usize = 99_999;

/// What was exported.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExportedShards {
    /// The step.
    pub step: u64,
    /// The number of tensors.
    pub tensors: u64,
    /// The bytes of their values.
    pub bytes: u64,
    /// The tensor files, in order.
    pub files: Vec<String>,
}

/// Writes the tensors of a verified checkpoint, the newest if `step` is `None`, into the directory
/// `output`, which must be empty or not exist, in files of at most `shard_bytes` of tensors; a
/// larger tensor has a file of its own.
///
/// Those of the state `state` are written under the names they have in it, as `model`'s weights;
/// without a state every tensor is, under its stored name.
///
/// # Errors
/// As [`crate::restore`]; when there is no such state or safetensors has no name for the type of one
/// of its tensors; and when `output` cannot be written, or is called like one file.
pub fn export_shards(
    lake: &Lake,
    run: &Name,
    step: Option<u64>,
    state: Option<&str>,
    shard_bytes: u64,
    output: &Path,
) -> Result<ExportedShards, Error> {
    let extension = output.extension().and_then(|extension| extension.to_str());
    if extension.is_some_and(|one| FILE_EXTENSIONS.contains(&one)) && !output.is_dir() {
        return Err(Error::source(
            output,
            "what is written is a directory of safetensors files; what torch.save and \
             torch.distributed.checkpoint write is written in Python alone: \
             `forebay.export_checkpoint(lake, run, path, \"torch\")`, or \"dcp\"",
        ));
    }
    let step = read::chosen(lake, run, step)?;
    let tiers = Tiers { lake, near: None };
    let opened = CommittedCheckpoint::open_in(tiers, run, Which::Step(step))?;
    let checkpoint = opened.ok_or_else(|| Error::NoCheckpoint { run: run.clone() })?;
    let export = Export { tiers, checkpoint: &checkpoint, state, output };
    let shards = export.shards(shard_bytes)?;
    make_directory(output)?;
    export.write(step, &shards)
}

struct Export<'a> {
    tiers: Tiers<'a>,
    checkpoint: &'a CommittedCheckpoint,
    state: Option<&'a str>,
    output: &'a Path,
}

/// The tensors of one file.
type Shard = Vec<TensorSpec>;

impl Export<'_> {
    /// The tensors that are exported, file by file, under their exported names.
    fn shards(&self, shard_bytes: u64) -> Result<Vec<Shard>, Error> {
        let (mut shards, mut room): (Vec<Shard>, u64) = (Vec::new(), 0);
        for (spec, bytes) in self.wanted()? {
            match shards.last_mut().filter(|_| bytes <= room) {
                Some(shard) => {
                    shard.push(spec);
                    room -= bytes;
                }
                None => {
                    shards.push(vec![spec]);
                    room = shard_bytes.saturating_sub(bytes);
                }
            }
        }
        if shards.len() > FILES_MAX {
            let what = format!("{} files are too many; allow more bytes in each", shards.len());
            return Err(Error::source(self.output, what));
        }
        Ok(shards)
    }

    fn wanted(&self) -> Result<Vec<(TensorSpec, u64)>, Error> {
        let retyped = self.retyped();
        let mut wanted = Vec::new();
        for (stored_name, tensor) in self.checkpoint.tensors() {
            let Some(name) = self.exported_name(stored_name) else { continue };
            if let Some(dtype) = retyped.get(&**stored_name) {
                let what =
                    format!("safetensors has no name for {dtype}, which `{stored_name}` is of");
                return Err(Error::source(self.output, what));
            }
            let (name, dtype, shape) = (name.to_owned(), tensor.dtype, tensor.shape.clone());
            wanted.push((TensorSpec { name, dtype, shape }, tensor.bytes()));
        }
        match (self.state, wanted.is_empty()) {
            (Some(state), true) => Err(self.no_state(state)),
            _ => Ok(wanted),
        }
    }

    fn retyped(&self) -> BTreeMap<&str, &str> {
        self.checkpoint.ranks().iter().flat_map(|rank| tree::retyped(&rank.metadata)).collect()
    }

    fn exported_name<'n>(&self, stored_name: &'n str) -> Option<&'n str> {
        match self.state {
            None => Some(stored_name),
            Some(state) => stored_name.strip_prefix(state)?.strip_prefix('.'),
        }
    }

    fn no_state(&self, state: &str) -> Error {
        let names = self.checkpoint.tensors().keys();
        let states: BTreeSet<&str> = names.filter_map(|name| name.split('.').next()).collect();
        let states = states.into_iter().take(10).collect::<Vec<_>>().join(", ");
        let what = format!("the checkpoint has no tensor of a state `{state}`; it has {states}");
        Error::source(self.output, what)
    }

    fn write(&self, step: u64, shards: &[Shard]) -> Result<ExportedShards, Error> {
        let mut exported = ExportedShards { step, tensors: 0, bytes: 0, files: Vec::new() };
        let mut weight_map = BTreeMap::new();
        for (number, shard) in (1..).zip(shards) {
            let file = file_name(number, shards.len());
            exported.bytes += self.write_shard(&file, shard)?;
            exported.tensors += shard.len() as u64;
            weight_map.extend(shard.iter().map(|spec| (&*spec.name, file.clone())));
            exported.files.push(file);
        }
        if shards.len() > 1 {
            let index = serde_json::json!({
                "metadata": { "total_size": exported.bytes }, "weight_map": weight_map,
            });
            let path = self.output.join(INDEX);
            write(&path, |file| {
                writeln!(file, "{index:#}").map_err(Error::file("write", path.display()))
            })?;
        }
        sync(self.output)?;
        Ok(exported)
    }

    /// Writes one file; returns the bytes of its tensors.
    fn write_shard(&self, name: &str, shard: &Shard) -> Result<u64, Error> {
        let path = self.output.join(name);
        // Readers look here for the framework whose layout the tensors have: torch's.
        let description = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
        let plan = tensors::plan_described(shard, &description)?;
        let places: Vec<_> = plan.places.iter().map(|(_, place)| place).collect();
        write(&path, |file| {
            let mut put =
                |bytes: &[u8]| file.write_all(bytes).map_err(Error::file("write", path.display()));
            put(&plan.header)?;
            let mut memory = Vec::new();
            let mut rest = &places[..];
            while !rest.is_empty() {
                let (together, behind) = rest.split_at(count_together(rest));
                self.read(together, &mut memory)?;
                put(&memory)?;
                rest = behind;
            }
            Ok(())
        })?;
        Ok(places.iter().map(|place| place.bytes).sum())
    }

    /// Fills `memory` with the values of neighbours in a file.
    fn read(&self, places: &[&TensorPlace], memory: &mut Vec<u8>) -> Result<(), Error> {
        let bytes: u64 = places.iter().map(|place| place.bytes).sum();
        let bytes = usize::try_from(bytes)
            .map_err(|_| Error::object(&places[0].spec.name, "it does not fit into memory"))?;
        memory.resize(bytes, 0);
        let stored = |place: &&TensorPlace| match self.state {
            None => place.spec.name.clone(),
            Some(state) => tree::stored_name(state, &place.spec.name),
        };
        let names: Vec<String> = places.iter().map(stored).collect();
        let mut rest = &mut memory[..];
        let mut regions = Vec::with_capacity(places.len());
        for (name, place) in names.iter().zip(places) {
            let (into, behind) = rest.split_at_mut(place.bytes as usize);
            rest = behind;
            let shape = place.spec.shape.clone();
            regions.push(Region { name, start: vec![0; shape.len()], shape, into });
        }
        self.checkpoint.read_in(self.tiers, regions).map(drop)
    }
}

/// How many of the first places are read together: at least one.
fn count_together(places: &[&TensorPlace]) -> usize {
    let ends = places.iter().scan(0u64, |end, place| {
        *end += place.bytes;
        Some(*end)
    });
    ends.take_while(|&end| end <= READ_BYTES).count().max(1)
}

fn file_name(number: usize, count: usize) -> String {
    match count {
        1 => SINGLE.to_owned(),
        _ => format!("model-{number:05}-of-{count:05}.safetensors"),
    }
}
