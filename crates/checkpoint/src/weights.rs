//! Weights as other tools lay them out: safetensors files, one or several with an index.
//!
//! ```text
//! <directory>/model.safetensors                            one file, or
//! <directory>/model.safetensors.index.json                 {"weight_map": {"<tensor>": "<file>", …}}
//! <directory>/model-00001-of-00002.safetensors, …          those that the index names
//! ```
//!
//! Nothing they say is trusted: an index names files of its own directory alone, every header is
//! held against its file's length, and index and headers must name the same tensors in the same
//! files, each once. The directory is the user's: symbolic links in it are followed, which is how
//! download caches are laid out.
//!
//! # Bounds
//! An index of at most [`INDEX_BYTES_MAX`], [`FILES_MAX`] files, and headers of at most
//! [`HEADER_BYTES_MAX`] together. One file is open at a time; no tensor is held.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    fs::{self, File},
    io::Read,
    os::unix::fs::FileExt,
    path::{Component, Path, PathBuf},
};

use forebay_format::v1::tensors::{self, HEADER_BYTES_MAX, TensorPlace};
use serde::{Deserialize, Deserializer, de};

use crate::Error;

/// The name of a model's only file.
pub(crate) const SINGLE: &str = "model.safetensors";
/// The name of the index of several.
pub(crate) const INDEX: &str = "model.safetensors.index.json";
const EXTENSION: &str = ".safetensors";
/// What a directory of torch.distributed.checkpoint holds.
const DCP_METADATA: &str = ".metadata";
/// How files of torch.save begin, today's and those of old. No safetensors file does: its header would be
/// too long.
const TORCH_STARTS: [&[u8]; 2] = [b"PK\x03\x04", b"\x80\x02\x8a\x0a"];
/// The longest index that is read.
const INDEX_BYTES_MAX: u64 = 64 << 20;
/// The most files that an index may name.
const FILES_MAX: usize = 4096;
const PREFIX_BYTES: u64 = 8;

/// A tensor, and the file it lies in.
#[derive(Clone, Debug)]
pub(crate) struct Weight {
    file: usize,
    pub place: TensorPlace,
}

/// Safetensors files whose headers were read and checked.
#[derive(Debug)]
pub(crate) struct WeightFiles {
    files: Vec<PathBuf>,
    weights: Vec<Weight>,
}

impl WeightFiles {
    /// Reads the headers of a safetensors file, or of those of a directory.
    ///
    /// # Errors
    /// [`Error::Source`] when it is neither or its index does not fit its files; the format's error
    /// for a header that is damaged or hostile.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let found = fs::metadata(path).map_err(Error::file("read", path.display()))?;
        if found.is_file() {
            return Self::read(vec![path.to_owned()]);
        }
        let refuse = |what: &str| Error::source(path, what);
        if path.join(DCP_METADATA).is_file() {
            return Err(refuse(&python("a directory of torch.distributed.checkpoint")));
        }
        match (path.join(SINGLE).is_file(), path.join(INDEX).is_file()) {
            (true, true) => Err(refuse(
                "it holds model.safetensors and the index of other files; remove one of them, or \
                 name the file",
            )),
            (true, false) => Self::read(vec![path.join(SINGLE)]),
            (false, true) => Self::read_indexed(path),
            (false, false) => Err(refuse(
                "it holds neither model.safetensors nor model.safetensors.index.json; name a \
                 safetensors file",
            )),
        }
    }

    /// Every tensor, with where it lies.
    pub(crate) fn weights(&self) -> &[Weight] {
        &self.weights
    }

    /// The number of files.
    pub(crate) fn files(&self) -> usize {
        self.files.len()
    }

    /// Reads tensors piece by piece.
    pub(crate) fn reader(&self) -> WeightReader<'_> {
        WeightReader { files: &self.files, open: None }
    }

    fn read(files: Vec<PathBuf>) -> Result<Self, Error> {
        let mut weights = Vec::new();
        let mut header_bytes_left = HEADER_BYTES_MAX;
        for (file, path) in files.iter().enumerate() {
            let places = read_header(path, &mut header_bytes_left)?;
            weights.extend(places.into_iter().map(|place| Weight { file, place }));
        }
        Ok(Self { files, weights })
    }

    fn read_indexed(directory: &Path) -> Result<Self, Error> {
        let path = directory.join(INDEX);
        let mut expected = read_index(&path)?;
        let names: Vec<String> =
            expected.values().cloned().collect::<BTreeSet<_>>().into_iter().collect();
        if names.len() > FILES_MAX {
            return Err(Error::source(&path, format!("it names more than {FILES_MAX} files")));
        }
        let found = Self::read(names.iter().map(|name| directory.join(name)).collect())?;
        for Weight { file, place } in &found.weights {
            let (tensor, file) = (&place.spec.name, &names[*file]);
            if expected.remove(tensor).as_ref() != Some(file) {
                let what =
                    format!("`{file}` holds tensor `{tensor}`, which it does not place there");
                return Err(Error::source(&path, what));
            }
        }
        match expected.pop_first() {
            None => Ok(found),
            Some((tensor, file)) => {
                let what =
                    format!("`{file}` does not hold tensor `{tensor}`, which it places there");
                Err(Error::source(&path, what))
            }
        }
    }
}

