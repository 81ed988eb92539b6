//! The order: which sample stands at which position of which epoch. A pure function.
//!
//! ```text
//! position ─ p mod C, p div C ─► stream c, offset k          C canonical streams
//!          ─ start(c) + k ─────► base index b                each a run of the base order
//!          ─ slots, windows ───► window w, offset in it      W permuted shards a window
//!          ─ permute rows ─────► slot, row
//!          ─ permute shards ───► shard, row
//! ```
//!
//! The shards of an epoch are permuted; each W neighbours in that permutation form a window, and
//! the rows of a window are permuted among themselves. That is the base order. It is cut into C
//! runs of equal length, the canonical streams, and the epoch takes one sample from each stream in
//! turn. So a global batch mixes C windows of W shards each, however the ranks divide it, and
//! reading it keeps no more than C windows at hand.
//!
//! All shards have the same number of rows but the last; the inverse of the shard permutation says
//! in which slot that one stands, so that every step above is arithmetic: O(1) in time and memory
//! for a dataset of any size. Nothing depends on the world size.

use crate::permutation::{Keys, NARROW_MAX, Purpose};

/// What decides an order, besides the dataset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrderSettings {
    /// Other seeds give other orders.
    pub seed: u64,
    /// Whether samples are shuffled; otherwise they come as they are stored.
    pub shuffle: bool,
    /// Streams that take turns.
    pub canonical_streams: u32,
    /// Shards whose rows are shuffled together.
    pub window_shards: u32,
}

/// Where a sample lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The shard's number in its split.
    pub shard: u32,
    /// The row's number in its shard.
    pub row: u32,
}

/// The order of one split.
#[derive(Clone, Debug)]
pub struct Order {
    seed: u64,
    shuffle: bool,
    grid: Grid,
}

/// The sizes every lookup computes with.
#[derive(Clone, Copy, Debug)]
struct Grid {
    rows: u64,
    rows_per_shard: u64,
    shards: u64,
    window_shards: u64,
    streams: u64,
    /// The shortest stream's length; the first `longer_streams` have one more.
    stream_rows: u64,
    longer_streams: u64,
    /// What the last shard lacks.
    missing_rows: u64,
}

impl Order {
    /// The order of a split of `rows` rows, `rows_per_shard` in every shard but the last.
    ///
    /// Settings of 0 count as 1, and no more streams or windows are made than the split can fill.
    ///
    /// # Panics
    /// When there are no rows, none in a shard, more than 2^63, or more than 2^32 shards.
    #[must_use]
    pub fn new(settings: &OrderSettings, rows: u64, rows_per_shard: u32) -> Self {
        let rows_per_shard = u64::from(rows_per_shard);
        assert!(rows > 0 && rows_per_shard > 0, "an order needs rows");
        let shards = rows.div_ceil(rows_per_shard);
        assert!(rows <= 1 << 63 && shards <= 1 << 32, "a split of {rows} rows, {shards} shards");
        let (streams, window_shards) = match settings.shuffle {
            true => (settings.canonical_streams, settings.window_shards),
            false => (1, 1),
        };
        let streams = u64::from(streams).clamp(1, rows);
        let grid = Grid {
            rows,
            rows_per_shard,
            shards,
            window_shards: u64::from(window_shards).clamp(1, shards),
            streams,
            stream_rows: rows / streams,
            longer_streams: rows % streams,
            missing_rows: shards * rows_per_shard - rows,
        };
        Self { seed: settings.seed, shuffle: settings.shuffle, grid }
    }

    /// The rows of an epoch.
    #[must_use]
    pub const fn rows(&self) -> u64 {
        self.grid.rows
    }

    /// The streams that take turns: position `p` is taken from stream `p mod streams`.
    #[must_use]
    pub const fn streams(&self) -> u64 {
        self.grid.streams
    }

    /// The shards of a window.
    #[must_use]
    pub const fn window_shards(&self) -> u64 {
        self.grid.window_shards
    }

