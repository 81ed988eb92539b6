//! The unigram entropy of tokens: what the best model that ignores context would lose.

/// How often each token id occurred.
#[derive(Debug, Default)]
pub(crate) struct Frequencies {
    counts: Vec<u64>,
    total: u64,
}

impl Frequencies {
    pub(crate) fn add(&mut self, token: u32) {
        let index = token as usize;
        if index >= self.counts.len() {
            self.counts.resize(index + 1, 0);
        }
        self.counts[index] += 1;
        self.total += 1;
    }

    /// The entropy, in nats; 0 for no tokens.
    #[allow(clippy::cast_precision_loss, reason = "counts of tokens lie far below 2^53")]
    pub(crate) fn entropy(&self) -> f64 {
        let total = self.total as f64;
        let nats = |count: &u64| {
            let share = *count as f64 / total;
            -share * share.ln()
        };
        // `0.0 +` so that a single kind of token gives 0 and not -0.
        0.0 + self.counts.iter().filter(|count| **count > 0).map(nats).sum::<f64>()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entropy(tokens: impl IntoIterator<Item = u32>) -> f64 {
        let mut frequencies = Frequencies::default();
        tokens.into_iter().for_each(|token| frequencies.add(token));
        frequencies.entropy()
    }

    #[test]
    fn known_distributions_have_their_entropy() {
        assert_eq!(entropy([]), 0.0);
        assert_eq!(entropy([9; 100]), 0.0);
        assert!((entropy(0..256) - 256f64.ln()).abs() < 1e-12);
        assert!(
            (entropy([1, 1, 1, 7]) - (0.75 * (4f64 / 3.0).ln() + 0.25 * 4f64.ln())).abs() < 1e-12
        );
    }

    proptest! {
        #[test]
        fn it_lies_between_none_and_uniform_whatever_the_order(
            mut tokens in prop::collection::vec(0u32..50, 1..200)
        ) {
            let kinds = tokens.iter().collect::<std::collections::BTreeSet<_>>().len() as f64;
            let forwards = entropy(tokens.clone());
            tokens.reverse();
            prop_assert_eq!(forwards, entropy(tokens));
            prop_assert!(forwards >= 0.0 && forwards <= kinds.ln() + 1e-12);
        }
    }
}
