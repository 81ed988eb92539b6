//! Staging: the tensor file and the rank record become durable on this node.
//!
//! The rank record is staged last and seals the checkpoint: what has one is drained, whoever is
//! alive by then; what has none never was.

use std::io::{Read, Write};

use forebay_format::{
    record,
    v1::{
        checkpoint::{RankRecord, TensorEntry, checkpoints_prefix, step_prefix},
        dataset::ObjectEntry,
        tensors::TensorPlan,
    },
};
use forebay_local::LocalTier;
use forebay_runtime::{Runtime, crash_point};
use forebay_transfer::Transfer;
use forebay_types::{Digest, DigestWriter, ErrorKind, Key, Name, Position};

use crate::{Error, commit};

/// A state in the arena, with all that is said about it.
pub(crate) struct Captured {
    pub step: u64,
    pub position: Position,
    pub metadata: serde_json::Value,
    /// The tensors' values, in the order of `plan.places`.
    pub values: Vec<u8>,
    pub plan: TensorPlan,
}

/// Who captured it.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    pub run: Name,
    pub rank: u32,
    pub world_size: u32,
    pub attempt: String,
}

/// What is staged of one rank's checkpoint.
#[derive(Clone, Debug)]
pub(crate) struct Sealed {
    pub record: RankRecord,
    /// The digest of the record's body, which the commit names.
    pub digest: Digest,
}

/// The name under which a rank's file is staged.
pub(crate) fn staged_name(run: &Name, step: u64, rank: u32, extension: &str) -> Key {
    Key::new(format!("{}rank-{rank}.{extension}", step_prefix(run, step)))
        .expect("names and numbers make sound keys")
}

/// Writes both files; returns when they are durable.
pub(crate) fn stage(
    local: &LocalTier,
    origin: &Origin,
    captured: &Captured,
) -> Result<Sealed, Error> {
    let (file, tensors) = stage_tensors(local, origin, captured)?;
    let record = RankRecord {
        run: origin.run.clone(),
        step: captured.step,
        rank: origin.rank,
        world_size: origin.world_size,
        attempt: origin.attempt.clone(),
        position: captured.position,
        metadata: captured.metadata.clone(),
        file,
        tensors,
    };
    let (body, digest) = record::encode(&record)?;
    let name = staged_name(&origin.run, captured.step, origin.rank, "json");
    write(local, origin, captured.step, &name, &[&body])?;
    Ok(Sealed { record, digest })
}

fn stage_tensors(
    local: &LocalTier,
    origin: &Origin,
    captured: &Captured,
) -> Result<(ObjectEntry, Vec<TensorEntry>), Error> {
    let plan = &captured.plan;
    let failed = failed(origin, captured.step, "stage");
    let name = staged_name(&origin.run, captured.step, origin.rank, "safetensors");
    let mut writer = local.stage(&name, plan.file_bytes).map_err(&failed)?;
    let mut whole = DigestWriter::new();
    let mut put = |bytes: &[u8]| {
        whole.update(bytes);
        let source = |source| Error::Staged { act: "write", name: name.clone(), source };
        writer.write_all(bytes).map_err(source)
    };
    put(&plan.header)?;
    let mut tensors = Vec::with_capacity(plan.places.len());
    let mut values = &captured.values[..];
    for (index, (_, place)) in plan.places.iter().enumerate() {
        let (value, rest) = values.split_at(place.bytes as usize);
        put(value)?;
        values = rest;
        tensors.push(TensorEntry {
            name: place.spec.name.clone(),
            dtype: place.spec.dtype,
            shape: place.spec.shape.clone(),
            offset: place.offset,
            bytes: place.bytes,
            digest: Digest::of(value),
        });
        if index == plan.places.len() / 2 {
            crash_point("checkpoint.stage");
        }
    }
    writer.finish().map_err(failed)?;
    Ok((ObjectEntry { digest: whole.finish(), bytes: plan.file_bytes }, tensors))
}

fn write(
    local: &LocalTier,
    origin: &Origin,
    step: u64,
    name: &Key,
    parts: &[&[u8]],
) -> Result<(), Error> {
    let bytes = parts.iter().map(|part| part.len() as u64).sum();
    let failed = failed(origin, step, "stage");
    let mut writer = local.stage(name, bytes).map_err(&failed)?;
    for part in parts {
        let source = |source| Error::Staged { act: "write", name: name.clone(), source };
        writer.write_all(part).map_err(source)?;
    }
    writer.finish().map_err(failed)
}

fn failed(
    origin: &Origin,
    step: u64,
    act: &'static str,
) -> impl Fn(forebay_local::Error) -> Error {
    let run = origin.run.clone();
    move |source| Error::Local { act, run: run.clone(), step, source }
}

/// Drains what this rank sealed in an earlier life, oldest first; lets go what it did not seal.
pub(crate) fn recover(
    transfer: &Transfer,
    runtime: &Runtime,
    origin: &Origin,
) -> Result<Vec<u64>, Error> {
    let local = transfer.local();
    let prefix = checkpoints_prefix(&origin.run);
    let failed = |source| Error::Local { act: "recover", run: origin.run.clone(), step: 0, source };
    let mut recovered = Vec::new();
    for staged in local.staged().map_err(failed)? {
        let Some(step) = step_of(&staged.name, &prefix, origin.rank) else { continue };
        let name = staged_name(&origin.run, step, origin.rank, "json");
        let mut body = Vec::new();
        match local.staged_file(&name) {
            Ok(file) => {
                let source = |source| Error::Staged { act: "read", name: name.clone(), source };
                file.take(record::LEN_BYTES_MAX).read_to_end(&mut body).map_err(source)?;
            }
            // Never sealed: nobody may rely on it.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                local.release(&staged.name).map_err(failed)?;
                continue;
            }
            Err(error) => return Err(failed(error)),
        }
        if recovered.contains(&step) {
            continue;
        }
        let (record, digest) = record::decode::<RankRecord>(&body, name.as_str())?;
        commit::drain(transfer, runtime, &Sealed { record, digest })?;
        recovered.push(step);
    }
    Ok(recovered)
}

/// The step of a file that rank `rank` staged.
fn step_of(name: &Key, prefix: &str, rank: u32) -> Option<u64> {
    let (step, file) = name.as_str().strip_prefix(prefix)?.split_once('/')?;
    file.strip_prefix(&format!("rank-{rank}."))?;
    step.parse().ok()
}
