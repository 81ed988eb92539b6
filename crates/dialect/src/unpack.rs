//! Compressed files of the formats that are one framed block: MDS shards and LitData chunks.
//!
//! Both address their samples by 32-bit offsets, so what comes out is bounded by
//! [`LIMIT_BYTES`]: a stream that goes on beyond it is refused, whatever it claims.

use std::io::{Read, Write};

use forebay_types::Form;

use crate::Error;

/// How much is decompressed at once.
const PIECE_BYTES: usize = 128 << 10;
/// The most that 32-bit offsets can reach.
pub(crate) const LIMIT_BYTES: u64 = u32::MAX as u64;
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// The magic, and the only method there is.
const GZIP_MAGIC: [u8; 3] = [0x1f, 0x8b, 0x08];

/// The form that the first bytes speak of.
pub(crate) fn form_of(stored: &[u8]) -> Form {
    if stored.starts_with(&ZSTD_MAGIC) {
        Form::Zstd
    } else if stored.starts_with(&GZIP_MAGIC) {
        Form::Gzip
    } else {
        Form::Plain
    }
}

/// Decompresses `stored` into `content`.
pub(crate) fn unpack(
    stored: &[u8],
    form: &Form,
    format: &'static str,
    object: &str,
    content: &mut dyn Write,
) -> Result<(), Error> {
    let damaged = |what: String| Error::Damaged { format, object: object.into(), what };
    let mut gzip;
    let mut zstd;
    let mut plain = stored;
    let reader: &mut dyn Read = match form {
        Form::Plain => &mut plain,
        Form::Gzip => {
            gzip = flate2::read::MultiGzDecoder::new(stored);
            &mut gzip
        }
        Form::Zstd => {
            zstd = zstd::Decoder::with_buffer(stored)
                .map_err(|source| damaged(format!("it cannot be decompressed ({source})")))?;
            &mut zstd
        }
        Form::Dialect(_) => return Err(damaged("it has no form of its own".into())),
    };
    let mut piece = vec![0; PIECE_BYTES];
    let mut left_bytes = LIMIT_BYTES;
    loop {
        let bytes = match reader.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(bytes) => bytes,
            Err(source) => {
                return Err(damaged(format!("it cannot be decompressed ({source})")));
            }
        };
        left_bytes = left_bytes
            .checked_sub(bytes as u64)
            .ok_or_else(|| damaged("it decompresses to more than its offsets can reach".into()))?;
        content
            .write_all(&piece[..bytes])
            .map_err(|source| Error::Write { object: object.into(), source })?;
    }
}
