//! The arena: memory that captures are copied into, faulted in once and reused.
//!
//! Copying into fresh pages costs some ten times the copy itself, because each page is faulted in
//! and cleared by the kernel. So the arena grows rarely, touches its pages when it does, and is
//! handed from the trainer's thread to the background and back instead of being freed.
//!
//! It is shared memory of the node where there is enough: what was captured whole is then named, and
//! outlives this process until it is on the disk; and from then until the next capture it is what a
//! restore reads first, see [`crate::image`]. Where there is not, as in a container that was given
//! 64 MiB, it is memory of this process. Where there is no memory at all, the caller does without.
//! Its pages may be locked for a device, see [`crate::PageLocks`].
//!
//! # After a crash
//! A whole capture under its name, or one that is staged too: [`crate::recover`] takes both over.

use std::sync::{Arc, Mutex, PoisonError};

use forebay_format::v1::{capture::Label, tensors::TensorPlan};
use forebay_local::{MemoryEnd, NodeMemory};
use forebay_runtime::available_memory_bytes;
use forebay_types::Key;

use crate::{Error, PageLocks, pieces, site::Site};

/// What one thread copies before it takes the next piece.
const PIECE_BYTES: usize = pieces::PIECE_BYTES as usize;
/// Below this a second thread costs more than it saves.
const PARALLEL_BYTES_MIN: usize = 8 << 20;
const PAGE_BYTES: usize = 4096;
/// Room for what is said about a state, beside what its header takes twice.
const RECORD_BYTES: usize = 64 << 10;
/// The most room that is made ready for headers of which nothing is known yet.
const HEADERS_BYTES_MAX: usize = 16 << 20;

/// The image of a tensor file in memory.
#[derive(Default)]
pub(crate) struct Arena {
    memory: Memory,
    image_bytes: usize,
    locks: Option<Arc<dyn PageLocks>>,
    lock: Lock,
}

/// What became of the pages of the memory that is there.
#[derive(Clone, Copy, Default)]
enum Lock {
    #[default]
    Untried,
    Refused,
    /// From this address on.
    Locked(usize),
}

#[derive(Default)]
enum Memory {
    #[default]
    None,
    Node(NodeMemory),
    Own(Vec<u8>),
}

/// What is copied into one piece of an image.
pub(crate) struct PieceCopy<'a> {
    /// The number of the piece.
    pub number: usize,
    into: &'a mut [u8],
    /// Where it goes in the piece, and what.
    from: Vec<(usize, &'a [u8])>,
}

impl<'a> PieceCopy<'a> {
    /// Copies; returns the piece, which changes no more.
    pub(crate) fn run(self) -> &'a [u8] {
        for (at, bytes) in self.from {
            self.into[at..at + bytes.len()].copy_from_slice(bytes);
        }
        self.into
    }
}

/// What lies behind an image, and the name of both.
pub(crate) struct ArenaEnd<'a> {
    /// Absent where the memory is this process's alone.
    memory: Option<MemoryEnd<'a>>,
    image_bytes: usize,
}

impl ArenaEnd<'_> {
    /// Writes down what the image is, and has it outlive this process under a name.
    ///
    /// # Errors
    /// When it cannot be named. Memory of this process alone is left as it is.
    pub(crate) fn keep(&mut self, name: &Key, record: &[u8]) -> Result<(), Error> {
        let Some(memory) = &mut self.memory else { return Ok(()) };
        let (image_bytes, record_bytes) = (self.image_bytes as u64, record.len() as u64);
        let label = Label { image_bytes, record_bytes };
        Ok(memory.keep(name, record, &label.encode())?)
    }
}

impl Arena {
    /// Memory that was taken over from a dead process, with an image of so many bytes.
    pub(crate) const fn holding(memory: NodeMemory, image_bytes: usize) -> Self {
        Self { memory: Memory::Node(memory), image_bytes, locks: None, lock: Lock::Untried }
    }

    /// Says who locks its pages.
    pub(crate) fn set_locks(&mut self, locks: Arc<dyn PageLocks>) {
        self.locks = Some(locks);
    }

