//! The dataset manifest: the one object whose presence makes a dataset version exist.
//!
//! `datasets/<name>/v<n>.json` is a record. It names its shards through *pages* of up to
//! [`SHARDS_PER_PAGE`] entries, so that opening a dataset of 10^6 shards reads one small object;
//! a page is fetched when a shard on it is first needed.
//!
//! Every shard of a split holds exactly `rows_per_shard` rows, but for the last, which holds at
//! most that many; every batch of a shard holds `rows_per_batch`, but for its last. So the place
//! of a row is arithmetic, and no index grows with the data.

use std::collections::BTreeMap;

use forebay_types::{Digest, Key, Name, Nonce, Split, Version};
use serde::{Deserialize, Serialize};

use crate::record::Record;

/// The number of shards one page lists: with 256 batches to a shard a page stays below half of
/// what a record may hold.
pub const SHARDS_PER_PAGE: u32 = 256;

/// One published version of a dataset.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasetManifest {
    /// The dataset's name.
    pub name: Name,
    /// This version's number.
    pub version: Version,
    /// The version before it, if there is one.
    pub parent: Option<Version>,
    /// Equal identities have equal samples: a digest over the recipe's digest and every source's.
    pub identity: Digest,
    /// When it was published, in milliseconds since 1970.
    pub created_unix_ms: u64,
    /// Made by its writer, who recognizes its own record by it.
    pub nonce: Nonce,
    /// How the samples were made.
    pub recipe: serde_json::Value,
    /// The digest of the recipe.
    pub recipe_digest: Digest,
    /// The tokenizer.
    pub tokenizer: TokenizerEntry,
    /// The shape of a row.
    pub schema: TokenSchema,
    /// The raw objects that were read, ordered by name.
    pub sources: Vec<SourceEntry>,
    /// The splits, in the order of [`Split::ALL`].
    pub splits: Vec<SplitEntry>,
    /// What became of every record that was read.
    pub counts: RecordCounts,
    /// The records that could not be read, if there were any.
    pub quarantine: Option<ObjectEntry>,
}

/// How tokens were made from text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenizerEntry {
    /// `byte` or `tokenizer.json`.
    pub kind: String,
    /// The digest of what defines it.
    pub digest: Digest,
    /// Token ids lie below this.
    pub vocabulary_size: u32,
    /// The token that ends each document.
    pub end_of_document: u32,
}

/// The shape of a row: `row_tokens` tokens, each an unsigned integer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenSchema {
    /// Tokens in a row.
    pub row_tokens: u32,
    /// Bytes of a token: 2 or 4, little-endian.
    pub token_bytes: u32,
}

impl TokenSchema {
    /// The bytes of one row's tokens.
    #[must_use]
    pub const fn row_bytes(self) -> usize {
        self.row_tokens as usize * self.token_bytes as usize
    }
}

/// A raw object that was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceEntry {
    /// Its path below the source's root.
    pub name: String,
    /// Its length as it lies, compressed or not.
    pub bytes: u64,
    /// The digest of these bytes.
    pub digest: Digest,
    /// The records found in it, good and bad.
    pub records: u64,
}

/// One split of a dataset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SplitEntry {
    /// Which.
    pub split: Split,
    /// All its rows.
    pub rows: u64,
    /// The documents in it.
    pub documents: u64,
    /// Rows in every shard but the last.
    pub rows_per_shard: u32,
    /// Rows in every batch of a shard but its last.
    pub rows_per_batch: u32,
    /// The number of shards: `rows / rows_per_shard`, rounded up.
    pub shards: u32,
    /// The digests of the pages that list them, [`SHARDS_PER_PAGE`] on each; a page lies at
    /// [`page_key`].
    pub pages: Vec<Digest>,
}

/// Up to [`SHARDS_PER_PAGE`] shards of one split, in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardPage {
    /// The shards.
    pub shards: Vec<ShardEntry>,
}

/// One shard, at [`shard_key`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardEntry {
    /// The digest of the whole file, and its name.
    pub digest: Digest,
    /// Its length.
    pub bytes: u64,
    /// Its rows.
    pub rows: u32,
    /// Its record batches, in order.
    pub batches: Vec<BatchEntry>,
    /// The side file that maps its rows to raw records, at [`origin_key`].
    pub origin: ObjectEntry,
}

