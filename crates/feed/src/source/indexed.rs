//! A dataset that was indexed where it lies: the order's shards are runs of rows, and the index says
//! in which extents of which files they lie.
//!
//! An extent on the node is checked by CRC-32C of each block: the blocks its rows were found by when
//! it is opened, the others when a row that lies in them is first read.

use std::{
    borrow::Cow,
    io,
    ops::{Range, RangeInclusive},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use forebay_dialect::{Dialect, Form, Rows};
use forebay_format::v1::index::{BLOCK_BYTES, ExtentEntry, IndexManifest, IndexSplit};
use forebay_lake::{Lake, Purpose};
use forebay_local::CachedFile;
use forebay_runtime::Runtime;
use forebay_transfer::{
    Decoder, Error, Object, Stored,
    index::{Extents, Located},
};
use forebay_types::{Digest, SampleId, Schema};

use super::{Damage, Extent, Source};
use crate::{Place, course::Shape};

pub(crate) struct Indexed {
    extents: Extents,
    store: Option<Lake>,
    shared: Arc<Shared>,
}

/// What reading an extent needs to know of its dataset.
#[derive(Debug)]
struct Shared {
    dialect: Arc<dyn Dialect>,
    schema: Schema,
    context: String,
}

/// Decodes one extent.
#[derive(Debug)]
struct ExtentDecoder {
    shared: Arc<Shared>,
    form: Form,
    object: String,
}

/// An extent that can be read.
struct OpenExtent {
    entry: Arc<ExtentEntry>,
    content: CachedFile,
    rows: Box<dyn Rows>,
    verified: Box<[AtomicBool]>,
    /// How many of them are not.
    unverified: AtomicUsize,
}

impl Indexed {
    /// Opens the store that the files lie in, if that is another than the lake.
    pub(crate) fn new(
        lake: &Lake,
        runtime: &Runtime,
        manifest: &IndexManifest,
        split: &IndexSplit,
        dialect: Arc<dyn Dialect>,
    ) -> Result<Self, forebay_lake::Error> {
        let open = |url: &String| Lake::open_existing(url, runtime);
        let store = manifest.store.as_ref().map(open).transpose()?;
        let (schema, context) = (manifest.schema.clone(), manifest.context.clone());
        let shared = Arc::new(Shared { dialect, schema, context });
        Ok(Self { extents: Extents::new(lake, split), store, shared })
    }

    /// The extent that holds a row of the split, its first row and its number.
    pub(crate) fn located(&self, place: Place) -> Result<(Located, u32), Error> {
        let row = self.first_row(place.shard) + u64::from(place.row);
        let located = self.extents.extent_of(row)?;
        let within = (row - located.1) as u32;
        Ok((located, within))
    }

    fn first_row(&self, shard: u32) -> u64 {
        u64::from(shard) * u64::from(self.extents.split().rows_per_portion)
    }
}

impl Source for Indexed {
    fn schema(&self) -> &Schema {
        &self.shared.schema
    }

    fn shape(&self) -> Shape {
        let split = self.extents.split();
        Shape { rows: split.rows, rows_per_shard: split.rows_per_portion }
    }

    fn sample_bytes(&self) -> u64 {
        let split = self.extents.split();
        split.content_bytes.div_ceil(split.rows.max(1))
    }

    /// Rows of one shard lie in two extents of average length, or in one that is larger.
    fn bytes_in_use(&self, shards: u64) -> Result<u64, Error> {
        let split = self.extents.split();
        let average = split.content_bytes.div_ceil(split.extents.max(1));
        let bytes = shards.saturating_mul(2 * average).max(split.extent_bytes_max);
        Ok(bytes.min(split.content_bytes))
    }

    fn extent_of(&self, row: u64) -> Result<(u64, Range<u64>), Error> {
        let (entry, first, number) = self.extents.extent_of(row)?;
        Ok((number, first..first + u64::from(entry.rows)))
    }

    fn extents(&self, shard: u32) -> Result<Vec<u64>, Error> {
        let split = self.extents.split();
        let first = self.first_row(shard);
        let end = (first + u64::from(split.rows_per_portion)).min(split.rows);
        let located = self.extents.extents_of(first..end)?;
        Ok(located.into_iter().map(|(_, _, number)| number).collect())
    }

    fn object(&self, extent: u64) -> Result<Object, Error> {
        let (entry, _, _) = self.extents.get(extent)?;
        let decoder = (entry.form != Form::Plain).then(|| {
            let (form, object) = (entry.form.clone(), named(&entry));
            Arc::new(ExtentDecoder { shared: self.shared.clone(), form, object })
                as Arc<dyn Decoder>
        });
        let (offset, bytes) = (entry.offset, entry.stored_bytes);
        let stored = Stored { lake: self.store.clone(), offset, bytes, decoder };
        Ok(Object {
            key: entry.file.clone(),
            digest: entry.digest,
            bytes: entry.bytes,
            purpose: Purpose::Shard,
            stored: Some(stored),
        })
    }

    fn shards_of(&self, digest: Digest) -> Option<RangeInclusive<u32>> {
        self.extents.portions_of(digest)
    }

    fn open(
        &self,
        extent: u64,
        file: CachedFile,
    ) -> Result<Result<Box<dyn Extent>, Damage>, Error> {
        let (entry, _, _) = self.extents.get(extent)?;
        Ok(OpenExtent::open(&self.shared, entry, file)
            .map(|open| Box::new(open) as Box<dyn Extent>))
    }
}

/// An extent as errors name it.
fn named(entry: &ExtentEntry) -> String {
    format!("{} at {}", entry.file, entry.offset)
}

impl Decoder for ExtentDecoder {
    fn decode(&self, stored: &[u8], content: &mut dyn io::Write) -> io::Result<()> {
        let Shared { dialect, schema, .. } = &*self.shared;
        dialect
            .decode(stored, &self.form, schema, &self.object, content)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }
}

impl OpenExtent {
    fn open(shared: &Shared, entry: Arc<ExtentEntry>, file: CachedFile) -> Result<Self, Damage> {
        let Shared { dialect, schema, context } = shared;
        let rows = dialect.open(&file, schema, context, &named(&entry))?;
        if file.bytes() != entry.bytes || rows.rows() != entry.rows {
            return Err(format!(
                "it has {} bytes and {} rows, its index says {} and {}",
                file.bytes(),
                rows.rows(),
                entry.bytes,
                entry.rows
            )
            .into());
        }
        let verified: Box<[AtomicBool]> =
            entry.blocks_crc32c.iter().map(|_| AtomicBool::new(false)).collect();
        let unverified = AtomicUsize::new(verified.len());
        let open = Self { entry, content: file, rows, verified, unverified };
        open.rows.framing(&open.content).into_iter().try_for_each(|range| open.check(range))?;
        Ok(open)
    }

    /// Checks the blocks of the content that `range` lies in, each once.
    fn check(&self, range: Range<usize>) -> Result<(), Damage> {
        if range.is_empty() {
            return Ok(());
        }
        let block_bytes = BLOCK_BYTES as usize;
        for block in range.start / block_bytes..=(range.end - 1) / block_bytes {
            let verified = self.verified.get(block).ok_or("its rows lie beyond its end")?;
            if verified.load(Ordering::Acquire) {
                continue;
            }
            let start = block * block_bytes;
            let bytes = &self.content[start..self.content.len().min(start + block_bytes)];
            if crc32c::crc32c(bytes) != self.entry.blocks_crc32c[block] {
                return Err(
                    format!("block {block} does not have the checksum its index lists").into()
                );
            }
            if !verified.swap(true, Ordering::AcqRel) {
                self.unverified.fetch_sub(1, Ordering::AcqRel);
            }
        }
        Ok(())
    }
}

impl Extent for OpenExtent {
    fn verify(&self, row: u32) -> Result<(), Damage> {
        if self.unverified.load(Ordering::Acquire) == 0 {
            return Ok(());
        }
        self.check(self.rows.place(&self.content, row))
    }

    fn value(&self, row: u32, field: usize) -> Result<Cow<'_, [u8]>, forebay_dialect::Error> {
        self.rows.value(&self.content, row, field)
    }

    fn digest(&self) -> Digest {
        self.entry.digest
    }

    fn stored_id(&self, _row: u32) -> Option<SampleId> {
        None
    }

    fn label(&self, row: u32) -> Option<String> {
        self.rows.label(&self.content, row)
    }
}
