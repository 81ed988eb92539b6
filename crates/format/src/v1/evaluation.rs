//! Gates and evaluations: what a model must reach, and what it reached.
//!
//! `runs/<run>/evaluations/<step>-<identity>.json` is a record. Its name is taken from what was
//! scored, on what, and with which result, but not from when: scoring the same checkpoint again
//! finds the record that is there, and another result never overwrites it.

use forebay_types::{Digest, Key, Name, Nonce, Split};
use serde::{Deserialize, Serialize};

use super::{journal::Host, run::DatasetReference};
use crate::record::Record;

/// What a model must reach to be archived; every rule that is set must hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Gate {
    /// The mean loss per prediction is at most this, in nats.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_max: Option<f64>,
    /// The perplexity is at most this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub perplexity_max: Option<f64>,
    /// The share of predictions whose likeliest token was the right one is at least this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy_min: Option<f64>,
    /// The loss is at least this far below the unigram entropy of the scored tokens, in nats: a
    /// model that only learned how frequent each token is reaches 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_below_unigram_entropy_by: Option<f64>,
}

/// Which measure a rule of a gate looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// [`Gate::loss_max`].
    LossMax,
    /// [`Gate::perplexity_max`].
    PerplexityMax,
    /// [`Gate::accuracy_min`].
    AccuracyMin,
    /// [`Gate::loss_below_unigram_entropy_by`].
    LossBelowUnigramEntropyBy,
}

/// One rule's verdict.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleOutcome {
    /// Which rule.
    pub rule: Rule,
    /// What it demands.
    pub limit: f64,
    /// What was measured.
    #[serde(with = "crate::number")]
    pub measured: f64,
    /// Whether it holds.
    pub passed: bool,
}

/// The measures a gate looks at, and reports show.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measures {
    /// Samples scored.
    pub samples: u64,
    /// Tokens predicted.
    pub predictions: u64,
    /// The mean loss per prediction, in nats.
    #[serde(with = "crate::number")]
    pub loss: f64,
    /// `exp(loss)`.
    #[serde(with = "crate::number")]
    pub perplexity: f64,
    /// The share of predictions whose likeliest token was the right one.
    #[serde(with = "crate::number")]
    pub accuracy: f64,
    /// The entropy of the scored tokens' own frequencies, in nats: what the best model that
    /// ignores context would lose.
    pub unigram_entropy: f64,
    /// `loss / ln 2`, where a token is a byte.
    #[serde(default, with = "optional", skip_serializing_if = "Option::is_none")]
    pub bits_per_byte: Option<f64>,
}

/// That the scored samples were new to the model: what was compared, and what was found.
///
/// Each row's side file names the raw records it was made of. Every row of the training split was
/// asked, whether or not training reached it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeldOut {
    /// Rows of the scored split.
    pub scored_rows: u64,
    /// The raw records they were made of.
    pub scored_records: u64,
    /// Rows of the training split.
    pub training_rows: u64,
    /// Raw records behind rows of both splits. Anything but 0 refuses the evaluation.
    pub shared_records: u64,
    /// Shards in both splits. Anything but 0 refuses the evaluation.
    pub shared_shards: u64,
}

/// One scored checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvaluationRecord {
    /// The run.
    pub run: Name,
    /// The step of the checkpoint.
    pub step: u64,
    /// The digest of the checkpoint's commit.
    pub checkpoint: Digest,
    /// What it was scored on.
    pub dataset: DatasetReference,
    /// Which part of that.
    pub split: Split,
    /// Samples scored at once.
    pub batch_size: u32,
    /// What was measured.
    pub measures: Measures,
    /// That the samples were new to the model.
    pub held_out: HeldOut,
    /// The gate it was held against.
    pub gate: Gate,
    /// Each rule's verdict, in the order of [`Gate`]'s fields.
    pub rules: Vec<RuleOutcome>,
    /// Whether all rules hold.
    pub passed: bool,
    /// How long the scoring took.
    pub seconds: f64,
    /// The machine that scored.
    pub host: Host,
    /// When, in milliseconds since 1970.
    pub created_unix_ms: u64,
    /// Made by its writer, who recognizes its own record by it.
    pub nonce: Nonce,
}

impl Gate {
    /// Each rule that is set, with its limit.
    pub fn rules(&self) -> impl Iterator<Item = (Rule, f64)> + use<> {
        [
            (Rule::LossMax, self.loss_max),
            (Rule::PerplexityMax, self.perplexity_max),
            (Rule::AccuracyMin, self.accuracy_min),
            (Rule::LossBelowUnigramEntropyBy, self.loss_below_unigram_entropy_by),
        ]
        .into_iter()
        .filter_map(|(rule, limit)| Some((rule, limit?)))
    }

    /// Whether this is a gate at all.
    ///
    /// # Errors
    /// When no rule is set, or a limit is not a number.
    pub fn check(&self) -> Result<(), String> {
        if self.rules().next().is_none() {
            return Err("the gate has no rule: set at least one of loss_max, perplexity_max, \
                        accuracy_min, loss_below_unigram_entropy_by"
                .into());
        }
        match self.rules().find(|(_, limit)| !limit.is_finite()) {
            Some((rule, limit)) => Err(format!("the gate's {rule} is {limit}")),
            None => Ok(()),
        }
    }

