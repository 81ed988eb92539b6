//! The ledger: what is taken, in one small file, so that a reservation costs the same however many
//! files there are.
//!
//! ```text
//! locks/ledger, 128 bytes, little-endian, read and written only while `locks/space` is held
//!   0   8  "FBLEDGER"
//!   8   4  version, 1
//!  12   4  0; or 1 while an act is under way
//!  16  16  the boot of the machine it was written in
//!  32   8  bytes cached, and on their way into the cache
//!  40   8  bytes staged, and on their way into staging
//!  48   8  bytes of scratch
//!  56   8  changes: names that appeared in the cache or went from it, ever
//!  64   8  acts since the files were last summed up
//!  72   8  files met by that sum
//!  80  32  when `cache`, `landing`, `staging` and `scratch` last changed, in nanoseconds
//! 112  16  the first half of the BLAKE3-256 digest of all that
//! ```
//!
//! The truth is the directory, and the ledger is a note about it. A note that may be wrong is
//! thrown away and the files are summed up again:
//!
//! - Every act is noted as under way before it touches a file, and the new sums after. Whoever
//!   finds an act under way, and holds the lock, knows that its process died in the middle.
//! - Another boot: the note and the names were not synced, so they need not agree.
//! - A folder that changed since the last act was changed by a stranger. (Clocks of file systems
//!   tick every few milliseconds, so a stranger who is that quick after one of us is missed, as is
//!   one who changes lengths alone.)
//! - A sum that would fall below nothing.
//! - A full tier, after as many acts as there are files: so what a stranger did comes out in the
//!   end, at a cost that does not grow with the number of files.
//!
//! # After a crash
//! A note that says so. SIGKILL cannot tear it: it is one write within one page.

use std::{
    fs, io,
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
};

use forebay_types::Digest;

use crate::{
    Error, LocalTier, files,
    space::{SpaceLock, Usage},
    tier::{LOCKS, TAKING},
};

const NAME: &str = "ledger";
const MAGIC: [u8; 8] = *b"FBLEDGER";
const VERSION: u32 = 1;
const BYTES: usize = 128;
const SEALED_BYTES: usize = 112;

/// Whose bytes they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Cached,
    Staged,
    Scratch,
}

/// What is taken, while an act changes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Taken {
    cached_bytes: u64,
    staged_bytes: u64,
    scratch_bytes: u64,
    changes: u64,
    /// Something did not add up: the files are to be summed up before the ledger is used again.
    in_doubt: bool,
}

impl Taken {
    fn part(&mut self, part: Part) -> &mut u64 {
        match part {
            Part::Cached => &mut self.cached_bytes,
            Part::Staged => &mut self.staged_bytes,
            Part::Scratch => &mut self.scratch_bytes,
        }
    }

    pub(crate) fn add(&mut self, part: Part, bytes: u64) {
        let held = self.part(part);
        *held = held.saturating_add(bytes);
    }

    pub(crate) fn give_back(&mut self, part: Part, bytes: u64) {
        let held = self.part(part);
        match held.checked_sub(bytes) {
            Some(left) => *held = left,
            None => self.in_doubt = true,
        }
    }

    /// A name appeared in the cache, or went from it.
    pub(crate) fn cache_changed(&mut self) {
        self.changes = self.changes.wrapping_add(1);
    }

    /// Has the files summed up before the next act.
    pub(crate) fn doubt(&mut self) {
        self.in_doubt = true;
    }
}

/// What is taken, as long as the space lock is held.
pub(crate) struct Ledger<'a> {
    tier: &'a LocalTier,
    _lock: &'a SpaceLock,
    taken: Taken,
    acts: u64,
    files: u64,
}

