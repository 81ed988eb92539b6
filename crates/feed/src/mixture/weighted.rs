//! Mixing by weight.
//!
//! Every stream is dealt in rounds of about as many samples. Weights change between phases, at the
//! first whole round that is not before the sample they were set for. Time is
//! O(datasets + log phases), memory O(datasets · phases).

use super::{
    Drawn, MixtureSettings, WeightChange,
    rounds::{Rounds, round_samples},
};
use crate::permutation::{Keys, Purpose};

/// Weights are compared in units of so small a share of their sum.
const SHARE_UNITS: f64 = (1u64 << 32) as f64;

#[derive(Clone, Debug)]
pub(super) struct Weighted {
    streams: u64,
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
    rounds: Rounds,
}

impl Weighted {
    /// The mixture that checked `settings` describe.
    pub fn new(settings: &MixtureSettings, seed: u64, streams: u64) -> Self {
        let keys = Keys::derive(seed, 0, Purpose::Mixture);
        let mut mixture = Self { streams, keys, phases: Vec::new() };
        settings.schedule.iter().for_each(|change| mixture.begin(change));
        mixture
    }

    /// Adds a phase where the one before it has a whole round's end.
    fn begin(&mut self, change: &WeightChange) {
        let datasets = change.weights.len();
        let wanted = change.from_sample.div_ceil(self.streams);
        let (first, first_round, base) = match self.phases.last() {
            None => (0, 0, vec![0; datasets]),
            Some(before) => {
                let rounds = before.rounds.round_from(wanted.saturating_sub(before.first));
                let drawn = |dataset| before.base[dataset] + before.rounds.count(dataset, rounds);
                let base: Vec<u64> = (0..datasets).map(drawn).collect();
                let first = before.first + before.rounds.start(rounds);
                (first, before.first_round + rounds, base)
            }
        };
        let sum: f64 = change.weights.iter().sum();
        let share = |weight: &f64| match *weight > 0.0 {
            true => ((weight / sum * SHARE_UNITS).round() as u64).max(1),
            false => 0,
        };
        let shares: Vec<u64> = change.weights.iter().map(share).collect();
        let (total, round) = (shares.iter().sum(), round_samples(datasets));
        let turns = shares.iter().map(|share| share * round).collect();
        // A phase that the next one starts with is never drawn from.
        if self.phases.last().is_some_and(|before| before.first == first) {
            self.phases.pop();
        }
        self.phases.push(Phase { first, first_round, base, rounds: Rounds::new(turns, total) });
    }

    pub fn draw(&self, run_position: u64) -> Drawn {
        let (stream, index) = (run_position % self.streams, run_position / self.streams);
        let phase = self.phase_at(index);
        let tweak = |round| (phase.first_round + round) * self.streams + stream;
        let (dataset, turn) = phase.rounds.turn(index - phase.first, &self.keys, tweak);
        Drawn { dataset, position: (phase.base[dataset] + turn) * self.streams + stream }
    }

    pub fn span(&self, dataset: usize, position: u64) -> Option<(u64, u64)> {
        let local = position / self.streams;
        // The last phase that starts before it was drawn and draws from the dataset at all.
        let number = self
            .phases
            .iter()
            .rposition(|phase| phase.base[dataset] <= local && phase.rounds.turns(dataset) > 0)?;
        let (phase, later) = (&self.phases[number], &self.phases[number + 1..]);
        let further = later.iter().any(|phase| phase.rounds.turns(dataset) > 0);
        if later.first().is_some_and(|next| local >= next.base[dataset]) && !further {
            return None;
        }
        let round = phase.rounds.round_of(dataset, local - phase.base[dataset]);
        let start = phase.first + phase.rounds.start(round);
        let end = phase.first + phase.rounds.start(round + 1);
        Some((start * self.streams, end * self.streams - 1))
    }

    pub fn drawn_before(&self, dataset: usize, run_position: u64) -> u64 {
        let index = run_position / self.streams;
        let phase = self.phase_at(index);
        let round = phase.rounds.round_at(index - phase.first);
        (phase.base[dataset] + phase.rounds.count(dataset, round)) * self.streams
    }

    /// The stream of the run that a dataset's run position is drawn in: its own.
    pub const fn stream(&self, position: u64) -> u64 {
        position % self.streams
    }

    fn phase_at(&self, index: u64) -> &Phase {
        let after = self.phases.partition_point(|phase| phase.first <= index);
        &self.phases[after - 1]
    }
}