    /// The digest of the rules that are set and their limits.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let value = serde_json::to_value(self).expect("a gate is four numbers");
        super::run::json_digest(&value)
    }

    /// Holds `measures` against every rule that is set.
    #[must_use]
    pub fn judge(&self, measures: &Measures) -> Vec<RuleOutcome> {
        self.rules().map(|(rule, limit)| rule.judge(limit, measures)).collect()
    }
}

impl Rule {
    /// The rule as one word, as configurations spell it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::LossMax => "loss_max",
            Self::PerplexityMax => "perplexity_max",
            Self::AccuracyMin => "accuracy_min",
            Self::LossBelowUnigramEntropyBy => "loss_below_unigram_entropy_by",
        }
    }

    /// A measure that is not a number passes no rule: every comparison with NaN is false.
    fn judge(self, limit: f64, measures: &Measures) -> RuleOutcome {
        let (measured, passed) = match self {
            Self::LossMax => (measures.loss, measures.loss <= limit),
            Self::PerplexityMax => (measures.perplexity, measures.perplexity <= limit),
            Self::AccuracyMin => (measures.accuracy, measures.accuracy >= limit),
            Self::LossBelowUnigramEntropyBy => {
                let below = measures.unigram_entropy - measures.loss;
                (below, below >= limit)
            }
        };
        // A loss that is not a number is a broken model, whatever else was measured.
        RuleOutcome { rule: self, limit, measured, passed: passed && measures.loss.is_finite() }
    }
}

impl std::fmt::Display for Rule {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl EvaluationRecord {
    /// What tells this evaluation from another: everything but when it was made and how fast.
    #[must_use]
    pub fn identity(&self) -> Digest {
        let mut value = serde_json::to_value(self).expect("a record is plain JSON");
        if let Some(fields) = value.as_object_mut() {
            for of_the_moment in ["seconds", "created_unix_ms", "nonce"] {
                fields.remove(of_the_moment);
            }
        }
        super::run::json_digest(&value)
    }

    /// Where this record lies.
    #[must_use]
    pub fn key(&self) -> Key {
        let (run, step, identity) = (&self.run, self.step, self.identity().short());
        Key::new(format!("runs/{run}/evaluations/{step:08}-{identity}.json"))
            .expect("names, numbers and digests make sound keys")
    }
}

impl Record for EvaluationRecord {
    const FORMAT: &'static str = "forebay.evaluation";
    const VERSION: u32 = 1;

    fn check(&self) -> Result<(), String> {
        self.gate.check()?;
        let judged = self.gate.judge(&self.measures);
        // Compared as text: a measured NaN equals itself there.
        let same = serde_json::to_string(&judged).ok() == serde_json::to_string(&self.rules).ok();
        if !same || self.passed != judged.iter().all(|outcome| outcome.passed) {
            return Err("its verdict is not what its gate says of its measures".into());
        }
        let HeldOut { shared_records, shared_shards, .. } = self.held_out;
        if shared_records != 0 || shared_shards != 0 {
            return Err(format!(
                "{shared_records} records and {shared_shards} shards it scored were trained on"
            ));
        }
        Ok(())
    }
}

mod optional {
    use serde::{Deserialize, Deserializer, Serializer};

    #[derive(Deserialize)]
    struct Number(#[serde(with = "crate::number")] f64);

    #[allow(clippy::ref_option, reason = "the signature serde asks for")]
    pub(super) fn serialize<S: Serializer>(value: &Option<f64>, to: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => crate::number::serialize(value, to),
            None => to.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<f64>, D::Error> {
        Ok(Option::<Number>::deserialize(from)?.map(|Number(value)| value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEASURES: Measures = Measures {
        samples: 10,
        predictions: 1270,
        loss: 1.5,
        perplexity: 4.481_689_070_338_065,
        accuracy: 0.5,
        unigram_entropy: 3.0,
        bits_per_byte: None,
    };

    #[test]
    fn limits_are_reached_and_not_only_passed() {
        let gate = Gate {
            loss_max: Some(1.5),
            perplexity_max: Some(4.481_689_070_338_065),
            accuracy_min: Some(0.5),
            loss_below_unigram_entropy_by: Some(1.5),
        };
        assert!(gate.judge(&MEASURES).iter().all(|outcome| outcome.passed));
        let worse = Measures { loss: 1.500_001, perplexity: 4.5, accuracy: 0.499, ..MEASURES };
        assert!(gate.judge(&worse).iter().all(|outcome| !outcome.passed));
    }

    #[test]
    fn a_loss_that_is_no_number_passes_nothing() {
        let gate = Gate {
            loss_max: Some(100.0),
            accuracy_min: Some(0.0),
            loss_below_unigram_entropy_by: Some(-100.0),
            ..Gate::default()
        };
        for loss in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let measures = Measures { loss, perplexity: loss.exp(), ..MEASURES };
            assert!(gate.judge(&measures).iter().all(|outcome| !outcome.passed), "{loss}");
        }
    }

    #[test]
    fn a_gate_without_rules_or_with_impossible_ones_is_none() {
        assert!(Gate::default().check().is_err());
        assert!(Gate { loss_max: Some(f64::NAN), ..Gate::default() }.check().is_err());
        assert!(Gate { loss_max: Some(1.0), ..Gate::default() }.check().is_ok());
        assert!(serde_json::from_str::<Gate>(r#"{"loss_mx":1}"#).is_err());
    }
}
