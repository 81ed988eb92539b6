//! The members of a tar archive: ustar, with GNU's long names and pax's paths and sizes.
//!
//! ```text
//! member   [header, data]… that extend it | header of 512 bytes | data, padded to 512
//! end      a header of zeros, or no more bytes
//! ```
//!
//! Each header's checksum is verified, so bytes that are no header are never taken for one. Only
//! headers and what extends them are read; data is stepped over. A name is kept as where it lies:
//! nothing is allocated. Every member takes at least a header, so walking ends.
//!
//! Global pax records are passed over. Sparse files are refused: their data is not their content.

use std::{borrow::Cow, ops::Range};

/// The unit of everything in an archive.
const BLOCK_BYTES: usize = 512;

/// Where a header keeps its parts.
const NAME: Range<usize> = 0..100;
const SIZE: Range<usize> = 124..136;
const CHECKSUM: Range<usize> = 148..156;
const TYPE: usize = 156;
const MAGIC: Range<usize> = 257..263;
const PREFIX: Range<usize> = 345..500;

/// What is wrong, and at which byte.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) at: usize,
    pub(crate) what: &'static str,
    /// Whether it is a sound archive all the same, of a kind that is not read.
    pub(crate) unsupported: bool,
}

/// A member's path: where in the archive it lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Name {
    /// The folders that ustar keeps apart from the rest; often empty.
    prefix: Range<usize>,
    rest: Range<usize>,
}

impl Name {
    /// The path itself; borrowed unless its two parts must be joined.
    pub(crate) fn of<'a>(&self, archive: &'a [u8]) -> Cow<'a, [u8]> {
        let part = |range: &Range<usize>| archive.get(range.clone()).unwrap_or_default();
        let rest = part(&self.rest);
        match part(&self.prefix) {
            [] => Cow::Borrowed(rest),
            prefix => Cow::Owned([prefix, b"/", rest].concat()),
        }
    }

    /// The path without its last `bytes`, which must lie in its last component.
    pub(crate) fn shortened(&self, bytes: usize) -> Self {
        let end = self.rest.end.saturating_sub(bytes).max(self.rest.start);
        Self { prefix: self.prefix.clone(), rest: self.rest.start..end }
    }
}

/// A regular file in the archive.
#[derive(Debug)]
pub(crate) struct Member {
    /// Where the first header that belongs to it starts.
    pub(crate) start: usize,
    pub(crate) name: Name,
    pub(crate) data: Range<usize>,
    /// Where the next member starts.
    pub(crate) end: usize,
}

/// Walks over an archive.
#[derive(Debug)]
pub(crate) struct Members<'a> {
    archive: &'a [u8],
    at: usize,
}

/// What headers before a member say about it.
#[derive(Default)]
struct Extension {
    /// GNU's long name.
    long: Option<Range<usize>>,
    /// Pax's path, which goes before it.
    path: Option<Range<usize>>,
    bytes: Option<u64>,
}

impl<'a> Members<'a> {
    pub(crate) const fn new(archive: &'a [u8]) -> Self {
        Self { archive, at: 0 }
    }

    /// The next regular file, whatever lies before it.
    pub(crate) fn next(&mut self) -> Result<Option<Member>, Fault> {
        let mut extension = Extension::default();
        let mut start = self.at;
        loop {
            let at = self.at;
            let Some(header) = self.header()? else { return Ok(None) };
            let kind = header[TYPE];
            let stated = number(&header[SIZE]).ok_or(fault(at, "its size is not a number"))?;
            let bytes = extension.bytes.unwrap_or(stated);
            match kind {
                b'L' => extension.long = Some(self.until_zero(stated)?),
                b'x' => self.pax(stated, &mut extension)?,
                b'K' | b'g' => {
                    self.data(stated)?;
                }
                b'S' => return Err(sparse(at)),
                0 | b'0' | b'7' => {
                    let name = extension.name(header, at);
                    // Before ustar, a folder was a file whose name says so.
                    let folder = kind == 0 && self.archive[..name.rest.end].ends_with(b"/");
                    let data = self.data(if folder { 0 } else { bytes })?;
                    if !folder {
                        return Ok(Some(Member { start, name, data, end: self.at }));
                    }
                    (extension, start) = (Extension::default(), self.at);
                }
                // Links, devices, folders and pipes have no data, whatever size they state.
                b'1'..=b'6' => (extension, start) = (Extension::default(), self.at),
                _ => {
                    self.data(bytes)?;
                    (extension, start) = (Extension::default(), self.at);
                }
            }
        }
    }

