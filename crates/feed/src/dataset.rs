//! What can be fed: a split of a published dataset.

use std::sync::Arc;

use forebay_format::v1::dataset::DatasetManifest;
use forebay_transfer::Transfer;
use forebay_types::{Name, Split};

use crate::{
    Error,
    feed::empty,
    source::{Prepared, Source},
};

/// A split of a dataset that a feed draws from.
#[derive(Clone, Copy, Debug)]
pub enum FeedDataset<'a> {
    /// Of one that was prepared.
    Prepared(&'a DatasetManifest, Split),
}

impl FeedDataset<'_> {
    /// The dataset's name.
    #[must_use]
    pub fn name(&self) -> &Name {
        match self {
            Self::Prepared(manifest, _) => &manifest.name,
        }
    }

    pub(crate) fn source(&self, transfer: &Transfer) -> Result<Arc<dyn Source>, Error> {
        Ok(match self {
            Self::Prepared(manifest, split) => {
                let entry = manifest.split(*split).filter(|entry| entry.rows > 0);
                let entry = entry.ok_or_else(|| empty(&manifest.name, *split))?;
                Arc::new(Prepared::new(transfer.lake(), manifest, entry))
            }
        })
    }
}
