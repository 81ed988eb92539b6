//! Checkpoints: weights, optimizer, random state and data position, in one commit.
//!
//! ```text
//! trainer ─ save ─▶ capture: copy into the arena            the only pause
//!                      │ (a thread from here on)
//!                      ▼
//!                   stage: tensor file, then rank record    durable on this node: sealed
//!                      ▼
//!                   drain: both into the lake, verified on the way
//!                      ▼
//!                   commit: one conditional put             the checkpoint exists
//!                      ▼
//!                   release what was staged, delete what retention lets go
//! ```
//!
//! # Bounds
//! One arena of the state's size, kept and reused; a save waits while the one before it is still
//! being staged, and that wait is part of its reported pause. Digests are computed by the
//! background thread while it writes.
//!
//! # After a crash
//! In capture: nothing. In staging: a private file, removed when the tier is next opened. Sealed:
//! the next [`Checkpointer::open`] drains and commits it. Drained without a commit: objects named
//! by their content, which that same commit names. An uncommitted step does not exist.

mod arena;
mod checkpointer;
mod commit;
mod error;
mod inspect;
mod restore;
mod retain;
mod settings;
mod stage;
mod worker;

pub use checkpointer::{Capture, Checkpointer, StateTensor};
pub use error::Error;
pub use forebay_format::v1::tensors::Dtype;
pub use inspect::{CheckpointSummary, Shown, Verified, export, list, show, verify};
pub use restore::{Part, Restored, TensorView, Which, restore};
pub use settings::CheckpointSettings;
pub use worker::SaveReport;
