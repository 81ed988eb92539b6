//! Each bad input gives one clear error that names the object and what to do, and loses nothing.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]
#![allow(clippy::disallowed_methods, reason = "these tests watch real processes in real time")]

mod support;

use std::{fs, path::Path};

use support::{Bench, flip};

#[test]
fn a_missing_source_or_store_is_named() {
    let bench = Bench::new();
    bench.fails(&["prepare", "--source", "/no/such/place"], 3, &["/no/such/place"]);
    let lost = bench.path("no/such/lake").display().to_string();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_forebay"));
    let output = command.args(["checkpoint", "list", "x", "--store", &lost]).output().unwrap();
    let said = support::Said::of(output);
    assert_eq!(said.code, Some(3), "{}", said.err);
    assert!(said.err.contains(&lost), "{}", said.err);
    bench.fails(&["train", "mine"], 3, &["day-text"]);
    bench.fails(&["checkpoint", "list", "nobody"], 3, &["nobody"]);
    bench.fails(&["evaluate", "nobody"], 3, &["nobody"]);
    bench.fails(&["archive", "verify", "nobody"], 3, &["nobody"]);
}

#[test]
fn a_store_url_that_is_not_built_yet_is_refused_by_name() {
    let bench = Bench::new();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_forebay"));
    let output =
        command.args(["checkpoint", "list", "x", "--store", "gs://bucket"]).output().unwrap();
    let said = support::Said::of(output);
    assert_eq!(said.code, Some(2));
    assert!(said.err.contains("gs") && said.err.contains("file:///"), "{}", said.err);
    drop(bench);
}

#[test]
fn a_lake_or_tier_that_cannot_be_written_is_named() {
    let bench = Bench::new();
    fs::write(bench.path("file"), "not a directory").unwrap();
    for flag in ["--store", "--local"] {
        let place = bench.path("file/inside").display().to_string();
        let mut arguments = vec!["prepare".to_owned(), "--source".into(), bench.source_flag()];
        let (other, other_place) = match flag {
            "--store" => ("--local", bench.path("local")),
            _ => ("--store", bench.path("lake")),
        };
        arguments.extend([flag.into(), place.clone(), other.into()]);
        arguments.push(other_place.display().to_string());
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_forebay"));
        let said = support::Said::of(command.args(arguments).output().unwrap());
        assert!(matches!(said.code, Some(3 | 7)), "{:?} {}", said.code, said.err);
        assert!(said.err.contains(&place), "{}", said.err);
    }
}

#[test]
fn a_tier_too_small_for_the_work_says_both_numbers() {
    let bench = Bench::new();
    bench.prepare();
    bench.reconfigure("local_budget_bytes = 16777216", "local_budget_bytes = 40000");
    let said = bench.run(&["train", "mine"]);
    assert!(matches!(said.code, Some(2 | 8)), "{:?} {}", said.code, said.err);
    assert!(said.err.contains("40000"), "{}", said.err);
}

#[test]
fn a_full_disk_says_so_and_loses_nothing() {
    let bench = Bench::new();
    bench.prepare();
    bench.ok(&["train", "before", "--steps", "6"]);
    let small = bench.path("small");
    fs::create_dir(&small).unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=96k", "tmpfs"])
        .arg(&small)
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        eprintln!("not run: this user cannot mount a small file system");
        return;
    }
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_forebay"));
    let said = support::Said::of(
        command
            .args(["train", "full", "--store"])
            .arg(bench.path("lake"))
            .arg("--local")
            .arg(small.join("tier"))
            .arg("--config")
            .arg(bench.path("forebay.toml"))
            .output()
            .unwrap(),
    );
    std::process::Command::new("umount").arg(&small).status().unwrap();
    assert_eq!(said.code, Some(8), "{}", said.err);
    bench.ok(&["checkpoint", "verify", "before"]);
}

#[test]
fn settings_that_cannot_work_are_named() {
    let bench = Bench::new();
    bench.prepare();
    bench.configure("stepz = 3");
    bench.fails(&["train", "mine"], 2, &["forebay.toml", "stepz"]);
    let bench = Bench::new();
    bench.prepare();
    bench.reconfigure("[gate]\nloss_max = 100.0", "[gate]");
    bench.fails(&["train", "mine"], 2, &["gate"]);
}

#[test]
fn a_run_cannot_be_resumed_with_other_settings() {
    let bench = Bench::new();
    bench.prepare();
    bench.ok(&["train", "mine"]);
    bench.fails(&["train", "mine", "--seed", "99"], 6, &["mine", "seed"]);
}

