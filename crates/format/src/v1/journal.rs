//! The journal: what a run did, in the order in which it did it.
//!
//! A journal is a row of segments `runs/<run>/journal/<number>.jsonl`, numbered from 0 without
//! gaps. A segment is JSON lines, one [`Entry`] each, and a last line that seals it:
//!
//! ```text
//! {"sequence":0,"unix_ms":…,"attempt":1,"event":"run_started",…}
//! {"sequence":1,"unix_ms":…,"attempt":1,"event":"step","step":0,"loss":5.54,…}
//! {"format":"forebay.journal","version":1,"run":"day","segment":0,…,"previous":"…","digest":"…"}
//! ```
//!
//! The seal's digest is BLAKE3 over every byte before `,"digest":`, and `previous` is the digest
//! of the seal before it (of the run record's body for segment 0). So the segments are a chain:
//! no entry can be changed, taken out or put in without the digest of the last seal changing.
//!
//! Every event is written so that the report of a day is a function of the run record and the
//! entries alone.

use std::collections::BTreeMap;

use forebay_types::{Digest, Key, Name, Nonce, Split, Version};
use serde::{Deserialize, Serialize};

use super::evaluation::{Measures, RuleOutcome};
use crate::Error;

/// The name of the format, in every seal.
pub const FORMAT: &str = "forebay.journal";

/// The version this build writes, and the newest it reads.
pub const VERSION: u32 = 1;

/// The largest segment, in bytes.
pub const SEGMENT_BYTES_MAX: u64 = 4 << 20;

/// The largest entry, in bytes, so that a segment always has room for its seal.
pub const ENTRY_BYTES_MAX: u64 = 1 << 20;

/// `,"digest":"`, 64 digits, `"}` and the end of the line: what the digest does not cover.
const TAIL_BYTES: usize = DIGEST_FIELD.len() + 64 + CLOSING.len();
const DIGEST_FIELD: &str = ",\"digest\":\"";
const CLOSING: &str = "\"}\n";

/// One line of a journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Its number in the journal, from 0 without gaps.
    pub sequence: u64,
    /// When it was recorded, in milliseconds since 1970.
    pub unix_ms: u64,
    /// How often the trainer had been started, this start included; 0 before the first.
    pub attempt: u32,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The dataset is there.
    Prepared(Prepared),
    /// The trainer was started: the next attempt begins.
    RunStarted(RunStarted),
    /// The trainer took up a checkpoint.
    Resumed(Resumed),
    /// A step was taken.
    Step(Step),
    /// The model was scored in mid-run.
    Validated(Validated),
    /// A checkpoint came to exist in the lake.
    CheckpointCommitted(CheckpointCommitted),
    /// The trainer was killed.
    Killed(Killed),
    /// What the feed did during an attempt.
    FeedSummary(FeedSummary),
    /// What moved between this machine and the lake during an attempt or a stage.
    Traffic(Traffic),
    /// The trainer took its last step.
    Finished(Finished),
    /// A checkpoint was scored against its gate.
    Evaluated(Evaluated),
    /// The model was archived.
    Archived(Archived),
    /// Every byte of the package was read back and compared.
    Verified(Verified),
    /// The local tier was emptied.
    Cleared(Cleared),
}

/// The dataset is there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prepared {
    /// The dataset.
    pub dataset: Name,
    /// Its version.
    pub version: Version,
    /// Whether an equal version was found instead of made.
    pub reused: bool,
    /// Raw bytes, as they lay.
    pub source_bytes: u64,
    /// Records read.
    pub read: u64,
    /// Records whose text is in a row.
    pub kept: u64,
    /// Good records left out, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// Records that could not be read, by reason.
    pub quarantined: BTreeMap<String, u64>,
    /// Rows, by split.
    pub rows: BTreeMap<Split, u64>,
    /// Tokens in a row.
    pub row_tokens: u32,
    /// Shards of all splits.
    pub shards: u64,
    /// Their bytes.
    pub shard_bytes: u64,
    /// How long it took.
    pub seconds: f64,
}

/// The trainer was started.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunStarted {
    /// The machine it runs on.
    pub host: Host,
}

/// A machine, as far as results may depend on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// Processor cores that the process may use.
    pub cores: u32,
    /// The operating system and the processor's kind: `linux x86_64`.
    pub system: String,
    /// What computes: `cpu (flex)`, `cuda`, …
    pub device: String,
    /// The version of Forebay.
    pub forebay: String,
}

/// The trainer took up a checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Resumed {
    /// The first step that is taken again.
    pub step: u64,
    /// From the start of the restore until the state was complete.
    pub seconds: f64,
    /// Where the checkpoint was read from: `lake` or `local`.
    pub tier: String,
}

