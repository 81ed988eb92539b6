//! What every format can be asked.

use std::{borrow::Cow, fmt, ops::Range};

use forebay_types::{Form, Schema};

use crate::Error;

/// A run of whole rows: a byte range of the file as it is stored, and what it becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Where it starts in the stored file.
    pub offset: u64,
    /// How long it is there.
    pub bytes: u64,
    /// Its rows, at least 1.
    pub rows: u32,
    /// How its content is made from these bytes.
    pub form: Form,
}

/// What a file was found to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survey {
    /// The fields of its samples.
    pub schema: Schema,
    /// What [`Dialect::open`] needs beside an extent's bytes, as text; equal for all files of a
    /// dataset. Empty for most formats.
    pub context: String,
    /// Its extents, in order, without overlap. Bytes between them belong to no row.
    pub cuts: Vec<Cut>,
}

/// One format. Implementations hold plain settings and are cheap to make.
pub trait Dialect: Send + Sync + fmt::Debug {
    /// The format's name, as index manifests and messages spell it: `webdataset`, `parquet`, …
    fn name(&self) -> &'static str;

    /// Whether `path` (relative to the dataset's root) is a file of samples, judged by its name:
    /// listings, licences and side files are not.
    fn claims(&self, path: &str) -> bool;

    /// Looks through a whole stored file. `object` names it in errors.
    ///
    /// Extents are cut at rows, each as near to `extent_bytes` as the format allows, and never
    /// less than one row.
    ///
    /// # Errors
    /// When the file is damaged or holds what cannot be fed.
    fn survey(&self, stored: &[u8], object: &str, extent_bytes: u64) -> Result<Survey, Error>;

    /// The schema of a dataset of which one file was found to have schema `a` and another `b`;
    /// `None` when they cannot be one. Each file is then opened under it, so a format that can
    /// give a value in more than one kind says so here; by default, what [`merge`](crate::merge)
    /// says. A dataset's schemas are merged in the order of its files.
    fn merge(&self, a: &Schema, b: &Schema) -> Option<Schema> {
        crate::merge(a, b)
    }

    /// Makes the content of an extent whose form is not [`Form::Plain`] and appends it to
    /// `content`. The same stored bytes give the same content in every build: its digest is kept.
    ///
    /// # Errors
    /// When the stored bytes are damaged, or writing fails.
    fn decode(
        &self,
        stored: &[u8],
        form: &Form,
        schema: &Schema,
        object: &str,
        content: &mut dyn std::io::Write,
    ) -> Result<(), Error>;

    /// Finds the rows in the content of one extent. `object` names it in errors.
    ///
    /// # Errors
    /// When the content is damaged or is not of `schema`.
    fn open(
        &self,
        content: &[u8],
        schema: &Schema,
        context: &str,
        object: &str,
    ) -> Result<Box<dyn Rows>, Error>;
}

/// The rows of one extent. Holds where values lie, not the values: whoever asks brings the same
/// content again.
pub trait Rows: Send + Sync + fmt::Debug {
    /// How many there are.
    fn rows(&self) -> u32;

    /// The value of field `field` (by its number in the schema) of row `row`: little-endian
    /// elements for tensors and vectors, the bytes themselves for bytes and text. A tensor's value
    /// has exactly the length its schema says.
    ///
    /// A null or missing value is empty where the kind allows any length, NaN for floating-point
    /// numbers, and an error otherwise.
    ///
    /// # Errors
    /// When the value is damaged or cannot be given its kind.
    fn value<'a>(&self, content: &'a [u8], row: u32, field: usize) -> Result<Cow<'a, [u8]>, Error>;

    /// What people know the row by, if the format names rows: a WebDataset key.
    fn label(&self, _content: &[u8], _row: u32) -> Option<String> {
        None
    }

    /// The part of the content that the values of `row` are read from, framing of the row
    /// included: checked before they are. By default all of it.
    fn place(&self, content: &[u8], _row: u32) -> Range<usize> {
        0..content.len()
    }

    /// The part of the content that finding the rows relied on: checked when the extent is
    /// opened. By default all of it.
    fn framing(&self, content: &[u8]) -> Vec<Range<usize>> {
        std::iter::once(0..content.len()).collect()
    }
}
