//! Staging: the captured state becomes durable on this node.
//!
//! ```text
//! runs/<run>/checkpoints/<step>/<attempt>/rank-<r>.safetensors    the tensors
//! runs/<run>/checkpoints/<step>/<attempt>/rank-<r>.json           the rank record, staged last
//! ```
//!
//! The record is the seal: it names the digests of the file and says all that
//! draining and committing need, so any later process can finish the save. Tensor digests and
//! the file's are computed beside the writing, which mostly waits for the device; but for tensors
//! that may be what they were in the save before, which are digested first and then perhaps not
//! written at all.
//!
//! The file goes to the disk past the page cache, whose copying and writing back would take the
//! processor's time from the digests and from training; unless the lake does not take it as it is: then
//! it is read from the page cache on its way there. A save that is to take less room is written by
//! [`crate::encode`], and sent when it is whole.
//!
//! # After a crash
//! A tensor file without its record is an unsealed leftover. With it, nothing is lost any more.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use forebay_format::{
    record,
    v1::{
        capture::CaptureFacts,
        checkpoint::{self, RankRecord},
        dataset::ObjectEntry,
    },
};
use forebay_local::StagedWriter;
use forebay_runtime::crash_point;
use forebay_transfer::{Follow, StagedBytes, Written};
use forebay_types::{Checksum, Digest, Key, Name, Nonce, Scattered};

use crate::{
    Error,
    base::{Base, Reference},
    capture::{Captured, Timing, name},
    committed::file_key,
    digests::{SharedDigest, TensorDigests},
    encode::{choose, write_encoded},
    layout::Layout,
    site::Site,
};

/// Written to the page cache at once; so often whoever sends the file on is told.
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
    /// What is known of the file's bytes.
    pub bytes: StagedBytes,
}

/// The names of what one rank stages in one attempt.
pub(crate) struct StagedNames {
    pub file: Key,
    pub record: Key,
}

impl StagedNames {
    pub(crate) fn new(run: &Name, step: u64, attempt: Nonce, rank: u32) -> Self {
        let name = |extension| name(run, step, attempt, rank, extension);
        Self { file: name("safetensors"), record: name("json") }
    }

    pub(crate) fn of(record: &RankRecord) -> Self {
        Self::new(&record.run, record.step, record.attempt, record.rank)
    }

    pub(crate) fn of_capture(facts: &CaptureFacts) -> Self {
        Self::new(&facts.run, facts.step, facts.attempt, facts.rank)
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
        file_key(&self.record)
    }

    /// Lets the staged files go. The seal goes last: without it nobody would know the file.
    pub(crate) fn release(&self, site: &Site) -> Result<(), Error> {
        let names = self.names();
        site.local().release(&names.file)?;
        Ok(site.local().release(&names.record)?)
    }
}

/// Writes what was captured to the local tier, but for what `base` holds, and seals it. With `follows`
/// its file is on its way to the lake meanwhile.
pub(crate) fn stage(
    site: &Site,
    captured: &Captured<'_>,
    base: &Base,
    follows: bool,
) -> Result<(Sealed, Option<Follow>), Error> {
    let names = StagedNames::of_capture(&captured.facts);
    let digests = TensorDigests::new(captured);
    let mut layout = Layout::new(captured, find_unchanged(site, captured, base, &digests)?)?;
    if site.settings.compress {
        layout.encode(captured, &choose(site, captured, &layout)?)?;
    }
    let written = if layout.has_encoded() {
        write_encoded(site, captured, &mut layout, &digests, &names.file).map(|file| (file, None))
    } else {
        write_file(site, captured, &layout, &digests, &names.file, follows)
    };
    let outcome = written.and_then(|(file, follow)| {
        crash_point("checkpoint.unsealed");
        let sealed = seal(site, captured, &layout, &names.record, file, &digests.all())?;
        Ok((sealed, follow))
    });
    if outcome.is_err() {
        site.local().release(&names.file)?;
    }
    outcome
}

/// Which tensors are what they were in the save before, and where they lie.
fn find_unchanged(
    site: &Site,
    captured: &Captured<'_>,
    base: &Base,
    digests: &TensorDigests<'_>,
) -> Result<BTreeMap<usize, Reference>, Error> {
    let may_hold = |&tensor: &usize| {
        let (place, part) = &captured.tensors[tensor];
        base.may_hold(&place.spec.name, part.as_ref(), captured.values(tensor))
    };
    let looked_at: Vec<usize> = (0..captured.tensors.len()).filter(may_hold).collect();
    if looked_at.is_empty() {
        return Ok(BTreeMap::new());
    }
    site.runtime.workers("checkpoint-compare", site.threads(), |_| {
        digests.work(&looked_at);
        Ok::<_, Error>(())
    })?;
    let reference = |tensor: usize| {
        let (place, part) = &captured.tensors[tensor];
        let digest = digests.of(tensor)?;
        Some((tensor, base.holds(&place.spec.name, part.as_ref(), digest)?))
    };
    Ok(looked_at.iter().filter_map(|&tensor| reference(tensor)).collect())
}

