//! `forebay checkpoint list|show|verify|diff|now|drain|restore|convert|fork|retain|remove|sweep`.

use std::{path::Path, time::Duration};

use forebay::{
    CheckpointSettings, CommittedCheckpoint, Name, Part, Rank, Which,
    checkpoint::{self, Change, KeepBest, KeepPolicy, Kept, Meaning, Retention},
};

use crate::{
    Context, config,
    error::CommandError,
    flags::{
        CheckpointConvert, CheckpointDiff, CheckpointFork, CheckpointList, CheckpointNow,
        CheckpointOf, CheckpointRemove, CheckpointRestore, CheckpointRetain, CheckpointSweep,
        Place,
    },
    printer::{bytes, table},
};

/// The most bytes of tensors in one file, where nothing is said.
const SHARD_BYTES: u64 = 5_000_000_000;

pub fn list(context: &Context<'_>, flags: &CheckpointList) -> Result<(), CommandError> {
    let (lake, _) = config::lake(context)?;
    let found = checkpoint::list(&lake, &flags.run)?;
    if found.is_empty() {
        // A run without checkpoints is no mistake; a name without a run is.
        forebay::run_record(&lake, &flags.run)?;
    }
    let rows: Vec<_> = found
        .iter()
        .map(|each| {
            let state = each.problem.clone().unwrap_or_else(|| "committed".into());
            vec![each.step.to_string(), bytes(each.bytes), each.tensors.to_string(), state]
        })
        .collect();
    context.printer.result(
        "checkpoints",
        &found,
        &table(&["step", "size", "tensors", "state"], &rows),
    );
    Ok(())
}

pub fn verify(context: &Context<'_>, flags: &CheckpointOf) -> Result<(), CommandError> {
    let (lake, _) = config::lake(context)?;
    let verified = checkpoint::verify(&lake, &flags.run, flags.step)?;
    let text = format!(
        "run {} at step {} is whole: {} tensors, {} read and compared",
        flags.run,
        verified.step,
        verified.tensors,
        bytes(verified.bytes)
    );
    context.printer.result("verified", &verified, &text);
    Ok(())
}

pub fn show(context: &Context<'_>, flags: &CheckpointOf) -> Result<(), CommandError> {
    let settings = config::settings(context.flags)?.resolve()?;
    let engine = config::engine(context, &settings)?;
    let which = flags.step.map_or(Which::Newest, Which::Step);
    let none = || checkpoint::Error::NoCheckpoint { run: flags.run.clone() };
    let opened = engine.checkpoint(&flags.run, which)?.ok_or_else(none)?;
    let text = describe(&opened);
    let shown = checkpoint::show(engine.lake(), &flags.run, opened.commit().step)?;
    context.printer.result("checkpoint", &shown, &text);
    Ok(())
}

fn describe(opened: &CommittedCheckpoint) -> String {
    let commit = opened.commit();
    let rows: Vec<_> = opened
        .tensors()
        .iter()
        .map(|(name, tensor)| {
            let shape: Vec<_> = tensor.shape.iter().map(ToString::to_string).collect();
            let parts = tensor.parts().to_string();
            let dtype = format!("{:?}", tensor.dtype);
            vec![name.clone(), dtype, shape.join(" x "), bytes(tensor.bytes()), parts]
        })
        .collect();
    let mut lines = vec![format!(
        "run {} at step {}: {} in {} tensors of {} rank(s), data position {}",
        commit.run,
        commit.step,
        bytes(commit.bytes),
        rows.len(),
        commit.world_size(),
        commit.position.step
    )];
    let parent = commit.parent.map(|step| format!("went on from step {step}"));
    let fork = commit.forked_from.as_ref();
    let fork = fork.map(|from| format!("forked from run {} at step {}", from.run, from.step));
    let dataset =
        commit.dataset.as_ref().map(|one| format!("learns from {}@{}", one.name, one.version));
    let metrics = commit.metadata.get("metrics").and_then(serde_json::Value::as_object);
    let metrics = metrics.into_iter().flatten().map(|(name, value)| format!("{name} {value}"));
    lines.extend(parent.into_iter().chain(fork).chain(dataset).chain(metrics));
    lines.push(table(&["tensor", "type", "shape", "size", "parts"], &rows));
    lines.join("\n")
}

pub fn diff(context: &Context<'_>, flags: &CheckpointDiff) -> Result<(), CommandError> {
    let (lake, _) = config::lake(context)?;
    let found = checkpoint::diff(&lake, &flags.run, flags.before, flags.after)?;
    let rows: Vec<_> = found
        .tensors
        .iter()
        .map(|one| {
            let (what, by) = say(&one.change);
            vec![one.name.clone(), what, by]
        })
        .collect();
    let summary = format!("{} tensors are equal, {} are not", found.equal, rows.len());
    let text = match rows.is_empty() {
        true => summary,
        false => format!("{summary}\n{}", table(&["tensor", "change", "relative norm"], &rows)),
    };
    context.printer.result("difference", &found, &text);
    Ok(())
}

