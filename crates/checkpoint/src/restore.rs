//! Restoring: a committed step, every tensor of it whole and verified.
//!
//! # Bounds
//! The memory of what is restored, and what [`CommittedCheckpoint::read`] takes beside it.

use forebay_transfer::Transfer;
use forebay_types::Name;

use crate::{
    CommittedCheckpoint, Error, Region, Restored, StoredTensor, committed::Tiers, restored::Held,
};

/// Which checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The newest that is committed.
    Newest,
    /// The one at this step.
    Step(u64),
}

/// How much of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Every tensor.
    All,
    /// Tensors named `model.…`; nothing else is read.
    Weights,
}

impl Part {
    fn wants(self, name: &str) -> bool {
        self == Self::All || name.starts_with("model.")
    }
}

/// Restores a committed checkpoint of `run`; `None` when the newest is asked for and none exists.
///
/// # Errors
/// [`Error::NoStep`] for a step that is not committed. [`Error::Damaged`] names what is damaged
/// and which older step is intact; no older step is ever taken silently.
pub fn restore(
    transfer: &Transfer,
    run: &Name,
    which: Which,
    part: Part,
) -> Result<Option<Restored>, Error> {
    restore_in(Tiers::of(transfer), run, which, part)
}

pub(crate) fn restore_in(
    tiers: Tiers<'_>,
    run: &Name,
    which: Which,
    part: Part,
) -> Result<Option<Restored>, Error> {
    let checkpoint = CommittedCheckpoint::open_in(tiers, run, which)?;
    checkpoint.map(|checkpoint| read_all(tiers, checkpoint, part)).transpose()
}

/// Every tensor that is wanted of a checkpoint.
pub(crate) fn read_all(
    tiers: Tiers<'_>,
    checkpoint: CommittedCheckpoint,
    part: Part,
) -> Result<Restored, Error> {
    let wanted: Vec<_> = checkpoint.tensors().iter().filter(|(name, _)| part.wants(name)).collect();
    let memory = |(name, tensor): &(&String, &StoredTensor)| match usize::try_from(tensor.bytes()) {
        Ok(bytes) => Ok(vec![0; bytes]),
        Err(_) => Err(Error::object(name, "it does not fit into memory")),
    };
    let mut memory = wanted.iter().map(memory).collect::<Result<Vec<Vec<u8>>, _>>()?;
    let regions = wanted.iter().zip(&mut memory).map(|((name, tensor), into)| Region {
        name,
        start: vec![0; tensor.shape.len()],
        shape: tensor.shape.clone(),
        into,
    });
    let tier = checkpoint.read_in(tiers, regions.collect())?;
    let held = |((name, tensor), bytes): ((&String, &StoredTensor), Vec<u8>)| {
        (name.clone(), Held { dtype: tensor.dtype, shape: tensor.shape.clone(), bytes })
    };
    let tensors = wanted.into_iter().zip(memory).map(held).collect();
    Ok(Restored { commit: checkpoint.commit, tier, tensors })
}
