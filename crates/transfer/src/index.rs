//! Opening datasets that were indexed where they lie.
//!
//! An index is a version of a dataset like any other and lies at the same key; [`open_any`] tells
//! the two apart by the record's format. Extents have as many rows as their files gave, so the
//! place of a row is found by two searches: which page begins at or before it, then which extent
//! on that page. Pages are read when first needed, verified, and at most [`PAGES_MAX`] are kept.
//!
//! [`PAGES_MAX`]: crate::dataset::PAGES_MAX

use std::{
    ops::{Range, RangeInclusive},
    sync::Arc,
};

use forebay_format::v1::{
    dataset::{DatasetManifest, manifest_key},
    index::{ExtentEntry, IndexManifest, IndexPage, IndexSplit, index_page_key},
};
use forebay_lake::Lake;
use forebay_types::{Digest, Name, Version};

use crate::{
    Error,
    dataset::{damaged, decode, existing_version, read_record},
    known::Known,
    pages::Pages,
};

/// A version of a dataset, whichever way it came to be.
#[derive(Clone, Debug, PartialEq)]
pub enum AnyManifest {
    /// Its rows were prepared and lie in shards.
    Prepared(Box<DatasetManifest>),
    /// Its rows lie in files of another project's format.
    Indexed(Box<IndexManifest>),
}

impl AnyManifest {
    /// The version's number.
    #[must_use]
    pub fn version(&self) -> Version {
        match self {
            Self::Prepared(manifest) => manifest.version,
            Self::Indexed(manifest) => manifest.version,
        }
    }

    /// Equal identities have equal samples.
    #[must_use]
    pub fn identity(&self) -> Digest {
        match self {
            Self::Prepared(manifest) => manifest.identity,
            Self::Indexed(manifest) => manifest.identity,
        }
    }
}

/// The manifest of `version` of dataset `name` (the newest, if `None`) and its digest, whether the
/// dataset was prepared or indexed.
///
/// # Errors
/// [`Error::NoDataset`] or [`Error::NoVersion`] when there is none, [`Error::Format`] when it is
/// damaged or newer than this build.
pub fn open_any(
    lake: &Lake,
    name: &Name,
    version: Option<Version>,
) -> Result<(AnyManifest, Digest), Error> {
    let version = existing_version(lake, name, version)?;
    let key = manifest_key(name, version);
    let Some(bytes) = read_record(lake, &key)? else {
        let (name, lake) = (name.clone(), lake.url().into());
        return Err(Error::NoVersion { name, version, lake });
    };
    match decode::<IndexManifest>(lake, &key, &bytes) {
        // Whatever else it is called, it should have been a dataset.
        Err(Error::Format { source: forebay_format::Error::OtherFormat { .. }, .. }) => {
            let (manifest, digest) = decode::<DatasetManifest>(lake, &key, &bytes)?;
            Ok((AnyManifest::Prepared(Box::new(manifest)), digest))
        }
        indexed => {
            let (manifest, digest) = indexed?;
            Ok((AnyManifest::Indexed(Box::new(manifest)), digest))
        }
    }
}

/// The extents of one split, page by page. Cloning is cheap and shares the pages.
#[derive(Clone, Debug)]
pub struct Extents {
    lake: Lake,
    split: Arc<IndexSplit>,
    pages: Pages<Page>,
    known: Arc<Known>,
}

#[derive(Debug)]
struct Page {
    first_extent: u64,
    extents: Vec<Arc<ExtentEntry>>,
    /// The first row of each.
    first_rows: Vec<u64>,
}

/// An extent, the number of its first row in the split, and its own number there.
pub type Located = (Arc<ExtentEntry>, u64, u64);

impl Extents {
    /// The extents of `split`, whose pages are read from `lake` as they are needed.
    #[must_use]
    pub fn new(lake: &Lake, split: &IndexSplit) -> Self {
        let (pages, known) = (Pages::default(), Arc::default());
        Self { lake: lake.clone(), split: Arc::new(split.clone()), pages, known }
    }

    /// The split they belong to.
    #[must_use]
    pub fn split(&self) -> &IndexSplit {
        &self.split
    }

