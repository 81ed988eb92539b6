//! The settings of a feed: plain data, stored with the run.

use serde::{Deserialize, Serialize};

use crate::OrderSettings;

/// What a feed delivers, in which order, and within which bounds.
///
/// `seed`, `shuffle`, `canonical_streams`, `window_shards` and `batch_size` decide what the model
/// sees: a resumed run must keep them. The others only decide how fast and within how much memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FeedSettings {
    /// Other seeds give other orders.
    pub seed: u64,
    /// Whether samples are shuffled anew each epoch; otherwise they come as they are stored.
    pub shuffle: bool,
    /// Streams that take turns within a batch. More of them mix a batch from more places, and let
    /// more nodes read disjoint shards: make it a multiple of the most nodes the run will ever
    /// have. A process keeps `canonical_streams * window_shards / world_size` shards at hand.
    pub canonical_streams: u32,
    /// Shards whose rows are shuffled together. Prepared shards are globally shuffled already, so
    /// a few suffice to make epochs differ.
    pub window_shards: u32,
    /// Samples of a global batch: of one step, over all ranks.
    pub batch_size: u32,
    /// Ends after so many epochs; goes on for ever if absent.
    pub epochs: Option<u64>,
    /// Bytes of shards landed before they are needed. Less than a shard: none.
    pub lookahead_bytes: u64,
    /// Shards landing ahead at the same time.
    pub prefetch_threads: u32,
    /// Bytes of assembled batches, the one in the consumer's hands included.
    pub buffer_bytes: u64,
    /// Threads that assemble batches.
    pub threads: u32,
}

impl Default for FeedSettings {
    fn default() -> Self {
        Self {
            seed: 0,
            shuffle: true,
            canonical_streams: 8,
            window_shards: 4,
            batch_size: 32,
            epochs: None,
            lookahead_bytes: 1 << 30,
            prefetch_threads: 2,
            buffer_bytes: 32 << 20,
            threads: 2,
        }
    }
}

impl FeedSettings {
    /// What decides the order.
    #[must_use]
    pub const fn order(&self) -> OrderSettings {
        OrderSettings {
            seed: self.seed,
            shuffle: self.shuffle,
            canonical_streams: self.canonical_streams,
            window_shards: self.window_shards,
        }
    }
}
