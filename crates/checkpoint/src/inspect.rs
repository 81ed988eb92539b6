//! Looking at checkpoints: list, show, verify, export.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

use forebay_format::v1::{
    checkpoint::{checkpoints_prefix, tensors_key},
    tensors::{self, TensorSpec},
};
use forebay_lake::{Lake, Purpose};
use forebay_runtime::Runtime;
use forebay_types::{Digest, DigestWriter, ErrorKind, Key, Name, Position};
use serde::Serialize;

use crate::{
    Error, Part, Which,
    restore::{self, Committed, committed},
};

/// Bytes read at once while verifying.
const PIECE_BYTES: usize = 8 << 20;

/// A committed checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CheckpointSummary {
    /// Steps taken when it was captured.
    pub step: u64,
    /// The bytes of all ranks' files.
    pub bytes: u64,
    /// The tensors of all ranks.
    pub tensors: u64,
    /// The ranks.
    pub world_size: u32,
    /// When it was committed, in milliseconds since 1970.
    pub created_unix_ms: u64,
}

/// What was read and compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// The step.
    pub step: u64,
    /// Tensors.
    pub tensors: u64,
    /// Bytes.
    pub bytes: u64,
}

/// What a commit says, without reading a tensor.
pub struct Shown(Committed);

impl Shown {
    /// The digest of every tensor by its name.
    #[must_use]
    pub fn tensor_digests(&self) -> BTreeMap<String, Digest> {
        let tensors = self.0.ranks.iter().flat_map(|rank| &rank.tensors);
        tensors.map(|tensor| (tensor.name.clone(), tensor.digest)).collect()
    }

    /// Where the run stood in its data.
    #[must_use]
    pub fn position(&self) -> Position {
        self.0.commit.position
    }

    /// What the trainer of rank 0 stored beside its tensors.
    #[must_use]
    pub fn metadata(&self) -> &serde_json::Value {
        self.0.ranks.first().map_or(&serde_json::Value::Null, |rank| &rank.metadata)
    }

    /// The digest of the commit's body.
    #[must_use]
    pub fn commit_digest(&self) -> Digest {
        self.0.digest
    }

    /// Where each rank's tensors lie, with the file's length and digest.
    #[must_use]
    pub fn files(&self) -> Vec<(Key, u64, Digest)> {
        let commit = &self.0.commit;
        let file = |rank: &forebay_format::v1::checkpoint::RankRecord| {
            let digest = rank.file.digest;
            (tensors_key(&commit.run, commit.step, rank.rank, digest), rank.file.bytes, digest)
        };
        self.0.ranks.iter().map(file).collect()
    }
}

/// The committed steps of `run`, oldest first. The prefix is listed: every store that Forebay
/// publishes to lists what was written before.
pub(crate) fn steps(lake: &Lake, run: &Name) -> Result<Vec<u64>, Error> {
    let prefix = checkpoints_prefix(run);
    let mut steps = Vec::new();
    lake.list(&prefix, &mut |listed| {
        let rest = listed.key.as_str().strip_prefix(&prefix);
        let step: Option<u64> =
            rest.and_then(|rest| rest.strip_suffix("/commit.json")?.parse().ok());
        steps.extend(step);
        Ok(())
    })
    .map_err(|source| Error::Lake { act: "list the checkpoints", run: run.clone(), source })?;
    steps.sort_unstable();
    Ok(steps)
}

/// The committed checkpoints of `run`, oldest first.
///
/// # Errors
/// When a record is damaged, naming it.
pub fn list(lake: &Lake, run: &Name) -> Result<Vec<CheckpointSummary>, Error> {
    steps(lake, run)?.into_iter().map(|step| Ok(summary(&committed(lake, run, step)?))).collect()
}

fn summary(of: &Committed) -> CheckpointSummary {
    CheckpointSummary {
        step: of.commit.step,
        bytes: of.ranks.iter().map(|rank| rank.file.bytes).sum(),
        tensors: of.ranks.iter().map(|rank| rank.tensors.len() as u64).sum(),
        world_size: of.ranks.len() as u32,
        created_unix_ms: of.commit.created_unix_ms,
    }
}

/// What the commit of `step` says.
///
/// # Errors
/// [`Error::NoCheckpoint`] when there is none; when a record is damaged, naming it.
pub fn show(lake: &Lake, run: &Name, step: u64) -> Result<Shown, Error> {
    Ok(Shown(committed(lake, run, step)?))
}

/// Reads every byte of a checkpoint (the newest, if `step` is `None`) and compares its digests.
///
/// # Errors
/// When anything is damaged or missing, naming the object and, where it can, the tensor.
pub fn verify(lake: &Lake, run: &Name, step: Option<u64>) -> Result<Verified, Error> {
    let step = match step {
        Some(step) => step,
        None => newest(lake, run)?,
    };
    verify_committed(lake, run, &committed(lake, run, step)?)
}

