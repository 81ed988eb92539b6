//! The feed's known future, told to the prefetcher and to every eviction.
//!
//! Needs are those of this rank: run by run (see `order`), the shards of each window its streams
//! enter, epoch after epoch. Next uses are those of *all* ranks, since a tier is shared by the
//! ranks of its node: none evicts what a neighbour is about to read.

use std::{collections::VecDeque, sync::Arc};

use forebay_transfer::{
    Error, Need, Needs, Plan,
    dataset::{Shards, shard_object},
};
use forebay_types::Digest;

use crate::{EpochOrder, course::Course};

pub(crate) struct Lookahead {
    pub course: Arc<Course>,
    pub shards: Shards,
}

impl Plan for Lookahead {
    fn needs(self: Arc<Self>, from: u64) -> Needs {
        Box::new(Ahead::new(self, from))
    }

    fn next_use(&self, digest: Digest, after: u64) -> Option<u64> {
        let shard = self.shards.number_of(digest)?;
        let (epoch, position) = self.course.in_epoch(after);
        self.next_in(epoch, shard, position).or_else(|| self.next_in(epoch + 1, shard, 0))
    }
}

impl Lookahead {
    fn next_in(&self, epoch: u64, shard: u32, from: u64) -> Option<u64> {
        if !self.course.has_epoch(epoch) {
            return None;
        }
        let position = self.course.epoch(epoch).next_use(shard, from)?;
        let delivered = position < self.course.delivered();
        delivered.then(|| self.course.run_position(epoch, position))
    }
}

/// A shard, and the run positions between which it is needed.
#[derive(Clone, Copy)]
struct Stretch {
    shard: u32,
    first: u64,
    last: u64,
}

/// Needs in order. Memory: one number for each stream and the shards of one window.
struct Ahead {
    lookahead: Arc<Lookahead>,
    epoch: u64,
    order: Arc<EpochOrder>,
    /// Where each stream of this rank enters its next window.
    heads: Vec<u64>,
    window: VecDeque<Stretch>,
}

impl Ahead {
    fn new(lookahead: Arc<Lookahead>, from: u64) -> Self {
        let (epoch, position) = lookahead.course.in_epoch(from);
        let order = lookahead.course.epoch(epoch);
        let mut ahead =
            Self { lookahead, epoch, order, heads: Vec::new(), window: VecDeque::new() };
        ahead.begin(position);
        ahead
    }

    /// Puts every stream at its first position from `position` on.
    fn begin(&mut self, position: u64) {
        let streams = self.order.streams();
        let head =
            |stream: u64| stream + position.saturating_sub(stream).div_ceil(streams) * streams;
        self.heads = self.lookahead.course.streams().map(head).collect();
    }

    /// Takes up the window that is entered next; false at the end of the last epoch.
    fn enter(&mut self) -> bool {
        let course = self.lookahead.course.clone();
        let next = self.heads.iter_mut().min().filter(|head| **head < course.delivered());
        let Some(head) = next else {
            if !course.has_epoch(self.epoch + 1) {
                return false;
            }
            self.epoch += 1;
            self.order = course.epoch(self.epoch);
            self.begin(0);
            return true;
        };
        let run = self.order.run(*head);
        let last = run.last_position.min(course.delivered() - 1);
        let (first, last) =
            (course.run_position(self.epoch, *head), course.run_position(self.epoch, last));
        *head = run.next_position;
        let order = &self.order;
        self.window.extend((run.slot_first..run.slot_end).map(|slot| Stretch {
            shard: order.shard_at(slot),
            first,
            last,
        }));
        true
    }
}

impl Iterator for Ahead {
    type Item = Result<Need, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.window.is_empty() {
            if !self.enter() {
                return None;
            }
        }
        let Stretch { shard, first, last } = *self.window.front()?;
        Some(self.lookahead.shards.get(shard).map(|entry| {
            self.window.pop_front();
            Need { object: shard_object(&entry), first, last }
        }))
    }
}
