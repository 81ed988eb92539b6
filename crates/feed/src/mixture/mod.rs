//! Mixtures: which dataset each sample of a run is drawn from. A pure function.
//!
//! ```text
//! run position p ──► stream c = p mod C, index x = p div C        C canonical streams
//!             ──► round of the stream, offset in it ──► permute the round's offsets
//!             ──► dataset i, the how-manieth of its turns ──► run position of dataset i
//! ```
//!
//! A run position of a dataset numbers the positions of all its own epochs: every dataset goes
//! through those in its own order, and no sample of it comes again before all of them came. A
//! stream of a dataset only ever fills one stream of the run, so ranks that share no streams share
//! no shards, in a mixture as without one.
//!
//! - By samples or tokens ([`Weighted`]): proportions never drift, however long the run, and may
//!   change over time.
//! - By epochs ([`Repeated`]): each epoch of the mixture takes exactly as many samples of every
//!   dataset as it should.

mod repeated;
mod rounds;
mod settings;
mod tokens;
mod weighted;

pub use settings::{MixBy, MixtureSettings, PHASES_MAX, TokenCount, WeightChange};
pub(crate) use tokens::by_samples;

use repeated::Repeated;
use settings::epoch_parts;
use weighted::Weighted;

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
    rule: Rule,
    epoch_samples: u64,
}

#[derive(Clone, Debug)]
enum Rule {
    Weighted(Weighted),
    Repeated(Repeated),
}

impl Mixture {
    /// The mixture of datasets of so many rows that checked `settings` describe; weights of tokens
    /// were made weights of samples ([`by_samples`]).
    ///
    /// # Errors
    /// What cannot work with datasets of these sizes, in words.
    pub fn new(
        settings: &MixtureSettings,
        rows: &[u64],
        seed: u64,
        streams: u64,
    ) -> Result<Self, String> {
        Ok(match settings.by {
            MixBy::Epochs => {
                let rule = Repeated::new(&epoch_parts(settings, rows, streams)?, seed, streams);
                Self { epoch_samples: rule.epoch_samples(), rule: Rule::Repeated(rule) }
            }
            MixBy::Samples | MixBy::Tokens(_) => {
                let wanted = settings.epoch_samples.unwrap_or_else(|| rows.iter().sum());
                let wanted = wanted.max(streams);
                // Whole turns of the streams, so that an epoch starts with the first of them.
                let epoch_samples = wanted - wanted % streams;
                let rule = Rule::Weighted(Weighted::new(settings, seed, streams));
                Self { rule, epoch_samples }
            }
        })
    }

    /// The samples of an epoch of the mixture.
    pub const fn epoch_samples(&self) -> u64 {
        self.epoch_samples
    }

    /// What is drawn at a run position.
    pub fn draw(&self, run_position: u64) -> Drawn {
        match &self.rule {
            Rule::Weighted(rule) => rule.draw(run_position),
            Rule::Repeated(rule) => rule.draw(run_position),
        }
    }

    /// The run positions between which a dataset's run position is drawn: its round. `None` when
    /// it never is.
    pub fn span(&self, dataset: usize, position: u64) -> Option<(u64, u64)> {
        match &self.rule {
            Rule::Weighted(rule) => rule.span(dataset, position),
            Rule::Repeated(rule) => rule.span(dataset, position),
        }
    }

    /// A run position of the dataset below which everything is drawn before `run_position`.
    pub fn drawn_before(&self, dataset: usize, run_position: u64) -> u64 {
        match &self.rule {
            Rule::Weighted(rule) => rule.drawn_before(dataset, run_position),
            Rule::Repeated(rule) => rule.drawn_before(dataset, run_position),
        }
    }

