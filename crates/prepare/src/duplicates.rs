//! The first reduce: equal texts meet in one partition, and the first of them wins.
//!
//! "First" is by source and record, so the winner depends on the data alone. A partition larger
//! than memory is taken in several passes, each over a slice of the digests.

use std::io::Read;

use forebay_types::Digest;

use crate::{
    Error, Stage,
    job::{Job, first_u64},
    spill::{LaneWriter, Lanes, slot},
    tasks::Tasks,
};

/// Into how many parts digests are divided: enough for many workers, few enough for buffers.
pub(crate) const PARTITIONS: usize = 64;

/// A document that may have duplicates. The order of the fields is the order of winning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Entry {
    pub(crate) digest: Digest,
    pub(crate) source: u32,
    pub(crate) record: u64,
    pub(crate) chunk: u32,
}

const ENTRY_BYTES: usize = 48;

impl Entry {
    pub(crate) fn write(&self, into: &mut Vec<u8>) {
        into.extend_from_slice(self.digest.as_bytes());
        into.extend_from_slice(&self.source.to_le_bytes());
        into.extend_from_slice(&self.chunk.to_le_bytes());
        into.extend_from_slice(&self.record.to_le_bytes());
    }

    fn read(bytes: &[u8; ENTRY_BYTES]) -> Self {
        let (digest, rest) = bytes.split_first_chunk().expect("48 bytes are more than 32");
        let (source, rest) = rest.split_first_chunk().expect("16 bytes are more than 4");
        let (chunk, rest) = rest.split_first_chunk().expect("12 bytes are more than 4");
        let (record, _) = rest.split_first_chunk().expect("8 bytes are left");
        Self {
            digest: Digest::from_bytes(*digest),
            source: u32::from_le_bytes(*source),
            record: u64::from_le_bytes(*record),
            chunk: u32::from_le_bytes(*chunk),
        }
    }
}

/// A document that is not the first of its text.
pub(crate) type Loser = (u32, u64);

const LOSER_BYTES: usize = 12;

/// Finds the losers of every partition and hands each to the task that has its chunk.
pub(crate) fn run(
    job: &Job<'_>,
    entries: &Lanes<'_>,
    tasks: &Tasks,
    losers: &Lanes<'_>,
) -> Result<(), Error> {
    job.tasks("deduplicate", job.limits.deduplicators, entries.len(), |partition| {
        let mut writer = losers.writer(job.limits.lane_bytes);
        reduce(job.limits.pass_bytes, entries, partition, tasks, &mut writer)?;
        writer.flush()?;
        entries.spill().remove(&entries.file(partition))?;
        job.progress.add(Stage::Deduplicate, 1, entries.len() as u64);
        Ok(())
    })
}

fn reduce(
    pass_bytes: u64,
    entries: &Lanes<'_>,
    partition: usize,
    tasks: &Tasks,
    losers: &mut LaneWriter<'_>,
) -> Result<(), Error> {
    let file = entries.file(partition);
    let Some((_, bytes)) = entries.spill().stream(&file)? else { return Ok(()) };
    let passes = bytes.div_ceil(pass_bytes) as usize;
    for pass in 0..passes {
        let mut found = load(entries, &file, (pass, passes))?;
        found.sort_unstable();
        let equal = found.chunk_by(|a, b| a.digest == b.digest);
        for loser in equal.flat_map(|equal| &equal[1..]) {
            losers.push(tasks.of(loser.source, loser.chunk), |bytes| {
                bytes.extend_from_slice(&loser.source.to_le_bytes());
                bytes.extend_from_slice(&loser.record.to_le_bytes());
            })?;
        }
    }
    Ok(())
}

fn load(
    entries: &Lanes<'_>,
    file: &str,
    (pass, passes): (usize, usize),
) -> Result<Vec<Entry>, Error> {
    let spill = entries.spill();
    let Some((mut stream, bytes)) = spill.stream(file)? else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    let mut buffer = [0; ENTRY_BYTES];
    for _ in 0..bytes / ENTRY_BYTES as u64 {
        stream.read_exact(&mut buffer).map_err(|error| spill.unreadable(file, error))?;
        let entry = Entry::read(&buffer);
        let (_, within) = slot(first_u64(&entry.digest), entries.len());
        if slot(within, passes).0 == pass {
            found.push(entry);
        }
    }
    Ok(found)
}

/// The losers of one task, ordered.
pub(crate) fn losers_of(losers: &Lanes<'_>, task: usize) -> Result<Vec<Loser>, Error> {
    let bytes = losers.spill().read_if_there(&losers.file(task))?;
    let loser = |bytes: &[u8; LOSER_BYTES]| {
        let (source, record) = bytes.split_first_chunk().expect("12 bytes are more than 4");
        let (record, _) = record.split_first_chunk().expect("8 bytes are left");
        (u32::from_le_bytes(*source), u64::from_le_bytes(*record))
    };
    let mut found: Vec<Loser> = bytes.as_chunks().0.iter().map(loser).collect();
    found.sort_unstable();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use forebay_local::LocalTier;
    use forebay_runtime::Runtime;

    use super::*;
    use crate::{cleaning::ChunkEntry, spill::Spill};

    #[test]
    fn the_first_of_equal_texts_wins_in_however_many_passes() {
        let root = tempfile::tempdir().unwrap();
        let local = LocalTier::open(root.path(), 1 << 24, &Runtime::system()).unwrap();
        let chunk = |source| ChunkEntry { source, number: 0, text_bytes: 9 << 20 };
        let tasks = Tasks::new((0..4).map(chunk).collect());
        for pass_bytes in [1, 100, 1 << 20] {
            let spill = Spill::open(&local).unwrap();
            let entries = Lanes::new(&spill, "digests", 1);
            let losers = Lanes::new(&spill, "losers", tasks.len());
            let mut writer = entries.writer(1000);
            // Text n stands in sources n % 4 to 3, and in source 0 twice if at all.
            let mut wanted = vec![Vec::new(); tasks.len()];
            for record in (0..50u64).rev() {
                let digest = Digest::of(&record.to_le_bytes());
                let first = (record % 4) as u32;
                let mut places: Vec<_> = (first..4).map(|source| (source, record)).collect();
                places.extend((first == 0).then_some((0, 1000 + record)));
                for (source, record) in &places {
                    let entry = Entry { digest, source: *source, record: *record, chunk: 0 };
                    writer.push(0, |bytes| entry.write(bytes)).unwrap();
                }
                places.iter().skip(1).for_each(|place| wanted[tasks.of(place.0, 0)].push(*place));
            }
            writer.flush().unwrap();
            let mut writer = losers.writer(1000);
            reduce(pass_bytes, &entries, 0, &tasks, &mut writer).unwrap();
            writer.flush().unwrap();
            for (task, mut wanted) in wanted.into_iter().enumerate() {
                wanted.sort_unstable();
                assert_eq!(losers_of(&losers, task).unwrap(), wanted);
            }
        }
    }
}