/// A step was taken.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Its number, from 0.
    pub step: u64,
    /// The mean loss per token of its batch, in nats.
    #[serde(with = "crate::number")]
    pub loss: f64,
    /// The learning rate it was taken with.
    pub learning_rate: f64,
    /// The norm of the gradient before clipping.
    #[serde(with = "crate::number")]
    pub gradient_norm: f64,
    /// The tokens of its batch.
    pub tokens: u64,
    /// From the end of the step before until its own end, waiting included.
    pub seconds: f64,
    /// How long it waited for its batch.
    pub waited_seconds: f64,
    /// What it waited for longest, if it waited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_cause: Option<String>,
}

/// The model was scored in mid-run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Validated {
    /// Steps taken when it was.
    pub step: u64,
    /// The mean loss per token, in nats.
    #[serde(with = "crate::number")]
    pub loss: f64,
}

/// A checkpoint came to exist in the lake.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckpointCommitted {
    /// Steps taken when it was captured.
    pub step: u64,
    /// Its bytes.
    pub bytes: u64,
    /// How long the trainer stood still for the capture.
    pub pause_seconds: f64,
    /// From the capture until it was staged on the local tier.
    pub stage_seconds: f64,
    /// From the capture until it was committed in the lake.
    pub durable_seconds: f64,
    /// When it was committed, in milliseconds since 1970.
    pub committed_unix_ms: u64,
}

/// The trainer was killed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Killed {
    /// The last step it was seen to take.
    pub step: u64,
}

/// What the feed did since the attempt began or this was last recorded: all of them add up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FeedSummary {
    /// Samples delivered.
    pub samples: u64,
    /// How long the attempt fed.
    pub seconds: f64,
    /// Seconds the consumer waited, by cause.
    pub waited_seconds: BTreeMap<String, f64>,
    /// Bytes read from the lake.
    pub lake_bytes: u64,
    /// Shards found on the local tier.
    pub hits: u64,
    /// Shards that had to be fetched.
    pub misses: u64,
    /// Shards fetched that had been there before and were evicted.
    pub refetches: u64,
}

/// What moved between this machine and the lake.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Traffic {
    /// The hour or process that moved it: `prepare`, `train`, …
    pub stage: String,
    /// Counts by purpose.
    pub purposes: BTreeMap<String, TrafficCounts>,
}

/// What moved for one purpose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrafficCounts {
    /// Requests that read.
    pub reads: u64,
    /// Requests that wrote.
    pub writes: u64,
    /// Bytes read.
    pub bytes_read: u64,
    /// Bytes written.
    pub bytes_written: u64,
    /// Requests made again after a failure.
    pub retries: u64,
}

/// The trainer took its last step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finished {
    /// Steps taken, over all attempts, each counted once.
    pub steps: u64,
    /// The loss of the last step.
    #[serde(with = "crate::number")]
    pub loss: f64,
    /// How long the last attempt took.
    pub seconds: f64,
}

/// A checkpoint was scored against its gate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluated {
    /// Steps taken when it was captured.
    pub step: u64,
    /// The digest of the evaluation record's body.
    pub evaluation: Digest,
    /// What was measured.
    pub measures: Measures,
    /// Each rule's verdict.
    pub rules: Vec<RuleOutcome>,
    /// Whether all rules hold.
    pub passed: bool,
    /// How long the scoring took.
    pub seconds: f64,
}

/// The model was archived.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Archived {
    /// The model's name.
    pub model: Name,
    /// The version it became.
    pub version: Version,
    /// The digest that names the package's content.
    pub content: Digest,
    /// Whether an equal version was found instead of made.
    pub reused: bool,
    /// The files of the package.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How long it took.
    pub seconds: f64,
}

/// Every byte of the package was read back and compared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verified {
    /// The files that were read.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How long it took.
    pub seconds: f64,
}

/// The local tier was emptied.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cleared {
    /// Files removed.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// The last line of a segment, but for its digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seal {
    /// [`FORMAT`].
    pub format: String,
    /// [`VERSION`].
    pub version: u32,
    /// The run.
    pub run: Name,
    /// The segment's number.
    pub segment: u64,
    /// The sequence number of its first entry.
    pub first_sequence: u64,
    /// How many entries it has; never 0.
    pub entries: u64,
    /// Made by its writer, who recognizes its own segment by it.
    pub nonce: Nonce,
    /// The digest in the seal before it; for segment 0 that of the run record's body.
    pub previous: Digest,
}

/// A segment that was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Segment {
    /// Its entries.
    pub entries: Vec<Entry>,
    /// What its last line says.
    pub seal: Seal,
    /// The digest of the segment, which the next one names.
    pub digest: Digest,
}

