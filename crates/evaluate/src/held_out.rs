//! The held-out proof: no raw record stands behind rows of both splits.
//!
//! The side file of each shard names, for each row, the records it was made of. The records of the
//! scored split are held in memory; the training split's side files are streamed past them, one
//! at a time. That proves what the splits promise about documents; that two different records of
//! equal text do not lie on both sides is the promise of `prepare`, which drops the later one.

use std::collections::HashSet;

use forebay_format::v1::{
    dataset::{DatasetManifest, ShardEntry, SplitEntry},
    evaluation::HeldOut,
    origin::OriginReader,
};
use forebay_transfer::{
    Transfer,
    dataset::{Shards, origin_object},
};
use forebay_types::{Digest, Split};

use crate::Error;

/// Compares `split` with the training split of `manifest`.
pub(crate) fn prove(
    transfer: &Transfer,
    manifest: &DatasetManifest,
    split: Split,
) -> Result<HeldOut, Error> {
    let mut records = HashSet::new();
    let mut shards = HashSet::new();
    let mut found = HeldOut::default();
    visit(transfer, manifest, split, &mut |shard, origins| {
        shards.insert(shard.digest);
        found.scored_rows += u64::from(shard.rows);
        records.extend(records_of(origins));
    })?;
    found.scored_records = records.len() as u64;
    let mut shared: HashSet<(u32, u64)> = HashSet::new();
    visit(transfer, manifest, Split::Train, &mut |shard, origins| {
        found.training_rows += u64::from(shard.rows);
        found.shared_shards += u64::from(shards.contains(&shard.digest));
        shared.extend(records_of(origins).filter(|record| records.contains(record)));
    })?;
    found.shared_records = shared.len() as u64;
    Ok(found)
}

/// The source and the number of each record behind the rows of a shard, once per span.
fn records_of(origins: &OriginReader) -> impl Iterator<Item = (u32, u64)> + '_ {
    (0..origins.rows() as u32)
        .flat_map(|row| origins.row(row).iter().map(|span| (span.source, span.record)))
}

fn visit(
    transfer: &Transfer,
    manifest: &DatasetManifest,
    split: Split,
    with: &mut dyn FnMut(&ShardEntry, &OriginReader),
) -> Result<(), Error> {
    let Some(entry) = manifest.split(split) else { return Ok(()) };
    let shards = Shards::new(transfer.lake(), entry);
    for number in 0..entry.shards {
        let shard = shards.get(number)?;
        let origins = origins(transfer, entry, &shard)?;
        with(&shard, &origins);
    }
    Ok(())
}

/// A shard's side file. What lies on this node is verified again: a proof trusts no cache.
fn origins(
    transfer: &Transfer,
    entry: &SplitEntry,
    shard: &ShardEntry,
) -> Result<OriginReader, Error> {
    let object = origin_object(shard.origin);
    let mut file = transfer.fetch(&object)?;
    if Digest::of(&file) != object.digest {
        file = transfer.refetch(&object)?;
    }
    let origins = OriginReader::new(&file, object.key.as_str())?;
    if origins.rows() as u64 == u64::from(shard.rows) {
        return Ok(origins);
    }
    let what = format!("it tells of {} rows, its shard has {}", origins.rows(), shard.rows);
    Err(forebay_format::Error::damaged(format!("{} of split {}", object.key, entry.split), what)
        .into())
}
