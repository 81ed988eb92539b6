//! `forebay trace`: from an archived model or a run and a step to the raw records it saw.

use forebay::TracedSample;

use crate::{
    Context, config,
    error::CommandError,
    flags::{Trace, TraceOf},
};

pub fn run(context: &Context<'_>, flags: &Trace) -> Result<(), CommandError> {
    let settings = config::settings(context.flags)?.resolve()?;
    let engine = config::engine(context, &settings)?;
    let samples = match &flags.of {
        TraceOf { run: Some(run), .. } => engine.trace_run(run, flags.step)?,
        TraceOf { package: Some((model, version)), .. } => {
            engine.trace(model, *version, flags.step)?
        }
        TraceOf { package: None, run: None } => unreachable!("the group is required"),
    };
    let lines: Vec<String> = samples.iter().map(describe).collect();
    context.printer.result("trace", &samples, &lines.join("\n"));
    Ok(())
}

fn describe(sample: &TracedSample) -> String {
    let spans = sample.origins.iter().map(|span| {
        format!(
            "\n    {} record {} (bytes {}..{}), {} tokens from token {}",
            span.source,
            span.record,
            span.offset,
            span.offset + span.bytes,
            span.tokens,
            span.token_start
        )
    });
    format!("sample {}{}", sample.id, spans.collect::<String>())
}
