//! Mixtures: which dataset each sample of a run is drawn from. A pure function.
//!
//! ```text
//! run position p ──► stream c = p mod C, index x = p div C        C canonical streams
//!             ──► phase (the weights change at phases) ──► round r, offset in it
//!             ──► permute the round's offsets ──► dataset i, its local count k
//!             ──► run position k·C + c of dataset i
//! ```
//!
//! Each stream is dealt in *rounds* of about [`ROUND_SAMPLES_MIN`] samples. After r rounds a dataset
//! with share w was drawn exactly `floor(r · round · w)` times from every stream, so proportions
//! never drift, however long the run; within a round the turns are permuted, by stream. Every
//! dataset goes through its own epochs in its own order, and no sample of it comes again before
//! all of them came. A dataset's stream c only ever fills the run's stream c, so ranks that share
//! no streams share no shards, in a mixture as without one.
//!
//! Weights change between phases, at the first whole round that is not before the step they were
//! set for. Time is O(datasets + log phases), memory O(datasets · phases).

use serde::{Deserialize, Serialize};

use crate::permutation::{Keys, Purpose};

/// The least samples of a round of one stream.
const ROUND_SAMPLES_MIN: u64 = 64;
/// Weights are compared in units of so small a share of their sum.
const SHARE_UNITS: f64 = (1u64 << 32) as f64;
/// The most phases: each costs a few numbers for each dataset.
pub const PHASES_MAX: usize = 4096;

/// What the weights are from some step on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WeightChange {
    /// The run's sample from which on they hold: a step times the global batch size.
    pub from_sample: u64,
    /// One weight for each dataset, in their order. Only their ratios count; 0 leaves a dataset
    /// out.
    pub weights: Vec<f64>,
}

/// How datasets are mixed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MixtureSettings {
    /// The weights over time, the first from sample 0, ascending.
    pub schedule: Vec<WeightChange>,
    /// Samples of an epoch of the mixture; the sum of all datasets' rows if absent. Rounded down
    /// to a multiple of the canonical streams.
    pub epoch_samples: Option<u64>,
}

impl MixtureSettings {
    /// The same weights all the time.
    #[must_use]
    pub fn constant(weights: &[f64]) -> Self {
        let change = WeightChange { from_sample: 0, weights: weights.to_vec() };
        Self { schedule: vec![change], epoch_samples: None }
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

/// What a run position is drawn from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Drawn {
    /// The dataset's number.
    pub dataset: usize,
    /// The run position in that dataset alone.
    pub position: u64,
}

/// The mixture of a run.
#[derive(Clone, Debug)]
pub(crate) struct Mixture {
    streams: u64,
    round: u64,
    keys: Keys,
    phases: Vec<Phase>,
}

#[derive(Clone, Debug)]
struct Phase {
    /// The first index of every stream.
    first: u64,
    /// The number of its first round.
    first_round: u64,
    /// How often each dataset was drawn from each stream before.
    base: Vec<u64>,
    shares: Vec<u64>,
    total: u64,
}

impl Mixture {
    /// The mixture that checked `settings` describe.
    pub(crate) fn new(settings: &MixtureSettings, seed: u64, streams: u64) -> Self {
        let datasets = settings.schedule[0].weights.len();
        let round = ROUND_SAMPLES_MIN.max(2 * datasets as u64).next_power_of_two();
        let keys = Keys::derive(seed, 0, Purpose::Mixture);
        let mut mixture = Self { streams: streams.max(1), round, keys, phases: Vec::new() };
        for change in &settings.schedule {
            mixture.begin(change, datasets);
        }
        mixture
    }

    /// Adds a phase where the one before it has a whole round's end.
    fn begin(&mut self, change: &WeightChange, datasets: usize) {
        let wanted = change.from_sample.div_ceil(self.streams);
        let (first, first_round, base) = match self.phases.last() {
            None => (0, 0, vec![0; datasets]),
            Some(before) => {
                let rounds = before.rounds_until(wanted.saturating_sub(before.first), self.round);
                let drawn =
                    |dataset| before.base[dataset] + before.count(dataset, rounds, self.round);
                let base: Vec<u64> = (0..datasets).map(drawn).collect();
                let first = before.first + before.start(rounds, self.round);
                (first, before.first_round + rounds, base)
            }
        };
        let sum: f64 = change.weights.iter().sum();
        let share = |weight: &f64| match *weight > 0.0 {
            true => ((weight / sum * SHARE_UNITS).round() as u64).max(1),
            false => 0,
        };
        let shares: Vec<u64> = change.weights.iter().map(share).collect();
        let total = shares.iter().sum();
        // A phase that the next one starts with is never drawn from.
        if self.phases.last().is_some_and(|before| before.first == first) {
            self.phases.pop();
        }
        self.phases.push(Phase { first, first_round, base, shares, total });
    }

