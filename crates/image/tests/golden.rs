//! What Pillow makes of the same images (`golden/make.py`).

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use forebay_image::{AugmentKey, Crop, ImageDecoder, ImageSettings, Layout, Scratch};

const SIZE: [u32; 2] = [40, 56];
/// The mean difference in levels that full decoding may show: roundings.
const FULL_MAX: f64 = 2.0;
/// The same, where the JPEG decoder has shrunk the image.
const SCALED_MAX: f64 = 6.0;

fn file(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/golden/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn plain() -> ImageSettings {
    ImageSettings {
        size: SIZE,
        crop: Crop::Resize,
        flip: 0.0,
        layout: Layout::Hwc,
        scaled_decoding: false,
        ..Default::default()
    }
}

fn decode(settings: ImageSettings, encoded: &[u8]) -> Vec<u8> {
    let decoder = ImageDecoder::new(settings).unwrap();
    let mut scratch = Scratch::new();
    let bytes = decoder
        .output_bytes()
        .unwrap_or_else(|| decoder.bytes_of(decoder.measure(encoded, &mut scratch).unwrap()));
    let mut out = vec![0; bytes];
    decoder.decode(encoded, AugmentKey::new([1, 2]), &mut out, &mut scratch).unwrap();
    out
}

/// An expected image: PNG, so losslessly read by the decoder's own simplest path.
fn expected(name: &str) -> Vec<u8> {
    let pixels = decode(ImageSettings { crop: Crop::None, ..plain() }, &file(name));
    assert_eq!(pixels.len(), (SIZE[0] * SIZE[1] * 3) as usize);
    pixels
}

fn difference(one: &[u8], other: &[u8]) -> f64 {
    assert_eq!(one.len(), other.len());
    let sum: u64 = one.iter().zip(other).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
    sum as f64 / one.len() as f64
}

fn judge(settings: &ImageSettings, image: &str, answer: &str, most: f64) {
    let made = decode(settings.clone(), &file(image));
    let difference = difference(&made, &expected(answer));
    println!("{image} against {answer}: {difference:.3}");
    assert!(difference < most, "{image} differs from {answer} by {difference} levels");
}

#[test]
fn images_of_every_kind_are_what_pillow_makes_of_them() {
    for image in [
        "baseline.jpg",
        "progressive.jpg",
        "gray.jpg",
        "cmyk.jpg",
        "turned.jpg",
        "palette.png",
        "alpha.png",
        "lossy.webp",
    ] {
        let stem = image.split('.').next().unwrap();
        judge(&plain(), image, &format!("{stem}.expected.png"), FULL_MAX);
    }
}

#[test]
fn the_centre_is_what_torchvision_takes() {
    let center = |resize| ImageSettings { crop: Crop::Center { resize }, ..plain() };
    judge(&center(60), "baseline.jpg", "baseline.center.png", FULL_MAX);
    judge(&center(60), "lossy.webp", "lossy.center.png", FULL_MAX);
    judge(&center(64), "progressive.jpg", "progressive.center.png", FULL_MAX);
}

#[test]
fn a_shrinking_decoder_stays_close() {
    let scaled = ImageSettings { scaled_decoding: true, ..plain() };
    judge(&scaled, "progressive.jpg", "progressive.expected.png", SCALED_MAX);
    let center = ImageSettings { crop: Crop::Center { resize: 64 }, ..scaled };
    judge(&center, "progressive.jpg", "progressive.center.png", SCALED_MAX);
}

#[test]
fn exif_orientation_is_honoured_when_asked() {
    let oriented = ImageSettings { orient: true, ..plain() };
    judge(&oriented, "turned.jpg", "turned.oriented.expected.png", FULL_MAX);
    // A window of the turned image, taken from the image as it is stored.
    let whole = decode(ImageSettings { crop: Crop::None, ..oriented }, &file("turned.jpg"));
    let stored = decode(ImageSettings { crop: Crop::None, ..plain() }, &file("turned.jpg"));
    let (height, width) = (70, 100);
    for row in 0..height {
        for column in 0..width {
            // Orientation 6: the first row of the stored image is the right-hand column.
            let turned = 3 * (column * height + height - 1 - row);
            let at = 3 * (row * width + column);
            assert_eq!(whole[turned..turned + 3], stored[at..at + 3]);
        }
    }
}