fn verify_committed(lake: &Lake, run: &Name, of: &Committed) -> Result<Verified, Error> {
    let step = of.commit.step;
    let mut verified = Verified { step, tensors: 0, bytes: 0 };
    for rank in &of.ranks {
        let key = tensors_key(run, step, rank.rank, rank.file.digest);
        verify_file(lake, run, &key, rank.file.bytes, rank.file.digest).or_else(|error| {
            // The tensor is worth naming: it tells what a restore would lose.
            rank.tensors
                .iter()
                .try_for_each(|tensor| restore::read_tensor(lake, run, &key, tensor).map(drop))?;
            Err(error)
        })?;
        verified.tensors += rank.tensors.len() as u64;
        verified.bytes += rank.file.bytes;
    }
    Ok(verified)
}

fn verify_file(
    lake: &Lake,
    run: &Name,
    key: &Key,
    bytes: u64,
    digest: Digest,
) -> Result<(), Error> {
    let failed = |source| Error::Lake { act: "read a file", run: run.clone(), source };
    let length = lake.size(key).map_err(failed)?;
    if length != Some(bytes) {
        let what = length.map_or_else(
            || "it is missing".to_owned(),
            |length| format!("it has {length} bytes instead of {bytes}"),
        );
        return Err(forebay_format::Error::damaged(key, what).into());
    }
    let mut seen = DigestWriter::new();
    let mut piece = vec![0; PIECE_BYTES.min(bytes as usize)];
    while seen.len_bytes() < bytes {
        let left = (bytes - seen.len_bytes()).min(piece.len() as u64) as usize;
        lake.read_range(key, Purpose::Checkpoint, seen.len_bytes(), &mut piece[..left])
            .map_err(failed)?;
        seen.update(&piece[..left]);
    }
    if seen.finish() == digest {
        Ok(())
    } else {
        Err(forebay_format::Error::damaged(key, "it does not have the digest it is named by").into())
    }
}

pub(crate) fn newest(lake: &Lake, run: &Name) -> Result<u64, Error> {
    let none = || Error::NoCheckpoint { run: run.clone(), step: None };
    steps(lake, run)?.pop().ok_or_else(none)
}

/// The newest step before `step` that is whole to the last byte.
pub(crate) fn newest_intact_before(
    lake: &Lake,
    run: &Name,
    step: u64,
) -> Result<Option<u64>, Error> {
    for older in steps(lake, run)?.into_iter().rev().filter(|older| *older < step) {
        match verify(lake, run, Some(older)) {
            Ok(_) => return Ok(Some(older)),
            Err(error) if error.kind() == ErrorKind::Corrupt => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Writes a checkpoint into `directory`: `state.safetensors` with the tensors of all ranks, and
/// `metadata.json` with position and metadata. Verified while it is read.
///
/// # Errors
/// [`Error::NotEmpty`] when the directory holds something; then nothing is written.
pub fn export(
    lake: &Lake,
    runtime: &Runtime,
    run: &Name,
    step: Option<u64>,
    part: Part,
    directory: &Path,
) -> Result<Verified, Error> {
    let step = match step {
        Some(step) => step,
        None => newest(lake, run)?,
    };
    make_empty(directory)?;
    let restored = restore::restore(lake, runtime, run, Which::Step(step), part)?
        .ok_or_else(|| Error::NoCheckpoint { run: run.clone(), step: Some(step) })?;
    let views: Vec<_> = restored.tensors().collect();
    let spec = |view: &restore::TensorView<'_>| TensorSpec {
        name: view.name.to_owned(),
        dtype: view.dtype,
        shape: view.shape.to_vec(),
    };
    let plan = tensors::plan(&views.iter().map(spec).collect::<Vec<_>>())?;
    let values = plan.places.iter().map(|(index, _)| views[*index].bytes);
    let parts: Vec<&[u8]> = std::iter::once(&plan.header[..]).chain(values).collect();
    write(&directory.join("state.safetensors"), &parts)?;
    let metadata = serde_json::json!({
        "run": run, "step": step, "position": restored.position(), "metadata": restored.metadata(),
    });
    let text = format!("{metadata:#}\n");
    write(&directory.join("metadata.json"), &[text.as_bytes()])?;
    Ok(Verified { step, tensors: views.len() as u64, bytes: plan.file_bytes })
}

fn make_empty(directory: &Path) -> Result<(), Error> {
    let failed = |source| Error::Write(directory.to_owned(), source);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
    match fs::read_dir(directory).map_err(failed)?.next() {
        None => Ok(()),
        Some(_) => Err(Error::NotEmpty(directory.to_owned())),
    }
}

fn write(path: &Path, parts: &[&[u8]]) -> Result<(), Error> {
    let create = || -> std::io::Result<File> {
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
    };
    let put = || {
        let mut file = create()?;
        parts.iter().try_for_each(|part| file.write_all(part))?;
        file.sync_all()
    };
    put().map_err(|source| Error::Write(path.to_owned(), source))
}
