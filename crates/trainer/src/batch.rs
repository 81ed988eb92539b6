//! A batch as the network takes it: what stands at each place and before it, and what comes next.

use std::ops::Range;

use burn::tensor::{Device, Int, Tensor, TensorData};
use forebay::Random;

use crate::{Error, model::ModelShape};

/// The tokens of a batch, row after row, each row one token longer than the context.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows<'a> {
    tokens: &'a [u32],
    row_tokens: usize,
}

impl<'a> Rows<'a> {
    /// Refuses what the network cannot take.
    pub(crate) fn new(tokens: &'a [u32], shape: &ModelShape) -> Result<Self, Error> {
        let row_tokens = shape.context + 1;
        if tokens.is_empty() || !tokens.len().is_multiple_of(row_tokens) {
            return Err(Error::BatchShape { tokens: tokens.len(), row_tokens });
        }
        let vocabulary_size = shape.vocabulary_size;
        match tokens.iter().find(|&&token| token as usize >= vocabulary_size) {
            Some(&token) => Err(Error::Token { token, vocabulary_size }),
            None => Ok(Self { tokens, row_tokens }),
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.tokens.len() / self.row_tokens
    }

    /// How many tokens are to be predicted.
    pub(crate) fn predictions(&self) -> usize {
        self.count() * (self.row_tokens - 1)
    }

    /// A copy of all tokens in which each was replaced by a random one with probability `share`.
    pub(crate) fn with_noise(
        &self,
        share: f64,
        vocabulary_size: usize,
        random: &mut Random,
    ) -> Vec<u32> {
        let noisy = self.tokens.iter().map(|&token| {
            if random.unit() < share { random.below(vocabulary_size as u64) as u32 } else { token }
        });
        noisy.collect()
    }

    /// The tokens `back` places before each place of `rows`; before a row stands token 0.
    fn shifted(&self, rows: Range<usize>, back: usize) -> Vec<i32> {
        let context = self.row_tokens - 1;
        let mut shifted = Vec::with_capacity(rows.len() * context);
        for row in self.tokens.chunks_exact(self.row_tokens).take(rows.end).skip(rows.start) {
            let absent = back.min(context);
            shifted.extend(std::iter::repeat_n(0, absent));
            shifted.extend(row[..context - absent].iter().map(|&token| token as i32));
        }
        shifted
    }

    /// For each `back` the tokens that many places before each place of `rows`.
    pub(crate) fn inputs(
        &self,
        rows: &Range<usize>,
        lookback_tokens: usize,
        device: &Device,
    ) -> Vec<Tensor<2, Int>> {
        let size = [rows.len(), self.row_tokens - 1];
        let shifted = (0..lookback_tokens).map(|back| self.shifted(rows.clone(), back));
        shifted.map(|tokens| Tensor::from_data(TensorData::new(tokens, size), device)).collect()
    }

    /// The token after each place of `rows`, `[rows * context, 1]`.
    pub(crate) fn targets(&self, rows: &Range<usize>, device: &Device) -> Tensor<2, Int> {
        let rows = self.tokens.chunks_exact(self.row_tokens).take(rows.end).skip(rows.start);
        let next: Vec<i32> = rows.flat_map(|row| row[1..].iter().map(|&t| t as i32)).collect();
        let size = [next.len(), 1];
        Tensor::from_data(TensorData::new(next, size), device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ModelSettings;

    fn shape() -> ModelShape {
        ModelShape::new(&ModelSettings::default(), 10, 3)
    }

    #[test]
    fn each_place_sees_itself_and_what_came_before_and_predicts_what_comes_next() {
        let tokens = [9, 1, 2, 3, 4, 5, 6, 7, 8, 9, 8, 7];
        let rows = Rows::new(&tokens, &shape()).unwrap();
        assert_eq!((rows.count(), rows.predictions()), (3, 9));
        assert_eq!(rows.shifted(1..3, 0), [4, 5, 6, 8, 9, 8]);
        assert_eq!(rows.shifted(1..3, 1), [0, 4, 5, 0, 8, 9]);
        assert_eq!(rows.shifted(1..2, 7), [0, 0, 0]);
        let targets = rows.targets(&(0..2), &crate::device()).into_data();
        assert_eq!(targets.iter::<i64>().collect::<Vec<_>>(), [1, 2, 3, 5, 6, 7]);
    }

    #[test]
    fn what_the_network_cannot_take_is_refused() {
        let refused = |tokens: &[u32]| Rows::new(tokens, &shape()).unwrap_err().to_string();
        assert!(refused(&[]).contains("0 tokens"));
        assert!(refused(&[1; 5]).contains("5 tokens"));
        assert!(refused(&[1, 2, 10, 3]).contains("token 10"));
    }

    #[test]
    fn noise_replaces_its_share_and_is_drawn_from_the_given_state() {
        let tokens = vec![3; 4000];
        let rows = Rows::new(&tokens, &shape()).unwrap();
        let noisy = |share| rows.with_noise(share, 10, &mut Random::new(1));
        assert_eq!(noisy(0.0), tokens);
        assert_eq!(noisy(0.2), noisy(0.2));
        // A tenth of the replacements is the same token again.
        let changed = noisy(0.2).iter().filter(|&&token| token != 3).count();
        assert!((620..820).contains(&changed), "{changed}");
    }
}
