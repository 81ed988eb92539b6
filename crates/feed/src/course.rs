//! The course of a run through its data: which samples make up which step, and whose they are.
//!
//! A step is a global batch: `batch_size` consecutive positions of an epoch, taken in turn by the
//! ranks: rank r of K takes the positions r, r + K, r + 2K, … of each batch. Joined in turn, the
//! ranks' parts are the global batch, for every world size; where K does not divide it, the first
//! ranks get one sample more. What an epoch's end does to a batch is a setting ([`LastBatch`]).
//!
//! *Run positions* number all positions of all epochs. Without a mixture run position p is position
//! `p mod rows` of epoch `p div rows` of the one dataset; with one, [`Mixture`] says which dataset
//! it is drawn from and at which run position of that dataset alone.
//!
//! A course starts at a [`Cursor`]: an epoch and a number of samples in it. So a run may go on with
//! another world size or another batch size in mid-epoch, and neither repeats nor leaves out a
//! sample.

use std::sync::{Arc, Mutex, PoisonError};

use forebay_types::Rank;
use serde::{Deserialize, Serialize};

use crate::{
    EpochOrder, Error, FeedSettings, Order,
    mixture::{Drawn, Mixture},
    order::Run,
    settings::LastBatch,
};

/// Where a run stands in its data: the whole state of a feed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cursor {
    /// The next step, counted from the start of the run.
    pub step: u64,
    /// The epoch of its samples.
    pub epoch: u64,
    /// The samples of the epoch, over all ranks, before it.
    pub offset: u64,
}

/// The sizes of one dataset of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub rows: u64,
    pub rows_per_shard: u32,
}

#[derive(Debug)]
pub(crate) struct Course {
    datasets: Vec<DatasetOrder>,
    mixture: Option<Mixture>,
    /// The positions of an epoch.
    epoch_samples: u64,
    batch_size: u64,
    last_batch: LastBatch,
    epochs: Option<u64>,
    /// Ranges of steps that are left out, ascending, without overlap.
    skips: Vec<(u64, u64)>,
    rank: Rank,
    origin: Cursor,
    /// The canonical streams this rank draws from: those that are `.1` modulo `.0`.
    class: (u64, u64),
}

#[derive(Debug)]
struct DatasetOrder {
    order: Order,
    /// The epochs looked up last; deriving one takes microseconds.
    recent: Mutex<Vec<(u64, Arc<EpochOrder>)>>,
}

/// Epochs kept of each dataset: threads that read ahead may be in the one after the consumer's.
const RECENT_EPOCHS: usize = 4;

/// One sample of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sample {
    /// The dataset's number.
    pub dataset: usize,
    /// Its epoch.
    pub epoch: u64,
    /// The position in that epoch.
    pub position: u64,
}

impl Course {
    /// A run through datasets of these shapes from `origin` on. `mixture` is needed where they are
    /// several; settings were checked.
    pub(crate) fn new(
        shapes: &[Shape],
        settings: &FeedSettings,
        rank: Rank,
        origin: Cursor,
    ) -> Result<Self, Error> {
        let datasets: Vec<DatasetOrder> = shapes
            .iter()
            .map(|shape| DatasetOrder {
                order: Order::new(&settings.order(), shape.rows, shape.rows_per_shard),
                recent: Mutex::default(),
            })
            .collect();
        let batch_size = u64::from(settings.batch_size);
        let rows: Vec<u64> = shapes.iter().map(|shape| shape.rows).collect();
        let streams = u64::from(settings.canonical_streams).max(1);
        let mixture = settings
            .mixture
            .as_ref()
            .map(|mixture| Mixture::new(mixture, &rows, settings.seed, streams))
            .transpose()
            .map_err(|why| Error::Setting { setting: "mixture", why })?;
        let epoch_samples = mixture.as_ref().map_or(rows[0], Mixture::epoch_samples);
        if settings.last_batch == LastBatch::Drop && batch_size > epoch_samples {
            let (batch_size, rows) = (settings.batch_size, epoch_samples);
            return Err(Error::BatchTooLarge { batch_size, rows });
        }
        if origin.offset > epoch_samples {
            return Err(Error::Beyond { offset: origin.offset, epoch_samples });
        }
        let world_size = u64::from(rank.world_size());
        let streams = match &mixture {
            Some(_) => streams,
            None => datasets[0].order.streams(),
        };
        let shared = gcd(streams, world_size);
        let aligned = batch_size.is_multiple_of(world_size) && origin.offset.is_multiple_of(shared);
        let class = if aligned { (shared, u64::from(rank.rank()) % shared) } else { (1, 0) };
        Ok(Self {
            datasets,
            mixture,
            epoch_samples,
            batch_size,
            last_batch: settings.last_batch,
            epochs: settings.epochs,
            skips: settings.skip_steps.clone(),
            rank,
            origin,
            class,
        })
    }

