//! Checkpoints: what makes a training state exist.
//!
//! ```text
//! runs/<run>/checkpoints/<step, 12 digits>/
//!   rank-<r>-<digest>.safetensors     one rank's tensors, named by the digest of the file
//!   rank-<r>-<digest>.json            one rank's record, named by the digest of its body
//!   commit.json                       the commit: names the record of every rank
//! ```
//!
//! A step may be attempted more than once: a process died, a run was taken back, another is still
//! alive. Everything but the commit is named by its content, so no attempt can overwrite what
//! another one wrote. The commit names the record of every rank by digest, a record its file and
//! each tensor in it: whoever holds the commit can prove every byte.

use forebay_types::{Digest, Key, Name, Nonce, Position};
use serde::{Deserialize, Serialize};

use super::{
    dataset::ObjectEntry,
    run::DatasetReference,
    tensors::{self, Dtype, TensorPlan, TensorSpec},
};
use crate::{Error, record::Record};

/// The most ranks one commit names.
pub const RANKS_MAX: u32 = 65_536;

/// What one rank put into a checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RankRecord {
    /// The run.
    pub run: Name,
    /// Steps taken when it was captured.
    pub step: u64,
    /// The rank.
    pub rank: u32,
    /// The number of ranks that belong to this checkpoint.
    pub world_size: u32,
    /// Shared by all ranks of one attempt at this step and by no other attempt; ranks of two
    /// attempts are never committed together.
    pub attempt: Nonce,
    /// Where the run stood in its data.
    pub position: Position,
    /// The checkpoint the run went on from before this one.
    pub parent: Option<u64>,
    /// What the run learns from.
    pub dataset: Option<DatasetReference>,
    /// The checkpoint of another run that this run went on from, if it was forked: the same in every
    /// checkpoint of the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forked_from: Option<CheckpointReference>,
    /// When the state was captured, in milliseconds since 1970.
    pub captured_unix_ms: u64,
    /// What the trainer stored beside its tensors: schedule, random state, …
    pub metadata: serde_json::Value,
    /// The tensor file.
    pub file: ObjectEntry,
    /// Its tensors, in the order of their data.
    pub tensors: Vec<TensorEntry>,
}

/// A committed checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointReference {
    /// Its run.
    pub run: Name,
    /// Its step.
    pub step: u64,
    /// The digest of its commit.
    pub digest: Digest,
}

/// One tensor of a rank.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorEntry {
    /// Its name.
    pub name: String,
    /// The type of its elements.
    pub dtype: Dtype,
    /// Its shape.
    pub shape: Vec<u64>,
    /// Where its values start in the file.
    pub offset: u64,
    /// How long they are.
    pub bytes: u64,
    /// The digest of its values.
    pub digest: Digest,
    /// What of a larger tensor of this name it is; none when it is the whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<TensorPart>,
}

/// A box cut out of a tensor that several ranks hold together. The box's own shape is its entry's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorPart {
    /// The shape of the whole tensor.
    pub whole: Vec<u64>,
    /// The box's first index in each dimension.
    pub start: Vec<u64>,
}

impl TensorPart {
    /// Whether a box of `shape` lies here.
    #[must_use]
    pub fn holds(&self, shape: &[u64]) -> bool {
        let Self { whole, start } = self;
        let within = |((&whole, &start), &side): ((&u64, &u64), &u64)| {
            start.checked_add(side).is_some_and(|end| end <= whole)
        };
        whole.len() == shape.len()
            && start.len() == shape.len()
            && whole.iter().zip(start).zip(shape).all(within)
    }
}

/// The record whose presence makes a checkpoint exist.
///
/// A pure function of its rank records: whichever rank writes it, its bytes are the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommitRecord {
    /// The run.
    pub run: Name,
    /// Steps taken when it was captured.
    pub step: u64,
    /// The attempt that succeeded.
    pub attempt: Nonce,
    /// Where the run stood in its data.
    pub position: Position,
    /// The checkpoint the run went on from before this one.
    pub parent: Option<u64>,
    /// What the run learns from.
    pub dataset: Option<DatasetReference>,
    /// The checkpoint of another run that this run went on from, if it was forked: the same in every
    /// checkpoint of the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forked_from: Option<CheckpointReference>,
    /// When its last rank was captured, in milliseconds since 1970.
    pub created_unix_ms: u64,
    /// The digest of each rank's record, from rank 0 on; their number is the world size.
    pub ranks: Vec<Digest>,
    /// The number of its tensors, over all ranks.
    pub tensors: u64,
    /// The bytes of its tensor files, over all ranks.
    pub bytes: u64,
    /// The metadata of rank 0.
    pub metadata: serde_json::Value,
}

impl Record for RankRecord {
    const FORMAT: &'static str = "forebay.checkpoint.rank";
    const VERSION: u32 = 1;

    fn check(&self) -> Result<(), String> {
        if self.rank >= self.world_size || self.world_size > RANKS_MAX {
            return Err(format!("rank {} of world size {}", self.rank, self.world_size));
        }
        check_parent(self.parent, self.step)?;
        check_fork(self.forked_from.as_ref(), &self.run, self.step)?;
        let plan = self.plan().map_err(|error| error.to_string())?;
        for ((index, place), (at, tensor)) in
            plan.places.iter().zip(self.tensors.iter().enumerate())
        {
            if *index != at || (place.offset, place.bytes) != (tensor.offset, tensor.bytes) {
                return Err(format!("tensor `{}` does not lie where it must", tensor.name));
            }
            if tensor.part.as_ref().is_some_and(|part| !part.holds(&tensor.shape)) {
                return Err(format!("tensor `{}` is no part of its whole", tensor.name));
            }
        }
        if plan.file_bytes != self.file.bytes {
            return Err(format!("its tensors make a file of {} bytes", plan.file_bytes));
        }
        Ok(())
    }
}

