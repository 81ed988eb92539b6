//! The day of a small model, as a run would tell it.

use std::collections::BTreeMap;

use forebay_format::v1::{
    evaluation::{Gate, Measures},
    journal::{
        Archived, CheckpointCommitted, Cleared, Entry, Evaluated, Event, FeedSummary, Finished,
        Host, Killed, Prepared, Resumed, RunStarted, Step, Traffic, TrafficCounts, Verified,
    },
    run::{DatasetReference, RunRecord, json_digest},
};
use forebay_types::{Digest, Name, Nonce, Split, Version};

pub fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

pub fn gate() -> Gate {
    Gate { loss_below_unigram_entropy_by: Some(0.5), accuracy_min: Some(0.2), ..Gate::default() }
}

pub fn host() -> Host {
    Host {
        cores: 2,
        system: "linux x86_64".into(),
        device: "cpu (flex)".into(),
        forebay: "0.1.0".into(),
    }
}

pub fn run(dataset: DatasetReference) -> RunRecord {
    let configuration = serde_json::json!({
        "seed": 7, "steps": 240,
        "train": { "layers": 4, "width": 128, "heads": 4, "learning_rate": 0.001 },
        "feed": { "batch_size": 16, "seed": 7, "shuffle": true, "window_shards": 4 },
    });
    RunRecord {
        run: name("day-1"),
        created_unix_ms: 1_795_427_000_000,
        nonce: Nonce::from_bits(7),
        seed: 7,
        steps: 240,
        dataset,
        configuration_digest: json_digest(&configuration),
        configuration,
        gate_digest: gate().digest(),
        gate: gate(),
        trainer: "forebay-trainer 0.1.0".into(),
        parent: None,
    }
}

pub fn measures() -> Measures {
    Measures {
        samples: 412,
        predictions: 104_648,
        loss: 1.948,
        perplexity: 7.015,
        accuracy: 0.432,
        unigram_entropy: 3.137,
        bits_per_byte: Some(2.81),
    }
}

/// Repeats exactly: a small generator is enough for noise.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f64 {
        // SplitMix64: neighbouring seeds give unrelated numbers.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64 - 0.5
    }
}

struct Teller {
    entries: Vec<Entry>,
    unix_ms: u64,
    attempt: u32,
}

impl Teller {
    fn tell(&mut self, after_ms: u64, event: Event) {
        self.unix_ms += after_ms;
        let (sequence, attempt) = (self.entries.len() as u64, self.attempt);
        self.entries.push(Entry { sequence, unix_ms: self.unix_ms, attempt, event });
    }

    fn steps(&mut self, steps: std::ops::Range<u64>) {
        for number in steps {
            self.step(number);
            if (number + 1) % 40 == 0 {
                self.checkpoint(number + 1);
            }
        }
    }

    fn step(&mut self, step: u64) {
        let mut noise = Noise(step * 977 + 3);
        noise.next();
        let x = step as f64;
        let waited =
            if step.is_multiple_of(40) { 0.012 } else { (noise.next() - 0.3).max(0.0) * 0.004 };
        let seconds = 0.31 + noise.next() * 0.03 + if step.is_multiple_of(40) { 0.09 } else { 0.0 };
        let cause = match step % 40 {
            0 => "lake",
            9 => "local",
            _ => "assembly",
        };
        let step = Step {
            step,
            loss: 1.86 + 3.6 * (-x / 34.0).exp() + noise.next() * 0.11,
            learning_rate: 1e-3,
            gradient_norm: 0.8,
            tokens: 4096,
            seconds,
            waited_seconds: waited,
            wait_cause: (waited > 0.0).then(|| cause.into()),
        };
        self.tell((seconds * 1e3) as u64, Event::Step(step));
    }

    fn checkpoint(&mut self, step: u64) {
        let slow = 1.0 + (step % 120) as f64 / 100.0;
        let event = CheckpointCommitted {
            step,
            bytes: 10_480_232,
            pause_seconds: 0.0041 * slow,
            stage_seconds: 0.031 * slow,
            durable_seconds: 0.084 * slow,
            committed_unix_ms: self.unix_ms + 90,
        };
        self.tell(1, Event::CheckpointCommitted(event));
    }