#[test]
fn a_manifest_of_a_newer_format_asks_for_a_newer_forebay() {
    let bench = Bench::new();
    bench.prepare();
    let manifest = bench.lake("datasets/day-text/v1.json");
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, text.replacen("\"version\":1", "\"version\":2", 1)).unwrap();
    bench.fails(&["train", "mine"], 5, &["datasets/day-text/v1.json", "newer Forebay"]);
}

/// Breaks one object and expects the command that reads it next to name it; then mends it.
#[track_caller]
fn finds(bench: &Bench, key: &str, arguments: &[&str]) {
    let path = bench.lake(key);
    let whole = fs::read(&path).unwrap();
    let name = Path::new(key).file_name().unwrap().to_str().unwrap().split('.').next().unwrap();
    let local = key.starts_with("shards/");
    flip(&path);
    let said = bench.run(arguments);
    assert_eq!(said.code, Some(4), "{key} flipped, {arguments:?} said: {}", said.err);
    assert!(said.err.contains(name), "{key} is not named: {}", said.err);
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    if local {
        bench.ok(&["clear"]);
    }
    let said = bench.run(arguments);
    assert_eq!(said.code, Some(4), "{key} cut short, {arguments:?} said: {}", said.err);
    fs::write(&path, whole).unwrap();
}

#[test]
fn one_changed_byte_of_any_object_is_found_by_the_next_command_that_reads_it() {
    let bench = Bench::new();
    bench.prepare();
    bench.ok(&["train", "mine"]);
    bench.ok(&["evaluate", "mine"]);
    bench.ok(&["archive", "publish", "mine", "--model", "tiny"]);
    let source = bench.source_flag();

    finds(&bench, "datasets/day-text/v1.json", &["prepare", "--source", &source]);
    finds(&bench, "runs/mine/run.json", &["train", "mine"]);
    for file in bench.files("lake/runs/mine/journal") {
        let archive = ["archive", "publish", "mine", "--model", "other"];
        finds(&bench, &format!("runs/mine/journal/{file}"), &archive);
    }
    for file in bench.files("lake/runs/mine/checkpoints") {
        let step = file.split('/').next().unwrap().trim_start_matches('0').to_owned();
        let key = format!("runs/mine/checkpoints/{file}");
        finds(&bench, &key, &["checkpoint", "verify", "mine", "--step", &step]);
    }
    for file in bench.files("lake/packages") {
        finds(&bench, &format!("packages/{file}"), &["archive", "verify", "tiny"]);
    }
    bench.ok(&["archive", "verify", "tiny"]);

    // Samples are read through the local tier, so it is emptied before each look. Evaluating reads
    // every page, every side file and every validation shard; the first step reads these:
    let first = bench.ok(&["trace", "tiny", "--step", "0", "--json"]).json("trace");
    let first: Vec<_> =
        first[0].as_array().unwrap().iter().map(|s| s["shard_digest"].clone()).collect();
    for file in bench.files("lake/shards") {
        let digest = file.split('.').next().unwrap();
        bench.ok(&["clear"]);
        let fresh = format!("fresh-{}", &digest[..8]);
        let is_first = file == format!("{digest}.arrow") && first.iter().any(|d| d == digest);
        let arguments: &[&str] = if is_first { &["train", &fresh] } else { &["evaluate", "mine"] };
        if file == format!("{digest}.arrow") && !is_first && !bench.is_validation(digest) {
            continue;
        }
        finds(&bench, &format!("shards/{file}"), arguments);
    }
}

#[test]
fn added_missing_and_changed_package_files_are_named() {
    let bench = Bench::new();
    bench.prepare();
    bench.ok(&["train", "mine"]);
    bench.ok(&["archive", "publish", "mine", "--model", "tiny"]);
    let weights = bench
        .files("lake/packages")
        .into_iter()
        .find(|file| file.ends_with("weights.safetensors"))
        .unwrap();
    let weights = bench.lake(&format!("packages/{weights}"));
    let added = weights.with_file_name("added.txt");
    fs::write(&added, "x").unwrap();
    bench.fails(&["archive", "verify", "tiny"], 4, &["added.txt"]);
    fs::remove_file(added).unwrap();
    fs::remove_file(weights).unwrap();
    bench.fails(&["archive", "verify", "tiny"], 4, &["weights.safetensors"]);
}

#[test]
fn two_writers_of_one_dataset_publish_one_version() {
    let bench = Bench::new();
    let source = bench.source_flag();
    let children: Vec<_> =
        (0..3).map(|_| bench.command(&["prepare", "--source", &source]).spawn().unwrap()).collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(bench.files("lake/datasets/day-text"), ["v1.json"]);
}
