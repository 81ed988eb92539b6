//! The evening's records of version 1, as they were first written, are read by every later build.

#![allow(clippy::unwrap_used, reason = "a test may")]

use std::{collections::BTreeMap, fs, path::PathBuf};

use forebay_format::{
    record::{self, Record},
    v1::{
        dataset::{RecordCounts, SourceEntry, TokenSchema, TokenizerEntry},
        evaluation::{EvaluationRecord, Gate, HeldOut, Measures},
        journal::{
            Archived, CheckpointCommitted, Cleared, Entry, Evaluated, Event, FORMAT, FeedSummary,
            Finished, Host, Killed, Prepared, Resumed, RunStarted, Seal, Step, Traffic,
            TrafficCounts, VERSION, Validated, Verified, decode_segment, encode_entry,
            seal_segment,
        },
        package::{
            LineageRecord, PackageFile, PackageLineage, PackageManifest, WeightEntry,
            content_digest,
        },
        run::{DatasetReference, RunParent, RunRecord, json_digest},
    },
};
use forebay_types::{Digest, ErrorKind, Key, Name, Nonce, Sha256, Split, Version};

fn golden(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden/v1").join(file)
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn dataset() -> DatasetReference {
    DatasetReference {
        name: name("speeches"),
        version: Version::FIRST,
        digest: Digest::of(b"dataset"),
    }
}

fn host() -> Host {
    Host {
        cores: 2,
        system: "linux x86_64".into(),
        device: "cpu (flex)".into(),
        forebay: "0.1.0".into(),
    }
}

fn gate() -> Gate {
    Gate { loss_max: Some(2.5), loss_below_unigram_entropy_by: Some(0.5), ..Gate::default() }
}

fn run() -> RunRecord {
    let configuration =
        serde_json::json!({ "feed": { "batch_size": 16 }, "train": { "rate": 3e-4 } });
    RunRecord {
        run: name("day-1"),
        created_unix_ms: 1_795_427_000_000,
        nonce: Nonce::from_bits(0x1234),
        seed: 7,
        steps: 240,
        dataset: dataset(),
        configuration_digest: json_digest(&configuration),
        configuration,
        gate_digest: gate().digest(),
        gate: gate(),
        trainer: "forebay-trainer 0.1.0".into(),
        parent: Some(RunParent { run: name("day-0"), step: 40 }),
    }
}

fn measures() -> Measures {
    Measures {
        samples: 412,
        predictions: 104_648,
        loss: 1.948_123_456_789,
        perplexity: 7.015_503_188_6,
        accuracy: 0.432,
        unigram_entropy: 3.137,
        bits_per_byte: Some(2.810_548_4),
    }
}

fn evaluation() -> EvaluationRecord {
    let rules = gate().judge(&measures());
    EvaluationRecord {
        run: name("day-1"),
        step: 240,
        checkpoint: Digest::of(b"commit"),
        dataset: dataset(),
        split: Split::Validation,
        batch_size: 16,
        measures: measures(),
        held_out: HeldOut {
            scored_rows: 412,
            scored_records: 118,
            training_rows: 21_480,
            shared_records: 0,
            shared_shards: 0,
        },
        gate: gate(),
        passed: rules.iter().all(|rule| rule.passed),
        rules,
        seconds: 4.125,
        host: host(),
        created_unix_ms: 1_795_427_120_000,
        nonce: Nonce::from_bits(0x5678),
    }
}

fn links() -> PackageLineage {
    PackageLineage {
        run: name("day-1"),
        run_digest: Digest::of(b"run"),
        step: 240,
        checkpoint: Digest::of(b"commit"),
        dataset: dataset(),
        evaluation: Digest::of(b"evaluation"),
    }
}

fn package() -> PackageManifest {
    let file = |path: &str| PackageFile {
        path: Key::new(path).unwrap(),
        bytes: path.len() as u64,
        blake3: Digest::of(path.as_bytes()),
        sha256: Sha256::from_bytes([path.len() as u8; 32]),
    };
    let files: Vec<_> =
        ["SHA256SUMS", "config.json", "lineage.json", "weights.safetensors"].map(file).into();
    PackageManifest {
        model: name("orator"),
        version: Version::FIRST.next(),
        created_unix_ms: 1_795_427_130_000,
        nonce: Nonce::from_bits(0x9abc),
        content: content_digest(&files),
        lineage: links(),
        files,
    }
}

fn lineage() -> LineageRecord {
    LineageRecord {
        package: links(),
        split: Split::Train,
        feed: serde_json::json!({ "batch_size": 16, "seed": 7 }),
        recipe: serde_json::json!({ "row_tokens": 256 }),
        recipe_digest: Digest::of(b"recipe"),
        tokenizer: TokenizerEntry {
            kind: "byte".into(),
            digest: Digest::of(b"byte"),
            vocabulary_size: 257,
            end_of_document: 256,
        },
        schema: TokenSchema { row_tokens: 256, token_bytes: 2 },
        sources: vec![SourceEntry {
            name: "speeches.jsonl.gz".into(),
            bytes: 4_812_220,
            digest: Digest::of(b"raw"),
            records: 9871,
        }],
        counts: RecordCounts {
            read: 3,
            kept: 2,
            dropped: [("empty".into(), 1)].into(),
            ..RecordCounts::default()
        },
        weights_header: Digest::of(b"header"),
        weights: vec![WeightEntry { name: "block.0.weight".into(), digest: Digest::of(b"tensor") }],
    }
}

/// Every kind of event once; the numbers are of no particular run.
fn events() -> Vec<Event> {
    let counts =
        TrafficCounts { reads: 3, writes: 2, bytes_read: 900, bytes_written: 500, retries: 1 };
    vec![
        Event::Prepared(Prepared {
            dataset: name("speeches"),
            version: Version::FIRST,
            reused: false,
            source_bytes: 4_812_220,
            read: 9871,
            kept: 9852,
            dropped: BTreeMap::from([("duplicate".into(), 14), ("too_short".into(), 3)]),
            quarantined: BTreeMap::from([("not_json".into(), 2)]),
            rows: BTreeMap::from([(Split::Train, 21_480), (Split::Validation, 412)]),
            row_tokens: 256,
            shards: 7,
            shard_bytes: 11_300_000,
            seconds: 9.25,
        }),
        Event::RunStarted(RunStarted { host: host() }),
        Event::Resumed(Resumed { step: 80, seconds: 0.047, tier: "lake".into() }),
        Event::Step(Step {
            step: 80,
            loss: 0.1 + 0.2,
            learning_rate: 3e-4,
            gradient_norm: f64::INFINITY,
            tokens: 4096,
            seconds: 0.31,
            waited_seconds: 0.0025,
            wait_cause: Some("lake".into()),
        }),
        Event::Validated(Validated { step: 81, loss: 2.5 }),
        Event::CheckpointCommitted(CheckpointCommitted {
            step: 120,
            bytes: 10_480_232,
            pause_seconds: 0.004,
            stage_seconds: 0.031,
            durable_seconds: 0.084,
            committed_unix_ms: 1_795_427_060_000,
        }),
        Event::Killed(Killed { step: 93 }),
        Event::FeedSummary(FeedSummary {
            samples: 3840,
            seconds: 51.5,
            waited_seconds: BTreeMap::from([("assembly".into(), 0.118), ("lake".into(), 0.041)]),
            lake_bytes: 5_200_000,
            hits: 51,
            misses: 3,
            refetches: 0,
        }),
        Event::Traffic(Traffic {
            stage: "train".into(),
            purposes: [("shard".into(), counts)].into(),
        }),
        Event::Finished(Finished { steps: 240, loss: 1.875, seconds: 51.9 }),
        Event::Evaluated(Evaluated {
            step: 240,
            evaluation: Digest::of(b"evaluation"),
            measures: measures(),
            rules: gate().judge(&measures()),
            passed: true,
            seconds: 4.125,
        }),
        Event::Archived(Archived {
            model: name("orator"),
            version: Version::FIRST,
            content: Digest::of(b"content"),
            reused: false,
            files: 10,
            bytes: 3_730_112,
            seconds: 0.21,
        }),
        Event::Verified(Verified { files: 10, bytes: 3_730_112, seconds: 0.06 }),
        Event::Cleared(Cleared { files: 14, bytes: 36_700_000 }),
    ]
}

fn entries() -> Vec<Entry> {
    let entry = |(sequence, event)| Entry {
        sequence,
        unix_ms: 1_795_427_000_000 + 1000 * sequence,
        attempt: u32::from(sequence > 0),
        event,
    };
    (0..).zip(events()).map(entry).collect()
}

fn segment() -> Vec<u8> {
    let entries = entries();
    let mut lines: Vec<u8> =
        entries.iter().flat_map(|entry| encode_entry(entry).unwrap()).collect();
    let seal = Seal {
        format: FORMAT.into(),
        version: VERSION,
        run: name("day-1"),
        segment: 0,
        first_sequence: 0,
        entries: entries.len() as u64,
        nonce: Nonce::from_bits(0xdef0),
        previous: Digest::of(b"run"),
    };
    seal_segment(&mut lines, &seal);
    lines
}

fn record_bytes<R: Record>(record: &R) -> Vec<u8> {
    record::encode(record).unwrap().0
}

fn files() -> [(&'static str, Vec<u8>); 5] {
    [
        ("run.json", record_bytes(&run())),
        ("journal.jsonl", segment()),
        ("evaluation.json", record_bytes(&evaluation())),
        ("package.json", record_bytes(&package())),
        ("lineage.json", record_bytes(&lineage())),
    ]
}

/// Only for a format that was never released: `cargo test -p forebay-format -- --ignored`.
#[test]
#[ignore = "writes the golden files instead of comparing them"]
fn write_golden_files() {
    for (file, bytes) in files() {
        fs::write(golden(file), bytes).unwrap();
    }
}

#[test]
fn what_is_written_is_what_was_written_first() {
    for (file, bytes) in files() {
        assert!(fs::read(golden(file)).unwrap() == bytes, "{file} is written in another way now");
    }
}

#[test]
fn what_was_written_first_is_read() {
    fn read<R: Record>(file: &str) -> R {
        record::decode(&fs::read(golden(file)).unwrap(), file).unwrap().0
    }
    assert_eq!(read::<RunRecord>("run.json"), run());
    assert_eq!(read::<EvaluationRecord>("evaluation.json"), evaluation());
    assert_eq!(read::<PackageManifest>("package.json"), package());
    assert_eq!(read::<LineageRecord>("lineage.json"), lineage());
    let segment = decode_segment(&fs::read(golden("journal.jsonl")).unwrap(), "journal").unwrap();
    assert_eq!(segment.entries, entries());
}

#[test]
fn a_segment_of_a_newer_version_is_named_as_such() {
    let text = String::from_utf8(segment()).unwrap();
    let newer =
        text.replace("\"forebay.journal\",\"version\":1", "\"forebay.journal\",\"version\":2");
    let error = decode_segment(newer.as_bytes(), "runs/day-1/journal/00000000.jsonl").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NewerFormat);
    let with_field = newer.replace("\"segment\":0", "\"shard\":0");
    let error = decode_segment(with_field.as_bytes(), "x").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NewerFormat);
}

#[test]
fn records_that_contradict_themselves_are_not_written() {
    let mut moved = run();
    moved.gate.loss_max = Some(9.0);
    assert!(record::encode(&moved).is_err(), "a gate that was moved after it was digested");
    let mut changed = run();
    changed.configuration["feed"]["batch_size"] = 32.into();
    assert!(record::encode(&changed).is_err(), "settings that were changed");
    let mut passed = evaluation();
    passed.rules[0].passed = !passed.rules[0].passed;
    assert!(record::encode(&passed).is_err(), "a verdict that does not follow");
    let mut seen = evaluation();
    seen.held_out.shared_records = 1;
    assert!(record::encode(&seen).is_err(), "a split that was trained on");
    let mut disordered = package();
    disordered.files.swap(0, 1);
    assert!(record::encode(&disordered).is_err(), "files out of order");
    let mut other = package();
    other.files[1].bytes += 1;
    other.files[1].blake3 = Digest::of(b"other");
    assert!(record::encode(&other).is_err(), "another content than the one that names it");
}
