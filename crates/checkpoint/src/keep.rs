//! Keeping: which committed steps of a run stay. A pure function of the steps and their metrics.

use std::{
    collections::{BTreeMap, BTreeSet},
    str::FromStr,
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Which checkpoints stay; one that several rules keep stays as long as any of them does.
///
/// The newest always stays, whatever the rules.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KeepPolicy {
    /// The newest so many; 0: all.
    pub keep_last: u64,
    /// Steps divisible by this; 0: none for that reason.
    pub keep_every: u64,
    /// Those of the best values of a metric.
    pub keep_best: Option<KeepBest>,
}

/// Checkpoints that are kept for the values of a metric that was saved with them.
///
/// Parsed from `loss`, `loss:min` or `accuracy:max`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeepBest {
    /// The metric's name.
    pub metric: String,
    /// Which values are the best.
    #[serde(default)]
    pub goal: Goal,
    /// How many are kept; of equal values the newer one's.
    #[serde(default = "one")]
    pub count: u64,
}

const fn one() -> u64 {
    1
}

/// Which values of a metric are the best.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    /// The lowest.
    #[default]
    Min,
    /// The highest.
    Max,
}

impl FromStr for KeepBest {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (metric, goal) = match text.rsplit_once(':') {
            Some((metric, "min")) => (metric, Goal::Min),
            Some((metric, "max")) => (metric, Goal::Max),
            _ => (text, Goal::Min),
        };
        if metric.is_empty() {
            return Err("name a metric, as in loss:min or accuracy:max".into());
        }
        Ok(Self { metric: metric.to_owned(), goal, count: 1 })
    }
}

impl KeepBest {
    /// The metric's value in a checkpoint's metadata: a number under `metrics`, or beside it where
    /// the trainer has no `metrics`. What is not finite is no value.
    pub(crate) fn value(&self, metadata: &Value) -> Option<f64> {
        let metrics = metadata.get("metrics").unwrap_or(metadata);
        metrics.get(&self.metric)?.as_f64().filter(|value| value.is_finite())
    }
}

/// Why a checkpoint stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kept {
    /// It is among the newest.
    Last,
    /// Its step is divisible by what was set.
    Every,
    /// Its metric is among the best.
    Best,
}

/// The steps that stay of `steps`, each with its metric if it has one; and why.
pub(crate) fn kept(
    steps: &BTreeMap<u64, Option<f64>>,
    policy: &KeepPolicy,
) -> BTreeMap<u64, BTreeSet<Kept>> {
    let mut kept: BTreeMap<u64, BTreeSet<Kept>> = BTreeMap::new();
    let mut keep = |step: u64, why| kept.entry(step).or_default().insert(why);
    let last = match policy.keep_last {
        0 => usize::MAX,
        count => usize::try_from(count).unwrap_or(usize::MAX),
    };
    for &step in steps.keys().rev().take(last) {
        keep(step, Kept::Last);
    }
    let every = |step: &&u64| policy.keep_every > 0 && step.is_multiple_of(policy.keep_every);
    for &step in steps.keys().filter(every) {
        keep(step, Kept::Every);
    }
    for step in policy.keep_best.iter().flat_map(|rule| best(steps, rule)) {
        keep(step, Kept::Best);
    }
    kept
}