/// Writes the file, and has its digest. With `follows` it is on its way to the lake meanwhile.
fn write_file(
    site: &Site,
    captured: &Captured<'_>,
    layout: &Layout,
    digests: &TensorDigests<'_>,
    key: &Key,
    follows: bool,
) -> Result<(ObjectEntry, Option<Follow>), Error> {
    let writer = site.transfer.stage(key, layout.file_bytes())?;
    let reader = Mutex::new(follows.then(|| writer.reader()).transpose()?);
    let (writer, follow, written) =
        (Mutex::new(Some(writer)), Mutex::new(None), Written::default());
    // Whoever sends it on reads it behind the writer, or soon after.
    let is_direct = !follows && site.transfer.adopts_staged();
    let file = layout.file(captured);
    let whole = SharedDigest::new(file.clone());
    // One thread writes, and mostly waits.
    let outcome = site.runtime.workers("checkpoint-stage", 1 + site.threads(), |index| {
        if index == 0 {
            let writer = take(&writer).expect("only the first worker takes the writer");
            return write(writer, &file, is_direct, key, &written);
        }
        // The digest names the object, so it is needed before the first byte is sent.
        if let Some(digest) = whole.work()
            && let Some(reader) = take(&reader)
        {
            let CaptureFacts { run, step, rank, .. } = &captured.facts;
            let object = checkpoint::tensors_key(run, *step, *rank, digest);
            *lock(&follow) = Some(site.transfer.follow(reader, &written, &object));
        }
        digests.work(layout.written());
        Ok(())
    });
    written.end();
    outcome?;
    let digest = whole.get().expect("the workers ended well");
    Ok((ObjectEntry { digest, bytes: layout.file_bytes() }, take(&follow)))
}

/// Writes the file, past the page cache or into it, and names it; `written` is told how much is.
fn write(
    mut writer: StagedWriter,
    file: &Scattered<'_>,
    is_direct: bool,
    key: &Key,
    written: &Written,
) -> Result<(), Error> {
    let (half, bytes) = (file.len_bytes() / 2, AtomicU64::new(0));
    let wrote = |count: u64| {
        let before = bytes.fetch_add(count, Ordering::Relaxed);
        written.advance(before + count);
        if (before..before + count).contains(&half) {
            crash_point("checkpoint.stage");
        }
    };
    let outcome = match is_direct {
        true => writer.write_direct(file, &wrote),
        false => write_cached(&mut writer, file, wrote),
    };
    outcome.map_err(Error::file("stage", key))?;
    Ok(writer.finish()?)
}

/// Writes from the first byte to the last.
fn write_cached(
    writer: &mut StagedWriter,
    file: &Scattered<'_>,
    wrote: impl Fn(u64),
) -> io::Result<()> {
    let all = file.range(0..file.len_bytes());
    for piece in all.flat_map(|slice| slice.chunks(PIECE_BYTES)) {
        writer.write_all(piece)?;
        wrote(piece.len() as u64);
    }
    Ok(())
}

fn seal(
    site: &Site,
    captured: &Captured<'_>,
    layout: &Layout,
    name: &Key,
    file: ObjectEntry,
    sums: &[(Digest, Checksum)],
) -> Result<Sealed, Error> {
    let record = rank_record(captured, layout, file, sums);
    let (body, digest) = record::encode(&record)?;
    let mut writer = site.transfer.stage(name, body.len() as u64)?;
    writer.write_all(&body).map_err(Error::file("stage", name))?;
    writer.finish()?;
    crash_point("checkpoint.sealed");
    let bytes = StagedBytes::JustWritten;
    Ok(Sealed { record, body, digest, timing: captured.timing, bytes })
}

fn rank_record(
    captured: &Captured<'_>,
    layout: &Layout,
    file: ObjectEntry,
    sums: &[(Digest, Checksum)],
) -> RankRecord {
    let facts = &captured.facts;
    RankRecord {
        run: facts.run.clone(),
        step: facts.step,
        rank: facts.rank,
        world_size: facts.world_size,
        attempt: facts.attempt,
        launch: Some(facts.launch),
        position: facts.position,
        parent: facts.parent,
        dataset: facts.dataset.clone(),
        forked_from: facts.forked_from.clone(),
        captured_unix_ms: facts.captured_unix_ms,
        file,
        earlier: layout.earlier.clone(),
        tensors: layout.entries(captured, sums),
        metadata: facts.metadata.clone(),
    }
}

fn lock<T>(value: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

fn take<T>(value: &Mutex<Option<T>>) -> Option<T> {
    lock(value).take()
}
