//! The indexing from its beginning to its end.

use std::{
    collections::HashMap,
    sync::{Mutex, atomic::AtomicU64},
};

use forebay_dialect::Dialect;
use forebay_format::v1::index::{ExtentEntry, IndexManifest, IndexSplit};
use forebay_lake::Lake;
use forebay_local::LocalTier;
use forebay_runtime::Runtime;
use forebay_types::{Digest, DigestWriter, FieldKind, Name, Schema, Split, Version};

use crate::{
    Choice, Error, Progress, Source, SplitRule,
    assemble::Assembly,
    land::Lander,
    publish::{self, Published},
    source::{Endings, File, Opened},
    splits,
    survey::{Found, Surveyor},
    work::{lock, tasks},
};

/// The length of extents unless told otherwise: long enough that a request's latency is small
/// beside its transfer, short enough that a window of them fits on a node.
pub const EXTENT_BYTES_DEFAULT: u64 = 64 << 20;
/// Below this an extent is a request for nearly nothing.
const EXTENT_BYTES_MIN: u64 = 4 << 10;
/// Surveys that are read from the lake at once.
const SURVEYS_AT_ONCE: usize = 256;

/// An indexing to be run.
#[derive(Clone, Copy)]
pub struct Index<'a> {
    /// Where the index is kept.
    pub lake: &'a Lake,
    /// Where files are looked through.
    pub local: &'a LocalTier,
    /// Clock, nonces, threads.
    pub runtime: &'a Runtime,
    /// Where the files lie.
    pub source: &'a Source,
    /// The dataset's name.
    pub dataset: &'a Name,
    /// Which files are held out.
    pub splits: &'a SplitRule,
    /// What reads them.
    pub dialect: &'a Choice,
    /// How long an extent should be; formats that cannot be cut everywhere come near it.
    pub extent_bytes: u64,
    /// How many files are looked through at once. Does not change the result.
    pub workers: usize,
    /// Look through every file, also where a survey of it is kept.
    pub fresh: bool,
    /// Who is told how far it is.
    pub progress: &'a dyn Progress,
}

/// A version that stands in the lake, and what it took.
#[derive(Clone, Debug)]
pub struct Indexed {
    /// The version.
    pub manifest: IndexManifest,
    /// The manifest's digest.
    pub digest: Digest,
    /// Whether the same index was there before, so that no manifest was written.
    pub reused: bool,
    /// Files that this run looked through; of the others a survey was there.
    pub read_files: u64,
    /// Their bytes.
    pub read_bytes: u64,
    /// Files in the training split whose names say that they are meant to be held out.
    pub trained_on_held_out: u64,
    /// How long it took.
    pub seconds: f64,
}

impl Indexed {
    /// The rows of all splits.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.manifest.splits.iter().map(|split| split.rows).sum()
    }

    /// The extents of all splits.
    #[must_use]
    pub fn extents(&self) -> u64 {
        self.manifest.splits.iter().map(|split| split.extents).sum()
    }
}

/// The files of a dataset, in order, with their splits.
struct Chosen {
    files: Vec<File>,
    splits: Vec<Split>,
    passed_over: Endings,
}

