//! A lake, a local tier and a foreign store, a small format of our own, and every row of an index
//! read back as a feed would.

#![allow(dead_code, reason = "each test uses its part")]
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fs,
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
};

use forebay_dialect::{Cut, Dialect, Error as DialectError, Form, Rows, Survey};
use forebay_format::v1::index::{BLOCK_BYTES, IndexManifest};
use forebay_index::{Choice, Error, Index, Indexed, Silent, Source, SplitRule};
use forebay_lake::{Lake, Purpose};
use forebay_local::LocalTier;
use forebay_runtime::Runtime;
use forebay_testing::TempTiers;
use forebay_transfer::index::Extents;
use forebay_types::{Digest, Field, FieldKind, Name, Schema, Split};

/// Lines of text, each a row. A first line `#a,b` names the fields, each a text (the line itself in
/// every one); then `%x` may say how to read the rest. A file named `….decoded.lines` has extents
/// that depend on the dataset's fields, as Parquet's do.
#[derive(Clone, Copy, Debug)]
pub struct Lines;

fn damaged(object: &str, what: &str) -> DialectError {
    DialectError::Damaged { format: "lines", object: object.into(), what: what.into() }
}

fn fields(text: &str) -> Schema {
    let field = |name: &str| Field { name: name.into(), kind: FieldKind::Text };
    Schema { fields: text.split(',').filter(|name| !name.is_empty()).map(field).collect() }
}

impl Dialect for Lines {
    fn name(&self) -> &'static str {
        "lines"
    }

    fn claims(&self, path: &str) -> bool {
        path.ends_with(".lines")
    }

    fn survey(
        &self,
        stored: &[u8],
        object: &str,
        extent_bytes: u64,
    ) -> Result<Survey, DialectError> {
        let text = std::str::from_utf8(stored).map_err(|_| damaged(object, "it is no text"))?;
        let mut survey = Survey { schema: fields("line"), context: String::new(), cuts: vec![] };
        let form = match object.ends_with(".decoded.lines") {
            true => Form::Dialect("fields".into()),
            false => Form::Plain,
        };
        let mut offset = 0;
        for line in text.split_inclusive('\n') {
            let bytes = line.len() as u64;
            match line.as_bytes()[0] {
                b'#' => survey.schema = fields(line[1..].trim_end()),
                b'%' => survey.context = line[1..].trim_end().into(),
                _ => match survey.cuts.last_mut() {
                    Some(cut) if cut.bytes + bytes <= extent_bytes => {
                        cut.bytes += bytes;
                        cut.rows += 1;
                    }
                    _ => survey.cuts.push(Cut { offset, bytes, rows: 1, form: form.clone() }),
                },
            }
            offset += bytes;
        }
        Ok(survey)
    }

    fn decode(
        &self,
        stored: &[u8],
        _form: &Form,
        schema: &Schema,
        _object: &str,
        content: &mut dyn Write,
    ) -> Result<(), DialectError> {
        let names: Vec<&str> = schema.fields.iter().map(|field| field.name.as_str()).collect();
        let text = std::str::from_utf8(stored).unwrap();
        for line in text.lines() {
            writeln!(content, "{}|{line}", names.join(",")).unwrap();
        }
        Ok(())
    }

    fn open(
        &self,
        content: &[u8],
        schema: &Schema,
        _context: &str,
        object: &str,
    ) -> Result<Box<dyn Rows>, DialectError> {
        let text = std::str::from_utf8(content).map_err(|_| damaged(object, "it is no text"))?;
        let names: Vec<&str> = schema.fields.iter().map(|field| field.name.as_str()).collect();
        let head = names.join(",");
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let foreign = |line: &String| line.split_once('|').is_some_and(|(it, _)| it != head);
        if lines.iter().any(foreign) {
            return Err(damaged(object, "it was decoded for other fields"));
        }
        Ok(Box::new(LinesRows { lines }))
    }
}

#[derive(Debug)]
struct LinesRows {
    lines: Vec<String>,
}

impl Rows for LinesRows {
    fn rows(&self) -> u32 {
        self.lines.len() as u32
    }

    fn value<'a>(&self, _: &'a [u8], row: u32, _: usize) -> Result<Cow<'a, [u8]>, DialectError> {
        let line = &self.lines[row as usize];
        let line = line.rsplit_once('|').map_or(line.as_str(), |(_, line)| line);
        Ok(Cow::Owned(line.as_bytes().to_vec()))
    }
}

pub struct World {
    pub tiers: TempTiers,
    pub name: Name,
    pub splits: SplitRule,
    pub choice: Choice,
    pub extent_bytes: u64,
    pub workers: usize,
    pub fresh: bool,
}

impl World {
    pub fn new() -> Self {
        Self::with_budget(64 << 20)
    }

    pub fn with_budget(budget_bytes: u64) -> Self {
        let tiers = TempTiers::new(budget_bytes);
        fs::create_dir(tiers.path().join("foreign")).unwrap();
        Self {
            tiers,
            name: Name::new("set").unwrap(),
            splits: SplitRule::Train,
            choice: Choice::Given(Arc::new(Lines)),
            extent_bytes: 4096,
            workers: 3,
            fresh: false,
        }
    }

    pub fn foreign(&self) -> PathBuf {
        self.tiers.path().join("foreign")
    }

