//! A committed checkpoint, opened: what it holds, and reading any part of it.
//!
//! The commit proves the rank records, a record proves its file's header and each stored tensor's
//! bytes. Whoever asks for a box of a tensor gets it from the stored parts that overlap it, however
//! many ranks wrote them: that is all there is to resharding. Neighbouring tensors are read
//! together, so that thousands of small ones cost a few requests; several threads read and verify.
//! Only files that hold something wanted are opened.
//!
//! What this node has is read first: the state as it still lies in memory, then the file that is staged;
//! tensor by tensor where something is damaged, and from the lake at last. What did not change since an
//! earlier checkpoint is read from memory, or from that one's file in the lake.
//!
//! # Bounds
//! Beside the memory it is asked to fill: [`GROUP_BYTES`] for each thread, or a stored part where
//! that is larger and not wanted as it is; and what the page cache holds of it, see [`crate::ahead`].

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Mutex,
};

use forebay_format::v1::{
    checkpoint::{self, CommitRecord, RankRecord, TensorEntry, TensorPart},
    tensors::{Dtype, TensorSpec},
};
use forebay_lake::Lake;
use forebay_local::LocalTier;
use forebay_runtime::Runtime;
use forebay_transfer::Transfer;
use forebay_types::{Digest, Key, Name};

use crate::{
    Error, Tier, Which,
    ahead::ReadAhead,
    boxes::{Place, copy_shared},
    image::Image,
    read,
    shared::{into_inner, lock, next},
    source::{GROUP_BYTES, Source, Stored, check_header, check_tensor, read_tensor},
    stage::StagedNames,
};

/// From a disk, a tensor of so many bytes is read by itself, straight to where it is wanted: reading it
/// with its neighbours would cost a copy, and saves a request that costs less.
const ALONE_BYTES_MIN: u64 = 256 << 10;
/// Requests in flight.
const THREADS: usize = 4;

/// Where to read from; without a near tier, also without threads.
#[derive(Clone, Copy)]
pub(crate) struct Tiers<'a> {
    pub lake: &'a Lake,
    pub near: Option<(&'a LocalTier, &'a Runtime)>,
}

impl<'a> Tiers<'a> {
    pub(crate) fn of(transfer: &'a Transfer) -> Self {
        Self { lake: transfer.lake(), near: Some((transfer.local(), transfer.runtime())) }
    }

    /// Gives every job to whichever thread is free.
    fn share<T: Send>(
        self,
        jobs: Vec<T>,
        work: impl Fn(T) -> Result<(), Error> + Sync,
    ) -> Result<(), Error> {
        let Some((_, runtime)) = self.near.filter(|_| jobs.len() > 1) else {
            return jobs.into_iter().try_for_each(work);
        };
        let threads = THREADS.min(jobs.len());
        let left = Mutex::new(jobs.into_iter());
        runtime.workers("checkpoint-restore", threads, |_| {
            while let Some(job) = next(&left) {
                work(job)?;
            }
            Ok::<_, Error>(())
        })
    }
}

/// One tensor of a checkpoint, however many ranks hold parts of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredTensor {
    /// The type of its elements.
    pub dtype: Dtype,
    /// Its dimensions, as a whole.
    pub shape: Vec<u64>,
    bytes: u64,
    /// The rank and the entry of each of its parts.
    parts: Vec<(u32, usize)>,
}

impl StoredTensor {
    /// The bytes of all its elements.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The parts it is stored in, over all ranks.
    #[must_use]
    pub fn parts(&self) -> usize {
        self.parts.len()
    }
}

/// A box of a tensor that is wanted, and the memory it is to fill: little-endian elements, the last
/// dimension fastest.
#[derive(Debug)]
pub struct Region<'a> {
    /// The tensor.
    pub name: &'a str,
    /// The box's first index in each dimension.
    pub start: Vec<u64>,
    /// How many indices it has in each.
    pub shape: Vec<u64>,
    /// What is filled.
    pub into: &'a mut [u8],
}

/// A committed checkpoint whose records were read and verified, and none of its tensors.
#[derive(Clone, Debug)]
pub struct CommittedCheckpoint {
    pub(crate) commit: CommitRecord,
    ranks: Vec<RankRecord>,
    tensors: BTreeMap<String, StoredTensor>,
}

