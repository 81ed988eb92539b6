//! Writing past the page cache: at the speed of the disk, and at next to no cost of processor time.
//!
//! Through the page cache each byte is copied once more, and pages are found, marked and written back
//! on the same cores that digest a save. `O_DIRECT` sends it from where it lies. Disk and memory are
//! then met in whole units: a block that does not lie so in memory is copied to one that does, and the
//! end of a file that is no whole unit goes through the page cache.
//!
//! A file system that refuses such a write gets it through the page cache.
//!
//! # Bounds
//! [`WRITES_MAX`] requests of at most [`BLOCK_BYTES`], and as many blocks of memory for what does not lie
//! as it must.
//!
//! # After a crash
//! What was written may lie in any order; the file has no name yet.

use std::{
    fs::{File, OpenOptions},
    io,
    ops::Range,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use forebay_runtime::Runtime;
use forebay_types::{ByteRanges, Scattered};
use memmap2::MmapMut;
use rustix::fs::OFlags;

/// One request: large enough that its latency is small beside it.
pub(crate) const BLOCK_BYTES: u64 = 4 << 20;
/// Requests in flight: the disk has the next one when it is done with one.
const WRITES_MAX: u64 = 2;
/// What offsets, lengths and addresses are multiples of. No disk asks for more than a page.
const UNIT_BYTES: u64 = 4096;

/// A file that is written past the page cache, as far as its file system lets it.
pub(crate) struct DirectFile<'a> {
    cached: &'a File,
    /// The same file; absent where the file system does not open it so.
    direct: Option<File>,
    is_refused: AtomicBool,
    unit_bytes: u64,
}

impl<'a> DirectFile<'a> {
    /// The file at `path`, which `cached` has open.
    pub(crate) fn new(cached: &'a File, path: &Path) -> Self {
        let flags = OFlags::DIRECT.bits() as i32;
        let direct = OpenOptions::new().write(true).custom_flags(flags).open(path).ok();
        Self { cached, direct, is_refused: AtomicBool::new(false), unit_bytes: UNIT_BYTES }
    }

    /// Writes `bytes` from `offset` on, each block when it is there. `wrote` is told how many were written, block by block, in any
    /// order and from several threads.
    pub(crate) fn write(
        &self,
        bytes: &dyn ByteRanges,
        offset: u64,
        runtime: &Runtime,
        wrote: &(dyn Fn(u64) + Sync),
    ) -> io::Result<()> {
        let blocks = bytes.len_bytes().div_ceil(BLOCK_BYTES);
        let next = AtomicU64::new(0);
        let work = |_| {
            let mut aligned = None;
            loop {
                let start = next.fetch_add(1, Ordering::Relaxed).saturating_mul(BLOCK_BYTES);
                let range = start..start.saturating_add(BLOCK_BYTES).min(bytes.len_bytes());
                if range.is_empty() {
                    return Ok(());
                }
                let (start, length) = (offset + range.start, range.end - range.start);
                let block = bytes.get(range).ok_or_else(ended_early);
                let written = block.and_then(|block| self.write_block(&block, start, &mut aligned));
                if let Err(error) = written {
                    // Nobody is to begin another.
                    next.store(blocks, Ordering::Relaxed);
                    return Err(error);
                }
                wrote(length);
            }
        };
        match blocks.min(WRITES_MAX) {
            0 | 1 => work(0),
            _ if self.direct.is_none() => work(0),
            threads => runtime.workers("local-write", threads as usize, work),
        }
    }

    fn write_block(
        &self,
        block: &Scattered<'_>,
        offset: u64,
        aligned: &mut Option<MmapMut>,
    ) -> io::Result<()> {
        let mut written = 0;
        let direct = self.direct.as_ref().filter(|_| !self.is_refused.load(Ordering::Relaxed));
        if let Some(direct) = direct.filter(|_| offset.is_multiple_of(self.unit_bytes)) {
            let whole = block.len_bytes() - block.len_bytes() % self.unit_bytes;
            match self.write_whole(direct, block, 0..whole, offset, aligned) {
                Ok(()) => written = whole,
                // It opens files so and does not write them so, or asks for larger units.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                    self.is_refused.store(true, Ordering::Relaxed);
                }
                Err(error) => return Err(error),
            }
        }
        for slice in block.range(written..block.len_bytes()) {
            self.cached.write_all_at(slice, offset + written)?;
            written += slice.len() as u64;
        }
        Ok(())
    }

    /// Writes whole units, by way of `aligned` if they do not lie in memory as they must.
    fn write_whole(
        &self,
        direct: &File,
        bytes: &Scattered<'_>,
        range: Range<u64>,
        offset: u64,
        aligned: &mut Option<MmapMut>,
    ) -> io::Result<()> {
        let length = (range.end - range.start) as usize;
        let mut slices = bytes.range(range.clone());
        match slices.next() {
            None => Ok(()),
            Some(slice) if slice.len() == length && self.is_aligned(slice) => {
                direct.write_all_at(slice, offset)
            }
            Some(_) => {
                let buffer = match aligned {
                    Some(buffer) => buffer,
                    // A map begins at a page.
                    None => aligned.insert(MmapMut::map_anon(BLOCK_BYTES as usize)?),
                };
                let mut at = 0;
                for slice in bytes.range(range) {
                    buffer[at..at + slice.len()].copy_from_slice(slice);
                    at += slice.len();
                }
                direct.write_all_at(&buffer[..length], offset)
            }
        }
    }

    fn is_aligned(&self, slice: &[u8]) -> bool {
        (slice.as_ptr().addr() as u64).is_multiple_of(self.unit_bytes)
    }
}

