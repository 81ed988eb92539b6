//! The index manifest: a dataset version whose bytes stay where and as they are.
//!
//! It lies where a dataset's manifest lies, `datasets/<name>/v<n>.json`, and takes part in the same
//! numbering; the record's format tells the two apart. It names *extents*, byte ranges of whole
//! rows in files of another project's format, through pages, as the dataset manifest names shards.
//! A page ends after [`EXTENTS_PER_PAGE`] extents, or sooner if their entries are long (a wide
//! Parquet file describes each of its row groups at length), so the manifest says at which extent
//! and row each begins.
//!
//! A [`FileSurvey`] is what one file was found to hold: work that a later run need not do again.
//! No manifest relies on one.
//!
//! Extents have as many rows as their files gave; so that the place of a row is arithmetic all the
//! same, the order works on *portions* of `rows_per_portion` consecutive rows, and the row numbers
//! at which pages and extents start say which extents a portion lies in.

use std::collections::BTreeMap;

use forebay_types::{Digest, Form, Key, Name, Nonce, Schema, Split, Version};
use serde::{Deserialize, Serialize};

use crate::record::Record;

/// The most extents one page lists.
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
    /// The files and folders of the store that were looked through; an empty one is all of it.
    pub paths: Vec<String>,
    /// What every sample consists of.
    pub schema: Schema,
    /// The splits, in the order of [`Split::ALL`].
    pub splits: Vec<IndexSplit>,
    /// How many files were indexed.
    pub files: u64,
    /// The sum of their lengths, as they lie.
    pub file_bytes: u64,
    /// How many were passed over, because the dialect does not claim them or no split has them, by
    /// the ending of their names.
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
    /// The pages that list them, in order.
    pub pages: Vec<IndexPageEntry>,
}

/// Where a page lies ([`index_page_key`]), and where in the split it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IndexPageEntry {
    /// The digest of its body.
    pub digest: Digest,
    /// The number in the split of its first extent.
    pub first_extent: u64,
    /// The number in the split of that extent's first row.
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
    /// CRC-32C of each [`BLOCK_BYTES`] of the content, checked by every reader; stored as eight
    /// hexadecimal digits each, one after the other.
    #[serde(with = "checksums")]
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
        if self.pages.is_empty() != (self.extents == 0) || (self.extents == 0) != (self.rows == 0) {
            let (rows, extents, pages) = (self.rows, self.extents, self.pages.len());
            return Err(format!("split {split} has {rows} rows, {extents} extents, {pages} pages"));
        }
        let starts = |page: &IndexPageEntry| (page.first_extent, page.first_row);
        let ends = self.pages.iter().skip(1).map(starts).chain([(self.extents, self.rows)]);
        let mut at = (0, 0);
        for (page, end) in self.pages.iter().zip(ends) {
            let extents = end.0.checked_sub(page.first_extent);
            let rows = end.1.checked_sub(page.first_row);
            let sound = extents.zip(rows).is_some_and(|(extents, rows)| {
                (1..=u64::from(EXTENTS_PER_PAGE)).contains(&extents) && rows >= extents
            });
            if starts(page) != at || !sound {
                let digest = page.digest;
                return Err(format!(
                    "page {digest} of split {split} begins or ends where none can"
                ));
            }
            at = end;
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
        self.extents.iter().try_for_each(ExtentEntry::check)
    }
}

impl ExtentEntry {
    fn check(&self) -> Result<(), String> {
        let (file, rows, checksums) = (&self.file, self.rows, self.blocks_crc32c.len());
        if rows == 0 || checksums as u64 != self.bytes.div_ceil(BLOCK_BYTES) {
            return Err(format!("an extent of {file} has {rows} rows and {checksums} checksums"));
        }
        if self.form == Form::Plain && self.stored_bytes != self.bytes {
            let (stored, bytes) = (self.stored_bytes, self.bytes);
            return Err(format!("an extent of {file} has {bytes} bytes, and {stored} as stored"));
        }
        if self.offset.checked_add(self.stored_bytes).is_none() {
            return Err(format!("an extent of {file} ends beyond every file"));
        }
        Ok(())
    }
}

/// What one file was found to hold, or a part of that: one record holds at most
/// [`EXTENTS_PER_PAGE`] extents. The first part is written last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileSurvey {
    /// The file, as a key of its store.
    pub file: Key,
    /// This part's number, from 0.
    pub part: u32,
    /// The number of parts, at least 1.
    pub parts: u32,
    /// What its samples consist of.
    pub schema: Schema,
    /// What the dialect needs beside an extent's bytes.
    pub context: String,
    /// The extents of this part, in order.
    pub extents: Vec<ExtentEntry>,
}

impl Record for FileSurvey {
    const FORMAT: &'static str = "forebay.index.survey";
    const VERSION: u32 = 1;

    fn check(&self) -> Result<(), String> {
        if self.part >= self.parts {
            return Err(format!("part {} of {} parts", self.part, self.parts));
        }
        if let Some(extent) = self.extents.iter().find(|extent| extent.file != self.file) {
            return Err(format!("an extent of {} in a survey of {}", extent.file, self.file));
        }
        self.extents.iter().try_for_each(ExtentEntry::check)
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

/// Where a part of a file's survey lies. `of` is a digest over everything the survey depends on.
#[must_use]
pub fn survey_key(of: Digest, part: u32) -> Key {
    Key::new(format!("shards/{of}.survey-{part}.json")).expect("a digest makes a sound key")
}

/// Checksums as one text: an extent of 64 MiB has 64 of them, and as JSON numbers, one a line,
/// they would be most of a page.
mod checksums {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    const DIGITS: usize = 8;

    pub fn serialize<S: Serializer>(values: &[u32], serializer: S) -> Result<S::Ok, S::Error> {
        let text: String = values.iter().map(|value| format!("{value:08x}")).collect();
        serializer.serialize_str(&text)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u32>, D::Error> {
        let text = String::deserialize(deserializer)?;
        let value = |digits: &[u8]| {
            let sound = digits.len() == DIGITS
                && digits.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
            let digits = std::str::from_utf8(digits).ok().filter(|_| sound)?;
            u32::from_str_radix(digits, 16).ok()
        };
        text.as_bytes()
            .chunks(DIGITS)
            .map(value)
            .collect::<Option<_>>()
            .ok_or_else(|| D::Error::custom("checksums are eight hexadecimal digits each"))
    }
}
