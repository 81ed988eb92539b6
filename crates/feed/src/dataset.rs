//! What can be fed: a split of a published dataset.

use std::sync::Arc;

use forebay_format::v1::{dataset::DatasetManifest, index::IndexManifest};
use forebay_transfer::{Transfer, index::AnyManifest};
use forebay_types::{Name, Split};

use crate::{
    Error,
    source::{Indexed, Prepared, Source},
};

/// A split of a dataset that a feed draws from.
#[derive(Clone, Copy, Debug)]
pub enum FeedDataset<'a> {
    /// Of one that was prepared.
    Prepared(&'a DatasetManifest, Split),
    /// Of one that was indexed where it lies.
    Indexed(&'a IndexManifest, Split),
}

impl<'a> FeedDataset<'a> {
    /// A split of a dataset, whichever way it came to be.
    #[must_use]
    pub fn new(manifest: &'a AnyManifest, split: Split) -> Self {
        match manifest {
            AnyManifest::Prepared(manifest) => Self::Prepared(manifest, split),
            AnyManifest::Indexed(manifest) => Self::Indexed(manifest, split),
        }
    }

    /// The dataset's name.
    #[must_use]
    pub fn name(&self) -> &'a Name {
        match self {
            Self::Prepared(manifest, _) => &manifest.name,
            Self::Indexed(manifest, _) => &manifest.name,
        }
    }

    pub(crate) fn source(&self, transfer: &Transfer) -> Result<Arc<dyn Source>, Error> {
        Ok(match *self {
            Self::Prepared(manifest, split) => Arc::new(prepared(transfer, manifest, split)?),
            Self::Indexed(manifest, split) => Arc::new(indexed(transfer, manifest, split)?),
        })
    }
}

pub(crate) fn prepared(
    transfer: &Transfer,
    manifest: &DatasetManifest,
    split: Split,
) -> Result<Prepared, Error> {
    let entry = manifest.split(split).filter(|entry| entry.rows > 0);
    let entry = entry.ok_or_else(|| empty(&manifest.name, split))?;
    Ok(Prepared::new(transfer.lake(), manifest, entry))
}

pub(crate) fn indexed(
    transfer: &Transfer,
    manifest: &IndexManifest,
    split: Split,
) -> Result<Indexed, Error> {
    let entry = manifest.split(split).filter(|entry| entry.rows > 0);
    let entry = entry.ok_or_else(|| empty(&manifest.name, split))?;
    let dialect = forebay_dialect::named(&manifest.dialect, &manifest.context);
    let unread = |source| Error::Dialect { dataset: manifest.name.clone(), source };
    let Some(dialect) = dialect.map_err(unread)? else {
        let (dataset, dialect) = (manifest.name.clone(), manifest.dialect.clone());
        return Err(Error::UnknownDialect { dataset, dialect });
    };
    Indexed::new(transfer.lake(), transfer.runtime(), manifest, entry, dialect)
        .map_err(|source| Error::Store { dataset: manifest.name.clone(), source: Box::new(source) })
}

fn empty(dataset: &Name, split: Split) -> Error {
    Error::Empty { dataset: dataset.clone(), split }
}
