//! Compressed streams: gzip of any number of members, zstd of any number of frames.
//!
//! A stream is unpacked piece by piece: beside the decoder's window (at most
//! 2^[`WINDOW_BITS_MAX`] bytes) it takes [`PIECE_BYTES`] of memory, whatever it claims to hold.
//! Every member and frame must be whole, and its checksum right; zeros after the last one, which
//! block devices and some writers leave, are passed over. A stream that goes on beyond its [`Bound`]
//! is refused: a few kilobytes can be made to unpack to terabytes.

use std::io::{self, BufRead as _, Read, Write};

use flate2::bufread::GzDecoder;
use forebay_types::Form;

use crate::Error;

/// The most content one compressed file may hold. It is an extent of its own, so it is also what
/// a node must keep of it at once.
const CONTENT_BYTES_MAX: u64 = 16 << 30;

/// How much a stream may unpack to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bound {
    /// What an extent may hold.
    Extent,
    /// What the 32-bit offsets of a block of samples can reach: more of it is no such block.
    Offsets,
}

impl Bound {
    const fn bytes(self) -> u64 {
        match self {
            Self::Extent => CONTENT_BYTES_MAX,
            Self::Offsets => u32::MAX as u64,
        }
    }
}

/// The largest window of a zstd frame, as a power of two: what every zstd reads without being told.
const WINDOW_BITS_MAX: u32 = 27;

/// How much is unpacked at once.
const PIECE_BYTES: usize = 128 << 10;

/// How bytes that start so are compressed: gzip and zstd say so themselves, and no name is needed.
pub(crate) fn form_of(stored: &[u8]) -> Form {
    match stored {
        [0x1f, 0x8b, 8, ..] => Form::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Form::Zstd,
        _ => Form::Plain,
    }
}

/// Unpacks `stored` and appends it to `content`.
///
/// # Errors
/// [`Error::Damaged`] when a member or frame is cut off, its checksum is wrong, or the content is
/// more than offsets can reach; [`Error::Unsupported`] when the content is more than an extent may
/// hold, a window is too large, or `form` is not one of compression; [`Error::Write`] when `content`
/// takes no more.
pub(crate) fn decompress(
    form: &Form,
    stored: &[u8],
    bound: Bound,
    format: &'static str,
    object: &str,
    content: &mut dyn Write,
) -> Result<(), Error> {
    let mut sink = Sink { format, object, content, bound, left: bound.bytes() };
    match form {
        Form::Plain => sink.take(stored),
        Form::Gzip => gunzip(stored, &mut sink),
        Form::Zstd => unzstd(stored, &mut sink),
        Form::Dialect(_) => Err(sink.unsupported("its extents have a form of another format")),
    }
}

/// Where unpacked bytes go, and how many more may.
struct Sink<'a> {
    format: &'static str,
    object: &'a str,
    content: &'a mut dyn Write,
    bound: Bound,
    left: u64,
}

impl Sink<'_> {
    fn take(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let Some(left) = self.left.checked_sub(bytes.len() as u64) else {
            return Err(self.excess());
        };
        self.left = left;
        self.content
            .write_all(bytes)
            .map_err(|source| Error::Write { object: self.object.to_owned(), source })
    }

    /// Takes all that `reader` gives.
    fn drain(&mut self, reader: &mut dyn Read, piece: &mut [u8]) -> Result<(), Error> {
        loop {
            match reader.read(piece) {
                Ok(0) => return Ok(()),
                Ok(bytes) => self.take(&piece[..bytes])?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.damaged(&error)),
            }
        }
    }

    fn excess(&self) -> Error {
        match self.bound {
            Bound::Extent => self.unsupported(&format!(
                "it unpacks to more than {} GiB: divide it into smaller files",
                CONTENT_BYTES_MAX >> 30
            )),
            Bound::Offsets => self.broken("it unpacks to more than its offsets can reach".into()),
        }
    }

    fn damaged(&self, error: &io::Error) -> Error {
        self.broken(match error.kind() {
            io::ErrorKind::UnexpectedEof => "its compressed stream is cut off".to_owned(),
            _ => format!("its compressed stream cannot be unpacked: {error}"),
        })
    }

    fn broken(&self, what: String) -> Error {
        Error::Damaged { format: self.format, object: self.object.to_owned(), what }
    }

    fn unsupported(&self, what: &str) -> Error {
        Error::Unsupported {
            format: self.format,
            object: self.object.to_owned(),
            what: what.to_owned(),
        }
    }
}

