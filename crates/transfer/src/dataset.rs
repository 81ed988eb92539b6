//! Opening published datasets, at a cost that does not grow with them.
//!
//! A dataset's versions are numbered without gaps (each is claimed by a conditional put), so the
//! newest is found without listing: numbers 1, 2, 4, 8, … are probed until one is absent, then the
//! gap is halved. The manifest names pages of shards; [`Shards`] reads a page when a shard on it
//! is first asked for, verifies it, and keeps at most [`PAGES_MAX`] of them.

use std::{ops::RangeInclusive, sync::Arc};

use forebay_format::{
    record,
    v1::dataset::{
        DatasetManifest, ObjectEntry, SHARDS_PER_PAGE, ShardEntry, ShardPage, SplitEntry,
        manifest_key, origin_key, page_key, shard_key,
    },
};
use forebay_lake::{Lake, Purpose};
use forebay_types::{Digest, Key, Name, Version};

pub use crate::pages::PAGES_MAX;
use crate::{Error, Object, known::Known, pages::Pages};

/// The manifest of `version` of dataset `name` (the newest, if `None`) and its digest.
///
/// # Errors
/// [`Error::NoDataset`] or [`Error::NoVersion`] when there is none, [`Error::Format`] when it is
/// damaged or newer than this build.
pub fn open_dataset(
    lake: &Lake,
    name: &Name,
    version: Option<Version>,
) -> Result<(DatasetManifest, Digest), Error> {
    let version = existing_version(lake, name, version)?;
    let key = manifest_key(name, version);
    let Some(bytes) = read_record(lake, &key)? else {
        let (name, lake) = (name.clone(), lake.url().into());
        return Err(Error::NoVersion { name, version, lake });
    };
    decode::<DatasetManifest>(lake, &key, &bytes)
}

/// `version`, or the newest of dataset `name`.
pub(crate) fn existing_version(
    lake: &Lake,
    name: &Name,
    version: Option<Version>,
) -> Result<Version, Error> {
    match version {
        Some(version) => Ok(version),
        None => newest_version(lake, name)?
            .ok_or_else(|| Error::NoDataset { name: name.clone(), lake: lake.url().into() }),
    }
}

/// The newest published version of dataset `name`, if there is one.
///
/// # Errors
/// [`Error::Lake`] when the lake cannot say.
pub fn newest_version(lake: &Lake, name: &Name) -> Result<Option<Version>, Error> {
    let there = |number: u32| {
        let version = Version::new(number).expect("probed numbers start at 1");
        let key = manifest_key(name, version);
        lake.size(&key).map(|size| size.is_some()).map_err(in_lake(lake, "look for", &key))
    };
    if !there(1)? {
        return Ok(None);
    }
    let (mut present, mut absent) = (1, 2);
    while there(absent)? {
        present = absent;
        let Some(next) = absent.checked_mul(2) else { break };
        absent = next;
    }
    while absent - present > 1 {
        let middle = present + (absent - present) / 2;
        if there(middle)? { present = middle } else { absent = middle }
    }
    Ok(Version::new(present))
}

/// The shards of one split, page by page. Cloning is cheap and shares the pages.
#[derive(Clone)]
pub struct Shards {
    lake: Lake,
    split: Arc<SplitEntry>,
    pages: Pages<Vec<Arc<ShardEntry>>>,
    known: Arc<Known>,
}

impl Shards {
    /// The shards of `split`, read from `lake` as they are asked for.
    #[must_use]
    pub fn new(lake: &Lake, split: &SplitEntry) -> Self {
        let (pages, known) = (Pages::default(), Arc::default());
        Self { lake: lake.clone(), split: Arc::new(split.clone()), pages, known }
    }

    /// The split they belong to.
    #[must_use]
    pub fn split(&self) -> &SplitEntry {
        &self.split
    }

    /// The entry of shard `number`.
    ///
    /// # Errors
    /// When its page is missing, damaged, or cannot be read.
    ///
    /// # Panics
    /// When the split has no such shard.
    pub fn get(&self, number: u32) -> Result<Arc<ShardEntry>, Error> {
        assert!(number < self.split.shards, "the split has {} shards", self.split.shards);
        let (page, index) = (number / SHARDS_PER_PAGE, (number % SHARDS_PER_PAGE) as usize);
        let page = self.pages.get(page as usize, || self.load(page))?;
        Ok(page[index].clone())
    }

