//! What can go wrong with a checkpoint.

use std::{
    io,
    path::{Path, PathBuf},
};

use forebay_format::v1::checkpoint::TensorPart;
use forebay_types::{ErrorKind, Key, Name};

/// A failure to save, restore or inspect a checkpoint.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The lake failed.
    #[error(transparent)]
    Lake(#[from] forebay_lake::Error),
    /// The local tier failed.
    #[error(transparent)]
    Local(#[from] forebay_local::Error),
    /// Between the tiers.
    #[error(transparent)]
    Transfer(#[from] forebay_transfer::Error),
    /// A stored object that cannot be read, or a state that cannot be stored.
    #[error(transparent)]
    Format(#[from] forebay_format::Error),
    /// A file could not be written or read.
    #[error("cannot {act} {object}")]
    File {
        /// What was tried.
        act: &'static str,
        /// The object or file.
        object: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A tensor whose bytes are not what its type and shape say.
    #[error(
        "tensor `{tensor}` has {found} bytes, and its type and shape make {expected}; nothing of \
         this checkpoint was saved"
    )]
    Tensor {
        /// Its name.
        tensor: String,
        /// The bytes given.
        found: u64,
        /// The bytes needed.
        expected: u64,
    },
    /// Values of another number of tensors than were planned.
    #[error("there are values of {found} tensors, and {expected} were planned; nothing was saved")]
    Tensors {
        /// The tensors given.
        found: usize,
        /// The tensors planned.
        expected: usize,
    },
    /// What is said beside the tensors is not JSON.
    #[error("what is said beside the tensors is not JSON; nothing of this checkpoint was saved")]
    Metadata(#[source] serde_json::Error),
    /// A part that does not lie in its whole.
    #[error(
        "tensor `{tensor}`: a part of shape {shape:?} at {:?} does not lie in a whole of shape {:?}; \
         nothing of this checkpoint was saved",
        part.start, part.whole
    )]
    Part {
        /// Its name.
        tensor: String,
        /// The part's shape.
        shape: Vec<u64>,
        /// Where it is said to lie.
        part: TensorPart,
    },
    /// A save that failed after it was captured.
    #[error(
        "checkpoint step {step} of run {run} is not committed: it could not be {act}; earlier \
         checkpoints are untouched"
    )]
    Background {
        /// The run.
        run: Name,
        /// The step.
        step: u64,
        /// How far it did not come: `staged` or `published`.
        act: &'static str,
        /// Why.
        #[source]
        source: Box<Error>,
    },
    /// A state that changed before it was copied.
    #[error(
        "checkpoint step {step} of run {run} is not committed: the state changed while it was copied; \
         earlier checkpoints are untouched"
    )]
    Changed {
        /// The run.
        run: Name,
        /// The step.
        step: u64,
    },
    /// Old checkpoints could not be removed.
    #[error(
        "checkpoint step {step} of run {run} is committed, but older ones could not be removed"
    )]
    Retention {
        /// The run.
        run: Name,
        /// The step.
        step: u64,
        /// Why.
        #[source]
        source: Box<Error>,
    },
    /// Another state is committed as this step.
    #[error(
        "step {step} of run {run} is committed already, with another state; it stands. Is another \
         process training this run? To go on from an older step, remove the later ones first"
    )]
    Conflict {
        /// The run.
        run: Name,
        /// The step.
        step: u64,
    },
    /// Another launch writes this run now.
    #[error(
        "run {run} has another writer, {key}: a launch that came later goes on with it, and nothing of \
         this one is committed any more. Stop one of them, or give it a run of its own"
    )]
    Replaced {
        /// The run.
        run: Name,
        /// Its claim in the lake, which says when that was.
        key: Key,
    },
    /// Not every rank published its part in time.
    #[error(
        "step {step} of run {run} is not committed: rank(s) {missing} did not publish their part; \
         it will be when they do"
    )]
    RanksMissing {
        /// The run.
        run: Name,
        /// The step.
        step: u64,
        /// Who, the first ten.
        missing: String,
    },
    /// A rank of the same attempt gave its part up, and told so.
    #[error(
        "step {step} of run {run} is not committed: rank {rank} gave its part up ({reason}); what that \
         rank says tells more; earlier checkpoints are untouched"
    )]
    RankFailed {
        /// The run.
        run: Name,
        /// The step.
        step: u64,
        /// The rank.
        rank: u32,
        /// Why, as it told.
        reason: String,
    },
    /// A save refers to an earlier one that never reached the lake.
    #[error(
        "step {step} of run {run} cannot be committed: what did not change since step {needed} was not \
         written again, and step {needed} is not in the lake; the next save is written whole"
    )]
    EarlierMissing {
        /// The run.
        run: Name,
        /// The step.
        step: u64,
        /// The earlier step.
        needed: u64,
    },
    /// The ranks of one attempt saved different things.
    #[error("step {step} of run {run} cannot be committed: {what}")]
    RanksDisagree {
        /// The run.
        run: Name,
        /// The step.
        step: u64,
        /// What does not hold.
        what: String,
    },
    /// Several ranks, and nothing that tells their launch from an earlier one.
    #[error(
        "rank {rank} of {world_size} must be opened with `Checkpointer::open_launch` and a text \
         that all ranks of this launch share and no other launch has"
    )]
    LaunchUnknown {
        /// The rank.
        rank: u32,
        /// How many there are.
        world_size: u32,
    },
    /// A step that is not committed.
    #[error("run {run} has no committed checkpoint at step {step}; it has {known}")]
    NoStep {
        /// The run.
        run: Name,
        /// The step.
        step: u64,
        /// Those it has.
        known: String,
    },
    /// A run that cannot be made by forking, because it is there.
    #[error(
        "run {fork} cannot be forked from step {step} of run {run}: it has checkpoints that do not \
         come from there; choose another name"
    )]
    ForkTaken {
        /// The run that was to be made.
        fork: Name,
        /// The run that was to be forked.
        run: Name,
        /// The step of it.
        step: u64,
    },
    /// A run without checkpoints.
    #[error("run {run} has no committed checkpoint; check the name, or train it first")]
    NoCheckpoint {
        /// The run.
        run: Name,
    },
    /// A part of a checkpoint is not what its commit says.
    #[error("{object} is damaged: {what}")]
    Object {
        /// The object's key.
        object: String,
        /// What does not hold; names the tensor if it is one.
        what: String,
    },
    /// A tensor that is asked for and not there as it is asked for.
    #[error("tensor `{tensor}` of step {step} of run {run}: {what}")]
    Region {
        /// The run.
        run: Name,
        /// The step.
        step: u64,
        /// The tensor.
        tensor: String,
        /// What does not fit.
        what: String,
    },
    /// A checkpoint that cannot be restored.
    #[error("checkpoint step {step} of run {run} is damaged; {advice}")]
    Damaged {
        /// The run.
        run: Name,
        /// The step.
        step: u64,
        /// What can be done.
        advice: String,
        /// Which object, and what about it.
        #[source]
        source: Box<Error>,
    },
    /// Files that are not what an import takes, or an export that asks for what cannot be.
    #[error("{}: {what}", path.display())]
    Source {
        /// The file or directory.
        path: PathBuf,
        /// Why not.
        what: String,
    },
    /// A directory that must not be written over.
    #[error("{} is not empty; name a directory that is, or that does not exist", path.display())]
    NotEmpty {
        /// The directory.
        path: PathBuf,
    },
    /// The newest checkpoint is never removed.
    #[error("step {step} is the newest checkpoint of run {run}, and intact; it is not removed")]
    Newest {
        /// The run.
        run: Name,
        /// The step.
        step: u64,
    },
    /// No memory holds a copy of the state.
    #[error("a copy of the state takes {bytes} bytes of memory, and {available} may be taken")]
    Memory {
        /// What a copy takes.
        bytes: u64,
        /// What may be taken.
        available: u64,
    },
    /// The work was stopped from outside.
    #[error(transparent)]
    Cancelled(#[from] forebay_runtime::Cancelled),
    /// A background thread ended by a panic.
    #[error("a background thread of the checkpointer failed")]
    Panicked(#[from] forebay_runtime::Panicked),
    /// Used after its threads ended.
    #[error("the checkpointer has stopped after a failure; open it again")]
    Stopped,
}

impl Error {
    pub(crate) fn file(act: &'static str, object: impl ToString) -> impl FnOnce(io::Error) -> Self {
        let object = object.to_string();
        move |source| Self::File { act, object, source }
    }

    pub(crate) fn object(object: impl ToString, what: impl ToString) -> Self {
        Self::Object { object: object.to_string(), what: what.to_string() }
    }

    pub(crate) fn source(path: &Path, what: impl ToString) -> Self {
        Self::Source { path: path.to_owned(), what: what.to_string() }
    }

    /// What the caller should do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Lake(error) => error.kind(),
            Self::Local(error) => error.kind(),
            Self::Transfer(error) => error.kind(),
            Self::Format(error) => error.kind(),
            Self::File { source, .. } => ErrorKind::of_io(source),
            Self::Background { source, .. } | Self::Retention { source, .. } => source.kind(),
            Self::Changed { .. }
            | Self::Tensor { .. }
            | Self::Tensors { .. }
            | Self::Metadata(_)
            | Self::Part { .. }
            | Self::Region { .. }
            | Self::LaunchUnknown { .. }
            | Self::Source { .. }
            | Self::NotEmpty { .. } => ErrorKind::Invalid,
            Self::Conflict { .. }
            | Self::Replaced { .. }
            | Self::ForkTaken { .. }
            | Self::RanksDisagree { .. } => ErrorKind::Conflict,
            Self::RanksMissing { .. } | Self::RankFailed { .. } => ErrorKind::Unavailable,
            Self::EarlierMissing { .. } => ErrorKind::NotFound,
            Self::NoStep { .. } | Self::NoCheckpoint { .. } => ErrorKind::NotFound,
            Self::Object { .. } | Self::Damaged { .. } => ErrorKind::Corrupt,
            Self::Newest { .. } => ErrorKind::Refused,
            Self::Memory { .. } => ErrorKind::Full,
            Self::Cancelled(_) => ErrorKind::Interrupted,
            Self::Panicked(_) | Self::Stopped => ErrorKind::Internal,
        }
    }
}