    /// The extent that holds row `row` of the split.
    ///
    /// # Errors
    /// When its page is missing, damaged, or cannot be read.
    ///
    /// # Panics
    /// When the split has no such row.
    pub fn extent_of(&self, row: u64) -> Result<Located, Error> {
        assert!(row < self.split.rows, "the split has {} rows", self.split.rows);
        let page = self.page(last_at_most(&self.split.pages, |page| page.first_row <= row))?;
        Ok(page.located(last_at_most(&page.first_rows, |&first| first <= row)))
    }

    /// Extent `number` of the split.
    ///
    /// # Errors
    /// When its page is missing, damaged, or cannot be read.
    ///
    /// # Panics
    /// When the split has no such extent.
    pub fn get(&self, number: u64) -> Result<Located, Error> {
        assert!(number < self.split.extents, "the split has {} extents", self.split.extents);
        let page = last_at_most(&self.split.pages, |page| page.first_extent <= number);
        let page = self.page(page)?;
        Ok(page.located((number - page.first_extent) as usize))
    }

    /// The extents that hold any of `rows`, in order.
    ///
    /// # Errors
    /// When a page is missing, damaged, or cannot be read.
    ///
    /// # Panics
    /// When the split has no such rows.
    pub fn extents_of(&self, rows: Range<u64>) -> Result<Vec<Located>, Error> {
        let (mut found, mut row) = (Vec::new(), rows.start);
        while row < rows.end {
            let located = self.extent_of(row)?;
            row = located.1 + u64::from(located.0.rows);
            found.push(located);
        }
        Ok(found)
    }

    /// The portions of rows that lie in the extent with this digest, if its page was read; rarely
    /// those of another.
    #[must_use]
    pub fn portions_of(&self, digest: Digest) -> Option<RangeInclusive<u32>> {
        self.known.shards_of(digest)
    }

    fn page(&self, number: usize) -> Result<Arc<Page>, Error> {
        self.pages.get(number, || self.load(number))
    }

    fn load(&self, number: usize) -> Result<Page, Error> {
        let entry = self.split.pages[number];
        let key = index_page_key(entry.digest);
        let bytes = read_record(&self.lake, &key)?
            .ok_or_else(|| Error::Missing { object: key.clone(), lake: self.lake.url().into() })?;
        let (page, found) = decode::<IndexPage>(&self.lake, &key, &bytes)?;
        if found != entry.digest {
            return Err(damaged(&self.lake, &key, format!("its body has the digest {found}")));
        }
        let next = self.split.pages.get(number + 1);
        let (extents, rows) = next.map_or((self.split.extents, self.split.rows), |next| {
            (next.first_extent, next.first_row)
        });
        let (mut first_rows, mut row) = (Vec::with_capacity(page.extents.len()), entry.first_row);
        for extent in &page.extents {
            first_rows.push(row);
            row += u64::from(extent.rows);
        }
        // Where the next page begins was decided with this one, so they must agree.
        let end = entry.first_extent + page.extents.len() as u64;
        if (end, row) != (extents, rows) {
            let what = format!("it ends at extent {end} and row {row}, not {extents} and {rows}");
            return Err(damaged(&self.lake, &key, what));
        }
        let located = page.extents.iter().zip(&first_rows);
        let portions =
            located.map(|(extent, &first)| (extent.digest, self.portions(extent, first)));
        self.known.learn(portions);
        Ok(Page {
            first_extent: entry.first_extent,
            first_rows,
            extents: page.extents.into_iter().map(Arc::new).collect(),
        })
    }

    fn portions(&self, extent: &ExtentEntry, first_row: u64) -> RangeInclusive<u32> {
        let rows_per_portion = u64::from(self.split.rows_per_portion);
        let last_row = first_row + u64::from(extent.rows).max(1) - 1;
        (first_row / rows_per_portion) as u32..=(last_row / rows_per_portion) as u32
    }
}

impl Page {
    fn located(&self, index: usize) -> Located {
        (self.extents[index].clone(), self.first_rows[index], self.first_extent + index as u64)
    }
}

/// The index of the last of `sorted` for which `at_most` holds; it holds for the first.
fn last_at_most<T>(sorted: &[T], at_most: impl Fn(&T) -> bool) -> usize {
    sorted.partition_point(at_most) - 1
}
