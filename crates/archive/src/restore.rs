//! Restoring: a package's files come back as a plain directory, verified while they are copied.
//!
//! Beside them lies the manifest as `package.json`, with which [`crate::verify_directory`]
//! verifies the copy without a lake.
//!
//! # After a crash
//! A directory beside the wanted one whose name starts with a dot, which the next restore of the
//! same package removes. The wanted one is there whole or not at all.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use forebay_format::{
    record,
    v1::package::{MANIFEST, PackageManifest},
};
use forebay_lake::Lake;
use forebay_types::{Name, Version};
use serde::Serialize;

use crate::{Error, list, verify};

/// What was restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Restored {
    /// Files of the package; the manifest beside them is not counted.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Writes the files of a package into `directory`, which must not exist or be empty.
///
/// # Errors
/// [`Error::NotEmpty`] when it holds something, [`Error::Damaged`] when a file is not what the
/// manifest says; then nothing is left in it.
pub fn restore(
    lake: &Lake,
    model: &Name,
    version: Version,
    directory: &Path,
) -> Result<Restored, Error> {
    let (manifest, _) = list::open(lake, model, version)?;
    require_empty(directory)?;
    let partial = Partial::begin(directory, &manifest)?;
    copy(lake, &manifest, &partial.path)?;
    partial.settle(directory)?;
    Ok(Restored { files: manifest.files.len() as u64, bytes: manifest.bytes() })
}

fn require_empty(directory: &Path) -> Result<(), Error> {
    let mut entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("look into", directory)(error)),
    };
    if entries.next().is_none() { Ok(()) } else { Err(Error::NotEmpty(directory.to_owned())) }
}

/// The directory in which a restore grows; removed unless it settles.
struct Partial {
    path: PathBuf,
    /// Whether it took its place, and is not ours to remove.
    settled: bool,
}

impl Partial {
    fn begin(directory: &Path, manifest: &PackageManifest) -> Result<Self, Error> {
        let Some(name) = directory.file_name() else {
            return Err(Error::NotEmpty(directory.to_owned()));
        };
        let name = format!(".{}-{}", name.to_string_lossy(), manifest.content.short());
        let path = directory.with_file_name(name);
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("remove", &path)(error));
            }
            _ => {}
        }
        make_directory(&path)?;
        Ok(Self { path, settled: false })
    }

    /// Takes the place of `directory`, which an empty one may hold.
    fn settle(mut self, directory: &Path) -> Result<(), Error> {
        sync(&self.path)?;
        fs::rename(&self.path, directory).map_err(failed("write", directory))?;
        self.settled = true;
        sync(parent(directory))
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.settled {
            // It is no restored package and says so by its name; the error that led here counts.
            let _ignored = fs::remove_dir_all(&self.path);
        }
    }
}

fn copy(lake: &Lake, manifest: &PackageManifest, into: &Path) -> Result<(), Error> {
    let mut findings = Vec::new();
    for file in &manifest.files {
        // Paths are keys: they cannot leave the directory.
        let path = into.join(file.path.as_str());
        make_directory(parent(&path))?;
        let mut output = create(&path)?;
        findings.extend(verify::check(lake, manifest, file, &mut |piece| {
            output.write_all(piece).map_err(failed("write", &path))
        })?);
        output.sync_all().map_err(failed("write", &path))?;
    }
    if !findings.is_empty() {
        return Err(Error::Damaged { package: verify::name(manifest), findings });
    }
    let path = into.join(MANIFEST);
    let (body, _) = record::encode(manifest)?;
    let mut output = create(&path)?;
    output.write_all(&body).and_then(|()| output.sync_all()).map_err(failed("write", &path))
}

fn create(path: &Path) -> Result<fs::File, Error> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600).open(path).map_err(failed("write", path))
}

fn make_directory(path: &Path) -> Result<(), Error> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(failed("make the directory", path))
}

fn sync(path: &Path) -> Result<(), Error> {
    fs::File::open(path).and_then(|directory| directory.sync_all()).map_err(failed("write", path))
}

/// The directory above `path`; that of a plain name is the present one.
fn parent(path: &Path) -> &Path {
    path.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn failed(act: &'static str, path: &Path) -> impl Fn(io::Error) -> Error + use<> {
    let path = path.to_owned();
    move |source| Error::File { act, path: path.clone(), source }
}
