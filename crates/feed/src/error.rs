//! What can go wrong on the way to a batch.

use forebay_runtime::{Cancelled, Panicked};
use forebay_types::{ErrorKind, Key, Name, SampleId, Split};

/// A batch that could not be delivered, or a feed that could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting that is 0.
    #[error("the feed's setting `{0}` is 0; it must be at least 1")]
    Zero(&'static str),
    /// The dataset has no such rows.
    #[error("dataset `{dataset}` has no rows in its split `{split}`; prepare it with more data")]
    Empty {
        /// The dataset.
        dataset: Name,
        /// The split.
        split: Split,
    },
    /// A setting that cannot work with these datasets.
    #[error("the feed's setting `{setting}` cannot work: {why}")]
    Setting {
        /// Its name.
        setting: &'static str,
        /// Why.
        why: String,
    },
    /// Fewer rows than a batch takes.
    #[error(
        "a batch of {batch_size} samples does not fit into an epoch of {rows}; lower batch_size, \
         or let the last batch be short"
    )]
    BatchTooLarge {
        /// The global batch.
        batch_size: u32,
        /// The samples of an epoch.
        rows: u64,
    },
    /// A position that no epoch has.
    #[error(
        "there is no sample {offset} of an epoch of {epoch_samples}: it is another dataset's state"
    )]
    Beyond {
        /// The samples before it.
        offset: u64,
        /// The samples there are.
        epoch_samples: u64,
    },
    /// No room to assemble ahead.
    #[error(
        "buffer_bytes is {buffer_bytes}, and two batches take {needed_bytes}: one in use, one \
         being assembled; raise buffer_bytes or lower batch_size"
    )]
    BufferTooSmall {
        /// The setting.
        buffer_bytes: u64,
        /// What two batches take.
        needed_bytes: u64,
    },
    /// An index that names a format this build does not read.
    #[error(
        "dataset `{dataset}` lies as `{dialect}`, which this Forebay does not read; upgrade it"
    )]
    UnknownDialect {
        /// The dataset.
        dataset: Name,
        /// The format.
        dialect: String,
    },
    /// An index whose description of the format cannot be read.
    #[error("cannot read how dataset `{dataset}` lies")]
    Dialect {
        /// The dataset.
        dataset: Name,
        /// Why.
        #[source]
        source: forebay_dialect::Error,
    },
    /// The store that an indexed dataset lies in cannot be opened.
    #[error("cannot open the store that dataset `{dataset}` lies in")]
    Store {
        /// The dataset.
        dataset: Name,
        /// Why.
        #[source]
        source: Box<forebay_lake::Error>,
    },
    /// The tiers failed before the first step.
    #[error("cannot feed dataset `{dataset}`")]
    Open {
        /// The dataset.
        dataset: Name,
        /// Why.
        #[source]
        source: Box<forebay_transfer::Error>,
    },
    /// The tiers failed at a step.
    #[error("cannot read the samples of step {step}")]
    Read {
        /// The step.
        step: u64,
        /// Why, and at which object.
        #[source]
        source: Box<forebay_transfer::Error>,
    },
    /// A shard is not what its manifest says, on the node and, fetched again, from the lake.
    #[error("the samples of step {step} cannot be trusted, although {object} was fetched again")]
    Damaged {
        /// The step.
        step: u64,
        /// The object in the lake.
        object: Key,
        /// What is wrong.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A sample whose values cannot be had as they were asked for.
    #[error(
        "sample {id} of step {step} (row {row} of {object}{}) cannot be delivered",
        named(label)
    )]
    Sample {
        /// The step.
        step: u64,
        /// Its identity.
        id: SampleId,
        /// The object it lies in.
        object: Key,
        /// Its row in the extent of that object.
        row: u32,
        /// What people know it by, if anything.
        label: String,
        /// What is wrong.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The run ends before this step.
    #[error("step {step} does not exist: the feed ends after {steps} steps")]
    NoStep {
        /// The step asked for.
        step: u64,
        /// How many there are.
        steps: u64,
    },
    /// The work was told to stop.
    #[error("the feed was cancelled at step {step}")]
    Cancelled {
        /// The step that was waited for.
        step: u64,
        /// Who said so.
        #[source]
        source: Cancelled,
    },
    /// A thread of the feed ended by a panic.
    #[error("the feed broke at step {step}")]
    Panicked {
        /// The step that was waited for.
        step: u64,
        /// Which, and its message.
        #[source]
        source: Panicked,
    },
}

impl Error {
    /// What the caller should do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Zero(_)
            | Self::Empty { .. }
            | Self::Setting { .. }
            | Self::BatchTooLarge { .. }
            | Self::Beyond { .. }
            | Self::BufferTooSmall { .. }
            | Self::NoStep { .. } => ErrorKind::Invalid,
            Self::Open { source, .. } | Self::Read { source, .. } => source.kind(),
            Self::UnknownDialect { .. } => ErrorKind::NewerFormat,
            Self::Dialect { source, .. } => source.kind(),
            Self::Store { source, .. } => source.kind(),
            Self::Damaged { .. } | Self::Sample { .. } => ErrorKind::Corrupt,
            Self::Cancelled { .. } => ErrorKind::Interrupted,
            Self::Panicked { .. } => ErrorKind::Internal,
        }
    }
}

fn named(label: &str) -> String {
    if label.is_empty() { String::new() } else { format!(", `{label}`") }
}
