//! A keyed permutation of `0..n` that is computed, never stored.
//!
//! A Feistel network shuffles the smallest power of two that holds `n`, at least four; values
//! that fall outside `0..n` walk the network again until they fall inside ("cycle walking", Black
//! and Rogaway 2002), less than twice on average. Every round is its own inverse, so the inverse
//! runs the rounds backwards. Time and memory do not depend on `n` beyond that.
//!
//! The round function is one multiplication: `fold(x ^ a, c)`, where `fold` multiplies to 128
//! bits and xors the halves. Keys come from BLAKE3 and differ with seed, epoch and purpose. It
//! shuffles well and is not a cipher: nothing here is secret.
//!
//! What it computes is a stored promise (a position in a checkpoint means these samples), drawn
//! in `docs/format/order.md` and fixed by a golden file.

/// Rounds for domains of at least [`WIDE_BITS`] bits.
const ROUNDS_WIDE: usize = 8;
/// Rounds for smaller domains, whose halves are too narrow for 8 rounds to reach every
/// permutation evenly.
const ROUNDS: usize = 24;
const WIDE_BITS: u32 = 8;
/// Up to so many elements a permutation takes the many rounds: worth a table where it is asked often.
pub(crate) const NARROW_MAX: u64 = 1 << (WIDE_BITS - 1);
const KEY_CONTEXT: &str = "forebay 2026-11-23 order v1 round keys";

/// What a permutation shuffles: keys of one purpose say nothing about those of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// The shards of an epoch.
    Shards = 1,
    /// The rows of a window; the window's number is the tweak.
    Rows = 2,
    /// The turns of a round of a mixture; round and stream are the tweak.
    Mixture = 3,
}

/// The keys of a family of permutations, one for each tweak.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    rounds: [RoundKey; ROUNDS],
}

#[derive(Clone, Copy, Debug, Default)]
struct RoundKey {
    tweak_mask: u64,
    tweak_factor: u64,
    factor: u64,
}

impl Keys {
    pub(crate) fn derive(seed: u64, epoch: u64, purpose: Purpose) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(KEY_CONTEXT);
        for word in [seed, epoch, purpose as u64] {
            hasher.update(&word.to_le_bytes());
        }
        let mut bytes = [0; ROUNDS * 3 * 8];
        hasher.finalize_xof().fill(&mut bytes);
        let (words, _) = bytes.as_chunks::<8>();
        let mut words = words.iter().map(|word| u64::from_le_bytes(*word));
        let mut word = || words.next().expect("three words for each round");
        let mut rounds = [RoundKey::default(); ROUNDS];
        for round in &mut rounds {
            // Odd factors: a factor of 0 would forget its input.
            *round = RoundKey { tweak_mask: word(), tweak_factor: word() | 1, factor: word() | 1 };
        }
        Self { rounds }
    }

    /// The permutation of `0..n` that belongs to `tweak`.
    ///
    /// # Panics
    /// When `n` is 0 or above 2^63.
    pub(crate) fn permutation(&self, tweak: u64, n: u64) -> Permutation<'_> {
        assert!((1..=1 << 63).contains(&n), "a permutation has 1 to 2^63 elements, not {n}");
        let bits = (u64::BITS - (n - 1).leading_zeros()).max(2);
        let rounds = if bits < WIDE_BITS { ROUNDS } else { ROUNDS_WIDE };
        let low_bits = bits / 2;
        Permutation {
            rounds: &self.rounds[..rounds],
            tweak,
            n,
            low_bits,
            low_mask: mask(low_bits),
            high_mask: mask(bits - low_bits),
        }
    }
}

/// One permutation of `0..n`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Permutation<'a> {
    rounds: &'a [RoundKey],
    tweak: u64,
    n: u64,
    low_bits: u32,
    low_mask: u64,
    high_mask: u64,
}

impl Permutation<'_> {
    /// Where `index` goes.
    #[inline]
    pub(crate) fn apply(&self, index: u64) -> u64 {
        debug_assert!(index < self.n, "{index} is not below {}", self.n);
        self.walk(index, |high, low| {
            for pair in self.rounds.chunks_exact(2) {
                *high ^= self.mix(pair[0], *low) & self.high_mask;
                *low ^= self.mix(pair[1], *high) & self.low_mask;
            }
        })
    }

    /// Where `index` comes from: `invert(apply(x)) == x`.
    #[inline]
    pub(crate) fn invert(&self, index: u64) -> u64 {
        debug_assert!(index < self.n, "{index} is not below {}", self.n);
        self.walk(index, |high, low| {
            for pair in self.rounds.chunks_exact(2).rev() {
                *low ^= self.mix(pair[1], *high) & self.low_mask;
                *high ^= self.mix(pair[0], *low) & self.high_mask;
            }
        })
    }

    /// Ends, because a walk along a cycle comes back to its start, which lies inside.
    #[inline]
    fn walk(&self, mut value: u64, shuffle: impl Fn(&mut u64, &mut u64)) -> u64 {
        loop {
            let (mut high, mut low) = (value >> self.low_bits, value & self.low_mask);
            shuffle(&mut high, &mut low);
            value = high << self.low_bits | low;
            if value < self.n {
                return value;
            }
        }
    }

    #[inline]
    fn mix(&self, key: RoundKey, half: u64) -> u64 {
        // The tweak's part does not depend on the data, so a processor computes it alongside.
        fold(half ^ fold(self.tweak ^ key.tweak_mask, key.tweak_factor), key.factor)
    }
}

