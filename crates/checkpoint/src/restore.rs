//! Restoring: a committed step, verified tensor by tensor, from the nearest tier that has it.
//!
//! The commit proves the rank records, a record proves its file's header and each tensor's bytes.
//! Neighbouring tensors are read together, so that thousands of small ones cost a few requests;
//! several threads read and verify. A staged copy that is damaged gives way to the lake's; a
//! damaged lake copy is an error that names object and tensor and the intact older step.
//!
//! # Bounds
//! The memory of what is restored, and nothing of the same order besides.

use std::{
    collections::BTreeMap,
    fs::File,
    ops::Range,
    os::unix::fs::FileExt,
    sync::{Mutex, PoisonError},
};

use forebay_format::v1::checkpoint::{self, CommitRecord, RankRecord, TensorEntry};
use forebay_lake::{Lake, Purpose};
use forebay_local::LocalTier;
use forebay_runtime::Runtime;
use forebay_transfer::Transfer;
use forebay_types::{Digest, Key, Name};

use crate::{Error, Restored, Tier, read, restored::Held, stage::StagedNames};

/// Neighbouring tensors are read together up to this many bytes.
const GROUP_BYTES: u64 = 8 << 20;
/// Requests in flight.
const THREADS: usize = 4;

/// Which checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The newest that is committed.
    Newest,
    /// The one at this step.
    Step(u64),
}

/// How much of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Every tensor.
    All,
    /// Tensors named `model.…`; nothing else is read.
    Weights,
}

impl Part {
    fn wants(self, tensor: &TensorEntry) -> bool {
        self == Self::All || tensor.name.starts_with("model.")
    }
}

/// Restores a committed checkpoint of `run`; `None` when the newest is asked for and none exists.
///
/// # Errors
/// [`Error::NoStep`] for a step that is not committed. [`Error::Damaged`] names what is damaged
/// and which older step is intact; no older step is ever taken silently.
pub fn restore(
    transfer: &Transfer,
    run: &Name,
    which: Which,
    part: Part,
) -> Result<Option<Restored>, Error> {
    let tiers = Tiers { lake: transfer.lake(), near: Some((transfer.local(), transfer.runtime())) };
    tiers.restore(run, which, part)
}

/// Where to read from; without a near tier, also without threads.
pub(crate) struct Tiers<'a> {
    pub lake: &'a Lake,
    pub near: Option<(&'a LocalTier, &'a Runtime)>,
}

impl Tiers<'_> {
    pub(crate) fn restore(
        &self,
        run: &Name,
        which: Which,
        part: Part,
    ) -> Result<Option<Restored>, Error> {
        let step = match which {
            Which::Step(step) => step,
            Which::Newest => match read::steps(self.lake, run)?.pop() {
                Some(step) => step,
                None => return Ok(None),
            },
        };
        let restored = read::existing(self.lake, run, step)
            .and_then(|commit| self.restore_commit(commit, part));
        restored.map(Some).map_err(|error| read::explain(self.lake, run, step, error))
    }

    fn restore_commit(&self, commit: CommitRecord, part: Part) -> Result<Restored, Error> {
        let mut restored =
            Restored { commit, tier: Tier::Local, tensors: BTreeMap::new(), buffers: Vec::new() };
        for rank in 0..restored.commit.world_size() {
            let record = read::rank_record(self.lake, &restored.commit, rank)?;
            let (tier, groups) = self.read_rank(&record, part)?;
            if tier == Tier::Lake {
                restored.tier = Tier::Lake;
            }
            add_rank(&mut restored, &record, groups)?;
        }
        Ok(restored)
    }

    /// Reads a rank's file from the nearest tier whose copy is sound.
    fn read_rank(&self, record: &RankRecord, part: Part) -> Result<(Tier, Vec<Group>), Error> {
        let name = StagedNames::of(record).file;
        if let Some((local, _)) = self.near
            && let Ok(file) = local.staged_file(&name)
            && let Ok(groups) = self.read_file(&Source::Local(&file, &name), record, part)
        {
            return Ok((Tier::Local, groups));
        }
        let key = file_key(record);
        let groups = self.read_file(&Source::Lake(self.lake, &key), record, part)?;
        Ok((Tier::Lake, groups))
    }

    fn read_file(
        &self,
        source: &Source<'_>,
        record: &RankRecord,
        part: Part,
    ) -> Result<Vec<Group>, Error> {
        check_header(source, record)?;
        let mut groups = group(&record.tensors, part);
        let left = Mutex::new(groups.iter_mut());
        let next = || left.lock().unwrap_or_else(PoisonError::into_inner).next();
        let work = |_| {
            while let Some(group) = next() {
                group.read(source, &record.tensors)?;
            }
            Ok::<_, Error>(())
        };
        match self.near {
            Some((_, runtime)) => runtime.workers("checkpoint-restore", THREADS, work)?,
            None => work(0)?,
        }
        Ok(groups)
    }
}

