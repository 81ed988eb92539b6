//! A dataset that lies in another project's format becomes a version in the lake, in place.
//!
//! Receives a store and the paths to look through; promises that every file of the format is
//! looked through once, that the index names every row, and that what is fed later can be verified
//! to the byte, though not one byte of the dataset was written anew.
//!
//! ```text
//! list      the paths, in natural order         which files, which dialect, which split
//! survey    file -> local tier -> extents       one record for each file, kept in the lake
//! agree     the files' schemas                  one schema for the dataset
//! write     records in order -> pages           256 extents on each
//! publish   list again; manifest, written last, if absent
//! ```
//!
//! # Bounds
//! Memory grows with the number of files (their names) and not with what they hold. Each worker
//! has one file at a time in scratch space of the local tier, within its budget: a file larger
//! than that is refused, and workers wait for room that others hold.
//!
//! # After a crash
//! Scratch space that the next user of the tier wipes. In the lake the surveys of the files that
//! were finished: the next run finds them by file, length, time and dialect, and reads only what is
//! left. Perhaps pages that no manifest names, which the next run writes again under the same
//! names. A version exists when its manifest does. Surveys may be deleted at any time; no version
//! needs them.

mod assemble;
mod choice;
mod error;
mod index;
mod land;
mod natural;
mod progress;
mod publish;
mod source;
mod splits;
mod survey;
mod work;

pub use choice::Choice;
pub use error::Error;
pub use forebay_dialect::FORMATS;
pub use index::{EXTENT_BYTES_DEFAULT, Index, Indexed};
pub use progress::{Progress, Silent};
pub use source::Source;
pub use splits::SplitRule;