/// One record batch of a shard: its message and body, as a byte range of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchEntry {
    /// Where it starts.
    pub offset: u64,
    /// How long it is.
    pub bytes: u64,
    /// CRC-32C of these bytes, checked by every reader before it hands a row out.
    pub crc32c: u32,
}

/// An object that is named by its digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObjectEntry {
    /// The digest of its bytes.
    pub digest: Digest,
    /// Its length.
    pub bytes: u64,
}

/// What became of every record that was read.
///
/// `read = kept + dropped + quarantined`, summed over reasons.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordCounts {
    /// All records.
    pub read: u64,
    /// Records whose text is in a row.
    pub kept: u64,
    /// Good records left out, by reason (`empty`, `too_short`, `duplicate`, …).
    pub dropped: BTreeMap<String, u64>,
    /// Records that could not be read, by reason.
    pub quarantined: BTreeMap<String, u64>,
    /// Tokens that did not fill a last row, per split.
    pub tokens_cut: BTreeMap<Split, u64>,
}

impl Record for DatasetManifest {
    const FORMAT: &'static str = "forebay.dataset";
    const VERSION: u32 = 1;

    fn check(&self) -> Result<(), String> {
        let counts = &self.counts;
        let left = counts.dropped.values().chain(counts.quarantined.values()).sum::<u64>();
        if counts.read != counts.kept + left {
            return Err(format!(
                "{} records read, {} accounted for",
                counts.read,
                counts.kept + left
            ));
        }
        if !matches!(self.schema.token_bytes, 2 | 4) || self.schema.row_tokens == 0 {
            return Err(format!("no rows have the shape {:?}", self.schema));
        }
        self.splits.iter().try_for_each(SplitEntry::check)
    }
}

impl SplitEntry {
    fn check(&self) -> Result<(), String> {
        if self.rows_per_shard == 0 || self.rows_per_batch == 0 {
            return Err(format!("split {} has shards or batches of no rows", self.split));
        }
        let shards = self.rows.div_ceil(u64::from(self.rows_per_shard));
        let pages = u64::from(self.shards).div_ceil(u64::from(SHARDS_PER_PAGE));
        if u64::from(self.shards) != shards || self.pages.len() as u64 != pages {
            return Err(format!(
                "split {} lists {} shards on {} pages for {} rows",
                self.split,
                self.shards,
                self.pages.len(),
                self.rows
            ));
        }
        Ok(())
    }
}

impl Record for ShardPage {
    const FORMAT: &'static str = "forebay.dataset.page";
    const VERSION: u32 = 1;

    fn check(&self) -> Result<(), String> {
        if self.shards.len() > SHARDS_PER_PAGE as usize {
            return Err(format!("{} shards on a page", self.shards.len()));
        }
        Ok(())
    }
}

impl DatasetManifest {
    /// The entry of `split`, if the dataset has it.
    #[must_use]
    pub fn split(&self, split: Split) -> Option<&SplitEntry> {
        self.splits.iter().find(|entry| entry.split == split)
    }
}

/// Where version `version` of dataset `name` is published.
#[must_use]
pub fn manifest_key(name: &Name, version: Version) -> Key {
    key(format!("datasets/{name}/{version}.json"))
}

/// Where a page lies.
#[must_use]
pub fn page_key(digest: Digest) -> Key {
    key(format!("shards/{digest}.page.json"))
}

/// Where a shard lies.
#[must_use]
pub fn shard_key(digest: Digest) -> Key {
    key(format!("shards/{digest}.arrow"))
}

/// Where a shard's side file lies.
#[must_use]
pub fn origin_key(digest: Digest) -> Key {
    key(format!("shards/{digest}.origin.arrow"))
}

/// Where a quarantine file lies.
#[must_use]
pub fn quarantine_key(digest: Digest) -> Key {
    key(format!("shards/{digest}.quarantine.jsonl"))
}

/// Where a dataset's `tokenizer.json` lies, so that the dataset needs nothing from outside.
#[must_use]
pub fn tokenizer_key(digest: Digest) -> Key {
    key(format!("shards/{digest}.tokenizer.json"))
}

fn key(text: String) -> Key {
    Key::new(text).expect("names and digests make sound keys")
}
