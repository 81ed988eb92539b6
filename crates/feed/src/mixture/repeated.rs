//! Mixing by epochs: in each epoch of the mixture every dataset is gone through so often.
//!
//! An epoch takes E_i samples of dataset i, the next of its own epochs. E_i is no multiple of the
//! streams in general, so it is taken apart into whole turns of the streams and a *rest*, less than
//! one turn:
//!
//! ```text
//! positions of an epoch    C · Σ (E_i div C): dealt to the streams in rounds │ the rests, in turn
//! stream of the run        p mod C                                           │ p mod C
//! ```
//!
//! The rests follow one another without a gap, so dataset i's begins at stream
//! `o_i = Σ_(j<i) E_j mod C`. Its whole turns begin there too: so both are one sequence of streams,
//! and a rank meets a dataset's samples in the streams it would read without a mixture.

use super::{
    Drawn,
    rounds::{Rounds, round_samples},
};
use crate::permutation::{Keys, Purpose};

#[derive(Clone, Debug)]
pub(super) struct Repeated {
    streams: u64,
    keys: Keys,
    /// The whole turns of one stream in one epoch: one cycle.
    rounds: Rounds,
    datasets: Vec<Part>,
    epoch_samples: u64,
}

/// A dataset's part of every epoch.
#[derive(Clone, Debug)]
struct Part {
    samples: u64,
    /// The samples of the rests before its own.
    rests_before: u64,
}

impl Repeated {
    /// The mixture that takes so many samples of each dataset in every epoch, some of any.
    pub fn new(samples: &[u64], seed: u64, streams: u64) -> Self {
        let mut rests = 0;
        let datasets = samples.iter().map(|&samples| {
            let rests_before = rests;
            rests += samples % streams;
            Part { samples, rests_before }
        });
        let datasets = datasets.collect();
        let turns: Vec<u64> = samples.iter().map(|samples| samples / streams).collect();
        let cycle = turns.iter().sum::<u64>() / round_samples(turns.len());
        Self {
            streams,
            keys: Keys::derive(seed, 0, Purpose::Mixture),
            rounds: Rounds::new(turns, cycle.max(1)),
            datasets,
            epoch_samples: samples.iter().sum(),
        }
    }

    pub const fn epoch_samples(&self) -> u64 {
        self.epoch_samples
    }

    /// The positions of an epoch before the rests.
    const fn whole(&self) -> u64 {
        self.rounds.samples() * self.streams
    }

    /// The position in a dataset's part of an epoch at which its rest begins.
    fn rest(&self, dataset: usize) -> u64 {
        self.rounds.turns(dataset) * self.streams
    }

    pub fn draw(&self, run_position: u64) -> Drawn {
        let (epoch, position) = self.split(run_position);
        let (dataset, own) = match position.checked_sub(self.whole()) {
            None => {
                let (stream, index) = (position % self.streams, position / self.streams);
                let rounds_before = epoch * self.rounds.cycle();
                let tweak = |round| (rounds_before + round) * self.streams + stream;
                let (dataset, turn) = self.rounds.turn(index, &self.keys, tweak);
                let first = self.datasets[dataset].rests_before % self.streams;
                let own = turn * self.streams + (stream + self.streams - first) % self.streams;
                (dataset, own)
            }
            Some(beyond) => {
                let after = self.datasets.partition_point(|part| part.rests_before <= beyond);
                let dataset = after - 1;
                let own = self.rest(dataset) + beyond - self.datasets[dataset].rests_before;
                (dataset, own)
            }
        };
        Drawn { dataset, position: epoch * self.datasets[dataset].samples + own }
    }

    pub fn span(&self, dataset: usize, position: u64) -> Option<(u64, u64)> {
        let part = &self.datasets[dataset];
        let own = position.checked_rem(part.samples)?;
        let start = (position / part.samples).saturating_mul(self.epoch_samples);
        let (first, last) = match own.checked_sub(self.rest(dataset)) {
            None => {
                let round = self.rounds.round_of(dataset, own / self.streams);
                let at = |round| self.rounds.start(round) * self.streams;
                (at(round), at(round + 1) - 1)
            }
            Some(beyond) => {
                let at = self.whole() + part.rests_before + beyond;
                (at, at)
            }
        };
        Some((start.saturating_add(first), start.saturating_add(last)))
    }

    pub fn drawn_before(&self, dataset: usize, run_position: u64) -> u64 {
        let (epoch, position) = self.split(run_position);
        let part = &self.datasets[dataset];
        let own = match position.checked_sub(self.whole()) {
            None => {
                let round = self.rounds.round_at(position / self.streams);
                self.rounds.count(dataset, round) * self.streams
            }
            Some(beyond) => {
                let rest = self.rest(dataset);
                rest + beyond.saturating_sub(part.rests_before).min(part.samples - rest)
            }
        };
        epoch * part.samples + own
    }

    /// The stream of the run that a dataset's run position is drawn in.
    pub fn stream(&self, dataset: usize, position: u64) -> u64 {
        let part = &self.datasets[dataset];
        let own = position.checked_rem(part.samples).unwrap_or(0);
        (own % self.streams + part.rests_before) % self.streams
    }

    const fn split(&self, run_position: u64) -> (u64, u64) {
        (run_position / self.epoch_samples, run_position % self.epoch_samples)
    }
}
