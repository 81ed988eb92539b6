//! `forebay train`: the reference trainer, from the newest committed checkpoint.

use forebay::{Run, Settings, Trainer};

use crate::{
    Context, config,
    error::CommandError,
    events,
    flags::{Train, TrainWork},
    printer::Printer,
};

/// What stands in run records as the trainer.
pub fn trainer() -> Trainer {
    Trainer {
        description: forebay_trainer::DESCRIPTION.to_owned(),
        device: forebay_trainer::DEVICE.to_owned(),
    }
}

pub fn run(context: &Context<'_>, flags: Train) -> Result<(), CommandError> {
    if flags.with_parent {
        super::train_process::die_with_parent();
    }
    let version = flags.work.dataset_version;
    let settings = settings(context, flags.work, flags.checkpoint_every)?;
    let engine = config::engine(context, &settings)?;
    let trainer_settings = config::trainer(&settings.train)?;
    let (printer, name, steps) = (context.printer, flags.run, settings.steps);
    let shown = name.to_string();
    let observer = Box::new(move |event: &_| events::show(printer, &shown, steps, event));
    let run = Run::open(&engine, &name, &settings, version, &trainer(), observer)?;
    let outcome = forebay_trainer::train(run, &trainer_settings)?;
    finish(printer, &name.to_string(), &outcome)
}

fn settings(
    context: &Context<'_>,
    work: TrainWork,
    checkpoint_every: Option<u64>,
) -> Result<Settings, CommandError> {
    let mut settings = config::settings(context.flags)?;
    if let Some(dataset) = work.dataset {
        settings.prepare.dataset = dataset;
    }
    settings.steps = work.steps.unwrap_or(settings.steps);
    settings.seed = work.seed.unwrap_or(settings.seed);
    if let Some(every) = checkpoint_every {
        settings.checkpoint.every_steps = every;
    }
    Ok(settings.resolve()?)
}

fn finish(
    printer: &Printer,
    run: &str,
    outcome: &forebay_trainer::Outcome,
) -> Result<(), CommandError> {
    let text =
        format!("run {run} stands at step {}, loss {:.4}", outcome.steps_taken, outcome.loss);
    printer.result("trained", outcome, &text);
    if outcome.interrupted {
        return Err(forebay::Error::Interrupted.into());
    }
    Ok(())
}
