//! Raw sources: which files there are, what they are by their names, and reading them.
//!
//! Symbolic links are not followed and hidden files not read; both are reported, as are files of
//! other kinds. A source is read twice, once for its digest and once for its records, and must
//! have the same digest both times.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

use flate2::bufread::MultiGzDecoder;
use forebay_types::{Digest, DigestWriter};

use crate::{Error, raw::Cut, recipe::TextRecords};

/// What a manifest has room for.
pub(crate) const SOURCES_MAX: usize = 50_000;

const BUFFER_BYTES: usize = 256 << 10;

/// A raw file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    /// Its path below the root, with `/` on every system.
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    pub(crate) bytes: u64,
    pub(crate) cut: Cut,
    packed: Packed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Packed {
    Plain,
    Gzip,
    Zstd,
}

/// The files found below a root.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Those to read, ordered by name.
    pub(crate) sources: Vec<Source>,
    /// The names of those left alone, ordered.
    pub(crate) ignored: Vec<String>,
}

/// Finds the raw files at or below `root`.
pub(crate) fn find(root: &Path, text_records: TextRecords) -> Result<Found, Error> {
    let mut found = Found::default();
    if fs::metadata(root).map_err(in_path(root))?.is_file() {
        let parent = root.parent().unwrap_or(root);
        found.add(parent, root.to_owned(), text_records)?;
    } else {
        found.walk(root, text_records)?;
    }
    found.sources.sort_by(|a, b| a.name.cmp(&b.name));
    found.ignored.sort();
    match found.sources.len() {
        0 => Err(Error::NoSources { path: root.into() }),
        SOURCES_MAX.. => {
            let (found, limit) = (found.sources.len(), SOURCES_MAX);
            Err(Error::TooManySources { path: root.into(), found, limit })
        }
        _ => Ok(found),
    }
}

fn in_path(path: &Path) -> impl Fn(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Read { path: path.clone(), source }
}

impl Found {
    fn walk(&mut self, root: &Path, text_records: TextRecords) -> Result<(), Error> {
        let mut directories = vec![root.to_owned()];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(&directory).map_err(in_path(&directory))? {
                let entry = entry.map_err(in_path(&directory))?;
                let kind = entry.file_type().map_err(in_path(&entry.path()))?;
                let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
                if hidden || !(kind.is_dir() || kind.is_file()) {
                    self.ignored.push(name(root, &entry.path())?);
                } else if kind.is_dir() {
                    directories.push(entry.path());
                } else {
                    self.add(root, entry.path(), text_records)?;
                }
            }
        }
        Ok(())
    }

    fn add(&mut self, root: &Path, path: PathBuf, text_records: TextRecords) -> Result<(), Error> {
        let name = name(root, &path)?;
        let Some((cut, packed)) = kind(&name, text_records) else {
            self.ignored.push(name);
            return Ok(());
        };
        let bytes = fs::metadata(&path).map_err(in_path(&path))?.len();
        self.sources.push(Source { name, path, bytes, cut, packed });
        Ok(())
    }
}

fn name(root: &Path, path: &Path) -> Result<String, Error> {
    let refuse = |what| Error::SourceName { path: path.into(), what };
    let below = path.strip_prefix(root).unwrap_or(path);
    let segments = below.iter().map(|segment| segment.to_str()).collect::<Option<Vec<_>>>();
    let name = segments.ok_or_else(|| refuse("its name is not Unicode"))?.join("/");
    if name.chars().any(char::is_control) {
        return Err(refuse("its name has control characters in it"));
    }
    Ok(name)
}

fn kind(name: &str, text_records: TextRecords) -> Option<(Cut, Packed)> {
    let (stem, packed) = match name.rsplit_once('.')? {
        (stem, "gz") => (stem, Packed::Gzip),
        (stem, "zst") => (stem, Packed::Zstd),
        _ => (name, Packed::Plain),
    };
    match stem.rsplit_once('.')?.1 {
        "jsonl" | "ndjson" => Some((Cut::JsonLines, packed)),
        "txt" => Some((Cut::Text(text_records), packed)),
        _ => None,
    }
}

