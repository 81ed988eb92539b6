//! Rectangles: which part of an image is decoded, and which part of that is resized.

use std::fmt;

use crate::{
    AugmentKey,
    key::Draw,
    settings::{Crop, ImageSettings},
};

/// Height and width in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ImageSize {
    /// Rows.
    pub height: u32,
    /// Pixels in a row.
    pub width: u32,
}

impl ImageSize {
    /// How many pixels there are.
    #[must_use]
    pub const fn pixels(self) -> u64 {
        self.height as u64 * self.width as u64
    }

    /// Height and width exchanged.
    pub(crate) const fn transposed(self) -> Self {
        Self { height: self.width, width: self.height }
    }
}

impl fmt::Display for ImageSize {
    /// Width first, as people say it.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}x{}", self.width, self.height)
    }
}

/// Whole pixels: what a decoder is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Region {
    pub left: u32,
    pub top: u32,
    pub width: u32,
    pub height: u32,
}

impl Region {
    pub(crate) const fn whole(size: ImageSize) -> Self {
        Self { left: 0, top: 0, width: size.width, height: size.height }
    }

    pub(crate) const fn size(self) -> ImageSize {
        ImageSize { height: self.height, width: self.width }
    }
}

/// A part of an image in parts of pixels: what is resized.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Window {
    pub left: f64,
    pub top: f64,
    pub width: f64,
    pub height: f64,
    /// Whether interpolation may look at pixels beside the window, as if the whole image had been
    /// resized and cropped afterwards, or must not, as if it had been cropped before.
    pub sees_beyond: bool,
}

/// How far beside its pixel an interpolation looks, in output pixels: bicubic's support.
const SUPPORT: f64 = 2.0;

impl Window {
    const fn of(region: Region) -> Self {
        Self {
            left: region.left as f64,
            top: region.top as f64,
            width: region.width as f64,
            height: region.height as f64,
            sees_beyond: false,
        }
    }

    /// The part of an image of `size` that becomes an output of the settings' size.
    pub(crate) fn choose(settings: &ImageSettings, size: ImageSize, key: AugmentKey) -> Self {
        match settings.crop {
            Crop::RandomResized { scale, ratio } => {
                Self::of(random_resized(size, scale.map(f64::from), ratio.map(f64::from), key))
            }
            Crop::Center { resize } => center(size, resize, settings.size),
            Crop::Resize | Crop::None => Self::of(Region::whole(size)),
        }
    }

    /// The same window in an image whose pixels are `divisor` times as large.
    pub(crate) fn divided(self, divisor: u32) -> Self {
        let by = f64::from(divisor);
        Self {
            left: self.left / by,
            top: self.top / by,
            width: self.width / by,
            height: self.height / by,
            // A window's border now lies inside a pixel.
            sees_beyond: self.sees_beyond || divisor > 1,
        }
    }

    /// The same window, seen from a region of the image.
    pub(crate) fn within(self, region: Region) -> Self {
        let (left, top) = (self.left - f64::from(region.left), self.top - f64::from(region.top));
        // Rounding must not push the window past the region by a hair.
        let left = left.clamp(0.0, (f64::from(region.width) - self.width).max(0.0));
        let top = top.clamp(0.0, (f64::from(region.height) - self.height).max(0.0));
        let width = self.width.min(f64::from(region.width));
        let height = self.height.min(f64::from(region.height));
        Self { left, top, width, height, ..self }
    }

    /// The pixels that resizing to `output` looks at, in an image of `size`.
    pub(crate) fn reach(self, size: ImageSize, output: ImageSize) -> Region {
        let margin = |length: f64, output: u32| {
            if self.sees_beyond {
                SUPPORT * (length / f64::from(output)).max(1.0) + 1.0
            } else {
                0.0
            }
        };
        let across = margin(self.width, output.width);
        let along = margin(self.height, output.height);
        let left = ((self.left - across).floor().max(0.0) as u32).min(size.width - 1);
        let top = ((self.top - along).floor().max(0.0) as u32).min(size.height - 1);
        let right = ((self.left + self.width + across).ceil() as u32).clamp(left + 1, size.width);
        let bottom = ((self.top + self.height + along).ceil() as u32).clamp(top + 1, size.height);
        Region { left, top, width: right - left, height: bottom - top }
    }

    /// By how much a decoder may shrink the image and still have a pixel for each of the output.
    pub(crate) fn divisor(self, output: ImageSize) -> u32 {
        let enough = |divisor: &u32| {
            self.width >= f64::from(output.width) * f64::from(*divisor)
                && self.height >= f64::from(output.height) * f64::from(*divisor)
        };
        [8, 4, 2].into_iter().find(enough).unwrap_or(1)
    }
}

const TRIES: u8 = 10;

