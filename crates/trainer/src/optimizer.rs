//! AdamW (Loshchilov and Hutter, <https://arxiv.org/abs/1711.05101>) over the list of weights.
//!
//! Our own page of it, because a checkpoint must hold the moments and the step exactly and by
//! name.

use burn::tensor::Tensor;

use crate::{OptimizerSettings, parameters::Parameters};

#[derive(Clone, Debug)]
pub(crate) struct AdamW {
    settings: OptimizerSettings,
    /// Steps taken.
    pub step: u64,
    /// Of every weight, in the order of the weights.
    pub first_moments: Vec<Tensor<2>>,
    /// Likewise.
    pub second_moments: Vec<Tensor<2>>,
}

impl AdamW {
    pub(crate) fn new(settings: &OptimizerSettings, parameters: &Parameters) -> Self {
        Self {
            settings: settings.clone(),
            step: 0,
            first_moments: parameters.zeros(),
            second_moments: parameters.zeros(),
        }
    }

    /// Takes up the state of an optimizer that had taken `step` steps.
    pub(crate) fn restore(
        &mut self,
        step: u64,
        first_moments: Vec<Tensor<2>>,
        second_moments: Vec<Tensor<2>>,
    ) {
        (self.step, self.first_moments, self.second_moments) =
            (step, first_moments, second_moments);
    }

    /// Takes one step against `gradients`, scaled by `scale`.
    pub(crate) fn update(
        &mut self,
        parameters: &mut Parameters,
        gradients: Vec<Tensor<2>>,
        scale: f64,
        learning_rate: f64,
    ) {
        self.step += 1;
        let settings = &self.settings;
        let first_share = remaining(settings.first_moment_decay, self.step);
        let second_share = remaining(settings.second_moment_decay, self.step);
        let weights = parameters.0.iter_mut().zip(gradients);
        let moments = self.first_moments.iter_mut().zip(&mut self.second_moments);
        for ((parameter, gradient), (first, second)) in weights.zip(moments) {
            let gradient = gradient.mul_scalar(scale);
            decay_towards(first, settings.first_moment_decay, gradient.clone());
            decay_towards(second, settings.second_moment_decay, gradient.square());
            let deviation = second.clone().div_scalar(second_share).sqrt();
            let direction = first.clone() / deviation.add_scalar(settings.epsilon);
            let shrink =
                if parameter.plan.decays { learning_rate * settings.weight_decay } else { 0.0 };
            let change = direction.mul_scalar(learning_rate / first_share);
            parameter.value.inplace(|value| value.mul_scalar(1.0 - shrink) - change);
        }
    }
}

/// How much of a mean that began at zero is already there after `step` steps.
fn remaining(decay: f64, step: u64) -> f64 {
    1.0 - decay.powf(step as f64)
}

/// Moves the mean `moment` towards `value`.
fn decay_towards(moment: &mut Tensor<2>, decay: f64, value: Tensor<2>) {
    moment.inplace(|mean| mean.mul_scalar(decay) + value.mul_scalar(1.0 - decay));
}

/// The norm of all gradients together.
pub(crate) fn norm(gradients: &[Tensor<2>]) -> f64 {
    let squares = gradients
        .iter()
        .map(|gradient| f64::from(gradient.clone().square().sum().into_scalar::<f32>()));
    squares.sum::<f64>().sqrt()
}

/// By what to multiply gradients of norm `norm` so that they are no longer than `norm_max`.
pub(crate) fn clip_scale(norm: f64, norm_max: f64) -> f64 {
    if norm > norm_max { norm_max / norm } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parameters::{Parameter, Plan, matrix};

    fn parameters(values: &[f32], decays: bool) -> Parameters {
        let shape = [1, values.len()];
        let plan = Plan { name: "model.w".into(), shape, deviation: 0.0, decays };
        Parameters(vec![Parameter { plan, value: matrix(values.to_vec(), shape) }])
    }

    fn values(tensor: &Tensor<2>) -> Vec<f64> {
        tensor.to_data().iter::<f64>().collect()
    }

    /// The paper's Algorithm 2, line by line, in 64 bits.
    fn reference(mut weight: f64, gradients: &[f64], settings: &OptimizerSettings) -> f64 {
        let (rate, decay) = (settings.learning_rate, settings.weight_decay);
        let (b1, b2) = (settings.first_moment_decay, settings.second_moment_decay);
        let (mut m, mut v) = (0.0, 0.0);
        for (t, g) in gradients.iter().enumerate() {
            m = b1 * m + (1.0 - b1) * g;
            v = b2 * v + (1.0 - b2) * g * g;
            let m_hat = m / (1.0 - b1.powi(t as i32 + 1));
            let v_hat = v / (1.0 - b2.powi(t as i32 + 1));
            weight -= rate * (m_hat / (v_hat.sqrt() + settings.epsilon) + decay * weight);
        }
        weight
    }

    #[test]
    fn it_steps_as_the_paper_says() {
        let settings = OptimizerSettings { learning_rate: 0.1, ..OptimizerSettings::default() };
        let (weights, steps) = ([1.5, -0.5], [[0.3, -2.0], [-0.1, 4.0], [0.0, 0.25]]);
        for decays in [true, false] {
            let mut parameters = parameters(&weights, decays);
            let mut optimizer = AdamW::new(&settings, &parameters);
            for gradients in &steps {
                let gradients = vec![matrix(gradients.to_vec(), [1, 2])];
                optimizer.update(&mut parameters, gradients, 1.0, settings.learning_rate);
            }
            let mut expected = settings.clone();
            expected.weight_decay *= f64::from(u8::from(decays));
            for (column, found) in values(&parameters.0[0].value).into_iter().enumerate() {
                let gradients: Vec<f64> = steps.iter().map(|g| f64::from(g[column])).collect();
                let wanted = reference(f64::from(weights[column]), &gradients, &expected);
                assert!((found - wanted).abs() < 1e-6, "{found} is not {wanted}");
            }
            assert_eq!(optimizer.step, 3);
        }
    }

    #[test]
    fn long_gradients_are_scaled_to_the_limit_and_short_ones_kept() {
        let gradients = [matrix(vec![3.0, 0.0], [1, 2]), matrix(vec![0.0, 4.0], [2, 1])];
        let norm = norm(&gradients);
        assert!((norm - 5.0).abs() < 1e-6, "{norm}");
        assert!((norm * clip_scale(norm, 2.0) - 2.0).abs() < 1e-12);
        assert_eq!(clip_scale(norm, 5.5), 1.0);
        assert_eq!(clip_scale(0.0, 1.0), 1.0);
    }
}
