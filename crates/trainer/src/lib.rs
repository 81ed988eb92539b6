//! The reference trainer: a small decoder-only language model that learns from Forebay.
//!
//! It is an outsider: it sees the facade `forebay` alone, and proves that a trainer needs no
//! more. [`train`] is the whole loop; [`Trainer`] is the model with its optimizer;
//! [`LanguageModelScorer`] scores a checkpoint's weights.
//!
//! # Bit for bit
//! The same settings, seed and batches give the same weights, to the last bit: whatever the
//! number of cores, and whether or not the run was killed and resumed in between. Therefore
//! - the whole state is a list of named matrices, the optimizer's step and a random generator,
//!   and a checkpoint holds all of it exactly;
//! - a batch is cut into a fixed number of *lanes*, each computed by one thread, whose gradients
//!   are added in lane order: threads change when a sum is taken, never its order;
//! - randomness comes from [`forebay::Random`], drawn in row order before the lanes begin.
//!
//! # After a crash
//! Nothing here outlives the process. [`train`] goes on from the newest committed checkpoint, and
//! repeats the steps after it with the same batches and the same result.

mod attention;
mod batch;
mod error;
mod lanes;
mod model;
mod optimizer;
mod parameters;
mod schedule;
mod scorer;
mod settings;
mod state;
mod train;
mod trainer;

pub use error::Error;
pub use scorer::LanguageModelScorer;
pub use settings::{ModelSettings, OptimizerSettings, TrainerSettings};
pub use train::{Outcome, train};
pub use trainer::{StepReport, Trainer};

/// What stands in a run's record as the trainer.
pub const DESCRIPTION: &str =
    concat!("forebay-trainer ", env!("CARGO_PKG_VERSION"), ", decoder-only transformer on burn");

/// What the trainer computes on.
pub const DEVICE: &str = if cfg!(feature = "cuda") { "cuda (burn)" } else { "cpu (burn flex)" };

/// The device all tensors live on.
fn device() -> burn::tensor::Device {
    #[cfg(feature = "cuda")]
    return burn::tensor::Device::cuda(0);
    #[cfg(not(feature = "cuda"))]
    burn::tensor::Device::flex()
}

/// What a model must know of its dataset: the size of the vocabulary and the tokens of a row.
fn shape_of(dataset: &forebay::DatasetManifest) -> (usize, usize) {
    (dataset.tokenizer.vocabulary_size as usize, dataset.schema.row_tokens as usize)
}
