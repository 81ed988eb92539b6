//! Evaluation's way through a split: every row once, in stored order, the last batch short.

use forebay_format::v1::dataset::DatasetManifest;
use forebay_transfer::Transfer;
use forebay_types::{Position, Rank, Split};

use crate::{Error, Feed, FeedSettings, course::Course, feed::checked_split};

impl Feed {
    /// A feed that delivers each row of `split` once, as it is stored, and then ends.
    ///
    /// Of `settings`, `batch_size` and the bounds count; nothing is shuffled or left out. Every
    /// rank gets the same number of batches, of which its last may be short or empty.
    ///
    /// # Errors
    /// As [`Feed::open`].
    pub fn sequential(
        transfer: &Transfer,
        manifest: &DatasetManifest,
        split: Split,
        settings: &FeedSettings,
        rank: Rank,
    ) -> Result<Self, Error> {
        let entry = checked_split(manifest, split, settings)?;
        let course = Course::sequential(entry, settings, rank)?;
        Self::start(transfer, manifest, entry, settings, course, Position::default())
    }
}
