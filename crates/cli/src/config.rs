//! Resolves flags against the configuration file: flags win, then the file, then the defaults.

use std::fs;

use forebay::{Engine, Lake, Settings};
use forebay_trainer::TrainerSettings;

use crate::{Context, error::CommandError, flags::Common};

/// The settings of a command, before its own flags.
///
/// The trainer's section is filled in with the trainer's defaults, so that what is recorded is
/// complete.
pub fn settings(common: &Common) -> Result<Settings, CommandError> {
    let mut settings = match &common.config {
        None => defaults()?,
        Some(path) => {
            let read = |error| CommandError::ReadConfig(path.clone(), error);
            let parse = |error| CommandError::ParseConfig(path.clone(), error);
            let text = fs::read_to_string(path).map_err(read)?;
            let base = toml::Table::try_from(defaults()?).map_err(|error| {
                CommandError::Broken(format!("the defaults are no TOML: {error}"))
            })?;
            let given: toml::Table = text.parse().map_err(parse)?;
            overlay(base, given).try_into().map_err(parse)?
        }
    };
    settings.train = complete(&settings.train)?;
    if let Some(store) = &common.store {
        settings.store.clone_from(store);
    }
    if let Some(local) = &common.local {
        settings.local.clone_from(local);
    }
    Ok(settings)
}

fn defaults() -> Result<Settings, CommandError> {
    let mut settings = Settings::default();
    settings.train = complete(&settings.train)?;
    Ok(settings)
}

/// The trainer's settings with every default filled in.
fn complete(train: &serde_json::Value) -> Result<serde_json::Value, CommandError> {
    let trainer: TrainerSettings = trainer(train)?;
    serde_json::to_value(trainer)
        .map_err(|error| forebay::Error::trainer("reading its settings", error).into())
}

/// The trainer's settings, typed.
pub fn trainer(train: &serde_json::Value) -> Result<TrainerSettings, CommandError> {
    let refuse = |error: serde_json::Error| forebay::Error::Setting {
        setting: "train",
        value: "unusable".into(),
        why: error.to_string(),
    };
    Ok(serde_json::from_value(train.clone()).map_err(refuse)?)
}

/// `base` with every value that `given` has; tables are merged key by key.
///
/// The gate is replaced as a whole: a file that sets one rule does not inherit another.
fn overlay(mut base: toml::Table, given: toml::Table) -> toml::Table {
    for (key, value) in given {
        let merged = match (base.remove(&key), value) {
            (Some(toml::Value::Table(old)), toml::Value::Table(new)) if key != "gate" => {
                toml::Value::Table(overlay(old, new))
            }
            (_, new) => new,
        };
        base.insert(key, merged);
    }
    base
}

/// Opens both tiers.
pub fn engine(context: &Context<'_>, settings: &Settings) -> Result<Engine, CommandError> {
    settings.make_home()?;
    let runtime = context.runtime;
    Ok(Engine::open(&settings.store, &settings.local, settings.local_budget_bytes, runtime)?)
}

/// Opens the lake alone, for commands that read it and need no local tier.
pub fn lake(context: &Context<'_>) -> Result<(Lake, Settings), CommandError> {
    let settings = settings(context.flags)?.resolve()?;
    Ok((Lake::open_existing(&settings.store, context.runtime)?, settings))
}

/// Opens the lake alone, for commands that write it; a directory is made if its parent exists.
pub fn written_lake(context: &Context<'_>) -> Result<Lake, CommandError> {
    let settings = settings(context.flags)?.resolve()?;
    settings.make_home()?;
    Ok(Lake::open(&settings.store, context.runtime)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(text: &str) -> toml::Table {
        text.parse().unwrap()
    }

    #[test]
    fn a_file_changes_what_it_names_and_nothing_else() {
        let base = table("steps = 10\n[feed]\nbatch_size = 4\nwindow = 2");
        let given = table("[feed]\nbatch_size = 8");
        assert_eq!(overlay(base, given), table("steps = 10\n[feed]\nbatch_size = 8\nwindow = 2"));
    }

    #[test]
    fn a_gate_is_replaced_whole() {
        let merged = overlay(table("[gate]\nloss_max = 1.0"), table("[gate]\naccuracy_min = 0.5"));
        assert_eq!(merged, table("[gate]\naccuracy_min = 0.5"));
    }

    #[test]
    fn the_defaults_survive_being_written_as_toml() {
        let settings = defaults().unwrap();
        let text = toml::to_string(&settings).unwrap();
        assert_eq!(toml::from_str::<Settings>(&text).unwrap(), settings);
    }

    #[test]
    fn an_unknown_setting_is_refused_by_name() {
        let merged =
            overlay(toml::Table::try_from(defaults().unwrap()).unwrap(), table("stepz = 1"));
        let error = Settings::deserialize_error(merged);
        assert!(error.contains("stepz"), "{error}");
    }

    trait DeserializeError {
        fn deserialize_error(table: toml::Table) -> String;
    }

    impl DeserializeError for Settings {
        fn deserialize_error(table: toml::Table) -> String {
            table.try_into::<Self>().unwrap_err().to_string()
        }
    }
}
