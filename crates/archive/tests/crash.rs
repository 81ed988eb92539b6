//! A publisher is killed by SIGKILL before the manifest. There is no version then, and the next
//! attempt makes it.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod support;

use std::{os::unix::process::ExitStatusExt, path::PathBuf, process::Command};

use forebay_archive::{Publish, verify};
use forebay_format::{record, v1::evaluation::EvaluationRecord};
use forebay_lake::Lake;
use forebay_runtime::Runtime;
use forebay_types::Version;
use support::{evening::Evening, story::name};

const DIRECTORY: &str = "FOREBAY_TEST_DIRECTORY";

/// Not a test: what the process that dies runs. Without its variable it has nothing to do.
#[test]
fn publisher() {
    let Some(directory) = std::env::var_os(DIRECTORY).map(PathBuf::from) else { return };
    let runtime = Runtime::system();
    let lake = Lake::open(directory.join("lake").to_str().unwrap(), &runtime).unwrap();
    let bytes = std::fs::read(directory.join("evaluation.json")).unwrap();
    let (evaluation, _) = record::decode::<EvaluationRecord>(&bytes, "evaluation").unwrap();
    let (model, feed) = (name("day"), serde_json::json!({ "batch_size": 16 }));
    let publish = Publish {
        lake: &lake,
        runtime: &runtime,
        model: &model,
        evaluation: &evaluation,
        feed: &feed,
    };
    publish.run().unwrap();
}

/// Publishes in a process of its own; says whether SIGKILL ended it.
fn publish(evening: &Evening, crash_at: Option<&str>) -> bool {
    let (body, _) = record::encode(&evening.evaluation).unwrap();
    std::fs::write(evening.tiers.path().join("evaluation.json"), body).unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "publisher"]).env(DIRECTORY, evening.tiers.path());
    command.env_remove("FOREBAY_CRASH_AT");
    if let Some(point) = crash_at {
        command.env("FOREBAY_CRASH_AT", point);
    }
    let output = command.output().unwrap();
    let killed = output.status.signal() == Some(9);
    assert!(killed || output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    killed
}

#[test]
fn a_crash_leaves_no_version_and_the_next_attempt_makes_it() {
    for point in ["archive.payload", "archive.before_manifest"] {
        let evening = Evening::new();
        assert!(publish(&evening, Some(point)), "{point}");
        assert!(evening.manifests().is_empty(), "{point}");
        assert!(evening.tiers.lake_path().join("packages/day").exists(), "{point} left files");
        assert!(!publish(&evening, None));
        assert_eq!(evening.manifests(), ["v1.json"], "{point}");
        verify(&evening.tiers.lake, &name("day"), Version::FIRST).unwrap();
    }
}
