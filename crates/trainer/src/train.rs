//! The loop: resume, then step, record and save until the run is over.
//!
//! # After a crash
//! Call [`train`] again with the same run: it goes on from the newest commit.

use forebay::{Run, StepMetrics};
use serde::Serialize;

use crate::{Error, Trainer, TrainerSettings};

/// How a call of [`train`] ended.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outcome {
    /// Steps of the run that are taken and durable.
    pub steps_taken: u64,
    /// The loss of the last of them; no number (`null` in JSON) if there is none.
    pub loss: f64,
    /// Whether it was stopped before the last step; calling again goes on.
    pub interrupted: bool,
}

/// Trains until `run` is over or its runtime is cancelled; on return all of it is durable.
///
/// # Errors
/// What the engine or the trainer refused or failed at, with the run left as it last was durable.
pub fn train(mut run: Run<'_>, settings: &TrainerSettings) -> Result<Outcome, forebay::Error> {
    let mut trainer = trainer(&run, settings)?;
    if let Some(restored) = run.resume()? {
        trainer.load(&restored)?;
    }
    let mut saved = trainer.steps_taken();
    while trainer.steps_taken() < run.steps() && step(&mut run, &mut trainer)? {
        if run.save_due(trainer.steps_taken()) {
            saved = save(&mut run, &trainer)?;
        }
    }
    let outcome = Outcome {
        steps_taken: trainer.steps_taken(),
        loss: trainer.loss().unwrap_or(f64::NAN),
        interrupted: trainer.steps_taken() < run.steps(),
    };
    if outcome.interrupted {
        if saved < outcome.steps_taken {
            save(&mut run, &trainer)?;
        }
        run.suspend()?;
    } else {
        run.finish(outcome.loss)?;
    }
    Ok(outcome)
}

/// An untrained model for `run`.
fn trainer(run: &Run<'_>, settings: &TrainerSettings) -> Result<Trainer, Error> {
    let dataset = run.dataset();
    let (vocabulary_size, row_tokens) = crate::shape_of(dataset);
    Trainer::new(settings, vocabulary_size, row_tokens, run.steps(), run.seed(), run.runtime())
}

/// Takes one step; false if the run is to stop instead.
fn step(run: &mut Run<'_>, trainer: &mut Trainer) -> Result<bool, forebay::Error> {
    let batch = match run.next_batch() {
        Ok(batch) => batch,
        Err(forebay::Error::Interrupted) => return Ok(false),
        Err(error) => return Err(error),
    };
    let tokens: Vec<u32> = batch.tokens().collect();
    let step = trainer.steps_taken();
    let report = trainer.step(&tokens)?;
    let metrics = StepMetrics {
        loss: report.loss,
        learning_rate: report.learning_rate,
        gradient_norm: report.gradient_norm,
        tokens: tokens.len() as u64,
    };
    run.record_step(step, metrics)?;
    Ok(true)
}

/// Hands the state over to be made durable; gives the step it was taken at.
fn save(run: &mut Run<'_>, trainer: &Trainer) -> Result<u64, forebay::Error> {
    let steps_taken = trainer.steps_taken();
    run.save(steps_taken, &trainer.state(), &trainer.metadata())?;
    Ok(steps_taken)
}