    /// The epoch of a step.
    pub(crate) fn epoch_of(&self, step: u64) -> u64 {
        self.begin(step).epoch
    }

    /// The batches that `samples` samples make.
    const fn batches(&self, samples: u64) -> u64 {
        match self.last_batch {
            LastBatch::Drop => samples / self.batch_size,
            LastBatch::Short | LastBatch::Pad => samples.div_ceil(self.batch_size),
        }
    }

    /// The steps of a whole epoch.
    pub(crate) const fn steps_per_epoch(&self) -> u64 {
        self.batches(self.epoch_samples)
    }

    /// A step of the run, counted as if none were left out.
    fn unskipped(&self, step: u64) -> u64 {
        self.skips.iter().fold(step, |step, &(first, end)| match step >= first {
            true => step.saturating_add(end - first),
            false => step,
        })
    }

    /// How many steps lie before `step`, with those left out before its predecessor ended.
    fn taken(&self, step: u64) -> u64 {
        step.checked_sub(1).map_or(0, |last| self.unskipped(last) + 1)
    }

    /// The step after the last; `None` when they never end.
    pub(crate) fn steps(&self) -> Option<u64> {
        let epochs = self.epochs?;
        let Some(whole) = epochs.checked_sub(self.origin.epoch + 1) else {
            return Some(self.origin.step);
        };
        let first = self.batches(self.epoch_samples - self.origin.offset);
        let end = self.taken(self.origin.step)
            + first.saturating_add(whole.saturating_mul(self.steps_per_epoch()));
        let skipped: u64 = self
            .skips
            .iter()
            .map(|&(first, last)| last.min(end).saturating_sub(first.min(end)))
            .sum();
        Some((end - skipped).max(self.origin.step))
    }

    /// Where a run stands before `step`: what is left out there is still to come, so that a range
    /// may be added to the settings of a run that is resumed.
    pub(crate) fn cursor(&self, step: u64) -> Cursor {
        self.after(step, self.taken(step))
    }

    /// Where the samples of `step` start.
    fn begin(&self, step: u64) -> Cursor {
        self.after(step, self.unskipped(step))
    }

    /// Where the run stands after `taken` steps.
    fn after(&self, step: u64, taken: u64) -> Cursor {
        let Cursor { epoch, offset, step: from } = self.origin;
        let steps = taken - self.taken(from);
        let first = self.batches(self.epoch_samples - offset);
        let (epoch, offset) = match steps.checked_sub(first) {
            None => (epoch, offset + steps * self.batch_size),
            Some(further) => {
                let per_epoch = self.steps_per_epoch();
                (epoch + 1 + further / per_epoch, further % per_epoch * self.batch_size)
            }
        };
        Cursor { step, epoch, offset }
    }

    /// The run position of the first sample of `step`.
    pub(crate) fn start(&self, step: u64) -> u64 {
        let Cursor { epoch, offset, .. } = self.begin(step);
        epoch.saturating_mul(self.epoch_samples).saturating_add(offset)
    }

    /// The samples of the global batch of `step`.
    pub(crate) fn global_rows(&self, step: u64) -> u64 {
        match self.last_batch {
            LastBatch::Pad => self.batch_size,
            _ => self.batch_size.min(self.epoch_samples - self.begin(step).offset),
        }
    }

    /// The run positions that this rank takes at `step`.
    pub(crate) fn positions(&self, step: u64) -> impl ExactSizeIterator<Item = u64> + use<> {
        let Cursor { epoch, offset, .. } = self.begin(step);
        let (rank, world) = (u64::from(self.rank.rank()), u64::from(self.rank.world_size()));
        let count = self.global_rows(step).saturating_sub(rank).div_ceil(world) as usize;
        let epoch_samples = self.epoch_samples;
        (0..count).map(move |index| {
            // A padded batch begins the epoch again.
            let position = (offset + rank + index as u64 * world) % epoch_samples;
            epoch * epoch_samples + position
        })
    }

