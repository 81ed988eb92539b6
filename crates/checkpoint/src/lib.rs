//! Checkpoints: the state of a training run, captured with hardly a pause and never half there.
//!
//! What one checkpoint holds is committed together: weights, optimizer state, and, as metadata,
//! schedule, random state and data position. A [`Checkpointer`] receives the tensors of one rank
//! and takes them through four stations:
//!
//! ```text
//! trainer's memory ──capture──> arena ──stage──> local tier ──drain──> lake ──commit──> it exists
//!                   the pause          background, durable   background       one conditional put
//! ```
//!
//! Attempts at the same step never mix: each has a nonce that its ranks share and a folder of
//! that name in the lake, and the commit names each rank's record, each record its file, and each
//! file's tensors by digest. Whoever sees all ranks complete commits; there is no coordinator.
//!
//! # Promises
//! - A step without `commit.json` does not exist: it is never listed, chosen or loaded.
//! - A committed step is never overwritten.
//! - One launch at a time writes a run: when another claims it, this one commits no more and is told.
//! - [`restore`] verifies every tensor it returns, and never falls back silently to an older step.
//! - An error in the background is returned by the next call of the same [`Checkpointer`].
//!
//! # Bounds
//! One arena as large as the rank's state, or none where there is not so much memory; at most
//! [`STAGED_MAX`] staged saves wait for the lake before the next one waits for them.
//!
//! # After a crash
//! | killed during | left behind | the next [`Checkpointer::open`] |
//! |---|---|---|
//! | capture, or while the caller fills tensors | nothing; when it is copied beside the training, maybe an unsealed file | removes it |
//! | after the capture, staging | the capture in the node's memory, maybe an unsealed file | stages, drains and commits the one, removes the other |
//! | after sealing, draining, before the commit | a sealed save on the node | drains and commits it |
//! | after the commit | the same, committed | keeps it to restore from, then releases it |
//! | any time after staging, until the next capture | also the state in the node's memory | reads it before the disk, then uses its memory again |
//!
//! What a lost node left in the lake is removed by retention after [`LEFTOVER_GRACE`], or by
//! [`sweep`] when somebody knows that nobody writes it any more.

mod adopt;
mod ahead;
mod arena;
mod ask;
mod base;
mod boxes;
mod capture;
mod checkpointer;
mod committed;
mod copying;
mod difference;
mod digests;
mod encode;
mod error;
mod export;
mod failure;
mod fork;
mod image;
mod import;
mod in_order;
mod inspect;
mod keep;
mod layout;
mod overlap;
mod page_locks;
mod pieces;
mod pipeline;
mod plan;
mod publish;
mod read;
mod recover;
mod restore;
mod restored;
mod retain;
mod retention;
mod settings;
mod shards;
mod shared;
mod site;
mod source;
mod stage;
mod state;
mod tree;
mod weights;
mod writer;

pub use ask::ask;
pub use checkpointer::{Capture, Checkpointer, Deferred};
pub use committed::{CommittedCheckpoint, Region, StoredTensor};
pub use copying::Copying;
pub use difference::{Change, Difference, TensorDifference, diff};
pub use error::Error;
pub use export::{Exported, export};
pub use forebay_format::v1::{
    checkpoint::{CheckpointReference, TensorPart},
    tensors::{Dtype, TensorSpec},
};
pub use fork::{Forked, fork, forked_from};
pub use import::{Imported, Meaning, import};
pub use inspect::{CheckpointSummary, Shown, Verified, list, show, verify};
pub use keep::{Goal, KeepBest, KeepPolicy, Kept};
pub use page_locks::PageLocks;
pub use pipeline::{STAGED_MAX, SaveReport};
pub use plan::StatePlan;
pub use recover::{Recovered, Recovery};
pub use restore::{Part, Which, restore};
pub use restored::{Restored, TensorView, Tier};
pub use retain::{LEFTOVER_GRACE, remove, sweep};
pub use retention::{RetainedStep, Retention};
pub use settings::CheckpointSettings;
pub use shards::{ExportedShards, export_shards};
pub use state::StateTensor;
pub use writer::{LAUNCHES_MAX, launches};