    /// What is drawn at a run position.
    pub(crate) fn draw(&self, run_position: u64) -> Drawn {
        let (stream, index) = (run_position % self.streams, run_position / self.streams);
        let phase = self.phase_at(index);
        let within = index - phase.first;
        let round = phase.round_at(within, self.round);
        let start = phase.start(round, self.round);
        let samples = phase.start(round + 1, self.round) - start;
        let tweak = (phase.first_round + round) * self.streams + stream;
        let mut turn = self.keys.permutation(tweak, samples).apply(within - start);
        for dataset in 0..phase.shares.len() {
            let before = phase.count(dataset, round, self.round);
            let turns = phase.count(dataset, round + 1, self.round) - before;
            if turn < turns {
                let local = phase.base[dataset] + before + turn;
                return Drawn { dataset, position: local * self.streams + stream };
            }
            turn -= turns;
        }
        unreachable!("a round has as many samples as its datasets have turns")
    }

    /// The run positions between which a dataset's run position is drawn: its round. `None` when
    /// it never is.
    pub(crate) fn span(&self, dataset: usize, position: u64) -> Option<(u64, u64)> {
        let local = position / self.streams;
        // The last phase that starts before it was drawn and draws from the dataset at all.
        let number = self
            .phases
            .iter()
            .rposition(|phase| phase.base[dataset] <= local && phase.shares[dataset] > 0)?;
        let phase = &self.phases[number];
        let next = self.phases.get(number + 1).map(|next| next.base[dataset]);
        let further = self.phases[number + 1..].iter().any(|phase| phase.shares[dataset] > 0);
        if next.is_some_and(|next| local >= next) && !further {
            return None;
        }
        let round = phase.round_of(dataset, local - phase.base[dataset], self.round);
        let start = phase.first + phase.start(round, self.round);
        let end = phase.first + phase.start(round + 1, self.round);
        Some((start * self.streams, end * self.streams - 1))
    }

    /// A run position of the dataset below which everything is drawn before `run_position`.
    pub(crate) fn drawn_before(&self, dataset: usize, run_position: u64) -> u64 {
        let index = run_position / self.streams;
        let phase = self.phase_at(index);
        let round = phase.round_at(index - phase.first, self.round);
        (phase.base[dataset] + phase.count(dataset, round, self.round)) * self.streams
    }

    fn phase_at(&self, index: u64) -> &Phase {
        let after = self.phases.partition_point(|phase| phase.first <= index);
        &self.phases[after - 1]
    }
}

impl Phase {
    /// How often `dataset` is drawn from a stream in the first `rounds` rounds.
    fn count(&self, dataset: usize, rounds: u64, round: u64) -> u64 {
        let turns = u128::from(rounds) * u128::from(round) * u128::from(self.shares[dataset]);
        (turns / u128::from(self.total)) as u64
    }

    /// The offset at which round `rounds` starts.
    fn start(&self, rounds: u64, round: u64) -> u64 {
        (0..self.shares.len()).map(|dataset| self.count(dataset, rounds, round)).sum()
    }

    /// The round of an offset: rounding down loses less than one sample for each dataset, and a
    /// round has twice as many.
    fn round_at(&self, offset: u64, round: u64) -> u64 {
        let guess = offset / round;
        guess + u64::from(self.start(guess + 1, round) <= offset)
    }

    /// The first whole number of rounds whose end is not before `offset`.
    fn rounds_until(&self, offset: u64, round: u64) -> u64 {
        let at = self.round_at(offset, round);
        at + u64::from(self.start(at, round) < offset)
    }

