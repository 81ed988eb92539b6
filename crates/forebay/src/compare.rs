//! Whether two runs are the same run, to the last bit.

use std::collections::BTreeMap;

use forebay_format::v1::journal::{Entry, Event};
use forebay_types::{Digest, Name};
use serde::Serialize;

use crate::{Engine, Error};

/// What comparing two runs found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Comparison {
    /// Steps whose loss and gradient norm were compared.
    pub losses: u64,
    /// Tensors of the last checkpoints that were compared, weights and optimizer state.
    pub tensors: u64,
    /// The first thing that differs; `None` when the runs are bit-identical.
    pub difference: Option<String>,
}

/// Compares every loss, gradient norm and learning rate of two runs, and every tensor, the
/// position and the trainer's metadata of their newest checkpoints.
///
/// # Errors
/// When a journal or a commit of either cannot be read or is damaged.
pub fn runs(engine: &Engine, one: &Name, two: &Name) -> Result<Comparison, Error> {
    let steps = [steps(&engine.entries(one)?), steps(&engine.entries(two)?)];
    let states = [state(engine, one)?, state(engine, two)?];
    let differs_at = first_difference(&steps[0], &steps[1]).map(|step| format!("step {step}"));
    let differs_in =
        first_difference(&states[0], &states[1]).map(|name| format!("`{name}` at the end"));
    Ok(Comparison {
        losses: steps[0].len() as u64,
        tensors: states[0].len().saturating_sub(1) as u64,
        difference: differs_at.or(differs_in),
    })
}

/// The bits of loss, gradient norm and learning rate of each step, as last taken.
fn steps(entries: &[Entry]) -> BTreeMap<u64, [u64; 3]> {
    let bits = |entry: &Entry| match &entry.event {
        Event::Step(step) => Some((
            step.step,
            [step.loss.to_bits(), step.gradient_norm.to_bits(), step.learning_rate.to_bits()],
        )),
        _ => None,
    };
    let counted = forebay_journal::timeline(entries).counted;
    counted.into_iter().filter_map(bits).collect()
}

/// The digest of each tensor of the newest checkpoint, and of its position and metadata together.
fn state(engine: &Engine, run: &Name) -> Result<BTreeMap<String, Digest>, Error> {
    let newest =
        forebay_checkpoint::list(engine.lake(), run)?.pop().ok_or_else(|| Error::NotFound {
            what: format!("a committed checkpoint of run {run}"),
            store: engine.lake().url().to_owned(),
            hint: "train it first".into(),
        })?;
    let shown = forebay_checkpoint::show(engine.lake(), run, newest.step)?;
    let mut digests = shown.tensor_digests();
    let rest = serde_json::json!({ "position": shown.position(), "metadata": shown.metadata() });
    digests.insert("position and metadata".into(), Digest::of(rest.to_string().as_bytes()));
    Ok(digests)
}

/// The first key, in order, that only one side has or that has two values.
fn first_difference<K: Ord + Clone, V: PartialEq>(
    one: &BTreeMap<K, V>,
    two: &BTreeMap<K, V>,
) -> Option<K> {
    one.keys().chain(two.keys()).filter(|key| one.get(key) != two.get(key)).min().cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_difference_is_found_on_either_side() {
        let one = BTreeMap::from([(1, 'a'), (2, 'b')]);
        assert_eq!(first_difference(&one, &one), None);
        assert_eq!(first_difference(&one, &BTreeMap::from([(1, 'a'), (2, 'c')])), Some(2));
        assert_eq!(first_difference(&one, &BTreeMap::from([(1, 'a')])), Some(2));
        assert_eq!(first_difference(&BTreeMap::from([(2, 'b')]), &one), Some(1));
    }
}
