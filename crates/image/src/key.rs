//! What decides an image's augmentation: 128 bits, and numbered draws from them.
//!
//! A draw is a function of the key and the draw's number alone (two rounds of SplitMix64's
//! finalizer, <https://prng.di.unimi.it/splitmix64.c>, over the key's halves and the number times
//! the golden ratio). There is no state to carry, so each purpose has its own numbers: turning
//! jitter on moves no crop, and a fourth try does not shift the flip. The numbers are part of what
//! a replay relies on: add new ones at the end.

/// Decides one image's augmentation; the caller derives it from (seed, epoch, sample).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AugmentKey([u64; 2]);

/// What a number is drawn for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Draw {
    /// Whether to flip.
    Flip,
    /// The order of the jitter's four operations.
    JitterOrder,
    /// How much one of them does.
    JitterAmount(u8),
    /// The numbers of one try at a crop: area, ratio, top, left.
    Crop {
        /// The try.
        attempt: u8,
        /// Which of its numbers.
        number: u8,
    },
}

impl Draw {
    const fn number(self) -> u64 {
        match self {
            Self::Flip => 0,
            Self::JitterOrder => 1,
            Self::JitterAmount(operation) => 2 + operation as u64,
            Self::Crop { attempt, number } => 16 + 4 * attempt as u64 + number as u64,
        }
    }
}

impl AugmentKey {
    /// A key of 128 bits that are uniform over the samples and epochs.
    #[must_use]
    pub const fn new(bits: [u64; 2]) -> Self {
        Self(bits)
    }

    const fn bits(self, draw: Draw) -> u64 {
        let number = (draw.number() + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed(mixed(self.0[0].wrapping_add(number)) ^ self.0[1])
    }

    /// A uniform number in [0, 1).
    pub(crate) fn unit(self, draw: Draw) -> f64 {
        (self.bits(draw) >> 11) as f64 * (1.0 / (1_u64 << 53) as f64)
    }

    /// A uniform number in [low, high).
    pub(crate) fn between(self, draw: Draw, [low, high]: [f64; 2]) -> f64 {
        low + (high - low) * self.unit(draw)
    }

    /// A uniform whole number below `bound`; the bias of a bound of 2^32 is 2^-32.
    pub(crate) fn below(self, draw: Draw, bound: u32) -> u32 {
        ((u128::from(self.bits(draw)) * u128::from(bound)) >> 64) as u32
    }
}

const fn mixed(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_never_change() {
        let key = AugmentKey::new([1, 2]);
        let drawn = [Draw::Flip, Draw::JitterOrder, Draw::Crop { attempt: 9, number: 3 }]
            .map(|draw| key.bits(draw));
        assert_eq!(drawn, GOLDEN);
    }

    const GOLDEN: [u64; 3] =
        [583_880_340_377_267_059, 5_363_847_899_049_099_421, 3_494_091_332_403_858_618];

    #[test]
    fn draws_are_uniform_and_independent() {
        let rounds = 20_000_u64;
        let mut sums = [0.0; 3];
        for round in 0..rounds {
            let key = AugmentKey::new([round, 7]);
            let flip = key.unit(Draw::Flip) - 0.5;
            let area = key.unit(Draw::Crop { attempt: 0, number: 0 }) - 0.5;
            sums[0] += flip;
            sums[1] += area;
            sums[2] += flip * area;
        }
        // Five standard deviations: 0.29 each for the means, 1/12 for the product.
        let bound = 5.0 * 0.29 * (rounds as f64).sqrt();
        assert!(sums.iter().all(|sum| sum.abs() < bound), "{sums:?}, bound {bound}");
    }
}