/// The steps of the best values, the best first.
fn best(steps: &BTreeMap<u64, Option<f64>>, rule: &KeepBest) -> Vec<u64> {
    let valued = steps.iter().filter_map(|(&step, &value)| Some((value?, step)));
    let mut valued: Vec<_> = valued.collect();
    valued.sort_by(|(one, first), (other, second)| {
        let by_value = match rule.goal {
            Goal::Min => one.total_cmp(other),
            Goal::Max => other.total_cmp(one),
        };
        by_value.then(second.cmp(first))
    });
    valued.truncate(usize::try_from(rule.count).unwrap_or(usize::MAX));
    valued.into_iter().map(|(_, step)| step).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn policy(keep_last: u64, keep_every: u64, keep_best: Option<&str>, count: u64) -> KeepPolicy {
        let keep_best = keep_best.map(|text| KeepBest { count, ..text.parse().unwrap() });
        KeepPolicy { keep_last, keep_every, keep_best }
    }

    fn steps_kept(steps: &[(u64, Option<f64>)], policy: &KeepPolicy) -> Vec<u64> {
        kept(&steps.iter().copied().collect(), policy).into_keys().collect()
    }

    #[test]
    fn the_last_and_every_nth_stay() {
        let steps = [10, 20, 30, 40, 50, 60].map(|step| (step, None));
        assert_eq!(steps_kept(&steps, &policy(2, 0, None, 0)), [50, 60]);
        assert_eq!(steps_kept(&steps, &policy(2, 20, None, 0)), [20, 40, 50, 60]);
        assert_eq!(steps_kept(&steps, &policy(0, 0, None, 0)).len(), 6);
        assert_eq!(steps_kept(&steps, &policy(9, 0, None, 0)).len(), 6);
    }

    #[test]
    fn the_best_stay_however_old_and_what_has_no_value_is_not_best() {
        let steps =
            [(10, Some(0.5)), (20, Some(0.1)), (30, None), (40, Some(0.1)), (50, Some(0.9))];
        assert_eq!(steps_kept(&steps, &policy(1, 0, Some("loss"), 1)), [40, 50]);
        assert_eq!(steps_kept(&steps, &policy(1, 0, Some("loss:min"), 2)), [20, 40, 50]);
        assert_eq!(steps_kept(&steps, &policy(1, 0, Some("loss:max"), 2)), [10, 50]);
        assert_eq!(steps_kept(&steps, &policy(1, 0, Some("loss"), 9)), [10, 20, 40, 50]);
    }

    #[test]
    fn a_metric_is_a_finite_number() {
        let rule: KeepBest = "a:b:max".parse().unwrap();
        assert_eq!((&*rule.metric, rule.goal), ("a:b", Goal::Max));
        let value = |metrics| rule.value(&json!({ "metrics": { "a:b": metrics }, "a:b": 7 }));
        assert_eq!(value(json!(3)), Some(3.0));
        assert_eq!(value(json!("nan")), None);
        assert_eq!(value(json!(null)), None);
        assert_eq!(rule.value(&json!({ "a:b": 0.5 })), Some(0.5));
        assert!("".parse::<KeepBest>().is_err() && ":max".parse::<KeepBest>().is_err());
    }

    fn any_policy() -> impl Strategy<Value = KeepPolicy> {
        let rule = (any::<bool>(), 0u64..5);
        (0u64..6, 0u64..20, prop::option::of(rule)).prop_map(|(last, every, rule)| {
            let (max, count) = rule.unwrap_or_default();
            let text = if max { "m:max" } else { "m:min" };
            policy(last, every, rule.map(|_| text), count)
        })
    }

    proptest! {
        /// A step stays exactly if a rule says so, each asked of the step alone.
        #[test]
        fn what_stays_is_what_the_rules_say(
            steps in prop::collection::btree_map(0u64..200, prop::option::of(-3i8..4), 1..30),
            policy in any_policy(),
        ) {
            let steps: BTreeMap<u64, Option<f64>> =
                steps.into_iter().map(|(step, value)| (step, value.map(f64::from))).collect();
            let found = kept(&steps, &policy);
            for (&step, &value) in &steps {
                let newer = steps.keys().filter(|&&other| other > step).count() as u64;
                let last = policy.keep_last == 0 || newer < policy.keep_last;
                let every = policy.keep_every > 0 && step % policy.keep_every == 0;
                let best = policy.keep_best.as_ref().zip(value).is_some_and(|(rule, value)| {
                    let better = steps.iter().filter(|&(&other, &theirs)| match theirs {
                        None => false,
                        Some(theirs) if theirs == value => other > step,
                        Some(theirs) => (theirs < value) == (rule.goal == Goal::Min),
                    });
                    (better.count() as u64) < rule.count
                });
                let why = [(last, Kept::Last), (every, Kept::Every), (best, Kept::Best)];
                let why: BTreeSet<Kept> =
                    why.into_iter().filter(|(holds, _)| *holds).map(|(_, why)| why).collect();
                prop_assert_eq!(found.get(&step).cloned().unwrap_or_default(), why, "step {}", step);
            }
            prop_assert!(found.contains_key(steps.last_key_value().unwrap().0), "the newest stays");
        }
    }
}
