//! Capture: the only part of a save that the trainer waits for.
//!
//! Every tensor is copied to its place in the file's image, which a [`StatePlan`] says. Digests are left
//! to the background, and so are copying what cannot change before the optimizer's next step, and
//! reading what is said beside the tensors. Tensors that the caller fills are waited for there too.
//!
//! A capture that is whole is kept in the node's memory under a name until it is on the node's disk, and
//! stays to be restored from until the next one.
//! Where there is no memory for a copy, nothing is copied: the state is staged from where it lies,
//! while the trainer waits.
//!
//! # After a crash
//! A whole capture is staged by whoever opens the run next, unless it was; a torn one is nowhere.

use std::{borrow::Cow, sync::Arc, time::Duration};

use forebay_format::{
    record,
    v1::{
        capture::{CaptureFacts, CaptureRecord, CapturedTensor, Label},
        checkpoint::{self, TensorPart},
        tensors::{TensorPlace, TensorPlan},
    },
};
use forebay_local::NodeMemory;
use forebay_runtime::crash_point;
use forebay_types::{Key, Name, Nonce};

use crate::{
    Deferred, Error, StatePlan,
    arena::{Arena, ArenaEnd, PieceCopy},
    copying::{self, Copier, Copying, Place, Verdict},
    site::Site,
};

/// The tensors of a state in the order of its image, each with what it is a part of.
pub(crate) type Tensors = [(TensorPlace, Option<TensorPart>)];

/// A captured state: what is said about it, and where each of its tensors is.
pub(crate) struct Captured<'a> {
    pub facts: CaptureFacts,
    pub tensors: Arc<Tensors>,
    /// The metadata of `facts`, when nobody has read it yet.
    metadata: Option<String>,
    /// What the background copies first. Dropped before the values, whose places others may be filling.
    pub later: Option<Later>,
    pub values: Values<'a>,
    pub timing: Timing,
}

/// Where the values of a captured state are.
pub(crate) enum Values<'a> {
    /// In an image of the tensor file.
    Copied(Arena),
    /// Where the trainer has them, who waits; in the order of the image.
    Lent(Vec<&'a [u8]>),
}

/// Tensors that are copied while the trainer goes on.
pub(crate) struct Later {
    /// Where each lies in the image.
    pub tensors: Vec<(u64, Cow<'static, [u8]>)>,
    pub copier: Copier,
}

/// A copied state on which the last word is not spoken: what it takes to keep it.
pub(crate) struct Unsettled<'a> {
    pub facts: &'a CaptureFacts,
    pub tensors: &'a Tensors,
    metadata: Option<String>,
    copier: Option<Copier>,
    end: ArenaEnd<'a>,
}

/// What the trainer said of a state, and its metadata, if that was read just now.
pub(crate) type Settled = (Verdict, Option<serde_json::Value>);

impl Unsettled<'_> {
    /// Asks the trainer whether the state, of which all is copied by now, is whole; if it is, keeps it.
    ///
    /// # Errors
    /// When the metadata is not what it should be.
    pub(crate) fn settle(mut self) -> Result<Settled, Error> {
        let verdict = self.copier.take().map_or(Verdict::Intact, |copier| copier.verdict());
        if verdict != Verdict::Intact {
            return Ok((verdict, None));
        }
        let metadata = self.metadata.take().map(|text| parse(&text)).transpose()?;
        // What cannot be kept is lost with this process, as it was before it was captured.
        let _kept = self.keep(metadata.as_ref());
        crash_point("checkpoint.captured");
        Ok((Verdict::Intact, metadata))
    }

    fn keep(&mut self, metadata: Option<&serde_json::Value>) -> Result<(), Error> {
        let mut facts = self.facts.clone();
        if let Some(metadata) = metadata {
            facts.metadata = metadata.clone();
        }
        let name = kept_as(&facts.run, facts.step, facts.attempt, facts.rank);
        let tensors = self.tensors.iter().map(|(place, part)| {
            let (spec, part) = (place.spec.clone(), part.clone());
            CapturedTensor { name: spec.name, dtype: spec.dtype, shape: spec.shape, part }
        });
        let record = CaptureRecord { facts, tensors: tensors.collect() };
        self.end.keep(&name, &record::encode(&record)?.0)
    }
}