    /// Writes a file of the foreign store.
    pub fn write(&self, path: &str, bytes: impl AsRef<[u8]>) {
        let path = self.foreign().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    /// Copies the files of a folder of fixtures into the foreign store.
    pub fn copy(&self, fixtures: &str, wanted: impl Fn(&str) -> bool) {
        let folder =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../dialect/tests/fixtures").join(fixtures);
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            if wanted(&name) {
                fs::copy(entry.path(), self.foreign().join(name)).unwrap();
            }
        }
    }

    /// The whole foreign store.
    pub fn source(&self) -> Source {
        self.source_at(&[])
    }

    pub fn source_at(&self, paths: &[&str]) -> Source {
        Source {
            store: Some(self.foreign().to_str().unwrap().into()),
            paths: paths.iter().map(ToString::to_string).collect(),
        }
    }

    pub fn index(&self) -> Result<Indexed, Error> {
        self.index_from(&self.source())
    }

    pub fn index_from(&self, source: &Source) -> Result<Indexed, Error> {
        self.index_on(source, &self.tiers.lake, &self.tiers.local)
    }

    pub fn index_on(
        &self,
        source: &Source,
        lake: &Lake,
        local: &LocalTier,
    ) -> Result<Indexed, Error> {
        Index {
            lake,
            local,
            runtime: &self.tiers.runtime,
            source,
            dataset: &self.name,
            splits: &self.splits,
            dialect: &self.choice,
            extent_bytes: self.extent_bytes,
            workers: self.workers,
            fresh: self.fresh,
            progress: &Silent,
        }
        .run()
    }

    /// Every key in the lake that starts with `prefix`.
    pub fn keys(&self, prefix: &str) -> Vec<String> {
        let mut keys = Vec::new();
        let mut visit = |listed: forebay_lake::Listed| {
            keys.push(listed.key.to_string());
            Ok(())
        };
        self.tiers.lake.list(prefix, &mut visit).unwrap();
        keys.sort();
        keys
    }

    /// Every row of a split in order, each field's bytes; every extent is read from where it lies
    /// and held against its length, digest and checksums.
    pub fn rows(&self, manifest: &IndexManifest, split: Split, dialect: &dyn Dialect) -> Vec<Row> {
        let store = match &manifest.store {
            Some(url) => Lake::open_existing(url, &Runtime::system()).unwrap(),
            None => self.tiers.lake.clone(),
        };
        let entry = manifest.split(split).unwrap();
        let extents = Extents::new(&self.tiers.lake, entry);
        let (mut rows, mut content_bytes, mut bytes_max) = (Vec::new(), 0, 0);
        for number in 0..entry.extents {
            let (extent, first_row, found) = extents.get(number).unwrap();
            assert_eq!((found, first_row), (number, rows.len() as u64));
            let mut stored = vec![0; extent.stored_bytes as usize];
            store.read_range(&extent.file, Purpose::Source, extent.offset, &mut stored).unwrap();
            let mut content = Vec::new();
            let object = extent.file.as_str();
            match &extent.form {
                Form::Plain => content = stored,
                form => {
                    dialect.decode(&stored, form, &manifest.schema, object, &mut content).unwrap();
                }
            }
            assert_eq!(Digest::of(&content), extent.digest, "{object}");
            assert_eq!(content.len() as u64, extent.bytes);
            let blocks = content.chunks(BLOCK_BYTES as usize).map(crc32c::crc32c);
            assert_eq!(blocks.collect::<Vec<_>>(), extent.blocks_crc32c);
            let opened =
                dialect.open(&content, &manifest.schema, &manifest.context, object).unwrap();
            assert_eq!(opened.rows(), extent.rows, "{object}");
            for row in 0..extent.rows {
                let value = |field| match opened.value(&content, row, field) {
                    Ok(value) => value.into_owned(),
                    // A null that its kind cannot hold: some fixtures have one.
                    Err(DialectError::Unsupported { .. }) => b"refused".to_vec(),
                    Err(error) => panic!("{error}"),
                };
                let values = (0..manifest.schema.fields.len()).map(value);
                rows.push(Row { file: object.to_owned(), values: values.collect() });
            }
            content_bytes += extent.bytes;
            bytes_max = extent.bytes.max(bytes_max);
        }
        assert_eq!(rows.len() as u64, entry.rows);
        assert_eq!((content_bytes, bytes_max), (entry.content_bytes, entry.extent_bytes_max));
        rows
    }

    /// The lines of a split, if it was made of [`Lines`].
    pub fn lines(&self, manifest: &IndexManifest, split: Split) -> Vec<String> {
        let text = |row: Row| String::from_utf8(row.values[0].clone()).unwrap();
        self.rows(manifest, split, &Lines).into_iter().map(text).collect()
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub file: String,
    pub values: Vec<Vec<u8>>,
}

/// `count` lines that tell their file and number.
pub fn lines(name: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{name} line {number} {}", "x".repeat(number % 97))).collect()
}

/// Lines as the content of a file.
pub fn text(lines: &[String]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// Values by field, for comparing files whose fields lie in another order.
pub fn by_field(manifest: &IndexManifest, row: &Row) -> BTreeMap<String, Vec<u8>> {
    let names = manifest.schema.fields.iter().map(|field| field.name.clone());
    names.zip(row.values.iter().cloned()).collect()
}
