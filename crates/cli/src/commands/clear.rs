//! `forebay clear`: empties the local tier.

use forebay::Settings;

use crate::{Context, config, error::CommandError, printer::bytes};

pub fn run(context: &Context<'_>) -> Result<(), CommandError> {
    let settings: Settings = config::settings(context.flags)?.resolve()?;
    let cleared = forebay::clear(&settings.local, settings.local_budget_bytes, context.runtime)?;
    let text = format!(
        "{} is empty: removed {} files, {}",
        settings.local.display(),
        cleared.files,
        bytes(cleared.bytes)
    );
    context.printer.result("cleared", &cleared, &text);
    Ok(())
}
