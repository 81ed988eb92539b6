//! Where samples come from: a split of a dataset, as the order and the tiers see it.
//!
//! The order knows rows in *shards* of equal size; the tiers know *extents*, files of the local
//! tier. In a prepared dataset the two are one: each shard is an object. In one that was indexed
//! where it lies a shard of the order is a run of consecutive rows, and the index says in which
//! extents of which files they lie.

mod indexed;
mod prepared;

use std::{
    borrow::Cow,
    ops::{Range, RangeInclusive},
};

use forebay_local::CachedFile;
use forebay_transfer::Object;
use forebay_types::{Digest, SampleId, Schema};

pub(crate) use indexed::Indexed;
pub(crate) use prepared::{Prepared, TOKENS};

use crate::{course::Shape, ids::derived};

/// One split that is fed.
pub(crate) trait Source: Send + Sync {
    /// What its samples consist of.
    fn schema(&self) -> &Schema;

    /// Its rows, and how many of them the order takes for a shard.
    fn shape(&self) -> Shape;

    /// The bytes of an average sample as it lies on the node.
    fn sample_bytes(&self) -> u64;

    /// What must lie on the node at once while `shards` of the order's shards are in use.
    fn bytes_in_use(&self, shards: u64) -> Result<u64, forebay_transfer::Error>;

    /// The extent that holds a row of the split, and all rows that it holds.
    fn extent_of(&self, row: u64) -> Result<(u64, Range<u64>), forebay_transfer::Error>;

    /// The extents that a shard of the order lies in.
    fn extents(&self, shard: u32) -> Result<Vec<u64>, forebay_transfer::Error>;

    /// An extent as something to fetch.
    fn object(&self, extent: u64) -> Result<Object, forebay_transfer::Error>;

    /// The shards of the order that lie in the extent of this digest, if that is known without
    /// asking the lake. May be wrong, rarely.
    fn shards_of(&self, digest: Digest) -> Option<RangeInclusive<u32>>;

    /// Opens an extent that lies on the node.
    ///
    /// The outer error is the tiers', the inner one says that the file is not what it should be.
    fn open(
        &self,
        extent: u64,
        file: CachedFile,
    ) -> Result<Result<Box<dyn Extent>, Damage>, forebay_transfer::Error>;
}

/// An extent that is open.
pub(crate) trait Extent: Send + Sync {
    /// Checks the bytes that `row` is read from, once.
    fn verify(&self, row: u32) -> Result<(), Damage>;

    /// The value of a field of a verified row.
    fn value(&self, row: u32, field: usize) -> Result<Cow<'_, [u8]>, forebay_dialect::Error>;

    /// Its digest.
    fn digest(&self) -> Digest;

    /// The identity that the row carries; none where it is to be derived.
    fn stored_id(&self, row: u32) -> Option<SampleId>;

    /// The row's identity.
    fn id(&self, row: u32) -> SampleId {
        self.stored_id(row).unwrap_or_else(|| derived(self.digest(), row))
    }

    /// What people know the row by.
    fn label(&self, _row: u32) -> Option<String> {
        None
    }
}

/// What is wrong with a file of the local tier.
pub(crate) type Damage = Box<dyn std::error::Error + Send + Sync>;
