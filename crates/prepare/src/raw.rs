//! Raw records: cutting a stream of bytes into records and these into chunks.
//!
//! A chunk ends at the first record border after [`CHUNK_BYTES`], or after [`RECORDS_MAX`] records,
//! so chunks depend on the data alone. A record beyond the recipe's limit is passed over without being held: memory is bounded
//! by one chunk and one record, whatever a file holds or unpacks to.

use std::{
    io::{self, BufRead},
    ops::Range,
};

use crate::recipe::TextRecords;

/// Where a chunk ends, unless its last record is larger.
pub(crate) const CHUNK_BYTES: usize = 1 << 20;

/// How many records a chunk has at most, so that files of tiny ones stay within bounds too.
const RECORDS_MAX: usize = 16 << 10;

/// How much of a record that is too large is kept, to show it.
const HEAD_BYTES: usize = 1024;

/// What separates records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// Lines; empty ones are no records.
    JsonLines,
    /// As the recipe says.
    Text(TextRecords),
}

/// Consecutive records of one source.
#[derive(Debug, Default)]
pub(crate) struct Chunk {
    /// Its number in its source, from 0.
    pub(crate) number: u32,
    pub(crate) bytes: Vec<u8>,
    pub(crate) records: Vec<RawRecord>,
    /// Why the source ends here before its end; the last record is then a lost tail.
    pub(crate) lost: Option<String>,
}

/// One record, as it stands in its source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RawRecord {
    /// Its number in its source, from 0.
    pub(crate) number: u64,
    /// Where it starts in the source, decompressed.
    pub(crate) offset: u64,
    /// Its length there.
    pub(crate) bytes: u64,
    /// Where it lies in the chunk.
    pub(crate) place: Range<usize>,
    /// Whether the chunk holds all of it, or only its head because it is too large.
    pub(crate) whole: bool,
}

/// Cuts a source into chunks of records.
#[derive(Debug)]
pub(crate) struct RawReader<R> {
    source: R,
    cut: Cut,
    record_bytes_max: u64,
    offset: u64,
    records: u64,
    chunks: u32,
    /// The line last read, without its line end, up to `record_bytes_max` bytes of it.
    line: Vec<u8>,
    done: bool,
}

/// What was read into [`RawReader::line`].
#[derive(Default)]
struct Line {
    offset: u64,
    bytes: u64,
    blank: bool,
    /// By a line end, not by the end of the source.
    ended: bool,
}

impl<R: BufRead> RawReader<R> {
    pub(crate) fn new(source: R, cut: Cut, record_bytes_max: u64) -> Self {
        let (offset, records, chunks, line) = (0, 0, 0, Vec::new());
        Self { source, cut, record_bytes_max, offset, records, chunks, line, done: false }
    }

    /// The next chunk; none at the end. An error of the source becomes a lost tail.
    pub(crate) fn next_chunk(&mut self) -> Option<Chunk> {
        let mut chunk = Chunk { number: self.chunks, ..Chunk::default() };
        while !self.done && chunk.bytes.len() < CHUNK_BYTES && chunk.records.len() < RECORDS_MAX {
            self.read_record(&mut chunk);
        }
        self.chunks += 1;
        (!chunk.records.is_empty()).then_some(chunk)
    }

    /// The source.
    pub(crate) const fn source(&self) -> &R {
        &self.source
    }

    /// What is left of the source, once it has been read as far as it can be.
    pub(crate) fn into_source(self) -> R {
        self.source
    }

    fn read_record(&mut self, chunk: &mut Chunk) {
        let start = chunk.bytes.len();
        let mut record = RawRecord {
            number: self.records,
            offset: self.offset,
            bytes: 0,
            place: start..start,
            whole: true,
        };
        let outcome = self.fill(&mut record, &mut chunk.bytes);
        let found = outcome.as_ref().copied().unwrap_or(true);
        if let Err(error) = outcome {
            chunk.lost = Some(error.to_string());
            self.done = true;
        }
        if found {
            record.place.end = chunk.bytes.len();
            self.records += 1;
            chunk.records.push(record);
        }
    }

