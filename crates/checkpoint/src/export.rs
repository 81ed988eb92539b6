//! Exporting: a checkpoint as files that other tools read.
//!
//! ```text
//! <output>/state.safetensors   every tensor of every rank (model.safetensors for the weights)
//! <output>/checkpoint.json     step, position, metadata and where it came from
//! ```

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

use forebay_format::v1::tensors::{self, TensorSpec};
use forebay_lake::Lake;
use forebay_types::Name;
use serde::Serialize;

use crate::{
    Error, Part, Restored, TensorView, Which, committed::Tiers, read, restore::restore_in,
};

/// What was exported.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Exported {
    /// The step.
    pub step: u64,
    /// The number of tensors.
    pub tensors: u64,
    /// The bytes of the tensor file.
    pub bytes: u64,
}

/// Writes a verified checkpoint, the newest if `step` is `None`, into the directory `output`,
/// which must be empty or not exist.
///
/// # Errors
/// As [`crate::restore`], and when `output` cannot be written.
pub fn export(
    lake: &Lake,
    run: &Name,
    step: Option<u64>,
    part: Part,
    output: &Path,
) -> Result<Exported, Error> {
    make_directory(output)?;
    let step = read::chosen(lake, run, step)?;
    let tiers = Tiers { lake, near: None };
    let restored = restore_in(tiers, run, Which::Step(step), part)?;
    let restored = restored.ok_or_else(|| Error::NoCheckpoint { run: run.clone() })?;
    let name = if part == Part::All { "state.safetensors" } else { "model.safetensors" };
    let (tensors, bytes) = write_tensors(&restored, &output.join(name))?;
    write_description(&restored, &output.join("checkpoint.json"))?;
    sync(output)?;
    Ok(Exported { step, tensors, bytes })
}

/// Makes a directory, or finds it empty.
pub(crate) fn make_directory(path: &Path) -> Result<(), Error> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.and_then(|()| fs::read_dir(path)).map_err(Error::file("write", path.display())).and_then(
        |mut entries| match entries.next() {
            None => Ok(()),
            Some(_) => Err(Error::NotEmpty { path: path.into() }),
        },
    )
}

fn write_tensors(restored: &Restored, path: &Path) -> Result<(u64, u64), Error> {
    let views: Vec<_> = restored.tensors().collect();
    let plan = tensors::plan(&views.iter().map(spec).collect::<Vec<_>>())?;
    write(path, |file| {
        let mut put =
            |bytes: &[u8]| file.write_all(bytes).map_err(Error::file("write", path.display()));
        put(&plan.header)?;
        plan.places.iter().try_for_each(|(index, _)| put(views[*index].bytes))
    })?;
    Ok((views.len() as u64, plan.file_bytes))
}

fn spec(view: &TensorView<'_>) -> TensorSpec {
    TensorSpec { name: view.name.to_owned(), dtype: view.dtype, shape: view.shape.to_vec() }
}

fn write_description(restored: &Restored, path: &Path) -> Result<(), Error> {
    let commit = restored.commit();
    let description = serde_json::json!({
        "run": commit.run,
        "step": commit.step,
        "position": commit.position,
        "dataset": commit.dataset,
        "metadata": commit.metadata,
    });
    write(path, |file| {
        writeln!(file, "{description:#}").map_err(Error::file("write", path.display()))
    })
}

/// Writes a new file; durable on return.
pub(crate) fn write(
    path: &Path,
    body: impl FnOnce(&mut File) -> Result<(), Error>,
) -> Result<(), Error> {
    let failed = || Error::file("write", path.display());
    let options = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = options.map_err(failed())?;
    body(&mut file)?;
    file.sync_all().map_err(failed())
}

/// Makes the names in a directory durable.
pub(crate) fn sync(directory: &Path) -> Result<(), Error> {
    let synced = File::open(directory).and_then(|directory| directory.sync_all());
    synced.map_err(Error::file("write", directory.display()))
}
