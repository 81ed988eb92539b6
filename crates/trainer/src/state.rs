//! The trainer's state as named tensors, and back.
//!
//! ```text
//! model.<…>.weight                      the weights
//! optimizer.first_moment.model.<…>      AdamW's moments, one pair for each weight
//! optimizer.second_moment.model.<…>
//! metadata: { step, random, loss }      the step is the schedule's position too
//! ```

use std::{borrow::Cow, collections::BTreeMap};

use burn::tensor::Tensor;
use forebay::{Dtype, Random, Restored, StateTensor};
use serde::{Deserialize, Serialize};

use crate::{
    Error,
    parameters::{Parameters, Plan, matrix},
};

/// Which of a weight's three matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Weight,
    FirstMoment,
    SecondMoment,
}

impl Role {
    fn name(self, plan: &Plan) -> String {
        match self {
            Self::Weight => plan.name.clone(),
            Self::FirstMoment => format!("optimizer.first_moment.{}", plan.name),
            Self::SecondMoment => format!("optimizer.second_moment.{}", plan.name),
        }
    }
}

/// All of the state that is no matrix.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Metadata {
    /// Steps the optimizer has taken.
    pub step: u64,
    /// What the input noise is drawn from.
    pub random: Random,
    /// The loss of the last step; nothing depends on it.
    pub loss: Option<f64>,
}

/// `values` as they go into a checkpoint, in the order of `parameters`.
pub(crate) fn encode<'a>(
    role: Role,
    parameters: &'a Parameters,
    values: impl IntoIterator<Item = Tensor<2>> + 'a,
) -> impl Iterator<Item = StateTensor<'static>> + 'a {
    parameters.0.iter().zip(values).map(move |(parameter, value)| StateTensor {
        name: Cow::Owned(role.name(&parameter.plan)),
        dtype: Dtype::F32,
        shape: parameter.plan.shape.map(|size| size as u64).to_vec(),
        bytes: Cow::Owned(little_endian(&value)),
        part: None,
    })
}

// Checkpoints are little-endian, and so are the machines: weights go out as they lie in memory.
const _: () = assert!(cfg!(target_endian = "little"));

fn little_endian(value: &Tensor<2>) -> Vec<u8> {
    value.to_data().as_bytes().to_vec()
}

/// The tensors of one checkpoint, taken out by name until none may be left.
pub(crate) struct Stored<'a> {
    step: u64,
    tensors: BTreeMap<&'a str, StoredTensor<'a>>,
}

pub(crate) struct StoredTensor<'a> {
    pub dtype: Dtype,
    pub shape: &'a [u64],
    pub bytes: &'a [u8],
}

impl<'a> Stored<'a> {
    pub(crate) fn new(
        step: u64,
        tensors: impl IntoIterator<Item = (&'a str, StoredTensor<'a>)>,
    ) -> Self {
        Self { step, tensors: tensors.into_iter().collect() }
    }

    pub(crate) fn of(restored: &'a Restored) -> Self {
        let tensors = restored.tensors().map(|tensor| {
            let stored =
                StoredTensor { dtype: tensor.dtype, shape: tensor.shape, bytes: tensor.bytes };
            (tensor.name, stored)
        });
        Self::new(restored.step(), tensors)
    }

    pub(crate) const fn step(&self) -> u64 {
        self.step
    }

    /// Takes the matrix of every parameter.
    pub(crate) fn take(
        &mut self,
        role: Role,
        parameters: &Parameters,
    ) -> Result<Vec<Tensor<2>>, Error> {
        parameters.0.iter().map(|parameter| self.take_one(role, &parameter.plan)).collect()
    }

    fn take_one(&mut self, role: Role, plan: &Plan) -> Result<Tensor<2>, Error> {
        let (name, step) = (role.name(plan), self.step);
        let Some(stored) = self.tensors.remove(name.as_str()) else {
            return Err(Error::MissingTensor { step, tensor: name });
        };
        let shape = plan.shape.map(|size| size as u64);
        let bytes = plan.shape[0] * plan.shape[1] * size_of::<f32>();
        if stored.dtype != Dtype::F32 || stored.shape != shape || stored.bytes.len() != bytes {
            let found = format!("{:?} {:?}", stored.dtype, stored.shape);
            let expected = format!("{:?} {shape:?}", Dtype::F32);
            return Err(Error::TensorShape { step, tensor: name, found, expected });
        }
        let (numbers, _) = stored.bytes.as_chunks();
        Ok(matrix(numbers.iter().map(|&number| f32::from_le_bytes(number)).collect(), plan.shape))
    }

    /// Refuses weights that were not taken; the optimizer's state may be left.
    pub(crate) fn finish_weights(mut self) -> Result<(), Error> {
        self.tensors.retain(|name, _| !name.starts_with("optimizer."));
        self.finish()
    }

    /// Refuses whatever was not taken.
    pub(crate) fn finish(self) -> Result<(), Error> {
        match self.tensors.into_keys().next() {
            Some(name) => Err(Error::UnexpectedTensor { step: self.step, tensor: name.to_owned() }),
            None => Ok(()),
        }
    }
}