/// Reads the tensors of [`WeightFiles`], with one file open at a time.
pub(crate) struct WeightReader<'a> {
    files: &'a [PathBuf],
    open: Option<(usize, File)>,
}

impl WeightReader<'_> {
    /// Fills `into` with the values of `weight` from `offset` on.
    pub(crate) fn read(
        &mut self,
        weight: &Weight,
        offset: u64,
        into: &mut [u8],
    ) -> Result<(), Error> {
        let path = &self.files[weight.file];
        let file = match self.open.take() {
            Some((number, file)) if number == weight.file => file,
            _ => open(path)?,
        };
        let (_, file) = self.open.insert((weight.file, file));
        let read = file.read_exact_at(into, weight.place.offset + offset);
        read.map_err(Error::file("read", path.display()))
    }
}

/// Says of what pickle is needed for who reads it.
fn python(what: &str) -> String {
    format!(
        "it is {what}, which is read in Python alone: `forebay.import_checkpoint(path, lake, run)`"
    )
}

/// Opens what is a file: a pipe or a device would be waited for.
fn open(path: &Path) -> Result<File, Error> {
    let failed = || Error::file("read", path.display());
    if !fs::metadata(path).map_err(failed())?.is_file() {
        return Err(Error::source(path, "it is no file"));
    }
    File::open(path).map_err(failed())
}

fn read_header(path: &Path, bytes_left: &mut u64) -> Result<Vec<TensorPlace>, Error> {
    let failed = || Error::file("read", path.display());
    let object = path.display().to_string();
    let damaged = |what: &str| forebay_format::Error::damaged(&object, what);
    let file = open(path)?;
    let file_bytes = file.metadata().map_err(failed())?.len();
    let Some(behind) = file_bytes.checked_sub(PREFIX_BYTES) else {
        return Err(damaged("it is too short for a safetensors file").into());
    };
    let mut prefix = [0; PREFIX_BYTES as usize];
    file.read_exact_at(&mut prefix, 0).map_err(failed())?;
    if TORCH_STARTS.iter().any(|start| prefix.starts_with(start)) {
        return Err(Error::source(path, python("a file of torch.save")));
    }
    let bytes = tensors::header_bytes(prefix, &object)?;
    if bytes > behind {
        return Err(damaged("its header is longer than the file").into());
    }
    *bytes_left = bytes_left.checked_sub(bytes).ok_or_else(|| {
        Error::source(path, format!("the headers up to here exceed {HEADER_BYTES_MAX} bytes"))
    })?;
    let mut json = vec![0; bytes as usize];
    file.read_exact_at(&mut json, PREFIX_BYTES).map_err(failed())?;
    Ok(tensors::parse(&json, file_bytes, &object)?)
}

/// Which file each tensor lies in, by name.
fn read_index(path: &Path) -> Result<BTreeMap<String, String>, Error> {
    let mut json = Vec::new();
    let limited = open(path)?.take(INDEX_BYTES_MAX + 1).read_to_end(&mut json);
    limited.map_err(Error::file("read", path.display()))?;
    if json.len() as u64 > INDEX_BYTES_MAX {
        return Err(Error::source(path, format!("it has more than {INDEX_BYTES_MAX} bytes")));
    }
    let index: Index = serde_json::from_slice(&json)
        .map_err(|error| forebay_format::Error::damaged(path.display(), error))?;
    match index.weight_map.0.values().find(|name| !is_file_name(name)) {
        None => Ok(index.weight_map.0),
        Some(name) => {
            Err(Error::source(path, format!("{name:?} is no name of a {EXTENSION} file")))
        }
    }
}

/// Whether a text names a safetensors file in a directory, and nothing else anywhere.
fn is_file_name(text: &str) -> bool {
    let mut components = Path::new(text).components();
    let single = matches!(components.next(), Some(Component::Normal(name)) if name == text);
    single && components.next().is_none() && text.ends_with(EXTENSION) && !text.contains('\0')
}

/// What is read of an index; other tools say more.
#[derive(Deserialize)]
struct Index {
    weight_map: Names,
}

/// Texts by name. A name that stands twice is refused: readers would disagree about which holds.
struct Names(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(NamesVisitor)
    }
}

struct NamesVisitor;

impl<'de> de::Visitor<'de> for NamesVisitor {
    type Value = Names;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a map from tensors to files")
    }

    fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Names, A::Error> {
        let mut names = BTreeMap::new();
        while let Some((name, text)) = map.next_entry::<String, String>()? {
            if names.insert(name.clone(), text).is_some() {
                return Err(de::Error::custom(format!("the name `{name}` stands twice")));
            }
        }
        Ok(Names(names))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_plain_name_is_a_file_name() {
        assert!(is_file_name("model-00001-of-00002.safetensors"));
        for text in [
            "",
            "..",
            "/etc/x.safetensors",
            "../x.safetensors",
            "./x.safetensors",
            "a/x.safetensors",
            "x.safetensors/",
            "x.safetensors/.",
            "x\0.safetensors",
            "x.bin",
        ] {
            assert!(!is_file_name(text), "{text:?}");
        }
    }
}