    /// Takes a header; `None` at the end of the archive.
    fn header(&mut self) -> Result<Option<&'a [u8]>, Fault> {
        let at = self.at;
        let rest = &self.archive[at..];
        if rest.is_empty() {
            return Ok(None);
        }
        let header = rest.get(..BLOCK_BYTES).ok_or(fault(at, "a header is cut off"))?;
        if header.iter().all(|&byte| byte == 0) {
            return Ok(None);
        }
        let stated = number(&header[CHECKSUM]);
        if stated != Some(sum(header, u32::from)) && stated != Some(sum(header, signed)) {
            return Err(fault(at, "it is no header: its checksum is wrong"));
        }
        self.at += BLOCK_BYTES;
        Ok(Some(header))
    }

    /// Takes the data behind a header, and its padding.
    fn data(&mut self, bytes: u64) -> Result<Range<usize>, Fault> {
        let cut_off = fault(self.at, "a member's data is cut off");
        let room = self.archive.len() - self.at;
        let bytes = usize::try_from(bytes).ok().filter(|&bytes| bytes <= room).ok_or(cut_off)?;
        let data = self.at..self.at + bytes;
        // The padding of the last member may be missing.
        self.at = data.end.next_multiple_of(BLOCK_BYTES).min(self.archive.len());
        Ok(data)
    }

    /// Takes data that is a name.
    fn until_zero(&mut self, bytes: u64) -> Result<Range<usize>, Fault> {
        let data = self.data(bytes)?;
        let name = trimmed(&self.archive[data.clone()]);
        Ok(data.start..data.start + name)
    }

    /// Takes pax records: `<length> <key>=<value>\n`, the length that of the whole record.
    fn pax(&mut self, bytes: u64, extension: &mut Extension) -> Result<(), Fault> {
        let data = self.data(bytes)?;
        let mut at = data.start;
        while at < data.end && self.archive[at] != 0 {
            let wrong = fault(at, "a pax record is malformed");
            let rest = &self.archive[at..data.end];
            let space = memchr::memchr(b' ', rest).ok_or(wrong)?;
            let length = decimal(&rest[..space]).ok_or(fault(at, "a pax record is malformed"))?;
            let length = usize::try_from(length)
                .ok()
                .filter(|&length| space + 1 < length && length <= rest.len())
                .ok_or(fault(at, "a pax record is malformed"))?;
            let record = rest[space + 1..length]
                .strip_suffix(b"\n")
                .ok_or(fault(at, "a pax record is malformed"))?;
            let equals =
                memchr::memchr(b'=', record).ok_or(fault(at, "a pax record is malformed"))?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            let value_at = at + space + 1 + equals + 1;
            match key {
                b"path" => extension.path = Some(value_at..value_at + value.len()),
                b"size" => {
                    let size = decimal(value).ok_or(fault(at, "a pax size is not a number"))?;
                    extension.bytes = Some(size);
                }
                _ if key.starts_with(b"GNU.sparse.") => return Err(sparse(at)),
                _ => {}
            }
            at += length;
        }
        Ok(())
    }
}

impl Extension {
    /// The name of the member whose own header lies at `at`.
    fn name(&self, header: &[u8], at: usize) -> Name {
        if let Some(path) = self.path.as_ref().or(self.long.as_ref()) {
            return Name { prefix: 0..0, rest: path.clone() };
        }
        let part = |field: Range<usize>| {
            at + field.start..at + field.start + trimmed(&header[field.clone()])
        };
        // GNU tar keeps other things where ustar keeps the prefix.
        let prefix = if header[MAGIC] == *b"ustar\0" { part(PREFIX) } else { 0..0 };
        Name { prefix, rest: part(NAME) }
    }
}

const fn fault(at: usize, what: &'static str) -> Fault {
    Fault { at, what, unsupported: false }
}

const fn sparse(at: usize) -> Fault {
    Fault {
        at,
        what: "a member is a sparse file: write the archive without `--sparse`",
        unsupported: true,
    }
}

/// The checksum of a header, which counts its own field as spaces.
fn sum(header: &[u8], value: impl Fn(u8) -> u32) -> u64 {
    let all = |bytes: &[u8]| bytes.iter().fold(0_u32, |sum, &byte| sum.wrapping_add(value(byte)));
    let spaces = 8 * u32::from(b' ');
    all(header).wrapping_sub(all(&header[CHECKSUM])).wrapping_add(spaces).into()
}

/// A byte as some old writers sum it.
fn signed(byte: u8) -> u32 {
    i32::from(byte as i8) as u32
}

/// The bytes before the first zero.
fn trimmed(text: &[u8]) -> usize {
    memchr::memchr(0, text).unwrap_or(text.len())
}

fn decimal(digits: &[u8]) -> Option<u64> {
    let sound = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    sound.then(|| std::str::from_utf8(digits).ok()?.parse().ok()).flatten()
}

/// A number of a header: octal digits, or big-endian bytes with the first bit set.
fn number(field: &[u8]) -> Option<u64> {
    if let [0x80, bytes @ ..] = field {
        let add = |number: u64, &byte: &u8| number.checked_mul(256)?.checked_add(byte.into());
        return bytes.iter().try_fold(0, add);
    }
    let text = field[..trimmed(field)].trim_ascii();
    if text.is_empty() {
        return Some(0);
    }
    text.iter().try_fold(0_u64, |number, &digit| match digit {
        b'0'..=b'7' => number.checked_mul(8)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}
