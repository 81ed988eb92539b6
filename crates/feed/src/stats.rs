//! What the consumer waited for, and what the feed did.

use std::time::Duration;

use forebay_transfer::PrefetchStats;
use serde::Serialize;

/// Why a consumer waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WaitCause {
    /// A shard, or the list that names it, had to come from the lake.
    Lake,
    /// A shard on the node had to be mapped, verified or fetched again.
    Local,
    /// The rows had to be gathered.
    Assembly,
}

/// Time the consumer waited, by cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Waited {
    /// For the lake.
    pub lake: Duration,
    /// For the local tier.
    pub local: Duration,
    /// For the threads that gather rows.
    pub assembly: Duration,
}

impl Waited {
    /// All of it.
    #[must_use]
    pub fn total(&self) -> Duration {
        self.lake + self.local + self.assembly
    }

    /// The cause of the most of it, if there was any.
    #[must_use]
    pub fn cause(&self) -> Option<WaitCause> {
        [
            (self.lake, WaitCause::Lake),
            (self.local, WaitCause::Local),
            (self.assembly, WaitCause::Assembly),
        ]
        .into_iter()
        .max_by_key(|&(duration, _)| duration)
        .filter(|(duration, _)| !duration.is_zero())
        .map(|(_, cause)| cause)
    }
}

impl std::ops::AddAssign for Waited {
    fn add_assign(&mut self, other: Self) {
        self.lake += other.lake;
        self.local += other.local;
        self.assembly += other.assembly;
    }
}

/// What a feed did since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FeedStats {
    /// Batches delivered.
    pub batches: u64,
    /// Samples in them.
    pub samples: u64,
    /// Bytes of their values.
    pub bytes: u64,
    /// Since the feed was opened.
    pub elapsed: Duration,
    /// What the consumer waited for.
    pub waited: Waited,
    /// Shards opened that were on the node.
    pub cache_hits: u64,
    /// Shards opened that had to come from the lake first, while a batch needed them.
    pub cache_misses: u64,
    /// Shards that were damaged on the node and fetched again.
    pub refetches: u64,
    /// Bytes brought from the lake through this feed's transfer.
    pub lake_bytes: u64,
    /// Requests that read from the lake, through the same handle.
    pub lake_requests: u64,
    /// Memory of all batches, ready, spare and in use.
    pub buffer_bytes: u64,
    /// Shards on the node before they were needed.
    pub prefetched: u64,
    /// Prefetches given up because everything in the tier was needed sooner.
    pub prefetches_bypassed: u64,
    /// Prefetches that failed; whoever needed the shard fetched it himself.
    pub prefetches_failed: u64,
}

impl FeedStats {
    pub(crate) fn add_prefetch(&mut self, prefetch: PrefetchStats) {
        self.prefetched = prefetch.ready;
        self.prefetches_bypassed = prefetch.bypassed;
        self.prefetches_failed = prefetch.failed;
    }
}

/// When the making of one batch waited for which tier; the rest of the time it was assembled.
#[derive(Debug, Default)]
pub(crate) struct Timeline {
    stretches: Vec<(WaitCause, Duration, Duration)>,
}

impl Timeline {
    pub(crate) fn add(&mut self, cause: WaitCause, start: Duration, end: Duration) {
        self.stretches.push((cause, start, end));
    }

    /// Divides a wait from `start` to `end` among what happened meanwhile.
    pub(crate) fn attribute(&self, start: Duration, end: Duration) -> Waited {
        let during = |wanted: WaitCause| -> Duration {
            self.stretches
                .iter()
                .filter(|(cause, ..)| *cause == wanted)
                .map(|&(_, from, to)| to.min(end).saturating_sub(from.max(start)))
                .sum()
        };
        let (lake, local) = (during(WaitCause::Lake), during(WaitCause::Local));
        let assembly = end.saturating_sub(start).saturating_sub(lake + local);
        Waited { lake, local, assembly }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_divided_among_its_causes() {
        let at = Duration::from_millis;
        let mut timeline = Timeline::default();
        timeline.add(WaitCause::Lake, at(0), at(40));
        timeline.add(WaitCause::Local, at(50), at(55));
        let waited = timeline.attribute(at(10), at(60));
        assert_eq!(waited, Waited { lake: at(30), local: at(5), assembly: at(15) });
        assert_eq!((waited.total(), waited.cause()), (at(50), Some(WaitCause::Lake)));
        assert_eq!(timeline.attribute(at(90), at(90)).cause(), None);
    }
}