    /// The order of one epoch, with its keys derived once.
    #[must_use]
    pub fn epoch(&self, epoch: u64) -> EpochOrder {
        let keys = |purpose| Keys::derive(self.seed, epoch, purpose);
        let mut order = EpochOrder {
            grid: self.grid,
            keys: self.shuffle.then(|| (keys(Purpose::Shards), keys(Purpose::Rows))),
            few_shards: Vec::new(),
            short_slot: 0,
        };
        if self.grid.shards <= NARROW_MAX {
            order.few_shards = (0..self.grid.shards).map(|slot| order.shard_at(slot)).collect();
        }
        order.short_slot = order.slot_of(self.grid.shards - 1);
        order
    }

    /// The sample at `position` of `epoch`. To look up many, ask [`Order::epoch`] once.
    ///
    /// # Panics
    /// When the epoch has no such position.
    #[must_use]
    pub fn sample(&self, epoch: u64, position: u64) -> Place {
        self.epoch(epoch).place(position)
    }
}

/// The order of one epoch.
#[derive(Clone, Debug)]
pub struct EpochOrder {
    grid: Grid,
    /// For shards and for rows; none when nothing is shuffled.
    keys: Option<(Keys, Keys)>,
    /// The shard of each slot, when they are no more than [`NARROW_MAX`]: else it is computed.
    few_shards: Vec<u32>,
    /// Where the last, shorter shard stands.
    short_slot: u64,
}

/// A stretch of one stream within one window: while it lasts, the stream needs these shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// The window's slots.
    pub slot_first: u64,
    /// One past them.
    pub slot_end: u64,
    /// The position after which the stream leaves the window.
    pub last_position: u64,
    /// The stream's first position beyond the window.
    pub next_position: u64,
}

impl EpochOrder {
    /// The sample at `position`.
    ///
    /// # Panics
    /// When the epoch has no such position.
    #[must_use]
    pub fn place(&self, position: u64) -> Place {
        let row = self.row(position);
        let rows_per_shard = self.grid.rows_per_shard;
        Place { shard: (row / rows_per_shard) as u32, row: (row % rows_per_shard) as u32 }
    }

    /// The number of the sample at `position` in its split, as it is stored.
    ///
    /// # Panics
    /// When the epoch has no such position.
    #[must_use]
    pub fn row(&self, position: u64) -> u64 {
        let grid = &self.grid;
        assert!(position < grid.rows, "position {position} of an epoch of {} rows", grid.rows);
        let base = grid.stream_start(position % grid.streams) + position / grid.streams;
        let permuted = match &self.keys {
            None => base,
            Some((_, rows)) => {
                let window = self.slot_at(base) / grid.window_shards;
                let (start, end) = self.window_rows(window);
                start + rows.permutation(window, end - start).apply(base - start)
            }
        };
        let slot = self.slot_at(permuted);
        u64::from(self.shard_at(slot)) * grid.rows_per_shard + permuted - self.slot_start(slot)
    }

    pub(crate) fn streams(&self) -> u64 {
        self.grid.streams
    }

    /// The first position from `from` on at which `shard` may be needed: the first that draws from
    /// its window. No row of the shard is needed between `from` and there, so it is never late; it
    /// is early by at most the rows of the other shards of the window.
    #[must_use]
    pub fn next_use(&self, shard: u32, from: u64) -> Option<u64> {
        let grid = &self.grid;
        let window = self.slot_of(u64::from(shard)) / grid.window_shards;
        let (start, end) = self.window_rows(window);
        let streams = grid.stream_at(start)..=grid.stream_at(end - 1);
        let first = |stream: u64| {
            let stream_start = grid.stream_start(stream);
            let stream_end = grid.stream_start(stream + 1);
            let reached = from.saturating_sub(stream).div_ceil(grid.streams);
            let offset = start.saturating_sub(stream_start).max(reached);
            (offset < end.min(stream_end) - stream_start).then(|| offset * grid.streams + stream)
        };
        streams.filter_map(first).min()
    }

    /// The stretch in which the stream of `position` draws from one window.
    pub(crate) fn run(&self, position: u64) -> Run {
        let grid = &self.grid;
        let (stream, offset) = (position % grid.streams, position / grid.streams);
        let start = grid.stream_start(stream);
        let window = self.slot_at(start + offset) / grid.window_shards;
        let end = self.window_rows(window).1.min(grid.stream_start(stream + 1));
        let slot_first = window * grid.window_shards;
        let next_position = (end - start) * grid.streams + stream;
        Run {
            slot_first,
            slot_end: (slot_first + grid.window_shards).min(grid.shards),
            last_position: next_position - grid.streams,
            next_position,
        }
    }

