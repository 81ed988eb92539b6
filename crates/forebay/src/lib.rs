//! Storage for AI training: one engine for a model's whole day.
//!
//! An [`Engine`] is a lake and a node's local tier, opened. It prepares datasets, opens [`Run`]s,
//! scores and archives models. A trainer is an outsider: it sees batches, hands its state over as
//! named tensors, and knows nothing of tiers.
//!
//! ```no_run
//! # fn main() -> Result<(), forebay::Error> {
//! use forebay::{Engine, Run, Runtime, Settings, Trainer};
//!
//! let runtime = Runtime::system();
//! let settings = Settings::default().resolve()?;
//! let engine = Engine::open("lake".as_ref(), "local".as_ref(), 1 << 30, &runtime)?;
//! let trainer = Trainer { description: "mine 1.0".into(), device: "cpu".into() };
//! let name = forebay::Name::new("small-1").expect("a sound name");
//! let mut run = Run::open(&engine, &name, &settings, None, &trainer, Box::new(|_| ()))?;
//! let first = run.resume()?.map_or(0, |state| state.step());
//! for step in first..run.steps() {
//!     let batch = run.next_batch()?;
//!     // … take a step on `batch`, then `run.record_step(…)`, and `run.save(…)` when it is due
//! }
//! # Ok(())
//! # }
//! ```

pub mod compare;
pub mod day;
pub mod doctor;
mod engine;
mod error;
mod evening;
mod feed_benchmark;
mod run;
mod settings;

pub use engine::{Engine, run_record};
pub use error::Error;
pub use evening::clear;
pub use feed_benchmark::{
    EndedBy, FeedBenchmark, FeedMeasured, Meter, RankMeasured, WaitedSeconds,
};
pub use run::{Observer, Run, StepMetrics, Trainer};
pub use settings::{ArchiveSettings, EvaluateSettings, IndexSettings, PrepareSettings, Settings};

pub use forebay_archive as archive;
pub use forebay_checkpoint as checkpoint;
pub use forebay_checkpoint::{
    CheckpointSettings, Checkpointer, CommittedCheckpoint, Dtype, Part, Region, Restored,
    StateTensor, TensorPart, TensorView, Tier, Which,
};
pub use forebay_evaluate::{Score, Scorer};
pub use forebay_feed::{
    Batch, Column, ColumnKind, Cursor, Feed, FeedDataset, FeedSettings, FeedStats, ImageSettings,
    LastBatch, MixBy, MixtureSettings, Next, Padding, SampleIds, TokenCount, TracedSample,
    WaitCause, WeightChange,
};
pub use forebay_format::v1::{
    dataset::{DatasetManifest, TokenSchema},
    evaluation::{EvaluationRecord, Gate},
    journal::{self, Event},
    run::RunRecord,
};
pub use forebay_index::{
    Choice as FormatChoice, Error as IndexError, FORMATS, Indexed, Progress as IndexProgress,
    Source, SplitRule,
};
pub use forebay_lake::{Error as LakeError, Lake};
pub use forebay_prepare::{Prepared, Progress, Recipe, Stage};
pub use forebay_runtime::{
    Cancelled, Random, Runtime, Stopwatch, Timestamp, crash_point, process_id,
};
pub use forebay_transfer::index::AnyManifest;
pub use forebay_types::{Digest, ErrorKind, Key, Name, Position, Rank, SampleId, Split, Version};
