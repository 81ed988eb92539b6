//! Restoring: a committed state comes back, every tensor verified.
//!
//! Nothing is ever chosen silently: if the newest commit is damaged, the error names the object and
//! the newest older step that is whole, and choosing it is the caller's decision.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Mutex, PoisonError},
};

use forebay_format::{
    record,
    v1::{
        checkpoint::{CommitRecord, RankRecord, TensorEntry, commit_key, tensors_key},
        tensors::Dtype,
    },
};
use forebay_lake::{Lake, Purpose};
use forebay_runtime::Runtime;
use forebay_types::{Digest, Key, Name, Position};

use crate::{Error, commit::read_rank, inspect};

/// Requests in flight at once.
const READERS: usize = 4;

/// Which checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The newest committed one.
    Newest,
    /// The one at this step.
    Step(u64),
}

/// How much of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Everything.
    All,
    /// Tensors named `model.…` alone.
    Weights,
}

impl Part {
    fn has(self, name: &str) -> bool {
        self == Self::All || name.starts_with("model.")
    }
}

/// A committed checkpoint's records, verified.
pub(crate) struct Committed {
    pub commit: CommitRecord,
    pub digest: Digest,
    pub ranks: Vec<RankRecord>,
}

/// A state that was committed.
pub struct Restored {
    commit: CommitRecord,
    digest: Digest,
    metadata: serde_json::Value,
    tensors: BTreeMap<String, (TensorEntry, Vec<u8>)>,
}

/// One restored tensor.
#[derive(Clone, Copy, Debug)]
pub struct TensorView<'a> {
    /// Its name.
    pub name: &'a str,
    /// The type of its elements.
    pub dtype: Dtype,
    /// Its shape.
    pub shape: &'a [u64],
    /// Its values, row by row, little-endian.
    pub bytes: &'a [u8],
}

impl Restored {
    /// Steps taken when it was captured.
    #[must_use]
    pub fn step(&self) -> u64 {
        self.commit.step
    }

    /// Where the run stood in its data.
    #[must_use]
    pub fn position(&self) -> Position {
        self.commit.position
    }

    /// What the trainer stored beside its tensors (rank 0's).
    #[must_use]
    pub fn metadata(&self) -> &serde_json::Value {
        &self.metadata
    }

    /// The digest of the commit's body, by which other records name this checkpoint.
    #[must_use]
    pub fn commit_digest(&self) -> Digest {
        self.digest
    }

    /// Which tier it was read from.
    #[must_use]
    pub fn tier(&self) -> &'static str {
        "lake"
    }

    /// The tensor called `name`.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<TensorView<'_>> {
        self.tensors.get_key_value(name).map(|(name, tensor)| view(name, tensor))
    }

    /// All tensors, in the order of their names.
    pub fn tensors(&self) -> impl Iterator<Item = TensorView<'_>> {
        self.tensors.iter().map(|(name, tensor)| view(name, tensor))
    }
}

fn view<'a>(name: &'a str, (entry, bytes): &'a (TensorEntry, Vec<u8>)) -> TensorView<'a> {
    TensorView { name, dtype: entry.dtype, shape: &entry.shape, bytes }
}

impl fmt::Debug for Restored {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Restored")
            .field("commit", &self.commit)
            .field("tensors", &self.tensors.len())
            .finish_non_exhaustive()
    }
}

/// A committed state of `run`; `None` if the newest was asked for and there is none.
///
/// # Errors
/// [`Error::Unrestorable`] when it is damaged.
pub fn restore(
    lake: &Lake,
    runtime: &Runtime,
    run: &Name,
    which: Which,
    part: Part,
) -> Result<Option<Restored>, Error> {
    let step = match which {
        Which::Step(step) => step,
        Which::Newest => match inspect::steps(lake, run)?.pop() {
            Some(step) => step,
            None => return Ok(None),
        },
    };
    match read(lake, runtime, run, step, part) {
        Ok(restored) => Ok(Some(restored)),
        Err(error @ Error::NoCheckpoint { .. }) => Err(error),
        Err(error) if error.kind() == forebay_types::ErrorKind::Corrupt => {
            let intact = inspect::newest_intact_before(lake, run, step)?;
            Err(Error::Unrestorable { run: run.clone(), step, intact, source: Box::new(error) })
        }
        Err(error) => Err(error),
    }
}

/// The records of a committed step.
pub(crate) fn committed(lake: &Lake, run: &Name, step: u64) -> Result<Committed, Error> {
    let key = commit_key(run, step);
    let bytes = lake
        .read(&key, Purpose::Checkpoint, record::LEN_BYTES_MAX)
        .map_err(|source| Error::Lake { act: "read a commit", run: run.clone(), source })?
        .ok_or_else(|| Error::NoCheckpoint { run: run.clone(), step: Some(step) })?;
    let (commit, digest) = record::decode::<CommitRecord>(&bytes, key.as_str())?;
    if commit.run != *run || commit.step != step {
        return Err(forebay_format::Error::damaged(key, "it is another step's commit").into());
    }
    let rank = |(rank, digest): (usize, &Digest)| read_rank(lake, run, step, rank as u32, *digest);
    let ranks = commit.ranks.iter().enumerate().map(rank).collect::<Result<_, _>>()?;
    Ok(Committed { commit, digest, ranks })
}

fn read(
    lake: &Lake,
    runtime: &Runtime,
    run: &Name,
    step: u64,
    part: Part,
) -> Result<Restored, Error> {
    let Committed { commit, digest, ranks } = committed(lake, run, step)?;
    let wanted: Vec<(Key, &TensorEntry)> = ranks
        .iter()
        .flat_map(|rank| {
            let key = tensors_key(run, step, rank.rank, rank.file.digest);
            rank.tensors.iter().map(move |tensor| (key.clone(), tensor))
        })
        .filter(|(_, tensor)| part.has(&tensor.name))
        .collect();
    let found = Mutex::new(BTreeMap::new());
    runtime.workers("restore", READERS.min(wanted.len()), |worker| {
        for (key, tensor) in wanted.iter().skip(worker).step_by(READERS.min(wanted.len())) {
            let bytes = read_tensor(lake, run, key, tensor)?;
            let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
            let before = found.insert(tensor.name.clone(), ((*tensor).clone(), bytes));
            if before.is_some() {
                return Err(Error::Clash { run: run.clone(), name: tensor.name.clone() });
            }
        }
        Ok(())
    })?;
    let tensors = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    let metadata = ranks.into_iter().next().map(|rank| rank.metadata).unwrap_or_default();
    Ok(Restored { commit, digest, metadata, tensors })
}

/// One tensor's values, verified.
pub(crate) fn read_tensor(
    lake: &Lake,
    run: &Name,
    key: &Key,
    tensor: &TensorEntry,
) -> Result<Vec<u8>, Error> {
    let object = || format!("{key}, tensor `{}`", tensor.name);
    let mut bytes = vec![0; tensor.bytes as usize];
    match lake.read_range(key, Purpose::Checkpoint, tensor.offset, &mut bytes) {
        Err(error) if error.kind() == forebay_types::ErrorKind::NotFound => {
            return Err(forebay_format::Error::damaged(object(), "the object is missing").into());
        }
        result => result
            .map_err(|source| Error::Lake { act: "read a tensor", run: run.clone(), source })?,
    }
    if Digest::of(&bytes) == tensor.digest {
        Ok(bytes)
    } else {
        Err(forebay_format::Error::damaged(object(), "it does not have the digest it was stored with").into())
    }
}
