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
//!
//! A tensor that did not change since an earlier checkpoint may lie in that one's file: a record says
//! which, and the commit says which earlier steps are needed. A file referred to always holds the
//! tensor itself; there are no chains.
//!
//! A tensor may be stored encoded, in less room: then it stands in its file's header as `U8` and as long
//! as it became, and its entry says what it is and how it is decoded. The header has room for the
//! longest that its tensors might have become, since it is known last and stands first.

use std::collections::BTreeSet;

use forebay_types::{Checksum, Digest, Key, Name, Nonce, Position};
use serde::{Deserialize, Serialize};

use super::{
    dataset::ObjectEntry,
    encoding::{Encoded, encoded_bytes_max},
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
    /// The launch that saved it, as it claimed the run; see [`super::writer`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub launch: Option<Digest>,
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
    /// The tensor file of its own.
    pub file: ObjectEntry,
    /// Tensor files of earlier checkpoints of the run that hold tensors which did not change since.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub earlier: Vec<EarlierFile>,
    /// Its tensors: those of its file in the order of their data, then those of earlier files.
    pub tensors: Vec<TensorEntry>,
}

/// The tensor file of a rank of an earlier checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EarlierFile {
    /// The step it was saved at; that checkpoint itself may be gone.
    pub step: u64,
    /// The rank that saved it.
    pub rank: u32,
    /// The digest of the file.
    pub digest: Digest,
    /// Its length.
    pub bytes: u64,
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
    /// How long they are, decoded.
    pub bytes: u64,
    /// The digest of its values.
    pub digest: Digest,
    /// Their checksum, by which they are read back faster; records of before have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksum: Option<Checksum>,
    /// How they are stored; none when they are as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoded: Option<Encoded>,
    /// Which of the record's earlier files it lies in; none when it lies in the record's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub earlier: Option<u32>,
    /// What of a larger tensor of this name it is; none when it is the whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<TensorPart>,
}

/// A box cut out of a tensor that several ranks hold together. The box's own shape is its entry's.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorPart {
    /// The shape of the whole tensor.
    pub whole: Vec<u64>,
    /// The box's first index in each dimension.
    pub start: Vec<u64>,
}

impl TensorEntry {
    /// The tensor without where it lies.
    #[must_use]
    pub fn spec(&self) -> TensorSpec {
        TensorSpec { name: self.name.clone(), dtype: self.dtype, shape: self.shape.clone() }
    }

    /// How long it lies in its file.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        self.encoded.map_or(self.bytes, |encoded| encoded.bytes)
    }

    /// As what it stands in its file's header, and the longest that this might be.
    fn stored_specs(&self) -> (TensorSpec, TensorSpec) {
        let spec = self.spec();
        match self.encoded {
            None => (spec.clone(), spec),
            Some(encoded) => (encoded_spec(&spec.name, encoded.bytes), longest_spec(&spec)),
        }
    }

    /// Whether it can be stored as it says.
    fn check_stored(&self) -> Result<(), String> {
        let spec = self.spec();
        let most = spec.bytes().map(|bytes| encoded_bytes_max(bytes, spec.dtype.bytes()));
        let fits = self.encoded.is_none_or(|encoded| Some(encoded.bytes) <= most);
        if spec.bytes() == Some(self.bytes) && fits {
            return Ok(());
        }
        Err(format!("tensor `{}` does not have the bytes of its shape", self.name))
    }
}

/// As what a tensor stands in its file's header that became so long when it was encoded.
#[must_use]
pub fn encoded_spec(name: &str, bytes: u64) -> TensorSpec {
    TensorSpec { name: name.to_owned(), dtype: Dtype::U8, shape: vec![bytes] }
}

