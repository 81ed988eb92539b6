//! WebP by libwebp.
//!
//! The decoder writes into memory that is ours; its own is a few rows for lossy images, all pixels
//! for lossless ones. A region starts at even pixels, as chroma does, and takes two more at each
//! side for its interpolation. A lossy image is parsed down to the region's last row only: damage
//! below it is not seen.

use libwebp_sys as webp;

use crate::{Error, ImageSize, container::Format, geometry::Region};

const MARGIN: u32 = 2;
const PIXEL_BYTES: usize = 4;

/// The size that the header states.
pub(crate) fn size(encoded: &[u8]) -> Result<ImageSize, Error> {
    let mut config = config()?;
    // SAFETY: pointer and length are one slice's; the features are written in the call.
    let status =
        unsafe { webp::WebPGetFeatures(encoded.as_ptr(), encoded.len(), &raw mut config.input) };
    checked(status, encoded)?;
    if config.input.has_animation != 0 {
        return Err(Error::Unsupported { format: Format::WebP, what: "an animation" });
    }
    match (u32::try_from(config.input.width), u32::try_from(config.input.height)) {
        (Ok(width @ 1..), Ok(height @ 1..)) => Ok(ImageSize { height, width }),
        _ => Err(Format::WebP.damaged(encoded, "its header has no size")),
    }
}

/// Decodes at least `region` of an image whose header says `size`, and says what it decoded.
pub(crate) fn decode(
    encoded: &[u8],
    size: ImageSize,
    region: Region,
    pixels: &mut Vec<u8>,
) -> Result<Region, Error> {
    let region = decodable(size, region);
    let pitch = region.width as usize * PIXEL_BYTES;
    pixels.resize(pitch * region.height as usize, 0);
    let mut config = config()?;
    config.options.use_cropping = 1;
    config.options.crop_left = region.left as i32;
    config.options.crop_top = region.top as i32;
    config.options.crop_width = region.width as i32;
    config.options.crop_height = region.height as i32;
    config.output.colorspace = webp::WEBP_CSP_MODE::MODE_RGBA;
    config.output.is_external_memory = 1;
    config.output.u.RGBA = webp::WebPRGBABuffer {
        rgba: pixels.as_mut_ptr(),
        stride: pitch as i32,
        size: pixels.len(),
    };
    // SAFETY: the input is one slice; the output is described with its true stride and length,
    // which the decoder checks against the region; external memory is not freed by it.
    let status = unsafe { webp::WebPDecode(encoded.as_ptr(), encoded.len(), &raw mut config) };
    checked(status, encoded)?;
    Ok(region)
}

fn config() -> Result<webp::WebPDecoderConfig, Error> {
    let reason = "libwebp is of another version".to_owned();
    webp::WebPDecoderConfig::new().map_err(|()| Error::Memory { format: Format::WebP, reason })
}

fn decodable(size: ImageSize, region: Region) -> Region {
    let left = region.left.saturating_sub(MARGIN) & !1;
    let top = region.top.saturating_sub(MARGIN) & !1;
    let right = (region.left + region.width + MARGIN).min(size.width);
    let bottom = (region.top + region.height + MARGIN).min(size.height);
    Region { left, top, width: right - left, height: bottom - top }
}

fn checked(status: webp::VP8StatusCode, encoded: &[u8]) -> Result<(), Error> {
    use webp::VP8StatusCode as Status;
    let reason = match status {
        Status::VP8_STATUS_OK => return Ok(()),
        Status::VP8_STATUS_OUT_OF_MEMORY => {
            let reason = "its pixels do not fit".to_owned();
            return Err(Error::Memory { format: Format::WebP, reason });
        }
        Status::VP8_STATUS_NOT_ENOUGH_DATA => "it ends too early",
        Status::VP8_STATUS_UNSUPPORTED_FEATURE => "it uses a feature that does not exist",
        _ => "its data cannot be decoded",
    };
    Err(Format::WebP.damaged(encoded, reason))
}
