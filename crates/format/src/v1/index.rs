//! The index manifest: a dataset version whose bytes stay where and as they are.
//!
//! It lies where a dataset's manifest lies, `datasets/<name>/v<n>.json`, and takes part in the same
//! numbering; the record's format tells the two apart. It names *extents*, byte ranges of whole
//! rows in files of another project's format, through pages, as the dataset manifest names shards.
//!
//! Extents have as many rows as their files gave; so that the place of a row is arithmetic all the
//! same, the order works on *portions* of `rows_per_portion` consecutive rows, and the row numbers
//! at which pages and extents start say which extents a portion lies in.

use std::collections::BTreeMap;

use forebay_types::{Digest, Form, Key, Name, Nonce, Schema, Split, Version};
use serde::{Deserialize, Serialize};

use crate::record::Record;

/// The number of extents one page lists.
pub const EXTENTS_PER_PAGE: u32 = 256;
/// A checksum covers so many bytes of an extent's content; the last covers what is left.
pub const BLOCK_BYTES: u64 = 1 << 20;

/// One version of a dataset that was indexed where it lies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IndexManifest {
    /// The dataset's name.
    pub name: Name,
    /// This version's number.
    pub version: Version,
    /// The version before it, if there is one.
    pub parent: Option<Version>,
    /// Equal identities have equal samples: a digest over format, schema, context and every extent.
    pub identity: Digest,
    /// When it was published, in milliseconds since 1970.
    pub created_unix_ms: u64,
    /// Made by its writer, who recognizes its own record by it.
    pub nonce: Nonce,
    /// The dialect that reads it: `webdataset`, `parquet`, …
    pub dialect: String,
    /// What the dialect needs beside an extent's bytes.
    pub context: String,
    /// The store the files lie in; none if it is the lake that holds this manifest.
    pub store: Option<String>,
    /// What every sample consists of.
    pub schema: Schema,
    /// The splits, in the order of [`Split::ALL`].
    pub splits: Vec<IndexSplit>,
    /// How many files were indexed, and how many were passed over because the dialect does not
    /// claim them, by the ending of their names.
    pub files: u64,
    /// Files passed over.
    pub passed_over: BTreeMap<String, u64>,
}

/// One split of an indexed dataset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IndexSplit {
    /// Which.
    pub split: Split,
    /// All its rows.
    pub rows: u64,
    /// Rows in every portion but the last.
    pub rows_per_portion: u32,
    /// Its extents.
    pub extents: u64,
    /// The sum of the lengths of their content.
    pub content_bytes: u64,
    /// The content of the largest extent.
    pub extent_bytes_max: u64,
    /// The pages that list them, [`EXTENTS_PER_PAGE`] on each, in order.
    pub pages: Vec<IndexPageEntry>,
}

/// Where a page lies ([`index_page_key`]), and the number of its first row in the split.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IndexPageEntry {
    /// The digest of its body.
    pub digest: Digest,
    /// The number in the split of its first extent's first row.
    pub first_row: u64,
}

/// Up to [`EXTENTS_PER_PAGE`] extents of one split, in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IndexPage {
    /// The extents.
    pub extents: Vec<ExtentEntry>,
}

/// A run of whole rows in one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExtentEntry {
    /// The file, as a key of its store.
    pub file: Key,
    /// Where the extent starts in it.
    pub offset: u64,
    /// How long it is there, as stored.
    pub stored_bytes: u64,
    /// How its content is made from the stored bytes.
    pub form: Form,
    /// The digest of its content: what the local tier keeps it by.
    pub digest: Digest,
    /// The length of its content.
    pub bytes: u64,
    /// Its rows.
    pub rows: u32,
    /// CRC-32C of each [`BLOCK_BYTES`] of the content, checked by every reader.
    pub blocks_crc32c: Vec<u32>,
}

impl Record for IndexManifest {
    const FORMAT: &'static str = "forebay.index";
    const VERSION: u32 = 1;

    fn check(&self) -> Result<(), String> {
        self.splits.iter().try_for_each(IndexSplit::check)
    }
}

impl IndexSplit {
    fn check(&self) -> Result<(), String> {
        let split = self.split;
        if self.rows_per_portion == 0 {
            return Err(format!("split {split} has portions of no rows"));
        }
        let pages = self.extents.div_ceil(u64::from(EXTENTS_PER_PAGE));
        if self.pages.len() as u64 != pages {
            let found = self.pages.len();
            return Err(format!("split {split} lists {found} pages for {} extents", self.extents));
        }
        let firsts: Vec<u64> = self.pages.iter().map(|page| page.first_row).collect();
        let sorted = firsts.windows(2).all(|pair| pair[0] < pair[1]);
        let inside = firsts.last().is_none_or(|&last| last < self.rows);
        if !sorted || !inside || firsts.first().is_some_and(|&first| first != 0) {
            return Err(format!("the pages of split {split} do not start at rows in order"));
        }
        Ok(())
    }
}

impl Record for IndexPage {
    const FORMAT: &'static str = "forebay.index.page";
    const VERSION: u32 = 1;

    fn check(&self) -> Result<(), String> {
        if self.extents.len() > EXTENTS_PER_PAGE as usize {
            return Err(format!("{} extents on a page", self.extents.len()));
        }
        self.extents.iter().try_for_each(|extent| {
            let blocks = extent.bytes.div_ceil(BLOCK_BYTES);
            if extent.rows == 0 || extent.blocks_crc32c.len() as u64 != blocks {
                return Err(format!(
                    "an extent of {} has {} rows and {} checksums",
                    extent.file,
                    extent.rows,
                    extent.blocks_crc32c.len()
                ));
            }
            Ok(())
        })
    }
}

impl IndexManifest {
    /// The entry of `split`, if the dataset has it.
    #[must_use]
    pub fn split(&self, split: Split) -> Option<&IndexSplit> {
        self.splits.iter().find(|entry| entry.split == split)
    }
}

/// Where a page lies.
#[must_use]
pub fn index_page_key(digest: Digest) -> Key {
    Key::new(format!("shards/{digest}.index.json")).expect("a digest makes a sound key")
}