    /// The round in which the dataset is drawn for the `local`-th time, counted from 0.
    fn round_of(&self, dataset: usize, local: u64, round: u64) -> u64 {
        let turns = (u128::from(local) + 1) * u128::from(self.total);
        let a_round = u128::from(round) * u128::from(self.shares[dataset]);
        (turns.div_ceil(a_round) - 1) as u64
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn mixtures() -> impl Strategy<Value = (MixtureSettings, u64, u64)> {
        let change = |datasets| {
            prop::collection::vec(prop::sample::select(vec![0.0, 0.01, 0.3, 1.0, 5.0]), datasets)
        };
        (1usize..6)
            .prop_flat_map(move |datasets| {
                let later = prop::collection::vec((1u64..900, change(datasets)), 0..4);
                (change(datasets), later, any::<u64>(), 1u64..9)
            })
            .prop_filter_map("some weight", |(first, later, seed, streams)| {
                let mut at = 0;
                let mut schedule = vec![WeightChange { from_sample: 0, weights: first }];
                for (distance, weights) in later {
                    at += distance;
                    schedule.push(WeightChange { from_sample: at, weights });
                }
                let settings = MixtureSettings { schedule, epoch_samples: None };
                let datasets = settings.schedule[0].weights.len();
                settings.check(datasets).is_ok().then_some((settings, seed, streams))
            })
    }

    proptest! {
        /// Against a plain list of all draws: each dataset's positions come once each and without
        /// a gap but for the round under way, and in the stream they belong to.
        #[test]
        fn draws_are_a_partition((settings, seed, streams) in mixtures()) {
            let mixture = Mixture::new(&settings, seed, streams);
            let datasets = settings.schedule[0].weights.len();
            let drawn: Vec<Drawn> = (0..4000 * streams).map(|p| mixture.draw(p)).collect();
            for dataset in 0..datasets {
                let mine = drawn.iter().enumerate().filter(|(_, drawn)| drawn.dataset == dataset);
                let mine: Vec<(u64, u64)> = mine.map(|(p, d)| (p as u64, d.position)).collect();
                let set: BTreeSet<u64> = mine.iter().map(|(_, position)| *position).collect();
                prop_assert_eq!(set.len(), mine.len(), "a position was drawn twice");
                let whole = mixture.drawn_before(dataset, 4000 * streams);
                prop_assert!((0..whole).all(|position| set.contains(&position)));
                for (p, position) in mine {
                    prop_assert_eq!(p % streams, position % streams);
                    let (first, last) = mixture.span(dataset, position).unwrap();
                    prop_assert!((first..=last).contains(&p), "{first} {p} {last}");
                    prop_assert!(mixture.drawn_before(dataset, p) <= position);
                }
            }
        }

        /// The promise of the weights: after any number of samples, off by less than a round.
        #[test]
        fn proportions_hold((settings, seed, streams) in mixtures(), samples in 1u64..4000) {
            let first = WeightChange { from_sample: 0, ..settings.schedule[0].clone() };
            let weights = first.weights.clone();
            let settings = MixtureSettings { schedule: vec![first], epoch_samples: None };
            let mixture = Mixture::new(&settings, seed, streams);
            let sum: f64 = weights.iter().sum();
            for (dataset, weight) in weights.iter().enumerate() {
                let found = (0..samples).filter(|&p| mixture.draw(p).dataset == dataset).count();
                let expected = samples as f64 * weight / sum;
                let round = (mixture.round * streams + streams) as f64;
                prop_assert!((found as f64 - expected).abs() <= round, "{found} {expected}");
            }
        }
    }

    #[test]
    fn weights_change_within_a_round_of_their_sample() {
        let at =
            |from_sample, weights: &[f64]| WeightChange { from_sample, weights: weights.into() };
        let schedule = vec![at(0, &[1.0, 0.0]), at(1000, &[0.0, 1.0])];
        let settings = MixtureSettings { schedule, epoch_samples: None };
        let mixture = Mixture::new(&settings, 3, 4);
        let datasets: Vec<usize> = (0..2000).map(|p| mixture.draw(p).dataset).collect();
        let change = datasets.iter().position(|dataset| *dataset == 1).unwrap();
        assert!((1000..1000 + 4 * 64).contains(&change), "{change}");
        assert!(datasets[change + 4 * 64..].iter().all(|dataset| *dataset == 1));
    }

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
            MixtureSettings { schedule, epoch_samples: None }.check(2).unwrap_err()
        };
        assert_eq!(check(vec![]), "it has no weights");
        assert!(check(vec![at(5, &[1.0, 1.0])]).contains("sample 0"));
        assert!(check(vec![at(0, &[1.0])]).contains("1 weights for 2 datasets"));
        assert!(check(vec![at(0, &[0.0, 0.0])]).contains("numbers from 0 on"));
        assert!(check(vec![at(0, &[f64::NAN, 1.0])]).contains("numbers from 0 on"));
        assert!(check(vec![at(0, &[1.0, 1.0]), at(0, &[1.0, 1.0])]).contains("order"));
    }
}