    /// The shard in a slot of the permutation.
    pub(crate) fn shard_at(&self, slot: u64) -> u32 {
        if let Some(shard) = self.few_shards.get(slot as usize) {
            return *shard;
        }
        let shard = match &self.keys {
            None => slot,
            Some((shards, _)) => shards.permutation(0, self.grid.shards).apply(slot),
        };
        shard as u32
    }

    fn slot_of(&self, shard: u64) -> u64 {
        match &self.keys {
            None => shard,
            Some((shards, _)) => shards.permutation(0, self.grid.shards).invert(shard),
        }
    }

    /// The base index of a slot's first row; of the slot after the last, the number of rows.
    fn slot_start(&self, slot: u64) -> u64 {
        let missing = if slot > self.short_slot { self.grid.missing_rows } else { 0 };
        slot * self.grid.rows_per_shard - missing
    }

    fn slot_at(&self, base: u64) -> u64 {
        let after_short = base >= self.slot_start(self.short_slot + 1);
        let missing = if after_short { self.grid.missing_rows } else { 0 };
        (base + missing) / self.grid.rows_per_shard
    }

    /// The first base index of a window, and the one after its last.
    fn window_rows(&self, window: u64) -> (u64, u64) {
        let first = window * self.grid.window_shards;
        let end = (first + self.grid.window_shards).min(self.grid.shards);
        (self.slot_start(first), self.slot_start(end))
    }
}

impl Grid {
    fn stream_start(&self, stream: u64) -> u64 {
        stream * self.stream_rows + stream.min(self.longer_streams)
    }

