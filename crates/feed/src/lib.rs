//! Mid-day: batches for training, in an order that is a pure function.
//!
//! It receives a published dataset and a position, and delivers this rank's part of one global
//! batch after the other. It promises:
//!
//! - **Order.** The samples of a step depend on the dataset, the seed and the order's settings
//!   alone: not on world size, threads, tiers, or where the run was resumed ([`Order`]).
//! - **Resume.** The state is a [`Position`](forebay_types::Position), and opening a feed anywhere
//!   costs the same.
//! - **Trust.** Every row was covered by a checksum when it was first read from a mapping, and the
//!   whole shard by its digest when it landed. Damage on the node is repaired from the lake.
//! - **Bounds.** Memory by `buffer_bytes`, disk by the local tier's budget; a budget that cannot
//!   work is refused when the feed is opened.
//! - **Honesty.** Each wait of the consumer is measured and attributed ([`Waited`]).
//!
//! # After a crash
//! Nothing is left but cached shards, which the next feed uses.

mod aligned;
mod assemble;
mod backlog;
mod batch;
mod columns;
mod course;
mod dataset;
mod error;
mod feed;
mod ids;
mod lookahead;
mod mixture;
mod order;
mod permutation;
mod settings;
mod shelf;
mod source;
mod stats;
mod trace;
mod workers;

pub use batch::{Batch, Column, ColumnKind};
pub use course::Cursor;
pub use dataset::FeedDataset;
pub use error::Error;
pub use feed::{Feed, Next};
pub use forebay_image::ImageSettings;
pub use ids::SampleIds;
pub use mixture::{MixBy, MixtureSettings, PHASES_MAX, TokenCount, WeightChange};
pub use order::{EpochOrder, Order, OrderSettings, Place};
pub use settings::{FeedSettings, LastBatch, Padding};
pub use stats::{FeedStats, WaitCause, Waited};
pub use trace::{Origin, TracedSample, trace};
