//! Where the files lie, and which there are.

use std::collections::BTreeMap;

use forebay_lake::{Error as LakeError, Lake};
use forebay_runtime::Runtime;
use forebay_types::Key;

use crate::{Error, natural};

/// The most endings that are counted apart: a manifest must not grow with strange names.
const ENDINGS_MAX: usize = 64;
const ENDING_BYTES_MAX: usize = 16;
/// What files without an ending, and those beyond the limits, are counted as.
const OTHER: &str = "other";

/// Where the files of a dataset lie.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// The URL of their store, which is only read; none if it is the lake.
    pub store: Option<String>,
    /// The folders and files of it that are looked through. An empty one is all of the store.
    pub paths: Vec<String>,
}

/// A file of the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) key: Key,
    /// Its key below the path it was found through.
    pub(crate) path: String,
    pub(crate) bytes: u64,
    pub(crate) modified_unix_ms: u64,
}

/// A source, opened.
pub(crate) struct Opened {
    pub(crate) lake: Lake,
    /// Its URL, unless it is the lake.
    pub(crate) store: Option<String>,
    /// As given, without slashes around them.
    pub(crate) paths: Vec<String>,
}

impl Source {
    /// Opens it beside the lake that the index is kept in.
    pub(crate) fn open(&self, lake: &Lake, runtime: &Runtime) -> Result<Opened, Error> {
        let mut paths: Vec<String> =
            self.paths.iter().map(|path| path.trim_matches('/').to_owned()).collect();
        if paths.is_empty() {
            paths.push(String::new());
        }
        let opened = match &self.store {
            Some(url) => Lake::open_existing(url, runtime)?,
            None => lake.clone(),
        };
        let store = (opened.url() != lake.url()).then(|| opened.url().to_owned());
        if store.is_none() && paths.iter().any(String::is_empty) {
            return Err(Error::WholeLake { lake: lake.url().into() });
        }
        Ok(Opened { lake: opened, store, paths })
    }
}

impl Opened {
    /// Every file at or below the paths, each once, in natural order.
    pub(crate) fn files(&self) -> Result<Vec<File>, Error> {
        let mut found = BTreeMap::new();
        for path in &self.paths {
            let before = found.len();
            let below = if path.is_empty() { String::new() } else { format!("{path}/") };
            self.list(&below, &mut found)?;
            if found.len() == before && !path.is_empty() {
                self.list(path, &mut found)?;
            }
            let there =
                |file: &File| file.key.as_str() == path || file.key.as_str().starts_with(&below);
            if !found.values().any(there) {
                return Err(Error::NothingThere { path: path.clone(), store: self.url().into() });
            }
        }
        let mut files: Vec<File> = found.into_values().collect();
        files.sort_by(|a, b| natural::compare(a.key.as_str(), b.key.as_str()));
        Ok(files)
    }

    /// Lists files below the folder `wanted`, which ends with a slash or is empty, or the file
    /// `wanted`.
    fn list(&self, wanted: &str, found: &mut BTreeMap<Key, File>) -> Result<(), LakeError> {
        let is_folder = wanted.is_empty() || wanted.ends_with('/');
        self.lake.list(wanted, &mut |listed| {
            if is_folder || listed.key.as_str() == wanted {
                let path = match is_folder {
                    true => listed.key.as_str()[wanted.len()..].to_owned(),
                    false => listed.key.file_name().to_owned(),
                };
                let (bytes, modified_unix_ms) = (listed.bytes, listed.modified_unix_ms);
                let file = File { key: listed.key.clone(), path, bytes, modified_unix_ms };
                // Found through two paths, it counts as found through the first.
                found.entry(listed.key).or_insert(file);
            }
            Ok(())
        })
    }

    /// Lists again, and refuses if any of `files` is not what it was.
    pub(crate) fn check_unchanged(&self, files: &[File]) -> Result<(), Error> {
        let now: BTreeMap<Key, (u64, u64)> = self
            .files()?
            .into_iter()
            .map(|file| (file.key, (file.bytes, file.modified_unix_ms)))
            .collect();
        let same = |file: &&File| now.get(&file.key) == Some(&(file.bytes, file.modified_unix_ms));
        match files.iter().find(|file| !same(file)) {
            Some(file) => Err(self.changed(&file.key)),
            None => Ok(()),
        }
    }

    pub(crate) fn changed(&self, file: &Key) -> Error {
        Error::FileChanged { file: file.clone(), store: self.url().into() }
    }

    pub(crate) fn url(&self) -> &str {
        self.lake.url()
    }
}

/// Counts files by the ending of their names.
#[derive(Clone, Debug, Default)]
pub(crate) struct Endings {
    pub(crate) counts: BTreeMap<String, u64>,
}

impl Endings {
    pub(crate) fn count(&mut self, file: &File) {
        let ending = file.key.file_name().rsplit_once('.').map_or(OTHER, |(_, ending)| ending);
        let fits = (1..=ENDING_BYTES_MAX).contains(&ending.len());
        let mut ending = if fits { ending.to_ascii_lowercase() } else { OTHER.to_owned() };
        if self.counts.len() >= ENDINGS_MAX && !self.counts.contains_key(&ending) {
            ending = OTHER.to_owned();
        }
        *self.counts.entry(ending).or_default() += 1;
    }

    /// The counts in parentheses, after a space; nothing if there are none.
    pub(crate) fn text(&self) -> String {
        let each: Vec<String> =
            self.counts.iter().map(|(ending, count)| format!("{ending} {count}")).collect();
        if each.is_empty() { String::new() } else { format!(" ({})", each.join(", ")) }
    }
}
