//! `forebay checkpoint list|verify|restore|remove`.

use forebay::{Part, checkpoint};

use crate::{
    Context, config,
    error::CommandError,
    flags::{CheckpointList, CheckpointOf, CheckpointRemove, CheckpointRestore},
    printer::{bytes, table},
};

pub fn list(context: &Context<'_>, flags: &CheckpointList) -> Result<(), CommandError> {
    let (lake, _) = config::lake(context)?;
    // A run without checkpoints is no mistake; a name without a run is.
    forebay::run_record(&lake, &flags.run)?;
    let found = checkpoint::list(&lake, &flags.run)?;
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

pub fn remove(context: &Context<'_>, flags: &CheckpointRemove) -> Result<(), CommandError> {
    let (lake, _) = config::lake(context)?;
    checkpoint::remove(&lake, &flags.run, flags.step)?;
    let removed = serde_json::json!({ "run": flags.run, "step": flags.step });
    let text = format!("the checkpoint of run {} at step {} is gone", flags.run, flags.step);
    context.printer.result("removed", &removed, &text);
    Ok(())
}
