//! Which format an image has, and its EXIF block, found without decoding anything.

use std::fmt;

use crate::Error;

/// An image format that is decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// Baseline and progressive, 8 bits.
    Jpeg,
    /// All colour types and depths; of an animation the first frame.
    Png,
    /// Lossy and lossless, not animated.
    WebP,
}

impl fmt::Display for Format {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Jpeg => "JPEG",
            Self::Png => "PNG",
            Self::WebP => "WebP",
        })
    }
}

impl Format {
    /// The format by its first bytes: names and labels of images are often wrong.
    pub(crate) fn of(encoded: &[u8]) -> Result<Self, Error> {
        match encoded {
            [0xff, 0xd8, 0xff, ..] => Ok(Self::Jpeg),
            [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Ok(Self::Png),
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Ok(Self::WebP),
            _ => {
                let head = encoded[..encoded.len().min(8)].to_vec();
                Err(Error::Unknown { bytes: encoded.len(), head })
            }
        }
    }

    pub(crate) fn damaged(self, encoded: &[u8], reason: impl Into<String>) -> Error {
        Error::Damaged { format: self, bytes: encoded.len(), reason: reason.into() }
    }

    /// The TIFF structure with the image's EXIF fields, if it has one that can be found.
    pub(crate) fn exif(self, encoded: &[u8]) -> Option<&[u8]> {
        match self {
            Self::Jpeg => segments(encoded).find_map(|(marker, body)| {
                body.strip_prefix(b"Exif\0\0").filter(|_| marker == 0xe1)
            }),
            Self::Png => chunks(encoded.get(8..)?, u32::from_be_bytes, true, *b"eXIf"),
            Self::WebP => {
                let body = chunks(encoded.get(12..)?, u32::from_le_bytes, false, *b"EXIF")?;
                Some(body.strip_prefix(b"Exif\0\0").unwrap_or(body))
            }
        }
    }
}

/// Whether a JPEG image was written by Adobe's rules, which store CMYK inverted.
pub(crate) fn is_adobe(encoded: &[u8]) -> bool {
    segments(encoded).any(|(marker, body)| marker == 0xee && body.starts_with(b"Adobe"))
}

/// The marker segments before a JPEG image's first scan.
fn segments(encoded: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    let mut rest = encoded.get(2..).unwrap_or_default();
    std::iter::from_fn(move || {
        while let [0xff, 0xff, ..] = rest {
            rest = &rest[1..];
        }
        let [0xff, marker, high, low, ..] = *rest else { return None };
        let length = usize::from(u16::from_be_bytes([high, low]));
        let body = rest.get(4..2 + length)?;
        rest = &rest[2 + length..];
        (marker != 0xda).then_some((marker, body))
    })
}

/// The body of the chunk called `wanted`, in PNG's form (length, name, body, checksum) or RIFF's
/// (name, length, body, padding to an even length).
fn chunks(
    mut rest: &[u8],
    number: fn([u8; 4]) -> u32,
    is_png: bool,
    wanted: [u8; 4],
) -> Option<&[u8]> {
    loop {
        let (first, after) = rest.split_first_chunk::<4>()?;
        let (second, after) = after.split_first_chunk::<4>()?;
        let (name, length) = if is_png { (second, first) } else { (first, second) };
        let length = number(*length) as usize;
        let body = after.get(..length)?;
        if *name == wanted {
            return Some(body);
        }
        rest = after.get(length + if is_png { 4 } else { length % 2 }..)?;
    }
}
