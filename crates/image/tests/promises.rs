//! What holds for every image: replay, regions, orders of dimensions, and hostile bytes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use forebay_image::{
    AugmentKey, Color, Crop, Error, ImageDecoder, ImageSettings, Jitter, Layout, Normalize, Scratch,
};
use forebay_types::{Dtype, ErrorKind};
use proptest::prelude::*;

const IMAGES: [&str; 6] =
    ["baseline.jpg", "progressive.jpg", "cmyk.jpg", "palette.png", "alpha.png", "lossy.webp"];

fn file(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/golden/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn settings() -> ImageSettings {
    ImageSettings { size: [32, 48], ..Default::default() }
}

fn decode(
    settings: &ImageSettings,
    encoded: &[u8],
    key: [u64; 2],
    scratch: &mut Scratch,
) -> Result<Vec<u8>, Error> {
    let decoder = ImageDecoder::new(settings.clone()).unwrap();
    let bytes = match decoder.output_bytes() {
        Some(bytes) => bytes,
        None => decoder.bytes_of(decoder.measure(encoded, scratch)?),
    };
    let mut out = vec![0; bytes];
    decoder.decode(encoded, AugmentKey::new(key), &mut out, scratch)?;
    Ok(out)
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
}

#[test]
fn a_key_replays_whatever_the_scratch_has_seen() {
    let jitter = Some(Jitter { brightness: 0.4, contrast: 0.4, saturation: 0.4, hue: 0.1 });
    let settings = ImageSettings { jitter, ..settings() };
    let mut used = Scratch::new();
    let mut distinct = std::collections::HashSet::new();
    for round in 0..8 {
        for name in IMAGES {
            let encoded = file(name);
            let one = decode(&settings, &encoded, [round, 9], &mut used).unwrap();
            let other = decode(&settings, &encoded, [round, 9], &mut Scratch::new()).unwrap();
            assert!(one == other, "{name} with key {round} differs");
            distinct.insert(one);
        }
    }
    assert_eq!(distinct.len(), 48, "every key and image gives another tensor");
}

/// The pixels of a random crop are those of the whole image: for each decoder that decodes regions.
#[test]
fn a_region_is_decoded_as_in_the_whole_image() {
    let mut scratch = Scratch::new();
    for (name, width, height) in
        [("baseline.jpg", 100, 70), ("lossy.webp", 100, 70), ("progressive.jpg", 300, 240)]
    {
        let encoded = file(name);
        let plain = ImageSettings {
            crop: Crop::None,
            flip: 0.0,
            layout: Layout::Hwc,
            scaled_decoding: false,
            ..Default::default()
        };
        let whole = decode(&plain, &encoded, [0, 0], &mut scratch).unwrap();
        // A crop as large as the output: 24 x 18 pixels of the image's area, nothing resized.
        let share = 24.0 * 18.0 / (width * height) as f32;
        let crop = Crop::RandomResized { scale: [share; 2], ratio: [24.0 / 18.0; 2] };
        let cropped = ImageSettings { crop, size: [18, 24], ..plain };
        for key in 0..200 {
            let part = decode(&cropped, &encoded, [key, 1], &mut scratch).unwrap();
            let found = (0..=height - 18).any(|top| {
                (0..=width - 24).any(|left| {
                    part.chunks_exact(24 * 3).enumerate().all(|(row, line)| {
                        let at = ((top + row) * width + left) * 3;
                        whole[at..at + 24 * 3] == *line
                    })
                })
            });
            assert!(found, "{name}: crop {key} is no part of the whole image");
        }
    }
}

#[test]
fn types_and_orders_agree() {
    let mut scratch = Scratch::new();
    let encoded = file("baseline.jpg");
    let mut made = |dtype, layout, color, normalize| {
        let settings = ImageSettings { dtype, layout, color, normalize, ..settings() };
        decode(&settings, &encoded, [3, 4], &mut scratch).unwrap()
    };
    let hwc = made(Dtype::U8, Layout::Hwc, Color::Rgb, None);
    let chw = made(Dtype::U8, Layout::Chw, Color::Rgb, None);
    let normalize = Normalize { mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] };
    let chw_floats = floats(&made(Dtype::F32, Layout::Chw, Color::Rgb, Some(normalize)));
    let hwc_floats = floats(&made(Dtype::F32, Layout::Hwc, Color::Rgb, Some(normalize)));
    let gray = made(Dtype::U8, Layout::Chw, Color::Gray, None);
    let gray_floats = floats(&made(Dtype::F32, Layout::Hwc, Color::Gray, None));
    let plane = 32 * 48;
    for pixel in 0..plane {
        let mut luma = 0.0;
        for channel in 0..3 {
            let level = hwc[pixel * 3 + channel];
            assert_eq!(level, chw[channel * plane + pixel]);
            let wanted =
                (f32::from(level) / 255.0 - normalize.mean[channel]) / normalize.std[channel];
            assert!((wanted - chw_floats[channel * plane + pixel]).abs() < 1e-5);
            assert!((wanted - hwc_floats[pixel * 3 + channel]).abs() < 1e-5);
            luma += f32::from(level) * [0.299, 0.587, 0.114][channel];
        }
        assert!((luma - f32::from(gray[pixel])).abs() <= 1.0);
        assert!((f32::from(gray[pixel]) / 255.0 - gray_floats[pixel]).abs() < 1e-6);
    }
}

