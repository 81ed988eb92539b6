//! Digests of parts: one digest, computed by several threads.
//!
//! BLAKE3 is a tree over its input, so what lies at a multiple of [`PartDigest::BYTES`] can be
//! digested by itself. What comes out is the digest that one thread would have found.

use blake3::{
    Hasher,
    hazmat::{self, HasherExt as _, Mode},
};

use crate::Digest;

/// What one part adds to the digest of the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartDigest(hazmat::ChainingValue);

impl PartDigest {
    /// The length of a part; the last one may be shorter. A power of two: a part is a subtree.
    pub const BYTES: u64 = 4 << 20;

    /// How many parts so many bytes have; even nothing has one.
    #[must_use]
    pub const fn count(bytes: u64) -> u64 {
        if bytes == 0 { 1 } else { bytes.div_ceil(Self::BYTES) }
    }

    /// That of the part with this number, one of several; its bytes come in slices.
    #[must_use]
    pub fn of<'a>(number: u64, slices: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut hasher = Hasher::new();
        hasher.set_input_offset(number * Self::BYTES);
        slices.for_each(|slice| {
            hasher.update(slice);
        });
        Self(hasher.finalize_non_root())
    }

    /// The digest of the whole, which has so many bytes and at least two parts: these.
    ///
    /// # Panics
    /// When there is but one part, whose digest is [`Digest::of`] it, or not as many as the bytes have.
    #[must_use]
    pub fn join(bytes: u64, parts: &[Self]) -> Digest {
        assert!(parts.len() >= 2 && parts.len() as u64 == Self::count(bytes), "all of the parts");
        let (left, right) = split(bytes, parts);
        let root = hazmat::merge_subtrees_root(&left, &right, Mode::Hash);
        Digest::from_bytes(*root.as_bytes())
    }
}

/// The values of the two subtrees of so many bytes, which are these parts.
fn split(bytes: u64, parts: &[PartDigest]) -> (hazmat::ChainingValue, hazmat::ChainingValue) {
    let left_bytes = hazmat::left_subtree_len(bytes);
    let (left, right) = parts.split_at((left_bytes / PartDigest::BYTES) as usize);
    (value(left_bytes, left), value(bytes - left_bytes, right))
}

fn value(bytes: u64, parts: &[PartDigest]) -> hazmat::ChainingValue {
    if let [only] = parts {
        return only.0;
    }
    let (left, right) = split(bytes, parts);
    hazmat::merge_subtrees_non_root(&left, &right, Mode::Hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_give_the_digest_of_the_whole() {
        let part = PartDigest::BYTES;
        for bytes in [part + 1, 2 * part, 2 * part + 1024, 3 * part, 5 * part - 1, 7 * part + 3] {
            let whole: Vec<u8> = (0..bytes).map(|at| ((at * 7) >> 3) as u8).collect();
            let numbered = whole.chunks(part as usize).zip(0..);
            let parts: Vec<_> = numbered
                .map(|(bytes, number)| PartDigest::of(number, bytes.chunks(70_001)))
                .collect();
            assert_eq!(parts.len() as u64, PartDigest::count(bytes));
            assert_eq!(PartDigest::join(bytes, &parts), Digest::of(&whole), "{bytes}");
        }
        assert_eq!([0, 1, part].map(PartDigest::count), [1; 3]);
    }
}
