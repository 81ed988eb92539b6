//! The run record: what a run set out to do, written before its first step and never again.
//!
//! `runs/<run>/run.json` is a record. The gate and the complete configuration are in it with
//! their digests, so nobody can move the bar after seeing where the model landed; the journal's
//! chain starts at this record's digest, see [`super::journal`].

use forebay_types::{Digest, Key, Name, Nonce, Version};
use serde::{Deserialize, Serialize};

use super::evaluation::Gate;
use crate::record::Record;

/// What a run set out to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunRecord {
    /// The run's name.
    pub run: Name,
    /// When it was created, in milliseconds since 1970.
    pub created_unix_ms: u64,
    /// Made by its writer, who recognizes its own record by it.
    pub nonce: Nonce,
    /// What every random choice of the run follows from.
    pub seed: u64,
    /// The steps it was meant to take.
    pub steps: u64,
    /// What it learns from.
    pub dataset: DatasetReference,
    /// Every resolved setting.
    pub configuration: serde_json::Value,
    /// [`json_digest`] of `configuration`: runs with equal digests have equal settings.
    pub configuration_digest: Digest,
    /// What the model must reach to be archived.
    pub gate: Gate,
    /// [`Gate::digest`] of `gate`.
    pub gate_digest: Digest,
    /// The program that trains, as it describes itself.
    pub trainer: String,
    /// Where it was forked from.
    pub parent: Option<RunParent>,
}

/// A published dataset version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasetReference {
    /// The dataset's name.
    pub name: Name,
    /// Its version.
    pub version: Version,
    /// The digest of its manifest's body.
    pub digest: Digest,
}

/// The step another run was at when this one left it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunParent {
    /// The run.
    pub run: Name,
    /// The step of its checkpoint.
    pub step: u64,
}

impl Record for RunRecord {
    const FORMAT: &'static str = "forebay.run";
    const VERSION: u32 = 1;

    fn check(&self) -> Result<(), String> {
        if self.configuration_digest != json_digest(&self.configuration) {
            return Err("its configuration does not have the digest that stands beside it".into());
        }
        if self.gate_digest != self.gate.digest() {
            return Err("its gate does not have the digest that stands beside it".into());
        }
        self.gate.check()
    }
}

/// The digest of a JSON value: BLAKE3 over its text without spaces, keys sorted.
///
/// Equal values have equal digests whatever order their keys were written in.
#[must_use]
pub fn json_digest(value: &serde_json::Value) -> Digest {
    let mut sorted = value.clone();
    sorted.sort_all_objects();
    Digest::of(sorted.to_string().as_bytes())
}

/// Where the record of `run` lies.
#[must_use]
pub fn run_key(run: &Name) -> Key {
    Key::new(format!("runs/{run}/run.json")).expect("names make sound keys")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_of_a_value_does_not_depend_on_the_order_of_its_keys() {
        let one = serde_json::from_str(r#"{"b":{"y":1,"x":[2,3]},"a":0.1}"#).unwrap();
        let two = serde_json::from_str(r#"{"a":0.1, "b":{"x":[2,3],"y":1}}"#).unwrap();
        let other = serde_json::from_str(r#"{"a":0.1, "b":{"x":[3,2],"y":1}}"#).unwrap();
        assert_eq!(json_digest(&one), json_digest(&two));
        assert_ne!(json_digest(&one), json_digest(&other));
        assert_eq!(json_digest(&one), Digest::of(br#"{"a":0.1,"b":{"x":[2,3],"y":1}}"#));
    }
}
