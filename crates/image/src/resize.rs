//! From a window of decoded pixels to the output's size.

use fast_image_resize::{
    FilterType, ResizeAlg, ResizeOptions, Resizer,
    images::{TypedCroppedImage, TypedImage, TypedImageRef},
    pixels::U8x4,
};

use crate::{
    ImageSize,
    geometry::{Region, Window},
    settings::Filter,
};

/// Resizes `window` of the `decoded` pixels, whose size is `size`, into `resized`.
pub(crate) fn resize(
    resizer: &mut Resizer,
    filter: Filter,
    decoded: &[u8],
    size: ImageSize,
    window: Window,
    output: ImageSize,
    resized: &mut Vec<u8>,
) -> Option<()> {
    let filter = match filter {
        Filter::Bilinear => FilterType::Bilinear,
        Filter::Bicubic => FilterType::CatmullRom,
    };
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(filter)).use_alpha(false);
    resized.resize(output.pixels() as usize * 4, 0);
    let source = TypedImageRef::<U8x4>::from_buffer(size.width, size.height, decoded).ok()?;
    let mut target =
        TypedImage::<U8x4>::from_buffer(output.width, output.height, resized.as_mut_slice())
            .ok()?;
    if window.sees_beyond {
        let options = options.crop(window.left, window.top, window.width, window.height);
        return resizer.resize_typed(&source, &mut target, &options).ok();
    }
    // Whole pixels: a view of them alone, whose border interpolation does not look across.
    let Region { left, top, width, height } = Region {
        left: window.left as u32,
        top: window.top as u32,
        width: window.width as u32,
        height: window.height as u32,
    };
    let view = TypedCroppedImage::from_ref(&source, left, top, width, height).ok()?;
    resizer.resize_typed(&view, &mut target, &options).ok()
}
