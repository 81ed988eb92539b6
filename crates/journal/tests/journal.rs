//! What a journal promises, on a real directory.

#![allow(clippy::unwrap_used, reason = "a test may")]

use std::{collections::BTreeMap, fs, io::ErrorKind as Io};

use forebay_format::v1::{
    evaluation::Gate,
    journal::{ENTRY_BYTES_MAX, Event, Killed, Prepared, SEGMENT_BYTES_MAX, Step},
    run::{DatasetReference, RunRecord, json_digest},
};
use forebay_journal::{Journal, read, run_record};
use forebay_testing::{Fault, Request, TempTiers};
use forebay_types::{Digest, ErrorKind, Name, Version};

fn record(tiers: &TempTiers, configuration: serde_json::Value) -> RunRecord {
    let gate = Gate { loss_max: Some(2.0), ..Gate::default() };
    RunRecord {
        run: Name::new("day").unwrap(),
        created_unix_ms: tiers.runtime.now().unix_ms(),
        nonce: tiers.runtime.nonce(),
        seed: 7,
        steps: 100,
        dataset: DatasetReference {
            name: Name::new("text").unwrap(),
            version: Version::FIRST,
            digest: Digest::of(b"manifest"),
        },
        configuration_digest: json_digest(&configuration),
        configuration,
        gate_digest: gate.digest(),
        gate,
        trainer: "test 1.0".into(),
        parent: None,
    }
}

fn settings() -> serde_json::Value {
    serde_json::json!({ "train": { "rate": 0.1, "layers": 2 } })
}

fn open(tiers: &TempTiers) -> Journal {
    Journal::open(&tiers.lake, &record(tiers, settings()), &tiers.runtime).unwrap()
}

fn step(number: u64) -> Event {
    Event::Step(Step {
        step: number,
        loss: 5.0 / (number as f64 + 3.0),
        learning_rate: 1e-3,
        gradient_norm: f64::NAN,
        tokens: 1024,
        seconds: 0.25,
        waited_seconds: 0.0,
        wait_cause: None,
    })
}

fn killed(step: u64) -> Event {
    Event::Killed(Killed { step })
}

fn run() -> Name {
    Name::new("day").unwrap()
}

#[test]
fn what_was_flushed_is_read_back_in_order_across_openings() {
    let tiers = TempTiers::new(1 << 20);
    for opening in 0..9 {
        let mut journal = open(&tiers);
        journal.begin_attempt();
        assert_eq!(journal.attempt(), opening + 1);
        journal.record(killed(u64::from(opening))).unwrap();
        journal.flush().unwrap();
        journal.record(killed(1000)).unwrap();
        // Dropped here as by a crash: what was not flushed never happened.
    }
    let entries = read(&tiers.lake, &run()).unwrap();
    let told: Vec<_> = entries.iter().map(|e| (e.sequence, e.attempt, e.event.clone())).collect();
    let expected: Vec<_> = (0..9).map(|n| (n, n as u32 + 1, killed(n))).collect();
    assert_eq!(told, expected);
}

#[test]
fn a_number_keeps_every_bit_and_a_loss_may_be_none() {
    let tiers = TempTiers::new(1 << 20);
    let mut journal = open(&tiers);
    (0..200).for_each(|number| journal.record(step(number)).unwrap());
    journal.flush().unwrap();
    for (number, entry) in (0..).zip(read(&tiers.lake, &run()).unwrap()) {
        let Event::Step(found) = entry.event else { panic!("no step") };
        assert_eq!(found.loss.to_bits(), (5.0 / (number as f64 + 3.0)).to_bits());
        assert!(found.gradient_norm.is_nan());
    }
}

#[test]
fn a_full_segment_is_flushed_by_itself() {
    let tiers = TempTiers::new(1 << 20);
    let mut journal = open(&tiers);
    let count = 3 * SEGMENT_BYTES_MAX / 200;
    (0..count).for_each(|number| journal.record(step(number)).unwrap());
    journal.flush().unwrap();
    let folder = tiers.lake_path().join("runs/day/journal");
    let sizes: Vec<_> =
        fs::read_dir(folder).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).collect();
    assert!(sizes.len() > 1 && sizes.iter().all(|size| *size <= SEGMENT_BYTES_MAX), "{sizes:?}");
    assert_eq!(read(&tiers.lake, &run()).unwrap().len() as u64, count);
}