#[test]
fn a_flip_mirrors_and_its_probability_holds() {
    let encoded = file("baseline.jpg");
    let mut scratch = Scratch::new();
    let mut with = |flip, key| {
        let plain = ImageSettings { crop: Crop::Resize, layout: Layout::Hwc, ..settings() };
        decode(&ImageSettings { flip, ..plain }, &encoded, [key, 0], &mut scratch).unwrap()
    };
    let (straight, flipped) = (with(0.0, 0), with(1.0, 0));
    for (one, other) in straight.chunks_exact(48 * 3).zip(flipped.chunks_exact(48 * 3)) {
        assert!(one.chunks_exact(3).eq(other.chunks_exact(3).rev()));
    }
    let count = (0..400).filter(|key| with(0.25, *key) == flipped).count();
    assert!((60..140).contains(&count), "{count} of 400 flipped, 100 expected");
}

#[test]
fn an_image_of_its_own_size_is_measured_first() {
    let settings = ImageSettings { crop: Crop::None, ..settings() };
    let decoder = ImageDecoder::new(settings).unwrap();
    let mut scratch = Scratch::new();
    assert_eq!(decoder.output_bytes(), None);
    let encoded = file("alpha.png");
    let size = decoder.measure(&encoded, &mut scratch).unwrap();
    assert_eq!((size.height, size.width), (42, 60));
    assert_eq!(decoder.shape_of(size), [3, 42, 60]);
    let mut other = vec![0; decoder.bytes_of(size) - 1];
    let error =
        decoder.decode(&encoded, AugmentKey::new([0, 0]), &mut other, &mut scratch).unwrap_err();
    assert!(matches!(error, Error::Room { .. }), "{error}");
}

#[test]
fn a_bomb_is_refused_by_its_header() {
    let settings = ImageSettings { pixels_max: 1000, ..settings() };
    for name in IMAGES {
        let mut scratch = Scratch::new();
        let error = decode(&settings, &file(name), [0, 0], &mut scratch).unwrap_err();
        assert!(matches!(error, Error::TooLarge { .. }), "{name}: {error}");
        assert_eq!(error.kind(), ErrorKind::Refused);
        assert_eq!(scratch.bytes(), 0, "nothing was decoded");
    }
}

#[test]
fn every_truncation_is_an_error() {
    let whole = ImageSettings { crop: Crop::Resize, ..settings() };
    let mut scratch = Scratch::new();
    for name in IMAGES {
        let encoded = file(name);
        for length in (0..encoded.len() - 1).step_by(encoded.len() / 60 + 1) {
            let error = decode(&whole, &encoded[..length], [0, 0], &mut scratch).unwrap_err();
            let kind = error.kind();
            assert!(matches!(kind, ErrorKind::Corrupt | ErrorKind::Invalid), "{name}: {error}");
        }
        decode(&whole, &encoded, [0, 0], &mut scratch).expect("the scratch survives an error");
    }
}

#[test]
fn warnings_can_be_tolerated() {
    let encoded = file("baseline.jpg");
    let truncated = &encoded[..encoded.len() - 200];
    let tolerant = ImageSettings { tolerate_warnings: true, ..settings() };
    decode(&tolerant, truncated, [0, 0], &mut Scratch::new()).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Any damage gives a tensor or an error, and leaves the scratch fit for the next image.
    #[test]
    fn damage_never_panics(
        image in 0..IMAGES.len(),
        flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        orient: bool,
        tolerate_warnings: bool,
        key: [u64; 2],
    ) {
        let mut encoded = file(IMAGES[image]);
        for (place, value) in flips {
            let place = place.index(encoded.len());
            encoded[place] = value;
        }
        let settings =
            ImageSettings { orient, tolerate_warnings, pixels_max: 1 << 20, ..settings() };
        let mut scratch = Scratch::new();
        if let Err(error) = decode(&settings, &encoded, key, &mut scratch) {
            prop_assert!(!error.to_string().is_empty());
        }
        decode(&settings, &file("baseline.jpg"), key, &mut scratch).unwrap();
    }

    #[test]
    fn noise_is_no_image(bytes in proptest::collection::vec(any::<u8>(), 0..200), head in 0..4) {
        let heads: [&[u8]; 4] =
            [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\x10\0\0\0WEBP"];
        let encoded = [heads[head as usize], &bytes].concat();
        let settings = ImageSettings { orient: true, pixels_max: 1 << 16, ..settings() };
        prop_assert!(decode(&settings, &encoded, [0, 0], &mut Scratch::new()).is_err());
    }
}
