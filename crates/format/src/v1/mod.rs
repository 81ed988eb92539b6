//! Version 1 of every format. `docs/format/` draws the bytes.

pub mod capture;
pub mod checkpoint;
pub mod dataset;
pub mod encoding;
pub mod evaluation;
pub mod failure;
pub mod index;
pub mod journal;
pub mod origin;
pub mod package;
pub mod quarantine;
pub mod run;
pub mod shard;
pub mod tensors;
pub mod writer;
