//! Photographs to training tensors. Limits: the barest loop over the same decoder and resizer, on
//! the same bytes with the same crops: of the whole image, and of the crop alone, which the
//! subject has to come close to although it also chooses, checks, flips, normalizes and orders.
//!
//! `FOREBAY_BENCH_IMAGES` names a directory of JPEG files to use; without it the crate's small
//! golden photograph is decoded over and over.

use std::path::Path;

use fast_image_resize::{
    FilterType, ResizeAlg, ResizeOptions, Resizer,
    images::{TypedImage, TypedImageRef},
    pixels::U8x4,
};
use forebay_bench::{Bench, Work};
use forebay_image::{AugmentKey, Crop, ImageDecoder, ImageSettings, Normalize, Scratch};
use forebay_types::Dtype;
use turbojpeg_sys as turbo;

const SIDE: u32 = 224;
/// The calls of a round: 256 images.
const CALLS: usize = 256;

fn main() {
    let bench = Bench::begin("image: JPEG to a tensor of 224 x 224, one thread");
    let images = images();
    let mean_bytes = images.iter().map(Vec::len).sum::<usize>() / images.len();
    println!("  {} images of {mean_bytes} bytes in the mean", images.len());
    let settings = ImageSettings { scaled_decoding: false, ..Default::default() };
    let normalize = Normalize { mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] };
    let normalized =
        ImageSettings { dtype: Dtype::F32, normalize: Some(normalize), ..settings.clone() };
    let stretched = ImageSettings { crop: Crop::Resize, ..settings.clone() };
    let scaled = ImageSettings { scaled_decoding: true, ..settings.clone() };
    contest(&bench, "whole image, U8", &images, stretched);
    contest(&bench, "random crop, U8", &images, settings);
    contest(&bench, "random crop, shrinking decoder, U8", &images, scaled);
    contest(&bench, "random crop, normalized F32", &images, normalized);
}

fn contest(bench: &Bench, name: &str, images: &[Vec<u8>], settings: ImageSettings) {
    let decoder = ImageDecoder::new(settings).expect("the settings are sound");
    let mut out = vec![0; decoder.output_bytes().expect("the size is fixed")];
    let mut scratch = Scratch::new();
    let key = |index: usize| AugmentKey::new([index as u64, 1]);
    let crops: Vec<[f64; 4]> = (0..CALLS)
        .map(|index| {
            let size = decoder.measure(&images[index % images.len()], &mut scratch);
            decoder.window(size.expect("it is sound"), key(index))
        })
        .collect();
    let (mut full, mut part) = (Bare::new(), Bare::new());
    bench
        .contest(name, Work::Calls(CALLS as u64))
        .with("forebay", || {
            bench.time(|| {
                for index in 0..CALLS {
                    let image = &images[index % images.len()];
                    decoder.decode(image, key(index), &mut out, &mut scratch).expect("it is sound");
                }
            })
        })
        .with("crop decode + resize", || {
            bench.time(|| {
                for index in 0..CALLS {
                    part.make(&images[index % images.len()], crops[index], true);
                }
            })
        })
        .with("full decode + crop + resize", || {
            bench.time(|| {
                for index in 0..CALLS {
                    full.make(&images[index % images.len()], crops[index], false);
                }
            })
        })
        .run();
}

fn images() -> Vec<Vec<u8>> {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../image/golden/baseline.jpg");
    let Some(directory) = std::env::var_os("FOREBAY_BENCH_IMAGES") else {
        return vec![std::fs::read(golden).expect("the golden photograph")];
    };
    let entries = std::fs::read_dir(directory).expect("the directory of images");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "jpg"));
    paths.sort();
    assert!(!paths.is_empty(), "the directory has no .jpg files");
    paths.iter().map(|path| std::fs::read(path).expect("an image")).collect()
}

/// The loop without any care: reused buffers, no limits, no messages.
struct Bare {
    handle: turbo::tjhandle,
    resizer: Resizer,
    decoded: Vec<u8>,
    resized: Vec<u8>,
}

impl Bare {
    fn new() -> Self {
        // SAFETY: no preconditions.
        let handle = unsafe { turbo::tj3Init(turbo::TJINIT_TJINIT_DECOMPRESS as i32) };
        let resized = vec![0; (SIDE * SIDE * 4) as usize];
        Self { handle, resizer: Resizer::new(), decoded: Vec::new(), resized }
    }

    fn make(&mut self, encoded: &[u8], [left, top, wide, high]: [f64; 4], of_crop_alone: bool) {
        let length = encoded.len() as turbo::size_t;
        // SAFETY: the handle is live, pointer and length are one slice's.
        let (width, height) = unsafe {
            assert_eq!(turbo::tj3DecompressHeader(self.handle, encoded.as_ptr(), length), 0);
            (
                turbo::tj3Get(self.handle, turbo::TJPARAM_TJPARAM_JPEGWIDTH as i32),
                turbo::tj3Get(self.handle, turbo::TJPARAM_TJPARAM_JPEGHEIGHT as i32),
            )
        };
        let mut region = turbo::tjregion { x: 0, y: 0, w: width, h: height };
        if of_crop_alone {
            let x = left as i32 / 16 * 16;
            let (right, y) = ((left + wide) as i32, top as i32);
            region = turbo::tjregion { x, y, w: right - x, h: high as i32 };
        }
        let pitch = region.w * 4;
        self.decoded.resize((pitch * region.h) as usize, 0);
        // SAFETY: as above; the output has the region's rows of `pitch` bytes.
        unsafe {
            assert_eq!(turbo::tj3SetCroppingRegion(self.handle, region), 0);
            let (pixels, form) = (self.decoded.as_mut_ptr(), turbo::TJPF_TJPF_RGBX);
            let pointer = encoded.as_ptr();
            assert_eq!(turbo::tj3Decompress8(self.handle, pointer, length, pixels, pitch, form), 0);
        }
        let (w, h) = (region.w as u32, region.h as u32);
        let source = TypedImageRef::<U8x4>::from_buffer(w, h, &self.decoded).expect("its size");
        let mut target =
            TypedImage::<U8x4>::from_buffer(SIDE, SIDE, &mut self.resized).expect("its size");
        let options = ResizeOptions::new()
            .resize_alg(ResizeAlg::Convolution(FilterType::Bilinear))
            .use_alpha(false)
            .crop(left - f64::from(region.x), top - f64::from(region.y), wide, high);
        self.resizer.resize_typed(&source, &mut target, &options).expect("the crop lies within");
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        // SAFETY: the handle is live and not used afterwards.
        unsafe { turbo::tj3Destroy(self.handle) };
    }
}
