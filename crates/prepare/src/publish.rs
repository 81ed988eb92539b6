//! Publishing: the moment at which a dataset version comes to exist.
//!
//! Every object the manifest names is in the lake before it is written. Its number is claimed by
//! the same conditional put; who loses a number looks at the winner: if it has the same identity
//! there is nothing left to publish, otherwise the next number is tried.
//!
//! # After a crash
//! Before the put: objects nobody names, which the next run finds and uses. After it: a version.

use std::io::Write;

use forebay_format::{
    record,
    v1::dataset::{DatasetManifest, ObjectEntry, manifest_key, quarantine_key},
};
use forebay_lake::{Commit, Lake, Purpose};
use forebay_runtime::crash_point;
use forebay_transfer::{
    dataset::newest_version,
    index::{AnyManifest, open_any},
};
use forebay_types::{Digest, DigestWriter, Name, Version};

use crate::{
    Error,
    cleaning::{ChunkEntry, quarantine_file},
    shards::Uploads,
    spill::Spill,
};

/// Numbers that may be lost to others before we ask for help.
const ATTEMPTS_MAX: u32 = 64;

/// A manifest that stands in the lake.
pub(crate) struct Published {
    pub(crate) manifest: DatasetManifest,
    pub(crate) digest: Digest,
    /// Whether it stood there before.
    pub(crate) reused: bool,
}

/// The newest version of a dataset, if there is one and it was prepared.
pub(crate) fn newest(lake: &Lake, name: &Name) -> Result<Option<(DatasetManifest, Digest)>, Error> {
    match newest_version(lake, name)? {
        Some(version) => prepared(lake, name, version),
        None => Ok(None),
    }
}

/// A version, unless it is an index of files that lie elsewhere: those share the numbers.
fn prepared(
    lake: &Lake,
    name: &Name,
    version: Version,
) -> Result<Option<(DatasetManifest, Digest)>, Error> {
    match open_any(lake, name, Some(version))? {
        (AnyManifest::Prepared(manifest), digest) => Ok(Some((*manifest, digest))),
        (AnyManifest::Indexed(_), _) => Ok(None),
    }
}

/// Publishes `manifest` under the next free number, which it fills in with its parent's.
pub(crate) fn publish(lake: &Lake, mut manifest: DatasetManifest) -> Result<Published, Error> {
    for _ in 0..ATTEMPTS_MAX {
        let parent = newest_version(lake, &manifest.name)?;
        if let Some(version) = parent
            && let Some((found, digest)) = prepared(lake, &manifest.name, version)?
            && found.identity == manifest.identity
        {
            return Ok(Published { manifest: found, digest, reused: true });
        }
        manifest.parent = parent;
        manifest.version = parent.map_or(Version::FIRST, Version::next);
        let (bytes, digest) = record::encode(&manifest)?;
        crash_point("prepare.before_manifest");
        let key = manifest_key(&manifest.name, manifest.version);
        if lake.commit(&key, &bytes)? == Commit::Won {
            return Ok(Published { manifest, digest, reused: false });
        }
    }
    Err(Error::Contended { name: manifest.name, attempts: ATTEMPTS_MAX })
}

/// Writes the quarantined records of all chunks, in order, as one object.
pub(crate) fn write_quarantine(
    uploads: &Uploads<'_>,
    spill: &Spill,
    chunks: &[ChunkEntry],
) -> Result<Option<ObjectEntry>, Error> {
    // Twice through the parts, once for the name: they may be larger than memory.
    let mut digest = DigestWriter::new();
    each_part(spill, chunks, |bytes| {
        digest.update(bytes);
        Ok(())
    })?;
    if digest.len_bytes() == 0 {
        return Ok(None);
    }
    let entry = ObjectEntry { digest: digest.finish(), bytes: digest.len_bytes() };
    let key = quarantine_key(entry.digest);
    if uploads.lake.size(&key)? == Some(entry.bytes) {
        return Ok(Some(entry));
    }
    let mut writer = uploads.lake.writer(&key, Purpose::Manifest)?;
    each_part(spill, chunks, |bytes| {
        writer.write_all(bytes).map_err(|source| {
            let place = uploads.lake.url().to_owned();
            forebay_lake::Error::Object { act: "write", key: key.clone(), place, source }.into()
        })
    })?;
    uploads.count(writer.finish()?);
    Ok(Some(entry))
}

fn each_part(
    spill: &Spill,
    chunks: &[ChunkEntry],
    mut take: impl FnMut(&[u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    chunks.iter().try_for_each(|chunk| {
        take(&spill.read_if_there(&quarantine_file(chunk.source, chunk.number))?)
    })
}