const fn mask(bits: u32) -> u64 {
    (1 << bits) - 1
}

#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product >> 64) as u64 ^ product as u64
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    fn keys(seed: u64) -> Keys {
        Keys::derive(seed, 3, Purpose::Rows)
    }

    proptest! {
        #[test]
        fn small_domains_are_permuted_and_inverted(seed: u64, tweak: u64, n in 1u64..3000) {
            let keys = keys(seed);
            let permutation = keys.permutation(tweak, n);
            let images: BTreeSet<u64> = (0..n).map(|index| permutation.apply(index)).collect();
            prop_assert_eq!(images.len() as u64, n);
            prop_assert_eq!(images.last(), Some(&(n - 1)));
            for index in 0..n {
                prop_assert_eq!(permutation.invert(permutation.apply(index)), index);
            }
        }

        #[test]
        fn large_domains_invert(seed: u64, tweak: u64, n in 1u64..=1 << 63, at: prop::sample::Index) {
            let keys = keys(seed);
            let permutation = keys.permutation(tweak, n);
            let index = at.index(usize::MAX) as u64 % n;
            let image = permutation.apply(index);
            prop_assert!(image < n);
            prop_assert_eq!(permutation.invert(image), index);
        }
    }

    /// Pearson's statistic over its degrees of freedom: near 1 when `counts` are uniform.
    fn chi_square(counts: impl ExactSizeIterator<Item = u64> + Clone) -> f64 {
        let cells = counts.len() as f64;
        let expected = counts.clone().sum::<u64>() as f64 / cells;
        let sum: f64 = counts.map(|count| (count as f64 - expected).powi(2) / expected).sum();
        sum / (cells - 1.0)
    }

    /// A fair family stays below with a probability of more than 0.999 for each (chi-square, mean
    /// plus 4 standard deviations); the seeds are fixed, so the test cannot flicker.
    fn bound(cells: usize) -> f64 {
        1.0 + 4.0 * (2.0 / (cells as f64 - 1.0)).sqrt()
    }

    #[test]
    fn every_permutation_of_few_elements_comes_evenly() {
        for (n, permutations) in [(2u64, 2usize), (3, 6), (4, 24), (5, 120)] {
            let keys = keys(n);
            let mut counts = BTreeMap::<Vec<u64>, u64>::new();
            for tweak in 0..24_000 {
                let permutation = keys.permutation(tweak, n);
                *counts.entry((0..n).map(|x| permutation.apply(x)).collect()).or_default() += 1;
            }
            assert_eq!(counts.len(), permutations);
            let statistic = chi_square(counts.into_values().collect::<Vec<_>>().into_iter());
            assert!(statistic < bound(permutations), "{n}: {statistic}");
        }
    }

    #[test]
    fn every_element_goes_everywhere_evenly() {
        for n in [7u64, 16, 33, 100, 257] {
            for index in [0, 1, n / 2, n - 1] {
                let mut counts = vec![0u64; n as usize];
                for seed in 0..200 * n {
                    let keys = Keys::derive(seed, index, Purpose::Shards);
                    counts[keys.permutation(0, n).apply(index) as usize] += 1;
                }
                let statistic = chi_square(counts.into_iter());
                assert!(statistic < bound(n as usize), "{n}, {index}: {statistic}");
            }
        }
    }

    /// Neighbours must not stay neighbours: their distances are those of random pairs.
    #[test]
    fn neighbours_part() {
        let n = 1 << 16;
        let keys = keys(1);
        let permutation = keys.permutation(9, n);
        let mut counts = [0u64; 64];
        for index in 0..n - 1 {
            let distance = permutation.apply(index + 1).wrapping_sub(permutation.apply(index));
            counts[(distance % n / (n / 64)) as usize] += 1;
        }
        let statistic = chi_square(counts.into_iter());
        assert!(statistic < bound(64), "{statistic}");
    }
}
