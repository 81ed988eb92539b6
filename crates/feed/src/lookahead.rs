//! The feed's known future, told to the prefetcher and to every eviction.
//!
//! Needs are those of this rank: run by run (see `order`), the extents of each window its streams
//! enter, epoch after epoch. Next uses are those of *all* ranks, since a tier is shared by the
//! ranks of its node: none evicts what a neighbour is about to read.
//!
//! A mixture's needs are those of its datasets, merged; each dataset's own run positions are
//! mapped to the run's by the round they are drawn in, so a need is early by less than a round.

use std::{collections::VecDeque, sync::Arc};

use forebay_transfer::{Error, Need, Needs, Plan};
use forebay_types::Digest;

use crate::{EpochOrder, course::Course, source::Source};

pub(crate) struct Lookahead {
    pub course: Arc<Course>,
    pub sources: Vec<Arc<dyn Source>>,
}

impl Plan for Lookahead {
    fn needs(self: Arc<Self>, from: u64) -> Needs {
        let ahead = |dataset| Ahead::new(self.clone(), dataset, from);
        let mut aheads: Vec<Ahead> = (0..self.course.datasets()).map(ahead).collect();
        if aheads.len() == 1 {
            return Box::new(aheads.remove(0));
        }
        Box::new(Merged { aheads, heads: Vec::new() })
    }

    fn next_use(&self, digest: Digest, after: u64) -> Option<u64> {
        let uses = self.sources.iter().enumerate().filter_map(|(dataset, source)| {
            let shards = source.shards_of(digest)?;
            shards.filter_map(|shard| self.next_in(dataset, shard, after)).min()
        });
        uses.min().filter(|next| self.course.end().is_none_or(|end| *next < end))
    }
}

impl Lookahead {
    /// The next run position at which a dataset's shard is needed, in this epoch or the next.
    fn next_in(&self, dataset: usize, shard: u32, after: u64) -> Option<u64> {
        let rows = self.course.rows(dataset);
        let from = self.course.drawn_before(dataset, after);
        let (epoch, position) = (from / rows, from % rows);
        let this = self.course.epoch(dataset, epoch).next_use(shard, position);
        let own = match this {
            Some(position) => epoch * rows + position,
            None => {
                let next = self.course.epoch(dataset, epoch + 1);
                (epoch + 1) * rows + next.next_use(shard, 0)?
            }
        };
        self.course.span(dataset, own).map(|(first, _)| first.max(after))
    }
}

/// An extent, and the run positions between which it is needed.
#[derive(Clone, Copy)]
struct Stretch {
    extent: u64,
    first: u64,
    last: u64,
}

/// A dataset's needs in order. Memory: one number for each stream and the extents of one window.
struct Ahead {
    lookahead: Arc<Lookahead>,
    dataset: usize,
    epoch: u64,
    order: Arc<EpochOrder>,
    /// Where each stream of this rank enters its next window.
    heads: Vec<u64>,
    window: VecDeque<Stretch>,
}

impl Ahead {
    fn new(lookahead: Arc<Lookahead>, dataset: usize, from: u64) -> Self {
        let course = &lookahead.course;
        let from = course.drawn_before(dataset, from);
        let (epoch, position) = (from / course.rows(dataset), from % course.rows(dataset));
        let order = course.epoch(dataset, epoch);
        let (heads, window) = (Vec::new(), VecDeque::new());
        let mut ahead = Self { lookahead, dataset, epoch, order, heads, window };
        ahead.begin(position);
        ahead
    }

    /// Puts every stream at its first position from `position` on.
    fn begin(&mut self, position: u64) {
        let streams = self.order.streams();
        let head =
            |stream: u64| stream + position.saturating_sub(stream).div_ceil(streams) * streams;
        self.heads = self.lookahead.course.streams(self.dataset, self.epoch).map(head).collect();
    }

    /// Takes up the window that is entered next; false when the dataset is not needed any more.
    fn enter(&mut self) -> Result<bool, Error> {
        let course = self.lookahead.course.clone();
        let rows = course.rows(self.dataset);
        let next = self.heads.iter_mut().min().filter(|head| **head < rows);
        let Some(head) = next else {
            let next = self.epoch + 1;
            if !self.is_needed(next * rows) {
                return Ok(false);
            }
            self.epoch = next;
            self.order = course.epoch(self.dataset, next);
            self.begin(0);
            return Ok(true);
        };
        let run = self.order.run(*head);
        let own = |position: u64| self.epoch * rows + position.min(rows - 1);
        let first = course.span(self.dataset, own(*head)).map(|(first, _)| first);
        let last = course.span(self.dataset, own(run.last_position)).map(|(_, last)| last);
        let Some(first) = first else { return Ok(false) };
        if course.end().is_some_and(|end| first >= end) {
            return Ok(false);
        }
        let last = last.unwrap_or(u64::MAX);
        // An error leaves the head where it is: the next call tries the same window again.
        let source = &self.lookahead.sources[self.dataset];
        let mut window = VecDeque::new();
        for slot in run.slot_first..run.slot_end {
            let extents = source.extents(self.order.shard_at(slot))?;
            window.extend(extents.into_iter().map(|extent| Stretch { extent, first, last }));
        }
        *head = run.next_position;
        self.window.append(&mut window);
        Ok(true)
    }

    fn is_needed(&self, position: u64) -> bool {
        let course = &self.lookahead.course;
        let first = course.span(self.dataset, position).map(|(first, _)| first);
        first.is_some_and(|first| course.end().is_none_or(|end| first < end))
    }

    fn need(&mut self) -> Option<Result<Need, Error>> {
        while self.window.is_empty() {
            match self.enter() {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => return Some(Err(error)),
            }
        }
        let Stretch { extent, first, last } = *self.window.front()?;
        let object = self.lookahead.sources[self.dataset].object(extent);
        Some(object.map(|object| {
            self.window.pop_front();
            Need { object, first, last }
        }))
    }
}

impl Iterator for Ahead {
    type Item = Result<Need, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.need()
    }
}

/// The needs of several datasets in order.
struct Merged {
    aheads: Vec<Ahead>,
    /// The next need of each dataset, once it was asked for; `None` when there are no more.
    heads: Vec<Option<Need>>,
}

impl Iterator for Merged {
    type Item = Result<Need, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        while let Some(ahead) = self.aheads.get_mut(self.heads.len()) {
            match ahead.next().transpose() {
                Ok(need) => self.heads.push(need),
                Err(error) => return Some(Err(error)),
            }
        }
        let heads = self.heads.iter().enumerate();
        let firsts =
            heads.filter_map(|(index, need)| need.as_ref().map(|need| (need.first, index)));
        let (_, index) = firsts.min()?;
        match self.aheads[index].next().transpose() {
            Ok(next) => std::mem::replace(&mut self.heads[index], next).map(Ok),
            Err(error) => Some(Err(error)),
        }
    }
}
