//! `tf.train.Example`, read off the wire.
//!
//! ```text
//! Example   1: Features             Feature   1: BytesList    BytesList  1: bytes …
//! Features  1: map of               one of    2: FloatList    FloatList  1: fixed32 …, packed or not
//!              1: name 2: Feature             3: Int64List    Int64List  1: varint …, packed or not
//! ```
//!
//! Nothing is built: a feature is found by walking over the lengths of those before it, and its
//! values are read where they lie. As protocol buffers demand, of two entries of one name the
//! last holds, and fields of other numbers are passed over. Every step takes at least a byte, so
//! walking ends.

use std::borrow::Cow;

/// What is wrong with a message.
pub(crate) type Fault = &'static str;

/// One field of a message.
struct Item<'a> {
    number: u64,
    value: Wire<'a>,
}

/// A field's value, as its wire type gives it.
enum Wire<'a> {
    Varint(u64),
    Bits64,
    Bytes(&'a [u8]),
    Bits32(&'a [u8]),
}

/// The fields of a message, one after the other.
struct Message<'a> {
    rest: &'a [u8],
}

impl<'a> Message<'a> {
    fn take(&mut self, bytes: usize) -> Result<&'a [u8], Fault> {
        let (taken, rest) =
            self.rest.split_at_checked(bytes).ok_or("a value is longer than its message")?;
        self.rest = rest;
        Ok(taken)
    }

    fn next(&mut self) -> Result<Option<Item<'a>>, Fault> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let tag = varint(&mut self.rest)?;
        let value = match tag & 7 {
            0 => Wire::Varint(varint(&mut self.rest)?),
            1 => {
                self.take(8)?;
                Wire::Bits64
            }
            2 => {
                let bytes = varint(&mut self.rest)?;
                let bytes = usize::try_from(bytes).map_err(|_| "a value is longer than memory")?;
                Wire::Bytes(self.take(bytes)?)
            }
            5 => Wire::Bits32(self.take(4)?),
            _ => return Err("a field has a wire type that is not used"),
        };
        match tag >> 3 {
            0 => Err("a field has the number 0"),
            number => Ok(Some(Item { number, value })),
        }
    }
}

/// Takes a base-128 number of at most ten bytes.
fn varint(rest: &mut &[u8]) -> Result<u64, Fault> {
    let mut number = 0;
    for (place, &byte) in rest.iter().enumerate().take(10) {
        // Bits beyond the 64th are dropped, as every reader does.
        number |= u64::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            *rest = &rest[place + 1..];
            return Ok(number);
        }
    }
    Err("a number does not end")
}

/// The type of a feature's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum List {
    Bytes,
    Float,
    Int64,
}

impl List {
    /// As the format spells it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Bytes => "bytes_list",
            Self::Float => "float_list",
            Self::Int64 => "int64_list",
        }
    }
}

/// The encoded `Feature`: its values are still where they were.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Feature<'a> {
    encoded: &'a [u8],
    /// The type of its values; `None` when the feature was never set.
    pub(crate) list: Option<List>,
}

/// Calls `each` for every feature of an example, in the order they lie in.
pub(crate) fn features<'a>(
    example: &'a [u8],
    mut each: impl FnMut(&'a [u8], Feature<'a>) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let mut example = Message { rest: example };
    while let Some(item) = example.next()? {
        let mut features = match (item.number, item.value) {
            (1, Wire::Bytes(encoded)) => Message { rest: encoded },
            (1, _) => return Err("it is not a tf.train.Example: field 1 is not a message"),
            (2, Wire::Bytes(_)) => {
                return Err("it has feature lists, as a tf.train.SequenceExample has");
            }
            _ => continue,
        };
        while let Some(item) = features.next()? {
            let entry = match (item.number, item.value) {
                (1, Wire::Bytes(entry)) => entry,
                (1, _) => return Err("a feature is not a message"),
                _ => continue,
            };
            let (name, encoded) = entry_of(entry)?;
            each(name, Feature { encoded, list: list_of(encoded)? })?;
        }
    }
    Ok(())
}

/// The feature of this name; the last, if there are several.
pub(crate) fn find<'a>(example: &'a [u8], name: &str) -> Result<Option<Feature<'a>>, Fault> {
    let mut found = None;
    features(example, |candidate, feature| {
        if candidate == name.as_bytes() {
            found = Some(feature);
        }
        Ok(())
    })?;
    Ok(found)
}