impl RankRecord {
    /// The plan of its file, whose header is what the file must start with.
    ///
    /// # Errors
    /// When its tensors make no file.
    pub fn plan(&self) -> Result<TensorPlan, Error> {
        let spec = |tensor: &TensorEntry| TensorSpec {
            name: tensor.name.clone(),
            dtype: tensor.dtype,
            shape: tensor.shape.clone(),
        };
        tensors::plan(&self.tensors.iter().map(spec).collect::<Vec<_>>())
    }

    /// What all ranks of one attempt must agree on.
    fn shared(&self) -> impl PartialEq + use<'_> {
        let Self { run, step, world_size, attempt, position, parent, dataset, forked_from, .. } =
            self;
        (run, step, world_size, attempt, position, parent, dataset, forked_from)
    }
}

impl Record for CommitRecord {
    const FORMAT: &'static str = "forebay.checkpoint.commit";
    const VERSION: u32 = 1;

    fn check(&self) -> Result<(), String> {
        check_parent(self.parent, self.step)?;
        check_fork(self.forked_from.as_ref(), &self.run, self.step)?;
        if self.ranks.is_empty() || self.ranks.len() > RANKS_MAX as usize {
            return Err(format!("it names {} ranks", self.ranks.len()));
        }
        Ok(())
    }
}

impl CommitRecord {
    /// The commit of `ranks`: all ranks of one attempt, in order, with their records' digests.
    ///
    /// # Errors
    /// What keeps them from being one checkpoint, in words.
    pub fn of(ranks: &[(RankRecord, Digest)]) -> Result<Self, String> {
        let Some((first, _)) = ranks.first() else { return Err("there are no ranks".into()) };
        if ranks.len() != first.world_size as usize {
            return Err(format!("{} ranks of {}", ranks.len(), first.world_size));
        }
        for (index, (record, _)) in ranks.iter().enumerate() {
            if record.shared() != first.shared() || record.rank as usize != index {
                return Err(format!("rank {index} saved another state than rank 0"));
            }
        }
        let records = || ranks.iter().map(|(record, _)| record);
        Ok(Self {
            run: first.run.clone(),
            step: first.step,
            attempt: first.attempt,
            position: first.position,
            parent: first.parent,
            dataset: first.dataset.clone(),
            forked_from: first.forked_from.clone(),
            created_unix_ms: records().map(|one| one.captured_unix_ms).max().unwrap_or(0),
            ranks: ranks.iter().map(|(_, digest)| *digest).collect(),
            tensors: records().map(|one| one.tensors.len() as u64).sum(),
            bytes: records().map(|one| one.file.bytes).sum(),
            metadata: first.metadata.clone(),
        })
    }

    /// The number of ranks.
    #[must_use]
    pub fn world_size(&self) -> u32 {
        u32::try_from(self.ranks.len()).unwrap_or(RANKS_MAX)
    }
}

fn check_parent(parent: Option<u64>, step: u64) -> Result<(), String> {
    match parent {
        Some(parent) if parent >= step => Err(format!("its parent, {parent}, is no earlier step")),
        _ => Ok(()),
    }
}

fn check_fork(from: Option<&CheckpointReference>, run: &Name, step: u64) -> Result<(), String> {
    match from {
        Some(from) if from.run == *run => Err("it was forked from its own run".into()),
        Some(from) if from.step > step => {
            Err(format!("it was forked from {}, a later step", from.step))
        }
        _ => Ok(()),
    }
}

/// Below this lie all checkpoints of `run`.
#[must_use]
pub fn checkpoints_prefix(run: &Name) -> String {
    format!("runs/{run}/checkpoints/")
}

/// Below this lies the checkpoint of `run` at `step`.
#[must_use]
pub fn step_prefix(run: &Name, step: u64) -> String {
    format!("{}{step:012}/", checkpoints_prefix(run))
}

/// Where a rank's tensors lie.
#[must_use]
pub fn tensors_key(run: &Name, step: u64, rank: u32, digest: Digest) -> Key {
    key(format!("{}rank-{rank}-{digest}.safetensors", step_prefix(run, step)))
}

/// Where a rank's record lies.
#[must_use]
pub fn rank_key(run: &Name, step: u64, rank: u32, digest: Digest) -> Key {
    key(format!("{}rank-{rank}-{digest}.json", step_prefix(run, step)))
}

/// Where the commit lies.
#[must_use]
pub fn commit_key(run: &Name, step: u64) -> Key {
    key(format!("{}commit.json", step_prefix(run, step)))
}

/// The step that a key below [`checkpoints_prefix`] belongs to.
#[must_use]
pub fn step_of(run: &Name, key: &Key) -> Option<u64> {
    let rest = key.as_str().strip_prefix(&checkpoints_prefix(run))?;
    let step = rest.split('/').next()?.parse().ok()?;
    // Reading is lenient; writing it again is not.
    key.as_str().starts_with(&step_prefix(run, step)).then_some(step)
}

/// The rank and digest in the name of a rank's record.
#[must_use]
pub fn rank_of(key: &Key) -> Option<(u32, Digest)> {
    let name = key.file_name().strip_prefix("rank-")?.strip_suffix(".json")?;
    let (rank, digest) = name.split_once('-')?;
    Some((rank.parse().ok()?, digest.parse().ok()?))
}

fn key(text: String) -> Key {
    Key::new(text).expect("names, numbers and digests make sound keys")
}
