//! How an image is to be turned before it is looked at: EXIF's orientation, joined with the flip
//! of augmentation.

use crate::geometry::{ImageSize, Window};

/// A turn: first rows and columns are exchanged if `transposes`, then each is reversed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Turn {
    pub transposes: bool,
    pub reverses_rows: bool,
    pub reverses_columns: bool,
}

const ORIENTATION_TAG: u16 = 0x0112;

impl Turn {
    /// What an EXIF block asks for; nothing where it is damaged, which no pixel depends on.
    pub(crate) fn of_exif(exif: &[u8]) -> Self {
        let (transposes, reverses_rows, reverses_columns) = match orientation(exif) {
            Some(2) => (false, false, true),
            Some(3) => (false, true, true),
            Some(4) => (false, true, false),
            Some(5) => (true, false, false),
            Some(6) => (true, false, true),
            Some(7) => (true, true, true),
            Some(8) => (true, true, false),
            _ => (false, false, false),
        };
        Self { transposes, reverses_rows, reverses_columns }
    }

    /// The size after the turn, or, as a turn exchanges sides or does not, before it.
    pub(crate) const fn sized(self, size: ImageSize) -> ImageSize {
        if self.transposes { size.transposed() } else { size }
    }

    /// The window of the stored image that becomes `window` of the turned one, whose size is
    /// `turned`.
    pub(crate) fn undone(self, window: Window, turned: ImageSize) -> Window {
        let mut stored = window;
        if self.reverses_columns {
            stored.left = f64::from(turned.width) - window.left - window.width;
        }
        if self.reverses_rows {
            stored.top = f64::from(turned.height) - window.top - window.height;
        }
        if self.transposes {
            std::mem::swap(&mut stored.left, &mut stored.top);
            std::mem::swap(&mut stored.width, &mut stored.height);
        }
        stored
    }

    /// The same turn and a horizontal flip after it.
    pub(crate) const fn flipped(self, flip: bool) -> Self {
        Self { reverses_columns: self.reverses_columns != flip, ..self }
    }
}

fn orientation(tiff: &[u8]) -> Option<u16> {
    let little = match tiff.get(..4)? {
        b"II*\0" => true,
        b"MM\0*" => false,
        _ => return None,
    };
    let short = |at: usize| {
        let bytes = tiff.get(at..at.checked_add(2)?)?.try_into().ok()?;
        Some(if little { u16::from_le_bytes(bytes) } else { u16::from_be_bytes(bytes) })
    };
    let bytes = tiff.get(4..8)?.try_into().ok()?;
    let directory = if little { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) };
    let directory = directory as usize;
    let entries = usize::from(short(directory)?);
    // An entry: tag, type, count, value; the value is a short in the first two of its four bytes.
    let entry = (0..entries)
        .map(|entry| directory + 2 + 12 * entry)
        .find(|entry| short(*entry) == Some(ORIENTATION_TAG))?;
    short(entry + 8)
}
