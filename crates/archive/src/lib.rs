//! Evening, second half: a model is packaged with all that is known of it, for years.
//!
//! It receives an evaluation that passed its gate, and promises:
//!
//! - **Plain files.** safetensors, JSON, JSON lines, CSV, Markdown and HTML: other people's tools
//!   read them when our program is gone, and `sha256sum -c SHA256SUMS` verifies them.
//! - **All or nothing.** The manifest is written last, by one conditional put; with it the version
//!   exists, and every file it lists is there.
//! - **Every byte is covered.** [`verify`] reads all of them and names each file that is changed,
//!   cut short, missing or added.
//! - **Lineage.** From the package to the run, the checkpoint, the dataset and the raw records of
//!   any step ([`lineage`]), each link by digest.
//!
//! # Bounds
//! The journal is held in memory once, of weights and other files one piece at a time.
//!
//! # After a crash
//! Before the manifest: files in a directory that no manifest names and the next attempt to
//! publish the same content writes again. After it: nothing to do.

mod card;
mod checkpoint;
mod digests;
mod error;
mod files;
mod list;
mod metrics;
mod publish;
pub mod report;
mod restore;
mod story;
mod verify;

pub use error::{Error, Finding, Harm};
pub use list::{PackageSummary, lineage, list, newest, open};
pub use publish::{Publish, Published};
pub use restore::{Restored, restore};
pub use verify::{Verified, verify, verify_directory};