/// One entry as its line, with the end of the line.
///
/// # Errors
/// [`Error::Unwritable`] when it is longer than [`ENTRY_BYTES_MAX`].
pub fn encode_entry(entry: &Entry) -> Result<Vec<u8>, Error> {
    let refuse = |what: String| Error::Unwritable { object: "a journal entry".into(), what };
    let mut line = serde_json::to_vec(entry).map_err(|error| refuse(error.to_string()))?;
    line.push(b'\n');
    if line.len() as u64 > ENTRY_BYTES_MAX {
        return Err(refuse(format!("{} bytes, the limit is {ENTRY_BYTES_MAX}", line.len())));
    }
    Ok(line)
}

/// Appends the seal to the lines of a segment; returns the segment's digest.
pub fn seal_segment(lines: &mut Vec<u8>, seal: &Seal) -> Digest {
    let line = serde_json::to_string(seal).expect("a seal is plain JSON");
    lines.extend_from_slice(line.strip_suffix('}').unwrap_or(&line).as_bytes());
    let digest = Digest::of(lines);
    lines.extend_from_slice(format!("{DIGEST_FIELD}{digest}{CLOSING}").as_bytes());
    digest
}

/// Reads a segment, verified to the last byte.
///
/// The caller compares the seal with where the segment stood and with the seal before it.
///
/// # Errors
/// [`Error::Newer`] for a version this build does not know, [`Error::Damaged`] for everything
/// else.
pub fn decode_segment(bytes: &[u8], object: &str) -> Result<Segment, Error> {
    let damaged = |what: String| Error::damaged(object, what);
    let (lines, seal_line) = split_seal(bytes).ok_or_else(|| {
        damaged("it does not end with a seal, so it was cut short or is no journal segment".into())
    })?;
    let covered = bytes.len() - TAIL_BYTES;
    let digest = Digest::of(&bytes[..covered]);
    let head = std::str::from_utf8(&seal_line[..seal_line.len() - TAIL_BYTES])
        .map_err(|error| damaged(error.to_string()))?;
    let seal: Seal = serde_json::from_str(&format!("{head}}}")).map_err(|error| {
        newer(head, object).unwrap_or_else(|| damaged(format!("its seal: {error}")))
    })?;
    if seal.version > VERSION {
        return Err(newer(head, object).unwrap_or_else(|| damaged("its seal is unreadable".into())));
    }
    let tail = format!("{DIGEST_FIELD}{digest}{CLOSING}");
    if &bytes[covered..] != tail.as_bytes() || seal.format != FORMAT || seal.version != VERSION {
        return Err(damaged("its bytes do not have the digest its seal carries".into()));
    }
    let entries = decode_entries(lines, object)?;
    let numbered = entries.iter().zip(seal.first_sequence..).all(|(e, n)| e.sequence == n);
    if entries.is_empty() || entries.len() as u64 != seal.entries || !numbered {
        return Err(damaged(format!("its seal counts {} entries", seal.entries)));
    }
    Ok(Segment { entries, seal, digest })
}

/// Reads entries, one a line: a segment without its seal, or a package's `journal.jsonl`.
///
/// # Errors
/// [`Error::Damaged`] naming the line.
pub fn decode_entries(lines: &[u8], object: &str) -> Result<Vec<Entry>, Error> {
    let Some(lines) = lines.strip_suffix(b"\n") else {
        let what = "its last line has no end";
        return if lines.is_empty() { Ok(Vec::new()) } else { Err(Error::damaged(object, what)) };
    };
    lines
        .split(|byte| *byte == b'\n')
        .enumerate()
        .map(|(index, line)| {
            serde_json::from_slice(line)
                .map_err(|error| Error::damaged(object, format!("line {}: {error}", index + 1)))
        })
        .collect()
}

/// The lines before the last, and the last.
fn split_seal(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let without_end = bytes.strip_suffix(b"\n")?;
    let start = without_end.iter().rposition(|byte| *byte == b'\n').map_or(0, |index| index + 1);
    let (lines, seal) = bytes.split_at(start);
    (seal.len() > TAIL_BYTES).then_some((lines, seal))
}

/// The error for a seal of a later version, if that is what `head` is.
fn newer(head: &str, object: &str) -> Option<Error> {
    #[derive(Deserialize)]
    struct Version {
        format: String,
        version: u32,
    }
    let seal: Version = serde_json::from_str(&format!("{head}}}")).ok()?;
    (seal.format == FORMAT && seal.version > VERSION).then(|| Error::Newer {
        object: object.into(),
        format: FORMAT,
        found: seal.version,
        known: VERSION,
    })
}

/// Where segment `number` of the journal of `run` lies.
#[must_use]
pub fn segment_key(run: &Name, number: u64) -> Key {
    Key::new(format!("runs/{run}/journal/{number:08}.jsonl"))
        .expect("names and numbers make sound keys")
}
