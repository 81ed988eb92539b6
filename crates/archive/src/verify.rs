//! Verifying: every byte is read, every file accounted for.
//!
//! What cannot be read is an error of its own and never a finding: "unreachable" is not "damaged".

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read},
    path::Path,
};

use forebay_format::{
    record,
    v1::package::{MANIFEST, PackageFile, PackageManifest, directory, file_key},
};
use forebay_lake::{Lake, Purpose};
use forebay_types::{DigestWriter, ErrorKind, Name, Version};
use serde::Serialize;

use crate::{Error, Finding, Harm, checkpoint::Take, digests::Digests, list};

/// Bytes read at once.
const PIECE_BYTES: u64 = 8 << 20;

/// Directories below each other that a restored package may have; keys have fewer segments.
const DEPTH_MAX: usize = 512;

/// What was read and compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Reads every file of a package in the lake and compares it with the manifest.
///
/// # Errors
/// [`Error::Damaged`] naming each file that is changed, cut short, missing or added.
pub fn verify(lake: &Lake, model: &Name, version: Version) -> Result<Verified, Error> {
    let (manifest, _) = list::open(lake, model, version)?;
    let mut findings = added(lake, &manifest)?;
    for file in &manifest.files {
        findings.extend(check(lake, &manifest, file, &mut |_| Ok(()))?);
    }
    outcome(name(&manifest), &manifest, findings)
}

/// Reads every file of a package that was restored to `path`, and compares it with the manifest
/// beside it. Needs no lake.
///
/// # Errors
/// As [`verify`]; when there is no manifest, or it is damaged itself.
pub fn verify_directory(path: &Path) -> Result<Verified, Error> {
    let at = path.join(MANIFEST);
    let unread = |source| Error::File { act: "read", path: at.clone(), source };
    let mut bytes = Vec::new();
    let opened = fs::File::open(&at).map_err(unread)?;
    opened.take(record::LEN_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unread)?;
    let (manifest, _) = record::decode::<PackageManifest>(&bytes, &at.display().to_string())?;
    let mut found = BTreeMap::new();
    walk(path, "", 0, &mut found)?;
    found.remove(MANIFEST);
    let mut findings = Vec::new();
    for file in &manifest.files {
        let harm = match found.remove(file.path.as_str()) {
            None => Some(Harm::Missing),
            Some(found) if found != file.bytes => Some(Harm::Resized { wanted: file.bytes, found }),
            Some(_) => harm_on_disk(&path.join(file.path.as_str()), file)?,
        };
        findings.extend(harm.map(|harm| Finding { path: file.path.to_string(), harm }));
    }
    let added = |path: String| Finding { path, harm: Harm::Added };
    findings.extend(found.into_keys().map(added));
    outcome(path.display().to_string(), &manifest, findings)
}

fn outcome(
    package: String,
    manifest: &PackageManifest,
    mut findings: Vec<Finding>,
) -> Result<Verified, Error> {
    if findings.is_empty() {
        return Ok(Verified { files: manifest.files.len() as u64, bytes: manifest.bytes() });
    }
    findings.sort();
    Err(Error::Damaged { package, findings })
}

/// Files below the package's directory that its manifest does not list.
fn added(lake: &Lake, manifest: &PackageManifest) -> Result<Vec<Finding>, Error> {
    let prefix = directory(&manifest.model, manifest.content);
    let mut findings = Vec::new();
    lake.list(&prefix, &mut |listed| {
        let path = listed.key.as_str().strip_prefix(&prefix).unwrap_or_default();
        if manifest.file(path).is_none() {
            findings.push(Finding { path: path.to_owned(), harm: Harm::Added });
        }
        Ok(())
    })
    .map_err(|source| Error::Lake { act: "list", model: manifest.model.clone(), source })?;
    Ok(findings)
}

/// Reads one file, hands each piece to `take`, and compares length and both digests.
///
/// What was handed over may only be used when there is no finding.
pub(crate) fn check(
    lake: &Lake,
    manifest: &PackageManifest,
    file: &PackageFile,
    take: Take<'_>,
) -> Result<Option<Finding>, Error> {
    let failed = |source| Error::Lake { act: "read", model: manifest.model.clone(), source };
    let harmed = |harm| Ok(Some(Finding { path: file.path.to_string(), harm }));
    let key = file_key(&manifest.model, manifest.content, &file.path)
        .map_err(|_| Error::Path(file.path.clone()))?;
    match lake.size(&key).map_err(failed)? {
        None => return harmed(Harm::Missing),
        Some(found) if found != file.bytes => {
            return harmed(Harm::Resized { wanted: file.bytes, found });
        }
        Some(_) => {}
    }
    let mut digests = Digests::default();
    let mut piece = vec![0; file.bytes.min(PIECE_BYTES) as usize];
    while digests.bytes() < file.bytes {
        let left = (file.bytes - digests.bytes()).min(PIECE_BYTES) as usize;
        let piece = &mut piece[..left];
        match lake.read_range(&key, Purpose::Package, digests.bytes(), piece) {
            Err(forebay_lake::Error::Truncated { length, .. }) => {
                return harmed(Harm::Resized { wanted: file.bytes, found: length });
            }
            Err(error) if error.kind() == ErrorKind::NotFound => return harmed(Harm::Missing),
            read => read.map_err(failed)?,
        }
        digests.update(piece);
        take(piece)?;
    }
    if digests.finish() == (file.blake3, file.sha256) { Ok(None) } else { harmed(Harm::Changed) }
}

/// The regular files below `path` and their lengths; anything else counts as a file of length 0,
/// and is found to be no part of the package. Links are not followed.
fn walk(
    path: &Path,
    below: &str,
    depth: usize,
    found: &mut BTreeMap<String, u64>,
) -> Result<(), Error> {
    let unread = |source| Error::File { act: "read", path: path.to_owned(), source };
    for entry in fs::read_dir(path).map_err(unread)? {
        let entry = entry.map_err(unread)?;
        let metadata = entry.metadata().map_err(unread)?;
        let name = format!("{below}{}", entry.file_name().to_string_lossy());
        if metadata.is_dir() && depth < DEPTH_MAX {
            walk(&entry.path(), &format!("{name}/"), depth + 1, found)?;
        } else {
            found.insert(name, if metadata.is_file() { metadata.len() } else { 0 });
        }
    }
    Ok(())
}

fn harm_on_disk(path: &Path, file: &PackageFile) -> Result<Option<Harm>, Error> {
    let unread = |source: io::Error| Error::File { act: "read", path: path.to_owned(), source };
    if !fs::symlink_metadata(path).map_err(unread)?.is_file() {
        return Ok(Some(Harm::Changed));
    }
    let mut digest = DigestWriter::new();
    let mut opened = fs::File::open(path).map_err(unread)?;
    io::copy(&mut opened, &mut digest).map_err(unread)?;
    Ok((digest.finish() != file.blake3).then_some(Harm::Changed))
}

pub(crate) fn name(manifest: &PackageManifest) -> String {
    format!("{}@{}", manifest.model, manifest.version.number())
}
