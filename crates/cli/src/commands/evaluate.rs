//! `forebay evaluate`: scores a checkpoint on unseen data and holds it against the run's gate.

use forebay::{Engine, EvaluationRecord, Name, Settings};
use forebay_trainer::LanguageModelScorer;

use crate::{Context, config, error::CommandError, flags::Evaluate};

pub fn run(context: &Context<'_>, flags: &Evaluate) -> Result<(), CommandError> {
    let settings = config::settings(context.flags)?.resolve()?;
    let engine = config::engine(context, &settings)?;
    let evaluation = evaluate(&engine, &flags.of.run, flags.of.step, &settings)?;
    context.printer.result("evaluation", &evaluation, &describe(&evaluation));
    refuse_failed(&evaluation)
}

/// Scores, and records that in the run's journal.
pub fn evaluate(
    engine: &Engine,
    run: &Name,
    step: Option<u64>,
    settings: &Settings,
) -> Result<EvaluationRecord, CommandError> {
    let record = engine.run_record(run)?;
    let mut scorer = LanguageModelScorer::new(engine, &record)?;
    let evaluation = engine.evaluate(run, step, settings, &mut scorer)?;
    engine.note_evaluated(&evaluation)?;
    Ok(evaluation)
}

/// A gate that said no is a failure of the command, with an exit code of its own.
pub fn refuse_failed(evaluation: &EvaluationRecord) -> Result<(), CommandError> {
    if evaluation.passed {
        return Ok(());
    }
    Err(forebay::Error::Refused(format!(
        "run {} at step {} did not pass its gate; nothing was archived and everything is kept",
        evaluation.run, evaluation.step
    ))
    .into())
}

/// The scores and each rule's verdict, for people.
pub fn describe(evaluation: &EvaluationRecord) -> String {
    let measures = &evaluation.measures;
    let mut lines = vec![format!(
        "run {} at step {}: loss {:.4} nats, perplexity {:.2}, accuracy {:.1} %, over {} predictions \
         (unigram entropy {:.4} nats)",
        evaluation.run,
        evaluation.step,
        measures.loss,
        measures.perplexity,
        measures.accuracy * 100.0,
        measures.predictions,
        measures.unigram_entropy
    )];
    lines.extend(evaluation.rules.iter().map(|outcome| {
        let verdict = if outcome.passed { "passed" } else { "FAILED" };
        format!(
            "  gate {}: {:.4} against {} {verdict}",
            outcome.rule, outcome.measured, outcome.limit
        )
    }));
    lines.join("\n")
}
