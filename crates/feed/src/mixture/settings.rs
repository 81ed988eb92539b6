//! The settings of a mixture: plain data, stored with the run.

use serde::{Deserialize, Serialize};

/// The most changes of weights: each costs a few numbers for each dataset.
pub const PHASES_MAX: usize = 4096;
/// The most samples of an epoch.
const EPOCH_SAMPLES_MAX: u64 = 1 << 62;

/// What the weights are from some step on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WeightChange {
    /// The run's sample from which on they hold: a step times the global batch size.
    pub from_sample: u64,
    /// One weight for each dataset, in their order. What it counts is [`MixtureSettings::by`]; 0
    /// leaves a dataset out.
    pub weights: Vec<f64>,
}

/// What the weights of a mixture count.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MixBy {
    /// Samples: only the ratios of weights count.
    #[default]
    Samples,
    /// Elements of a column, as tokens are: only the ratios of weights count.
    Tokens(TokenCount),
    /// Epochs: in each epoch of the mixture a dataset is gone through so often. The weights cannot
    /// change over time.
    Epochs,
}

/// How many tokens a sample has.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenCount {
    /// The column whose elements count: `tokens`, or the only one, if absent.
    pub column: Option<String>,
    /// The mean of each dataset's samples, in their order. Absent where all samples of a dataset
    /// have one length, which is then taken.
    pub per_sample: Vec<Option<f64>>,
}

/// How datasets are mixed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MixtureSettings {
    /// What the weights count.
    // Left out where they count samples: such a mixture is stored as it was before it could say.
    #[serde(default, skip_serializing_if = "MixBy::is_samples")]
    pub by: MixBy,
    /// The weights over time, the first from sample 0, ascending.
    pub schedule: Vec<WeightChange>,
    /// Samples of an epoch of the mixture; the sum of all datasets' rows if absent. Rounded down
    /// to a multiple of the canonical streams. Absent where the weights are epochs: they say it.
    pub epoch_samples: Option<u64>,
}

impl MixBy {
    const fn is_samples(&self) -> bool {
        matches!(self, Self::Samples)
    }
}

impl TokenCount {
    fn check(&self, datasets: usize) -> Result<(), String> {
        let found = self.per_sample.len();
        if found != datasets {
            return Err(format!("{found} numbers of tokens per sample for {datasets} datasets"));
        }
        let sound = |tokens: &f64| tokens.is_finite() && *tokens > 0.0;
        match self.per_sample.iter().flatten().find(|tokens| !sound(tokens)) {
            Some(tokens) => Err(format!("{tokens} tokens per sample is no number above 0")),
            None => Ok(()),
        }
    }
}

impl MixtureSettings {
    /// The same weights all the time.
    #[must_use]
    pub fn constant(weights: &[f64]) -> Self {
        let change = WeightChange { from_sample: 0, weights: weights.to_vec() };
        Self { by: MixBy::Samples, schedule: vec![change], epoch_samples: None }
    }

    /// Weights that go from `from` to `to` between two samples, in `steps` equal changes.
    #[must_use]
    pub fn ramp(from: &WeightChange, to: &WeightChange, steps: u32) -> Vec<WeightChange> {
        let steps = u64::from(steps.max(1));
        let span = to.from_sample.saturating_sub(from.from_sample);
        let at = |step: u64| {
            let share = step as f64 / steps as f64;
            let pairs = from.weights.iter().zip(&to.weights);
            WeightChange {
                from_sample: from.from_sample
                    + (u128::from(span) * u128::from(step) / u128::from(steps)) as u64,
                weights: pairs.map(|(from, to)| from + (to - from) * share).collect(),
            }
        };
        (0..=steps).map(at).collect()
    }

    /// Each dataset so often in every epoch: 1 once, 3 three times, 0.5 every other time.
    #[must_use]
    pub fn epochs(repeats: &[f64]) -> Self {
        Self { by: MixBy::Epochs, ..Self::constant(repeats) }
    }

    /// What cannot work with `datasets` datasets, in words.
    ///
    /// # Errors
    /// Those words.
    pub fn check(&self, datasets: usize) -> Result<(), String> {
        let Some(first) = self.schedule.first() else {
            return Err("it has no weights".into());
        };
        if first.from_sample != 0 {
            return Err("its first weights do not hold from sample 0 on".into());
        }
        if self.schedule.len() > PHASES_MAX {
            return Err(format!("it has more than {PHASES_MAX} changes of weights"));
        }
        if !self.schedule.is_sorted_by(|a, b| a.from_sample < b.from_sample) {
            return Err("its changes of weights are not in the order of their samples".into());
        }
        match &self.by {
            MixBy::Samples => {}
            MixBy::Tokens(count) => count.check(datasets)?,
            MixBy::Epochs if self.schedule.len() > 1 || self.epoch_samples.is_some() => {
                return Err("it counts epochs, which say once how long an epoch is: leave the \
                            schedule out, or mix by samples or tokens"
                    .into());
            }
            MixBy::Epochs => {}
        }
        self.schedule.iter().try_for_each(|change| {
            let WeightChange { from_sample, weights } = change;
            if weights.len() != datasets {
                let found = weights.len();
                return Err(format!("{found} weights for {datasets} datasets at {from_sample}"));
            }
            let sound = weights.iter().all(|weight| weight.is_finite() && *weight >= 0.0);
            if sound && weights.iter().sum::<f64>() > 0.0 {
                return Ok(());
            }
            Err(format!("the weights at sample {from_sample} are not numbers from 0 on, one above"))
        })
    }
}

