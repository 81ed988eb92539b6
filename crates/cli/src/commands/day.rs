//! `forebay day`: one model's whole day, told in one function.

use std::path::{Path, PathBuf};

use forebay::{
    Engine, ErrorKind, EvaluationRecord, Event, Name, Settings,
    compare::Comparison,
    day::{self, DayPlan},
    journal::Killed,
};

use super::{
    day_summary::DaySummary,
    evaluate, prepare, train,
    train_process::{Ended, TrainProcess},
};
use crate::{
    Context, config,
    error::CommandError,
    events,
    flags::{Day, Work},
    printer::bytes,
};

pub fn run(context: &Context<'_>, flags: Day) -> Result<(), CommandError> {
    let settings = settings(context, &flags.work)?;
    let report = flags.report.clone().unwrap_or_else(|| report_path(&settings));
    let day = Hours { context, settings: &settings, work: &flags.work };
    let printer = context.printer;
    let watch = context.runtime.stopwatch();

    printer.hour("morning", "prepare: raw records to a shuffled dataset version");
    let engine = config::engine(context, &settings)?;
    let prepared = prepare::prepare(context, &engine, &settings)?;
    printer.note(&prepare::describe(&prepared));
    let plan = day::plan(&engine, &settings, prepared.digest)?;
    if plan.continues {
        printer.note(&format!("taking up run {} where it was left", plan.run));
    }
    engine.note_prepared(&plan.run, &settings, &train::trainer(), &prepared)?;

    printer.hour("mid-day and afternoon", "feed, train, checkpoint, crash, resume");
    day.train(&engine, &plan)?;
    day.train_unbroken(&plan)?;
    let comparison = forebay::compare::runs(&engine, &plan.run, &plan.unbroken)?;
    show_comparison(context, &plan, &comparison)?;

    printer.hour("evening", "evaluate, archive, verify, clear");
    let evaluation = evaluate::evaluate(&engine, &plan.run, None, &settings)?;
    printer.note(&evaluate::describe(&evaluation));
    let package = match evaluation.passed {
        true => Some(day.archive(&engine, &plan.run, &evaluation)?),
        false => None,
    };
    if evaluation.passed && !flags.keep {
        day.clear(&engine, &plan.run)?;
    }

    let summary =
        DaySummary::new(&engine, &plan, &evaluation, comparison, package, watch.seconds())?;
    write(&report, &engine.report(&plan.run)?)?;
    printer.result("day", &summary, &summary.text(&settings, &report));
    evaluate::refuse_failed(&evaluation)
}

fn settings(context: &Context<'_>, work: &Work) -> Result<Settings, CommandError> {
    let mut settings = config::settings(context.flags)?;
    if let Some(source) = &work.source {
        settings.prepare.source.clone_from(source);
    }
    settings.steps = work.steps.unwrap_or(settings.steps);
    settings.seed = work.seed.unwrap_or(settings.seed);
    Ok(settings.resolve()?)
}

fn report_path(settings: &Settings) -> PathBuf {
    settings.local.parent().unwrap_or(Path::new(".")).join("report.html")
}

fn write(path: &Path, text: &str) -> Result<(), CommandError> {
    std::fs::write(path, text).map_err(|error| CommandError::Write(path.to_owned(), error))
}

fn show_comparison(
    context: &Context<'_>,
    plan: &DayPlan,
    comparison: &Comparison,
) -> Result<(), CommandError> {
    match &comparison.difference {
        None => {
            context.printer.note(&format!(
                "{} losses and {} tensors of {} are bit-identical to those of {}",
                comparison.losses, comparison.tensors, plan.run, plan.unbroken
            ));
            Ok(())
        }
        Some(difference) => Err(CommandError::Broken(format!(
            "run {} is not what run {} is: {difference}; please report this",
            plan.run, plan.unbroken
        ))),
    }
}

/// The hours that are more than one call.
struct Hours<'a> {
    context: &'a Context<'a>,
    settings: &'a Settings,
    work: &'a Work,
}

impl Hours<'_> {
    /// Trains in a child process that is killed once, and starts it again.
    fn train(&self, engine: &Engine, plan: &DayPlan) -> Result<(), CommandError> {
        let every = self.settings.checkpoint.every_steps;
        if let Ended::Killed { step } = self.start(&plan.run, every, plan.kill_step)? {
            engine.note(&plan.run, Event::Killed(Killed { step }))?;
            self.context.printer.note(&format!(
                "killed the trainer with SIGKILL after step {step}; starting it again"
            ));
            self.start(&plan.run, every, None)?;
        }
        Ok(())
    }

    /// Trains the same from the first step to the last in one go, with no checkpoint to resume.
    fn train_unbroken(&self, plan: &DayPlan) -> Result<(), CommandError> {
        self.context.printer.note("the same run again, never interrupted, to compare with");
        self.start(&plan.unbroken, 0, None).map(drop)
    }

    fn start(
        &self,
        run: &Name,
        checkpoint_every: u64,
        kill_step: Option<u64>,
    ) -> Result<Ended, CommandError> {
        let arguments = self.arguments(checkpoint_every);
        let process = TrainProcess { run, arguments, kill_step };
        let (printer, steps) = (self.context.printer, self.settings.steps);
        let shown = run.to_string();
        process.run(self.context, |event| events::show(printer, &shown, steps, event))
    }

    /// The flags under which the child resolves to the settings of this process.
    fn arguments(&self, checkpoint_every: u64) -> Vec<String> {
        let mut arguments = vec![
            "--store".into(),
            self.settings.store.clone(),
            "--local".into(),
            self.settings.local.display().to_string(),
            "--checkpoint-every".into(),
            checkpoint_every.to_string(),
        ];
        let mut push = |flag: &str, value: Option<String>| {
            arguments.extend(value.into_iter().flat_map(|value| [flag.to_owned(), value]));
        };
        let config = self.context.flags.config.as_ref();
        push("--config", config.map(|path| path.display().to_string()));
        push("--steps", self.work.steps.map(|steps| steps.to_string()));
        push("--seed", self.work.seed.map(|seed| seed.to_string()));
        arguments
    }

    /// Publishes the package and reads every byte of it back.
    fn archive(
        &self,
        engine: &Engine,
        run: &Name,
        evaluation: &EvaluationRecord,
    ) -> Result<String, CommandError> {
        let model = &self.settings.archive.model;
        let published = engine.archive(evaluation, model)?;
        let name = format!("{model}@{}", published.version.number());
        let verified = engine.verify_package(run, model, published.version)?;
        self.context.printer.note(&format!(
            "archived {name}: {} files, {}, read back and verified",
            verified.files,
            bytes(verified.bytes)
        ));
        Ok(name)
    }

    /// Empties the local tier; what is not drained yet is kept and is no failure of the day.
    fn clear(&self, engine: &Engine, run: &Name) -> Result<(), CommandError> {
        match engine.clear_after(run) {
            Ok(cleared) => {
                self.context.printer.note(&format!(
                    "cleared the local tier: {} files, {}",
                    cleared.files,
                    bytes(cleared.bytes)
                ));
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::Refused => {
                self.context.printer.note(&format!("the local tier is kept: {error}"));
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }
}