fn say(change: &Change) -> (String, String) {
    match change {
        Change::Added => ("added".into(), String::new()),
        Change::Removed => ("removed".into(), String::new()),
        Change::Reshaped { before, after } => (format!("{before} became {after}"), String::new()),
        Change::Values { elements, changed, norm_before, norm_of_change } => {
            let relative = norm_of_change.zip(*norm_before).map(|(change, norm)| change / norm);
            let relative = relative.filter(|relative| relative.is_finite());
            let by = relative.map(|relative| format!("{relative:.3e}")).unwrap_or_default();
            (format!("{changed} of {elements} elements"), by)
        }
    }
}

pub fn drain(context: &Context<'_>, flags: &CheckpointList) -> Result<(), CommandError> {
    let settings = config::settings(context.flags)?.resolve()?;
    let engine = config::engine(context, &settings)?;
    // It saves nothing; alone, it takes care of what every rank left here, and retains everything.
    let keep_all = CheckpointSettings { keep_last: 0, ..settings.checkpoint };
    let launch = context.runtime.nonce().to_string();
    let mut checkpointer =
        engine.checkpointer(&flags.run, Rank::ALONE, &launch, &keep_all, None)?;
    checkpointer.wait()?;
    let recovered = checkpointer.recovered();
    let lines: Vec<_> = recovered.iter().map(ToString::to_string).collect();
    let text = match lines.is_empty() {
        true => format!("run {} has left nothing on this node", flags.run),
        false => lines.join("\n"),
    };
    context.printer.result("drained", &recovered, &text);
    Ok(())
}

pub fn now(context: &Context<'_>, flags: &CheckpointNow) -> Result<(), CommandError> {
    let settings = config::settings(context.flags)?.resolve()?;
    let engine = config::engine(context, &settings)?;
    let CheckpointNow { run, wait_seconds } = flags;
    let patience = Duration::from_secs(*wait_seconds);
    let step = engine.ask_for_checkpoint(run, patience)?;
    let text = match step {
        Some(step) => format!("run {run} is committed at step {step}"),
        None => format!(
            "run {run} committed nothing within {wait_seconds} s: no process of it trains on this node, \
             its steps are long, or its lake is slow"
        ),
    };
    context.printer.result("saved", &serde_json::json!({ "run": run, "step": step }), &text);
    Ok(())
}

pub fn restore(context: &Context<'_>, flags: &CheckpointRestore) -> Result<(), CommandError> {
    let (lake, _) = config::lake(context)?;
    let part = if flags.weights_only { Part::Weights } else { Part::All };
    let restored = checkpoint::export(&lake, &flags.of.run, flags.of.step, part, &flags.output)?;
    let text = format!(
        "run {} at step {}: {} tensors, {} in {}",
        flags.of.run,
        restored.step,
        restored.tensors,
        bytes(restored.bytes),
        flags.output.display()
    );
    context.printer.result("restored", &restored, &text);
    Ok(())
}

pub fn convert(context: &Context<'_>, flags: &CheckpointConvert) -> Result<(), CommandError> {
    let CheckpointConvert { from, to, .. } = flags;
    match (from, to) {
        (Place::Path(source), Place::Run(run, step)) => {
            import(context, flags, source, run, step.unwrap_or(0))
        }
        (Place::Run(run, step), Place::Path(output)) => export(context, flags, run, *step, output),
        (Place::Run(..), Place::Run(..)) => Err(CommandError::Usage(format!(
            "{from} and {to} both name runs; a path has a `/` in it, such as ./{to}"
        ))),
        (Place::Path(_), Place::Path(_)) => Err(CommandError::Usage(format!(
            "{from} and {to} are both paths; one side is a run of the store, NAME or NAME@STEP"
        ))),
    }
}

fn import(
    context: &Context<'_>,
    flags: &CheckpointConvert,
    source: &Path,
    run: &Name,
    step: u64,
) -> Result<(), CommandError> {
    if flags.all || flags.shard_bytes.is_some() {
        let said = "`--all` and `--shard-bytes` say how a path is written";
        return Err(CommandError::Usage(format!("{said}, and {} is a run", flags.to)));
    }
    let lake = config::written_lake(context)?;
    let state = &flags.state;
    let meaning = Meaning::State(state.clone());
    let imported = checkpoint::import(&lake, context.runtime, run, step, &meaning, source)?;
    let text = format!(
        "{} tensors, {} of {} file(s), are state `{state}` of run {run} at step {step}{}",
        imported.tensors,
        bytes(imported.bytes),
        imported.files,
        if imported.existed { ", as they were before" } else { "" }
    );
    context.printer.result("imported", &imported, &text);
    Ok(())
}

