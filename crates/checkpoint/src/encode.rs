//! Writing a save in less room: tensors are encoded block by block while the file is written.
//!
//! Several threads encode, one writes in order. How long a tensor becomes is known when it is written,
//! and the file's header, which says where each lies, when all are: it has its room at the start of the
//! file and is written last. So a file that is cut short begins with zeros, which no header does.
//!
//! # Bounds
//! [`AHEAD_MAX`] blocks for each thread that encodes, a part of 4 MiB, and as many of those as the header
//! reaches into.
//!
//! # After a crash
//! As [`crate::stage`]: without its seal the file is a leftover.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    sync::Mutex,
};

use forebay_format::v1::{
    dataset::ObjectEntry,
    encoding::{BLOCK_BYTES, Encoder},
};
use forebay_local::StagedWriter;
use forebay_runtime::crash_point;
use forebay_types::{Digest, Key, PartDigest};

use crate::{
    Error,
    capture::Captured,
    digests::TensorDigests,
    in_order::InOrder,
    layout::Layout,
    shared::{into_inner, lock, next, take},
    site::Site,
};

/// Blocks that are encoded and not written, for each thread that encodes.
const AHEAD_MAX: usize = 4;
/// A smaller tensor is stored as it is.
const TENSOR_BYTES_MIN: u64 = 64 << 10;

/// Which of the tensors that are written are worth to be encoded: a few values of each say it.
pub(crate) fn choose(
    site: &Site,
    captured: &Captured<'_>,
    layout: &Layout,
) -> Result<BTreeSet<usize>, Error> {
    let large = |tensor: &&usize| captured.tensors[**tensor].0.bytes >= TENSOR_BYTES_MIN;
    let asked: Vec<usize> = layout.written().iter().filter(large).copied().collect();
    let (left, chosen) = (Mutex::new(asked.iter()), Mutex::new(BTreeSet::new()));
    site.runtime.workers("checkpoint-encode", site.threads(), |_| {
        let mut encoder = encoder(site, captured)?;
        while let Some(&tensor) = next(&left) {
            if encoder.is_worth_it(captured.values(tensor), width(captured, tensor)) {
                lock(&chosen).insert(tensor);
            }
        }
        Ok::<_, Error>(())
    })?;
    Ok(into_inner(chosen))
}

/// Writes the file, of which `layout` says when it returns where each tensor lies.
pub(crate) fn write_encoded(
    site: &Site,
    captured: &Captured<'_>,
    layout: &mut Layout,
    digests: &TensorDigests<'_>,
    key: &Key,
) -> Result<ObjectEntry, Error> {
    let writer = site.transfer.stage(key, layout.file_bytes())?;
    let blocks = blocks(captured, layout);
    let queue = InOrder::new(blocks.len(), AHEAD_MAX * site.threads());
    let (writer, written) = (Mutex::new(Some(writer)), Mutex::new(None));
    site.runtime.workers("checkpoint-stage", 1 + site.threads(), |index| {
        if index > 0 {
            encode_all(site, captured, &blocks, &queue)?;
            digests.work(layout.written());
            return Ok(());
        }
        let _ends = queue.end_on_drop();
        let file =
            HeadLast::new(take(&writer).expect("only the first worker takes it"), key, layout);
        let outcome = write_all(captured, layout, &queue, file)?;
        *lock(&written) = outcome;
        Ok::<_, Error>(())
    })?;
    let (file, lengths) = into_inner(written).ok_or(Error::Stopped)?;
    layout.settle(captured, &lengths)?;
    file.finish(layout)
}

/// The blocks of all tensors that are encoded, in the order of the file: tensor, and where it begins.
fn blocks(captured: &Captured<'_>, layout: &Layout) -> Vec<(usize, usize)> {
    let encoded = layout.written().iter().filter(|&&tensor| layout.encoded(tensor).is_some());
    encoded
        .flat_map(|&tensor| {
            let bytes = captured.values(tensor).len();
            (0..bytes).step_by(BLOCK_BYTES).map(move |start| (tensor, start))
        })
        .collect()
}

fn encode_all(
    site: &Site,
    captured: &Captured<'_>,
    blocks: &[(usize, usize)],
    queue: &InOrder<Vec<u8>>,
) -> Result<(), Error> {
    let _ends = queue.end_on_panic();
    // Whoever writes would wait for blocks that nobody encodes.
    let mut encoder = encoder(site, captured).inspect_err(|_| queue.end())?;
    while let Some(number) = queue.claim() {
        let (tensor, start) = blocks[number];
        let values = &captured.values(tensor)[start..];
        let mut stored = Vec::new();
        let block = &values[..values.len().min(BLOCK_BYTES)];
        encoder.encode(block, width(captured, tensor), &mut stored);
        queue.put(number, stored);
    }
    Ok(())
}