impl LocalTier {
    /// The ledger, checked, or made anew by looking at every file.
    pub(crate) fn ledger<'a>(&'a self, lock: &'a SpaceLock) -> Result<Ledger<'a>, Error> {
        let noted = self.noted();
        let taken = Taken::default();
        let mut ledger = Ledger { tier: self, _lock: lock, taken, acts: 0, files: 0 };
        match noted {
            Some(note) if note.is_sound(self) => {
                (ledger.taken, ledger.acts, ledger.files) = (note.taken, note.acts, note.files);
            }
            _ => {
                // Whoever remembers a number of changes must see that it may have missed some.
                ledger.taken.changes =
                    noted.map_or_else(|| self.fresh_changes(), |note| note.taken.changes);
                ledger.recount()?;
            }
        }
        Ok(ledger)
    }

    fn fresh_changes(&self) -> u64 {
        let digest = Digest::of(self.runtime().nonce().to_string().as_bytes());
        u64::from_le_bytes(digest.as_bytes()[..8].try_into().expect("eight of 32 bytes"))
    }

    fn ledger_path(&self) -> PathBuf {
        self.folder(LOCKS).join(NAME)
    }

    fn noted(&self) -> Option<Note> {
        let mut bytes = [0; BYTES];
        let file = fs::File::open(self.ledger_path()).ok()?;
        file.read_exact_at(&mut bytes, 0).ok()?;
        Note::decode(&bytes)
    }

    /// Throws the note away: the next who needs it sums up the files.
    pub(crate) fn forget_ledger(&self, _lock: &SpaceLock) -> Result<(), Error> {
        files::remove(&self.ledger_path()).map(drop)
    }

    fn write_note(&self, note: &Note) -> io::Result<()> {
        let mut options = fs::OpenOptions::new();
        let file = options.write(true).create(true).truncate(false).open(self.ledger_path())?;
        file.write_all_at(&note.encode(), 0)
    }

    fn changed_at(&self) -> [i64; 4] {
        TAKING.map(|name| changed_at(&self.folder(name)))
    }
}

/// When a directory's entries last changed; 0 when there is none.
fn changed_at(folder: &Path) -> i64 {
    fs::metadata(folder).map_or(0, |metadata| {
        metadata.mtime().wrapping_mul(1_000_000_000).wrapping_add(metadata.mtime_nsec())
    })
}

impl Ledger<'_> {
    pub(crate) const fn tier(&self) -> &LocalTier {
        self.tier
    }

    pub(crate) fn usage(&self) -> Usage {
        let Taken { cached_bytes, staged_bytes, scratch_bytes, .. } = self.taken;
        let budget_bytes = self.tier.budget_bytes();
        Usage { budget_bytes, cached_bytes, staged_bytes, scratch_bytes }
    }

    pub(crate) const fn changes(&self) -> u64 {
        self.taken.changes
    }

    /// Does `act`, which says what it takes and gives back. If it fails, or this process dies in
    /// it, the files are summed up before the next.
    pub(crate) fn act<T>(
        &mut self,
        act: impl FnOnce(&mut Taken) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.mark()?;
        let value = act(&mut self.taken)?;
        self.acts += 1;
        // Not settled, it is still marked: then the files are summed up, which is never wrong.
        if !self.taken.in_doubt {
            let _marked = self.tier.write_note(&self.note(false));
        }
        Ok(value)
    }

    fn mark(&self) -> Result<(), Error> {
        let path = self.tier.ledger_path();
        self.tier.write_note(&self.note(true)).or_else(|error| {
            // A full disk must not keep anybody from making room on it. No note is a mark too.
            fs::remove_file(&path).map_err(|_| Error::at("write", &path)(error))
        })
    }

    fn note(&self, under_way: bool) -> Note {
        Note {
            under_way,
            boot: self.tier.boot().unwrap_or_default(),
            taken: self.taken,
            acts: self.acts,
            files: self.files,
            changed_at: self.tier.changed_at(),
        }
    }

    /// Whether so much was done since the files were summed up that doing it again costs little.
    pub(crate) const fn is_due(&self) -> bool {
        self.acts > self.files
    }

    /// Sums up every file.
    pub(crate) fn recount(&mut self) -> Result<(), Error> {
        let mut files = 0;
        let mut sum = |folder: &str| {
            let mut bytes = 0;
            let mut add = |_: &Path, length| {
                bytes += length;
                files += 1;
            };
            files::walk(&self.tier.folder(folder), &mut add).map(|()| bytes)
        };
        self.taken = Taken {
            cached_bytes: sum("landing")? + sum("cache")?,
            staged_bytes: sum("staging")?,
            scratch_bytes: self.tier.scratch_bytes()?,
            changes: self.taken.changes.wrapping_add(1),
            in_doubt: false,
        };
        (self.acts, self.files) = (0, files);
        // Without a note the next sums them up too.
        let _unnoted = self.tier.write_note(&self.note(false));
        Ok(())
    }
}

