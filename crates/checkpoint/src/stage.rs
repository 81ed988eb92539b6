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
//! written at all. Where there are none, a state is written while it is copied, see [`crate::overlap`].
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
    fs::File,
    io::{self, Write},
    sync::{
        Mutex,
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
use forebay_types::{ByteRanges, Checksum, Digest, Key, Name, Nonce};

use crate::{
    Error,
    base::{Base, Reference},
    capture::{Captured, Timing, name},
    committed::file_key,
    digests::{SharedDigest, TensorDigests},
    encode::{choose, write_encoded},
    layout::Layout,
    shared::{into_inner, lock, take},
    site::Site,
};

/// Written to the page cache at once; so often whoever sends the file on is told.
const PIECE_BYTES: u64 = 1 << 20;

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

/// A save that is durable on this node, and its file on its way to the lake, if it is.
pub(crate) type Staged = (Sealed, Option<Follow>);

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
) -> Result<Staged, Error> {
    let names = StagedNames::of_capture(&captured.facts);
    let digests = TensorDigests::new(captured);
    let unchanged = find_unchanged(site, captured, base, &digests)?;
    let mut layout = Layout::new(&captured.tensors, unchanged)?;
    if site.settings.compress {
        layout.encode(captured, &choose(site, captured, &layout)?)?;
    }
    let written = if layout.has_encoded() {
        write_encoded(site, captured, &mut layout, &digests, &names.file).map(|file| (file, None))
    } else {
        let file = layout.file(captured);
        let writing = Writing::new(site, &captured.facts, &file, &names.file, follows);
        write_file(site, writing, &layout, &digests)
    };
    let outcome = written.and_then(|(file, follow)| {
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
    let mut looked_at = base.candidates(&captured.tensors, captured.facts.step);
    looked_at.retain(may_hold);
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

/// Writes the file, and has its digest.
fn write_file(
    site: &Site,
    writing: Writing<'_>,
    layout: &Layout,
    digests: &TensorDigests<'_>,
) -> Result<(ObjectEntry, Option<Follow>), Error> {
    writing.reserve()?;
    // One thread writes, and mostly waits.
    site.runtime.workers("checkpoint-stage", 1 + site.threads(), |index| {
        if index == 0 {
            return writing.write();
        }
        writing.digest();
        digests.work(layout.written());
        Ok(())
    })?;
    Ok(writing.finish())
}

/// A file on its way to the local tier: one thread writes it, any number of others digest it. Dropped
/// before it is written, it leaves nothing.
pub(crate) struct Writing<'a> {
    site: &'a Site,
    facts: &'a CaptureFacts,
    file: &'a dyn ByteRanges,
    key: &'a Key,
    /// Whether it is on its way to the lake meanwhile.
    follows: bool,
    /// There between its reservation and the writing.
    writer: Mutex<Option<StagedWriter>>,
    whole: SharedDigest<'a>,
    written: Written,
    upload: Mutex<Upload>,
}

/// What it takes to send a file on while it is written.
#[derive(Default)]
struct Upload {
    reader: Option<File>,
    /// It names the object, so it is needed before the first byte is sent.
    digest: Option<Digest>,
    follow: Option<Follow>,
}

impl<'a> Writing<'a> {
    pub(crate) fn new(
        site: &'a Site,
        facts: &'a CaptureFacts,
        file: &'a dyn ByteRanges,
        key: &'a Key,
        follows: bool,
    ) -> Self {
        let (writer, whole) = (Mutex::new(None), SharedDigest::new(file));
        let (written, upload) = (Written::default(), Mutex::default());
        Self { site, facts, file, key, follows, writer, whole, written, upload }
    }

    /// Whether it is written past the page cache. Whoever sends it on reads it behind the writer, or soon
    /// after.
    pub(crate) fn is_direct(&self) -> bool {
        !self.follows && self.site.transfer.adopts_staged()
    }

    /// Has room for it.
    pub(crate) fn reserve(&self) -> Result<(), Error> {
        let writer = self.site.transfer.stage(self.key, self.file.len_bytes())?;
        if self.follows {
            let reader = writer.reader()?;
            self.send_on(|upload| upload.reader = Some(reader));
        }
        *lock(&self.writer) = Some(writer);
        Ok(())
    }

    /// Writes it, once it has room, and names it.
    pub(crate) fn write(&self) -> Result<(), Error> {
        let writer = take(&self.writer).expect("one thread writes, and has reserved the room");
        write(writer, self.file, self.is_direct(), self.key, &self.written)
    }

    /// Computes its digest, but for what others do of it.
    pub(crate) fn digest(&self) {
        if let Some(digest) = self.whole.work() {
            self.send_on(|upload| upload.digest = Some(digest));
        }
    }

    /// Notes what is known, and begins to send the file on when that is enough.
    fn send_on(&self, note: impl FnOnce(&mut Upload)) {
        let mut upload = lock(&self.upload);
        note(&mut upload);
        if let Some(digest) = upload.digest
            && let Some(reader) = upload.reader.take()
        {
            let CaptureFacts { run, step, rank, .. } = self.facts;
            let object = checkpoint::tensors_key(run, *step, *rank, digest);
            upload.follow = Some(self.site.transfer.follow(reader, &self.written, &object));
        }
    }

    /// What the file is, when all of it was written and digested.
    pub(crate) fn finish(self) -> (ObjectEntry, Option<Follow>) {
        self.written.end();
        let digest = self.whole.get().expect("the workers ended well");
        let upload = into_inner(self.upload);
        (ObjectEntry { digest, bytes: self.file.len_bytes() }, upload.follow)
    }
}

/// Writes the file, past the page cache or into it, and names it; `written` is told how much is.
fn write(
    mut writer: StagedWriter,
    file: &dyn ByteRanges,
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
    file: &dyn ByteRanges,
    wrote: impl Fn(u64),
) -> io::Result<()> {
    let mut start = 0;
    while start < file.len_bytes() {
        let piece = file.get(start..start + PIECE_BYTES).ok_or(io::ErrorKind::UnexpectedEof)?;
        for slice in piece.slices() {
            writer.write_all(slice)?;
        }
        wrote(piece.len_bytes());
        start += piece.len_bytes();
    }
    Ok(())
}

/// Writes the record, after which the save is durable on this node.
pub(crate) fn seal(
    site: &Site,
    captured: &Captured<'_>,
    layout: &Layout,
    name: &Key,
    file: ObjectEntry,
    sums: &[(Digest, Checksum)],
) -> Result<Sealed, Error> {
    crash_point("checkpoint.unsealed");
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
        tensors: layout.entries(&captured.tensors, sums),
        metadata: facts.metadata.clone(),
    }
}
