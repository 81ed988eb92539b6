//! Assembling one batch: look up its places, open their extents, gather the values.
//!
//! Extents are opened in the order in which the rows lie, each once a batch; values are then copied
//! column by column in the order of the batch.

use std::{
    borrow::Cow,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use forebay_image::{AugmentKey, ImageDecoder, Scratch};
use forebay_types::{Digest, SampleId};

use crate::{
    Error,
    batch::{Buffer, ColumnBuffer, Pool},
    columns::{ColumnPlan, Columns, Make},
    course::{Course, Sample},
    ids::Identity,
    shelf::{Group, OpenExtent, Shelf, Slot},
    source::Source,
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
    pub sources: Vec<Arc<dyn Source>>,
    pub shelf: Shelf,
    pub columns: Columns,
    pub pool: Arc<Pool>,
    pub seed: u64,
    /// Plans to be used again: as many as threads have assembled at once.
    pub plans: Mutex<Vec<Plan>>,
    /// Working memory of image decoders: as many as threads have decoded at once.
    pub scratches: Mutex<Vec<Scratch>>,
}

/// What a batch is made of, before anything is opened.
#[derive(Default)]
pub(crate) struct Plan {
    /// Its rows, in order.
    rows: Vec<Wanted>,
    /// The same in the order in which they lie.
    places: Vec<Place>,
    /// The extents they lie in, in that order.
    stretches: Vec<Stretch>,
}

/// One row of a batch.
struct Wanted {
    /// The epoch of its dataset, which decides how it is augmented.
    epoch: u64,
    /// Until when its stream stays at its extent.
    needed_until: u64,
    /// The number of its stretch, and its own in the extent.
    stretch: usize,
    row: u32,
}

/// Where a row lies: its dataset, its number in the split, and its number in the batch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    dataset: u32,
    row: u64,
    index: u32,
}

/// Places that lie in one extent.
struct Stretch {
    slot: Slot,
    /// The extent's first row in the split.
    first_row: u64,
    /// Their part of [`Plan::places`].
    places: Range<usize>,
    needed_until: u64,
}

/// A plan whose extents are open, one for each stretch.
#[derive(Clone, Copy)]
struct Opened<'a> {
    plan: &'a Plan,
    extents: &'a [Arc<OpenExtent>],
}

/// One row whose extent is open.
struct Found<'a> {
    extent: &'a OpenExtent,
    dataset: usize,
    row: u32,
    epoch: u64,
}

impl<'a> Opened<'a> {
    fn len(&self) -> usize {
        self.plan.rows.len()
    }

    /// The row at `index` of the batch.
    fn at(&self, index: usize) -> Found<'a> {
        let Wanted { stretch, row, epoch, .. } = self.plan.rows[index];
        let dataset = self.plan.stretches[stretch].slot.0;
        Found { extent: &self.extents[stretch], dataset, row, epoch }
    }

    /// All rows, in order.
    fn iter(self) -> impl ExactSizeIterator<Item = Found<'a>> {
        (0..self.len()).map(move |index| self.at(index))
    }
}

impl Assembler {
    pub(crate) fn assemble(&self, step: u64) -> Result<Assembled, Error> {
        self.with_plan(step, |plan| self.fill(step, plan))
    }

    /// As [`Assembler::assemble`], unless an extent would have to be opened first.
    pub(crate) fn assemble_if_open(&self, step: u64) -> Option<Result<Assembled, Error>> {
        let filled = self.with_plan(step, |plan| {
            let slots = plan.stretches.iter().map(|stretch| stretch.slot);
            self.shelf.holds(slots).then(|| self.fill(step, plan)).transpose()
        });
        filled.transpose()
    }

    /// Does `work` with what the step is made of.
    fn with_plan<T>(
        &self,
        step: u64,
        work: impl FnOnce(&Plan) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut plan = lock(&self.plans).pop().unwrap_or_default();
        let outcome = self.plan(step, &mut plan).and_then(|()| work(&plan));
        lock(&self.plans).push(plan);
        outcome
    }

    /// Looks up the rows of the step, each extent once.
    fn plan(&self, step: u64, plan: &mut Plan) -> Result<(), Error> {
        let Plan { rows, places, stretches } = plan;
        rows.clear();
        places.clear();
        stretches.clear();
        let mut recent = None;
        for (index, position) in (0..).zip(self.course.positions(step)) {
            let Sample { dataset, epoch, position } = self.course.sample(position);
            let (_, order) = match recent.take() {
                Some((known, order)) if known == (dataset, epoch) => recent.insert((known, order)),
                _ => recent.insert(((dataset, epoch), self.course.epoch(dataset, epoch))),
            };
            places.push(Place { dataset: dataset as u32, row: order.row(position), index });
            let needed_until = self.course.needed_until(dataset, epoch, order.run(position));
            rows.push(Wanted { epoch, needed_until, stretch: 0, row: 0 });
        }
        places.sort_unstable();
        self.divide(plan).map_err(|source| Error::Read { step, source: Box::new(source) })
    }

