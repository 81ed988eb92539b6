//! Publishing: files first, the manifest last.
//!
//! The directory is named by what the package is made from ([`content_digest`]), so it is known
//! before the weights are read, and they are digested while they are written. Two attempts at the
//! same content write the same bytes to the same place; two contents never meet.

use std::io::Write;

use forebay_format::{
    record,
    v1::{
        evaluation::EvaluationRecord,
        package::{
            PackageFile, PackageLineage, PackageManifest, SUMS, WEIGHTS, content_digest, file_key,
            manifest_key,
        },
    },
};
use forebay_lake::{Commit, Lake, Purpose};
use forebay_runtime::{Runtime, crash_point};
use forebay_types::{Digest, Key, Name, Version};
use serde::Serialize;

use crate::{
    Error,
    checkpoint::Weights,
    digests::Digests,
    files::{self, File},
    list,
    story::Story,
};

/// How many version numbers others may take from us before we give up.
const NUMBERS_MAX: u32 = 64;

/// What to archive.
#[derive(Clone, Copy, Debug)]
pub struct Publish<'a> {
    /// Where everything is, and where the package will be.
    pub lake: &'a Lake,
    /// Clock and nonces.
    pub runtime: &'a Runtime,
    /// The model's name.
    pub model: &'a Name,
    /// The evaluation that passed its gate; it names the run and the checkpoint.
    pub evaluation: &'a EvaluationRecord,
    /// The settings of the feed that the run trained with; they go into the lineage.
    pub feed: &'a serde_json::Value,
}

/// A package that stands in the lake.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Published {
    /// The model.
    pub model: Name,
    /// The version it is.
    pub version: Version,
    /// What names its content.
    pub content: Digest,
    /// Its files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Whether it was there before, so that nothing was written.
    pub reused: bool,
}

impl Publish<'_> {
    /// Publishes the package, or finds the version that has the same content.
    ///
    /// # Errors
    /// [`Error::NotPassed`] when the evaluation did not pass its gate; when something the package
    /// is made from is missing or damaged; when the lake fails. Then no version came to exist.
    pub fn run(&self) -> Result<Published, Error> {
        self.require_passed()?;
        let story = Story::read(self.lake, self.evaluation)?;
        self.require_same_gate(&story)?;
        let (run, step) = (&story.run.run, story.evaluation.step);
        let weights = Weights::open(self.lake, run, step, story.evaluation.checkpoint)?;
        let small = files::of(&story, &weights, self.feed)?;
        let mut listed: Vec<PackageFile> = small.iter().map(File::entry).collect();
        let content = content_digest(&listed);
        let (standing, newest) = self.standing(content)?;
        if let Some(manifest) = standing {
            return Ok(published(&manifest, true));
        }
        listed.push(self.upload_weights(content, &weights)?);
        crash_point("archive.payload");
        listed.sort_by(|one, next| one.path.cmp(&next.path));
        let sums = File::new(SUMS, files::sums(&listed).into_bytes());
        listed.push(sums.entry());
        listed.sort_by(|one, next| one.path.cmp(&next.path));
        small.iter().chain([&sums]).try_for_each(|file| self.upload(content, file))?;
        crash_point("archive.before_manifest");
        self.claim(story.links(), listed, newest)
    }

    fn require_passed(&self) -> Result<(), Error> {
        let EvaluationRecord { run, step, rules, passed, .. } = self.evaluation;
        if *passed && !rules.is_empty() && rules.iter().all(|outcome| outcome.passed) {
            return Ok(());
        }
        let broken = rules.iter().filter(|outcome| !outcome.passed);
        let rules = broken.map(|o| format!("{}: {:.4} against {}", o.rule, o.measured, o.limit));
        Err(Error::NotPassed { run: run.clone(), step: *step, rules: rules.collect() })
    }

    /// The bar is the one that was set before the first step.
    fn require_same_gate(&self, story: &Story) -> Result<(), Error> {
        if story.evaluation.gate.digest() == story.run.gate_digest {
            return Ok(());
        }
        Err(Error::OtherGate { run: story.run.run.clone(), step: story.evaluation.step })
    }

    /// The newest version with this content, and the newest of all.
    fn standing(
        &self,
        content: Digest,
    ) -> Result<(Option<PackageManifest>, Option<Version>), Error> {
        let newest = list::newest_version(self.lake, self.model)?;
        let numbers = (1..=newest.map_or(0, Version::number)).rev();
        for version in numbers.filter_map(Version::new) {
            let (manifest, _) = list::open(self.lake, self.model, version)?;
            if manifest.content == content {
                return Ok((Some(manifest), newest));
            }
        }
        Ok((None, newest))
    }

    /// Reads the weights once: into the package and through both digests.
    fn upload_weights(&self, content: Digest, weights: &Weights) -> Result<PackageFile, Error> {
        let path = files::key(WEIGHTS);
        let key = self.key(content, &path)?;
        let mut writer = self.lake.writer(&key, Purpose::Package).map_err(self.failed("write"))?;
        let mut digests = Digests::default();
        weights.stream(self.lake, self.runtime, self.model, &mut |piece| {
            digests.update(piece);
            writer.write_all(piece).map_err(|source| self.unwritten(&key, source))
        })?;
        writer.finish().map_err(self.failed("write"))?;
        Ok(digests.entry(path))
    }

    fn upload(&self, content: Digest, file: &File) -> Result<(), Error> {
        let key = self.key(content, &file.path)?;
        self.lake.write(&key, Purpose::Package, &file.body).map_err(self.failed("write"))
    }

    /// Writes the manifest under the first free number after `newest`.
    fn claim(
        &self,
        lineage: PackageLineage,
        files: Vec<PackageFile>,
        newest: Option<Version>,
    ) -> Result<Published, Error> {
        let mut manifest = PackageManifest {
            model: self.model.clone(),
            version: newest.map_or(Version::FIRST, Version::next),
            created_unix_ms: self.runtime.now().unix_ms(),
            nonce: self.runtime.nonce(),
            content: content_digest(&files),
            lineage,
            files,
        };
        for _attempt in 0..NUMBERS_MAX {
            let (body, _) = record::encode(&manifest)?;
            let key = manifest_key(self.model, manifest.version);
            match self.lake.commit(&key, &body).map_err(self.failed("publish"))? {
                Commit::Won => return Ok(published(&manifest, false)),
                Commit::Lost(bytes) => {
                    let (standing, _) = record::decode::<PackageManifest>(&bytes, key.as_str())?;
                    if standing.content == manifest.content {
                        return Ok(published(&standing, true));
                    }
                }
            }
            manifest.version = manifest.version.next();
        }
        Err(Error::Busy(self.model.clone()))
    }

    fn key(&self, content: Digest, path: &Key) -> Result<Key, Error> {
        file_key(self.model, content, path).map_err(|_| Error::Path(path.clone()))
    }

    fn failed(&self, act: &'static str) -> impl Fn(forebay_lake::Error) -> Error {
        let model = self.model.clone();
        move |source| Error::Lake { act, model: model.clone(), source }
    }

    fn unwritten(&self, key: &Key, source: std::io::Error) -> Error {
        let place = self.lake.url().to_owned();
        let object = forebay_lake::Error::Object { act: "write", key: key.clone(), place, source };
        self.failed("write")(object)
    }
}

fn published(manifest: &PackageManifest, reused: bool) -> Published {
    Published {
        model: manifest.model.clone(),
        version: manifest.version,
        content: manifest.content,
        files: manifest.files.len() as u64,
        bytes: manifest.bytes(),
        reused,
    }
}
