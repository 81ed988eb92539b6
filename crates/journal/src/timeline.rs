//! Which entries count: the one rule by which a journal with several attempts is read.
//!
//! A crash loses the steps after the last checkpoint, and the next attempt takes them again; the
//! journal keeps both. Read backwards, a step counts if it lies before everything that was taken,
//! or resumed from, after it. So each step counts once, in its last attempt, and steps that a
//! later attempt threw away and has not reached again do not count at all.

use forebay_format::v1::journal::{Entry, Event};

/// The entries of a journal, divided by [`timeline`].
#[derive(Clone, Debug, Default)]
pub struct Timeline<'a> {
    /// Every entry that counts, in order. Steps are strictly ascending.
    pub counted: Vec<&'a Entry>,
    /// The steps and scores that a later attempt threw away, in order.
    pub superseded: Vec<&'a Entry>,
}

/// Divides the entries of a journal into those that count and those that do not.
#[must_use]
pub fn timeline(entries: &[Entry]) -> Timeline<'_> {
    let mut timeline = Timeline::default();
    // The first step that something later says anew.
    let mut horizon = u64::MAX;
    for entry in entries.iter().rev() {
        let counts = match &entry.event {
            Event::Step(step) => {
                let counts = step.step < horizon;
                horizon = horizon.min(step.step);
                counts
            }
            Event::Resumed(resumed) => {
                horizon = horizon.min(resumed.step);
                true
            }
            Event::Validated(validated) => validated.step <= horizon,
            _ => true,
        };
        if counts { &mut timeline.counted } else { &mut timeline.superseded }.push(entry);
    }
    timeline.counted.reverse();
    timeline.superseded.reverse();
    timeline
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use forebay_format::v1::journal::{Resumed, Step};
    use proptest::prelude::*;

    use super::*;

    fn step(step: u64, attempt: u32) -> Event {
        Event::Step(Step {
            step,
            loss: f64::from(attempt),
            learning_rate: 0.0,
            gradient_norm: 0.0,
            tokens: 1,
            seconds: 0.1,
            waited_seconds: 0.0,
            wait_cause: None,
        })
    }

    fn resumed(step: u64) -> Event {
        Event::Resumed(Resumed { step, seconds: 0.0, tier: "lake".into() })
    }

    fn entries(events: Vec<(u32, Event)>) -> Vec<Entry> {
        let number = |(sequence, (attempt, event))| Entry { sequence, unix_ms: 0, attempt, event };
        (0..).zip(events).map(number).collect()
    }

    fn steps(entries: &[&Entry]) -> Vec<(u64, u32)> {
        let step = |entry: &&Entry| match &entry.event {
            Event::Step(step) => Some((step.step, entry.attempt)),
            _ => None,
        };
        entries.iter().filter_map(step).collect()
    }

    #[test]
    fn steps_that_were_thrown_away_and_not_reached_again_do_not_count() {
        let told = (0..5).map(|n| (1, step(n, 1))).chain([(2, resumed(2)), (2, step(2, 2))]);
        let entries = entries(told.collect());
        let timeline = timeline(&entries);
        assert_eq!(steps(&timeline.counted), [(0, 1), (1, 1), (2, 2)]);
        assert_eq!(steps(&timeline.superseded), [(2, 1), (3, 1), (4, 1)]);
        assert_eq!(timeline.counted.len() + timeline.superseded.len(), entries.len());
    }

    proptest! {
        /// Against the plain model: a table of steps that every attempt truncates and extends.
        #[test]
        fn each_step_counts_once_in_its_last_attempt(
            attempts in prop::collection::vec((0u64..30, 0u64..30, any::<bool>()), 1..6)
        ) {
            let mut model = BTreeMap::new();
            let mut told = Vec::new();
            for (attempt, (from, count, says_so)) in (1..).zip(attempts) {
                let from = from.min(model.len() as u64);
                // An attempt without a checkpoint resumes nothing and just begins at step 0.
                if says_so {
                    told.push((attempt, resumed(from)));
                }
                if says_so || count > 0 {
                    model.retain(|step, _| *step < from);
                }
                for number in from..from + count {
                    told.push((attempt, step(number, attempt)));
                    model.insert(number, attempt);
                }
            }
            let entries = entries(told);
            let counted = steps(&timeline(&entries).counted);
            prop_assert_eq!(counted, model.into_iter().collect::<Vec<_>>());
        }
    }
}
