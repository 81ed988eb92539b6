//! The trainer's settings: plain data, all with defaults that learn on two cores within a minute.

use serde::{Deserialize, Serialize};

use crate::Error;

/// Everything about the trainer that a user may choose. The number of steps, the batch size and
/// the seed belong to the run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainerSettings {
    /// The network.
    pub model: ModelSettings,
    /// How it learns.
    pub optimizer: OptimizerSettings,
    /// The share of input tokens replaced by random ones while training, so that the model does
    /// not lean on any single token.
    pub input_noise: f64,
    /// Into how many parts a batch is cut, each computed by a thread of its own.
    ///
    /// It is part of the result, since sums round differently, and therefore a setting rather than
    /// the number of cores.
    pub lanes: u32,
}

/// The network's shape.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelSettings {
    /// Numbers that stand for one token.
    pub width: u32,
    /// Blocks, each of attention and a two-layer network.
    pub layers: u32,
    /// Attention heads; they divide the width.
    pub heads: u32,
    /// Width of the hidden layer in a block.
    pub hidden_width: u32,
    /// How many tokens enter at each place: its own and those just before it, each through an
    /// embedding of its own. Attention need not learn first what any n-gram knows.
    pub lookback_tokens: u32,
}

/// AdamW and its learning rate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OptimizerSettings {
    /// The highest learning rate, reached when the warm-up ends.
    pub learning_rate: f64,
    /// Steps over which the learning rate rises from nothing.
    pub warm_up_steps: u64,
    /// The share of the highest learning rate that is left at the last step.
    pub final_learning_rate_share: f64,
    /// How much of the mean gradient survives a step.
    pub first_moment_decay: f64,
    /// How much of the mean squared gradient survives a step.
    pub second_moment_decay: f64,
    /// Keeps the division by a small second moment finite.
    pub epsilon: f64,
    /// How fast weights shrink, in learning rates; embeddings do not.
    pub weight_decay: f64,
    /// Longer gradients are scaled down to this norm.
    pub gradient_norm_max: f64,
}

impl Default for TrainerSettings {
    fn default() -> Self {
        Self {
            model: ModelSettings::default(),
            optimizer: OptimizerSettings::default(),
            input_noise: 0.01,
            lanes: 2,
        }
    }
}

impl Default for ModelSettings {
    fn default() -> Self {
        Self { width: 128, layers: 2, heads: 4, hidden_width: 512, lookback_tokens: 4 }
    }
}

impl Default for OptimizerSettings {
    fn default() -> Self {
        Self {
            learning_rate: 6e-3,
            warm_up_steps: 20,
            final_learning_rate_share: 0.05,
            first_moment_decay: 0.9,
            second_moment_decay: 0.95,
            epsilon: 1e-8,
            weight_decay: 0.1,
            gradient_norm_max: 1.0,
        }
    }
}

impl TrainerSettings {
    /// The settings that stand in a run's configuration.
    ///
    /// # Errors
    /// [`Error::RecordedSettings`] when the run was another trainer's.
    pub fn recorded(configuration: &serde_json::Value) -> Result<Self, Error> {
        let train = configuration.get("train").cloned().unwrap_or_default();
        serde_json::from_value(train).map_err(Error::RecordedSettings)
    }

    /// Checks that the settings can work.
    ///
    /// # Errors
    /// [`Error::Setting`] naming the first that cannot.
    pub fn check(&self) -> Result<(), Error> {
        self.model.check()?;
        self.optimizer.check()?;
        let noise = self.input_noise;
        require("train.input_noise", noise, (0.0..1.0).contains(&noise), "at least 0 and below 1")?;
        require("train.lanes", self.lanes, (1..=1024).contains(&self.lanes), "from 1 to 1024")
    }
}

impl ModelSettings {
    /// The widest and deepest shape accepted: far above what the reference trainer is for, and far
    /// below where sizes overflow.
    const DIMENSION_MAX: u32 = 1 << 15;

    fn check(&self) -> Result<(), Error> {
        let sizes = [
            ("train.model.width", self.width),
            ("train.model.layers", self.layers),
            ("train.model.heads", self.heads),
            ("train.model.hidden_width", self.hidden_width),
            ("train.model.lookback_tokens", self.lookback_tokens),
        ];
        for (name, value) in sizes {
            require(name, value, (1..=Self::DIMENSION_MAX).contains(&value), "from 1 to 32768")?;
        }
        let whole = self.width.is_multiple_of(self.heads);
        require("train.model.heads", self.heads, whole, "a divisor of model.width")
    }
}

impl OptimizerSettings {
    fn check(&self) -> Result<(), Error> {
        let positive = [
            ("train.optimizer.learning_rate", self.learning_rate),
            ("train.optimizer.epsilon", self.epsilon),
            ("train.optimizer.gradient_norm_max", self.gradient_norm_max),
        ];
        for (name, value) in positive {
            require(name, value, value.is_finite() && value > 0.0, "above 0")?;
        }
        let decays = [
            ("train.optimizer.first_moment_decay", self.first_moment_decay),
            ("train.optimizer.second_moment_decay", self.second_moment_decay),
        ];
        for (name, value) in decays {
            require(name, value, (0.0..1.0).contains(&value), "at least 0 and below 1")?;
        }
        let (name, value) =
            ("train.optimizer.final_learning_rate_share", self.final_learning_rate_share);
        require(name, value, (0.0..=1.0).contains(&value), "from 0 to 1")?;
        let (name, value) = ("train.optimizer.weight_decay", self.weight_decay);
        require(name, value, value.is_finite() && value >= 0.0, "at least 0")
    }
}

fn require(
    setting: &'static str,
    value: impl ToString,
    holds: bool,
    must_be: &'static str,
) -> Result<(), Error> {
    if holds { Ok(()) } else { Err(Error::Setting { setting, value: value.to_string(), must_be }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_work() {
        TrainerSettings::default().check().unwrap();
    }

    #[test]
    fn settings_survive_json_and_unknown_ones_are_refused() {
        let settings = TrainerSettings::default();
        let text = serde_json::to_string(&settings).unwrap();
        assert_eq!(serde_json::from_str::<TrainerSettings>(&text).unwrap(), settings);
        let error = serde_json::from_str::<TrainerSettings>(r#"{"model":{"wide":1}}"#).unwrap_err();
        assert!(error.to_string().contains("wide"), "{error}");
    }

    #[test]
    fn each_unusable_setting_is_named() {
        type Break = fn(&mut TrainerSettings);
        let broken: [(&str, Break); 9] = [
            ("train.model.width", |s| s.model.width = 0),
            ("train.model.layers", |s| s.model.layers = u32::MAX),
            ("train.model.heads", |s| s.model.heads = 3),
            ("train.optimizer.learning_rate", |s| s.optimizer.learning_rate = f64::NAN),
            ("train.optimizer.epsilon", |s| s.optimizer.epsilon = 0.0),
            ("train.optimizer.second_moment_decay", |s| s.optimizer.second_moment_decay = 1.0),
            ("train.optimizer.weight_decay", |s| s.optimizer.weight_decay = -0.1),
            ("train.input_noise", |s| s.input_noise = 1.0),
            ("train.lanes", |s| s.lanes = 0),
        ];
        for (name, break_it) in broken {
            let mut settings = TrainerSettings::default();
            break_it(&mut settings);
            let error = settings.check().unwrap_err();
            assert!(error.to_string().contains(&format!("`{name}`")), "{error}");
        }
    }
}