    /// Divides a plan's places among the extents they lie in, and tells each of its rows its own.
    fn divide(&self, plan: &mut Plan) -> Result<(), forebay_transfer::Error> {
        let Plan { rows, places, stretches } = plan;
        let (mut dataset, mut extent_rows) = (u32::MAX, 0..0);
        for (number, place) in places.iter().enumerate() {
            if place.dataset != dataset || !extent_rows.contains(&place.row) {
                let extent;
                dataset = place.dataset;
                (extent, extent_rows) = self.sources[dataset as usize].extent_of(place.row)?;
                stretches.push(Stretch {
                    slot: (dataset as usize, extent),
                    first_row: extent_rows.start,
                    places: number..number,
                    needed_until: 0,
                });
            }
            let stretch = stretches.len() - 1;
            let row = &mut rows[place.index as usize];
            (row.stretch, row.row) = (stretch, (place.row - extent_rows.start) as u32);
            let stretch = &mut stretches[stretch];
            stretch.places.end = number + 1;
            stretch.needed_until = stretch.needed_until.max(row.needed_until);
        }
        Ok(())
    }

    fn fill(&self, step: u64, plan: &Plan) -> Result<Assembled, Error> {
        let mut timeline = Timeline::default();
        let groups = plan.stretches.iter().map(|stretch| stretch.group(&plan.places));
        let extents = self.shelf.extents(groups, step, &mut timeline)?;
        let found = Opened { plan, extents: &extents };
        let mut buffer = self.pool.take();
        buffer.columns.resize_with(self.columns.plans.len(), ColumnBuffer::default);
        buffer.ids.reset(extents.iter().map(|extent| extent.rows.digest()));
        buffer.ids.extend(plan.rows.iter().map(|row| identity(row, &extents[row.stretch])));
        for (column_plan, column) in self.columns.plans.iter().zip(&mut buffer.columns) {
            self.gather(column_plan, found, step, column)?;
        }
        self.pool.count(&buffer);
        let epoch = self.course.epoch_of(step);
        Ok(Assembled { epoch, rows: plan.rows.len(), buffer, timeline })
    }

    /// Brings one column's values to where they belong in the batch.
    fn gather(
        &self,
        plan: &ColumnPlan,
        found: Opened<'_>,
        step: u64,
        column: &mut ColumnBuffer,
    ) -> Result<(), Error> {
        column.offsets.clear();
        column.items = 0;
        match &plan.make {
            Make::Dense { value_bytes } => dense(plan, *value_bytes, found, step, column),
            Make::Image { decoder, value_bytes } => {
                self.decode(plan, decoder, *value_bytes, found, step, column)
            }
            Make::Ragged { item_bytes } => ragged(plan, *item_bytes, found, step, column),
            Make::Padded { item_bytes, fill, items } => {
                column.items = padded(plan, (*item_bytes, fill, *items), found, step, column)?;
                Ok(())
            }
        }
    }

    /// Decodes one column's images.
    fn decode(
        &self,
        plan: &ColumnPlan,
        decoder: &ImageDecoder,
        value_bytes: usize,
        found: Opened<'_>,
        step: u64,
        column: &mut ColumnBuffer,
    ) -> Result<(), Error> {
        column.values.resize(found.len() * value_bytes);
        let mut scratch = lock(&self.scratches).pop().unwrap_or_default();
        let places = column.values.chunks_exact_mut(value_bytes);
        let outcome = found.iter().zip(places).try_for_each(|(found, place)| {
            let encoded = found.value(plan, step)?;
            let key = augment_key(self.seed, found.epoch, found.extent.rows.id(found.row));
            decoder
                .decode(&encoded, key, place, &mut scratch)
                .map_err(|error| found.failed(step, error.into()))
        });
        lock(&self.scratches).push(scratch);
        outcome
    }
}

impl Stretch {
    /// Its rows as the shelf wants them.
    fn group<'a>(&self, places: &'a [Place]) -> Group<impl Iterator<Item = u32> + Clone + use<'a>> {
        let first_row = self.first_row;
        let rows = places[self.places.clone()].iter();
        let rows = rows.map(move |place| (place.row - first_row) as u32);
        Group { slot: self.slot, rows, needed_until: self.needed_until }
    }
}

fn identity(wanted: &Wanted, extent: &OpenExtent) -> Identity {
    let row = wanted.row;
    let derived = Identity::Derived { extent: wanted.stretch as u32, row };
    extent.rows.stored_id(row).map_or(derived, Identity::Stored)
}

fn lock<T>(spare: &Mutex<Vec<T>>) -> MutexGuard<'_, Vec<T>> {
    spare.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What decides how a sample is augmented: a pure function, so it is the same when it is replayed.
