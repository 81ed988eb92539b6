//! `forebay prepare`: raw records to a published dataset version.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use forebay::{Engine, Prepared, Progress, Settings, Split, Stage};

use crate::{
    Context, config,
    error::CommandError,
    flags::Prepare,
    printer::{Printer, bytes, reasons},
};

pub fn run(context: &Context<'_>, flags: Prepare) -> Result<(), CommandError> {
    let mut settings = config::settings(context.flags)?;
    if let Some(source) = flags.source {
        settings.prepare.source = source;
    }
    if let Some(dataset) = flags.dataset {
        settings.prepare.dataset = dataset;
    }
    if let Some(workers) = flags.workers {
        settings.prepare.workers = workers;
    }
    let settings = settings.resolve()?;
    let engine = config::engine(context, &settings)?;
    let prepared = prepare(context, &engine, &settings)?;
    context.printer.result("prepared", &prepared.manifest, &describe(&prepared));
    Ok(())
}

/// Prepares with progress shown.
pub fn prepare(
    context: &Context<'_>,
    engine: &Engine,
    settings: &Settings,
) -> Result<Prepared, CommandError> {
    let bars = Bars { printer: context.printer, done: Mutex::default() };
    Ok(engine.prepare(settings, &bars)?)
}

/// What became of the raw data, for people.
pub fn describe(prepared: &Prepared) -> String {
    let manifest = &prepared.manifest;
    let counts = &manifest.counts;
    let source: u64 = manifest.sources.iter().map(|source| source.bytes).sum();
    format!(
        "{name}@{version}{reused}: {read} records from {sources} files ({source}), {kept} kept, \
         {dropped} dropped{why}, {bad} quarantined{why_bad}; {train} train and {validation} \
         validation rows of {tokens} tokens in {shards} shards",
        name = manifest.name,
        version = manifest.version.number(),
        reused = if prepared.reused { " (unchanged, reused)" } else { "" },
        read = counts.read,
        sources = manifest.sources.len(),
        source = bytes(source),
        kept = counts.kept,
        dropped = counts.dropped.values().sum::<u64>(),
        why = reasons(&counts.dropped),
        bad = counts.quarantined.values().sum::<u64>(),
        why_bad = reasons(&counts.quarantined),
        train = Engine::rows(manifest, Split::Train),
        validation = Engine::rows(manifest, Split::Validation),
        tokens = manifest.schema.row_tokens,
        shards = manifest.splits.iter().map(|split| u64::from(split.shards)).sum::<u64>(),
    )
}

/// Shows the stages of preparation, which report what was done since they last did.
struct Bars<'a> {
    printer: &'a Printer,
    done: Mutex<BTreeMap<Stage, u64>>,
}

impl Progress for Bars<'_> {
    fn add(&self, stage: Stage, done: u64, total: u64) {
        let mut sums = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        let sum = sums.entry(stage).or_default();
        *sum += done;
        self.printer.progress(stage.as_str(), *sum, total, stage.unit());
    }
}