impl Index<'_> {
    /// Looks through the files and publishes; or finds that the newest version is what would come
    /// out.
    ///
    /// # Errors
    /// [`Error`]; then no version was published.
    pub fn run(&self) -> Result<Indexed, Error> {
        if self.extent_bytes < EXTENT_BYTES_MIN {
            let (given_bytes, min_bytes) = (self.extent_bytes, EXTENT_BYTES_MIN);
            return Err(Error::ExtentBytes { given_bytes, min_bytes });
        }
        let watch = self.runtime.stopwatch();
        let source = self.source.open(self.lake, self.runtime)?;
        let listed = source.files()?;
        let dialect = self.dialect.decide(&source, &listed)?;
        let chosen = self.choose(&source, listed, dialect.as_ref())?;
        let surveyor = Surveyor {
            lake: self.lake,
            source: &source,
            lander: Lander::new(&source, self.local, self.runtime),
            runtime: self.runtime,
            dialect: dialect.as_ref(),
            extent_bytes: self.extent_bytes,
            progress: self.progress,
            total_bytes: chosen.files.iter().map(|file| file.bytes).sum(),
            read_files: AtomicU64::new(0),
            read_bytes: AtomicU64::new(0),
        };
        let agreed = self.survey(&surveyor, &chosen.files)?;
        let (splits, extents) = self.assemble(&surveyor, &chosen, &agreed.schema)?;
        if splits.iter().all(|split| split.rows == 0) {
            let (store, files) = (source.url().into(), chosen.files.len() as u64);
            return Err(Error::NoRows { store, files });
        }
        source.check_unchanged(&chosen.files)?;
        let manifest = IndexManifest {
            name: self.dataset.clone(),
            version: Version::FIRST,
            parent: None,
            identity: identity(dialect.name(), &agreed, &extents),
            created_unix_ms: self.runtime.now().unix_ms(),
            nonce: self.runtime.nonce(),
            dialect: dialect.name().into(),
            context: agreed.context,
            store: source.store.clone(),
            paths: source.paths.clone(),
            schema: agreed.schema,
            splits,
            files: chosen.files.len() as u64,
            file_bytes: surveyor.total_bytes,
            passed_over: chosen.passed_over.counts.clone(),
        };
        let Published { manifest, digest, reused } = publish::publish(self.lake, manifest)?;
        Ok(Indexed {
            manifest,
            digest,
            reused,
            read_files: surveyor.read_files.into_inner(),
            read_bytes: surveyor.read_bytes.into_inner(),
            trained_on_held_out: chosen.trained_on_held_out(),
            seconds: watch.seconds(),
        })
    }

    /// The files that the dialect claims and a split has.
    fn choose(
        &self,
        source: &Opened,
        listed: Vec<File>,
        dialect: &dyn Dialect,
    ) -> Result<Chosen, Error> {
        let count = listed.len() as u64;
        let mut passed_over = Endings::default();
        let mut claimed = Vec::new();
        for file in listed {
            if dialect.claims(&file.path) {
                claimed.push(file);
            } else {
                passed_over.count(&file);
            }
        }
        let assigned = self.splits.assign(&claimed)?;
        let (mut files, mut splits) = (Vec::new(), Vec::new());
        for (file, split) in claimed.into_iter().zip(assigned) {
            match split {
                Some(split) => {
                    files.push(file);
                    splits.push(split);
                }
                None => passed_over.count(&file),
            }
        }
        if files.is_empty() {
            let (store, passed_over) = (source.url().into(), passed_over.text());
            return Err(Error::NoFiles { store, files: count, passed_over });
        }
        Ok(Chosen { files, splits, passed_over })
    }

    /// Sees to it that there is a survey of every file, and makes one schema of theirs.
    fn survey(&self, surveyor: &Surveyor<'_>, files: &[File]) -> Result<Agreed, Error> {
        // A dataset has few schemas and contexts, each with the first file that has it.
        let (schemas, contexts) = (Mutex::new(HashMap::new()), Mutex::new(HashMap::new()));
        tasks(self.runtime, self.workers, files.len(), |index| {
            let Found { schema, context, extents } = surveyor.survey(&files[index], !self.fresh)?;
            // A file without rows has no say.
            if !extents.is_empty() {
                first(&mut lock(&schemas), schema, index);
                first(&mut lock(&contexts), context, index);
            }
            Ok(())
        })?;
        let contexts = in_order(contexts);
        if let [(_, one), (_, other), ..] = contexts[..] {
            let (first, second) = (files[one].key.clone(), files[other].key.clone());
            return Err(Error::Contexts { first, second });
        }
        let mut schemas = in_order(schemas).into_iter();
        let (mut schema, base) = schemas.next().unwrap_or_default();
        for (other, index) in schemas {
            schema = surveyor.dialect.merge(&schema, &other).ok_or_else(|| Error::Schemas {
                first: files[base].key.clone(),
                second: files[index].key.clone(),
                what: difference(&schema, &other),
            })?;
        }
        let context = contexts.into_iter().next().unwrap_or_default().0;
        Ok(Agreed { schema, context })
    }

    /// Writes the pages of every split; returns the splits and the digests of their extents.
    fn assemble(
        &self,
        surveyor: &Surveyor<'_>,
        chosen: &Chosen,
        schema: &Schema,
    ) -> Result<(Vec<IndexSplit>, Vec<Digest>), Error> {
        let mut assemblies = Split::ALL.map(|split| Assembly::new(self.lake, split));
        for start in (0..chosen.files.len()).step_by(SURVEYS_AT_ONCE) {
            let end = chosen.files.len().min(start + SURVEYS_AT_ONCE);
            let found = tasks(self.runtime, self.workers, end - start, |index| {
                let found = surveyor.under(&chosen.files[start + index], schema, !self.fresh)?;
                Ok(found.extents)
            })?;
            for (extents, split) in found.into_iter().zip(&chosen.splits[start..end]) {
                add(&mut assemblies, *split, extents)?;
            }
        }
        let finished: Result<Vec<_>, _> = assemblies.into_iter().map(Assembly::finish).collect();
        Ok(finished?.into_iter().unzip())
    }
}

