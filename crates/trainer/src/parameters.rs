//! The weights: a list of named matrices, and nothing else.
//!
//! Norms have no gain and layers no bias, so every weight is a matrix; one list in one fixed order
//! is what the optimizer walks and what a checkpoint holds.

use burn::tensor::{Tensor, TensorData};
use forebay::Random;

/// How one weight matrix begins and is treated.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Its name in a checkpoint.
    pub name: String,
    pub shape: [usize; 2],
    /// Standard deviation of its first values.
    pub deviation: f64,
    /// Whether weight decay shrinks it.
    pub decays: bool,
}

/// One weight matrix.
#[derive(Clone, Debug)]
pub(crate) struct Parameter {
    pub plan: Plan,
    pub value: Tensor<2>,
}

/// All weights, in the order in which the model asks for them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Parameters(pub Vec<Parameter>);

impl Parameters {
    /// Makes the next weight from `random`.
    pub(crate) fn begin(&mut self, plan: Plan, random: &mut Random) -> Tensor<2> {
        let draw = |_| (random.normal() * plan.deviation) as f32;
        let values = (0..plan.shape[0] * plan.shape[1]).map(draw).collect();
        self.push(matrix(values, plan.shape), plan)
    }

    /// Makes the next weight without any content.
    pub(crate) fn begin_at_zero(&mut self, plan: Plan) -> Tensor<2> {
        self.push(Tensor::zeros(plan.shape, &crate::device()), plan)
    }

    fn push(&mut self, value: Tensor<2>, plan: Plan) -> Tensor<2> {
        self.0.push(Parameter { plan, value: value.clone() });
        value
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = Tensor<2>> {
        self.0.iter().map(|parameter| parameter.value.clone())
    }

    /// The same weights as the leaves of a new graph: lanes that shared leaves would share a graph
    /// and its lock.
    pub(crate) fn leaves(&self) -> Vec<Tensor<2>> {
        self.values().map(|value| Tensor::from_inner(value).require_grad()).collect()
    }

    /// Takes up other values, one for each weight.
    pub(crate) fn replace(&mut self, values: Vec<Tensor<2>>) {
        self.0.iter_mut().zip(values).for_each(|(parameter, value)| parameter.value = value);
    }

    pub(crate) fn zeros(&self) -> Vec<Tensor<2>> {
        self.values().map(|value| value.zeros_like()).collect()
    }
}

/// A matrix on the trainer's device, outside any graph.
pub(crate) fn matrix(values: Vec<f32>, shape: [usize; 2]) -> Tensor<2> {
    Tensor::from_data(TensorData::new(values, shape), &crate::device())
}
