//! Boxes: rectangular parts of tensors, and copying what two of them share.
//!
//! Elements lie with the last dimension fastest, so a box is a list of runs; dimensions that both
//! boxes cover whole are one run with the dimension before them.

/// Where a part of a tensor lies in its whole.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    /// Its first index in each dimension.
    pub start: &'a [u64],
    /// How many indices it has in each.
    pub shape: &'a [u64],
}

impl Place<'_> {
    /// The number of its elements.
    pub(crate) fn elements(self) -> u64 {
        product(self.shape.iter().copied())
    }

    /// The number of elements that both have.
    pub(crate) fn shared_elements(self, other: Place<'_>) -> u64 {
        product((0..self.shape.len()).map(|dimension| self.shared(other, dimension).1))
    }

    /// The first index and the number of indices that both have in one dimension.
    fn shared(self, other: Place<'_>, dimension: usize) -> (u64, u64) {
        let first = self.start[dimension].max(other.start[dimension]);
        let end = (self.start[dimension] + self.shape[dimension])
            .min(other.start[dimension] + other.shape[dimension]);
        (first, end.saturating_sub(first))
    }

    /// Whether both are the same box.
    pub(crate) fn is(self, other: Place<'_>) -> bool {
        self.start == other.start && self.shape == other.shape
    }
}

/// Nothing times anything is nothing, however long the other sides are.
fn product(sides: impl Iterator<Item = u64> + Clone) -> u64 {
    if sides.clone().any(|side| side == 0) { 0 } else { sides.product() }
}

/// Copies the elements that `from` and `into` share, each box with its bytes.
pub(crate) fn copy_shared(
    (from, source): (Place<'_>, &[u8]),
    (into, target): (Place<'_>, &mut [u8]),
    element_bytes: usize,
) {
    if from.shared_elements(into) == 0 {
        return;
    }
    let dimensions = from.shape.len();
    // From here on, a shared run goes through both boxes whole.
    let mut inner = dimensions;
    let mut run = element_bytes;
    while inner > 0 {
        let (_, shared) = from.shared(into, inner - 1);
        inner -= 1;
        run *= shared as usize;
        if shared != from.shape[inner] || shared != into.shape[inner] {
            break;
        }
    }
    let strides = |place: Place<'_>| {
        let mut strides = vec![element_bytes; dimensions];
        for dimension in (1..dimensions).rev() {
            strides[dimension - 1] = strides[dimension] * place.shape[dimension] as usize;
        }
        strides
    };
    let (from_strides, into_strides) = (strides(from), strides(into));
    let shared: Vec<_> = (0..dimensions).map(|dimension| from.shared(into, dimension)).collect();
    let offset = |place: Place<'_>, strides: &[usize], index: &[u64]| -> usize {
        (0..dimensions)
            .map(|dimension| {
                let at = shared[dimension].0 + index.get(dimension).copied().unwrap_or(0);
                (at - place.start[dimension]) as usize * strides[dimension]
            })
            .sum()
    };
    let mut index = vec![0; inner];
    loop {
        let (at, to) = (offset(from, &from_strides, &index), offset(into, &into_strides, &index));
        target[to..to + run].copy_from_slice(&source[at..at + run]);
        // The next run: the last outer dimension counts fastest.
        let Some(dimension) = (0..inner).rev().find(|&one| index[one] + 1 < shared[one].1) else {
            return;
        };
        index[dimension] += 1;
        index[dimension + 1..].fill(0);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A box within a whole of these sides.
    fn within(whole: Vec<u64>) -> impl Strategy<Value = (Vec<u64>, Vec<u64>)> {
        let sides: Vec<_> = whole
            .into_iter()
            .map(|side| (0..=side, 0..=side).prop_map(|(a, b)| (a.min(b), a.abs_diff(b))))
            .collect();
        sides.prop_map(|sides| sides.into_iter().unzip())
    }

    /// The elements of a box, each its number in the whole.
    fn elements(whole: &[u64], place: Place<'_>) -> Vec<u16> {
        let mut found = vec![0_u64];
        for (dimension, &side) in whole.iter().enumerate() {
            let range = place.start[dimension]..place.start[dimension] + place.shape[dimension];
            found = found
                .iter()
                .flat_map(|base| range.clone().map(move |at| base * side + at))
                .collect();
        }
        found.into_iter().map(|number| number as u16 + 1).collect()
    }

    fn bytes(values: &[u16]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    proptest! {
        #[test]
        fn what_two_boxes_share_is_copied_and_nothing_else(
            (whole, a, b) in prop::collection::vec(0_u64..5, 0..4)
                .prop_flat_map(|whole| (Just(whole.clone()), within(whole.clone()), within(whole))),
        ) {
            let (from, into) = (Place { start: &a.0, shape: &a.1 }, Place { start: &b.0, shape: &b.1 });
            let (source, wanted) = (elements(&whole, from), elements(&whole, into));
            let mut target = bytes(&vec![0; wanted.len()]);
            copy_shared((from, &bytes(&source)), (into, &mut target), 2);
            let expected: Vec<u16> =
                wanted.iter().map(|value| if source.contains(value) { *value } else { 0 }).collect();
            prop_assert_eq!(target, bytes(&expected));
            let shared = expected.iter().filter(|value| **value != 0).count() as u64;
            prop_assert_eq!(from.shared_elements(into), shared);
        }
    }
}
