//! Capture: the only part of a save that the trainer waits for.
//!
//! The plan of the tensor file is computed from names, types and shapes, and every tensor is
//! copied to its place in the file's image. Digests are left to the background, and so is copying what
//! cannot change before the optimizer's next step.

use std::{borrow::Cow, time::Duration};

use forebay_format::v1::{
    checkpoint::{CheckpointReference, TensorPart},
    run::DatasetReference,
    tensors::{self, TensorPlace, TensorPlan},
};
use forebay_runtime::crash_point;
use forebay_types::{Digest, Nonce, Position};

use crate::{
    Error, StateTensor,
    arena::Arena,
    copying::{Copier, Verdict},
    site::Site,
};

/// What is said about a save, besides its tensors.
pub(crate) struct Facts {
    pub step: u64,
    pub position: Position,
    pub attempt: Nonce,
    pub launch: Digest,
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
    /// What the background copies first.
    pub later: Option<Later>,
    pub timing: Timing,
}

/// Tensors that are copied while the trainer goes on.
pub(crate) struct Later {
    /// Where each lies in the image.
    pub tensors: Vec<(u64, Cow<'static, [u8]>)>,
    pub copier: Copier,
}

impl Captured {
    /// Copies what is left to copy, and asks the trainer whether the state is whole.
    pub(crate) fn complete(&mut self, site: &Site) -> Verdict {
        let Some(later) = self.later.take() else { return Verdict::Intact };
        let tensors = later.tensors.iter().map(|(offset, bytes)| (*offset, &**bytes)).collect();
        self.arena.copy(tensors, site.threads(), &site.runtime);
        later.copier.verdict()
    }

    /// The bytes of a tensor.
    pub(crate) fn values(&self, tensor: usize) -> &[u8] {
        let place = &self.tensors[tensor].0;
        &self.arena.image()[place.offset as usize..(place.offset + place.bytes) as usize]
    }
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

/// Copies the state into `arena`; of tensors from number `now` on, it is said what is to be copied.
pub(crate) fn capture<'a>(
    site: &Site,
    plan: TensorPlan,
    mut arena: Arena,
    state: &'a [StateTensor<'a>],
    now: usize,
    facts: Facts,
) -> Captured {
    arena.begin(&plan, site.threads(), &site.runtime);
    crash_point("checkpoint.capture");
    let copied = plan.places.iter().filter(|(index, _)| *index < now);
    let copied = copied.map(|(index, place)| (place.offset, &*state[*index].bytes)).collect();
    arena.copy(copied, site.threads(), &site.runtime);
    let part = |(index, place): (usize, TensorPlace)| (place, state[index].part.clone());
    let tensors = plan.places.into_iter().map(part).collect();
    Captured { facts, arena, tensors, later: None, timing: Timing::default() }
}
