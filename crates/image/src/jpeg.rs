//! JPEG by libjpeg-turbo, through its TurboJPEG interface.
//!
//! The C code's long jumps never leave the C code: each call returns a code. What the caller
//! allocates is a row-bounded region; the decoder's own memory is a few rows, and for progressive
//! images all coefficients. A bomb of many scans is stopped by a limit on scans, one of many
//! pixels before decoding starts.
//!
//! A region starts at a block boundary and takes pixels more than asked for at each side, so that
//! what the chroma of the pixels asked for is interpolated from is all there: they are the same as
//! when all of the image is decoded. The whole stream is still parsed: damage outside the region
//! is found too.

use std::{ffi::CStr, ptr::NonNull};

use turbojpeg_sys as turbo;

use crate::{
    Error, ImageSize,
    container::{Format, is_adobe},
    geometry::Region,
};

/// Real progressive images have about ten; libjpeg-turbo's own fuzzers use this limit.
const SCANS_MAX: i32 = 500;
/// How many pixels beside a region's are decoded for chroma interpolation.
const MARGIN: u32 = 2;
/// The bytes of a pixel of the output.
const PIXEL_BYTES: usize = 4;

/// A TurboJPEG instance, reused until an image fails.
#[derive(Debug)]
pub(crate) struct Jpeg {
    handle: NonNull<std::ffi::c_void>,
    /// Whether a call has failed: libjpeg-turbo then still stands in the middle of that image's
    /// markers, and would take the next image for damaged.
    is_spent: bool,
}

// SAFETY: an instance has no ties to the thread that made it, and `&mut self` on every method
// keeps two threads from using it at once.
unsafe impl Send for Jpeg {}

/// What the header says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Header {
    pub size: ImageSize,
    /// The width of a unit of coded pixels, if the image can be decoded in part.
    unit_width: Option<u32>,
    is_cmyk: bool,
}

impl Jpeg {
    pub(crate) fn new() -> Result<Self, Error> {
        // SAFETY: no preconditions; null means failure.
        let handle = unsafe { turbo::tj3Init(turbo::TJINIT_TJINIT_DECOMPRESS as i32) };
        let reason = "the decoder cannot be started".to_owned();
        let handle = NonNull::new(handle).ok_or(Error::Memory { format: Format::Jpeg, reason })?;
        let mut jpeg = Self { handle, is_spent: false };
        jpeg.set(turbo::TJPARAM_TJPARAM_SCANLIMIT, SCANS_MAX);
        Ok(jpeg)
    }

    /// Whether another image needs another instance.
    pub(crate) const fn is_spent(&self) -> bool {
        self.is_spent
    }

    fn set(&mut self, parameter: turbo::TJPARAM, value: i32) {
        // SAFETY: the handle is live; an unknown parameter or value is an error code, and all of
        // ours are known.
        let code = unsafe { turbo::tj3Set(self.handle.as_ptr(), parameter as i32, value) };
        debug_assert_eq!(code, 0, "parameter {parameter} takes {value}");
    }

    fn get(&self, parameter: turbo::TJPARAM) -> i32 {
        // SAFETY: the handle is live; an unknown parameter gives -1.
        unsafe { turbo::tj3Get(self.handle.as_ptr(), parameter as i32) }
    }

    fn checked(&mut self, code: i32, encoded: &[u8], tolerate: bool) -> Result<(), Error> {
        if code == 0 {
            return Ok(());
        }
        self.is_spent = true;
        // SAFETY: the handle is live.
        let severity = unsafe { turbo::tj3GetErrorCode(self.handle.as_ptr()) };
        if tolerate && severity == turbo::TJERR_TJERR_WARNING as i32 {
            return Ok(());
        }
        // SAFETY: the handle is live; the text is NUL-terminated and copied before the next call.
        let text = unsafe { CStr::from_ptr(turbo::tj3GetErrorStr(self.handle.as_ptr())) };
        Err(Format::Jpeg.damaged(encoded, text.to_string_lossy()))
    }