    /// The stream of the run that a dataset's run position is drawn in.
    pub fn stream(&self, dataset: usize, position: u64) -> u64 {
        match &self.rule {
            Rule::Weighted(rule) => rule.stream(position),
            Rule::Repeated(rule) => rule.stream(dataset, position),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn weighted(settings: &MixtureSettings, seed: u64, streams: u64) -> Mixture {
        Mixture::new(settings, &[], seed, streams).unwrap()
    }

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
                let settings = MixtureSettings { schedule, ..MixtureSettings::constant(&[]) };
                let datasets = settings.schedule[0].weights.len();
                settings.check(datasets).is_ok().then_some((settings, seed, streams))
            })
    }

    proptest! {
        /// Against a plain list of all draws: each dataset's positions come once each and without
        /// a gap but for the round under way, and in the stream they belong to.
        #[test]
        fn draws_are_a_partition((settings, seed, streams) in mixtures()) {
            let mixture = weighted(&settings, seed, streams);
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
            let weights = settings.schedule[0].weights.clone();
            let settings = MixtureSettings::constant(&weights);
            let mixture = weighted(&settings, seed, streams);
            let sum: f64 = weights.iter().sum();
            for (dataset, weight) in weights.iter().enumerate() {
                let found = (0..samples).filter(|&p| mixture.draw(p).dataset == dataset).count();
                let expected = samples as f64 * weight / sum;
                let round = (64 * streams + streams) as f64;
                prop_assert!((found as f64 - expected).abs() <= round, "{found} {expected}");
            }
        }
    }

    #[test]
    fn weights_change_within_a_round_of_their_sample() {
        let at =
            |from_sample, weights: &[f64]| WeightChange { from_sample, weights: weights.into() };
        let schedule = vec![at(0, &[1.0, 0.0]), at(1000, &[0.0, 1.0])];
        let settings = MixtureSettings { schedule, ..MixtureSettings::constant(&[]) };
        let mixture = weighted(&settings, 3, 4);
        let datasets: Vec<usize> = (0..2000).map(|p| mixture.draw(p).dataset).collect();
        let change = datasets.iter().position(|dataset| *dataset == 1).unwrap();
        assert!((1000..1000 + 4 * 64).contains(&change), "{change}");
        assert!(datasets[change + 4 * 64..].iter().all(|dataset| *dataset == 1));
    }

    /// Rows, repeats, seed and streams of a mixture by epochs.
    fn repeated() -> impl Strategy<Value = (Vec<u64>, Vec<f64>, u64, u64)> {
        let repeats = prop::sample::select(vec![0.0, 0.3, 0.5, 1.0, 1.5, 2.0, 5.0]);
        let datasets = prop::collection::vec((1u64..150, repeats), 1..6);
        (datasets, any::<u64>(), 1u64..9).prop_map(|(datasets, seed, streams)| {
            let (rows, repeats) = datasets.into_iter().unzip();
            (rows, repeats, seed, streams)
        })
    }

    proptest! {
        /// Against a plain count of all draws: after each epoch a sample of dataset i came
        /// `floor` or `ceil` of epochs · E_i / N_i times, and exactly so often in each epoch where
        /// repeats are whole. What the tiers rely on holds for every draw.
        #[test]
        fn epochs_are_what_they_say((rows, repeats, seed, streams) in repeated()) {
            let settings = MixtureSettings::epochs(&repeats);
            prop_assume!(settings.check(rows.len()).is_ok());
            let Ok(mixture) = Mixture::new(&settings, &rows, seed, streams) else { return Ok(()) };
            let parts = epoch_parts(&settings, &rows, streams).unwrap();
            let mut seen: Vec<Vec<u64>> = rows.iter().map(|rows| vec![0; *rows as usize]).collect();
            // What was drawn of each dataset: all below a position, and some beyond it.
            let mut drawn: Vec<(u64, BTreeSet<u64>)> = vec![Default::default(); rows.len()];
            for p in 0..3 * mixture.epoch_samples() {
                let Drawn { dataset, position } = mixture.draw(p);
                let (all_below, beyond) = &mut drawn[dataset];
                prop_assert!(position >= *all_below, "{position} was drawn twice");
                let whole = mixture.drawn_before(dataset, p);
                prop_assert!(whole <= *all_below, "{whole} {all_below}");
                prop_assert!(beyond.insert(position), "{position} was drawn twice");
                while beyond.remove(all_below) {
                    *all_below += 1;
                }
                seen[dataset][(position % rows[dataset]) as usize] += 1;
                let own_stream = p % mixture.epoch_samples() % streams;
                prop_assert_eq!(mixture.stream(dataset, position), own_stream);
                let (first, last) = mixture.span(dataset, position).unwrap();
                prop_assert!((first..=last).contains(&p), "{first} {p} {last}");
                prop_assert!(last - first < (128 + rows.len() as u64) * streams);
                if (p + 1) % mixture.epoch_samples() > 0 {
                    continue;
                }
                let epochs = (p + 1) / mixture.epoch_samples();
                for (dataset, seen) in seen.iter().enumerate() {
                    let (drawn, rows) = (epochs * parts[dataset], rows[dataset]);
                    let bounds = drawn / rows..=drawn.div_ceil(rows);
                    prop_assert!(seen.iter().all(|times| bounds.contains(times)));
                    if repeats[dataset].fract() == 0.0 {
                        prop_assert_eq!(parts[dataset], repeats[dataset] as u64 * rows);
                    }
                }
            }
        }
    }

    #[test]
    fn datasets_are_mixed_throughout_an_epoch() {
        let settings = MixtureSettings::epochs(&[1.0, 3.0]);
        let mixture = Mixture::new(&settings, &[6000, 1000], 3, 8).unwrap();
        let third = |from: u64| {
            (from..from + 3000).filter(|&p| mixture.draw(p).dataset == 1).count() as u64
        };
        for from in [0, 3000, 6000] {
            assert!(third(from).abs_diff(1000) < 8 * 64, "{} from {from}", third(from));
        }
    }

    /// A stored promise, as the order of one dataset is.
    #[test]
    fn the_golden_mixtures_come_out() {
        let golden = include_str!("../../golden/v1/mixture.txt");
        assert_eq!(golden_lines(), golden);
    }

    fn golden_lines() -> String {
        let at =
            |from_sample, weights: &[f64]| WeightChange { from_sample, weights: weights.into() };
        let constant = MixtureSettings::constant(&[3.0, 1.0, 0.5]);
        let schedule = vec![at(0, &[1.0, 0.0, 2.0]), at(700, &[0.2, 5.0, 0.0])];
        let changing = MixtureSettings { schedule, ..MixtureSettings::constant(&[]) };
        let line = |name: &str, settings: &MixtureSettings, seed, streams| {
            let mixture = Mixture::new(settings, &[1000, 77, 5], seed, streams).unwrap();
            let draws: Vec<String> = [0, 1, 2, 3, 500, 777, 1230, 100_003, (1 << 40) + 5]
                .map(|p| (p, mixture.draw(p)))
                .map(|(p, drawn)| format!("{p}:{}/{}", drawn.dataset, drawn.position))
                .into();
            format!("{name} seed={seed} streams={streams} {}\n", draws.join(" "))
        };
        [
            line("samples", &constant, 0, 1),
            line("samples", &constant, 7, 8),
            line("changing", &changing, 7, 8),
            line("changing", &changing, u64::MAX, 3),
            line("epochs", &MixtureSettings::epochs(&[1.0, 3.0, 0.0]), 7, 8),
            line("epochs", &MixtureSettings::epochs(&[0.5, 1.0, 20.0]), u64::MAX, 3),
        ]
        .concat()
    }
}