impl Source {
    /// The digest of the file as it lies, told piece by piece to `progress`.
    pub(crate) fn digest(
        &self,
        mut progress: impl FnMut(u64) -> Result<(), Error>,
    ) -> Result<Digest, Error> {
        let mut file = File::open(&self.path).map_err(in_path(&self.path))?;
        let mut digest = DigestWriter::new();
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            match file.read(&mut buffer) {
                Ok(0) => return Ok(digest.finish()),
                Ok(count) => {
                    digest.update(&buffer[..count]);
                    progress(count as u64)?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(in_path(&self.path)(error)),
            }
        }
    }

    /// Opens the file for reading its text.
    pub(crate) fn open(&self) -> Result<Text, Error> {
        let file = File::open(&self.path).map_err(in_path(&self.path))?;
        let file = Raw { file, digest: DigestWriter::new(), failed: None };
        let file = BufReader::with_capacity(BUFFER_BYTES, file);
        Ok(match self.packed {
            Packed::Plain => Text::Plain(Box::new(file)),
            Packed::Gzip => Text::Gzip(buffered(MultiGzDecoder::new(file))),
            Packed::Zstd => {
                let decoder = zstd::stream::read::Decoder::with_buffer(file);
                Text::Zstd(buffered(decoder.map_err(in_path(&self.path))?))
            }
        })
    }
}

fn buffered<R: Read>(source: R) -> Box<BufReader<R>> {
    Box::new(BufReader::with_capacity(BUFFER_BYTES, source))
}

/// The bytes of a file as they lie, digested on their way.
#[derive(Debug)]
pub(crate) struct Raw {
    file: File,
    digest: DigestWriter,
    /// That the file failed, which is no damage of the data in it.
    failed: Option<io::Error>,
}

impl Read for Raw {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self.file.read(into) {
            Ok(count) => {
                self.digest.update(&into[..count]);
                Ok(count)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(error) => {
                let kind = error.kind();
                self.failed = Some(error);
                Err(kind.into())
            }
        }
    }
}

/// The text of a source, decompressed.
pub(crate) enum Text {
    Plain(Box<BufReader<Raw>>),
    Gzip(Box<BufReader<MultiGzDecoder<BufReader<Raw>>>>),
    Zstd(Box<BufReader<zstd::stream::read::Decoder<'static, BufReader<Raw>>>>),
}

impl Text {
    /// How much of the file was read so far.
    pub(crate) fn raw_bytes(&self) -> u64 {
        let raw = match self {
            Self::Plain(file) => file.get_ref(),
            Self::Gzip(decoder) => decoder.get_ref().get_ref().get_ref(),
            Self::Zstd(decoder) => decoder.get_ref().get_ref().get_ref(),
        };
        raw.digest.len_bytes()
    }

    /// Reads what the decoder left unread, and returns the digest of the whole file.
    pub(crate) fn finish(self, source: &Source) -> Result<Digest, Error> {
        let mut raw = match self {
            Self::Plain(file) => file.into_inner(),
            Self::Gzip(decoder) => decoder.into_inner().into_inner().into_inner(),
            Self::Zstd(decoder) => decoder.into_inner().finish().into_inner(),
        };
        if let Some(error) = raw.failed.take() {
            return Err(in_path(&source.path)(error));
        }
        io::copy(&mut raw, &mut io::sink()).map_err(in_path(&source.path))?;
        Ok(raw.digest.finish())
    }
}

impl Read for Text {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(text) => text.read(into),
            Self::Gzip(text) => text.read(into),
            Self::Zstd(text) => text.read(into),
        }
    }
}

