//! Plain values that every other crate speaks.
//!
//! Nothing here does I/O, knows a clock or allocates without bound. A value that comes from
//! outside (a name, a digest, a key) is checked once, when it is made; whoever holds one may
//! rely on it.

mod byte_ranges;
mod checksum;
mod digest;
mod dtype;
mod error_kind;
mod form;
mod hexadecimal;
mod key;
mod name;
mod nonce;
mod part_digest;
mod position;
mod sample;
mod scattered;
mod schema;
mod sha256;
mod split;

pub use byte_ranges::ByteRanges;
pub use checksum::{Checksum, ChecksumError, ChecksumWriter};
pub use digest::{Digest, DigestError, DigestWriter};
pub use dtype::Dtype;
pub use error_kind::ErrorKind;
pub use form::Form;
pub use key::{Key, KeyError};
pub use name::{Name, NameError, Version};
pub use nonce::{Nonce, NonceError};
pub use part_digest::PartDigest;
pub use position::{Position, Rank, RankError};
pub use sample::{SampleId, SampleIdError};
pub use scattered::Scattered;
pub use schema::{Field, FieldKind, Schema};
pub use sha256::{Sha256, Sha256Error};
pub use split::{Split, SplitError};