/// torchvision's `RandomResizedCrop.get_params`, rounding halves to even as Python does.
fn random_resized(size: ImageSize, scale: [f64; 2], ratio: [f64; 2], key: AugmentKey) -> Region {
    let area = size.pixels() as f64;
    for attempt in 0..TRIES {
        let draw = |number| Draw::Crop { attempt, number };
        let target = area * key.between(draw(0), scale);
        let ratio = key.between(draw(1), ratio.map(f64::ln)).exp();
        let width = (target * ratio).sqrt().round_ties_even() as u32;
        let height = (target / ratio).sqrt().round_ties_even() as u32;
        if (1..=size.width).contains(&width) && (1..=size.height).contains(&height) {
            let top = key.below(draw(2), size.height - height + 1);
            let left = key.below(draw(3), size.width - width + 1);
            return Region { left, top, width, height };
        }
    }
    let (wide, high) = (f64::from(size.width), f64::from(size.height));
    let (width, height) = if wide / high < ratio[0] {
        (size.width, (wide / ratio[0]).round_ties_even() as u32)
    } else if wide / high > ratio[1] {
        ((high * ratio[1]).round_ties_even() as u32, size.height)
    } else {
        (size.width, size.height)
    };
    let (width, height) = (width.clamp(1, size.width), height.clamp(1, size.height));
    Region { left: (size.width - width) / 2, top: (size.height - height) / 2, width, height }
}

/// torchvision's `Resize(resize)` and `CenterCrop(output)`, seen from the image before both.
fn center(size: ImageSize, resize: u32, [height, width]: [u32; 2]) -> Window {
    let shorter = u64::from(size.width.min(size.height));
    let side = |side: u32| u64::from(side) * u64::from(resize) / shorter;
    let (wide, high) = (side(size.width) as f64, side(size.height) as f64);
    let (across, along) = (f64::from(size.width) / wide, f64::from(size.height) / high);
    let start = |long: f64, short: u32| ((long - f64::from(short)) / 2.0).round_ties_even();
    Window {
        left: start(wide, width) * across,
        top: start(high, height) * along,
        width: f64::from(width) * across,
        height: f64::from(height) * along,
        sees_beyond: true,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RATIO: [f64; 2] = [0.75, 4.0 / 3.0];

    proptest! {
        #[test]
        fn windows_lie_within_the_image_and_what_is_decoded_covers_them(
            width in 1_u32..3000, height in 1_u32..3000, bits: [u64; 2], center: bool,
            output in 1_u32..300,
        ) {
            let crop = if center { Crop::Center { resize: output + 32 } } else { Crop::default() };
            let settings = ImageSettings { size: [output, output], crop, ..Default::default() };
            let size = ImageSize { height, width };
            let output = ImageSize { height: output, width: output };
            let window = Window::choose(&settings, size, AugmentKey::new(bits));
            let divisor = window.divisor(output);
            let shrunk = ImageSize {
                height: height.div_ceil(divisor), width: width.div_ceil(divisor),
            };
            let window = window.divided(divisor);
            let region = window.reach(shrunk, output);
            prop_assert!(region.left + region.width <= shrunk.width);
            prop_assert!(region.top + region.height <= shrunk.height);
            let inner = window.within(region);
            prop_assert!(inner.left >= 0.0 && inner.top >= 0.0);
            prop_assert!(inner.width > 0.0 && inner.height > 0.0);
            prop_assert!(inner.left + inner.width <= f64::from(region.width) + 1e-6);
            prop_assert!(inner.top + inner.height <= f64::from(region.height) + 1e-6);
        }
    }

    #[test]
    fn crops_have_the_areas_and_ratios_asked_for() {
        let size = ImageSize { height: 1500, width: 2000 };
        let mut shares = 0.0;
        let rounds = 2000;
        for round in 0..rounds {
            let region = random_resized(size, [0.2, 0.6], RATIO, AugmentKey::new([round, 0]));
            let ratio = f64::from(region.width) / f64::from(region.height);
            assert!((0.749..1.335).contains(&ratio), "{region:?}");
            let share = region.size().pixels() as f64 / size.pixels() as f64;
            assert!((0.199..0.601).contains(&share), "{region:?}");
            shares += share;
        }
        let mean = shares / rounds as f64;
        assert!((mean - 0.4).abs() < 0.02, "areas are drawn evenly: {mean}");
    }

    #[test]
    fn an_image_without_room_for_the_ratio_gives_its_centre() {
        let strip = ImageSize { height: 10, width: 1000 };
        let region = random_resized(strip, [0.9, 1.0], RATIO, AugmentKey::new([3, 4]));
        assert_eq!(region, Region { left: 493, top: 0, width: 13, height: 10 });
    }

    #[test]
    fn the_centre_is_where_torchvision_takes_it() {
        // 500x375 to 341x256, then 224 from (58, 16).
        let window = center(ImageSize { height: 375, width: 500 }, 256, [224, 224]);
        let across = 500.0 / 341.0;
        assert!((window.left - 58.0 * across).abs() < 1e-9, "{window:?}");
        assert!((window.width - 224.0 * across).abs() < 1e-9, "{window:?}");
        assert!((window.top - 16.0 * 375.0 / 256.0).abs() < 1e-9, "{window:?}");
    }
}
