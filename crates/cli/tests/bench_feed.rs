//! The feed of any dataset is measured, by the real binary.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use std::{
    fs,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use serde_json::Value;
use support::{Bench, Said};

fn measured(bench: &Bench, arguments: &[&str]) -> Value {
    let said = bench.ok(&[&["bench", "feed", "day-text", "--json"], arguments].concat());
    said.json("feed").remove(0)
}

fn train_rows(bench: &Bench) -> u64 {
    let text = fs::read_to_string(bench.lake("datasets/day-text/v1.json")).unwrap();
    let manifest: Value = serde_json::from_str(&text).unwrap();
    let splits = manifest["body"]["splits"].as_array().unwrap();
    splits.iter().find(|split| split["split"] == "train").unwrap()["rows"].as_u64().unwrap()
}

#[test]
fn a_simulated_accelerator_has_a_utilization_and_every_sample_is_counted() {
    let bench = Bench::new();
    bench.prepare();
    let feed = measured(&bench, &["--steps", "7", "--batch-size", "5", "--compute-ms", "2"]);
    assert_eq!((feed["batches"].as_u64(), feed["samples"].as_u64()), (Some(7), Some(35)));
    // Rows of 33 tokens of one byte each, in two bytes.
    assert_eq!(feed["bytes"].as_u64(), Some(35 * 33 * 2));
    assert_eq!(feed["ended_by"], "steps");
    let utilization = feed["au_percent"].as_f64().unwrap();
    assert!(utilization > 0.0 && utilization <= 100.0, "{utilization}");
    let waiting = feed["waiting_percent"].as_f64().unwrap();
    assert!((utilization + waiting - 100.0).abs() < 1e-6, "{utilization} {waiting}");
    assert!(feed["lake_bytes"].as_u64().unwrap() > 0 && feed["buffer_bytes"].as_u64().unwrap() > 0);
    assert!(feed["ranks"][0]["computing_seconds"].as_f64().unwrap() >= 6.0 * 0.002);

    let again = measured(&bench, &["--steps", "7", "--batch-size", "5"]);
    assert_eq!((again["lake_bytes"].as_u64(), again["au_percent"].as_f64()), (Some(0), None));
    assert_eq!(again["cache_hit_percent"].as_f64(), Some(100.0));
    let alone = measured(&bench, &["--steps", "1", "--compute-ms", "2"]);
    assert_eq!(alone["au_percent"], Value::Null, "one step is all start-up");
}

#[test]
fn people_are_told_whether_the_accelerator_waits() {
    let bench = Bench::new();
    bench.prepare();
    let run = ["bench", "feed", "day-text@1", "--split", "validation", "--epochs", "2"];
    let said = bench.ok(&[&run[..], &["--compute-ms", "1"]].concat());
    assert!(
        said.out.starts_with("day-text@1 validation, 4 samples a step, 1 rank:"),
        "{}",
        said.out
    );
    assert!(said.out.contains("the last epoch was over"), "{}", said.out);
    assert!(said.out.contains("utilization (AU) ") && said.out.contains("first batch"));
    let said = bench.ok(&run);
    assert!(said.out.contains("one that computes longer hardly waits"), "{}", said.out);
}

#[test]
fn ranks_share_an_epoch_and_nothing_of_it_is_left_out_or_taken_twice() {
    let bench = Bench::new();
    bench.prepare();
    bench.reconfigure("[feed]\n", "[feed]\nlast_batch = \"short\"\n");
    let feed = measured(&bench, &["--ranks", "2", "--batch-size", "7", "--epochs", "1"]);
    assert_eq!(feed["samples"].as_u64(), Some(train_rows(&bench)));
    assert_eq!(feed["global_batch_size"].as_u64(), Some(14));
    let ranks = feed["ranks"].as_array().unwrap();
    let samples = |rank: &Value| rank["samples"].as_u64().unwrap();
    assert_eq!(ranks.len(), 2);
    assert!(samples(&ranks[0]).abs_diff(samples(&ranks[1])) <= 1, "{feed}");
    assert_eq!((&feed["ended_by"], feed["ranks"][1]["rank"].as_u64()), (&"epochs".into(), Some(1)));
}

#[test]
fn an_indexed_dataset_is_measured_like_a_prepared_one() {
    let bench = Bench::new();
    fs::create_dir(bench.path("foreign")).unwrap();
    let rows = (0..40).map(|row| format!("{{\"text\":\"row {row}\",\"number\":{row}}}\n"));
    fs::write(bench.path("foreign/a.jsonl"), rows.collect::<String>()).unwrap();
    bench.ok(&["index", &bench.path("foreign").display().to_string(), "--name", "mine"]);
    let said = bench.ok(&["bench", "feed", "mine", "--json"]);
    let feed = &said.json("feed")[0];
    assert_eq!((feed["samples"].as_u64(), &feed["lake_requests"]), (Some(40), &Value::Null));
}

#[test]
fn what_was_measured_until_ctrl_c_is_printed() {
    let bench = Bench::new();
    bench.prepare();
    let run = ["bench", "feed", "day-text", "--steps", "5000", "--compute-ms", "1"];
    let mut command = bench.command(&run);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Its first word is said after a tenth of the steps.
    let mut says = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(says.any(|line| line.unwrap().contains("samples/s")));
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    let said = Said::of(child.wait_with_output().unwrap());
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert!(said.out.contains("; stopped\n") && said.out.contains("(AU)"), "{}", said.out);
}

#[test]
fn what_cannot_be_fed_is_named() {
    let bench = Bench::new();
    bench.prepare();
    bench.fails(&["bench", "feed", "nothing"], 3, &["nothing"]);
    bench.fails(&["bench", "feed", "day-text@9"], 3, &["day-text"]);
    bench.fails(&["bench", "feed", "day-text", "--ranks", "0"], 2, &["ranks"]);
    bench.fails(&["bench", "feed", "day-text", "--image", "jpg=8x8"], 2, &["images", "jpg"]);
    bench.fails(
        &["bench", "feed", "day-text", "--buffer-bytes", "1KiB", "--batch-size", "999"],
        2,
        &["buffer_bytes"],
    );
}
