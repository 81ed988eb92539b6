//! Capture: the only part of a save that the trainer waits for.
//!
//! The plan of the tensor file is computed from names, types and shapes, and every tensor is
//! copied to its place in the file's image. Digests are left to the background.

use std::time::Duration;

use forebay_format::v1::{
    checkpoint::{CheckpointReference, TensorPart},
    run::DatasetReference,
    tensors::{self, TensorPlace, TensorPlan},
};
use forebay_types::{Nonce, Position};

use crate::{Error, StateTensor, arena::Arena, site::Site};

/// What is said about a save, besides its tensors.
pub(crate) struct Facts {
    pub step: u64,
    pub position: Position,
    pub attempt: Nonce,
    pub parent: Option<u64>,
    pub dataset: Option<DatasetReference>,
    pub forked_from: Option<CheckpointReference>,
    pub captured_unix_ms: u64,
    pub metadata: serde_json::Value,
}

/// A captured state: an image of its file, and where each tensor lies in it.
pub(crate) struct Captured {
    pub facts: Facts,
    pub arena: Arena,
    /// In the order of the image, each with what it is a part of.
    pub tensors: Vec<(TensorPlace, Option<TensorPart>)>,
    pub timing: Timing,
}

/// When a save was captured, and how long that took.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Timing {
    pub captured_at: Duration,
    pub pause_seconds: f64,
    pub waited_seconds: f64,
    pub stage_seconds: f64,
}

/// The plan of a state's file, checked before anything is waited for or copied.
pub(crate) fn plan(state: &[StateTensor<'_>]) -> Result<TensorPlan, Error> {
    let specs = state.iter().map(StateTensor::spec).collect::<Result<Vec<_>, _>>()?;
    Ok(tensors::plan(&specs)?)
}

/// Copies the state into `arena`.
pub(crate) fn capture(
    site: &Site,
    plan: TensorPlan,
    mut arena: Arena,
    state: &[StateTensor<'_>],
    facts: Facts,
) -> Captured {
    arena.fill(&plan, state, site.threads(), &site.runtime);
    let part = |(index, place): (usize, TensorPlace)| (place, state[index].part.clone());
    let tensors = plan.places.into_iter().map(part).collect();
    Captured { facts, arena, tensors, timing: Timing::default() }
}
