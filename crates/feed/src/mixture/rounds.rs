//! Rounds: how the turns of several datasets are dealt evenly, without a list of them.
//!
//! After r rounds a dataset had `floor(r · turns / cycle)` turns: never off by a whole one, however
//! many rounds there were. Within a round the turns are permuted.

use crate::permutation::Keys;

/// The least samples of a round of one stream.
const ROUND_SAMPLES_MIN: u64 = 64;

/// A round of `datasets` datasets has so many samples, about: rounding down loses less than one for
/// each dataset, and a round has twice as many.
pub(super) fn round_samples(datasets: usize) -> u64 {
    ROUND_SAMPLES_MIN.max(2 * datasets as u64).next_power_of_two()
}

/// The turns of some datasets, dealt in rounds.
#[derive(Clone, Debug)]
pub(super) struct Rounds {
    /// The turns of each dataset in a cycle.
    turns: Vec<u64>,
    /// Their sum.
    samples: u64,
    /// The rounds of a cycle: `samples` has at least twice as many as datasets for each, or there
    /// is but one.
    cycle: u64,
}

impl Rounds {
    pub fn new(turns: Vec<u64>, cycle: u64) -> Self {
        let samples = turns.iter().sum();
        Self { turns, samples, cycle }
    }

    /// The turns of all datasets in a cycle.
    pub const fn samples(&self) -> u64 {
        self.samples
    }

    /// The rounds of a cycle.
    pub const fn cycle(&self) -> u64 {
        self.cycle
    }

    /// The turns of a dataset in a cycle.
    pub fn turns(&self, dataset: usize) -> u64 {
        self.turns[dataset]
    }

    /// The turns of a dataset in the first `rounds` rounds.
    pub fn count(&self, dataset: usize, rounds: u64) -> u64 {
        let turns = u128::from(rounds) * u128::from(self.turns[dataset]);
        (turns / u128::from(self.cycle)) as u64
    }

    /// The offset at which a round starts.
    pub fn start(&self, round: u64) -> u64 {
        (0..self.turns.len()).map(|dataset| self.count(dataset, round)).sum()
    }

    /// The round of an offset.
    pub fn round_at(&self, offset: u64) -> u64 {
        let guess = u128::from(offset) * u128::from(self.cycle) / u128::from(self.samples);
        let guess = guess as u64;
        guess + u64::from(self.start(guess + 1) <= offset)
    }

    /// The first round that does not start before `offset`.
    pub fn round_from(&self, offset: u64) -> u64 {
        let at = self.round_at(offset);
        at + u64::from(self.start(at) < offset)
    }

    /// The round in which a dataset has its turn `turn`, counted from 0.
    pub fn round_of(&self, dataset: usize, turn: u64) -> u64 {
        let turns = (u128::from(turn) + 1) * u128::from(self.cycle);
        (turns.div_ceil(u128::from(self.turns[dataset])) - 1) as u64
    }

    /// Whose turn it is at an offset, and which of its turns, counted from 0. `tweak` is that of a
    /// round's permutation.
    pub fn turn(&self, offset: u64, keys: &Keys, tweak: impl FnOnce(u64) -> u64) -> (usize, u64) {
        let round = self.round_at(offset);
        let start = self.start(round);
        let samples = self.start(round + 1) - start;
        let mut turn = keys.permutation(tweak(round), samples).apply(offset - start);
        for dataset in 0..self.turns.len() {
            let before = self.count(dataset, round);
            let turns = self.count(dataset, round + 1) - before;
            if turn < turns {
                return (dataset, before + turn);
            }
            turn -= turns;
        }
        unreachable!("a round has as many samples as its datasets have turns")
    }
}
