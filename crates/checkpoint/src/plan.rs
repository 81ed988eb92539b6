//! The plan of a state's file: all that does not change while its tensors keep their names, types and
//! shapes. It is made once and saved by many times, so that what a save takes of the trainer's time
//! for each tensor is its address.

use std::sync::Arc;

use forebay_format::v1::{
    checkpoint::TensorPart,
    tensors::{self, TensorPlace, TensorPlan, TensorSpec},
};

use crate::{Deferred, Error, StateTensor};

/// The tensors of a state, without their values, and where each lies in the file.
#[derive(Clone, Debug)]
pub struct StatePlan(Arc<Planned>);

#[derive(Debug)]
struct Planned {
    /// The header and the length of the file; its places are in `tensors`.
    file: TensorPlan,
    /// In the order of the file, each with what it is a part of.
    tensors: Arc<[(TensorPlace, Option<TensorPart>)]>,
    /// The number of each in the state as it was given.
    given: Vec<usize>,
    /// The number in `tensors` of each as it was given.
    placed: Vec<usize>,
}

impl StatePlan {
    /// The plan of a state of such tensors; their values do not matter.
    ///
    /// # Errors
    /// When two have one name, or one is not what its shape says.
    pub fn new(state: &[StateTensor<'_>]) -> Result<Self, Error> {
        let specs = state.iter().map(|tensor| Ok((tensor.spec()?, tensor.part.clone())));
        Self::of(specs.collect::<Result<_, Error>>()?)
    }

    /// The plan of a state of such tensors, each with what it is a part of.
    ///
    /// # Errors
    /// As [`StatePlan::new`].
    pub fn of(state: Vec<(TensorSpec, Option<TensorPart>)>) -> Result<Self, Error> {
        let (specs, mut parts): (Vec<_>, Vec<_>) = state.into_iter().unzip();
        for (spec, part) in specs.iter().zip(&parts) {
            if let Some(part) = part.as_ref().filter(|part| !part.holds(&spec.shape)) {
                let (tensor, shape) = (spec.name.clone(), spec.shape.clone());
                return Err(Error::Part { tensor, shape, part: part.clone() });
            }
        }
        let mut file = tensors::plan(&specs)?;
        let places = std::mem::take(&mut file.places);
        let given: Vec<usize> = places.iter().map(|(index, _)| *index).collect();
        let mut placed = vec![0; given.len()];
        for (number, index) in given.iter().enumerate() {
            placed[*index] = number;
        }
        let part = |(index, place): (usize, TensorPlace)| (place, parts[index].take());
        let tensors = places.into_iter().map(part).collect();
        Ok(Self(Arc::new(Planned { file, tensors, given, placed })))
    }

    /// The length of the file.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        self.0.file.file_bytes
    }

    /// The header and the length of the file, without its places.
    pub(crate) fn file(&self) -> &TensorPlan {
        &self.0.file
    }

    /// In the order of the file, each with what it is a part of.
    pub(crate) fn tensors(&self) -> Arc<[(TensorPlace, Option<TensorPart>)]> {
        self.0.tensors.clone()
    }

    /// Where the tensor lies that was given as number `index`.
    pub(crate) fn offset(&self, index: usize) -> u64 {
        self.0.tensors[self.0.placed[index]].0.offset
    }

    /// The bytes of the tensor that was given as number `index`.
    pub(crate) fn bytes(&self, index: usize) -> u64 {
        self.0.tensors[self.0.placed[index]].0.bytes
    }

    /// `values`, in the order in which they were given, in that of the file.
    pub(crate) fn in_order<'a>(&self, values: &[&'a [u8]]) -> Vec<&'a [u8]> {
        self.0.given.iter().map(|&index| values[index]).collect()
    }

    /// Whether these are the values of the state's tensors, in the order in which those were given; what
    /// is filled by the caller has none yet.
    ///
    /// # Errors
    /// What does not fit.
    pub(crate) fn check(&self, now: &[&[u8]], deferred: &Deferred) -> Result<(), Error> {
        let later = &deferred.later;
        let expected = self.0.placed.len();
        let found = (now.len() + later.len()).saturating_add(deferred.filled);
        if expected != found {
            return Err(Error::Tensors { found, expected });
        }
        let bytes = now.iter().map(|one| one.len()).chain(later.iter().map(|one| one.len()));
        for (number, found) in self.0.placed.iter().zip(bytes) {
            let (place, _) = &self.0.tensors[*number];
            if found as u64 != place.bytes {
                let (tensor, expected) = (place.spec.name.clone(), place.bytes);
                return Err(Error::Tensor { tensor, found: found as u64, expected });
            }
        }
        Ok(())
    }
}