fn export(
    context: &Context<'_>,
    flags: &CheckpointConvert,
    run: &Name,
    step: Option<u64>,
    output: &Path,
) -> Result<(), CommandError> {
    let (lake, _) = config::lake(context)?;
    let state = (!flags.all).then_some(&*flags.state);
    let shard_bytes = flags.shard_bytes.unwrap_or(SHARD_BYTES);
    let exported = checkpoint::export_shards(&lake, run, step, state, shard_bytes, output)?;
    let text = format!(
        "run {run} at step {}: {} tensors, {} in {} file(s) in {}",
        exported.step,
        exported.tensors,
        bytes(exported.bytes),
        exported.files.len(),
        output.display()
    );
    context.printer.result("exported", &exported, &text);
    Ok(())
}

pub fn fork(context: &Context<'_>, flags: &CheckpointFork) -> Result<(), CommandError> {
    let lake = config::written_lake(context)?;
    let CheckpointFork { run, step, new_run } = flags;
    let forked = checkpoint::fork(&lake, context.runtime, run, Some(*step), new_run)?;
    let text = if forked.existed {
        format!("run {new_run} goes on from step {step} of run {run} already")
    } else {
        let (held, moved) = (bytes(forked.bytes), bytes(forked.moved_bytes));
        format!("run {new_run} goes on from step {step} of run {run}: {held}, {moved} moved")
    };
    context.printer.result("forked", &forked, &text);
    Ok(())
}

pub fn retain(context: &Context<'_>, flags: &CheckpointRetain) -> Result<(), CommandError> {
    let lake = config::written_lake(context)?;
    let count = flags.keep_best_count;
    let policy = KeepPolicy {
        keep_last: flags.keep.keep_last.unwrap_or(1),
        keep_every: flags.keep.keep_every.unwrap_or(0),
        keep_best: flags.keep.keep_best.clone().map(|rule| KeepBest { count, ..rule }),
    };
    let retention = Retention::plan(&lake, &flags.run, &policy)?;
    if retention.steps.is_empty() {
        forebay::run_record(&lake, &flags.run)?;
    }
    // Said before anything is removed.
    context.printer.result("retention", &retention, &say_retention(&retention));
    if !flags.dry_run {
        retention.remove(&lake)?;
        let removed: Vec<u64> = retention.surplus().collect();
        context.printer.result("removed", &removed, &format!("{} removed", removed.len()));
    }
    Ok(())
}

fn say_retention(retention: &Retention) -> String {
    let why = |kept: &Kept| match kept {
        Kept::Last => "newest",
        Kept::Every => "every",
        Kept::Best => "best",
    };
    let rows: Vec<_> = retention
        .steps
        .iter()
        .map(|step| {
            let kept = step.kept.iter().map(why).collect::<Vec<_>>().join(", ");
            let what = if kept.is_empty() { "removed".into() } else { format!("kept: {kept}") };
            let value = step.value.map(|value| value.to_string()).unwrap_or_default();
            vec![step.step.to_string(), value, what]
        })
        .collect();
    table(&["step", "metric", "what becomes of it"], &rows)
}

pub fn sweep(context: &Context<'_>, flags: &CheckpointSweep) -> Result<(), CommandError> {
    let (lake, _) = config::lake(context)?;
    let older_than = Duration::from_secs(60 * flags.older_than_minutes);
    let found = checkpoint::sweep(&lake, &flags.run, context.runtime, older_than, flags.delete)?;
    let mut lines: Vec<_> = found.iter().map(ToString::to_string).collect();
    lines.push(match (lines.len(), flags.delete) {
        (0, _) => format!("run {} has left nothing behind", flags.run),
        (count, true) => format!("{count} objects deleted"),
        (count, false) => format!("{count} objects found; `--delete` removes them"),
    });
    context.printer.result("swept", &found, &lines.join("\n"));
    Ok(())
}

pub fn remove(context: &Context<'_>, flags: &CheckpointRemove) -> Result<(), CommandError> {
    let (lake, _) = config::lake(context)?;
    checkpoint::remove(&lake, &flags.run, flags.step)?;
    let removed = serde_json::json!({ "run": flags.run, "step": flags.step });
    let text = format!("the checkpoint of run {} at step {} is gone", flags.run, flags.step);
    context.printer.result("removed", &removed, &text);
    Ok(())
}
