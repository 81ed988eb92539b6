//! Retention on demand: which checkpoints a policy would keep, said before any is removed.
//!
//! A checkpoint that is committed between the plan and the removal is newer than all that are
//! removed, and is not touched. What is removed is what was shown, and nothing else.

use forebay_lake::Lake;
use forebay_types::Name;
use serde::Serialize;

use crate::{
    Error,
    keep::{self, KeepPolicy, Kept},
    read,
    retain::{Commits, remove_steps},
};

/// What a policy makes of a run's checkpoints.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Retention {
    /// The run.
    pub run: Name,
    /// Every committed step, oldest first.
    pub steps: Vec<RetainedStep>,
}

/// What a policy makes of one checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RetainedStep {
    /// The step.
    pub step: u64,
    /// The value of the metric that the policy asks for.
    pub value: Option<f64>,
    /// Why it stays; empty: it does not.
    pub kept: Vec<Kept>,
}

impl Retention {
    /// The steps that do not stay.
    pub fn surplus(&self) -> impl Iterator<Item = u64> {
        self.steps.iter().filter(|step| step.kept.is_empty()).map(|step| step.step)
    }

    /// Holds a run's checkpoints against a policy; removes nothing.
    ///
    /// # Errors
    /// When the lake cannot be read.
    pub fn plan(lake: &Lake, run: &Name, policy: &KeepPolicy) -> Result<Self, Error> {
        let steps = read::steps(lake, run)?;
        let steps = Commits::new(policy).valued(lake, run, &steps)?;
        let mut kept = keep::kept(&steps, policy);
        let retained = |(step, value)| {
            let kept = kept.remove(&step).unwrap_or_default().into_iter().collect();
            RetainedStep { step, value, kept }
        };
        Ok(Self { run: run.clone(), steps: steps.into_iter().map(retained).collect() })
    }

    /// Removes the steps that do not stay, oldest first.
    ///
    /// # Errors
    /// When the lake cannot be written; what was removed so far is gone.
    pub fn remove(&self, lake: &Lake) -> Result<(), Error> {
        remove_steps(lake, &self.run, &self.surplus().collect::<Vec<_>>())
    }
}
