//! Random changes of colour, as torchvision's `ColorJitter` does to 8-bit tensors: the four
//! operations in random order, each rounding to 8 bits by cutting off.

use crate::{AugmentKey, key::Draw, settings::Jitter};

/// ITU-R 601 as torchvision's tensors use it.
const LUMA: [f32; 3] = [0.2989, 0.587, 0.114];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Brightness,
    Contrast,
    Saturation,
    Hue,
}

const OPERATIONS: [Operation; 4] =
    [Operation::Brightness, Operation::Contrast, Operation::Saturation, Operation::Hue];

impl Jitter {
    /// Changes pixels of four bytes in place, as `key` decides.
    pub(crate) fn apply(&self, pixels: &mut [u8], key: AugmentKey) {
        let (pixels, _) = pixels.as_chunks_mut::<4>();
        for operation in order(key.below(Draw::JitterOrder, 24)) {
            let bound = match operation {
                Operation::Brightness => self.brightness,
                Operation::Contrast => self.contrast,
                Operation::Saturation => self.saturation,
                Operation::Hue => self.hue,
            };
            if bound <= 0.0 {
                continue;
            }
            let bound = f64::from(bound);
            let draw = Draw::JitterAmount(operation as u8);
            if operation == Operation::Hue {
                turn_hue(pixels, key.between(draw, [-bound, bound]) as f32);
                continue;
            }
            let factor = key.between(draw, [(1.0 - bound).max(0.0), 1.0 + bound]) as f32;
            match operation {
                Operation::Brightness => blend(pixels, factor, |_| 0.0),
                Operation::Contrast => {
                    let sum: u64 = pixels.iter().map(|pixel| luma(*pixel) as u64).sum();
                    let mean = (sum as f64 / pixels.len() as f64) as f32;
                    blend(pixels, factor, |_| mean);
                }
                _ => blend(pixels, factor, luma),
            }
        }
    }
}

/// The permutation of this number, 0 to 23.
fn order(mut number: u32) -> [Operation; 4] {
    let mut operations = OPERATIONS;
    for place in 0..3_usize {
        let choices = 4 - place as u32;
        operations.swap(place, place + (number % choices) as usize);
        number /= choices;
    }
    operations
}

/// The pixel's luma, cut off to a whole number.
fn luma([red, green, blue, _]: [u8; 4]) -> f32 {
    let luma = LUMA[0] * f32::from(red) + LUMA[1] * f32::from(green) + LUMA[2] * f32::from(blue);
    luma.trunc()
}

fn blend(pixels: &mut [[u8; 4]], factor: f32, other: impl Fn([u8; 4]) -> f32) {
    for pixel in pixels {
        let other = other(*pixel) * (1.0 - factor);
        // The conversion cuts off, and clamps to 0 and 255.
        *pixel = pixel.map(|value| (f32::from(value) * factor + other) as u8);
    }
}

fn turn_hue(pixels: &mut [[u8; 4]], turn: f32) {
    for pixel in pixels {
        let [red, green, blue, _] = pixel.map(|value| f32::from(value) / 255.0);
        let (most, least) = (red.max(green).max(blue), red.min(green).min(blue));
        let chroma = most - least;
        if chroma <= 0.0 {
            continue;
        }
        let sixth = if most == red {
            (green - blue) / chroma
        } else if most == green {
            2.0 + (blue - red) / chroma
        } else {
            4.0 + (red - green) / chroma
        };
        let hue = (sixth / 6.0 + turn).rem_euclid(1.0) * 6.0;
        // The channel as a function of the hue's distance from its own place on the circle.
        let channel = |offset: f32| {
            let place = offset + hue;
            let place = if place >= 6.0 { place - 6.0 } else { place };
            let value = most - chroma * place.min(4.0 - place).clamp(0.0, 1.0);
            (value * 255.999) as u8
        };
        *pixel = [channel(5.0), channel(3.0), channel(1.0), u8::MAX];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_order_occurs_once() {
        let mut orders: Vec<_> = (0..24).map(|number| order(number).map(|o| o as u8)).collect();
        orders.sort_unstable();
        orders.dedup();
        assert_eq!(orders.len(), 24);
    }

    #[test]
    fn a_hue_turned_by_a_third_moves_the_channels_on() {
        let mut pixels = [[200, 100, 50, 0], [9, 9, 9, 0]];
        turn_hue(&mut pixels, 1.0 / 3.0);
        let [red, green, blue, _] = pixels[0];
        assert!(red.abs_diff(50) < 2 && green.abs_diff(200) < 2 && blue.abs_diff(100) < 2);
        assert_eq!(pixels[1][..3], [9, 9, 9], "grey has no hue");
    }

    #[test]
    fn without_bounds_nothing_changes() {
        let mut pixels = [1, 2, 3, 4, 250, 251, 252, 253];
        Jitter::default().apply(&mut pixels, AugmentKey::new([5, 6]));
        assert_eq!(pixels, [1, 2, 3, 4, 250, 251, 252, 253]);
    }
}
