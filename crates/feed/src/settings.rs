//! The settings of a feed: plain data, stored with the run.

use std::collections::BTreeMap;

use forebay_image::{Crop, ImageSettings};
use serde::{Deserialize, Serialize};

use crate::{Error, MixtureSettings, OrderSettings};

/// What a feed delivers, in which order, and within which bounds.
///
/// All but the bounds and counts of threads decide what the model sees: a resumed run must keep
/// them, but for `batch_size`, which may change with the world size.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    /// What becomes of an epoch's end where no whole batch is left.
    pub last_batch: LastBatch,
    /// Ends after so many epochs; goes on for ever if absent.
    pub epochs: Option<u64>,
    /// Ranges of steps to leave out, from the first to before the second number, ascending:
    /// their samples are passed over as if they had been taken.
    pub skip_steps: Vec<(u64, u64)>,
    /// How several datasets are mixed; absent for one.
    pub mixture: Option<MixtureSettings>,
    /// The fields to deliver, all if absent.
    pub columns: Option<Vec<String>>,
    /// Fields that are encoded images, and what to make of them.
    pub images: BTreeMap<String, ImageSettings>,
    /// Fields of varying length to be padded to one length a batch.
    pub padding: BTreeMap<String, Padding>,
    /// Bytes of shards landed before they are needed. Less than a shard: none.
    pub lookahead_bytes: u64,
    /// Shards landing ahead at the same time.
    pub prefetch_threads: u32,
    /// Bytes of assembled batches at most, the one in the consumer's hands included. The feed
    /// begins with less and goes up to it when the consumer waits.
    pub buffer_bytes: u64,
    /// Threads that assemble batches.
    pub threads: u32,
}

/// What becomes of an epoch's end where no whole global batch is left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LastBatch {
    /// It is left out; another epoch leaves out other samples.
    #[default]
    Drop,
    /// It is delivered as it is: every sample exactly once. Ranks may get unequal parts, or none.
    Short,
    /// It is filled up with the first samples of the epoch, so that all ranks get equal parts.
    Pad,
}

/// How values of varying length become one tensor.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Padding {
    /// What stands behind a shorter value.
    pub value: f64,
    /// The elements of every value; the longest of the batch if absent. A longer value is an error,
    /// and never cut in silence.
    pub items: Option<u32>,
}

impl Default for FeedSettings {
    fn default() -> Self {
        Self {
            seed: 0,
            shuffle: true,
            canonical_streams: 8,
            window_shards: 4,
            batch_size: 32,
            last_batch: LastBatch::default(),
            epochs: None,
            skip_steps: Vec::new(),
            mixture: None,
            columns: None,
            images: BTreeMap::new(),
            padding: BTreeMap::new(),
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

    /// Every row once, as it is stored, the last batch short: what evaluation reads.
    #[must_use]
    pub fn sequential(&self) -> Self {
        Self {
            shuffle: false,
            last_batch: LastBatch::Short,
            epochs: Some(1),
            skip_steps: Vec::new(),
            ..self.clone()
        }
    }

    /// What no datasets can satisfy, for `datasets` of them.
    pub(crate) fn check(&self, datasets: usize) -> Result<(), Error> {
        let counts = [
            ("batch_size", self.batch_size),
            ("threads", self.threads),
            ("canonical_streams", self.canonical_streams),
            ("window_shards", self.window_shards),
        ];
        if let Some((name, _)) = counts.into_iter().find(|(_, count)| *count == 0) {
            return Err(Error::Zero(name));
        }
        let refuse = |setting, why: String| Err(Error::Setting { setting, why });
        match &self.mixture {
            Some(mixture) => {
                if let Err(why) = mixture.check(datasets) {
                    return refuse("mixture", why);
                }
            }
            None if datasets != 1 => {
                return refuse("mixture", format!("{datasets} datasets need weights"));
            }
            None => {}
        }
        let apart = self.skip_steps.windows(2).all(|pair| pair[0].1 <= pair[1].0);
        if !apart || self.skip_steps.iter().any(|(first, end)| first >= end) {
            let why = "give ranges (first, end) with first < end, ascending, without overlap";
            return refuse("skip_steps", why.into());
        }
        for (name, image) in &self.images {
            if let Err(error) = image.check() {
                return refuse("images", format!("for `{name}`: {error}"));
            }
            if image.crop == Crop::None {
                let why =
                    "images of a batch have one size; choose a crop, or `resize` to that size";
                return refuse("images", format!("for `{name}`: {why}"));
            }
        }
        Ok(())
    }
}