impl BufRead for Text {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        match self {
            Self::Plain(text) => text.fill_buf(),
            Self::Gzip(text) => text.fill_buf(),
            Self::Zstd(text) => text.fill_buf(),
        }
    }

    fn consume(&mut self, count: usize) {
        match self {
            Self::Plain(text) => text.consume(count),
            Self::Gzip(text) => text.consume(count),
            Self::Zstd(text) => text.consume(count),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn names(sources: &[Source]) -> Vec<&str> {
        sources.iter().map(|source| source.name.as_str()).collect()
    }

    #[test]
    fn files_are_found_by_name_in_order_and_the_others_reported() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        fs::create_dir(path("b")).unwrap();
        fs::create_dir(path(".git")).unwrap();
        for name in ["b/x.jsonl.gz", "b.txt", "a.ndjson.zst", "z.csv", ".h.txt", ".git/g.txt"] {
            fs::write(path(name), "x").unwrap();
        }
        std::os::unix::fs::symlink(path("b.txt"), path("link.txt")).unwrap();
        std::os::unix::fs::symlink(root.path(), path("loop")).unwrap();
        let found = find(root.path(), TextRecords::Line).unwrap();
        assert_eq!(names(&found.sources), ["a.ndjson.zst", "b.txt", "b/x.jsonl.gz"]);
        assert_eq!(found.ignored, [".git", ".h.txt", "link.txt", "loop", "z.csv"]);
        let one = find(&path("b.txt"), TextRecords::Line).unwrap();
        assert_eq!(names(&one.sources), ["b.txt"]);
        for (path, kind) in [("z.csv", "holds no raw text"), ("none", "cannot read")] {
            let error = find(&root.path().join(path), TextRecords::Line).unwrap_err();
            assert!(error.to_string().contains(kind), "{error}");
        }
    }

    #[test]
    fn names_with_control_characters_are_refused() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("a\nb.txt"), "x").unwrap();
        let error = find(root.path(), TextRecords::Line).unwrap_err();
        assert!(matches!(error, Error::SourceName { .. }), "{error}");
    }

    fn text_and_digest(root: &Path, name: &str, bytes: &[u8]) -> (io::Result<String>, bool) {
        fs::write(root.join(name), bytes).unwrap();
        let source = find(&root.join(name), TextRecords::Line).unwrap().sources.remove(0);
        let mut text = source.open().unwrap();
        let mut read = String::new();
        let outcome = text.read_to_string(&mut read).map(|_| read);
        let digest = text.finish(&source).unwrap();
        assert_eq!(digest, source.digest(|_| Ok(())).unwrap());
        (outcome, digest == Digest::of(bytes))
    }

    #[test]
    fn every_packing_gives_the_text_and_the_digest_of_the_whole_file() {
        let root = tempfile::tempdir().unwrap();
        let long = "one\ntwo\n".repeat(100_000);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(long.as_bytes()).unwrap();
        let gzip = gzip.finish().unwrap();
        let zstd = zstd::encode_all(long.as_bytes(), 1).unwrap();
        for (name, bytes) in [("a.txt", long.as_bytes()), ("a.txt.gz", &gzip), ("a.txt.zst", &zstd)]
        {
            let (text, whole) = text_and_digest(root.path(), name, bytes);
            assert!(text.unwrap() == long && whole, "{name}");
        }
        // Members and frames follow one another, as `cat a.gz b.gz` makes them.
        let (text, _) = text_and_digest(root.path(), "b.txt.gz", &gzip.repeat(2));
        assert_eq!(text.unwrap().len(), 2 * long.len());
        let (text, _) = text_and_digest(root.path(), "b.txt.zst", &zstd.repeat(2));
        assert_eq!(text.unwrap().len(), 2 * long.len());
        for (name, bytes) in [("c.txt.gz", &gzip), ("c.txt.zst", &zstd)] {
            let (text, whole) = text_and_digest(root.path(), name, &bytes[..bytes.len() / 2]);
            assert!(text.is_err() && whole, "{name}");
        }
    }
}