    /// The number of the shard with this digest, as a range of one, if its page was read; rarely
    /// that of another.
    #[must_use]
    pub fn numbers_of(&self, digest: Digest) -> Option<RangeInclusive<u32>> {
        self.known.shards_of(digest)
    }

    fn load(&self, number: u32) -> Result<Vec<Arc<ShardEntry>>, Error> {
        let digest = self.split.pages[number as usize];
        let key = page_key(digest);
        let bytes = read_record(&self.lake, &key)?
            .ok_or_else(|| Error::Missing { object: key.clone(), lake: self.lake.url().into() })?;
        let (page, found) = decode::<ShardPage>(&self.lake, &key, &bytes)?;
        if found != digest {
            let what = format!("its body has the digest {found}");
            return Err(damaged(&self.lake, &key, what));
        }
        self.check(number, &page).map_err(|what| damaged(&self.lake, &key, what))?;
        let first = number * SHARDS_PER_PAGE;
        let numbered = (first..).zip(&page.shards);
        self.known.learn(numbered.map(|(number, shard)| (shard.digest, number..=number)));
        Ok(page.shards.into_iter().map(Arc::new).collect())
    }

    /// The place of a row is arithmetic, so a page must list what the split's numbers say.
    fn check(&self, number: u32, page: &ShardPage) -> Result<(), String> {
        let first = number * SHARDS_PER_PAGE;
        let shards = (self.split.shards - first).min(SHARDS_PER_PAGE);
        if page.shards.len() as u64 != u64::from(shards) {
            return Err(format!("it lists {} shards instead of {shards}", page.shards.len()));
        }
        (first..).zip(&page.shards).try_for_each(|(number, shard)| {
            let rows = rows_of(&self.split, number);
            let batches = rows.div_ceil(self.split.rows_per_batch);
            if shard.rows == rows && shard.batches.len() as u64 == u64::from(batches) {
                return Ok(());
            }
            let found = (shard.rows, shard.batches.len());
            Err(format!("shard {number} has {found:?} rows and batches, not {rows}, {batches}"))
        })
    }
}

/// The rows of shard `number`: all alike but for the last.
#[must_use]
pub fn rows_of(split: &SplitEntry, number: u32) -> u32 {
    let before = u64::from(number) * u64::from(split.rows_per_shard);
    (split.rows - before).min(u64::from(split.rows_per_shard)) as u32
}

/// The shard as something to fetch.
#[must_use]
pub fn shard_object(shard: &ShardEntry) -> Object {
    let (key, digest, bytes) = (shard_key(shard.digest), shard.digest, shard.bytes);
    Object::whole(key, digest, bytes, Purpose::Shard)
}

/// A shard's side file as something to fetch.
#[must_use]
pub fn origin_object(origin: ObjectEntry) -> Object {
    let ObjectEntry { digest, bytes } = origin;
    Object::whole(origin_key(digest), digest, bytes, Purpose::Shard)
}

pub(crate) fn read_record(lake: &Lake, key: &Key) -> Result<Option<Vec<u8>>, Error> {
    lake.read(key, Purpose::Manifest, record::LEN_BYTES_MAX).map_err(in_lake(lake, "read", key))
}

pub(crate) fn decode<R: record::Record>(
    lake: &Lake,
    key: &Key,
    bytes: &[u8],
) -> Result<(R, Digest), Error> {
    record::decode(bytes, key.as_str())
        .map_err(|source| Error::Format { lake: lake.url().into(), source })
}

pub(crate) fn damaged(lake: &Lake, key: &Key, what: String) -> Error {
    let source = forebay_format::Error::damaged(key, what);
    Error::Format { lake: lake.url().into(), source }
}

fn in_lake(lake: &Lake, act: &'static str, key: &Key) -> impl FnOnce(forebay_lake::Error) -> Error {
    let (object, lake) = (key.clone(), lake.url().to_owned());
    move |source| Error::Lake { act, object, lake, source: Box::new(source) }
}