    fn feed(&mut self, samples: u64, seconds: f64) {
        let causes = [("lake", 0.041), ("local", 0.003), ("assembly", 0.118)];
        self.tell(
            2,
            Event::FeedSummary(FeedSummary {
                samples,
                seconds,
                waited_seconds: causes.map(|(cause, s)| (cause.to_owned(), s)).into(),
                lake_bytes: 5_200_000,
                hits: 51,
                misses: 3,
                refetches: 0,
            }),
        );
        let counts = |read, written| TrafficCounts {
            reads: 12,
            writes: 9,
            bytes_read: read,
            bytes_written: written,
            retries: 0,
        };
        let purposes = BTreeMap::from([
            ("checkpoint".to_owned(), counts(10_480_232, 31_440_696)),
            ("shard".to_owned(), counts(5_200_000, 0)),
        ]);
        self.tell(0, Event::Traffic(Traffic { stage: "train".into(), purposes }));
    }
}

/// A run that was killed once, evaluated, archived and cleared.
pub fn day() -> (RunRecord, Vec<Entry>) {
    let dataset = DatasetReference {
        name: name("day-text"),
        version: Version::FIRST,
        digest: Digest::of(b"manifest"),
    };
    let run = run(dataset);
    let mut entries = training(run.created_unix_ms);
    let mut teller = Teller { unix_ms: entries.last().unwrap().unix_ms, attempt: 2, entries };
    let measures = measures();
    let rules = gate().judge(&measures);
    let passed = rules.iter().all(|rule| rule.passed);
    let evaluation = Digest::of(b"evaluation");
    teller.tell(
        4100,
        Event::Evaluated(Evaluated {
            step: 240,
            evaluation,
            measures,
            rules,
            passed,
            seconds: 4.1,
        }),
    );
    let archived = Archived {
        model: name("day"),
        version: Version::FIRST,
        content: Digest::of(b"content"),
        reused: false,
        files: 10,
        bytes: 3_730_112,
        seconds: 0.21,
    };
    teller.tell(210, Event::Archived(archived));
    teller.tell(60, Event::Verified(Verified { files: 10, bytes: 3_730_112, seconds: 0.06 }));
    teller.tell(9, Event::Cleared(Cleared { files: 14, bytes: 36_700_000 }));
    entries = teller.entries;
    (run, entries)
}

/// The run alone, up to its last step.
pub fn training(begun_unix_ms: u64) -> Vec<Entry> {
    let mut teller = Teller { entries: Vec::new(), unix_ms: begun_unix_ms, attempt: 0 };
    teller.tell(
        9300,
        Event::Prepared(Prepared {
            dataset: name("day-text"),
            version: Version::FIRST,
            reused: false,
            source_bytes: 4_812_220,
            read: 9_871,
            kept: 9_852,
            dropped: BTreeMap::from([("duplicate".into(), 14), ("too_short".into(), 3)]),
            quarantined: BTreeMap::from([("not_json".into(), 2)]),
            rows: BTreeMap::from([(Split::Train, 21_480), (Split::Validation, 412)]),
            row_tokens: 256,
            shards: 7,
            shard_bytes: 11_300_000,
            seconds: 9.3,
        }),
    );
    teller.attempt = 1;
    teller.tell(400, Event::RunStarted(RunStarted { host: host() }));
    teller.steps(0..94);
    teller.tell(500, Event::Killed(Killed { step: 93 }));
    teller.attempt = 2;
    teller.tell(400, Event::RunStarted(RunStarted { host: host() }));
    teller.tell(50, Event::Resumed(Resumed { step: 80, seconds: 0.047, tier: "lake".into() }));
    teller.steps(80..240);
    teller.feed(160 * 16, 51.2);
    teller.tell(10, Event::Finished(Finished { steps: 240, loss: 1.88, seconds: 51.9 }));
    teller.entries
}
