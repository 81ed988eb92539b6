//! Morning: raw text becomes a published dataset version.
//!
//! Receives a directory of JSON lines or plain text, compressed or not, and a [`Recipe`]; promises
//! that the same raw bytes and recipe give the same shards, byte for byte, whatever the number of
//! workers and the memory they have; that every record is accounted for; and that no document, no
//! two equal texts and no group of records lie on both sides of the split.
//!
//! The work is a plan of pure tasks between two shuffles:
//!
//! ```text
//! digest    each raw file                        identity: is this version there already?
//! clean     chunk of records -> documents        + (digest, place) into partitions of digests
//! dedup     partition        -> losers           the first of equal texts wins
//! tokenize  16 MiB of text   -> rows             each into the bucket of its key
//! write     buckets in order -> shards           sorted by a keyed hash: a uniform permutation
//! publish   manifest, written last, if absent
//! ```
//!
//! Intermediate results lie in scratch space of the local tier, within its budget; memory is
//! bounded by `memory_bytes`, and one record never exceeds `record_bytes_max`. Bad records go to
//! quarantine with their place and reason and never stop the work.
//!
//! # After a crash
//! Scratch space that the next user of the tier wipes; in the lake perhaps some shards that no
//! manifest names, which the next run finds and uses. A version exists when its manifest does.

mod clean;
mod cleaning;
mod document;
mod duplicates;
mod error;
mod job;
mod normalize;
mod pack;
mod prepare;
mod progress;
mod publish;
mod raw;
mod recipe;
mod rows;
mod shards;
mod shuffle;
mod source;
mod spill;
mod tasks;
mod tokenizer;

pub use error::Error;
pub use prepare::{MEMORY_BYTES_DEFAULT, Prepare, Prepared};
pub use progress::{Progress, Silent, Stage};
pub use recipe::{Recipe, TextRecords};
