//! The verbs of `forebay checkpoint`, on a run of the real binary.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use support::Bench;

/// A run of four checkpoints, of which all are kept.
fn trained() -> Bench {
    let bench = Bench::new();
    bench.reconfigure("every_steps = 6", "every_steps = 6\nkeep_last = 0");
    bench.prepare();
    bench.ok(&["train", "mine"]);
    bench
}

fn steps(bench: &Bench, run: &str) -> Vec<u64> {
    let listed = bench.ok(&["checkpoint", "list", run, "--json"]);
    let listed = listed.json("checkpoints")[0].as_array().unwrap().clone();
    listed.iter().map(|each| each["step"].as_u64().unwrap()).collect()
}

#[test]
fn weights_go_out_and_come_in_again() {
    let bench = trained();
    let output = bench.path("weights").display().to_string();
    let convert = |from: &str, to: &str| ["checkpoint", "convert", from, to].map(str::to_owned);
    let said = bench.ok(&with(&convert("mine", &output), &["--shard-bytes", "8KiB", "--json"]));
    let exported = &said.json("exported")[0];
    assert_eq!(exported["step"], 24);
    let files = exported["files"].as_array().unwrap();
    assert!(files.len() > 1, "{said:?}", said = said.out);
    assert_eq!(bench.files("weights").len(), files.len() + 1);
    let back = convert(&output, "again@24");
    let said = bench.ok(&with(&back, &["--json"]));
    assert_eq!(said.json("imported")[0]["tensors"], exported["tensors"]);
    assert!(bench.ok(&with(&back, &[])).out.contains("as they were before"));
    bench.ok(&["checkpoint", "verify", "again"]);

    let output = bench.path("weights-again").display().to_string();
    bench.ok(&with(&convert("again@24", &output), &["--shard-bytes", "8KiB"]));
    for file in bench.files("weights") {
        let read = |folder: &str| std::fs::read(bench.path(folder).join(&file)).unwrap();
        assert!(read("weights") == read("weights-again"), "{file}");
    }
    let fails = |from: &str, to: &str, more: &[&str], code, said: &[&str]| {
        bench.fails(&with(&convert(from, to), more), code, said);
    };
    fails("again", &output, &[], 2, &["is not empty"]);
    fails("again@7", &bench.path("new").display().to_string(), &[], 3, &["step 7", "24"]);
    fails(&bench.path("none").display().to_string(), "x", &[], 3, &["none"]);
    fails(&bench.source_flag(), "x", &[], 2, &["holds neither"]);
    fails("again", "x", &[], 2, &["both name runs", "./x"]);
    fails("./again", "./x", &[], 2, &["both paths", "NAME@STEP"]);
    fails(&output, "x", &["--all"], 2, &["`--all`", "x is a run"]);
    fails("again", "./x.pt", &[], 2, &["forebay.export_checkpoint"]);
    std::fs::create_dir(bench.path("dcp")).unwrap();
    std::fs::write(bench.path("dcp/.metadata"), "").unwrap();
    fails(&bench.path("dcp").display().to_string(), "x", &[], 2, &["forebay.import_checkpoint"]);
}

/// Arguments, and more of them.
fn with<'a>(arguments: &'a [String], more: &[&'a str]) -> Vec<&'a str> {
    arguments.iter().map(String::as_str).chain(more.iter().copied()).collect()
}

#[test]
fn a_run_is_forked_with_a_range_skipped_and_trained_on() {
    let bench = trained();
    bench.fails(&["checkpoint", "fork", "mine", "7", "fork"], 3, &["step 7", "24, 18, 12, 6"]);
    let said = bench.ok(&["checkpoint", "fork", "mine", "12", "fork", "--json"]);
    assert_eq!(said.json("forked")[0]["from"]["step"], 12);
    bench.reconfigure("[feed]", "[feed]\nskip_steps = [[14, 17]]");
    bench.ok(&["train", "fork"]);
    assert_eq!(steps(&bench, "fork"), [12, 18, 24]);
    for step in ["12", "18", "24"] {
        let shown = bench.ok(&["checkpoint", "show", "fork", "--step", step]);
        assert!(shown.out.contains("forked from run mine at step 12"), "{}", shown.out);
    }
    let samples = |run: &str, step: u64| {
        let said = bench.ok(&["trace", "--run", run, "--step", &step.to_string(), "--json"]);
        said.json("trace")[0].clone()
    };
    assert_eq!(samples("fork", 13), samples("mine", 13));
    for step in [14, 20] {
        assert_eq!(samples("fork", step), samples("mine", step + 3), "three steps are left out");
    }
    let record = std::fs::read_to_string(bench.lake("runs/fork/run.json")).unwrap();
    let record: serde_json::Value = serde_json::from_str(&record).unwrap();
    assert_eq!(record["body"]["parent"], serde_json::json!({ "run": "mine", "step": 12 }));
    assert!(bench.ok(&["checkpoint", "fork", "mine", "12", "fork"]).out.contains("already"));
    bench.fails(&["checkpoint", "fork", "mine", "18", "fork"], 6, &["another name"]);
}

#[test]
fn what_is_not_kept_is_said_before_it_is_removed() {
    let bench = trained();
    let policy = ["--keep-last", "1", "--keep-every", "12", "--keep-best", "loss"];
    let retain = [&["checkpoint", "retain", "mine"], &policy[..]].concat();
    let dry = bench.ok(&[&retain[..], &["--dry-run"]].concat());
    assert_eq!(steps(&bench, "mine"), [6, 12, 18, 24]);
    assert!(dry.out.contains("kept: newest"), "{}", dry.out);
    let said = bench.ok(&[&retain[..], &["--json"]].concat());
    let planned = said.json("retention")[0]["steps"].as_array().unwrap().clone();
    let kept: Vec<_> = planned
        .iter()
        .filter(|step| !step["kept"].as_array().unwrap().is_empty())
        .map(|step| step["step"].as_u64().unwrap())
        .collect();
    assert_eq!(steps(&bench, "mine"), kept);
    let lowest = planned
        .iter()
        .min_by(|a, b| a["value"].as_f64().unwrap().total_cmp(&b["value"].as_f64().unwrap()));
    assert!(kept.contains(&lowest.unwrap()["step"].as_u64().unwrap()));
    assert!(kept.contains(&12) && kept.contains(&24) && kept.len() < 4, "{kept:?}");
    bench.fails(&["checkpoint", "retain", "mine"], 2, &["--keep-last"]);
    bench.fails(&["checkpoint", "retain", "nobody", "--keep-last", "1"], 3, &["nobody"]);
}