/// Where the tensors of a rank lie in the lake.
pub(crate) fn file_key(record: &RankRecord) -> Key {
    checkpoint::tensors_key(&record.run, record.step, record.rank, record.file.digest)
}

/// A tensor file on one of the tiers.
pub(crate) enum Source<'a> {
    Local(&'a File, &'a Key),
    Lake(&'a Lake, &'a Key),
}

impl Source<'_> {
    pub(crate) fn key(&self) -> &Key {
        match self {
            Self::Local(_, key) | Self::Lake(_, key) => key,
        }
    }

    fn bytes(&self) -> Result<u64, Error> {
        match self {
            Self::Local(file, key) => Ok(file.metadata().map_err(Error::file("read", key))?.len()),
            Self::Lake(lake, key) => {
                let size = lake.size(key)?;
                size.ok_or_else(|| Error::object(key, "it is missing, though a commit names it"))
            }
        }
    }

    pub(crate) fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), Error> {
        match self {
            Self::Local(file, key) => {
                file.read_exact_at(into, offset).map_err(Error::file("read", key))
            }
            Self::Lake(lake, key) => Ok(lake.read_range(key, Purpose::Checkpoint, offset, into)?),
        }
    }
}

/// Length and header are decided by the record; anything else is damage.
pub(crate) fn check_header(source: &Source<'_>, record: &RankRecord) -> Result<(), Error> {
    let found = source.bytes()?;
    if found != record.file.bytes {
        let what = format!("it has {found} bytes, and its record says {}", record.file.bytes);
        return Err(Error::object(source.key(), what));
    }
    let expected = record.plan()?.header;
    let mut header = vec![0; expected.len()];
    source.read(0, &mut header)?;
    if header == expected {
        Ok(())
    } else {
        Err(Error::object(source.key(), "its header is not what its record says"))
    }
}

/// Checks a tensor's bytes against its record.
pub(crate) fn check_tensor(key: &Key, entry: &TensorEntry, found: Digest) -> Result<(), Error> {
    if found == entry.digest {
        Ok(())
    } else {
        Err(Error::object(key, format!("tensor `{}` does not have its digest", entry.name)))
    }
}

/// Neighbouring tensors, read as one.
struct Group {
    range: Range<u64>,
    /// Indices into the record's tensors, in the order of the file.
    tensors: Vec<usize>,
    bytes: Vec<u8>,
}

/// Cuts what is wanted of a file into groups of neighbours.
fn group(tensors: &[TensorEntry], part: Part) -> Vec<Group> {
    let mut order: Vec<_> = tensors.iter().enumerate().filter(|(_, one)| part.wants(one)).collect();
    order.sort_unstable_by_key(|(_, tensor)| (tensor.offset, tensor.bytes));
    let mut groups: Vec<Group> = Vec::new();
    for (index, tensor) in order {
        let end = tensor.offset + tensor.bytes;
        match groups.last_mut() {
            Some(group)
                if group.range.end == tensor.offset && end - group.range.start <= GROUP_BYTES =>
            {
                group.range.end = end;
                group.tensors.push(index);
            }
            _ => groups.push(Group {
                range: tensor.offset..end,
                tensors: vec![index],
                bytes: Vec::new(),
            }),
        }
    }
    groups
}

impl Group {
    fn read(&mut self, source: &Source<'_>, tensors: &[TensorEntry]) -> Result<(), Error> {
        let length = usize::try_from(self.range.end - self.range.start)
            .map_err(|_| Error::object(source.key(), "it does not fit into memory"))?;
        self.bytes = vec![0; length];
        let pieces = self.bytes.chunks_mut(GROUP_BYTES as usize);
        for (offset, piece) in (self.range.start..).step_by(GROUP_BYTES as usize).zip(pieces) {
            source.read(offset, piece)?;
        }
        self.tensors.iter().map(|&index| &tensors[index]).try_for_each(|tensor| {
            check_tensor(source.key(), tensor, Digest::of(&self.bytes[self.range_of(tensor)]))
        })
    }

    fn range_of(&self, tensor: &TensorEntry) -> Range<usize> {
        let start = (tensor.offset - self.range.start) as usize;
        start..start + tensor.bytes as usize
    }
}

fn add_rank(restored: &mut Restored, record: &RankRecord, groups: Vec<Group>) -> Result<(), Error> {
    for group in groups {
        let buffer = restored.buffers.len();
        for &index in &group.tensors {
            let entry = &record.tensors[index];
            let (dtype, shape) = (entry.dtype, entry.shape.clone());
            let held = Held { dtype, shape, buffer, range: group.range_of(entry) };
            if restored.tensors.insert(entry.name.clone(), held).is_some() {
                let what = format!("tensor `{}` was saved by two ranks", entry.name);
                let (run, step) = (record.run.clone(), record.step);
                return Err(Error::RanksDisagree { run, step, what });
            }
        }
        restored.buffers.push(group.bytes);
    }
    Ok(())
}