/// The samples of an epoch of the mixture that are of a dataset of `rows` rows.
///
/// Whole repeats are exact. Others are rounded down to whole turns of the streams, so that every
/// epoch begins at the same stream of the dataset.
fn repeated(repeats: f64, rows: u64, streams: u64) -> Result<u64, String> {
    if repeats.fract() == 0.0 {
        // A number this large is refused with its sum.
        return Ok((repeats as u64).saturating_mul(rows));
    }
    let samples = (repeats * rows as f64).round() as u64;
    match samples - samples % streams {
        0 => Err(format!(
            "{repeats} epochs of {rows} samples fill no turn of the {streams} canonical streams; \
             raise it, or lower canonical_streams"
        )),
        samples => Ok(samples),
    }
}

/// The samples of each dataset in an epoch of a mixture by epochs.
pub(super) fn epoch_parts(
    settings: &MixtureSettings,
    rows: &[u64],
    streams: u64,
) -> Result<Vec<u64>, String> {
    let repeats = &settings.schedule[0].weights;
    let part = |(repeats, rows): (&f64, &u64)| repeated(*repeats, *rows, streams);
    let parts = repeats.iter().zip(rows).map(part).collect::<Result<Vec<u64>, _>>()?;
    let sum: u128 = parts.iter().map(|&samples| u128::from(samples)).sum();
    if sum > u128::from(EPOCH_SAMPLES_MAX) {
        return Err(format!("an epoch of {sum} samples is too long to be counted"));
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ramp_goes_from_one_end_to_the_other() {
        let at =
            |from_sample, weights: &[f64]| WeightChange { from_sample, weights: weights.into() };
        let ramp = MixtureSettings::ramp(&at(0, &[1.0, 0.0]), &at(100, &[0.0, 1.0]), 4);
        let ends: Vec<u64> = ramp.iter().map(|change| change.from_sample).collect();
        assert_eq!(ends, [0, 25, 50, 75, 100]);
        assert_eq!(ramp[2].weights, [0.5, 0.5]);
        assert_eq!(ramp[4].weights, [0.0, 1.0]);
    }

    #[test]
    fn impossible_mixtures_are_refused_in_words() {
        let at =
            |from_sample, weights: &[f64]| WeightChange { from_sample, weights: weights.into() };
        let check = |schedule: Vec<WeightChange>| {
            MixtureSettings { schedule, ..MixtureSettings::constant(&[]) }.check(2).unwrap_err()
        };
        assert_eq!(check(vec![]), "it has no weights");
        assert!(check(vec![at(5, &[1.0, 1.0])]).contains("sample 0"));
        assert!(check(vec![at(0, &[1.0])]).contains("1 weights for 2 datasets"));
        assert!(check(vec![at(0, &[0.0, 0.0])]).contains("numbers from 0 on"));
        assert!(check(vec![at(0, &[f64::NAN, 1.0])]).contains("numbers from 0 on"));
        assert!(check(vec![at(0, &[1.0, 1.0]), at(0, &[1.0, 1.0])]).contains("order"));
        let by = |settings: MixtureSettings| settings.check(2).unwrap_err();
        let mut epochs = MixtureSettings::epochs(&[1.0, 3.0]);
        assert_eq!(epochs.check(2), Ok(()));
        epochs.schedule.push(at(100, &[1.0, 1.0]));
        assert!(by(epochs).contains("leave the schedule out"));
        let tokens = |per_sample| MixtureSettings {
            by: MixBy::Tokens(TokenCount { column: None, per_sample }),
            ..MixtureSettings::constant(&[1.0, 1.0])
        };
        assert_eq!(tokens(vec![None, Some(1.5)]).check(2), Ok(()));
        assert!(by(tokens(vec![None])).contains("for 2 datasets"));
        assert!(by(tokens(vec![None, Some(0.0)])).contains("no number above 0"));
    }

    #[test]
    fn a_mixture_by_samples_is_stored_as_it_was() {
        let stored = r#"{"schedule":[{"from_sample":0,"weights":[1.0]}],"epoch_samples":null}"#;
        let settings = MixtureSettings::constant(&[1.0]);
        assert_eq!(serde_json::to_string(&settings).unwrap(), stored);
        assert_eq!(serde_json::from_str::<MixtureSettings>(stored).unwrap(), settings);
        let epochs = serde_json::to_string(&MixtureSettings::epochs(&[2.0])).unwrap();
        assert!(epochs.starts_with(r#"{"by":"epochs","#), "{epochs}");
    }

    #[test]
    fn parts_of_an_epoch_are_exact_for_whole_repeats() {
        let parts =
            |repeats: &[f64], rows: &[u64]| epoch_parts(&MixtureSettings::epochs(repeats), rows, 8);
        assert_eq!(parts(&[1.0, 3.0, 0.0], &[101, 7, 9]), Ok(vec![101, 21, 0]));
        assert_eq!(parts(&[0.5, 2.5], &[101, 8]), Ok(vec![48, 16]));
        // 0.29 · 100 is a little less than 29 in floating point.
        assert_eq!(parts(&[0.29], &[2400]), Ok(vec![696]));
        assert!(parts(&[0.5], &[9]).unwrap_err().contains("fill no turn of the 8"));
        assert!(parts(&[1e18], &[100]).unwrap_err().contains("too long"));
    }
}
