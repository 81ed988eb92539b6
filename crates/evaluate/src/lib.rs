//! Evening, first half: a checkpoint is scored on data its model has not seen.
//!
//! It receives a run's committed checkpoint and a [`Scorer`] that knows the network, and promises:
//!
//! - **Unseen.** No raw record stands behind both a scored row and a row of the training split;
//!   this is looked up in the shards' side files each time, not assumed.
//! - **The same bar.** The dataset, the split and the gate are those that stand in the run record
//!   since before the first step.
//! - **All of it.** Every row of the split is scored once, in stored order.
//! - **A record.** What was measured, on what, with which verdict, is committed to the lake.
//!
//! A gate that is not passed is an answer and not an error.
//!
//! # Bounds
//! The weights, two batches, one count per token id and one number per raw record behind the
//! scored rows are held in memory.
//!
//! # After a crash
//! Nothing, or the whole record. Scoring again with the same result finds the record that is there.

mod entropy;
mod error;
mod evaluation;
mod held_out;
mod scorer;
mod store;

pub use error::{BoxError, Error};
pub use evaluation::Evaluation;
pub use forebay_format::v1::evaluation::{
    EvaluationRecord, Gate, HeldOut, Measures, Rule, RuleOutcome,
};
pub use scorer::{Score, Scorer};