fn ended_early() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the bytes to be written will never all be there")
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIT: usize = UNIT_BYTES as usize;
    const BLOCK: usize = BLOCK_BYTES as usize;

    /// Memory that begins at a page.
    fn content(bytes: usize) -> MmapMut {
        let mut memory = MmapMut::map_anon(bytes.max(1)).unwrap();
        memory.iter_mut().enumerate().for_each(|(at, byte)| *byte = ((at * 7) >> 3) as u8);
        memory
    }

    struct Written {
        folder: tempfile::TempDir,
        cached: File,
    }

    impl Written {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let mut options = OpenOptions::new();
            let path = folder.path().join("file");
            let cached = options.read(true).write(true).create(true).truncate(true).open(path);
            Self { cached: cached.unwrap(), folder }
        }

        fn direct(&self) -> DirectFile<'_> {
            DirectFile::new(&self.cached, &self.folder.path().join("file"))
        }

        fn bytes(&self) -> Vec<u8> {
            std::fs::read(self.folder.path().join("file")).unwrap()
        }
    }

    /// Bytes of which none from the second block on will ever be there.
    struct Ending<'a>(Scattered<'a>);

    impl ByteRanges for Ending<'_> {
        fn len_bytes(&self) -> u64 {
            self.0.len_bytes()
        }

        fn get(&self, range: Range<u64>) -> Option<Scattered<'_>> {
            (range.end <= BLOCK_BYTES).then(|| self.0.range(range).collect())
        }
    }

    fn write(file: &DirectFile<'_>, bytes: &dyn ByteRanges, offset: u64) -> io::Result<()> {
        let told = AtomicU64::new(0);
        let wrote = |count| {
            told.fetch_add(count, Ordering::Relaxed);
        };
        file.write(bytes, offset, &Runtime::system(), &wrote)?;
        assert_eq!(told.into_inner(), bytes.len_bytes());
        Ok(())
    }

    #[test]
    fn bytes_arrive_wherever_they_lie() {
        let memory = content(3 * BLOCK);
        let whole: Vec<u8> = memory[..2 * BLOCK + 9].to_vec();
        let odd: Vec<&[u8]> = whole.chunks(70_001).collect();
        let (header, values) = whole.split_at(UNIT - 100);
        for slices in [
            vec![],
            vec![&memory[..1]],
            vec![&memory[..UNIT]],
            vec![&memory[..UNIT + 1]],
            vec![&memory[..2 * BLOCK]],
            vec![&memory[..2 * BLOCK + UNIT + 5]],
            vec![&memory[1..2 * BLOCK]],
            vec![header, values],
            vec![&memory[..BLOCK], &memory[BLOCK + 1..2 * BLOCK], &memory[..]],
            odd,
        ] {
            let wanted = slices.concat();
            let written = Written::new();
            write(&written.direct(), &slices.into_iter().collect::<Scattered<'_>>(), 0).unwrap();
            assert!(written.bytes() == wanted, "{} bytes", wanted.len());
        }
    }

    #[test]
    fn what_begins_inside_a_unit_arrives_too() {
        let (memory, written) = (content(BLOCK + 10), Written::new());
        for (from, until) in [(0, 10), (10, UNIT), (UNIT, BLOCK + 10)] {
            let slice = &memory[from..until];
            write(&written.direct(), &Scattered::from(slice), from as u64).unwrap();
        }
        assert!(written.bytes() == memory[..]);
    }

    #[test]
    fn a_file_system_that_refuses_gets_it_through_the_page_cache() {
        let (memory, written) = (content(3 * BLOCK), Written::new());
        // No disk writes from such addresses.
        let mut refused = written.direct();
        refused.unit_bytes = 1;
        write(&refused, &Scattered::from(&memory[1..]), 0).unwrap();
        assert_eq!(refused.direct.is_some(), refused.is_refused.into_inner());
        assert!(written.bytes() == memory[1..]);
        let written = Written::new();
        let never = DirectFile { direct: None, ..written.direct() };
        write(&never, &Scattered::from(&memory[..]), 0).unwrap();
        assert!(written.bytes() == memory[..]);
    }

    #[test]
    fn what_will_never_be_there_ends_the_writing() {
        let (memory, written) = (content(64 * BLOCK), Written::new());
        let ending = Ending(Scattered::from(&memory[..]));
        let error = write(&written.direct(), &ending, 0).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert!(written.bytes().len() <= BLOCK);
    }

    #[test]
    fn any_other_failure_is_told_and_ends_the_writing() {
        let (memory, written) = (content(64 * BLOCK), Written::new());
        let read_only = File::open(written.folder.path().join("file")).unwrap();
        let failing = DirectFile { direct: Some(read_only), ..written.direct() };
        let error = write(&failing, &Scattered::from(&memory[..]), 0).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::BADF.raw_os_error()));
        assert!(!failing.is_refused.into_inner());
        assert!(written.bytes().is_empty());
    }
}