    fn stream_at(&self, base: u64) -> u64 {
        let longer = self.longer_streams * (self.stream_rows + 1);
        match base.checked_sub(longer) {
            None => base / (self.stream_rows + 1),
            Some(beyond) => self.longer_streams + beyond / self.stream_rows,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn orders() -> impl Strategy<Value = (Order, u64, u32)> {
        (any::<u64>(), any::<bool>(), 0u32..20, 0u32..9, 1u64..2000, 1u32..300).prop_map(
            |(seed, shuffle, canonical_streams, window_shards, rows, per_shard)| {
                let settings = OrderSettings { seed, shuffle, canonical_streams, window_shards };
                (Order::new(&settings, rows, per_shard), rows, per_shard)
            },
        )
    }

    fn places(order: &EpochOrder) -> Vec<Place> {
        (0..order.grid.rows).map(|position| order.place(position)).collect()
    }

    proptest! {
        #[test]
        fn every_epoch_is_a_permutation((order, rows, per_shard) in orders(), epoch: u64) {
            let found: BTreeSet<Place> = places(&order.epoch(epoch)).into_iter().collect();
            let stored: BTreeSet<Place> = (0..rows)
                .map(|row| (row / u64::from(per_shard), row % u64::from(per_shard)))
                .map(|(shard, row)| Place { shard: shard as u32, row: row as u32 })
                .collect();
            prop_assert_eq!(found, stored);
        }

        /// What prefetch and eviction rely on, against the plain list of places.
        #[test]
        fn next_uses_are_never_late_and_runs_cover_all((order, rows, _) in orders(), at: u64) {
            let order = order.epoch(1);
            let places = places(&order);
            let from = at % rows;
            for shard in 0..order.grid.shards as u32 {
                let needed = (from..rows).find(|&p| places[p as usize].shard == shard);
                let stated = order.next_use(shard, from);
                prop_assert!(stated.is_none_or(|stated| (from..rows).contains(&stated)));
                if let Some(needed) = needed {
                    prop_assert!(stated.is_some_and(|stated| stated <= needed));
                }
            }
            for position in 0..rows {
                let run = order.run(position);
                let shards: Vec<u32> =
                    (run.slot_first..run.slot_end).map(|slot| order.shard_at(slot)).collect();
                prop_assert!(shards.contains(&places[position as usize].shard));
                prop_assert!(position <= run.last_position && run.last_position < rows);
                prop_assert!(run.next_position >= rows
                    || order.run(run.next_position).slot_first == run.slot_end);
                prop_assert!(shards.iter().all(|&shard| order.next_use(shard, position)
                    .is_some_and(|next| next <= position + order.grid.streams)
                    || position + order.grid.streams > run.last_position));
            }
        }

        #[test]
        fn streams_are_runs_of_one_length((order, rows, _) in orders()) {
            let grid = order.grid;
            prop_assert_eq!(grid.stream_start(grid.streams), rows);
            for base in 0..rows {
                let stream = grid.stream_at(base);
                let run = grid.stream_start(stream)..grid.stream_start(stream + 1);
                prop_assert!(run.contains(&base));
            }
        }
    }

    fn settings(seed: u64) -> OrderSettings {
        OrderSettings { seed, shuffle: true, canonical_streams: 4, window_shards: 2 }
    }

    #[test]
    fn seeds_and_epochs_give_other_orders_and_no_shuffle_the_stored_one() {
        let order = Order::new(&settings(1), 500, 64);
        assert_eq!(places(&order.epoch(0)), places(&order.epoch(0)));
        assert_ne!(places(&order.epoch(0)), places(&order.epoch(1)));
        assert_ne!(places(&order.epoch(0)), places(&Order::new(&settings(2), 500, 64).epoch(0)));
        let plain = OrderSettings { shuffle: false, ..settings(1) };
        assert!(places(&Order::new(&plain, 500, 64).epoch(7)).is_sorted());
    }

    #[test]
    fn a_batch_draws_from_as_many_streams_as_there_are() {
        let order = Order::new(&settings(1), 64 * 16, 64).epoch(0);
        let windows: BTreeSet<u64> = (0..4).map(|p| order.run(p).slot_first).collect();
        assert_eq!(windows.len(), 4);
    }

    #[test]
    fn the_largest_dataset_is_as_quick_as_the_smallest() {
        let order = Order::new(&settings(3), 1 << 62, 1 << 31).epoch(9);
        for position in [0, 1, 12_345_678_901, (1 << 62) - 1] {
            let place = order.place(position);
            assert!(order.next_use(place.shard, position).is_some_and(|next| next >= position));
        }
    }

    /// The order is a stored promise: a position in an old checkpoint means these very samples.
    #[test]
    fn the_golden_orders_come_out() {
        let golden = include_str!("../golden/v1/order.txt");
        let computed: String = GOLDEN_CASES.iter().map(|case| golden_line(*case)).collect();
        assert_eq!(computed, golden);
    }

    type Case = (u64, bool, u32, u32, u64, u32, u64);

    const GOLDEN_CASES: [Case; 9] = [
        (0, false, 8, 4, 10, 4, 0),
        (0, true, 8, 4, 1, 1, 0),
        (0, true, 8, 4, 10, 4, 0),
        (0, true, 8, 4, 10, 4, 1),
        (7, true, 8, 4, 1000, 10, 0),
        (7, true, 1, 1, 1000, 10, 0),
        (u64::MAX, true, 3, 5, 100_003, 97, 2),
        (42, true, 64, 4, 1 << 40, 1 << 14, 5),
        (42, true, 8, 16, (1 << 62) + 12_345, 1 << 31, u64::MAX),
    ];

    fn golden_line(case: Case) -> String {
        let (seed, shuffle, canonical_streams, window_shards, rows, per_shard, epoch) = case;
        let settings = OrderSettings { seed, shuffle, canonical_streams, window_shards };
        let order = Order::new(&settings, rows, per_shard).epoch(epoch);
        let middle = rows / 2;
        let positions = (0..rows.min(10)).chain(middle..rows.min(middle + 3)).chain([rows - 1]);
        let places: Vec<String> = positions
            .map(|position| (position, order.place(position)))
            .map(|(position, place)| format!("{position}:{}/{}", place.shard, place.row))
            .collect();
        format!(
            "seed={seed} shuffle={shuffle} streams={canonical_streams} window={window_shards} \
             rows={rows} rows_per_shard={per_shard} epoch={epoch} {}\n",
            places.join(" ")
        )
    }
}