/// As what a tensor stands there before it is encoded: as long as it might become.
#[must_use]
pub fn longest_spec(spec: &TensorSpec) -> TensorSpec {
    let bytes = spec.bytes().unwrap_or(u64::MAX);
    encoded_spec(&spec.name, encoded_bytes_max(bytes, spec.dtype.bytes()))
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
    /// The launch that saved it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub launch: Option<Digest>,
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
    /// The bytes of its tensor files, over all ranks; what lies in earlier ones is not counted.
    pub bytes: u64,
    /// Earlier steps whose tensor files hold tensors of this checkpoint: they must stay.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<u64>,
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
        let (own, earlier) = self.tensors.split_at(plan.places.len());
        for ((index, place), (at, tensor)) in plan.places.iter().zip(own.iter().enumerate()) {
            let lies = (place.offset, place.bytes) == (tensor.offset, tensor.stored_bytes());
            if *index != at || !lies || tensor.earlier.is_some() {
                return Err(format!("tensor `{}` does not lie where it must", tensor.name));
            }
        }
        for tensor in earlier {
            self.check_earlier(tensor)?;
        }
        let mut names = BTreeSet::new();
        for tensor in &self.tensors {
            tensor.check_stored()?;
            if !names.insert(&tensor.name) {
                return Err(format!("tensor `{}` stands twice", tensor.name));
            }
            if tensor.part.as_ref().is_some_and(|part| !part.holds(&tensor.shape)) {
                return Err(format!("tensor `{}` is no part of its whole", tensor.name));
            }
        }
        if let Some(file) = self.earlier.iter().find(|file| file.step >= self.step) {
            return Err(format!("it refers to step {}, which is no earlier one", file.step));
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
        let own = self.tensors.iter().filter(|tensor| tensor.earlier.is_none());
        if own.clone().all(|tensor| tensor.encoded.is_none()) {
            return tensors::plan(&own.map(TensorEntry::spec).collect::<Vec<_>>());
        }
        let (specs, longest): (Vec<_>, Vec<_>) = own.map(TensorEntry::stored_specs).unzip();
        tensors::plan_with_room(&specs, &longest)
    }

    /// Where the file lies in which a tensor of this record does.
    #[must_use]
    pub fn file_key(&self, tensor: &TensorEntry) -> Key {
        match self.earlier_file(tensor) {
            Some(file) => tensors_key(&self.run, file.step, file.rank, file.digest),
            None => tensors_key(&self.run, self.step, self.rank, self.file.digest),
        }
    }

    /// The earlier file in which a tensor lies, if it does in one.
    #[must_use]
    pub fn earlier_file(&self, tensor: &TensorEntry) -> Option<&EarlierFile> {
        self.earlier.get(tensor.earlier? as usize)
    }

    fn check_earlier(&self, tensor: &TensorEntry) -> Result<(), String> {
        let name = &tensor.name;
        let file = self.earlier_file(tensor);
        let file = file.ok_or_else(|| format!("tensor `{name}` lies in no file"))?;
        let end = tensor.offset.checked_add(tensor.stored_bytes());
        if end.is_none_or(|end| end > file.bytes) || tensor.spec().bytes() != Some(tensor.bytes) {
            return Err(format!("tensor `{name}` does not lie in the file of step {}", file.step));
        }
        Ok(())
    }

    /// What all ranks of one attempt must agree on.
    fn shared(&self) -> impl PartialEq + use<'_> {
        let Self { run, step, world_size, attempt, launch, position, .. } = self;
        let Self { parent, dataset, forked_from, .. } = self;
        (run, step, world_size, attempt, launch, position, parent, dataset, forked_from)
    }
}

impl Record for CommitRecord {
    const FORMAT: &'static str = "forebay.checkpoint.commit";
    const VERSION: u32 = 1;

    fn check(&self) -> Result<(), String> {
        check_parent(self.parent, self.step)?;
        if let Some(step) = self.needs.iter().find(|&&step| step >= self.step) {
            return Err(format!("it needs step {step}, which is no earlier one"));
        }
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
            launch: first.launch,
            position: first.position,
            parent: first.parent,
            dataset: first.dataset.clone(),
            forked_from: first.forked_from.clone(),
            created_unix_ms: records().map(|one| one.captured_unix_ms).max().unwrap_or(0),
            ranks: ranks.iter().map(|(_, digest)| *digest).collect(),
            tensors: records().map(|one| one.tensors.len() as u64).sum(),
            bytes: records().map(|one| one.file.bytes).sum(),
            needs: BTreeSet::from_iter(
                records().flat_map(|one| &one.earlier).map(|file| file.step),
            )
            .into_iter()
            .collect(),
            metadata: first.metadata.clone(),
        })
    }

    /// The number of ranks.
    #[must_use]
    pub fn world_size(&self) -> u32 {
        u32::try_from(self.ranks.len()).unwrap_or(RANKS_MAX)
    }
}

pub(super) fn check_parent(parent: Option<u64>, step: u64) -> Result<(), String> {
    match parent {
        Some(parent) if parent >= step => Err(format!("its parent, {parent}, is no earlier step")),
        _ => Ok(()),
    }
}

pub(super) fn check_fork(
    from: Option<&CheckpointReference>,
    run: &Name,
    step: u64,
) -> Result<(), String> {
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
