//! Assembling one batch: look up its places, open their shards, gather the rows.

use std::sync::Arc;

use forebay_format::v1::dataset::TokenSchema;

use crate::{
    Error, Place,
    batch::{Buffer, Pool},
    course::Course,
    shelf::Shelf,
    stats::Timeline,
};

/// A batch that is ready, and how it came to be.
pub(crate) struct Assembled {
    pub epoch: u64,
    pub rows: usize,
    pub buffer: Buffer,
    pub timeline: Timeline,
}

/// What every assembling thread shares.
pub(crate) struct Assembler {
    pub course: Arc<Course>,
    pub shelf: Shelf,
    pub schema: TokenSchema,
    pub pool: Arc<Pool>,
}

/// One row: where it lies, where it goes, and until when its stream stays at its shard.
struct Wanted {
    place: Place,
    index: usize,
    needed_until: u64,
}

impl Assembler {
    pub(crate) fn assemble(&self, step: u64) -> Result<Assembled, Error> {
        let mut timeline = Timeline::default();
        let mut wanted = self.wanted(step);
        // In the order in which the rows lie, shard by shard.
        wanted.sort_unstable_by_key(|wanted| wanted.place);
        let mut buffer = self.pool.take(wanted.len(), self.schema.row_bytes());
        for group in wanted.chunk_by(|a, b| a.place.shard == b.place.shard) {
            self.gather(group, step, &mut buffer, &mut timeline)?;
        }
        let epoch = self.course.epoch_of(step);
        Ok(Assembled { epoch, rows: wanted.len(), buffer, timeline })
    }

    fn wanted(&self, step: u64) -> Vec<Wanted> {
        let epoch = self.course.epoch_of(step);
        let order = self.course.epoch(epoch);
        let wanted = |(index, position)| Wanted {
            place: order.place(position),
            index,
            needed_until: self.course.run_position(epoch, order.run(position).last_position),
        };
        self.course.positions(step).enumerate().map(wanted).collect()
    }

    /// Copies rows of one shard to their places in the batch.
    fn gather(
        &self,
        group: &[Wanted],
        step: u64,
        buffer: &mut Buffer,
        timeline: &mut Timeline,
    ) -> Result<(), Error> {
        let Some(first) = group.first() else { return Ok(()) };
        let rows = group.iter().map(|wanted| wanted.place.row);
        let needed_until = group.iter().map(|wanted| wanted.needed_until).max().unwrap_or(0);
        let shard = self.shelf.shard(first.place.shard, rows, needed_until, step, timeline)?;
        let row_bytes = self.schema.row_bytes();
        for wanted in group {
            let row = shard.reader.row(wanted.place.row);
            let at = wanted.index * row_bytes;
            buffer.tokens[at..at + row_bytes].copy_from_slice(row.tokens_le);
            buffer.ids[wanted.index] = row.id;
        }
        Ok(())
    }
}
