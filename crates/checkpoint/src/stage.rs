//! Staging: the captured state becomes durable on this node.
//!
//! ```text
//! runs/<run>/checkpoints/<step>/<attempt>/rank-<r>.safetensors    the tensors
//! runs/<run>/checkpoints/<step>/<attempt>/rank-<r>.json           the rank record, staged last
//! ```
//!
//! The record is the seal: it names the digests of the file and says all that
//! draining and committing need, so any later process can finish the save. Tensor digests and
//! the file's are computed beside the writing, which mostly waits for the device.
//!
//! # After a crash
//! A tensor file without its record is an unsealed leftover. With it, nothing is lost any more.

use std::{
    io::Write,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use forebay_format::{
    record,
    v1::{
        checkpoint::{self, RankRecord, TensorEntry, TensorPart, step_prefix},
        dataset::ObjectEntry,
        tensors::TensorPlace,
    },
};
use forebay_runtime::crash_point;
use forebay_types::{Digest, DigestWriter, Key, Name, Nonce};

use crate::{
    Error,
    capture::{Captured, Timing},
    site::Site,
};

/// Written and digested at once, so that the second use finds the bytes in the processor's cache.
const PIECE_BYTES: usize = 1 << 20;

/// A save that is durable on this node.
#[derive(Clone, Debug)]
pub(crate) struct Sealed {
    pub record: RankRecord,
    /// The record as it is stored.
    pub body: Vec<u8>,
    /// The digest of the record's body.
    pub digest: Digest,
    pub timing: Timing,
}

/// The names of what one rank stages in one attempt.
pub(crate) struct StagedNames {
    pub file: Key,
    pub record: Key,
}

impl StagedNames {
    pub(crate) fn new(run: &Name, step: u64, attempt: Nonce, rank: u32) -> Self {
        let stem = format!("{}{attempt}/rank-{rank}", step_prefix(run, step));
        let name = |extension| {
            Key::new(format!("{stem}.{extension}")).expect("names and numbers make sound keys")
        };
        Self { file: name("safetensors"), record: name("json") }
    }

    pub(crate) fn of(record: &RankRecord) -> Self {
        Self::new(&record.run, record.step, record.attempt, record.rank)
    }
}

impl Sealed {
    pub(crate) fn names(&self) -> StagedNames {
        StagedNames::of(&self.record)
    }

    /// Where the record goes in the lake.
    pub(crate) fn record_key(&self) -> Key {
        let RankRecord { run, step, rank, .. } = &self.record;
        checkpoint::rank_key(run, *step, *rank, self.digest)
    }

    /// Where the tensors go in the lake.
    pub(crate) fn file_key(&self) -> Key {
        let RankRecord { run, step, rank, file, .. } = &self.record;
        checkpoint::tensors_key(run, *step, *rank, file.digest)
    }

    /// Lets the staged files go. The seal goes last: without it nobody would know the file.
    pub(crate) fn release(&self, site: &Site) -> Result<(), Error> {
        let names = self.names();
        site.local().release(&names.file)?;
        Ok(site.local().release(&names.record)?)
    }
}

/// Writes what was captured to the local tier, and seals it.
pub(crate) fn stage(site: &Site, captured: &Captured) -> Result<Sealed, Error> {
    let facts = &captured.facts;
    let names = StagedNames::new(&site.run, facts.step, facts.attempt, site.rank.rank());
    let outcome = write_file(site, captured, &names.file).and_then(|(file, digests)| {
        crash_point("checkpoint.unsealed");
        seal(site, captured, &names.record, file, &digests)
    });
    if outcome.is_err() {
        site.local().release(&names.file)?;
    }
    outcome
}

fn write_file(site: &Site, captured: &Captured, key: &Key) -> Result<(Digest, Vec<Digest>), Error> {
    let image = captured.arena.image();
    let writer = Mutex::new(Some(site.local().stage(key, image.len() as u64)?));
    let whole = Mutex::new(None);
    let tensors = TensorDigests::new(captured);
    // One thread writes; it helps with the tensors when it is done.
    site.runtime.workers("checkpoint-stage", site.threads(), |index| {
        if index == 0 {
            let writer = take(&writer).expect("only the first worker takes the writer");
            *lock(&whole) = Some(write_image(writer, image, key)?);
        }
        tensors.work();
        Ok::<_, Error>(())
    })?;
    let digest = take(&whole).expect("the first worker ended well");
    Ok((digest, tensors.finish()))
}

fn write_image(
    mut writer: forebay_local::StagedWriter,
    image: &[u8],
    key: &Key,
) -> Result<Digest, Error> {
    let mut digest = DigestWriter::new();
    let (first, second) = image.split_at(image.len() / 2);
    let mut write = |part: &[u8]| {
        part.chunks(PIECE_BYTES).try_for_each(|piece| {
            digest.update(piece);
            writer.write_all(piece)
        })
    };
    write(first).map_err(Error::file("stage", key))?;
    crash_point("checkpoint.stage");
    write(second).map_err(Error::file("stage", key))?;
    writer.finish()?;
    Ok(digest.finish())
}

/// The digests of all tensors, each computed by whichever thread is free.
struct TensorDigests<'a> {
    captured: &'a Captured,
    next: AtomicUsize,
    found: Mutex<Vec<Option<Digest>>>,
}