    /// Reads the header; [`Self::decode`] of the same image comes after it.
    pub(crate) fn header(&mut self, encoded: &[u8], tolerate: bool) -> Result<Header, Error> {
        self.set(turbo::TJPARAM_TJPARAM_STOPONWARNING, i32::from(!tolerate));
        // SAFETY: pointer and length are one slice's, and the decoder only reads it in the call.
        let code = unsafe {
            turbo::tj3DecompressHeader(
                self.handle.as_ptr(),
                encoded.as_ptr(),
                encoded.len() as turbo::size_t,
            )
        };
        self.checked(code, encoded, tolerate)?;
        let side = |value: i32| u32::try_from(value).ok().filter(|side| *side > 0);
        let width = side(self.get(turbo::TJPARAM_TJPARAM_JPEGWIDTH));
        let height = side(self.get(turbo::TJPARAM_TJPARAM_JPEGHEIGHT));
        let (Some(width), Some(height)) = (width, height) else {
            return Err(Format::Jpeg.damaged(encoded, "its header has no size"));
        };
        let unsupported = |what| Err(Error::Unsupported { format: Format::Jpeg, what });
        if self.get(turbo::TJPARAM_TJPARAM_PRECISION) != 8 {
            return unsupported("of more than 8 bits");
        }
        if self.get(turbo::TJPARAM_TJPARAM_LOSSLESS) != 0 {
            return unsupported("lossless");
        }
        let colorspace = self.get(turbo::TJPARAM_TJPARAM_COLORSPACE) as turbo::TJCS;
        let unit_width = match self.get(turbo::TJPARAM_TJPARAM_SUBSAMP) as turbo::TJSAMP {
            turbo::TJSAMP_TJSAMP_444
            | turbo::TJSAMP_TJSAMP_GRAY
            | turbo::TJSAMP_TJSAMP_440
            | turbo::TJSAMP_TJSAMP_441 => Some(8),
            turbo::TJSAMP_TJSAMP_422 | turbo::TJSAMP_TJSAMP_420 => Some(16),
            turbo::TJSAMP_TJSAMP_411 => Some(32),
            _ => None,
        };
        let is_cmyk = matches!(colorspace, turbo::TJCS_TJCS_CMYK | turbo::TJCS_TJCS_YCCK);
        Ok(Header { size: ImageSize { height, width }, unit_width, is_cmyk })
    }

    /// Decodes at least `region` of the image, whose pixels are `divisor` (1, 2, 4 or 8) times as
    /// large as stored, and says what it decoded.
    pub(crate) fn decode(
        &mut self,
        encoded: &[u8],
        header: Header,
        divisor: u32,
        region: Region,
        tolerate: bool,
        pixels: &mut Vec<u8>,
    ) -> Result<Region, Error> {
        let region = header.decodable(divisor, region);
        let handle = self.handle.as_ptr();
        // SAFETY: the handle is live.
        let code = unsafe {
            let scale = turbo::tjscalingfactor { num: 1, denom: divisor as i32 };
            turbo::tj3SetScalingFactor(handle, scale)
        };
        self.checked(code, encoded, tolerate)?;
        let whole = Region::whole(header.scaled(divisor));
        // All zeros mean the whole image.
        let asked = if region == whole {
            turbo::tjregion { x: 0, y: 0, w: 0, h: 0 }
        } else {
            let [x, y] = [region.left as i32, region.top as i32];
            turbo::tjregion { x, y, w: region.width as i32, h: region.height as i32 }
        };
        // SAFETY: the handle is live and has read this image's header.
        let code = unsafe { turbo::tj3SetCroppingRegion(handle, asked) };
        self.checked(code, encoded, tolerate)?;
        let pitch = region.width as usize * PIXEL_BYTES;
        pixels.resize(pitch * region.height as usize, 0);
        let form = if header.is_cmyk { turbo::TJPF_TJPF_CMYK } else { turbo::TJPF_TJPF_RGBX };
        // SAFETY: the input is one slice. The output is `region.height` rows of `pitch` bytes, as
        // the region set above makes the decoder write: it reads the header again from the same
        // bytes, so the size is the one checked. Both forms take 4 bytes a pixel.
        let code = unsafe {
            turbo::tj3Decompress8(
                handle,
                encoded.as_ptr(),
                encoded.len() as turbo::size_t,
                pixels.as_mut_ptr(),
                pitch as i32,
                form,
            )
        };
        self.checked(code, encoded, tolerate)?;
        if header.is_cmyk {
            cmyk_to_rgb(pixels, is_adobe(encoded));
        }
        Ok(region)
    }
}

impl Drop for Jpeg {
    fn drop(&mut self) {
        // SAFETY: the handle is live and not used afterwards.
        unsafe { turbo::tj3Destroy(self.handle.as_ptr()) };
    }
}

impl Header {
    /// The size of the image when its pixels are `divisor` times as large.
    pub(crate) const fn scaled(self, divisor: u32) -> ImageSize {
        ImageSize {
            height: self.size.height.div_ceil(divisor),
            width: self.size.width.div_ceil(divisor),
        }
    }

    /// The smallest region around `region` that the decoder can make.
    fn decodable(self, divisor: u32, region: Region) -> Region {
        let whole = self.scaled(divisor);
        let Some(unit) = self.unit_width else { return Region::whole(whole) };
        let unit = unit.div_ceil(divisor);
        let left = region.left.saturating_sub(MARGIN) / unit * unit;
        let top = region.top.saturating_sub(MARGIN);
        let right = (region.left + region.width + MARGIN).min(whole.width);
        let bottom = (region.top + region.height + MARGIN).min(whole.height);
        Region { left, top, width: right - left, height: bottom - top }
    }
}

fn cmyk_to_rgb(pixels: &mut [u8], is_inverted: bool) {
    let (pixels, _) = pixels.as_chunks_mut::<PIXEL_BYTES>();
    for pixel in pixels {
        let light = pixel.map(|ink| u32::from(if is_inverted { ink } else { 255 - ink }));
        for color in 0..3 {
            pixel[color] = ((light[color] * light[3] + 127) / 255) as u8;
        }
    }
}