impl Captured<'_> {
    /// Copies what is left to copy, and asks the trainer whether the state is whole; if it is, keeps it.
    ///
    /// # Errors
    /// When the metadata is not what it should be.
    pub(crate) fn complete(&mut self, site: &Site) -> Result<Verdict, Error> {
        let Values::Copied(arena) = &mut self.values else { return Ok(Verdict::Intact) };
        let later = self.later.take();
        if let Some(Later { tensors, copier }) = &later
            && copier.await_filled()
        {
            arena.copy(&borrowed(tensors), site);
        }
        let copier = later.map(|later| later.copier);
        let Some((_, unsettled)) = self.open(&[], copier) else { return Ok(Verdict::Intact) };
        let (verdict, metadata) = unsettled.settle()?;
        self.say(metadata);
        Ok(verdict)
    }

    /// What is still to be copied, piece by piece of the image, of the tensors `left`; and what is to be
    /// settled when that is done. None when there is no image.
    pub(crate) fn open<'a>(
        &'a mut self,
        left: &'a [(u64, Cow<'static, [u8]>)],
        copier: Option<Copier>,
    ) -> Option<(Vec<PieceCopy<'a>>, Unsettled<'a>)> {
        let Values::Copied(arena) = &mut self.values else { return None };
        let (copies, end) = arena.open(&borrowed(left));
        let (facts, tensors, metadata) = (&self.facts, &*self.tensors, self.metadata.take());
        Some((copies, Unsettled { facts, tensors, metadata, copier, end }))
    }

    /// Notes the metadata, if it was read just now.
    pub(crate) fn say(&mut self, metadata: Option<serde_json::Value>) {
        if let Some(metadata) = metadata {
            self.facts.metadata = metadata;
        }
    }

    /// The image of the whole file, if there is one.
    pub(crate) fn image(&self) -> Option<&[u8]> {
        match &self.values {
            Values::Copied(arena) => Some(arena.image()),
            Values::Lent(_) => None,
        }
    }

    /// The bytes of a tensor.
    pub(crate) fn values(&self, tensor: usize) -> &[u8] {
        match &self.values {
            Values::Lent(values) => values[tensor],
            Values::Copied(arena) => {
                let place = &self.tensors[tensor].0;
                &arena.image()[place.offset as usize..(place.offset + place.bytes) as usize]
            }
        }
    }

    /// The arena, if it is in one.
    pub(crate) fn into_arena(self) -> Arena {
        match self.values {
            Values::Copied(arena) => arena,
            Values::Lent(_) => Arena::default(),
        }
    }
}

impl Captured<'static> {
    /// Leaves to the background what was deferred behind the first `now` tensors, if there is any.
    pub(crate) fn copy_later(
        &mut self,
        plan: &StatePlan,
        deferred: Deferred,
        now: usize,
    ) -> Option<Copying> {
        let Deferred { later, filled } = deferred;
        if later.is_empty() && filled == 0 {
            return None;
        }
        let first_filled = now + later.len();
        let placed = |(index, bytes)| (plan.offset(now + index), bytes);
        let tensors = later.into_iter().enumerate().map(placed).collect();
        let Values::Copied(arena) = &mut self.values else { return None };
        let image = arena.address();
        let place = |index| Place {
            memory: image.wrapping_add(plan.offset(index) as usize),
            bytes: plan.bytes(index) as usize,
        };
        let places = (first_filled..first_filled + filled).map(place).collect();
        let (copying, copier) = copying::copying(places);
        self.later = Some(Later { tensors, copier });
        Some(copying)
    }

    /// What a dead process captured, as [`read_kept`] read it.
    pub(crate) fn take_over(memory: NodeMemory, record: CaptureRecord, plan: TensorPlan) -> Self {
        let parts = record.tensors.into_iter().map(|tensor| tensor.part);
        let values = Values::Copied(Arena::holding(memory, plan.file_bytes as usize));
        let tensors = plan.places.into_iter().map(|(_, place)| place).zip(parts).collect();
        let timing = Timing::default();
        Self { facts: record.facts, tensors, metadata: None, values, later: None, timing }
    }
}

