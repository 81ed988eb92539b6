//! `forebay archive publish|verify|restore|list`.

use forebay::{Lake, Name, Version, archive};

use crate::{
    Context, config,
    error::CommandError,
    flags::{ArchiveList, ArchivePublish, ArchiveRestore, Package},
    printer::{bytes, table},
};

/// Evaluates if that has not been done, and publishes what passed its gate.
pub fn publish(context: &Context<'_>, flags: ArchivePublish) -> Result<(), CommandError> {
    let settings = config::settings(context.flags)?.resolve()?;
    let engine = config::engine(context, &settings)?;
    let model = flags.model.unwrap_or_else(|| settings.archive.model.clone());
    let run = &flags.of.run;
    let evaluation = super::evaluate::evaluate(&engine, run, flags.of.step, &settings)?;
    super::evaluate::refuse_failed(&evaluation)?;
    let published = engine.archive(&evaluation, &model)?;
    let text = format!(
        "{model}@{}: {} files, {}{}",
        published.version.number(),
        published.files,
        bytes(published.bytes),
        if published.reused { ", unchanged" } else { "" }
    );
    context.printer.result("archived", &published, &text);
    Ok(())
}

pub fn verify(context: &Context<'_>, flags: &Package) -> Result<(), CommandError> {
    let (lake, _) = config::lake(context)?;
    let (model, version) = found(&lake, flags)?;
    let verified = archive::verify(&lake, &model, version)?;
    let text = format!(
        "{model}@{} is whole: {} files, {} read and compared",
        version.number(),
        verified.files,
        bytes(verified.bytes)
    );
    context.printer.result("verified", &verified, &text);
    Ok(())
}

pub fn restore(context: &Context<'_>, flags: &ArchiveRestore) -> Result<(), CommandError> {
    let (lake, _) = config::lake(context)?;
    let (model, version) = found(&lake, &flags.package)?;
    let restored = archive::restore(&lake, &model, version, &flags.output)?;
    let text = format!(
        "{model}@{}: {} files, {} in {}",
        version.number(),
        restored.files,
        bytes(restored.bytes),
        flags.output.display()
    );
    context.printer.result("restored", &restored, &text);
    Ok(())
}

pub fn list(context: &Context<'_>, flags: &ArchiveList) -> Result<(), CommandError> {
    let (lake, _) = config::lake(context)?;
    let found = archive::list(&lake, &flags.model)?;
    let rows: Vec<_> = found
        .iter()
        .map(|package| {
            vec![
                format!("{}@{}", package.model, package.version.number()),
                package.run.to_string(),
                package.step.to_string(),
                package.files.to_string(),
                bytes(package.bytes),
            ]
        })
        .collect();
    let head = ["package", "run", "step", "files", "size"];
    context.printer.result("packages", &found, &table(&head, &rows));
    Ok(())
}

/// The version that is asked for, the newest if none is.
fn found(lake: &Lake, flags: &Package) -> Result<(Name, Version), CommandError> {
    let (model, version) = flags.package.clone();
    let version = match version {
        Some(version) => version,
        None => archive::newest(lake, &model)?,
    };
    Ok((model, version))
}