#[test]
fn an_entry_without_bound_is_refused_and_the_rest_goes_on() {
    let tiers = TempTiers::new(1 << 20);
    let mut journal = open(&tiers);
    let reasons = (0..ENTRY_BYTES_MAX / 8).map(|n| (format!("reason {n}"), n)).collect();
    let huge = Event::Prepared(Prepared {
        dataset: run(),
        version: Version::FIRST,
        reused: false,
        source_bytes: 0,
        read: 0,
        kept: 0,
        dropped: reasons,
        quarantined: BTreeMap::new(),
        rows: BTreeMap::new(),
        row_tokens: 1,
        shards: 0,
        shard_bytes: 0,
        seconds: 0.0,
    });
    assert_eq!(journal.record(huge).unwrap_err().kind(), ErrorKind::Invalid);
    journal.record(killed(1)).unwrap();
    journal.flush().unwrap();
    assert_eq!(read(&tiers.lake, &run()).unwrap().len(), 1);
}

#[test]
fn a_second_live_writer_is_found_and_loses_nothing() {
    let tiers = TempTiers::new(1 << 20);
    let (mut one, mut two) = (open(&tiers), open(&tiers));
    one.record(killed(1)).unwrap();
    two.record(killed(2)).unwrap();
    one.flush().unwrap();
    let error = two.flush().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().contains("runs/day/journal/00000000.jsonl"), "{error}");
    assert_eq!(read(&tiers.lake, &run()).unwrap()[0].event, killed(1));
}

#[test]
fn other_settings_are_refused_and_named() {
    let tiers = TempTiers::new(1 << 20);
    open(&tiers);
    let other = serde_json::json!({ "train": { "rate": 0.2, "layers": 2 }, "seed": 1 });
    let error = Journal::open(&tiers.lake, &record(&tiers, other), &tiers.runtime).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    let text = error.to_string();
    assert!(text.contains("train.rate: 0.1, now 0.2") && text.contains("seed: null, now 1"));
    assert!(!text.contains("layers"), "{text}");
}

#[test]
fn an_append_whose_reply_was_lost_is_recognized_and_a_failed_one_can_be_repeated() {
    let tiers = TempTiers::new(1 << 20);
    let mut journal = open(&tiers);
    let reply_lost = Fault::ReplyLost(Io::PermissionDenied);
    tiers.store.inject(Request::Create, "00000000.jsonl", 1, reply_lost);
    journal.record(killed(1)).unwrap();
    journal.flush().unwrap();
    tiers.store.inject(Request::Create, "00000001.jsonl", 9, Fault::Fails(Io::PermissionDenied));
    journal.record(killed(2)).unwrap();
    assert_eq!(journal.flush().unwrap_err().kind(), ErrorKind::Unavailable);
    tiers.store.behave();
    journal.flush().unwrap();
    assert_eq!(read(&tiers.lake, &run()).unwrap().len(), 2);
}

#[test]
fn every_changed_byte_and_every_missing_segment_is_found_and_named() {
    let tiers = TempTiers::new(1 << 20);
    for number in 0..3 {
        let mut journal = open(&tiers);
        journal.record(killed(number)).unwrap();
        journal.flush().unwrap();
    }
    for segment in 0..3 {
        let path = tiers.lake_path().join(format!("runs/day/journal/{segment:08}.jsonl"));
        let bytes = fs::read(&path).unwrap();
        for index in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[index] ^= 1;
            replace(&path, &changed);
            let error = read(&tiers.lake, &run()).unwrap_err();
            assert!(error.to_string().contains(&format!("{segment:08}.jsonl")), "{index}: {error}");
            assert!(matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::NewerFormat), "{error}");
        }
        replace(&path, &bytes[..bytes.len() / 2]);
        assert_eq!(read(&tiers.lake, &run()).unwrap_err().kind(), ErrorKind::Corrupt);
        replace(&path, &bytes);
    }
    // A segment that another takes the place of breaks the chain, however sound it is itself.
    let path = |segment| tiers.lake_path().join(format!("runs/day/journal/{segment:08}.jsonl"));
    replace(&path(1), &fs::read(path(2)).unwrap());
    assert_eq!(read(&tiers.lake, &run()).unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn a_journal_of_another_run_record_is_no_journal_of_this_one() {
    let tiers = TempTiers::new(1 << 20);
    let mut journal = open(&tiers);
    journal.record(killed(1)).unwrap();
    journal.flush().unwrap();
    fs::remove_file(tiers.lake_path().join("runs/day/run.json")).unwrap();
    assert_eq!(read(&tiers.lake, &run()).unwrap_err().kind(), ErrorKind::NotFound);
    let error = Journal::open(&tiers.lake, &record(&tiers, settings()), &tiers.runtime);
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Corrupt);
    assert!(run_record(&tiers.lake, &run()).is_ok());
}

fn replace(path: &std::path::Path, bytes: &[u8]) {
    let _ = fs::remove_file(path);
    fs::write(path, bytes).unwrap();
}