fn augment_key(seed: u64, epoch: u64, id: SampleId) -> AugmentKey {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes[8..16].copy_from_slice(&epoch.to_le_bytes());
    bytes[16..].copy_from_slice(id.as_bytes());
    let digest = Digest::of(&bytes);
    let (words, _) = digest.as_bytes().as_chunks::<8>();
    AugmentKey::new([u64::from_le_bytes(words[0]), u64::from_le_bytes(words[1])])
}

/// Copies values of one length.
///
/// All are looked up before the first is copied: what a lookup writes and reads again at once would wait
/// behind the stores of a copy, which fill the processor's queue, for as long as half a copy takes.
fn dense<'a>(
    plan: &ColumnPlan,
    value_bytes: usize,
    found: Opened<'a>,
    step: u64,
    column: &mut ColumnBuffer,
) -> Result<(), Error> {
    let value = |found: Found<'a>| {
        let value = found.value(plan, step)?;
        if value.len() == value_bytes {
            return Ok(value);
        }
        let bytes = value.len();
        let what = format!("a value of {bytes} bytes, where its schema says {value_bytes}");
        Err(found.misshapen(step, what))
    };
    let values = found.iter().map(value).collect::<Result<Vec<_>, _>>()?;
    column.values.resize(found.len() * value_bytes);
    let places = column.values.chunks_exact_mut(value_bytes.max(1));
    places.zip(&values).for_each(|(place, value)| place.copy_from_slice(value));
    Ok(())
}

/// Copies values of any length, one after the other.
fn ragged(
    plan: &ColumnPlan,
    item_bytes: usize,
    found: Opened<'_>,
    step: u64,
    column: &mut ColumnBuffer,
) -> Result<(), Error> {
    let values = varying(plan, found, step, item_bytes, column)?;
    column.values.resize(values.iter().map(|value| value.len()).sum());
    let mut rest = &mut *column.values;
    for value in values {
        let (place, behind) = rest.split_at_mut(value.len());
        place.copy_from_slice(&value);
        rest = behind;
    }
    Ok(())
}

/// Copies values of any length side by side, filled up; returns the elements of each.
fn padded(
    plan: &ColumnPlan,
    (item_bytes, fill, items): (usize, &[u8], Option<usize>),
    found: Opened<'_>,
    step: u64,
    column: &mut ColumnBuffer,
) -> Result<usize, Error> {
    let values = varying(plan, found, step, item_bytes, column)?;
    let longest = values.iter().map(|value| value.len() / item_bytes).max().unwrap_or(0);
    let items = items.unwrap_or(longest);
    let row_bytes = items * item_bytes;
    if let Some(at) = values.iter().position(|value| value.len() > row_bytes) {
        let length = values[at].len() / item_bytes;
        let what = format!("a value of {length} elements does not fit into the {items} of padding");
        return Err(found.at(at).misshapen(step, what));
    }
    column.values.resize(found.len() * row_bytes);
    for (value, place) in values.iter().zip(column.values.chunks_exact_mut(row_bytes.max(1))) {
        let (place, behind) = place.split_at_mut(value.len());
        place.copy_from_slice(value);
        behind.chunks_exact_mut(item_bytes).for_each(|item| item.copy_from_slice(fill));
    }
    Ok(items)
}

/// The values of a column of varying length; notes where each starts.
fn varying<'a>(
    plan: &ColumnPlan,
    found: Opened<'a>,
    step: u64,
    item_bytes: usize,
    column: &mut ColumnBuffer,
) -> Result<Vec<Cow<'a, [u8]>>, Error> {
    let mut end = 0;
    column.offsets.push(end);
    let mut values = Vec::with_capacity(found.len());
    for found in found.iter() {
        let value = found.value(plan, step)?;
        if !value.len().is_multiple_of(item_bytes) {
            let bytes = value.len();
            let what = format!("a value of {bytes} bytes, in elements of {item_bytes}");
            return Err(found.misshapen(step, what));
        }
        end += (value.len() / item_bytes) as i64;
        column.offsets.push(end);
        values.push(value);
    }
    Ok(values)
}

impl<'a> Found<'a> {
    fn value(&self, plan: &ColumnPlan, step: u64) -> Result<Cow<'a, [u8]>, Error> {
        let field = plan.fields[self.dataset];
        let extent = self.extent;
        extent.rows.value(self.row, field).map_err(|source| self.failed(step, source.into()))
    }

    fn misshapen(&self, step: u64, what: String) -> Error {
        self.failed(step, what.into())
    }

    /// An error that names the sample.
    fn failed(&self, step: u64, source: crate::source::Damage) -> Error {
        let rows = &self.extent.rows;
        Error::Sample {
            step,
            id: rows.id(self.row),
            object: self.extent.object.key.clone(),
            row: self.row,
            label: rows.label(self.row).unwrap_or_default(),
            source,
        }
    }
}