    /// Locks the pages that are there, once, if somebody is to.
    pub(crate) fn lock_pages(&mut self) {
        let (address, bytes) = (self.bytes().as_ptr().expose_provenance(), self.bytes().len());
        if let (Some(locks), Lock::Untried, 1..) = (&self.locks, self.lock, bytes) {
            let is_locked = locks.lock(address, bytes);
            self.lock = if is_locked { Lock::Locked(address) } else { Lock::Refused };
        }
    }

    /// Unlocks its pages, before they move or go; says whether they are.
    fn unlock_pages(&mut self) -> bool {
        if let (Some(locks), Lock::Locked(address)) = (&self.locks, self.lock)
            && !locks.unlock(address)
        {
            return false;
        }
        self.lock = Lock::Untried;
        true
    }

    /// Unlocks its pages; what cannot be unlocked is left mapped, and is the arena's no more.
    fn release_pages(&mut self) {
        if !self.unlock_pages() {
            std::mem::forget(std::mem::take(&mut self.memory));
            (self.image_bytes, self.lock) = (0, Lock::Untried);
        }
    }

    /// Has memory ready for a state whose tensors have so many bytes, and are not known one by one: to
    /// grow later, for what is said beside them, would take all pages elsewhere in the pause of a save.
    ///
    /// # Errors
    /// As [`Arena::reserve`].
    pub(crate) fn expect(&mut self, bytes: usize, site: &Site) -> Result<(), Error> {
        let headers = (bytes / 128).min(HEADERS_BYTES_MAX);
        let most = site.settings.arena_bytes_max.and_then(|most| usize::try_from(most).ok());
        let wanted = bytes.saturating_add(2 * RECORD_BYTES + headers);
        self.reserve(most.map_or(wanted, |most| wanted.min(most)).max(bytes), site)
    }

    /// Makes sure that a state of `bytes` fits, and that the pages are there.
    ///
    /// # Errors
    /// [`Error::Memory`] when there is not so much; then it has none.
    pub(crate) fn reserve(&mut self, bytes: usize, site: &Site) -> Result<(), Error> {
        if bytes <= self.bytes().len() {
            return Ok(());
        }
        self.release_pages();
        let most = site.settings.arena_bytes_max.unwrap_or(u64::MAX);
        if bytes as u64 > most {
            (self.memory, self.image_bytes) = (Memory::None, 0);
            return Err(Error::Memory { bytes: bytes as u64, available: most });
        }
        let bytes = bytes.next_multiple_of(PAGE_BYTES);
        // Ranks that start together would each find the same memory left.
        let _lock = site.local().lock_memory()?;
        if self.reserve_of_node(bytes, site).is_err() {
            // There is never more than one arena.
            (self.memory, self.image_bytes) = (Memory::None, 0);
            self.reserve_own(bytes, site)?;
        }
        Ok(())
    }

