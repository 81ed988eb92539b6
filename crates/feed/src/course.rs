//! The course of a run through its data: which positions make up which step, and whose they are.
//!
//! A step is a global batch: `batch_size` consecutive positions of an epoch. What is left of an
//! epoch when no whole batch remains is not delivered in that epoch (another epoch leaves out
//! others). Rank r of K takes the positions r, r + K, r + 2K, … of each batch: joined in turn, the
//! ranks' parts are the global batch, and since K divides the batch, a rank meets only the
//! canonical streams that are congruent to it.
//!
//! *Run positions* number all delivered positions over all epochs.

use std::sync::{Arc, Mutex, PoisonError};

use forebay_format::v1::dataset::SplitEntry;
use forebay_types::Rank;

use crate::{EpochOrder, Error, FeedSettings, Order};

#[derive(Debug)]
pub(crate) struct Course {
    order: Order,
    batch_size: u64,
    /// The positions of an epoch that are delivered.
    delivered: u64,
    epochs: Option<u64>,
    rank: Rank,
    /// The epochs looked up last; deriving one takes microseconds.
    recent: Mutex<Vec<(u64, Arc<EpochOrder>)>>,
}

/// Epochs kept: threads that read ahead may be in the one after the consumer's.
const RECENT_EPOCHS: usize = 3;

impl Course {
    /// A run through `entry` in whole batches, epoch after epoch.
    pub(crate) fn new(
        entry: &SplitEntry,
        settings: &FeedSettings,
        rank: Rank,
    ) -> Result<Self, Error> {
        let batch_size = settings.batch_size;
        if u64::from(batch_size) > entry.rows {
            return Err(Error::BatchTooLarge { batch_size, split: entry.split, rows: entry.rows });
        }
        let delivered = entry.rows - entry.rows % u64::from(batch_size);
        Self::with(entry, settings, rank, delivered, settings.epochs)
    }

    /// Every row of `entry` once, as stored; the last batch may be short.
    pub(crate) fn sequential(
        entry: &SplitEntry,
        settings: &FeedSettings,
        rank: Rank,
    ) -> Result<Self, Error> {
        let settings = FeedSettings { shuffle: false, ..settings.clone() };
        Self::with(entry, &settings, rank, entry.rows, Some(1))
    }

    fn with(
        entry: &SplitEntry,
        settings: &FeedSettings,
        rank: Rank,
        delivered: u64,
        epochs: Option<u64>,
    ) -> Result<Self, Error> {
        let (batch_size, world_size) = (settings.batch_size, rank.world_size());
        if !batch_size.is_multiple_of(world_size) {
            return Err(Error::Indivisible { batch_size, world_size });
        }
        let order = Order::new(&settings.order(), entry.rows, entry.rows_per_shard);
        let batch_size = u64::from(batch_size);
        Ok(Self { order, batch_size, delivered, epochs, rank, recent: Mutex::default() })
    }

    pub(crate) fn steps_per_epoch(&self) -> u64 {
        self.delivered.div_ceil(self.batch_size)
    }

    /// The number of steps; `None` when they never end.
    pub(crate) fn steps(&self) -> Option<u64> {
        self.epochs.map(|epochs| epochs.saturating_mul(self.steps_per_epoch()))
    }

    pub(crate) fn epoch_of(&self, step: u64) -> u64 {
        step / self.steps_per_epoch()
    }

    /// The run position of the first sample of `step`.
    pub(crate) fn start(&self, step: u64) -> u64 {
        let within = step % self.steps_per_epoch();
        self.run_position(self.epoch_of(step), within * self.batch_size)
    }

    /// The positions in their epoch that this rank takes at `step`.
    pub(crate) fn positions(&self, step: u64) -> impl ExactSizeIterator<Item = u64> + use<> {
        let start = step % self.steps_per_epoch() * self.batch_size;
        let end = (start + self.batch_size).min(self.delivered);
        let (rank, world) = (u64::from(self.rank.rank()), u64::from(self.rank.world_size()));
        let count = (end - start).saturating_sub(rank).div_ceil(world) as usize;
        (0..count).map(move |index| start + rank + index as u64 * world)
    }

    pub(crate) fn run_position(&self, epoch: u64, position: u64) -> u64 {
        epoch.saturating_mul(self.delivered).saturating_add(position)
    }

    /// The epoch of a run position, and the position in it.
    pub(crate) fn in_epoch(&self, run_position: u64) -> (u64, u64) {
        (run_position / self.delivered, run_position % self.delivered)
    }

    /// The positions of an epoch that are delivered: all below this.
    pub(crate) fn delivered(&self) -> u64 {
        self.delivered
    }