impl<'a> TensorDigests<'a> {
    fn new(captured: &'a Captured) -> Self {
        let found = Mutex::new(vec![None; captured.tensors.len()]);
        Self { captured, next: AtomicUsize::new(0), found }
    }

    fn work(&self) {
        loop {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            let Some((place, _)) = self.captured.tensors.get(index) else { return };
            let range = place.offset as usize..(place.offset + place.bytes) as usize;
            let digest = Digest::of(&self.captured.arena.image()[range]);
            lock(&self.found)[index] = Some(digest);
        }
    }

    fn finish(self) -> Vec<Digest> {
        let found = self.found.into_inner().unwrap_or_else(PoisonError::into_inner);
        found.into_iter().map(|digest| digest.expect("every tensor was taken")).collect()
    }
}

fn seal(
    site: &Site,
    captured: &Captured,
    name: &Key,
    file: Digest,
    digests: &[Digest],
) -> Result<Sealed, Error> {
    let record = rank_record(site, captured, file, digests);
    let (body, digest) = record::encode(&record)?;
    let mut writer = site.local().stage(name, body.len() as u64)?;
    writer.write_all(&body).map_err(Error::file("stage", name))?;
    writer.finish()?;
    crash_point("checkpoint.sealed");
    Ok(Sealed { record, body, digest, timing: captured.timing })
}

fn rank_record(site: &Site, captured: &Captured, file: Digest, digests: &[Digest]) -> RankRecord {
    let facts = &captured.facts;
    let entry =
        |((place, part), digest): (&(TensorPlace, Option<TensorPart>), &Digest)| TensorEntry {
            name: place.spec.name.clone(),
            dtype: place.spec.dtype,
            shape: place.spec.shape.clone(),
            offset: place.offset,
            bytes: place.bytes,
            digest: *digest,
            part: Option::clone(part),
        };
    RankRecord {
        run: site.run.clone(),
        step: facts.step,
        rank: site.rank.rank(),
        world_size: site.rank.world_size(),
        attempt: facts.attempt,
        position: facts.position,
        parent: facts.parent,
        dataset: facts.dataset.clone(),
        forked_from: facts.forked_from.clone(),
        captured_unix_ms: facts.captured_unix_ms,
        file: ObjectEntry { digest: file, bytes: captured.arena.image().len() as u64 },
        tensors: captured.tensors.iter().zip(digests).map(entry).collect(),
        metadata: facts.metadata.clone(),
    }
}

fn lock<T>(value: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

fn take<T>(value: &Mutex<Option<T>>) -> Option<T> {
    lock(value).take()
}