    fn reserve_of_node(&mut self, bytes: usize, site: &Site) -> Result<(), forebay_local::Error> {
        let before = match &mut self.memory {
            Memory::Node(memory) => {
                let before = memory.len();
                memory.grow(bytes)?;
                before
            }
            other => {
                *other = Memory::None;
                *other = Memory::Node(site.local().memory(bytes)?);
                0
            }
        };
        let Memory::Node(memory) = &self.memory else { return Ok(()) };
        let starts: Vec<usize> = (before..bytes).step_by(PIECE_BYTES).collect();
        let failed = Mutex::new(None);
        share(starts, bytes - before, site, |start| {
            if let Err(error) = memory.populate(start..bytes.min(start + PIECE_BYTES)) {
                *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            }
        });
        failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    fn reserve_own(&mut self, bytes: usize, site: &Site) -> Result<(), Error> {
        match available_memory_bytes() {
            Some(available) if available < bytes as u64 => {
                return Err(Error::Memory { bytes: bytes as u64, available });
            }
            _ => {}
        }
        let mut memory = vec![0; bytes];
        share(memory.chunks_mut(PIECE_BYTES).collect(), bytes, site, |piece: &mut [u8]| {
            piece.iter_mut().step_by(PAGE_BYTES).for_each(|byte| *byte = std::hint::black_box(1));
        });
        self.memory = Memory::Own(memory);
        Ok(())
    }

    fn bytes(&self) -> &[u8] {
        match &self.memory {
            Memory::None => &[],
            Memory::Node(memory) => memory,
            Memory::Own(memory) => memory,
        }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        match &mut self.memory {
            Memory::None => &mut [],
            Memory::Node(memory) => memory,
            Memory::Own(memory) => memory,
        }
    }

    /// Where its image begins. Whoever writes there does so while nobody else touches those places.
    pub(crate) fn address(&mut self) -> *mut u8 {
        self.bytes_mut().as_mut_ptr()
    }

    /// Begins the file's image: its room, and the header of `plan`. Nobody finds what it held.
    ///
    /// # Errors
    /// As [`Arena::reserve`].
    pub(crate) fn begin(&mut self, plan: &TensorPlan, site: &Site) -> Result<(), Error> {
        self.unkeep()?;
        let bytes = usize::try_from(plan.file_bytes).unwrap_or(usize::MAX);
        let room = RECORD_BYTES.saturating_add(2 * plan.header.len());
        self.reserve(bytes.saturating_add(room), site)?;
        self.image_bytes = bytes;
        self.bytes_mut()[..plan.header.len()].copy_from_slice(&plan.header);
        Ok(())
    }

    /// Copies tensors to where they lie in the image.
    pub(crate) fn copy(&mut self, tensors: &[(u64, &[u8])], site: &Site) {
        let total = tensors.iter().map(|(_, bytes)| bytes.len()).sum();
        let (mut copies, _) = self.open(tensors);
        copies.retain(|copy| !copy.from.is_empty());
        share(copies, total, site, |copy: PieceCopy<'_>| {
            copy.run();
        });
    }

    /// All pieces of the image in their order, and what is to be copied into each of tensors that lie
    /// where they are said to; and the end, with which the image can be kept while it is read.
    pub(crate) fn open<'a>(
        &'a mut self,
        tensors: &[(u64, &'a [u8])],
    ) -> (Vec<PieceCopy<'a>>, ArenaEnd<'a>) {
        let image_bytes = self.image_bytes;
        let (image, memory) = match &mut self.memory {
            Memory::None => (&mut [][..], None),
            Memory::Own(memory) => (&mut memory[..image_bytes], None),
            Memory::Node(memory) => {
                let (image, end) = memory.split(image_bytes);
                (image, Some(end))
            }
        };
        let pieces = image.chunks_mut(PIECE_BYTES).enumerate();
        let mut copies: Vec<_> =
            pieces.map(|(number, into)| PieceCopy { number, into, from: Vec::new() }).collect();
        for &(offset, mut bytes) in tensors {
            let mut start = offset as usize;
            while !bytes.is_empty() {
                let (number, at) = (start / PIECE_BYTES, start % PIECE_BYTES);
                let (here, behind) = bytes.split_at(bytes.len().min(PIECE_BYTES - at));
                copies[number].from.push((at, here));
                (start, bytes) = (start + here.len(), behind);
            }
        }
        (copies, ArenaEnd { memory, image_bytes })
    }

    /// The file's bytes.
    pub(crate) fn image(&self) -> &[u8] {
        &self.bytes()[..self.image_bytes]
    }

    /// Whether it holds what others may read.
    pub(crate) const fn is_named(&self) -> bool {
        matches!(&self.memory, Memory::Node(memory) if memory.is_named())
    }

    /// Whether it takes more than it may.
    pub(crate) fn exceeds(&self, bytes_max: Option<u64>) -> bool {
        bytes_max.is_some_and(|most| self.bytes().len() as u64 > most)
    }

    /// Says that what was kept is on the disk: it need not be staged, and may be read until it changes.
    ///
    /// # Errors
    /// When it cannot be renamed.
    pub(crate) fn mark_staged(&mut self) -> Result<(), Error> {
        let Memory::Node(memory) = &mut self.memory else { return Ok(()) };
        Ok(memory.mark_staged()?)
    }

    /// Takes the name away: what it holds is lost, or about to change.
    ///
    /// # Errors
    /// When it cannot be.
    pub(crate) fn unkeep(&mut self) -> Result<(), Error> {
        let Memory::Node(memory) = &mut self.memory else { return Ok(()) };
        Ok(memory.unkeep()?)
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        self.release_pages();
    }
}

/// Gives every piece, `bytes` in all, to whichever thread is free.
fn share<T: Send>(pieces: Vec<T>, bytes: usize, site: &Site, work: impl Fn(T) + Sync) {
    let threads = site.threads().min(pieces.len());
    if threads < 2 || bytes < PARALLEL_BYTES_MIN {
        return pieces.into_iter().for_each(work);
    }
    let left = Mutex::new(pieces.into_iter());
    let next = || left.lock().unwrap_or_else(PoisonError::into_inner).next();
    let outcome: Result<(), std::convert::Infallible> =
        site.runtime.workers("checkpoint-capture", threads, |_| {
            while let Some(piece) = next() {
                work(piece);
            }
            Ok(())
        });
    let Ok(()) = outcome;
}

#[cfg(test)]
mod tests {
    use forebay_format::v1::tensors;
    use forebay_testing::TempTiers;