/// The name and the feature of an entry of the map.
fn entry_of(entry: &[u8]) -> Result<(&[u8], &[u8]), Fault> {
    let (mut name, mut feature): (&[u8], &[u8]) = (&[], &[]);
    let mut entry = Message { rest: entry };
    while let Some(item) = entry.next()? {
        match (item.number, item.value) {
            (1, Wire::Bytes(bytes)) => name = bytes,
            (2, Wire::Bytes(bytes)) => feature = bytes,
            (1 | 2, _) => return Err("a feature has no name or no message"),
            _ => {}
        }
    }
    Ok((name, feature))
}

/// Of which type a feature is: the list that was set last.
fn list_of(feature: &[u8]) -> Result<Option<List>, Fault> {
    let mut list = None;
    let mut feature = Message { rest: feature };
    while let Some(item) = feature.next()? {
        list = match (item.number, item.value) {
            (1, Wire::Bytes(_)) => Some(List::Bytes),
            (2, Wire::Bytes(_)) => Some(List::Float),
            (3, Wire::Bytes(_)) => Some(List::Int64),
            (1..=3, _) => return Err("a feature's list is not a message"),
            _ => continue,
        };
    }
    Ok(list)
}

impl<'a> Feature<'a> {
    /// Calls `each` for every piece of its list: a value of bytes, a run of floats, a run of
    /// varints or one of them.
    fn pieces(&self, mut each: impl FnMut(Piece<'a>) -> Result<(), Fault>) -> Result<(), Fault> {
        let Some(kind) = self.list else { return Ok(()) };
        let wanted = match kind {
            List::Bytes => 1,
            List::Float => 2,
            List::Int64 => 3,
        };
        let mut feature = Message { rest: self.encoded };
        while let Some(item) = feature.next()? {
            let mut list = match (item.number, item.value) {
                (number, Wire::Bytes(encoded)) if number == wanted => Message { rest: encoded },
                _ => continue,
            };
            while let Some(item) = list.next()? {
                each(match (item.number, kind, item.value) {
                    (1, List::Bytes, Wire::Bytes(bytes)) => Piece::Run(bytes),
                    (1, List::Float, Wire::Bits32(bytes)) => Piece::Run(bytes),
                    (1, List::Float, Wire::Bytes(bytes)) if bytes.len() % 4 == 0 => {
                        Piece::Run(bytes)
                    }
                    (1, List::Int64, Wire::Bytes(bytes)) => Piece::Run(bytes),
                    (1, List::Int64, Wire::Varint(number)) => Piece::Number(number),
                    (1, ..) => return Err("a feature's values are not of its type"),
                    _ => continue,
                })?;
            }
        }
        Ok(())
    }

    /// How many values it has; checks all of them.
    pub(crate) fn count(&self) -> Result<u64, Fault> {
        let mut count = 0;
        self.pieces(|piece| {
            count += match (self.list, piece) {
                (Some(List::Float), Piece::Run(bytes)) => bytes.len() as u64 / 4,
                (Some(List::Int64), Piece::Run(mut bytes)) => {
                    let mut numbers = 0;
                    while !bytes.is_empty() {
                        varint(&mut bytes)?;
                        numbers += 1;
                    }
                    numbers
                }
                _ => 1,
            };
            Ok(())
        })?;
        Ok(count)
    }

    /// Its only value of bytes; empty if it has none.
    pub(crate) fn bytes(&self) -> Result<&'a [u8], Fault> {
        let mut value: Option<&'a [u8]> = None;
        self.pieces(|piece| match (piece, value) {
            (Piece::Run(bytes), None) => {
                value = Some(bytes);
                Ok(())
            }
            _ => Err("it has several values"),
        })?;
        Ok(value.unwrap_or_default())
    }

    /// Its floats, little-endian one after the other: where they lie, if they are packed.
    pub(crate) fn floats(&self) -> Result<Cow<'a, [u8]>, Fault> {
        let mut floats = Cow::Borrowed(&[][..]);
        self.pieces(|piece| {
            if let Piece::Run(bytes) = piece {
                if floats.is_empty() {
                    floats = Cow::Borrowed(bytes);
                } else {
                    floats.to_mut().extend_from_slice(bytes);
                }
            }
            Ok(())
        })?;
        Ok(floats)
    }

    /// Its integers, as little-endian 64-bit numbers one after the other.
    pub(crate) fn integers(&self) -> Result<Vec<u8>, Fault> {
        let mut integers = Vec::new();
        self.pieces(|piece| {
            match piece {
                Piece::Number(number) => integers.extend_from_slice(&number.to_le_bytes()),
                Piece::Run(mut bytes) => {
                    while !bytes.is_empty() {
                        integers.extend_from_slice(&varint(&mut bytes)?.to_le_bytes());
                    }
                }
            }
            Ok(())
        })?;
        Ok(integers)
    }
}

enum Piece<'a> {
    Run(&'a [u8]),
    Number(u64),
}