fn gunzip(stored: &[u8], sink: &mut Sink<'_>) -> Result<(), Error> {
    let mut piece = vec![0; PIECE_BYTES];
    let mut rest = stored;
    loop {
        let mut decoder = GzDecoder::new(rest);
        sink.drain(&mut decoder, &mut piece)?;
        rest = decoder.into_inner();
        // Each member takes bytes, so this ends.
        if is_padding(rest) {
            return Ok(());
        }
    }
}

fn unzstd(stored: &[u8], sink: &mut Sink<'_>) -> Result<(), Error> {
    let mut piece = vec![0; PIECE_BYTES];
    let mut rest = stored;
    loop {
        let mut decoder = zstd::Decoder::with_buffer(rest)
            .and_then(|mut decoder| {
                decoder.window_log_max(WINDOW_BITS_MAX)?;
                Ok(decoder.single_frame())
            })
            .map_err(|error| sink.damaged(&error))?;
        sink.drain(&mut decoder, &mut piece)?;
        let mut inner = decoder.finish();
        let left = inner.fill_buf().map_or(0, <[u8]>::len);
        if left == rest.len() {
            return Err(sink.damaged(&io::ErrorKind::UnexpectedEof.into()));
        }
        rest = &rest[rest.len() - left..];
        if is_padding(rest) {
            return Ok(());
        }
    }
}

fn is_padding(rest: &[u8]) -> bool {
    rest.iter().all(|&byte| byte == 0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn gzip(content: &[u8]) -> Vec<u8> {
        let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        writer.write_all(content).unwrap();
        writer.finish().unwrap()
    }

    fn zstd(content: &[u8]) -> Vec<u8> {
        let mut writer = zstd::Encoder::new(Vec::new(), 1).unwrap();
        writer.include_checksum(true).unwrap();
        writer.write_all(content).unwrap();
        writer.finish().unwrap()
    }

    fn unpack(form: &Form, stored: &[u8]) -> Result<Vec<u8>, Error> {
        let mut content = Vec::new();
        decompress(form, stored, Bound::Extent, "jsonl", "a.gz", &mut content)?;
        Ok(content)
    }

    proptest! {
        #[test]
        fn members_and_frames_give_their_contents_one_after_the_other(
            parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..999), 1..4),
            padding in 0_usize..9,
        ) {
            for (form, pack) in [(Form::Gzip, gzip as fn(&[u8]) -> Vec<u8>), (Form::Zstd, zstd)] {
                let mut stored: Vec<u8> = parts.iter().flat_map(|part| pack(part)).collect();
                prop_assert_eq!(&form_of(&stored), &form);
                stored.resize(stored.len() + padding, 0);
                prop_assert_eq!(unpack(&form, &stored).unwrap(), parts.concat());
            }
        }

        #[test]
        fn a_stream_that_is_cut_off_or_changed_is_never_taken_for_another(
            content in proptest::collection::vec(any::<u8>(), 1..999),
            at in any::<prop::sample::Index>(),
        ) {
            for (form, pack) in [(Form::Gzip, gzip as fn(&[u8]) -> Vec<u8>), (Form::Zstd, zstd)] {
                let stored = pack(&content);
                let at = at.index(stored.len());
                if at > 0 {
                    prop_assert!(unpack(&form, &stored[..at]).is_err(), "{:?} at {}", form, at);
                }
                let mut changed = stored;
                changed[at] ^= 1;
                // A bit of gzip's header may mean nothing; none may change the content.
                if let Ok(found) = unpack(&form, &changed) {
                    prop_assert_eq!(&found, &content);
                }
            }
        }
    }

    #[test]
    fn a_bomb_is_refused_before_it_has_filled_anything() {
        struct Nowhere(u64);
        impl Write for Nowhere {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0 += bytes.len() as u64;
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut nowhere = Nowhere(0);
        let bomb = zstd(&vec![0; 64 << 20]);
        assert!(bomb.len() < 16 << 10);
        let mut unpack = |bound| {
            let (content, left) = (&mut nowhere, 1 << 20);
            let mut sink = Sink { format: "jsonl", object: "a.zst", content, bound, left };
            let error = unzstd(&bomb, &mut sink).unwrap_err();
            assert!(std::mem::take(&mut nowhere.0) <= 1 << 20);
            error
        };
        let error = unpack(Bound::Extent);
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
        let error = unpack(Bound::Offsets);
        assert!(matches!(error, Error::Damaged { .. }), "{error}");
    }

    #[test]
    fn a_sink_that_is_full_is_not_called_damage() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (stored, bound) = (gzip(b"x"), Bound::Extent);
        let error = decompress(&Form::Gzip, &stored, bound, "jsonl", "a", &mut Full).unwrap_err();
        assert_eq!(error.kind(), forebay_types::ErrorKind::Full);
    }
}
