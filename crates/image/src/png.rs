//! PNG in Rust. Rows depend on all before them, so the whole image is decoded whatever the crop.

use std::io::Cursor;

use png::{ColorType, DecodeOptions, Decoder, DecodingError, Limits, Transformations};

use crate::{Error, ImageSize, container::Format};

/// What the decoder may allocate beside the pixels: rows, and chunks of metadata.
const DECODER_BYTES_MAX: usize = 64 << 20;

fn decoder(encoded: &[u8]) -> Decoder<Cursor<&[u8]>> {
    let mut options = DecodeOptions::default();
    options.set_ignore_text_chunk(true);
    options.set_ignore_iccp_chunk(true);
    options.set_ignore_adler32(false);
    let mut decoder = Decoder::new_with_options(Cursor::new(encoded), options);
    decoder.set_limits(Limits { bytes: DECODER_BYTES_MAX });
    decoder.set_transformations(
        Transformations::EXPAND | Transformations::STRIP_16 | Transformations::ALPHA,
    );
    decoder
}

fn failed(encoded: &[u8], error: &DecodingError) -> Error {
    match error {
        DecodingError::LimitsExceeded => {
            let reason = "its rows or metadata are larger than 64 MiB".to_owned();
            Error::Memory { format: Format::Png, reason }
        }
        _ => Format::Png.damaged(encoded, error.to_string()),
    }
}

/// The size that the header states.
pub(crate) fn size(encoded: &[u8]) -> Result<ImageSize, Error> {
    let mut decoder = decoder(encoded);
    let info = decoder.read_header_info().map_err(|error| failed(encoded, &error))?;
    Ok(ImageSize { height: info.height, width: info.width })
}

/// Decodes the whole image.
pub(crate) fn decode(encoded: &[u8], pixels: &mut Vec<u8>) -> Result<(), Error> {
    let failed = |error| failed(encoded, &error);
    let mut reader = decoder(encoded).read_info().map_err(failed)?;
    let count = reader.info().width as usize * reader.info().height as usize;
    let bytes = reader.output_buffer_size();
    let bytes = bytes.filter(|bytes| *bytes <= count * 4);
    let bytes = bytes.ok_or_else(|| Format::Png.damaged(encoded, "its size is impossible"))?;
    pixels.resize(count * 4, 0);
    // An animation's later frames may be smaller; only the first is read.
    reader.next_frame(&mut pixels[..bytes]).map_err(failed)?;
    if reader.output_color_type().0 == ColorType::GrayscaleAlpha {
        // Each pixel grows from two bytes to four: from the last on, so that none is overwritten.
        for index in (0..count).rev() {
            let gray = pixels[2 * index];
            pixels[4 * index..][..4].copy_from_slice(&[gray, gray, gray, u8::MAX]);
        }
    }
    reader.finish().map_err(failed)
}
