//! The package manifest: the one object whose presence makes an archived model exist.
//!
//! `packages/<model>/v<n>.json` is a record, written last and only if absent. It lists every file
//! with two digests; the files lie in `packages/<model>/<content>/`, a directory named by the
//! content, so two attempts never write into each other's files and a crashed one leaves only a
//! directory that no manifest names.

use forebay_types::{Digest, DigestWriter, Key, Name, Nonce, Sha256, Split, Version};
use serde::{Deserialize, Serialize};

use super::{
    dataset::{RecordCounts, SourceEntry, TokenSchema, TokenizerEntry},
    run::DatasetReference,
};
use crate::record::Record;

/// The most files a package has.
pub const FILES_MAX: usize = 4096;

/// The file that holds the weights.
pub const WEIGHTS: &str = "weights.safetensors";

/// The file that `sha256sum -c` reads.
pub const SUMS: &str = "SHA256SUMS";

/// The files that follow from the others, and do not name the content.
pub const DERIVED: [&str; 2] = [SUMS, WEIGHTS];

/// Where a restored package keeps its manifest; no file of a package is called so.
pub const MANIFEST: &str = "package.json";

/// One published version of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackageManifest {
    /// The model's name.
    pub model: Name,
    /// This version's number.
    pub version: Version,
    /// When it was published, in milliseconds since 1970.
    pub created_unix_ms: u64,
    /// Made by its writer, who recognizes its own record by it.
    pub nonce: Nonce,
    /// [`content_digest`] of `files`: equal contents are equal packages.
    pub content: Digest,
    /// What the model was made from.
    pub lineage: PackageLineage,
    /// Every file, ordered by path.
    pub files: Vec<PackageFile>,
}

/// What the model was made from, each link by digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackageLineage {
    /// The run that trained it.
    pub run: Name,
    /// The digest of the run record's body.
    pub run_digest: Digest,
    /// Steps taken.
    pub step: u64,
    /// The digest of the checkpoint's commit.
    pub checkpoint: Digest,
    /// What it learned from.
    pub dataset: DatasetReference,
    /// The digest of the evaluation record's body.
    pub evaluation: Digest,
}

/// One file of a package.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackageFile {
    /// Its path below the package's directory.
    pub path: Key,
    /// Its length.
    pub bytes: u64,
    /// The digest Forebay verifies.
    pub blake3: Digest,
    /// The digest other tools verify.
    pub sha256: Sha256,
}

/// `lineage.json`: what leads from a package to every raw record its model saw.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LineageRecord {
    /// The links of the manifest.
    pub package: PackageLineage,
    /// The split it learned from.
    pub split: Split,
    /// The settings of the feed: with the dataset they say which samples each step saw.
    pub feed: serde_json::Value,
    /// How the samples were made.
    pub recipe: serde_json::Value,
    /// The digest of the recipe.
    pub recipe_digest: Digest,
    /// The tokenizer.
    pub tokenizer: TokenizerEntry,
    /// The shape of a sample.
    pub schema: TokenSchema,
    /// The raw objects, ordered by name.
    pub sources: Vec<SourceEntry>,
    /// What became of every raw record.
    pub counts: RecordCounts,
    /// The digest of what stands before the data of the weights' file: names, types, shapes.
    pub weights_header: Digest,
    /// The digest of each tensor's values, in the order of the file.
    pub weights: Vec<WeightEntry>,
}

/// One tensor of the model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WeightEntry {
    /// Its name.
    pub name: String,
    /// The digest of its values.
    pub digest: Digest,
}

impl Record for LineageRecord {
    const FORMAT: &'static str = "forebay.lineage";
    const VERSION: u32 = 1;
}

impl Record for PackageManifest {
    const FORMAT: &'static str = "forebay.package";
    const VERSION: u32 = 1;

    fn check(&self) -> Result<(), String> {
        if self.files.is_empty() || self.files.len() > FILES_MAX {
            return Err(format!("{} files; a package has 1 to {FILES_MAX}", self.files.len()));
        }
        if !self.files.is_sorted_by(|one, next| one.path < next.path) {
            return Err("its files are not in the order of their paths, each once".into());
        }
        if self.file(MANIFEST).is_some() {
            return Err(format!("it lists {MANIFEST}, which is the manifest itself"));
        }
        if self.content != content_digest(&self.files) {
            return Err("its content is not what its files add up to".into());
        }
        Ok(())
    }
}

impl PackageManifest {
    /// The entry of the file at `path`.
    #[must_use]
    pub fn file(&self, path: &str) -> Option<&PackageFile> {
        self.files.iter().find(|file| file.path.as_str() == path)
    }

    /// The bytes of all files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }
}

/// What names a package's content: BLAKE3 over what `b3sum` prints for its files, in the order of
/// their paths, without [`DERIVED`].
///
/// The weights are left out so that their directory is known before their first byte is read, and
/// they can be digested and written in one pass. They are pinned all the same: `lineage.json`
/// holds the digest of their header and of each tensor.
#[must_use]
pub fn content_digest(files: &[PackageFile]) -> Digest {
    let mut digest = DigestWriter::new();
    for file in files.iter().filter(|file| !DERIVED.contains(&file.path.as_str())) {
        digest.update(format!("{}  {}\n", file.blake3, file.path).as_bytes());
    }
    digest.finish()
}

/// Where version `version` of `model` is published.
#[must_use]
pub fn manifest_key(model: &Name, version: Version) -> Key {
    key(format!("packages/{model}/{version}.json"))
}

/// The prefix of the files of a package with this content, ending with `/`.
#[must_use]
pub fn directory(model: &Name, content: Digest) -> String {
    format!("packages/{model}/{content}/")
}

/// Where the file at `path` of a package with this content lies.
///
/// # Errors
/// [`forebay_types::KeyError`] when the path is too long for a key.
pub fn file_key(model: &Name, content: Digest, path: &Key) -> Result<Key, forebay_types::KeyError> {
    Key::new(format!("{}{path}", directory(model, content)))
}

fn key(text: String) -> Key {
    Key::new(text).expect("names and versions make sound keys")
}
