//! WebDataset: samples as consecutive files of a tar archive.
//!
//! A member's path up to the first dot of its last component is its sample's key, the rest in
//! lower case the name of its field; consecutive members of one key are a sample. Passed over are
//! members that are no regular files, whose last component starts with a dot or has none, and
//! those below a component `__…__` at the root, where WebDataset keeps its own notes.
//!
//! Fields lie in the order in which they first appear, behind `__key__`, the key as text:
//!
//! - `cls`, `cls2`, `class`, `count`, `index`, `inx`, `id`: a 64-bit integer, written as digits.
//!   If no sample's is one, the field is text; if some are, or a sample lacks it, the file is
//!   refused by name.
//! - `txt`, `text`, `transcript`, `json`, `jsn`, `jsonl`: text; bytes if any is not UTF-8.
//! - `npy`: a tensor, if type and shape are the same in every sample; a vector of as many elements
//!   as the sample has, if only the length of one dimension differs or a sample lacks it;
//!   otherwise the bytes of the `.npy` file.
//! - all else: bytes. A sample that lacks such a field, or a text, has an empty one.
//!
//! A survey reads the small values too, to know their kinds. Opening an extent reads headers
//! only, and keeps about 60 bytes for each member. The values of a row lie within the row's own
//! members, so nothing but the headers has to be checked before the first row is asked for. An
//! archive compressed as a whole is one extent, which a survey unpacks in memory.

mod field;
mod npy;
mod rows;
mod tar;

use std::collections::HashMap;

use forebay_types::{Field, FieldKind, Form, Schema};

use crate::{
    Dialect, Error, FIELDS_MAX, Rows, Survey,
    compression::{Bound, decompress, form_of},
    cutter::{Cutter, whole},
    merge::merge_by,
    path::visible_name,
};
use field::{Promise, join, kind_of, promise};
use rows::Samples;
use tar::{Fault, Member, Members};

const NAME: &str = "webdataset";

/// The field that holds the key.
const KEY: &str = "__key__";

/// Tar archives of samples, plain or compressed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Webdataset;

impl Dialect for Webdataset {
    fn name(&self) -> &'static str {
        NAME
    }

    fn claims(&self, path: &str) -> bool {
        let endings = [".tar", ".tar.gz", ".tgz", ".tar.zst"];
        visible_name(path).is_some_and(|name| endings.iter().any(|ending| name.ends_with(ending)))
    }

    fn survey(&self, stored: &[u8], object: &str, extent_bytes: u64) -> Result<Survey, Error> {
        let form = form_of(stored);
        let mut unpacked = Vec::new();
        let content = if form == Form::Plain {
            stored
        } else {
            decompress(&form, stored, Bound::Extent, NAME, object, &mut unpacked)?;
            &unpacked
        };
        let mut cutter = Cutter::new(extent_bytes);
        let mut seen = Seen::new(object);
        let mut parts = Parts::new(content, object);
        let mut sample: Option<(u64, u64)> = None;
        while let Some(part) = parts.next()? {
            let (start, end) = (part.member.start as u64, part.member.end as u64);
            match &mut sample {
                Some(sample) if !part.first => sample.1 = end,
                _ => {
                    if let Some((start, end)) = sample.replace((start, end)) {
                        cutter.row(start..end);
                    }
                    seen.start(&part);
                }
            }
            seen.part(&part, content)?;
        }
        if let Some((start, end)) = sample {
            cutter.row(start..end);
        }
        let rows = seen.samples;
        let schema = seen.finish(content)?;
        let cuts = if form == Form::Plain {
            cutter.finish()
        } else {
            whole(stored, rows, form)
                .ok_or_else(|| unsupported(object, "it has more than 2^32 samples".to_owned()))?
        };
        Ok(Survey { schema, context: String::new(), cuts })
    }

    fn merge(&self, a: &Schema, b: &Schema) -> Option<Schema> {
        merge_by(a, b, |name, a, b| join(promise(name), a, b))
    }

    fn decode(
        &self,
        stored: &[u8],
        form: &Form,
        _schema: &Schema,
        object: &str,
        content: &mut dyn std::io::Write,
    ) -> Result<(), Error> {
        decompress(form, stored, Bound::Extent, NAME, object, content)
    }

    fn open(
        &self,
        content: &[u8],
        schema: &Schema,
        _context: &str,
        object: &str,
    ) -> Result<Box<dyn Rows>, Error> {
        Ok(Box::new(Samples::open(content, schema, object)?))
    }
}

/// A member that is a part of a sample.
struct Part {
    member: Member,
    /// Where the key lies.
    key: tar::Name,
    /// The field, by its name.
    field: String,
    /// Whether a sample starts with it.
    first: bool,
}

/// The members of an archive that are parts of samples.
struct Parts<'a> {
    content: &'a [u8],
    object: &'a str,
    members: Members<'a>,
    key: Option<tar::Name>,
}

impl<'a> Parts<'a> {
    fn new(content: &'a [u8], object: &'a str) -> Self {
        Self { content, object, members: Members::new(content), key: None }
    }

    fn next(&mut self) -> Result<Option<Part>, Error> {
        loop {
            let member = self.members.next().map_err(|fault| of_fault(self.object, &fault))?;
            let Some(member) = member else { return Ok(None) };
            let path = member.name.of(self.content);
            let Some((key_bytes, extension)) = divided(&path) else { continue };
            let Ok(extension) = std::str::from_utf8(extension) else {
                return Err(self.not_text(&path));
            };
            if std::str::from_utf8(&path[..key_bytes]).is_err() {
                return Err(self.not_text(&path));
            }
            let field = extension.to_lowercase();
            let key = member.name.shortened(path.len() - key_bytes);
            let same = |last: &tar::Name| last.of(self.content) == key.of(self.content);
            let first = !self.key.as_ref().is_some_and(same);
            drop(path);
            self.key = Some(key.clone());
            return Ok(Some(Part { member, key, field, first }));
        }
    }

