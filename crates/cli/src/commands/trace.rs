//! `forebay trace`: from an archived model and a step to the raw records it saw.

use forebay::TracedSample;

use crate::{Context, config, error::CommandError, flags::Trace};

pub fn run(context: &Context<'_>, flags: &Trace) -> Result<(), CommandError> {
    let settings = config::settings(context.flags)?.resolve()?;
    let engine = config::engine(context, &settings)?;
    let (model, version) = &flags.package.package;
    let samples = engine.trace(model, *version, flags.step)?;
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
