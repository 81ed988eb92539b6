//! Reading a journal: along its chain, verified.

use forebay_format::{
    record,
    v1::{
        journal::{Entry, SEGMENT_BYTES_MAX, Segment, decode_segment, segment_key},
        run::{RunRecord, run_key},
    },
};
use forebay_lake::{Lake, Purpose};
use forebay_types::{Digest, Name};

use crate::Error;

/// Where a journal ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tail {
    /// The number of the next segment.
    pub segment: u64,
    /// The sequence number of the next entry.
    pub sequence: u64,
    /// The digest the next seal must name.
    pub previous: Digest,
    /// The attempt of the last entry.
    pub attempt: u32,
}

/// What run `run` set out to do, and the digest of that record's body.
///
/// # Errors
/// [`Error::NoRun`] when there is none.
pub fn run_record(lake: &Lake, run: &Name) -> Result<(RunRecord, Digest), Error> {
    let key = run_key(run);
    let bytes = lake
        .read(&key, Purpose::Journal, record::LEN_BYTES_MAX)
        .map_err(|source| Error::Lake { act: "read", run: run.clone(), source })?
        .ok_or_else(|| Error::NoRun { run: run.clone(), lake: lake.url().to_owned() })?;
    Ok(record::decode(&bytes, key.as_str())?)
}

/// Every entry of the journal of `run`, in order, verified from the run record on.
///
/// # Errors
/// [`Error::NoRun`] when there is no such run; [`Error::Format`], naming the segment, when one is
/// damaged or does not continue the one before it.
pub fn read(lake: &Lake, run: &Name) -> Result<Vec<Entry>, Error> {
    let mut tail = Tail::of_new_run(run_record(lake, run)?.1);
    let mut entries = Vec::new();
    while let Some(segment) = segment(lake, run, tail.segment)? {
        tail = tail.after(&segment, run)?;
        entries.extend(segment.entries);
    }
    Ok(entries)
}

/// Where the journal of `run`, whose record has the digest `record`, ends.
///
/// Reads the last segment alone: numbers have no gaps, so the end is found by asking for 1, 2, 4,
/// 8, … and halving, and a seal says all that its successor must know.
pub(crate) fn tail(lake: &Lake, run: &Name, record: Digest) -> Result<Tail, Error> {
    let there = |number| {
        let size = lake.size(&segment_key(run, number));
        size.map(|size| size.is_some()).map_err(|source| Error::Lake {
            act: "read",
            run: run.clone(),
            source,
        })
    };
    let start = Tail::of_new_run(record);
    if !there(0)? {
        return Ok(start);
    }
    let (mut present, mut absent) = (0, 1);
    while there(absent)? {
        (present, absent) = (absent, absent * 2);
    }
    while absent - present > 1 {
        let middle = present + (absent - present) / 2;
        if there(middle)? { present = middle } else { absent = middle }
    }
    let key = segment_key(run, present);
    let last = segment(lake, run, present)?
        .ok_or_else(|| forebay_format::Error::damaged(&key, "it vanished while it was read"))?;
    let before = Tail { segment: present, sequence: last.seal.first_sequence, ..start };
    // What came before is known for the first segment only; `read` checks the whole chain.
    let previous = if present == 0 { record } else { last.seal.previous };
    Tail { previous, ..before }.after(&last, run)
}

fn segment(lake: &Lake, run: &Name, number: u64) -> Result<Option<Segment>, Error> {
    let key = segment_key(run, number);
    let bytes = lake
        .read(&key, Purpose::Journal, SEGMENT_BYTES_MAX)
        .map_err(|source| Error::Lake { act: "read", run: run.clone(), source })?;
    bytes.map(|bytes| Ok(decode_segment(&bytes, key.as_str())?)).transpose()
}

impl Tail {
    const fn of_new_run(record: Digest) -> Self {
        Self { segment: 0, sequence: 0, previous: record, attempt: 0 }
    }

    /// The end after `segment`, if that is the one that comes next.
    fn after(self, segment: &Segment, run: &Name) -> Result<Self, Error> {
        let seal = &segment.seal;
        let continues = seal.run == *run
            && seal.segment == self.segment
            && seal.first_sequence == self.sequence
            && seal.previous == self.previous;
        if !continues {
            let what = "it does not continue the segment before it";
            return Err(forebay_format::Error::damaged(segment_key(run, self.segment), what).into());
        }
        Ok(Self {
            segment: seal.segment + 1,
            sequence: seal.first_sequence + seal.entries,
            previous: segment.digest,
            attempt: segment.entries.last().map_or(self.attempt, |entry| entry.attempt),
        })
    }
}
