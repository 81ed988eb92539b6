//! The choices a day has to make: which run it works on, and when its trainer dies.
//!
//! Runs of a day are called `day-1`, `day-2`, …; each has a twin, `day-1-unbroken`, that is never
//! interrupted and that the day's run is compared with.
//!
//! A day that was stopped is found again by what lies in the lake, never by a file of its own:
//! the newest run is taken up if it is not over and has the settings that are asked for now;
//! otherwise the next number begins.

use forebay_format::v1::{
    journal::{Entry, Event},
    run::{RunRecord, json_digest, run_key},
};
use forebay_runtime::Random;
use forebay_types::{Digest, Name};

use crate::{Engine, Error, Settings};

/// What a day is about to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DayPlan {
    /// The run.
    pub run: Name,
    /// Its twin that is never interrupted.
    pub unbroken: Name,
    /// Whether an earlier day had begun this run.
    pub continues: bool,
    /// The step after which the trainer is killed; `None` when it was killed already, or when
    /// there are too few steps between two checkpoints to lose any.
    pub kill_step: Option<u64>,
}

/// Plans the day that `settings` ask for on `engine`, with `dataset` as its data.
///
/// # Errors
/// When the lake cannot be read.
pub fn plan(engine: &Engine, settings: &Settings, dataset: Digest) -> Result<DayPlan, Error> {
    let newest = newest(engine)?;
    let begun = match newest {
        0 => None,
        number => begun(engine, number, settings, dataset)?,
    };
    let number = if begun.is_some() { newest } else { newest + 1 };
    let was_killed = begun.as_deref().is_some_and(was_killed);
    Ok(DayPlan {
        run: run_name(number),
        unbroken: name(format!("day-{number}-unbroken")),
        continues: begun.is_some(),
        kill_step: if was_killed {
            None
        } else {
            kill_step(settings.seed, settings.steps, settings.checkpoint.every_steps)
        },
    })
}

/// The number of the newest run of a day, 0 if there is none.
fn newest(engine: &Engine) -> Result<u32, Error> {
    let mut number = 0;
    while engine.lake().size(&run_key(&run_name(number + 1)))?.is_some() {
        number += 1;
    }
    Ok(number)
}

/// The journal of run `number` if that run is not over and is the one `settings` ask for.
fn begun(
    engine: &Engine,
    number: u32,
    settings: &Settings,
    dataset: Digest,
) -> Result<Option<Vec<Entry>>, Error> {
    let run = run_name(number);
    let record: RunRecord = engine.run_record(&run)?;
    let same = record.configuration_digest == json_digest(&settings.of_run())
        && record.gate_digest == settings.gate.digest()
        && record.dataset.digest == dataset;
    if !same {
        return Ok(None);
    }
    let entries = engine.entries(&run)?;
    Ok((!is_over(&entries)).then_some(entries))
}

/// A day is over when its package was verified, or its gate said no.
fn is_over(entries: &[Entry]) -> bool {
    entries.iter().any(|entry| match &entry.event {
        Event::Verified(_) => true,
        Event::Evaluated(evaluated) => !evaluated.passed,
        _ => false,
    })
}

fn was_killed(entries: &[Entry]) -> bool {
    entries.iter().any(|entry| matches!(entry.event, Event::Killed(_) | Event::Resumed(_)))
}

/// A step between two checkpoints, in the middle half of the run, that `seed` decides.
fn kill_step(seed: u64, steps: u64, every_steps: u64) -> Option<u64> {
    if every_steps < 2 || steps <= every_steps + 1 {
        return None;
    }
    let intervals = steps / every_steps;
    let mut random = Random::new(seed ^ 0x6b69_6c6c);
    let first = (intervals / 4).max(1);
    let interval = first + random.below((intervals / 2).max(1));
    let offset = 1 + random.below(every_steps - 1);
    Some((interval * every_steps + offset).min(steps - 1))
        .filter(|step| !step.is_multiple_of(every_steps))
}

fn run_name(number: u32) -> Name {
    name(format!("day-{number}"))
}

fn name(text: String) -> Name {
    Name::new(text).expect("a number makes a sound name")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trainer_dies_between_two_checkpoints_and_after_the_first() {
        for seed in 0..200 {
            for (steps, every) in [(240, 40), (30, 7), (9, 4), (1000, 2)] {
                let step = kill_step(seed, steps, every).unwrap_or(every + 1);
                assert!(
                    step > every && step < steps && !step.is_multiple_of(every),
                    "{seed} {steps} {every}"
                );
            }
        }
    }

    #[test]
    fn a_run_with_one_checkpoint_at_its_end_is_not_killed() {
        assert_eq!(kill_step(1, 10, 0), None);
        assert_eq!(kill_step(1, 10, 10), None);
        assert_eq!(kill_step(1, 3, 1), None);
    }

    #[test]
    fn the_same_seed_kills_at_the_same_step() {
        assert_eq!(kill_step(7, 240, 40), kill_step(7, 240, 40));
        let steps: std::collections::BTreeSet<_> = (0..50).map(|s| kill_step(s, 240, 40)).collect();
        assert!(steps.len() > 20);
    }
}
