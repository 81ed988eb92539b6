//! Finding packages.

use forebay_format::{
    record,
    v1::package::{LineageRecord, PackageManifest, manifest_key},
};
use forebay_lake::{Lake, Purpose};
use forebay_types::{Digest, Name, Version};
use serde::Serialize;

use crate::{Error, Finding, Harm, verify};

/// The file that holds the lineage.
pub(crate) const LINEAGE: &str = "lineage.json";

/// One version of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PackageSummary {
    /// The model.
    pub model: Name,
    /// The version.
    pub version: Version,
    /// The run that trained it.
    pub run: Name,
    /// Steps taken.
    pub step: u64,
    /// Its files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// When it was published, in milliseconds since 1970.
    pub created_unix_ms: u64,
}

/// A package's manifest and the digest of its body.
///
/// # Errors
/// [`Error::NoPackage`] when there is none; when it is damaged, naming it.
pub fn open(
    lake: &Lake,
    model: &Name,
    version: Version,
) -> Result<(PackageManifest, Digest), Error> {
    let key = manifest_key(model, version);
    let bytes = lake
        .read(&key, Purpose::Package, record::LEN_BYTES_MAX)
        .map_err(|source| Error::Lake { act: "read", model: model.clone(), source })?
        .ok_or_else(|| no_package(lake, model, Some(version)))?;
    let (manifest, digest) = record::decode::<PackageManifest>(&bytes, key.as_str())?;
    if manifest.model == *model && manifest.version == version {
        return Ok((manifest, digest));
    }
    Err(forebay_format::Error::damaged(key, "it is the manifest of another package").into())
}

/// What leads from a package to every raw record its model saw.
///
/// # Errors
/// [`Error::NoPackage`] when there is none; [`Error::Damaged`] when its lineage is.
pub fn lineage(lake: &Lake, model: &Name, version: Version) -> Result<LineageRecord, Error> {
    let (manifest, _) = open(lake, model, version)?;
    let package = verify::name(&manifest);
    let damaged = |harm| {
        let findings = vec![Finding { path: LINEAGE.into(), harm }];
        Error::Damaged { package: package.clone(), findings }
    };
    let file = manifest.file(LINEAGE).ok_or_else(|| damaged(Harm::Missing))?;
    let mut bytes = Vec::new();
    let finding = verify::check(lake, &manifest, file, &mut |piece| {
        bytes.extend_from_slice(piece);
        Ok(())
    })?;
    if let Some(finding) = finding {
        return Err(damaged(finding.harm));
    }
    Ok(record::decode(&bytes, &format!("{LINEAGE} of {package}"))?.0)
}

/// The newest version of `model`.
///
/// # Errors
/// [`Error::NoPackage`] when there is none.
pub fn newest(lake: &Lake, model: &Name) -> Result<Version, Error> {
    newest_version(lake, model)?.ok_or_else(|| no_package(lake, model, None))
}

/// Every version of `model`, oldest first.
///
/// # Errors
/// [`Error::NoPackage`] when there is none; when one is damaged, naming it.
pub fn list(lake: &Lake, model: &Name) -> Result<Vec<PackageSummary>, Error> {
    let newest = newest(lake, model)?;
    (1..=newest.number())
        .filter_map(Version::new)
        .map(|version| Ok(summary(&open(lake, model, version)?.0)))
        .collect()
}

fn summary(manifest: &PackageManifest) -> PackageSummary {
    PackageSummary {
        model: manifest.model.clone(),
        version: manifest.version,
        run: manifest.lineage.run.clone(),
        step: manifest.lineage.step,
        files: manifest.files.len() as u64,
        bytes: manifest.bytes(),
        created_unix_ms: manifest.created_unix_ms,
    }
}

/// Versions have no gaps, so the newest is found by asking for 1, 2, 4, 8, … and halving.
pub(crate) fn newest_version(lake: &Lake, model: &Name) -> Result<Option<Version>, Error> {
    let there = |number| {
        let Some(version) = Version::new(number) else { return Ok(true) };
        let size = lake.size(&manifest_key(model, version));
        size.map(|size| size.is_some()).map_err(|source| Error::Lake {
            act: "look for",
            model: model.clone(),
            source,
        })
    };
    let (mut present, mut absent) = (0, 1);
    while there(absent)? {
        (present, absent) = (absent, absent.saturating_mul(2));
    }
    while absent - present > 1 {
        let middle = present + (absent - present) / 2;
        if there(middle)? { present = middle } else { absent = middle }
    }
    Ok(Version::new(present))
}

fn no_package(lake: &Lake, model: &Name, version: Option<Version>) -> Error {
    Error::NoPackage { model: model.clone(), version, lake: lake.url().to_owned() }
}
