//! What changed between two checkpoints of a run, tensor by tensor.
//!
//! Tensors whose stored parts have the same digests are equal and are not read. The others are read
//! one after the other.
//!
//! # Bounds
//! The memory of the largest changed tensor, twice.

use forebay_format::v1::tensors::Dtype;
use forebay_lake::Lake;
use forebay_types::Name;
use serde::Serialize;

use crate::{CommittedCheckpoint, Error, Region, StoredTensor, Which, committed::Tiers};

/// A tensor that is not the same in two checkpoints.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TensorDifference {
    /// Its name.
    pub name: String,
    /// What happened to it from the first to the second.
    pub change: Change,
}

/// What happened to a tensor.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// Only the second has it.
    Added,
    /// Only the first has it.
    Removed,
    /// Type or shape is another.
    Reshaped {
        /// In the first.
        before: String,
        /// In the second.
        after: String,
    },
    /// Some elements are others.
    Values {
        /// All its elements.
        elements: u64,
        /// Those that differ.
        changed: u64,
        /// The Euclidean norm of the first; none where elements are no numbers that have one.
        norm_before: Option<f64>,
        /// The norm of the second minus the first.
        norm_of_change: Option<f64>,
    },
}

/// How two checkpoints differ.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// The first step.
    pub before: u64,
    /// The second.
    pub after: u64,
    /// Tensors that are the same in both.
    pub equal: u64,
    /// The others, by name.
    pub tensors: Vec<TensorDifference>,
}

/// Compares two committed steps of a run.
///
/// # Errors
/// As [`crate::restore`].
pub fn diff(lake: &Lake, run: &Name, before: u64, after: u64) -> Result<Difference, Error> {
    let tiers = Tiers { lake, near: None };
    let open = |step| {
        let opened = CommittedCheckpoint::open_in(tiers, run, Which::Step(step))?;
        opened.ok_or_else(|| Error::NoCheckpoint { run: run.clone() })
    };
    let (first, second) = (open(before)?, open(after)?);
    let mut difference = Difference { before, after, equal: 0, tensors: Vec::new() };
    let names: std::collections::BTreeSet<_> =
        first.tensors().keys().chain(second.tensors().keys()).collect();
    for name in names {
        let change = match (first.tensors().get(name), second.tensors().get(name)) {
            (Some(one), Some(other)) if (one.dtype, &one.shape) != (other.dtype, &other.shape) => {
                Some(Change::Reshaped { before: form(one), after: form(other) })
            }
            (Some(_), Some(_)) if first.digests(name).eq(second.digests(name)) => None,
            (Some(one), Some(_)) => {
                values(one.dtype, &read(tiers, &first, name)?, &read(tiers, &second, name)?)
            }
            (None, _) => Some(Change::Added),
            (_, None) => Some(Change::Removed),
        };
        match change {
            Some(change) => {
                difference.tensors.push(TensorDifference { name: name.clone(), change })
            }
            None => difference.equal += 1,
        }
    }
    Ok(difference)
}

fn form(tensor: &StoredTensor) -> String {
    format!("{:?} {:?}", tensor.dtype, tensor.shape)
}

fn read(tiers: Tiers<'_>, checkpoint: &CommittedCheckpoint, name: &str) -> Result<Vec<u8>, Error> {
    let tensor = &checkpoint.tensors()[name];
    let bytes = usize::try_from(tensor.bytes())
        .map_err(|_| Error::object(name, "it does not fit into memory"))?;
    let mut values = vec![0; bytes];
    let (start, shape) = (vec![0; tensor.shape.len()], tensor.shape.clone());
    checkpoint.read_in(tiers, vec![Region { name, start, shape, into: &mut values }])?;
    Ok(values)
}

/// How the elements of a tensor changed; none if they are the same, stored in other parts.
fn values(dtype: Dtype, before: &[u8], after: &[u8]) -> Option<Change> {
    let width = dtype.bytes() as usize;
    let (mut changed, mut norm, mut of_change) = (0, 0.0, 0.0);
    for (one, other) in before.chunks_exact(width).zip(after.chunks_exact(width)) {
        changed += u64::from(one != other);
        if let (Some(one), Some(other)) = (number(dtype, one), number(dtype, other)) {
            norm += one * one;
            of_change += (other - one) * (other - one);
        }
    }
    let has_norm =
        before.chunks_exact(width).next().is_some_and(|one| number(dtype, one).is_some());
    (changed > 0).then(|| Change::Values {
        elements: (before.len() / width) as u64,
        changed,
        norm_before: has_norm.then(|| norm.sqrt()),
        norm_of_change: has_norm.then(|| of_change.sqrt()),
    })
}

/// An element of the types that weights and optimizer state mostly have.
fn number(dtype: Dtype, bytes: &[u8]) -> Option<f64> {
    match dtype {
        Dtype::F64 => Some(f64::from_le_bytes(bytes.try_into().ok()?)),
        Dtype::F32 => Some(f32::from_le_bytes(bytes.try_into().ok()?).into()),
        // The upper half of an F32.
        Dtype::BF16 => {
            let bits = u16::from_le_bytes(bytes.try_into().ok()?);
            Some(f32::from_bits(u32::from(bits) << 16).into())
        }
        _ => None,
    }
}