impl CommittedCheckpoint {
    /// Opens a checkpoint of `run`; `None` when the newest is asked for and there is none.
    ///
    /// # Errors
    /// [`Error::NoStep`] for a step that is not committed. [`Error::Damaged`] names what is damaged
    /// and which older step is intact; no older step is ever taken silently.
    pub fn open(transfer: &Transfer, run: &Name, which: Which) -> Result<Option<Self>, Error> {
        Self::open_in(Tiers::of(transfer), run, which)
    }

    pub(crate) fn open_in(
        tiers: Tiers<'_>,
        run: &Name,
        which: Which,
    ) -> Result<Option<Self>, Error> {
        let step = match which {
            Which::Step(step) => step,
            Which::Newest => match read::steps(tiers.lake, run)?.pop() {
                Some(step) => step,
                None => return Ok(None),
            },
        };
        let opened =
            read::existing(tiers.lake, run, step).and_then(|commit| Self::of(tiers, commit));
        opened.map(Some).map_err(|error| read::explain(tiers.lake, run, step, error))
    }

    fn of(tiers: Tiers<'_>, commit: CommitRecord) -> Result<Self, Error> {
        let found: Vec<_> = (0..commit.world_size()).map(|_| Mutex::new(None)).collect();
        tiers.share((0..commit.world_size()).collect(), |rank| {
            *lock(&found[rank as usize]) = Some(read::rank_record(tiers.lake, &commit, rank)?);
            Ok(())
        })?;
        let ranks: Vec<RankRecord> = found
            .into_iter()
            .map(into_inner)
            .map(|record| record.expect("every rank's was read"))
            .collect();
        let tensors = join(&commit, &ranks)?;
        Ok(Self { commit, ranks, tensors })
    }

    /// The commit.
    #[must_use]
    pub const fn commit(&self) -> &CommitRecord {
        &self.commit
    }

    /// The record of each rank.
    #[must_use]
    pub fn ranks(&self) -> &[RankRecord] {
        &self.ranks
    }

    /// Every tensor by name, whoever holds it.
    #[must_use]
    pub const fn tensors(&self) -> &BTreeMap<String, StoredTensor> {
        &self.tensors
    }

    /// Where the parts of a tensor lie and the digest of each: equal ones hold equal values.
    pub(crate) fn digests(
        &self,
        name: &str,
    ) -> impl Iterator<Item = (&Option<TensorPart>, Digest)> {
        let parts = self.tensors.get(name).map_or(&[][..], |tensor| &tensor.parts);
        parts.iter().map(|&(rank, entry)| {
            let entry = &self.ranks[rank as usize].tensors[entry];
            (&entry.part, entry.digest)
        })
    }

    /// Fills every region, and says where from.
    ///
    /// # Errors
    /// [`Error::Region`] when a region is not there as it is asked for; nothing was written then.
    /// Otherwise as [`crate::restore`]; what was filled before an error is not to be used.
    pub fn read(&self, transfer: &Transfer, regions: Vec<Region<'_>>) -> Result<Tier, Error> {
        self.read_in(Tiers::of(transfer), regions)
    }

    pub(crate) fn read_in(
        &self,
        tiers: Tiers<'_>,
        regions: Vec<Region<'_>>,
    ) -> Result<Tier, Error> {
        let CommitRecord { run, step, .. } = &self.commit;
        let wanted = self.wanted(&regions)?;
        let regions: Vec<_> = regions.into_iter().map(Mutex::new).collect();
        let filled = self.fill(tiers, wanted, &regions);
        filled.map_err(|error| read::explain(tiers.lake, run, *step, error))
    }

