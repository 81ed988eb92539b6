//! The network: embeddings, blocks of attention and a two-layer network, and a head.
//!
//! ```text
//! tokens ─ embeddings ─ norm ─┬────────────────(+)─┬─────────────────────(+)─ … ─ norm ─ head ─ logits
//!                             └─ norm ─ attention ─┘└─ norm ─ up ─ relu² ─ down ─┘
//! ```

use burn::tensor::{Int, Tensor, activation, module};
use forebay::Random;

use crate::{
    ModelSettings,
    attention::Attention,
    parameters::{Parameters, Plan},
};

/// Keeps the norm of an all-zero vector finite.
const NORM_EPSILON: f64 = 1e-6;

/// All sizes of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ModelShape {
    pub vocabulary_size: usize,
    /// Places of a row at which something is predicted.
    pub context: usize,
    pub width: usize,
    pub layers: usize,
    pub heads: usize,
    pub hidden_width: usize,
    pub lookback_tokens: usize,
}

impl ModelShape {
    pub(crate) fn new(settings: &ModelSettings, vocabulary_size: usize, context: usize) -> Self {
        Self {
            vocabulary_size,
            context,
            width: settings.width as usize,
            layers: settings.layers as usize,
            heads: settings.heads as usize,
            hidden_width: settings.hidden_width as usize,
            lookback_tokens: settings.lookback_tokens as usize,
        }
    }

    /// Weights that know nothing, to be replaced.
    pub(crate) fn zeros(&self) -> Parameters {
        let mut parameters = Parameters::default();
        Model::build(self, &mut |plan| parameters.begin_at_zero(plan));
        parameters
    }

    /// Untrained weights.
    pub(crate) fn parameters(&self, random: &mut Random) -> Parameters {
        let mut parameters = Parameters::default();
        Model::build(self, &mut |plan| parameters.begin(plan, random));
        parameters
    }
}

/// The network over weights that somebody else keeps.
#[derive(Debug)]
pub(crate) struct Model {
    shape: ModelShape,
    embeddings: Vec<Tensor<2>>,
    blocks: Vec<Block>,
    head: Tensor<2>,
}

#[derive(Debug)]
struct Block {
    attention: Attention,
    up: Tensor<2>,
    down: Tensor<2>,
}

impl Model {
    /// Asks `weight` for every weight, always in the same order.
    pub(crate) fn build(shape: &ModelShape, weight: &mut dyn FnMut(Plan) -> Tensor<2>) -> Self {
        let mut matrix = |name: String, [rows, columns]: [usize; 2], gain: f64| {
            let deviation = gain / (rows as f64).sqrt();
            weight(Plan { name, shape: [rows, columns], deviation, decays: true })
        };
        let blocks =
            (0..shape.layers).map(|layer| Block::build(shape, layer, &mut matrix)).collect();
        let head = matrix("model.head.weight".into(), [shape.width, shape.vocabulary_size], 1.0);
        let embeddings = (0..shape.lookback_tokens).map(|back| {
            let name = format!("model.embeddings.{back}.weight");
            let size = [shape.vocabulary_size, shape.width];
            weight(Plan { name, shape: size, deviation: 1.0, decays: false })
        });
        Self { embeddings: embeddings.collect(), shape: shape.clone(), blocks, head }
    }

    /// The network over `weights`, in the order of [`Model::build`].
    pub(crate) fn over(shape: &ModelShape, weights: impl IntoIterator<Item = Tensor<2>>) -> Self {
        let mut weights = weights.into_iter();
        Self::build(shape, &mut |_| weights.next().expect("as many weights as the shape asks for"))
    }

    /// Scores of every token at every place, `[rows * context, vocabulary]`.
    ///
    /// `inputs[back]` holds the tokens `back` places before each place, `[rows, context]`.
    pub(crate) fn logits(&self, inputs: Vec<Tensor<2, Int>>, bias: &Tensor<4>) -> Tensor<2> {
        let embedded = self.embeddings.iter().zip(inputs);
        let embedded = embedded
            .map(|(embedding, tokens)| module::embedding(embedding.clone(), tokens))
            .reduce(|sum, one| sum + one)
            .expect("settings ask for at least one embedding");
        let [rows, context, width] = embedded.dims();
        let mut stream = normalize(embedded.reshape([rows * context, width]));
        for block in &self.blocks {
            stream = block.forward(&self.shape, stream, bias);
        }
        normalize(stream).matmul(self.head.clone())
    }
}

impl Block {
    /// The last matrix of each branch begins at zero, so that every block begins as the identity.
    fn build(
        shape: &ModelShape,
        layer: usize,
        matrix: &mut impl FnMut(String, [usize; 2], f64) -> Tensor<2>,
    ) -> Self {
        let (width, hidden) = (shape.width, shape.hidden_width);
        let mut matrix = |part: &str, size, gain| {
            matrix(format!("model.blocks.{layer}.{part}.weight"), size, gain)
        };
        Self {
            attention: Attention {
                query: matrix("attention.query", [width, width], 1.0),
                key: matrix("attention.key", [width, width], 1.0),
                value: matrix("attention.value", [width, width], 1.0),
                output: matrix("attention.output", [width, width], 0.0),
            },
            up: matrix("network.up", [width, hidden], 1.0),
            down: matrix("network.down", [hidden, width], 0.0),
        }
    }

    fn forward(&self, shape: &ModelShape, stream: Tensor<2>, bias: &Tensor<4>) -> Tensor<2> {
        let mixed = self.attention.forward(shape, &normalize(stream.clone()), bias);
        let stream = stream + mixed;
        let hidden = normalize(stream.clone()).matmul(self.up.clone());
        // Squared: learns faster than GELU here, and costs a quarter of it.
        let hidden = activation::relu(hidden).square();
        stream + hidden.matmul(self.down.clone())
    }
}

/// Scales each vector along the last axis to unit mean square (Zhang and Sennrich,
/// <https://arxiv.org/abs/1910.07467>), without a gain.
pub(crate) fn normalize<const D: usize>(input: Tensor<D>) -> Tensor<D> {
    let mean_square = input.clone().square().mean_dim(D - 1);
    input * mean_square.add_scalar(NORM_EPSILON).sqrt().recip()
}
