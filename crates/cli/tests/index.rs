//! A dataset that lies elsewhere becomes a version, by the real binary.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use std::fs;

use support::Bench;

fn write(bench: &Bench, path: &str, rows: usize) {
    let path = bench.path("foreign").join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let rows = (0..rows).map(|row| format!("{{\"text\":\"row {row}\",\"number\":{row}}}\n"));
    fs::write(path, rows.collect::<String>()).unwrap();
}

#[test]
fn a_dataset_elsewhere_becomes_a_version_and_is_looked_through_once() {
    let bench = Bench::new();
    write(&bench, "train/a.jsonl", 30);
    write(&bench, "test/a.jsonl", 12);
    let foreign = bench.path("foreign").display().to_string();
    let said = bench.ok(&["index", &foreign, "--name", "mine"]);
    assert!(said.out.starts_with("mine@1: 2 jsonl files"), "{}", said.out);
    assert!(said.err.contains("--split names"), "{}", said.err);
    let said = bench.ok(&["index", &foreign, "--name", "mine", "--split", "names"]);
    assert!(said.out.contains("30 train and 12 validation rows"), "{}", said.out);
    assert!(said.out.contains("; 0 files (0 B) were looked through now"), "{}", said.out);
    let said = bench.ok(&["index", &foreign, "--name", "mine", "--split", "names", "--json"]);
    let line: serde_json::Value = serde_json::from_str(said.out.lines().last().unwrap()).unwrap();
    assert_eq!(
        (line["kind"].as_str(), line["value"]["version"].as_u64()),
        (Some("indexed"), Some(2))
    );
}

#[test]
fn each_bad_index_says_what_to_do() {
    let bench = Bench::new();
    write(&bench, "a.jsonl", 3);
    let foreign = bench.path("foreign").display().to_string();
    let with = |more: &[&'static str]| [&["index", &*foreign, "--name", "mine"], more].concat();
    bench.fails(&["index", "/no/such/place", "--name", "mine"], 3, &["/no/such/place"]);
    bench.fails(&["index", "--name", "mine"], 2, &["the lake itself"]);
    bench.fails(&with(&["--path", "nothing"]), 3, &["`nothing`"]);
    bench.fails(&with(&["--format", "csv"]), 2, &["`csv`", "webdataset"]);
    bench.fails(&with(&["--format", "parquet"]), 3, &["jsonl 1"]);
    bench.fails(&with(&["--split", "half"]), 2, &["`half`", "names"]);
    bench.fails(&with(&["--extent-bytes", "1"]), 2, &["extent_bytes"]);
    fs::write(bench.path("foreign/b.jsonl"), "{\"text\": \n").unwrap();
    bench.fails(&with(&[]), 4, &["b.jsonl"]);
    fs::remove_file(bench.path("foreign/b.jsonl")).unwrap();
    bench.ok(&with(&[]));
}
