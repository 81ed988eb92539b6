//! The shared profile: `~/.aws/credentials` and `~/.aws/config`.
//!
//! It is looked at when the environment holds neither keys nor a web identity, as every client of
//! this protocol does, and read once: keys that are changed there are seen by the next open.

use std::{collections::BTreeMap, fs, path::PathBuf};

type Variables = BTreeMap<String, String>;

/// The largest file that is read.
const BYTES_MAX: u64 = 1 << 20;

/// What a profile may hold, and the variable it stands for.
const SECRETS: [(&str, &str); 3] = [
    ("aws_access_key_id", "AWS_ACCESS_KEY_ID"),
    ("aws_secret_access_key", "AWS_SECRET_ACCESS_KEY"),
    ("aws_session_token", "AWS_SESSION_TOKEN"),
];
const PLACES: [(&str, &str); 2] = [("region", "AWS_REGION"), ("endpoint_url", "AWS_ENDPOINT_URL")];

/// `variables`, completed from the profile that they name.
pub(super) fn completed(mut variables: Variables) -> Variables {
    let profile = variables.get("AWS_PROFILE").cloned().unwrap_or_else(|| "default".into());
    let is_given = |name: &str| variables.contains_key(name);
    let has_keys = is_given("AWS_ACCESS_KEY_ID") || is_given("AWS_WEB_IDENTITY_TOKEN_FILE");
    let has_region = is_given("AWS_REGION") || is_given("AWS_DEFAULT_REGION");
    let config = section(&variables, "AWS_CONFIG_FILE", "config", &profile);
    if !has_keys {
        let secrets = section(&variables, "AWS_SHARED_CREDENTIALS_FILE", "credentials", &profile);
        for (name, variable) in SECRETS {
            if let Some(value) = secrets.get(name).or_else(|| config.get(name)) {
                variables.insert(variable.into(), value.clone());
            }
        }
    }
    for (name, variable) in PLACES {
        if let Some(value) = config.get(name)
            && !(has_region && variable == "AWS_REGION")
        {
            variables.entry(variable.into()).or_insert_with(|| value.clone());
        }
    }
    variables
}

fn section(variables: &Variables, variable: &str, file: &str, profile: &str) -> Variables {
    let path = variables.get(variable).map(PathBuf::from).or_else(|| {
        let home = variables.get("HOME")?;
        Some(PathBuf::from(home).join(".aws").join(file))
    });
    let text = path
        .filter(|path| fs::metadata(path).is_ok_and(|metadata| metadata.len() <= BYTES_MAX))
        .and_then(|path| fs::read_to_string(path).ok());
    text.map(|text| parse(&text, profile)).unwrap_or_default()
}

/// The entries of `[profile]`, or `[profile name]` as the second file writes it.
fn parse(text: &str, profile: &str) -> Variables {
    let mut is_inside = false;
    let mut found = Variables::new();
    for line in text.lines() {
        let is_nested = line.starts_with([' ', '\t']);
        let line = line.trim();
        if let Some(title) = line.strip_prefix('[').and_then(|line| line.split(']').next()) {
            let title = title.trim();
            is_inside = title.strip_prefix("profile ").map_or(title, str::trim) == profile;
        } else if let Some((name, value)) = line.split_once('=')
            && is_inside
            && !is_nested
            && !line.starts_with(['#', ';'])
        {
            found.insert(name.trim().to_ascii_lowercase(), value.trim().to_owned());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(pairs: &[(&str, &str)]) -> Variables {
        pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
    }

    #[test]
    fn the_named_profile_completes_what_the_environment_does_not_say() {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir(home.path().join(".aws")).unwrap();
        let write = |name: &str, text: &str| {
            fs::write(home.path().join(".aws").join(name), text).unwrap();
        };
        write(
            "credentials",
            "[default]\naws_access_key_id=A\naws_secret_access_key = B\n\n# x\n[lab]\n\
             aws_access_key_id = C\naws_secret_access_key = D==\naws_session_token=E\n",
        );
        write(
            "config",
            "[default]\nregion = eu-1\n[profile lab]\nregion=eu-2\ns3 =\n  endpoint_url = no\n",
        );
        let home = home.path().to_str().unwrap();
        let found = completed(variables(&[("HOME", home), ("AWS_PROFILE", "lab")]));
        let value = |name: &str| found.get(name).map(String::as_str);
        assert_eq!(value("AWS_ACCESS_KEY_ID"), Some("C"));
        assert_eq!(value("AWS_SECRET_ACCESS_KEY"), Some("D=="));
        assert_eq!(value("AWS_SESSION_TOKEN"), Some("E"));
        assert_eq!(value("AWS_REGION"), Some("eu-2"));
        assert_eq!(value("AWS_ENDPOINT_URL"), None);

        let given = [("HOME", home), ("AWS_ACCESS_KEY_ID", "X"), ("AWS_DEFAULT_REGION", "us")];
        let found = completed(variables(&given));
        assert_eq!(found["AWS_ACCESS_KEY_ID"], "X");
        assert!(!found.contains_key("AWS_SECRET_ACCESS_KEY"), "keys are never mixed");
        assert!(!found.contains_key("AWS_REGION"));
    }
}
