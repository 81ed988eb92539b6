//! Plain values that every other crate speaks.
//!
//! Nothing here does I/O, knows a clock or allocates without bound. A value that comes from
//! outside (a name, a digest, a key) is checked once, when it is made; whoever holds one may
//! rely on it.

mod digest;
mod error_kind;
mod hexadecimal;
mod key;
mod name;
mod nonce;
mod position;
mod sample;
mod sha256;
mod split;

pub use digest::{Digest, DigestError, DigestWriter};
pub use error_kind::ErrorKind;
pub use key::{Key, KeyError};
pub use name::{Name, NameError, Version};
pub use nonce::{Nonce, NonceError};
pub use position::{Position, Rank, RankError};
pub use sample::{SampleId, SampleIdError};
pub use sha256::{Sha256, Sha256Error};
pub use split::{Split, SplitError};