fn add(
    assemblies: &mut [Assembly<'_>],
    split: Split,
    extents: Vec<ExtentEntry>,
) -> Result<(), Error> {
    let assembly = assemblies.iter_mut().find(|assembly| assembly.split() == split);
    let assembly = assembly.expect("there is one for every split");
    extents.into_iter().try_for_each(|extent| assembly.add(extent))
}

impl Chosen {
    fn trained_on_held_out(&self) -> u64 {
        let trained =
            self.files.iter().zip(&self.splits).filter(|(_, split)| **split == Split::Train);
        trained.filter(|(file, _)| splits::named(&file.path) == Some(Split::Validation)).count()
            as u64
    }
}

/// What all files have in common.
#[derive(Debug)]
struct Agreed {
    schema: Schema,
    context: String,
}

/// Remembers the lowest index for `value`.
fn first<T: std::hash::Hash + Eq>(seen: &mut HashMap<T, usize>, value: T, index: usize) {
    let lowest = seen.entry(value).or_insert(index);
    *lowest = (*lowest).min(index);
}

fn in_order<T>(seen: Mutex<HashMap<T, usize>>) -> Vec<(T, usize)> {
    let seen = seen.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut seen: Vec<(T, usize)> = seen.into_iter().collect();
    seen.sort_by_key(|(_, index)| *index);
    seen
}

/// The first difference between schemas that cannot be one, for people.
fn difference(a: &Schema, b: &Schema) -> String {
    let kind = |schema: &Schema, name: &str| {
        let at = schema.position(name);
        at.map_or("missing".to_owned(), |at| describe(&schema.fields[at].kind))
    };
    let fields = a.fields.iter().chain(&b.fields);
    let differing = fields.map(|field| &field.name).find(|name| kind(a, name) != kind(b, name));
    differing.map_or_else(
        || "in another order".to_owned(),
        |name| format!("`{name}` is {} and {}", kind(a, name), kind(b, name)),
    )
}

fn describe(kind: &FieldKind) -> String {
    match kind {
        FieldKind::Tensor { dtype, shape } if shape.is_empty() => format!("{dtype:?}"),
        FieldKind::Tensor { dtype, shape } => format!("{dtype:?} of shape {shape:?}"),
        FieldKind::Ragged { dtype } => format!("a vector of {dtype:?}"),
        FieldKind::Bytes => "bytes".into(),
        FieldKind::Text => "text".into(),
    }
}

/// Equal identities have equal samples, wherever they lie.
fn identity(dialect: &str, agreed: &Agreed, splits: &[Digest]) -> Digest {
    let schema = serde_json::to_string(&agreed.schema).expect("plain fields make JSON");
    let mut hash = DigestWriter::for_context("forebay index 1: identity of a dataset");
    for text in [dialect, &schema, &agreed.context] {
        hash.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
    }
    for split in splits {
        hash.update(split.as_bytes());
    }
    hash.finish()
}
