//! A prepared dataset: the order's shards are objects, and rows are found by arithmetic.

use std::{
    borrow::Cow,
    ops::{Range, RangeInclusive},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use forebay_format::v1::{
    dataset::{DatasetManifest, ShardEntry, SplitEntry, TokenSchema},
    shard::ShardReader,
};
use forebay_lake::Lake;
use forebay_local::CachedFile;
use forebay_transfer::{
    Error, Object,
    dataset::{Shards, shard_object},
};
use forebay_types::{Digest, Dtype, Field, FieldKind, SampleId, Schema};

use super::{Damage, Extent, Source};
use crate::course::Shape;

/// The name of the one field of prepared rows.
pub(crate) const TOKENS: &str = "tokens";

pub(crate) struct Prepared {
    shards: Shards,
    tokens: TokenSchema,
    schema: Schema,
}

/// A shard that can be read.
struct OpenShard {
    entry: Arc<ShardEntry>,
    reader: ShardReader<CachedFile>,
    verified: Box<[AtomicBool]>,
}

impl Prepared {
    pub(crate) fn new(lake: &Lake, manifest: &DatasetManifest, split: &SplitEntry) -> Self {
        let tokens = manifest.schema;
        let dtype = if tokens.token_bytes == 2 { Dtype::U16 } else { Dtype::U32 };
        let kind = FieldKind::Tensor { dtype, shape: vec![tokens.row_tokens] };
        let schema = Schema { fields: vec![Field { name: TOKENS.into(), kind }] };
        Self { shards: Shards::new(lake, split), tokens, schema }
    }

    /// The shards, for those who ask for their side files.
    pub(crate) fn shards(&self) -> &Shards {
        &self.shards
    }
}

impl Source for Prepared {
    fn schema(&self) -> &Schema {
        &self.schema
    }

    fn shape(&self) -> Shape {
        let split = self.shards.split();
        Shape { rows: split.rows, rows_per_shard: split.rows_per_shard }
    }

    fn sample_bytes(&self) -> u64 {
        self.tokens.row_bytes() as u64
    }

    /// All shards but the last have the same length, up to their heads.
    fn bytes_in_use(&self, shards: u64) -> Result<u64, Error> {
        let in_use = shards.min(u64::from(self.shards.split().shards));
        Ok(in_use * shard_object(&*self.shards.get(0)?).bytes)
    }

    fn extent_of(&self, row: u64) -> Result<(u64, Range<u64>), Error> {
        let split = self.shards.split();
        let rows_per_shard = u64::from(split.rows_per_shard);
        let shard = row / rows_per_shard;
        let first = shard * rows_per_shard;
        Ok((shard, first..(first + rows_per_shard).min(split.rows)))
    }

    fn extents(&self, shard: u32) -> Result<Vec<u64>, Error> {
        Ok(vec![u64::from(shard)])
    }

    fn object(&self, extent: u64) -> Result<Object, Error> {
        Ok(shard_object(&*self.shards.get(extent as u32)?))
    }

    fn shards_of(&self, digest: Digest) -> Option<RangeInclusive<u32>> {
        self.shards.numbers_of(digest)
    }

    fn open(
        &self,
        extent: u64,
        file: CachedFile,
    ) -> Result<Result<Box<dyn Extent>, Damage>, Error> {
        let entry = self.shards.get(extent as u32)?;
        let object = shard_object(&entry).key;
        let reader = ShardReader::new(file, self.tokens, object.as_str())
            .and_then(|reader| reader.check(&entry).map(|()| reader));
        Ok(match reader {
            Ok(reader) => {
                let verified = entry.batches.iter().map(|_| AtomicBool::new(false)).collect();
                Ok(Box::new(OpenShard { entry, reader, verified }))
            }
            Err(damage) => Err(damage.into()),
        })
    }
}

impl Extent for OpenShard {
    fn verify(&self, row: u32) -> Result<(), Damage> {
        let batch = self.reader.batch_of(row);
        if !self.verified[batch].load(Ordering::Acquire) {
            self.reader.verify_batch(batch, &self.entry.batches[batch])?;
            self.verified[batch].store(true, Ordering::Release);
        }
        Ok(())
    }

    fn value(&self, row: u32, _field: usize) -> Result<Cow<'_, [u8]>, forebay_dialect::Error> {
        Ok(Cow::Borrowed(self.reader.row(row).tokens_le))
    }

    fn digest(&self) -> Digest {
        self.entry.digest
    }

    fn stored_id(&self, row: u32) -> Option<SampleId> {
        Some(self.reader.row(row).id)
    }
}
