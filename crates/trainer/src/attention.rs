//! Causal self-attention with linear biases.
//!
//! Places are known through a penalty that grows linearly with distance, at another rate for each
//! head (Press et al., <https://arxiv.org/abs/2108.12409>): it shares one addition with the causal
//! mask and has nothing to learn.

use burn::tensor::{Tensor, TensorData, activation};

use crate::model::ModelShape;

/// What is added to the scores: minus infinity ahead, a penalty for distance behind.
pub(crate) fn bias(shape: &ModelShape) -> Tensor<4> {
    let (heads, context) = (shape.heads, shape.context);
    let mut values = Vec::with_capacity(heads * context * context);
    for head in 0..heads {
        let slope = slope(head, heads);
        for place in 0..context {
            values.extend((0..=place).map(|other| -slope * (place - other) as f32));
            values.extend((place + 1..context).map(|_| f32::NEG_INFINITY));
        }
    }
    Tensor::from_data(TensorData::new(values, [1, heads, context, context]), &crate::device())
}

/// From 1 for the first head, which sees little but its neighbours, down to nearly 2⁻⁸.
fn slope(head: usize, heads: usize) -> f32 {
    (-8.0 * head as f64 / heads as f64).exp2() as f32
}

/// The weights of one attention.
#[derive(Debug)]
pub(crate) struct Attention {
    pub query: Tensor<2>,
    pub key: Tensor<2>,
    pub value: Tensor<2>,
    pub output: Tensor<2>,
}

impl Attention {
    /// Mixes the places of each row of `input`, a matrix of `[rows * context, width]`.
    pub(crate) fn forward(
        &self,
        shape: &ModelShape,
        input: &Tensor<2>,
        bias: &Tensor<4>,
    ) -> Tensor<2> {
        let heads = |weight: &Tensor<2>| split_heads(shape, input.clone().matmul(weight.clone()));
        let temperature = ((shape.width / shape.heads) as f64).sqrt();
        let query = heads(&self.query).div_scalar(temperature);
        let scores = query.matmul(heads(&self.key).swap_dims(2, 3)) + bias.clone();
        let mixed = activation::softmax(scores, 3).matmul(heads(&self.value));
        let [rows, ..] = mixed.dims();
        let joined = mixed.swap_dims(1, 2).reshape([rows * shape.context, shape.width]);
        joined.matmul(self.output.clone())
    }
}

/// `[rows * context, width]` as `[rows, heads, context, width / heads]`.
fn split_heads(shape: &ModelShape, input: Tensor<2>) -> Tensor<4> {
    let [places, _] = input.dims();
    let rows = places / shape.context;
    let split = input.reshape([rows, shape.context, shape.heads, shape.width / shape.heads]);
    split.swap_dims(1, 2)
}
