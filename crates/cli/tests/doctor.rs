//! The doctor finds what is wrong, and leaves nothing behind.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    process::{Command, Stdio},
    sync::Arc,
};

use forebay::{Lake, Runtime};
use forebay_testing::S3Server;
use serde_json::Value;
use support::{Bench, Said};

const PROBE: [&str; 3] = ["doctor", "--probe-bytes", "2MiB"];

fn finding<'a>(diagnosis: &'a Value, area: &str, check: &str) -> &'a Value {
    let findings = diagnosis["findings"].as_array().unwrap();
    let found = findings.iter().find(|each| each["area"] == area && each["check"] == check);
    found.unwrap_or_else(|| panic!("{area} {check} was not looked at: {diagnosis}"))
}

fn diagnosis(out: &str) -> Value {
    let mut lines = out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.find(|line| line["kind"] == "diagnosis").unwrap()["value"].take()
}

#[test]
fn sound_tiers_are_measured_and_nothing_is_left_in_them() {
    let bench = Bench::new();
    fs::create_dir(bench.path("lake")).unwrap();
    let said = bench.ok(&PROBE);
    assert!(said.out.contains("What limits throughput: cold data arrives at"), "{}", said.out);
    assert!(!said.out.contains("FAILURE"), "{}", said.out);
    assert_eq!(bench.files("lake"), Vec::<String>::new());
    assert!(!bench.path("local").exists(), "a tier was made");

    bench.prepare();
    let before = (bench.files("lake"), bench.files("local/cache"), bench.files("local/scratch"));
    let said = bench.ok(&[&PROBE[..], &["--json"]].concat());
    let after = (bench.files("lake"), bench.files("local/cache"), bench.files("local/scratch"));
    assert_eq!(before, after);
    let diagnosis = diagnosis(&said.out);
    for (area, check) in
        [("lake", "commits"), ("lake", "read"), ("local", "throughput"), ("node", "digest")]
    {
        assert_eq!(finding(&diagnosis, area, check)["state"], "ok");
    }
    let rate = |name: &str| diagnosis["rates"][name].as_f64().unwrap();
    let cold = diagnosis["bounds"]["cold"]["bytes_per_second"].as_f64().unwrap();
    let digests = rate("digest") * rate("landings");
    let all = [rate("lake_read_parallel"), digests, rate("local_write"), rate("local_read")];
    assert_eq!(cold, all.into_iter().fold(f64::INFINITY, f64::min));
}

#[test]
fn a_lake_that_is_not_there_is_a_failure_and_the_rest_is_examined_all_the_same() {
    let bench = Bench::new();
    let lake = bench.path("lake").display().to_string();
    let said = bench.fails(&[&PROBE[..], &["--json"]].concat(), 3, &[&lake, "checks failed"]);
    let diagnosis = diagnosis(&said.out);
    assert_eq!(finding(&diagnosis, "lake", "reached")["state"], "failure");
    assert_eq!(finding(&diagnosis, "local", "throughput")["state"], "ok");
    assert_eq!(diagnosis["bounds"]["cold"], Value::Null);
    assert!(!bench.path("lake").exists());
}

#[test]
fn a_tier_that_holds_not_one_shard_or_cannot_be_made_is_a_failure() {
    let bench = Bench::new();
    bench.prepare();
    bench.reconfigure("local_budget_bytes = 16777216", "local_budget_bytes = 20000");
    let said = bench.fails(&PROBE, 8, &["not one shard fits"]);
    assert!(said.out.contains("raise local_budget_bytes"), "{}", said.out);
    fs::remove_dir_all(bench.path("local")).unwrap();
    fs::write(bench.path("local"), "not a directory").unwrap();
    let said = bench.run(&PROBE);
    assert!(matches!(said.code, Some(2 | 7)), "{:?} {}", said.code, said.err);
    assert!(said.err.contains(&bench.path("local").display().to_string()), "{}", said.err);
}

#[test]
fn a_tier_that_others_may_enter_is_a_warning() {
    let bench = Bench::new();
    bench.prepare();
    fs::set_permissions(bench.path("local"), fs::Permissions::from_mode(0o755)).unwrap();
    let said = bench.ok(&PROBE);
    assert!(said.out.contains("chmod 700"), "{}", said.out);
}

/// The doctor, sent to a bucket of `server`.
fn in_a_bucket(bench: &Bench, server: &S3Server, probe: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
    command.args(["doctor", "--store", "s3://lake/here", "--probe-bytes", probe, "--local"]);
    command.arg(bench.path("local")).envs(server.variables());
    command
}

fn objects(server: &S3Server) -> Vec<String> {
    let lake = Lake::new(Arc::new(server.store("s3://lake")), &Runtime::system());
    let mut found = Vec::new();
    let mut see = |key: String| found.push(key);
    lake.list("", &mut |listed| {
        see(listed.key.to_string());
        Ok(())
    })
    .unwrap();
    found
}

#[test]
fn a_bucket_is_measured_and_holds_nothing_afterwards_even_when_it_is_stopped() {
    let (bench, server) = (Bench::new(), S3Server::start());
    let said = Said::of(in_a_bucket(&bench, &server, "2MiB").output().unwrap());
    assert_eq!(said.code, Some(0), "{}\n{}", said.out, said.err);
    assert!(said.out.contains("of two creates of one object the second is refused"));
    assert_eq!((objects(&server), server.uploads()), (vec![], 0));

    let mut command = in_a_bucket(&bench, &server, "256MiB");
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut says = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(says.any(|line| line.unwrap().contains("examining the lake")));
    while objects(&server).is_empty() && server.uploads() == 0 {}
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!((objects(&server), server.uploads()), (vec![], 0));
}