    fn not_text(&self, path: &[u8]) -> Error {
        let path: String = String::from_utf8_lossy(path).chars().take(80).collect();
        unsupported(self.object, format!("the name of its member `{path}` is not UTF-8"))
    }
}

/// The length of the key in `path`, and the extension behind it; `None` if `path` is no part of a
/// sample.
fn divided(path: &[u8]) -> Option<(usize, &[u8])> {
    let first = path.split(|&byte| byte == b'/').next()?;
    if first.len() >= 4 && first.starts_with(b"__") && first.ends_with(b"__") {
        return None;
    }
    let base = memchr::memrchr(b'/', path).map_or(0, |slash| slash + 1);
    let dot = memchr::memchr(b'.', &path[base..])?;
    let extension = &path[base + dot + 1..];
    (dot > 0 && !extension.is_empty()).then_some((base + dot, extension))
}

fn of_fault(object: &str, fault: &Fault) -> Error {
    let object = format!("{object}: byte {}", fault.at);
    let what = fault.what.to_owned();
    if fault.unsupported {
        Error::Unsupported { format: NAME, object, what }
    } else {
        Error::Damaged { format: NAME, object, what }
    }
}

fn unsupported(object: &str, what: String) -> Error {
    Error::Unsupported { format: NAME, object: object.to_owned(), what }
}

fn twice(object: &str, key: &str, field: &str) -> Error {
    let what = format!("sample `{key}` has more than one field `{field}`");
    Error::Damaged { format: NAME, object: object.to_owned(), what }
}

/// What the samples so far have.
struct Seen<'a> {
    object: &'a str,
    samples: u64,
    fields: Vec<SeenField>,
    numbers: HashMap<String, usize>,
    /// The keys of the first sample and of the current one.
    keys: Option<(tar::Name, tar::Name)>,
}

/// What a field was in the samples so far.
struct SeenField {
    name: String,
    promise: Promise,
    kind: FieldKind,
    /// In how many samples it was, and the number of the last, from 1.
    samples: u64,
    last: u64,
    /// The first sample that lacks it.
    lacking: Option<tar::Name>,
}

impl<'a> Seen<'a> {
    fn new(object: &'a str) -> Self {
        Self { object, samples: 0, fields: Vec::new(), numbers: HashMap::new(), keys: None }
    }

    /// Starts the sample whose first part is `part`.
    fn start(&mut self, part: &Part) {
        self.end();
        self.samples += 1;
        let first = self.keys.take().map_or_else(|| part.key.clone(), |(first, _)| first);
        self.keys = Some((first, part.key.clone()));
    }

    /// Notes what the current sample lacks.
    fn end(&mut self) {
        let Some((_, key)) = &self.keys else { return };
        for field in &mut self.fields {
            if field.last != self.samples && field.lacking.is_none() {
                field.lacking = Some(key.clone());
            }
        }
    }

    fn part(&mut self, part: &Part, content: &[u8]) -> Result<(), Error> {
        let promise = promise(&part.field);
        let kind = kind_of(promise, &content[part.member.data.clone()]);
        // Names are checked to be text where they are divided.
        let key = || String::from_utf8_lossy(&part.key.of(content)).into_owned();
        let Some(&number) = self.numbers.get(&part.field) else {
            return self.add(part, promise, kind, key);
        };
        let field = &mut self.fields[number];
        if field.last == self.samples {
            return Err(twice(self.object, &key(), &field.name));
        }
        field.samples += 1;
        field.last = self.samples;
        if field.kind != kind {
            field.kind = join(promise, Some(&field.kind), Some(&kind)).ok_or_else(|| {
                unsupported(
                    self.object,
                    format!(
                        "field `{}` is a number in some samples and not in others; sample `{}` \
                         is the first that differs",
                        field.name,
                        key()
                    ),
                )
            })?;
        }
        Ok(())
    }

    fn add(
        &mut self,
        part: &Part,
        promise: Promise,
        kind: FieldKind,
        key: impl Fn() -> String,
    ) -> Result<(), Error> {
        if part.field == KEY {
            return Err(twice(self.object, &key(), KEY));
        }
        // One of them is the key.
        if self.fields.len() + 1 == FIELDS_MAX {
            let what = format!("its samples have more than {FIELDS_MAX} fields");
            return Err(unsupported(self.object, what));
        }
        self.numbers.insert(part.field.clone(), self.fields.len());
        self.fields.push(SeenField {
            name: part.field.clone(),
            promise,
            kind,
            samples: 1,
            last: self.samples,
            lacking: if self.samples > 1 {
                self.keys.clone().map(|(first, _)| first)
            } else {
                None
            },
        });
        Ok(())
    }

    fn finish(mut self, content: &[u8]) -> Result<Schema, Error> {
        self.end();
        let mut fields = Vec::new();
        if self.samples > 0 {
            fields.push(Field { name: KEY.to_owned(), kind: FieldKind::Text });
        }
        for field in self.fields {
            let kind = if field.samples == self.samples {
                field.kind
            } else {
                join(field.promise, Some(&field.kind), None).ok_or_else(|| {
                    let key = field.lacking.map(|key| key.of(content).into_owned());
                    unsupported(
                        self.object,
                        format!(
                            "field `{}` is a number, and {} of {} samples lack it; the first is \
                             `{}`",
                            field.name,
                            self.samples - field.samples,
                            self.samples,
                            String::from_utf8_lossy(&key.unwrap_or_default())
                        ),
                    )
                })?
            };
            fields.push(Field { name: field.name, kind });
        }
        Ok(Schema { fields })
    }
}
