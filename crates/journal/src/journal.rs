//! Writing a journal.

use forebay_format::{
    record,
    v1::{
        journal::{
            Entry, Event, FORMAT, SEGMENT_BYTES_MAX, Seal, VERSION, encode_entry, seal_segment,
            segment_key,
        },
        run::{RunRecord, run_key},
    },
};
use forebay_lake::{Commit, Lake};
use forebay_runtime::Runtime;
use forebay_types::{Digest, Name};

use crate::{
    Error,
    read::{self, Tail},
};

/// Room for the seal at the end of a segment.
const SEAL_BYTES_MAX: u64 = 4096;

/// A run's journal, open for appending.
#[derive(Debug)]
pub struct Journal {
    lake: Lake,
    runtime: Runtime,
    record: RunRecord,
    tail: Tail,
    attempt: u32,
    lines: Vec<u8>,
    pending: u64,
}

impl Journal {
    /// Opens the journal of the run that `record` describes, and begins the run if it is new.
    ///
    /// # Errors
    /// [`Error::OtherSettings`] when a run of this name was started with other settings.
    pub fn open(lake: &Lake, record: &RunRecord, runtime: &Runtime) -> Result<Self, Error> {
        let (body, digest) = record::encode(record)?;
        let key = run_key(&record.run);
        let failed = |source| Error::Lake { act: "begin", run: record.run.clone(), source };
        let (standing, standing_digest) = match lake.commit(&key, &body).map_err(failed)? {
            Commit::Won => (record.clone(), digest),
            Commit::Lost(bytes) => record::decode::<RunRecord>(&bytes, key.as_str())?,
        };
        require_same(&standing, record)?;
        Self::at_end(lake, standing, standing_digest, runtime)
    }

    /// Opens the journal of a run that was begun before, whatever its settings.
    ///
    /// # Errors
    /// [`Error::NoRun`] when there is no such run.
    pub fn open_existing(lake: &Lake, run: &Name, runtime: &Runtime) -> Result<Self, Error> {
        let (record, digest) = read::run_record(lake, run)?;
        Self::at_end(lake, record, digest, runtime)
    }

    fn at_end(
        lake: &Lake,
        record: RunRecord,
        digest: Digest,
        runtime: &Runtime,
    ) -> Result<Self, Error> {
        let tail = read::tail(lake, &record.run, digest)?;
        Ok(Self {
            lake: lake.clone(),
            runtime: runtime.clone(),
            attempt: tail.attempt,
            record,
            tail,
            lines: Vec::new(),
            pending: 0,
        })
    }

    /// What the run set out to do, as it stands in the lake.
    #[must_use]
    pub fn run_record(&self) -> &RunRecord {
        &self.record
    }

    /// The number of the present attempt, 0 before the first.
    #[must_use]
    pub const fn attempt(&self) -> u32 {
        self.attempt
    }

    /// The trainer was started once more: entries from now on belong to the next attempt.
    pub fn begin_attempt(&mut self) {
        self.attempt += 1;
    }

    /// Appends an event, durable after the next [`Journal::flush`].
    ///
    /// # Errors
    /// When the segment was full and could not be flushed.
    pub fn record(&mut self, event: Event) -> Result<(), Error> {
        let sequence = self.tail.sequence + self.pending;
        let unix_ms = self.runtime.now().unix_ms();
        let line = encode_entry(&Entry { sequence, unix_ms, attempt: self.attempt, event })?;
        if (self.lines.len() + line.len()) as u64 + SEAL_BYTES_MAX > SEGMENT_BYTES_MAX {
            self.flush()?;
        }
        self.lines.extend_from_slice(&line);
        self.pending += 1;
        Ok(())
    }

    /// Makes every event so far durable.
    ///
    /// # Errors
    /// [`Error::OtherWriter`] when another process appended meanwhile; the lake's failure
    /// otherwise. The events are kept, and the next flush tries again.
    pub fn flush(&mut self) -> Result<(), Error> {
        if self.pending == 0 {
            return Ok(());
        }
        let run = &self.record.run;
        let seal = Seal {
            format: FORMAT.into(),
            version: VERSION,
            run: run.clone(),
            segment: self.tail.segment,
            first_sequence: self.tail.sequence,
            entries: self.pending,
            nonce: self.runtime.nonce(),
            previous: self.tail.previous,
        };
        let mut body = self.lines.clone();
        let digest = seal_segment(&mut body, &seal);
        let key = segment_key(run, seal.segment);
        let failed = |source| Error::Lake { act: "append to", run: run.clone(), source };
        if let Commit::Lost(_) = self.lake.commit(&key, &body).map_err(failed)? {
            return Err(Error::OtherWriter { run: run.clone(), segment: key });
        }
        self.tail = Tail {
            segment: seal.segment + 1,
            sequence: seal.first_sequence + seal.entries,
            previous: digest,
            attempt: self.attempt,
        };
        self.lines.clear();
        self.pending = 0;
        Ok(())
    }
}

/// A run is taken up with the settings it was begun with.
fn require_same(standing: &RunRecord, wanted: &RunRecord) -> Result<(), Error> {
    let mut differences = Vec::new();
    if standing.dataset != wanted.dataset {
        let (then, now) = (&standing.dataset, &wanted.dataset);
        differences.push(format!(
            "dataset: {}@{}, now {}@{}",
            then.name, then.version, now.name, now.version
        ));
    }
    if standing.gate_digest != wanted.gate_digest {
        differences.push("gate: another one".into());
    }
    differ("", &standing.configuration, &wanted.configuration, &mut differences);
    if differences.is_empty() {
        return Ok(());
    }
    Err(Error::OtherSettings { run: standing.run.clone(), differences })
}

/// Adds `path: then, now` for every leaf in which two values differ.
fn differ(path: &str, then: &serde_json::Value, now: &serde_json::Value, found: &mut Vec<String>) {
    match (then.as_object(), now.as_object()) {
        (Some(one), Some(two)) => {
            let keys: std::collections::BTreeSet<_> = one.keys().chain(two.keys()).collect();
            for key in keys {
                let inner = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                let null = &serde_json::Value::Null;
                differ(&inner, one.get(key).unwrap_or(null), two.get(key).unwrap_or(null), found);
            }
        }
        _ if then == now => {}
        _ => found.push(format!("{path}: {then}, now {now}")),
    }
}
