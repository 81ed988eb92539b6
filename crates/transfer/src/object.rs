//! What can be fetched: an immutable object and everything that proves it.

use forebay_lake::Purpose;
use forebay_types::{Digest, Key};

/// An immutable object in the lake, named by its key and proved by its digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Where it lies in the lake.
    pub key: Key,
    /// The digest of all its bytes.
    pub digest: Digest,
    /// Its length.
    pub bytes: u64,
    /// What its traffic is counted as.
    pub purpose: Purpose,
}