    /// Reads one record; says whether there was one.
    fn fill(&mut self, record: &mut RawRecord, into: &mut Vec<u8>) -> io::Result<bool> {
        match self.cut {
            Cut::JsonLines => self.fill_line(record, into, true),
            Cut::Text(TextRecords::Line) => self.fill_line(record, into, false),
            Cut::Text(TextRecords::Paragraph) => self.fill_paragraph(record, into),
            Cut::Text(TextRecords::File) => self.fill_file(record, into),
        }
    }

    fn fill_line(
        &mut self,
        record: &mut RawRecord,
        into: &mut Vec<u8>,
        skip_blank: bool,
    ) -> io::Result<bool> {
        let line = self.read_line(record, into)?;
        if (skip_blank && line.blank) || (!line.ended && line.bytes == 0) {
            return Ok(false);
        }
        self.append(record, into, &line);
        Ok(true)
    }

    fn fill_paragraph(&mut self, record: &mut RawRecord, into: &mut Vec<u8>) -> io::Result<bool> {
        while !self.done {
            let line = self.read_line(record, into)?;
            let started = record.bytes > 0;
            if line.blank && started {
                break;
            }
            if line.blank {
                record.offset = self.offset;
                continue;
            }
            if started {
                append(record, into, b"\n", 1, self.record_bytes_max);
            }
            self.append(record, into, &line);
        }
        Ok(record.bytes > 0)
    }

    fn fill_file(&mut self, record: &mut RawRecord, into: &mut Vec<u8>) -> io::Result<bool> {
        while !self.done {
            let line = self.read_line(record, into)?;
            self.append(record, into, &line);
            if line.ended {
                append(record, into, b"\n", 1, self.record_bytes_max);
            }
        }
        Ok(record.bytes > 0)
    }

    /// Reads the next line. When the source fails in it, its beginning still joins the record.
    fn read_line(&mut self, record: &mut RawRecord, into: &mut Vec<u8>) -> io::Result<Line> {
        self.line.clear();
        let mut line = Line { offset: self.offset, blank: true, ..Line::default() };
        while !line.ended && !self.done {
            match self.read_piece(&mut line) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.append(record, into, &line);
                    return Err(error);
                }
            }
        }
        Ok(line)
    }

    fn read_piece(&mut self, line: &mut Line) -> io::Result<()> {
        let available = self.source.fill_buf()?;
        self.done = available.is_empty();
        let end = available.iter().position(|byte| *byte == b'\n');
        let piece = &available[..end.unwrap_or(available.len())];
        line.blank &= piece.trim_ascii().is_empty();
        line.bytes += piece.len() as u64;
        line.ended = end.is_some();
        let room = (self.record_bytes_max as usize).saturating_sub(self.line.len());
        self.line.extend_from_slice(&piece[..piece.len().min(room)]);
        let consumed = piece.len() + usize::from(line.ended);
        self.source.consume(consumed);
        self.offset += consumed as u64;
        Ok(())
    }

    fn append(&self, record: &mut RawRecord, into: &mut Vec<u8>, line: &Line) {
        if record.bytes == 0 {
            record.offset = line.offset;
        }
        append(record, into, &self.line, line.bytes, self.record_bytes_max);
    }
}