    /// The sample at a run position.
    pub(crate) fn sample(&self, run_position: u64) -> Sample {
        let Drawn { dataset, position } = match &self.mixture {
            None => Drawn { dataset: 0, position: run_position },
            Some(mixture) => mixture.draw(run_position),
        };
        let rows = self.rows(dataset);
        Sample { dataset, epoch: position / rows, position: position % rows }
    }

    /// The last run position at which a run of an epoch of a dataset is drawn from.
    pub(crate) fn needed_until(&self, dataset: usize, epoch: u64, run: Run) -> u64 {
        let last = epoch * self.rows(dataset) + run.last_position;
        self.span(dataset, last).map_or(u64::MAX, |(_, last)| last)
    }

    /// The run positions between which a dataset's own run position is drawn.
    pub(crate) fn span(&self, dataset: usize, position: u64) -> Option<(u64, u64)> {
        match &self.mixture {
            None => Some((position, position)),
            Some(mixture) => mixture.span(dataset, position),
        }
    }

    /// A run position of the dataset below which everything is drawn before `run_position`.
    pub(crate) fn drawn_before(&self, dataset: usize, run_position: u64) -> u64 {
        match &self.mixture {
            None => run_position,
            Some(mixture) => mixture.drawn_before(dataset, run_position),
        }
    }

    /// One past the last run position; `None` when there is none.
    pub(crate) fn end(&self) -> Option<u64> {
        self.epochs.map(|epochs| epochs.saturating_mul(self.epoch_samples))
    }

    /// How many datasets are mixed.
    pub(crate) fn datasets(&self) -> usize {
        self.datasets.len()
    }

    /// The rows of a dataset.
    pub(crate) fn rows(&self, dataset: usize) -> u64 {
        self.datasets[dataset].order.rows()
    }

    /// The canonical streams that this rank draws from in an epoch of a dataset.
    pub(crate) fn streams(&self, dataset: usize, epoch: u64) -> impl Iterator<Item = u64> + use<> {
        let order = &self.datasets[dataset].order;
        let streams = order.streams();
        let (mut shared, mut first) = self.class;
        if let Some(mixture) = &self.mixture {
            // A dataset's epochs follow one another without a gap, so each begins with the stream
            // after the last one's.
            let shift = mixture.stream(dataset, epoch.saturating_mul(order.rows())) % shared;
            first = (first + shared - shift) % shared;
        }
        if !streams.is_multiple_of(shared) {
            (shared, first) = (1, 0);
        }
        (first..streams).step_by(shared as usize)
    }

    /// The most shards of a dataset that this rank reads at once.
    pub(crate) fn shards_in_use(&self, dataset: usize) -> u64 {
        let order = &self.datasets[dataset].order;
        self.streams(dataset, 0).count() as u64 * order.window_shards()
    }

