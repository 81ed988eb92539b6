//! A run that was killed anywhere is, when it ends, the run that was never killed.
//!
//! The trainer dies by SIGKILL at each place where a crash leaves something of its own kind: in
//! capture, just captured, with half a staged file, sealed but not drained, half uploaded, before and after the
//! commit. Then it is started again, and every loss and every byte of its state is compared.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]
#![allow(clippy::disallowed_methods, reason = "these tests watch real processes in real time")]

mod support;

use std::collections::BTreeMap;

use support::Bench;

const POINTS: [&str; 7] = [
    "checkpoint.capture",
    "checkpoint.captured",
    "checkpoint.stage",
    "checkpoint.sealed",
    "checkpoint.drain",
    "checkpoint.before_commit",
    "checkpoint.after_commit",
];

/// Loss, gradient norm and learning rate by step, as JSON writes them: to the last bit.
fn losses(bench: &Bench, run: &str) -> BTreeMap<u64, String> {
    let mut losses = BTreeMap::new();
    for file in bench.files(&format!("lake/runs/{run}/journal")) {
        let path = bench.lake(&format!("runs/{run}/journal/{file}"));
        for line in std::fs::read_to_string(path).unwrap().lines() {
            let entry: serde_json::Value = serde_json::from_str(line).unwrap();
            if entry["event"] == "step" {
                let bits = [&entry["loss"], &entry["gradient_norm"], &entry["learning_rate"]];
                losses.insert(entry["step"].as_u64().unwrap(), format!("{bits:?}"));
            }
        }
    }
    losses
}

/// The bytes of the final tensors, weights and optimizer state.
fn state(bench: &Bench, run: &str) -> Vec<u8> {
    let folder = format!("lake/runs/{run}/checkpoints");
    let newest =
        bench.files(&folder).into_iter().filter(|file| file.ends_with(".safetensors")).max();
    std::fs::read(bench.path(&folder).join(newest.unwrap())).unwrap()
}

#[test]
fn losses_and_weights_after_a_crash_are_those_of_an_uninterrupted_run() {
    let bench = Bench::new();
    bench.prepare();
    bench.ok(&["train", "whole"]);
    let (whole_losses, whole_state) = (losses(&bench, "whole"), state(&bench, "whole"));
    assert_eq!(whole_losses.len(), 24);
    for point in POINTS {
        let run = point.replace(['.', '_'], "-");
        // Once at the first checkpoint, once more at a later one of the attempt after it.
        bench.crash(&["train", &run], &format!("{point}:1"));
        bench.crash(&["train", &run], &format!("{point}:2"));
        let torn = bench.run(&["checkpoint", "verify", &run]);
        assert!(
            matches!(torn.code, Some(0 | 3)),
            "{point}: a torn checkpoint was chosen: {}",
            torn.err
        );
        bench.ok(&["train", &run]);
        assert_eq!(losses(&bench, &run), whole_losses, "after {point}");
        assert_eq!(state(&bench, &run), whole_state, "after {point}");
    }
    bench.ok(&["clear"]);
    assert_eq!(bench.files("local"), Vec::<String>::new());
}

#[test]
fn clear_refuses_what_was_sealed_and_never_drained_until_the_run_is_started_again() {
    let bench = Bench::new();
    bench.prepare();
    bench.crash(&["train", "mine"], "checkpoint.sealed:2");
    bench.fails(&["clear"], 9, &["have not reached the lake", "mine", "start the run again"]);
    bench.ok(&["train", "mine"]);
    bench.ok(&["clear"]);
}

#[test]
fn preparation_killed_anywhere_gives_the_same_dataset() {
    let whole = Bench::new();
    whole.prepare();
    for point in ["prepare.map", "prepare.reduce", "prepare.before_manifest"] {
        let bench = Bench::new();
        let source = bench.source_flag();
        bench.crash(&["prepare", "--source", &source], point);
        assert_eq!(bench.files("lake/datasets"), Vec::<String>::new());
        bench.prepare();
        assert_eq!(bench.files("lake/datasets/day-text"), ["v1.json"]);
        assert_eq!(bench.files("lake/shards"), whole.files("lake/shards"), "after {point}");
        bench.ok(&["clear"]);
    }
}

#[test]
fn a_package_killed_before_its_manifest_does_not_exist() {
    let bench = Bench::new();
    bench.prepare();
    bench.ok(&["train", "mine"]);
    for point in ["archive.payload", "archive.before_manifest"] {
        bench.crash(&["archive", "publish", "mine", "--model", "tiny"], point);
        bench.fails(&["archive", "verify", "tiny"], 3, &["tiny"]);
    }
    bench.ok(&["archive", "publish", "mine", "--model", "tiny"]);
    bench.ok(&["archive", "verify", "tiny@1"]);
}
