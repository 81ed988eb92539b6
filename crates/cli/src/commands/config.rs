//! `forebay config`: prints the resolved configuration.

use crate::{Context, config, error::CommandError};

pub fn run(context: &Context<'_>) -> Result<(), CommandError> {
    let settings = config::settings(context.flags)?.resolve()?;
    let text = toml::to_string_pretty(&settings)
        .map_err(|error| CommandError::Broken(format!("the settings are no TOML: {error}")))?;
    context.printer.result("configuration", &settings, text.trim_end());
    Ok(())
}