/// The file's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Note {
    under_way: bool,
    boot: [u8; 16],
    taken: Taken,
    acts: u64,
    files: u64,
    changed_at: [i64; 4],
}

impl Note {
    fn is_sound(&self, tier: &LocalTier) -> bool {
        !self.under_way && tier.boot() == Some(self.boot) && self.changed_at == tier.changed_at()
    }

    fn encode(&self) -> [u8; BYTES] {
        let Taken { cached_bytes, staged_bytes, scratch_bytes, changes, .. } = self.taken;
        let mut bytes = Vec::with_capacity(BYTES);
        bytes.extend(MAGIC);
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(u32::from(self.under_way).to_le_bytes());
        bytes.extend(self.boot);
        for number in [cached_bytes, staged_bytes, scratch_bytes, changes, self.acts, self.files] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(self.changed_at.iter().flat_map(|time| time.to_le_bytes()));
        let seal = Digest::of(&bytes);
        bytes.extend(&seal.as_bytes()[..BYTES - SEALED_BYTES]);
        bytes.try_into().expect("the fields add up to the length")
    }

    fn decode(bytes: &[u8; BYTES]) -> Option<Self> {
        let (sealed, seal) = bytes.split_at(SEALED_BYTES);
        if Digest::of(sealed).as_bytes()[..seal.len()] != *seal {
            return None;
        }
        let number = |at: usize| u64::from_le_bytes(sealed[at..at + 8].try_into().expect("eight"));
        let word = |at: usize| u32::from_le_bytes(sealed[at..at + 4].try_into().expect("four"));
        let sound = sealed[..8] == MAGIC && word(8) == VERSION;
        let taken = Taken {
            cached_bytes: number(32),
            staged_bytes: number(40),
            scratch_bytes: number(48),
            changes: number(56),
            in_doubt: false,
        };
        sound.then(|| Self {
            under_way: word(12) != 0,
            boot: sealed[16..32].try_into().expect("sixteen"),
            taken,
            acts: number(64),
            files: number(72),
            changed_at: [80, 88, 96, 104].map(|at| number(at) as i64),
        })
    }
}

/// What names this boot of the machine; `None` where the kernel does not say, and then no note is
/// ever trusted.
pub(crate) fn boot() -> Option<[u8; 16]> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    u128::from_str_radix(&digits, 16).ok().map(u128::to_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_round_trips_and_no_changed_byte_passes() {
        let taken = Taken {
            cached_bytes: 1,
            staged_bytes: 2,
            scratch_bytes: 3,
            changes: u64::MAX,
            in_doubt: false,
        };
        let changed_at = [4, -5, 6, 7];
        let note = Note { under_way: true, boot: [9; 16], taken, acts: 8, files: 10, changed_at };
        let bytes = note.encode();
        assert_eq!(Note::decode(&bytes), Some(note));
        for at in 0..BYTES {
            let mut changed = bytes;
            changed[at] ^= 1;
            assert_eq!(Note::decode(&changed), None, "byte {at}");
        }
    }
}