    /// The order of an epoch of a dataset.
    pub(crate) fn epoch(&self, dataset: usize, epoch: u64) -> Arc<EpochOrder> {
        let DatasetOrder { order, recent } = &self.datasets[dataset];
        let mut recent = recent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, order)) = recent.iter().find(|(number, _)| *number == epoch) {
            return order.clone();
        }
        let order = Arc::new(order.epoch(epoch));
        if recent.len() == RECENT_EPOCHS {
            recent.remove(0);
        }
        recent.push((epoch, order.clone()));
        order
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;
    use crate::{Place, mixture::MixtureSettings};

    fn shape(rows: u64, rows_per_shard: u32) -> Shape {
        Shape { rows, rows_per_shard }
    }

    fn settings(seed: u64, batch_size: u32, canonical_streams: u32) -> FeedSettings {
        FeedSettings { seed, batch_size, canonical_streams, ..FeedSettings::default() }
    }

    fn course(shapes: &[Shape], settings: &FeedSettings, rank: u32, world: u32) -> Course {
        let rank = Rank::new(rank, world).unwrap();
        Course::new(shapes, settings, rank, Cursor::default()).unwrap()
    }

    /// The positions of `step` over all ranks, in the order of the global batch.
    fn joined(courses: &[Course], step: u64) -> Vec<u64> {
        let parts: Vec<Vec<u64>> =
            courses.iter().map(|course| course.positions(step).collect()).collect();
        let longest = parts.iter().map(Vec::len).max().unwrap_or(0);
        (0..longest)
            .flat_map(|i| parts.iter().filter_map(move |part| part.get(i).copied()))
            .collect()
    }

    fn world(shapes: &[Shape], settings: &FeedSettings, world: u32, origin: Cursor) -> Vec<Course> {
        (0..world)
            .map(|rank| Rank::new(rank, world).unwrap())
            .map(|rank| Course::new(shapes, settings, rank, origin).unwrap())
            .collect()
    }

    proptest! {
        /// The promise to a run that changes its world size, against a world of one; for every
        /// world size, whether it divides batch and streams or not.
        #[test]
        fn ranks_split_the_global_batch(
            seed: u64, rows in 24u64..500, per_shard in 1u32..60, streams in 1u32..10,
            ranks in 1u32..14, step in 0u64..100,
            mixture in prop::sample::select(vec![
                None,
                Some(MixtureSettings::constant(&[0.7, 0.3])),
                Some(MixtureSettings::epochs(&[1.0, 3.0])),
                Some(MixtureSettings::epochs(&[2.5, 1.0])),
            ]),
        ) {
            let mut settings = settings(seed, 24, streams);
            let mut shapes = vec![shape(rows, per_shard)];
            if mixture.is_some() {
                shapes.push(shape(rows / 2 + 1, 5));
                settings.mixture = mixture;
            }
            let alone = course(&shapes, &settings, 0, 1);
            let courses = world(&shapes, &settings, ranks, Cursor::default());
            let whole: Vec<u64> = alone.positions(step).collect();
            prop_assert_eq!(&joined(&courses, step), &whole);
            for course in courses {
                for position in course.positions(step) {
                    let Sample { dataset, epoch, position } = course.sample(position);
                    let of_all = course.datasets[dataset].order.streams();
                    let streams: BTreeSet<u64> = course.streams(dataset, epoch).collect();
                    prop_assert!(streams.contains(&(position % of_all)));
                }
            }
        }

        /// Every sample exactly once an epoch, over all ranks, although world size and batch size
        /// change in mid-epoch as often as they like.
        #[test]
        fn an_elastic_epoch_delivers_every_sample_once(
            seed: u64, rows in 1u64..400, last in 0u64..4,
            launches in prop::collection::vec((1u32..9, 1u32..40, 1u64..9), 1..8),
        ) {
            let shapes = [shape(rows, 16)];
            let mut cursor = Cursor::default();
            let mut seen = Vec::new();
            let mut launches = launches.iter().cycle();
            while cursor.epoch <= last {
                let &(ranks, batch_size, steps) = launches.next().unwrap();
                let settings = FeedSettings {
                    last_batch: LastBatch::Short, epochs: Some(last + 1),
                    ..settings(seed, batch_size, 3)
                };
                let courses = world(&shapes, &settings, ranks, cursor);
                let end = courses[0].steps().unwrap().min(cursor.step + steps);
                for step in cursor.step..end {
                    seen.extend(joined(&courses, step));
                }
                cursor = courses[0].cursor(end);
            }
            prop_assert_eq!(seen, (0..rows * (last + 1)).collect::<Vec<_>>());
        }

        /// The same of a mixture by epochs: in each of them every sample of a dataset so often.
        #[test]
        fn an_elastic_epoch_of_a_mixture_repeats_every_sample_as_often_as_it_says(
            seed: u64, streams in 1u32..9, datasets in prop::collection::vec((1u64..90, 1u64..4), 1..5),
            launches in prop::collection::vec((1u32..9, 1u32..40, 1u64..9), 1..8),
        ) {
            let shapes: Vec<Shape> = datasets.iter().map(|(rows, _)| shape(*rows, 16)).collect();
            let repeats: Vec<f64> = datasets.iter().map(|(_, repeats)| *repeats as f64).collect();
            let mut seen: BTreeMap<(u64, usize, u64), u64> = BTreeMap::new();
            let mut cursor = Cursor::default();
            let mut launches = launches.iter().cycle();
            while cursor.epoch < 3 {
                let &(ranks, batch_size, steps) = launches.next().unwrap();
                let settings = FeedSettings {
                    last_batch: LastBatch::Short,
                    epochs: Some(3),
                    mixture: Some(MixtureSettings::epochs(&repeats)),
                    ..settings(seed, batch_size, streams)
                };
                let courses = world(&shapes, &settings, ranks, cursor);
                let end = courses[0].steps().unwrap().min(cursor.step + steps);
                for step in cursor.step..end {
                    for run_position in joined(&courses, step) {
                        let sample = courses[0].sample(run_position);
                        let Place { shard, row } = courses[0]
                            .epoch(sample.dataset, sample.epoch)
                            .place(sample.position);
                        let row = u64::from(shard) * 16 + u64::from(row);
                        let epoch = courses[0].epoch_of(step);
                        *seen.entry((epoch, sample.dataset, row)).or_default() += 1;
                    }
                }
                cursor = courses[0].cursor(end);
            }
            for epoch in 0..3 {
                for (dataset, (rows, repeats)) in datasets.iter().enumerate() {
                    for row in 0..*rows {
                        prop_assert_eq!(seen.remove(&(epoch, dataset, row)), Some(*repeats));
                    }
                }
            }
            prop_assert!(seen.is_empty());
        }

        #[test]
        fn dropping_and_padding_do_what_they_say(rows in 7u64..300, epochs in 1u64..4) {
            let shapes = [shape(rows, 16)];
            let with = |last_batch| FeedSettings {
                last_batch, epochs: Some(epochs), ..settings(1, 7, 3)
            };
            let dropped = course(&shapes, &with(LastBatch::Drop), 0, 1);
            prop_assert_eq!(dropped.steps(), Some(epochs * (rows / 7)));
            let padded = world(&shapes, &with(LastBatch::Pad), 3, Cursor::default());
            prop_assert_eq!(padded[0].steps(), Some(epochs * rows.div_ceil(7)));
            let mut seen = vec![0; rows as usize];
            for step in 0..padded[0].steps_per_epoch() {
                let batch = joined(&padded, step);
                prop_assert_eq!(batch.len(), 7);
                batch.iter().for_each(|position| seen[*position as usize] += 1);
            }
            let extra = (rows.div_ceil(7) * 7 - rows) as usize;
            prop_assert!(seen.iter().enumerate().all(|(at, n)| *n == 1 + usize::from(at < extra)));
        }

        /// A skipped range is as if its steps had been taken.
        #[test]
        fn skipped_steps_are_left_out(
            rows in 30u64..200, first in 0u64..20, length in 1u64..20, gap in 1u64..9,
        ) {
            let shapes = [shape(rows, 16)];
            let skips = vec![(first, first + length), (first + length + gap, first + length + gap + 2)];
            let plain = settings(5, 7, 2);
            let skipping = FeedSettings { skip_steps: skips.clone(), ..plain.clone() };
            let (plain, skipping) = (course(&shapes, &plain, 0, 1), course(&shapes, &skipping, 0, 1));
            let kept = (0..100u64).filter(|s| !skips.iter().any(|(a, b)| (a..b).contains(&s)));
            for (step, kept) in kept.enumerate() {
                let expected: Vec<u64> = plain.positions(kept).collect();
                prop_assert_eq!(skipping.positions(step as u64).collect::<Vec<_>>(), expected);
                // And so it is for a run that is resumed in between.
                let origin = skipping.cursor(step as u64);
                let settings = FeedSettings { skip_steps: skips.clone(), ..settings(5, 7, 2) };
                let resumed = Course::new(&shapes, &settings, Rank::ALONE, origin).unwrap();
                for step in step as u64..step as u64 + 30 {
                    prop_assert_eq!(resumed.cursor(step), skipping.cursor(step));
                    prop_assert_eq!(resumed.start(step), skipping.start(step));
                }
            }
        }
    }

    #[test]
    fn impossible_batches_are_refused_by_name() {
        let rank = Rank::ALONE;
        let error = |settings: &FeedSettings, origin| {
            Course::new(&[shape(31, 4)], settings, rank, origin).unwrap_err().to_string()
        };
        let settings = settings(0, 32, 4);
        let beyond = Cursor { step: 1, epoch: 0, offset: 40 };
        assert!(error(&settings, Cursor::default()).starts_with("a batch of 32 samples does not"));
        let short = FeedSettings { last_batch: LastBatch::Short, ..settings };
        assert!(error(&short, beyond).contains("sample 40 of an epoch of 31"));
    }
}
