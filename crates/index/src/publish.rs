//! Publishing: the moment at which the index comes to exist.
//!
//! As for prepared datasets, and in the same numbers: the next free one is claimed by a conditional
//! put, and who loses it looks at the winner. A version that has the same samples *in the same
//! places* is reused; the same samples elsewhere are a new version of the same identity, since the
//! old places may be gone.
//!
//! # After a crash
//! Before the put: pages nobody names, which the next run writes again. After it: a version.

use forebay_format::{
    record,
    v1::{dataset::manifest_key, index::IndexManifest},
};
use forebay_lake::{Commit, Lake};
use forebay_runtime::crash_point;
use forebay_transfer::{
    dataset::newest_version,
    index::{AnyManifest, open_any},
};
use forebay_types::{Digest, Version};

use crate::Error;

/// Numbers that may be lost to others before we ask for help.
const ATTEMPTS_MAX: u32 = 64;

/// A manifest that stands in the lake.
pub(crate) struct Published {
    pub(crate) manifest: IndexManifest,
    pub(crate) digest: Digest,
    /// Whether it stood there before.
    pub(crate) reused: bool,
}

/// Publishes `manifest` under the next free number, which it fills in with its parent's.
pub(crate) fn publish(lake: &Lake, mut manifest: IndexManifest) -> Result<Published, Error> {
    for _ in 0..ATTEMPTS_MAX {
        let newest = newest_version(lake, &manifest.name)?;
        if let Some(version) = newest {
            match open_any(lake, &manifest.name, Some(version))? {
                (AnyManifest::Indexed(found), digest) if is_same(&found, &manifest) => {
                    return Ok(Published { manifest: *found, digest, reused: true });
                }
                _ => {}
            }
        }
        manifest.parent = newest;
        manifest.version = newest.map_or(Version::FIRST, Version::next);
        let (bytes, digest) = record::encode(&manifest)?;
        crash_point("index.before_manifest");
        let key = manifest_key(&manifest.name, manifest.version);
        if lake.commit(&key, &bytes)? == Commit::Won {
            return Ok(Published { manifest, digest, reused: false });
        }
    }
    Err(Error::Contended { name: manifest.name, attempts: ATTEMPTS_MAX })
}

/// Pages are named by their digests, and name files and places in them.
fn is_same(found: &IndexManifest, manifest: &IndexManifest) -> bool {
    found.identity == manifest.identity
        && found.store == manifest.store
        && found.splits == manifest.splits
}
