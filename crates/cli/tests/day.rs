//! The whole day, as a user runs it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]
#![allow(clippy::disallowed_methods, reason = "these tests watch real processes in real time")]

mod support;

use std::{fs, thread, time::Duration};

use support::{Bench, Said};

fn day(bench: &Bench) -> Said {
    bench.ok(&["day", "--json", "--source", &bench.source_flag()])
}

#[test]
fn a_day_ends_with_a_verified_package_and_an_empty_tier_and_a_second_one_reuses_the_dataset() {
    let bench = Bench::new();
    let first = &day(&bench).json("day")[0];
    assert_eq!(first["run"], "day-1");
    assert_eq!(first["package"], "day@1");
    assert_eq!(first["comparison"]["difference"], serde_json::Value::Null);
    assert_eq!(first["comparison"]["losses"], 24);
    assert!(first["training"]["killed_after_step"].as_u64().unwrap() > 6);
    assert!(first["training"]["resumed_at_step"].as_u64().unwrap() >= 6);
    assert_eq!(bench.files("local"), Vec::<String>::new());
    let report = fs::read_to_string(bench.path("report.html")).unwrap();
    assert!(report.contains("<svg") && !report.contains("<script"));

    let second = &day(&bench).json("day")[0];
    assert_eq!(second["run"], "day-2");
    assert_eq!(second["prepared"]["reused"], true);
    assert_eq!(second["prepared"]["version"], 1);
    assert_eq!(bench.files("lake/datasets/day-text"), ["v1.json"]);

    bench.write_source("more.txt", "A paragraph that was not there before, and is long enough.\n");
    let third = &day(&bench).json("day")[0];
    assert_eq!(third["prepared"]["version"], 2);
    assert_eq!(bench.files("lake/datasets/day-text"), ["v1.json", "v2.json"]);
}

#[test]
fn a_day_that_is_killed_anywhere_goes_on_where_it_stood() {
    let bench = Bench::new();
    let source = bench.source_flag();
    for kill_after_ms in [300, 900, 1500, 2500] {
        let mut child = bench.command(&["day", "--json", "--source", &source]).spawn().unwrap();
        thread::sleep(Duration::from_millis(kill_after_ms));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let summary = &day(&bench).json("day")[0];
    assert_eq!(summary["comparison"]["difference"], serde_json::Value::Null);
    assert_eq!(bench.files("lake/datasets/day-text"), ["v1.json"]);
    assert_eq!(bench.files("local"), Vec::<String>::new());
}

#[test]
fn a_gate_that_says_no_archives_nothing_keeps_everything_and_has_its_exit_code() {
    let bench = Bench::new();
    bench.reconfigure("loss_max = 100.0", "loss_max = 0.001");
    let source = bench.source_flag();
    bench.fails(&["day", "--source", &source], 9, &["did not pass its gate", "everything is kept"]);
    assert_eq!(bench.files("lake/packages"), Vec::<String>::new());
    assert!(!bench.files("lake/runs/day-1/checkpoints").is_empty());
    assert!(!bench.files("local").is_empty());
}

#[test]
fn every_hour_is_a_command_of_its_own() {
    let bench = Bench::new();
    bench.prepare();
    bench.ok(&["train", "mine"]);
    let listed = bench.ok(&["checkpoint", "list", "mine", "--json"]);
    let steps: Vec<_> = listed.json("checkpoints")[0]
        .as_array()
        .unwrap()
        .iter()
        .map(|each| each["step"].as_u64().unwrap())
        .collect();
    assert_eq!(steps.last(), Some(&24));
    bench.ok(&["checkpoint", "verify", "mine"]);
    bench.ok(&["checkpoint", "remove", "mine", "--step", &steps[0].to_string()]);
    bench.fails(&["checkpoint", "remove", "mine", "--step", "24"], 9, &["newest"]);
    let output = bench.path("restored").display().to_string();
    bench.ok(&["checkpoint", "restore", "mine", "--output", &output, "--weights-only"]);
    assert!(!bench.files("restored").is_empty());
    bench.ok(&["evaluate", "mine"]);
    bench.ok(&["archive", "publish", "mine", "--model", "tiny"]);
    bench.ok(&["archive", "verify", "tiny"]);
    bench.ok(&["archive", "list", "tiny"]);
    let output = bench.path("model").display().to_string();
    bench.ok(&["archive", "restore", "tiny@1", "--output", &output]);
    let sums = std::process::Command::new("sha256sum")
        .args(["-c", "--quiet", "SHA256SUMS"])
        .current_dir(bench.path("model"))
        .status();
    assert!(sums.unwrap().success());
    let traced = bench.ok(&["trace", "tiny", "--step", "3", "--json"]);
    assert_eq!(traced.json("trace")[0].as_array().unwrap().len(), 4);
    let of_run = bench.ok(&["trace", "--run", "mine", "--step", "3", "--json"]);
    assert_eq!(of_run.json("trace"), traced.json("trace"));
    bench.fails(&["trace", "--run", "mine", "--step", "24"], 2, &["run mine takes 24 steps"]);
    bench.fails(&["trace", "--run", "yours", "--step", "3"], 3, &["yours"]);
    bench.fails(&["trace", "tiny", "--run", "mine", "--step", "3"], 2, &["cannot be used with"]);
    bench.fails(&["trace", "--step", "3"], 2, &["required"]);
    bench.ok(&["clear"]);
    assert_eq!(bench.files("local"), Vec::<String>::new());
}

#[test]
fn ctrl_c_saves_and_the_same_command_goes_on() {
    let bench = Bench::new();
    bench.prepare();
    bench.ok(&["train", "whole"]);
    bench.reconfigure("every_steps = 6", "every_steps = 20");
    let mut child = bench.command(&["train", "stopped", "--json"]);
    let mut child = child.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    assert!(lines.any(|line| line.unwrap().contains("\"event\":\"step\"")));
    std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    lines.for_each(drop);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(!bench.files("lake/runs/stopped/checkpoints").is_empty());
    bench.ok(&["train", "stopped"]);
}

#[test]
fn a_newcomer_names_no_tier_and_finds_everything_in_one_directory() {
    let bench = Bench::new();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_forebay"));
    command.current_dir(bench.path("")).args(["day", "--source", "raw"]);
    let said = Said::of(command.args(["--config", "forebay.toml"]).output().unwrap());
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert!(bench.path("forebay-day/lake/packages/day/v1.json").is_file());
    assert!(bench.path("forebay-day/report.html").is_file());
    assert!(said.out.contains("the local tier is empty"), "{}", said.out);
}