    use super::*;
    use crate::StateTensor;

    fn image(arena: &mut Arena, state: &[StateTensor<'_>], site: &Site) -> Vec<u8> {
        let specs: Vec<_> = state.iter().map(|tensor| tensor.spec().unwrap()).collect();
        let plan = tensors::plan(&specs).unwrap();
        arena.begin(&plan, site).unwrap();
        let tensor =
            |(index, place): &(usize, tensors::TensorPlace)| (place.offset, &*state[*index].bytes);
        // In two turns, as when the trainer goes on in between.
        let (first, second): (Vec<_>, Vec<_>) =
            plan.places.iter().map(tensor).enumerate().partition(|(number, _)| number % 2 == 0);
        for half in [second, first] {
            let half: Vec<_> = half.into_iter().map(|(_, tensor)| tensor).collect();
            arena.copy(&half, site);
        }
        for (index, place) in &plan.places {
            let range = place.offset as usize..(place.offset + place.bytes) as usize;
            assert!(arena.image()[range] == *state[*index].bytes);
        }
        arena.image().to_vec()
    }

    #[test]
    fn threads_and_reuse_and_whose_memory_it_is_change_no_byte() {
        let tiers = TempTiers::new(1 << 20);
        let (three, one) = (Site::of_test(&tiers, 3), Site::of_test(&tiers, 1));
        let (large, small) =
            (StateTensor::some(&[9 << 20, 0, 1, 5 << 20]), StateTensor::some(&[3, 0, 70_000]));
        let mut reused = Arena::default();
        let first = image(&mut reused, &large, &three);
        assert!(matches!(reused.memory, Memory::Node(_)));
        assert!(first == image(&mut Arena::default(), &large, &one));
        let memory = reused.bytes().as_ptr();
        let other = image(&mut Arena::default(), &small, &one);
        assert!(image(&mut reused, &small, &three) == other);
        assert!(image(&mut reused, &large, &three) == first);
        assert_eq!(reused.bytes().as_ptr(), memory);
        let mut own = Arena::default();
        own.reserve_own(16 << 20, &three).unwrap();
        assert!(image(&mut own, &large, &three) == first);
        assert!(matches!(own.memory, Memory::Own(_)));
        let mut grown = Arena::default();
        image(&mut grown, &small, &three);
        assert!(image(&mut grown, &large, &three) == first);
    }

    #[test]
    fn more_than_it_may_take_is_refused_and_nothing_held() {
        let tiers = TempTiers::new(1 << 20);
        let mut site = Site::of_test(&tiers, 2);
        site.settings.arena_bytes_max = Some(8 << 20);
        let mut arena = Arena::default();
        arena.reserve(8 << 20, &site).unwrap();
        assert!(matches!(arena.reserve((8 << 20) + 1, &site), Err(Error::Memory { .. })));
        assert!(arena.bytes().is_empty());
    }
}