fn encoder(site: &Site, captured: &Captured<'_>) -> Result<Encoder, Error> {
    let step = captured.facts.step;
    Encoder::new().map_err(Error::file("encode", format!("step {step} of run {}", site.run)))
}

/// The bytes of an element.
fn width(captured: &Captured<'_>, tensor: usize) -> usize {
    captured.tensors[tensor].0.spec.dtype.bytes() as usize
}

/// A file that is whole but for its head, and how long each tensor became that was encoded.
type Written<'a> = (HeadLast<'a>, BTreeMap<usize, u64>);

/// Writes all tensors; nothing when those who encode are gone.
fn write_all<'a>(
    captured: &Captured<'_>,
    layout: &Layout,
    queue: &InOrder<Vec<u8>>,
    mut file: HeadLast<'a>,
) -> Result<Option<Written<'a>>, Error> {
    let mut lengths = BTreeMap::new();
    for (number, &tensor) in layout.written().iter().enumerate() {
        let values = captured.values(tensor);
        if layout.encoded(tensor).is_none() {
            file.push(values)?;
        } else {
            let mut bytes = 0;
            for _ in 0..values.len().div_ceil(BLOCK_BYTES) {
                let Some(block) = queue.take() else { return Ok(None) };
                file.push(&block)?;
                bytes += block.len() as u64;
            }
            lengths.insert(tensor, bytes);
        }
        if number == layout.written().len() / 2 {
            crash_point("checkpoint.stage");
        }
    }
    Ok(Some((file, lengths)))
}

/// A file whose head is known last, and what it digests to.
struct HeadLast<'a> {
    writer: StagedWriter,
    key: &'a Key,
    /// The first parts, of which the header is a part of.
    head: Vec<u8>,
    head_bytes: usize,
    /// The part behind what was digested.
    part: Vec<u8>,
    /// Those of the parts behind the head.
    parts: Vec<PartDigest>,
}

impl<'a> HeadLast<'a> {
    fn new(writer: StagedWriter, key: &'a Key, layout: &Layout) -> Self {
        let part_bytes = PartDigest::BYTES as usize;
        let head_bytes = (layout.header().len() + 1).next_multiple_of(part_bytes);
        let mut head = Vec::with_capacity(head_bytes);
        head.resize(layout.header().len(), 0);
        let (part, parts) = (Vec::with_capacity(part_bytes), Vec::new());
        Self { writer, key, head, head_bytes, part, parts }
    }

    fn push(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let (to_head, mut rest) =
            bytes.split_at(bytes.len().min(self.head_bytes - self.head.len()));
        if !to_head.is_empty() {
            self.head.extend_from_slice(to_head);
            if self.head.len() == self.head_bytes {
                self.writer.write_all(&self.head).map_err(Error::file("stage", self.key))?;
            }
        }
        while !rest.is_empty() {
            let room = PartDigest::BYTES as usize - self.part.len();
            let (now, behind) = rest.split_at(rest.len().min(room));
            self.part.extend_from_slice(now);
            rest = behind;
            if self.part.len() as u64 == PartDigest::BYTES {
                self.end_part()?;
            }
        }
        Ok(())
    }

    fn end_part(&mut self) -> Result<(), Error> {
        let number = self.head_bytes as u64 / PartDigest::BYTES + self.parts.len() as u64;
        self.parts.push(PartDigest::of(number, std::iter::once(&self.part[..])));
        self.writer.write_all(&self.part).map_err(Error::file("stage", self.key))?;
        self.part.clear();
        Ok(())
    }

    /// Writes the head, and has the file durable under its name.
    fn finish(mut self, layout: &Layout) -> Result<ObjectEntry, Error> {
        let failed = || Error::file("stage", self.key);
        let header = layout.header();
        self.head[..header.len()].copy_from_slice(header);
        if self.head.len() < self.head_bytes {
            self.writer.write_all(&self.head).map_err(failed())?;
        } else {
            self.writer.overwrite(0, header).map_err(failed())?;
        }
        if !self.part.is_empty() {
            self.end_part()?;
        }
        let bytes = layout.file_bytes();
        let digest = if PartDigest::count(bytes) == 1 {
            Digest::of(&self.head)
        } else {
            let head = (0..).zip(self.head.chunks(PartDigest::BYTES as usize));
            let head = head.map(|(number, part)| PartDigest::of(number, std::iter::once(part)));
            let parts: Vec<PartDigest> = head.chain(self.parts).collect();
            PartDigest::join(bytes, &parts)
        };
        self.writer.finish()?;
        Ok(ObjectEntry { digest, bytes })
    }
}