/// Appends `bytes` bytes, of which `held` are at hand, to a record; beyond the limit only the
/// head of the record stays.
fn append(record: &mut RawRecord, into: &mut Vec<u8>, held: &[u8], bytes: u64, bytes_max: u64) {
    record.bytes += bytes;
    let was_whole = record.whole;
    record.whole &= record.bytes <= bytes_max;
    if was_whole {
        into.extend_from_slice(held);
    }
    if !record.whole {
        into.truncate(record.place.start + HEAD_BYTES);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufReader, Read};

    use proptest::prelude::*;

    use super::*;

    fn read(bytes: &[u8], cut: Cut, buffer: usize, bytes_max: u64) -> Vec<(RawRecord, Vec<u8>)> {
        let mut reader = RawReader::new(BufReader::with_capacity(buffer, bytes), cut, bytes_max);
        let mut records = Vec::new();
        while let Some(chunk) = reader.next_chunk() {
            for record in &chunk.records {
                records.push((record.clone(), chunk.bytes[record.place.clone()].to_vec()));
            }
        }
        records
    }

    fn texts(bytes: &[u8], cut: Cut) -> Vec<String> {
        let records = read(bytes, cut, 7, 1000);
        records.into_iter().map(|(_, text)| String::from_utf8(text).unwrap()).collect()
    }

    #[test]
    fn records_end_where_their_kind_ends() {
        let text = b"\n a\nb\n \t\n\nc\n";
        assert_eq!(texts(text, Cut::JsonLines), [" a", "b", "c"]);
        assert_eq!(texts(text, Cut::Text(TextRecords::Line)), ["", " a", "b", " \t", "", "c"]);
        assert_eq!(texts(text, Cut::Text(TextRecords::Paragraph)), [" a\nb", "c"]);
        assert_eq!(texts(text, Cut::Text(TextRecords::File)), ["\n a\nb\n \t\n\nc\n"]);
        for cut in [Cut::JsonLines, Cut::Text(TextRecords::Line), Cut::Text(TextRecords::File)] {
            assert_eq!(texts(b"", cut), [""; 0]);
            assert_eq!(texts(b"x", cut), ["x"]);
        }
    }

    #[test]
    fn records_too_large_are_passed_over_and_the_next_is_read() {
        let long = "x".repeat(5000);
        let text = format!("a\n{long}\nb\n");
        let records = read(text.as_bytes(), Cut::JsonLines, 64, 2000);
        let seen: Vec<_> = records.iter().map(|(r, t)| (r.bytes, r.whole, t.len())).collect();
        assert_eq!(seen, [(1, true, 1), (5000, false, HEAD_BYTES), (1, true, 1)]);
        assert_eq!(records[2].0.offset, 5003);
        let whole = read(text.as_bytes(), Cut::Text(TextRecords::File), 64, 2000);
        assert_eq!((whole.len(), whole[0].0.bytes, whole[0].0.whole), (1, 5005, false));
    }

    /// A source that breaks after its bytes.
    struct Broken<'a>(&'a [u8]);

    impl Read for Broken<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            match self.0.read(into)? {
                0 => Err(io::Error::new(io::ErrorKind::InvalidData, "checksum")),
                count => Ok(count),
            }
        }
    }

    #[test]
    fn a_source_that_breaks_off_keeps_what_came_before() {
        let source = BufReader::with_capacity(2, Broken(b"a\nb\ncc"));
        let mut reader = RawReader::new(source, Cut::JsonLines, 100);
        let chunk = reader.next_chunk().unwrap();
        assert_eq!(chunk.lost.as_deref(), Some("checksum"));
        let seen: Vec<_> = chunk.records.iter().map(|r| (r.number, r.offset, r.bytes)).collect();
        assert_eq!(seen, [(0, 0, 1), (1, 2, 1), (2, 4, 2)]);
        assert!(reader.next_chunk().is_none());
    }

    proptest! {
        #[test]
        fn offsets_lead_back_to_the_records(
            text in "[ab \\n]{0,60}",
            buffer in 1usize..9,
            cut in prop::sample::select(vec![
                Cut::JsonLines,
                Cut::Text(TextRecords::Line),
                Cut::Text(TextRecords::Paragraph),
                Cut::Text(TextRecords::File),
            ]),
        ) {
            for (index, (record, bytes)) in read(text.as_bytes(), cut, buffer, 1000).iter().enumerate() {
                let start = record.offset as usize;
                prop_assert_eq!(record.number, index as u64);
                prop_assert_eq!(&text.as_bytes()[start..start + record.bytes as usize], &bytes[..]);
            }
        }
    }
}