    pub(crate) fn has_epoch(&self, epoch: u64) -> bool {
        self.epochs.is_none_or(|epochs| epoch < epochs)
    }

    /// The canonical streams this rank draws from.
    pub(crate) fn streams(&self) -> impl Iterator<Item = u64> + use<> {
        let streams = self.order.streams();
        let shared = gcd(streams, u64::from(self.rank.world_size()));
        (u64::from(self.rank.rank()) % shared..streams).step_by(shared as usize)
    }

    /// The most shards this rank reads at once.
    pub(crate) fn shards_in_use(&self) -> u64 {
        self.streams().count() as u64 * self.order.window_shards()
    }

    pub(crate) fn epoch(&self, epoch: u64) -> Arc<EpochOrder> {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, order)) = recent.iter().find(|(number, _)| *number == epoch) {
            return order.clone();
        }
        let order = Arc::new(self.order.epoch(epoch));
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
    use std::collections::BTreeSet;

    use forebay_types::Split;
    use proptest::prelude::*;

    use super::*;

    fn entry(rows: u64, rows_per_shard: u32) -> SplitEntry {
        SplitEntry {
            split: Split::Train,
            rows,
            documents: 1,
            rows_per_shard,
            rows_per_batch: 8,
            shards: rows.div_ceil(u64::from(rows_per_shard)) as u32,
            pages: Vec::new(),
        }
    }

    fn settings(seed: u64, batch_size: u32, canonical_streams: u32) -> FeedSettings {
        FeedSettings { seed, batch_size, canonical_streams, ..FeedSettings::default() }
    }

    proptest! {
        /// The promise to a run that changes its world size, against a world of one.
        #[test]
        fn ranks_split_the_global_batch(
            seed: u64, rows in 24u64..500, per_shard in 1u32..60, streams in 1u32..10,
            world in prop::sample::select(vec![1u32, 2, 3, 4, 6, 12]), step in 0u64..100,
        ) {
            let settings = settings(seed, 24, streams);
            let alone = Course::new(&entry(rows, per_shard), &settings, Rank::ALONE).unwrap();
            let whole: Vec<u64> = alone.positions(step).collect();
            prop_assert_eq!(whole.len(), 24);
            for rank in 0..world {
                let rank = Rank::new(rank, world).unwrap();
                let course = Course::new(&entry(rows, per_shard), &settings, rank).unwrap();
                let strided = whole.iter().skip(rank.rank() as usize).step_by(world as usize);
                let positions: Vec<u64> = course.positions(step).collect();
                prop_assert_eq!(&positions, &strided.copied().collect::<Vec<_>>());
                let streams: BTreeSet<u64> = course.streams().collect();
                let streams_of_all = course.order.streams();
                prop_assert!(positions.iter().all(|p| streams.contains(&(p % streams_of_all))));
            }
        }

        #[test]
        fn an_epoch_delivers_no_sample_twice(seed: u64, rows in 7u64..300, epoch in 0u64..4) {
            let course = Course::new(&entry(rows, 16), &settings(seed, 7, 3), Rank::ALONE).unwrap();
            let per_epoch = course.steps_per_epoch();
            let order = course.epoch(epoch);
            let places: Vec<_> = (epoch * per_epoch..(epoch + 1) * per_epoch)
                .inspect(|&step| assert_eq!(course.epoch_of(step), epoch))
                .flat_map(|step| course.positions(step))
                .map(|position| order.place(position))
                .collect();
            prop_assert_eq!(places.len() as u64, rows / 7 * 7);
            prop_assert_eq!(places.iter().collect::<BTreeSet<_>>().len(), places.len());
        }
    }

    #[test]
    fn a_sequential_course_takes_every_row_once() {
        let settings = settings(1, 8, 4);
        let rank = |rank| Rank::new(rank, 4).unwrap();
        let courses: Vec<Course> = (0..4)
            .map(|r| Course::sequential(&entry(21, 4), &settings, rank(r)).unwrap())
            .collect();
        assert_eq!(courses[0].steps(), Some(3));
        let mut rows: Vec<u64> = (0..3)
            .flat_map(|step| courses.iter().flat_map(move |course| course.positions(step)))
            .collect();
        rows.sort_unstable();
        assert_eq!(rows, (0..21).collect::<Vec<_>>());
    }

    #[test]
    fn impossible_batches_are_refused_by_name() {
        let course = |rows, batch, world| {
            let rank = Rank::new(0, world).unwrap();
            Course::new(&entry(rows, 4), &settings(0, batch, 4), rank).unwrap_err().to_string()
        };
        assert!(course(31, 32, 1).starts_with("a batch of 32 samples does not fit into split"));
        assert!(course(99, 32, 3).starts_with("a world size of 3 does not divide a global batch"));
    }
}
