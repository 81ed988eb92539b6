//! Version 1 of every format. `docs/format/` draws the bytes.

pub mod dataset;
pub mod origin;
pub mod quarantine;
pub mod shard;
