//! Datasets as they lie: the formats of other projects, read where they are.
//!
//! Nobody should have to convert a petabyte to try a loader. A [`Dialect`] knows one format. It
//! is asked twice:
//!
//! 1. **Survey**, once: given a file's whole content, which fields do its samples have, and at
//!    which byte offsets may it be cut into *extents* of whole rows ([`Dialect::survey`]). The
//!    index that results is kept in the lake; the file stays where and as it is.
//! 2. **Open**, while training: given the content of one extent, where the values of each of its
//!    rows lie ([`Dialect::open`]). Values are handed out without a copy wherever the format
//!    allows it.
//!
//! Formats that are compressed or interleaved (gzip, zstd, Parquet) cannot be read in place: for
//! those an extent is *decoded* when it lands on the node, and the decoded form is what `open`
//! sees ([`Dialect::decode`]).
//!
//! Everything here works on memory and trusts none of it: hostile bytes give [`Error`], never a
//! panic, an endless loop or an allocation larger than the content.

mod absent;
mod array;
mod arrow;
mod bytes;
mod columns;
mod compression;
mod cutter;
mod dialect;
mod error;
mod jsonl;
mod known;
mod litdata;
mod mds;
mod merge;
mod parquet;
mod path;
mod samples;
mod tfrecord;
mod webdataset;

pub use arrow::Arrow;
pub use dialect::{Cut, Dialect, Rows, Survey};
pub use error::Error;
pub use forebay_types::Form;
pub use jsonl::Jsonl;
pub use known::{FORMATS, named, plain};
pub use litdata::LitData;
pub use mds::Mds;
pub use merge::{FIELDS_MAX, merge};
pub use parquet::Parquet;
pub use tfrecord::Tfrecord;
pub use webdataset::Webdataset;