    /// Which regions want something of which entry of which file.
    fn wanted(&self, regions: &[Region<'_>]) -> Result<Wanted, Error> {
        let mut wanted = Wanted::new();
        for (number, region) in regions.iter().enumerate() {
            for (rank, entry) in self.parts_of(region)? {
                let earlier = self.ranks[rank as usize].tensors[entry].earlier;
                let file = wanted.entry(FileOf { rank, earlier }).or_default();
                file.entry(entry).or_default().push(number);
            }
        }
        Ok(wanted)
    }

    /// The parts that overlap a region, which they must cover.
    fn parts_of(&self, region: &Region<'_>) -> Result<Vec<(u32, usize)>, Error> {
        let refuse = |what: String| Error::Region {
            run: self.commit.run.clone(),
            step: self.commit.step,
            tensor: region.name.to_owned(),
            what,
        };
        let stored = self.tensors.get(region.name);
        let stored = stored.ok_or_else(|| refuse("there is no tensor of this name".into()))?;
        let place = Place { start: &region.start, shape: &region.shape };
        let part = TensorPart { whole: stored.shape.clone(), start: region.start.clone() };
        if !part.holds(&region.shape) {
            let (start, shape, whole) = (&region.start, &region.shape, &stored.shape);
            return Err(refuse(format!(
                "its shape is {whole:?}; {shape:?} from {start:?} on is not in it"
            )));
        }
        let bytes = place.elements() * stored.dtype.bytes();
        if region.into.len() as u64 != bytes {
            let found = region.into.len();
            return Err(refuse(format!("{bytes} bytes are to be put into memory of {found}")));
        }
        let mut covered = 0;
        let mut parts = Vec::new();
        for &(rank, entry) in &stored.parts {
            let (start, shape) = placed(&self.ranks[rank as usize].tensors[entry]);
            let shared = place.shared_elements(Place { start: &start, shape });
            if shared > 0 {
                covered += shared;
                parts.push((rank, entry));
            }
        }
        if covered == place.elements() {
            Ok(parts)
        } else {
            let wanted = place.elements();
            Err(refuse(format!("{covered} of {wanted} elements were saved, over all ranks")))
        }
    }

    fn fill(
        &self,
        tiers: Tiers<'_>,
        wanted: Wanted,
        regions: &[Mutex<Region<'_>>],
    ) -> Result<Tier, Error> {
        let mut left = wanted;
        // Of nothing at all no more is read than the commit, which is the lake's.
        if let Some((local, _)) = tiers.near.filter(|_| !left.is_empty()) {
            left = self.fill_from_memory(tiers, local, left, regions)?;
            if left.is_empty() {
                return Ok(Tier::Memory);
            }
            left = self.fill_from_staging(tiers, local, left, regions)?;
            if left.is_empty() {
                return Ok(Tier::Local);
            }
        }
        self.fill_from_lake(tiers, &left, regions)?;
        Ok(Tier::Lake)
    }

    /// Fills what this node still has in memory; returns what is left.
    fn fill_from_memory(
        &self,
        tiers: Tiers<'_>,
        local: &LocalTier,
        wanted: Wanted,
        regions: &[Mutex<Region<'_>>],
    ) -> Result<Wanted, Error> {
        let ranks = wanted.keys().map(|file| file.rank).collect();
        let images = look(tiers, ranks, |rank| Image::find(local, &self.ranks[rank as usize]))?;
        self.fill_near(tiers, wanted, regions, |file, entry| {
            let image = images.get(&file.rank)?;
            Some((&image.source, image.place_of(entry)?))
        })
    }

    /// Fills what this node has staged; returns what is left.
    fn fill_from_staging(
        &self,
        tiers: Tiers<'_>,
        local: &LocalTier,
        wanted: Wanted,
        regions: &[Mutex<Region<'_>>],
    ) -> Result<Wanted, Error> {
        let own = wanted.keys().copied().filter(|file| file.earlier.is_none()).collect();
        let files = look(tiers, own, |file: FileOf| staged(local, self.record_of(file)))?;
        self.fill_near(tiers, wanted, regions, |file, entry| {
            Some((files.get(&file)?, Stored::of(entry)))
        })
    }

    /// Fills what has a place, and returns the rest: what has none, and what is damaged there.
    fn fill_near<'s>(
        &self,
        tiers: Tiers<'_>,
        wanted: Wanted,
        regions: &[Mutex<Region<'_>>],
        place: impl Fn(FileOf, &TensorEntry) -> Option<(&'s Source<'s>, Stored)>,
    ) -> Result<Wanted, Error> {
        let (jobs, left) = self.jobs(&wanted, ALONE_BYTES_MIN, place);
        let (left, ahead) = (Mutex::new(left), ahead_of(&jobs));
        tiers.share(jobs, |job| {
            if self.read_job(&job, &ahead, regions).is_err() {
                let left = &mut *lock(&left);
                let entries = left.entry(job.file).or_default();
                entries.extend(job.entries.iter().map(|&(entry, wanted)| (entry, wanted.to_vec())));
            }
            Ok(())
        })?;
        Ok(into_inner(left))
    }

    fn fill_from_lake(
        &self,
        tiers: Tiers<'_>,
        wanted: &Wanted,
        regions: &[Mutex<Region<'_>>],
    ) -> Result<(), Error> {
        let mut files: BTreeMap<FileOf, Source<'_>> = BTreeMap::new();
        for (&file, entries) in wanted {
            let (record, entry) = (self.record_of(file), entries.keys().next());
            let key = entry.map(|&entry| record.file_key(&record.tensors[entry]));
            files.extend(key.map(|key| (file, Source::Lake(tiers.lake, key))));
        }
        tiers.share(files.iter().collect(), |(&file, source)| {
            let record = self.record_of(file);
            match file.earlier {
                None => check_header(source, record),
                Some(earlier) => source.check_bytes(record.earlier[earlier as usize].bytes),
            }
        })?;
        let alone_bytes_min = if tiers.lake.is_remote() { u64::MAX } else { ALONE_BYTES_MIN };
        let (jobs, _) = self.jobs(wanted, alone_bytes_min, |file, entry| {
            Some((files.get(&file)?, Stored::of(entry)))
        });
        let ahead = ahead_of(&jobs);
        tiers.share(jobs, |job| self.read_job(&job, &ahead, regions))
    }

    fn record_of(&self, file: FileOf) -> &RankRecord {
        &self.ranks[file.rank as usize]
    }

    /// Cuts what is wanted into neighbours that are read as one; tensors of so many bytes have none. What
    /// has no place comes back beside that.
    fn jobs<'w, 's>(
        &self,
        wanted: &'w Wanted,
        alone_bytes_min: u64,
        place: impl Fn(FileOf, &TensorEntry) -> Option<(&'s Source<'s>, Stored)>,
    ) -> (Vec<Job<'w, 's>>, Wanted) {
        let (mut jobs, mut placeless): (Vec<Job<'w, 's>>, _) = (Vec::new(), Wanted::new());
        for (&file, entries) in wanted {
            let tensors = &self.record_of(file).tensors;
            for (&entry, regions) in entries {
                let tensor = &tensors[entry];
                let Some((source, stored)) = place(file, tensor) else {
                    placeless.entry(file).or_default().insert(entry, regions.clone());
                    continue;
                };
                let fits = |job: &Job<'_, '_>| {
                    job.file == file
                        && job.stored.offset + job.bytes == stored.offset
                        && job.stored.encoded.is_none()
                        && stored.encoded.is_none()
                        && job.bytes + tensor.bytes <= GROUP_BYTES
                        && tensor.bytes < alone_bytes_min
                        && tensors[job.entries[0].0].bytes < alone_bytes_min
                };
                match jobs.last_mut().filter(|job| fits(job)) {
                    Some(job) => {
                        job.entries.push((entry, regions));
                        job.bytes += tensor.bytes;
                    }
                    None => {
                        let (entries, bytes) = (vec![(entry, &**regions)], stored.bytes(tensor));
                        jobs.push(Job { file, source, stored, entries, bytes });
                    }
                }
            }
        }
        (jobs, placeless)
    }

    fn read_job(
        &self,
        job: &Job<'_, '_>,
        ahead: &ReadAhead<'_>,
        regions: &[Mutex<Region<'_>>],
    ) -> Result<(), Error> {
        let (tensors, source) = (&self.record_of(job.file).tensors, job.source);
        if let [(entry, &[region])] = job.entries[..] {
            let mut region = lock(&regions[region]);
            let (start, shape) = placed(&tensors[entry]);
            if (Place { start: &region.start, shape: &region.shape })
                .is(Place { start: &start, shape })
            {
                return read_tensor((source, ahead), job.stored, &tensors[entry], region.into);
            }
        }
        let bytes: u64 = job.entries.iter().map(|(entry, _)| tensors[*entry].bytes).sum();
        let length = usize::try_from(bytes)
            .map_err(|_| Error::object(source.key(), "it does not fit into memory"))?;
        let mut bytes = vec![0; length];
        let mut rest = &mut bytes[..];
        if let [(entry, _)] = job.entries[..] {
            read_tensor((source, ahead), job.stored, &tensors[entry], rest)?;
        } else {
            ahead.advance(job.bytes);
            source.read(job.stored.offset, rest)?;
            for (entry, _) in &job.entries {
                let (tensor, behind) = rest.split_at_mut(tensors[*entry].bytes as usize);
                check_tensor(source, &tensors[*entry], tensor)?;
                rest = behind;
            }
        }
        let mut rest = &bytes[..];
        for (entry, wanted) in &job.entries {
            let tensor = &tensors[*entry];
            let (bytes, behind) = rest.split_at(tensor.bytes as usize);
            rest = behind;
            let (start, shape) = placed(tensor);
            let from = Place { start: &start, shape };
            for &region in *wanted {
                let region = &mut *lock(&regions[region]);
                let into = Place { start: &region.start, shape: &region.shape };
                let width = tensor.dtype.bytes() as usize;
                copy_shared((from, bytes), (into, &mut *region.into), width);
            }
        }
        Ok(())
    }
}

/// The regions that want something of each entry of each file, in the order of the record.
type Wanted = BTreeMap<FileOf, BTreeMap<usize, Vec<usize>>>;

/// One of the files that a rank's record names: its own, or an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct FileOf {
    rank: u32,
    earlier: Option<u32>,
}

/// Neighbours of one file, with the regions that want something of each, and where they are read from.
struct Job<'a, 's> {
    file: FileOf,
    source: &'s Source<'s>,
    /// Where the first lies; what is stored encoded has no neighbours.
    stored: Stored,
    entries: Vec<(usize, &'a [usize])>,
    /// How long they lie there.
    bytes: u64,
}

fn ahead_of<'s>(jobs: &[Job<'_, 's>]) -> ReadAhead<'s> {
    ReadAhead::new(jobs.iter().map(|job| (job.source, job.stored.offset, job.bytes)))
}

/// Where an entry lies in its tensor.
fn placed(entry: &TensorEntry) -> (Vec<u64>, &[u64]) {
    let start = entry.part.as_ref().map(|part| part.start.clone());
    (start.unwrap_or_else(|| vec![0; entry.shape.len()]), &entry.shape)
}

/// Puts the parts of each tensor side by side.
fn join(
    commit: &CommitRecord,
    ranks: &[RankRecord],
) -> Result<BTreeMap<String, StoredTensor>, Error> {
    let mut tensors: BTreeMap<String, StoredTensor> = BTreeMap::new();
    for (rank, record) in (0..).zip(ranks) {
        for (number, entry) in record.tensors.iter().enumerate() {
            let shape = entry.part.as_ref().map_or(&entry.shape, |part| &part.whole);
            let disagree = |what: String| Error::RanksDisagree {
                run: commit.run.clone(),
                step: commit.step,
                what: format!("tensor `{}` {what}", entry.name),
            };
            match tensors.get_mut(&entry.name) {
                None => {
                    let (name, dtype, shape) = (entry.name.clone(), entry.dtype, shape.clone());
                    let spec = TensorSpec { name, dtype, shape };
                    let bytes = spec.bytes().ok_or_else(|| disagree("is too large".into()))?;
                    let TensorSpec { name, dtype, shape } = spec;
                    let parts = vec![(rank, number)];
                    tensors.insert(name, StoredTensor { dtype, shape, bytes, parts });
                }
                Some(stored) if entry.part.is_none() => {
                    let first = stored.parts[0].0;
                    return Err(disagree(format!("was saved by ranks {first} and {rank}")));
                }
                Some(stored) if stored.dtype == entry.dtype && stored.shape == *shape => {
                    stored.parts.push((rank, number));
                }
                Some(stored) => {
                    let (dtype, whole) = (entry.dtype, &stored.shape);
                    return Err(disagree(format!(
                        "is {dtype:?} of {shape:?} on rank {rank}, and {:?} of {whole:?} on others",
                        stored.dtype
                    )));
                }
            }
        }
    }
    Ok(tensors)
}

/// Where the tensors of a rank lie in the lake.
pub(crate) fn file_key(record: &RankRecord) -> Key {
    checkpoint::tensors_key(&record.run, record.step, record.rank, record.file.digest)
}

/// What `find` finds for each.
fn look<K: Copy + Ord + Send, T: Send>(
    tiers: Tiers<'_>,
    wanted: BTreeSet<K>,
    find: impl Fn(K) -> Option<T> + Sync,
) -> Result<BTreeMap<K, T>, Error> {
    let found = Mutex::new(BTreeMap::new());
    tiers.share(wanted.into_iter().collect(), |one| {
        if let Some(value) = find(one) {
            lock(&found).insert(one, value);
        }
        Ok(())
    })?;
    Ok(into_inner(found))
}

/// A rank's file as this node has it staged, if it has and it looks sound.
fn staged<'a>(local: &LocalTier, record: &RankRecord) -> Option<Source<'a>> {
    let name = StagedNames::of(record).file;
    let source = Source::Local(local.staged_file(&name).ok()?, name);
    check_header(&source, record).is_ok().then_some(source)
}