/// Reads what is said about a capture that a dead process kept, and the plan of its image.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn read_kept(
    memory: &[u8],
    kept_as: &Key,
) -> Result<(CaptureRecord, TensorPlan), Error> {
    let (image, record) = Label::split(memory, kept_as.as_str())?;
    let (record, _) = record::decode::<CaptureRecord>(record, kept_as.as_str())?;
    let plan = record.plan()?;
    let CaptureFacts { run, step, attempt, rank, .. } = &record.facts;
    if image.len() as u64 != plan.file_bytes || !image.starts_with(&plan.header) {
        return Err(Error::object(kept_as, "its image is not what its record says"));
    }
    if self::kept_as(run, *step, *attempt, *rank) != *kept_as {
        return Err(Error::object(kept_as, "it does not belong where it lies"));
    }
    Ok((record, plan))
}

/// The name of a capture in memory.
pub(crate) fn kept_as(run: &Name, step: u64, attempt: Nonce, rank: u32) -> Key {
    name(run, step, attempt, rank, "capture")
}

/// The name of something that one rank has of one attempt, on its node.
pub(crate) fn name(run: &Name, step: u64, attempt: Nonce, rank: u32, extension: &str) -> Key {
    let prefix = checkpoint::step_prefix(run, step);
    Key::new(format!("{prefix}{attempt}/rank-{rank}.{extension}"))
        .expect("names and numbers make sound keys")
}

/// When a save was captured, and how long that took.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Timing {
    pub captured_at: Duration,
    pub pause_seconds: f64,
    pub waited_seconds: f64,
    pub stage_seconds: f64,
}

/// What is said beside the tensors.
pub(crate) enum Metadata {
    Read(serde_json::Value),
    /// JSON, which the background reads.
    Text(String),
}

fn borrowed<'a>(tensors: &'a [(u64, Cow<'static, [u8]>)]) -> Vec<(u64, &'a [u8])> {
    tensors.iter().map(|(offset, bytes)| (*offset, &**bytes)).collect()
}

/// Reads what is said beside the tensors.
///
/// # Errors
/// When it is not JSON.
fn parse(text: &str) -> Result<serde_json::Value, Error> {
    serde_json::from_str(text).map_err(Error::Metadata)
}

/// Copies values into `arena`, which was begun; those that were given behind them are left to
/// [`Captured::copy_later`].
pub(crate) fn copied(
    site: &Site,
    plan: &StatePlan,
    mut arena: Arena,
    now: &[&[u8]],
    mut facts: CaptureFacts,
    metadata: Metadata,
) -> Captured<'static> {
    crash_point("checkpoint.capture");
    let tensors = now.iter().enumerate().map(|(index, bytes)| (plan.offset(index), *bytes));
    arena.copy(&tensors.collect::<Vec<_>>(), site);
    let metadata = match metadata {
        Metadata::Text(text) => Some(text),
        Metadata::Read(value) => {
            facts.metadata = value;
            None
        }
    };
    let (tensors, values, timing) = (plan.tensors(), Values::Copied(arena), Timing::default());
    Captured { facts, tensors, metadata, values, later: None, timing }
}

/// Takes the state as it lies, where no memory holds a copy.
///
/// # Errors
/// When the metadata is not JSON.
pub(crate) fn lent<'a>(
    plan: &StatePlan,
    values: &[&'a [u8]],
    mut facts: CaptureFacts,
    metadata: Metadata,
) -> Result<Captured<'a>, Error> {
    facts.metadata = match metadata {
        Metadata::Read(value) => value,
        Metadata::Text(text) => parse(&text)?,
    };
    let (values, timing) = (Values::Lent(plan.in_order(values)), Timing::default());
    Ok(Captured { facts, tensors: plan.tensors(), metadata: None, values, later: None, timing })
}
