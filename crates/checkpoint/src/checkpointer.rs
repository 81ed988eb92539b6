//! The trainer's side: hand the state over, go on.

use std::borrow::Cow;

use forebay_format::v1::tensors::{self, Dtype, TensorSpec};
use forebay_runtime::{Runtime, crash_point};
use forebay_transfer::Transfer;
use forebay_types::{Name, Position, Rank};

use crate::{
    CheckpointSettings, Error, Part, Restored, SaveReport, Which,
    arena::{self, Arena},
    restore, stage::{Captured, Origin},
    stage,
    worker::{Job, Tools, Worker},
};

/// One named tensor of a training state.
///
/// Weights are named `model.…`, optimizer state `optimizer.…`.
#[derive(Clone, Debug)]
pub struct StateTensor<'a> {
    /// Its name, unique in the state.
    pub name: Cow<'a, str>,
    /// The type of its elements.
    pub dtype: Dtype,
    /// Its shape; a scalar has none.
    pub shape: Vec<u64>,
    /// Its values, row by row, little-endian.
    pub bytes: Cow<'a, [u8]>,
}

/// A save that was captured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Capture {
    /// The bytes that were copied.
    pub bytes: u64,
    /// How long the trainer stood still, waiting for the save before it included.
    pub pause_seconds: f64,
    /// How much of the pause was waiting for the save before it.
    pub waited_seconds: f64,
}

/// Saves and restores the checkpoints of one rank of a run.
pub struct Checkpointer {
    transfer: Transfer,
    runtime: Runtime,
    origin: Origin,
    threads: usize,
    arena: Arena,
    worker: Worker,
    recovered: Vec<u64>,
}

impl Checkpointer {
    /// Opens the checkpoints of `run`; first finishes what a dead process sealed on this node.
    ///
    /// Ranks whose checkpoints are to be committed together must share `attempt`: one text per
    /// start of the job, such as the launcher's run id.
    ///
    /// # Errors
    /// When either tier fails, or a sealed checkpoint is damaged.
    pub fn open(
        transfer: &Transfer,
        run: &Name,
        rank: Rank,
        attempt: &str,
        settings: &CheckpointSettings,
        runtime: &Runtime,
    ) -> Result<Self, Error> {
        let origin = Origin {
            run: run.clone(),
            rank: rank.rank(),
            world_size: rank.world_size(),
            attempt: attempt.to_owned(),
        };
        let recovered = stage::recover(transfer, runtime, &origin)?;
        let arena = Arena::default();
        let worker = Worker::start(Tools {
            transfer: transfer.clone(),
            runtime: runtime.clone(),
            origin: origin.clone(),
            settings: settings.clone(),
            arena: arena.clone(),
        });
        Ok(Self {
            transfer: transfer.clone(),
            runtime: runtime.clone(),
            origin,
            threads: settings.threads.max(1) as usize,
            arena,
            worker,
            recovered,
        })
    }

    /// The steps that opening found sealed and drained.
    #[must_use]
    pub fn recovered(&self) -> &[u64] {
        &self.recovered
    }

    /// Captures a state; returns as soon as the trainer may change its tensors.
    ///
    /// # Errors
    /// When the state cannot be stored, or an earlier save failed in the background.
    pub fn save(
        &mut self,
        step: u64,
        position: Position,
        tensors: &[StateTensor<'_>],
        metadata: &serde_json::Value,
    ) -> Result<Capture, Error> {
        self.worker.check(&self.origin)?;
        let watch = self.runtime.stopwatch();
        let plan = tensors::plan(&specs(tensors)?)?;
        let mut values = self.arena.take();
        let waited_seconds = watch.seconds();
        let sources: Vec<&[u8]> =
            plan.places.iter().map(|(index, _)| tensors[*index].bytes.as_ref()).collect();
        arena::fill(&self.runtime, self.threads, &mut values, &sources);
        crash_point("checkpoint.capture");
        let (bytes, pause_seconds) = (values.len() as u64, watch.seconds());
        let captured = Captured { step, position, metadata: metadata.clone(), values, plan };
        let since = self.runtime.stopwatch();
        self.worker.submit(Job { captured, pause_seconds, waited_seconds, since });
        Ok(Capture { bytes, pause_seconds, waited_seconds })
    }

    /// The saves that became durable since the last call.
    pub fn finished(&mut self) -> Vec<SaveReport> {
        self.worker.finished()
    }

    /// Waits until every save is durable; returns those not told of yet.
    ///
    /// # Errors
    /// What went wrong in the background.
    pub fn wait(&mut self) -> Result<Vec<SaveReport>, Error> {
        self.worker.wait()?;
        self.worker.check(&self.origin)?;
        Ok(self.worker.finished())
    }

    /// A committed state, every tensor verified; `None` if the run has none.
    ///
    /// # Errors
    /// [`Error::Unrestorable`] when it is damaged, [`Error::NoCheckpoint`] when the step that was
    /// asked for does not exist.
    pub fn restore(&self, which: Which, part: Part) -> Result<Option<Restored>, Error> {
        restore::restore(self.transfer.lake(), &self.runtime, &self.origin.run, which, part)
    }
}

impl std::fmt::Debug for Checkpointer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Checkpointer").field("origin", &self.origin).finish_non_exhaustive()
    }
}

fn specs(tensors: &[StateTensor<'_>]) -> Result<Vec<TensorSpec>, Error> {
    let spec = |tensor: &StateTensor<'_>| {
        let spec = TensorSpec {
            name: tensor.name.to_string(),
            dtype: tensor.dtype,
            shape: tensor.shape.clone(),
        };
        let (found, wanted) = (tensor.bytes.len() as u64, spec.bytes().unwrap_or(u64::MAX));
        if found == wanted {
            Ok(spec)
        } else {
            Err(Error::Shape { name: spec.name, found, wanted })
        }
    };
    tensors.iter().map(spec).collect()
}
