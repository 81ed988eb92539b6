//! Making room by known future.
//!
//! Whoever reads in a known order registers its [`Foresight`]. When the tier is full, the cached
//! object whose next use lies farthest ahead is evicted (Belady's rule); objects nobody foresees
//! go before all others, in the order of their digests. A prefetch evicts nothing that is needed
//! before, or as soon as, what it brings: then bringing it would only cause a second download.
//!
//! An object in use may be evicted: whoever mapped it goes on reading it.
//!
//! # Cost
//! Asking for every object's next use at every eviction would cost as much as the tier has files.
//! While one reader foresees, the objects are kept sorted by the position of their next use
//! ([`Candidates`]). Such a position holds until the reader has passed it, so an eviction asks for
//! those that were passed since the last one and for the farthest: each use of an object is asked
//! for about once.
//!
//! Positions of several readers cannot be sorted into one row, since each goes on at its own speed.
//! There all objects are asked for, and of those needed last one for every [`OBJECTS_PER_VICTIM`] is
//! noted, to be evicted in turn as long as it stays far away: about as many are asked for at each
//! eviction, however large the tier.
//!
//! The list of objects is read from the directory again when other processes have changed it, and
//! it is worth the reading: at once while it is short, else after one change for every
//! [`OBJECTS_PER_CHANGE`] of its objects. Until then this process may overlook what others landed,
//! and evict what it knows.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap},
    sync::{Arc, MutexGuard, PoisonError, Weak, atomic::Ordering},
};

use forebay_types::{Digest, Key};

use crate::{Error, Transfer};

/// A list of so many objects is read again for each change by others.
const OBJECTS_PER_CHANGE: u64 = 256;
/// For so many objects that are asked for, one may be evicted.
const OBJECTS_PER_VICTIM: usize = 256;

/// Somebody who knows when objects will be needed.
pub trait Foresight: Send + Sync {
    /// Where its reader stands. Never moves back.
    fn position(&self) -> u64;

    /// The first position from `after` on at which `digest` is needed, or an earlier one; `None`
    /// when it is not known to be needed again. What it answered holds until the reader has passed
    /// it, but for an answer that becomes an earlier one.
    fn next_use(&self, digest: Digest, after: u64) -> Option<u64>;
}

/// Everybody in this process who knows; the dead are forgotten as they are met.
#[derive(Default)]
pub(crate) struct Foresights(Vec<Weak<dyn Foresight>>);

impl Foresights {
    fn alive(&mut self) -> Vec<Arc<dyn Foresight>> {
        self.0.retain(|foresight| foresight.strong_count() > 0);
        self.0.iter().filter_map(Weak::upgrade).collect()
    }
}

/// What may be evicted, the last needed last.
#[derive(Default)]
pub(crate) struct Candidates {
    /// By the position of the next use as it was last asked for; `u64::MAX` when none is known.
    sorted: BTreeSet<(u64, Reverse<Digest>)>,
    due: HashMap<Digest, u64>,
    /// Those that several readers need last, the last needed last, and how far away they were.
    victims: Vec<(u64, Reverse<Digest>)>,
    /// Whose positions they are.
    reader: Option<Weak<dyn Foresight>>,
    /// The tier's changes that the list knows of; absent when it was never read.
    changes: Option<u64>,
}

impl Candidates {
    fn insert(&mut self, digest: Digest, due: u64) {
        self.remove(digest);
        self.sorted.insert((due, Reverse(digest)));
        self.due.insert(digest, due);
    }

    fn remove(&mut self, digest: Digest) {
        if let Some(due) = self.due.remove(&digest) {
            self.sorted.remove(&(due, Reverse(digest)));
        }
    }

    /// This process changed one name in the cache.
    fn changed(&mut self) {
        self.changes = self.changes.map(|changes| changes.wrapping_add(1));
    }

    pub(crate) fn landed(&mut self, digest: Digest) {
        // Asked for at the next eviction: position 0 was passed, or is at hand.
        self.insert(digest, 0);
        self.changed();
    }

    fn is_read_by(&self, reader: &Weak<dyn Foresight>) -> bool {
        self.reader.as_ref().is_some_and(|own| own.ptr_eq(reader))
    }

    /// Has everything asked for again.
    fn read_by(&mut self, reader: Weak<dyn Foresight>) {
        let digests: Vec<Digest> = self.due.drain().map(|(digest, _)| digest).collect();
        self.replace(digests);
        self.reader = Some(reader);
    }

    /// What was known of the objects that stay is kept.
    fn replace(&mut self, digests: Vec<Digest>) {
        let known = std::mem::take(&mut self.due);
        self.due = digests
            .into_iter()
            .map(|digest| (digest, known.get(&digest).copied().unwrap_or(0)))
            .collect();
        self.sorted = self.due.iter().map(|(&digest, &due)| (due, Reverse(digest))).collect();
    }

    /// The object that `reader` needs last, if that is later than `distance` positions ahead.
    fn last_needed(
        &mut self,
        reader: &dyn Foresight,
        except: Digest,
        distance: Option<u64>,
    ) -> Option<Digest> {
        let at = reader.position();
        let next_use = |digest| reader.next_use(digest, at).unwrap_or(u64::MAX);
        // What was passed, or is at hand, has another next use by now.
        let passed = self.sorted.range(..=(at, Reverse(LOWEST)));
        for digest in passed.map(|(_, digest)| digest.0).collect::<Vec<_>>() {
            self.insert(digest, next_use(digest));
        }
        // The farthest is asked for again, since its answer may have become an earlier one.
        let mut skipped = None;
        let farthest = loop {
            let Some((stated, Reverse(digest))) = self.sorted.pop_last() else { break None };
            if digest == except {
                skipped = Some((stated, Reverse(digest)));
                continue;
            }
            let due = next_use(digest);
            self.insert(digest, due);
            if due >= stated {
                break Some((due, digest));
            }
        };
        self.sorted.extend(skipped);
        let (due, digest) = farthest?;
        distance.is_none_or(|distance| due.saturating_sub(at) > distance).then_some(digest)
    }

    /// The same for several readers, or none.
    fn last_needed_by_all(
        &mut self,
        readers: &[Arc<dyn Foresight>],
        except: Digest,
        distance: Option<u64>,
    ) -> Option<Digest> {
        let readers: Vec<_> = readers.iter().map(|reader| (reader, reader.position())).collect();
        let ahead = |digest: Digest| {
            let ahead = readers.iter().filter_map(|(reader, at)| {
                reader.next_use(digest, *at).map(|due| due.saturating_sub(*at))
            });
            ahead.min().unwrap_or(u64::MAX)
        };
        let is_later = |ahead: u64| distance.is_none_or(|distance| ahead > distance);
        while let Some((stated, Reverse(digest))) = self.victims.pop() {
            // One that came much closer tells that the others may have, too.
            let ahead = ahead(digest);
            if ahead < stated / 2 || !is_later(ahead) {
                break;
            }
            if digest != except && self.due.contains_key(&digest) {
                return Some(digest);
            }
        }
        let others = self.due.keys().filter(|&&digest| digest != except);
        self.victims = others.map(|&digest| (ahead(digest), Reverse(digest))).collect();
        let kept = self.victims.len().div_ceil(OBJECTS_PER_VICTIM);
        let nearer = self.victims.len() - kept;
        if nearer > 0 {
            self.victims.select_nth_unstable(nearer);
            self.victims.drain(..nearer);
            self.victims.shrink_to_fit();
        }
        self.victims.sort_unstable();
        let (ahead, Reverse(digest)) = self.victims.pop()?;
        is_later(ahead).then_some(digest)
    }
}

/// No digest sorts behind it in reverse.
const LOWEST: Digest = Digest::from_bytes([0; 32]);

impl Transfer {
    /// Lets `foresight` take part in every eviction until it is dropped.
    pub fn foresee(&self, foresight: Weak<dyn Foresight>) {
        self.foresights().lock().unwrap_or_else(PoisonError::into_inner).0.push(foresight);
    }

    /// Checks that the tier can hold `needed_bytes` of cached objects at once.
    ///
    /// # Errors
    /// [`Error::BudgetTooSmall`] when what is staged and scratch leaves less.
    pub fn require_room(&self, needed_bytes: u64) -> Result<(), Error> {
        self.require_process()?;
        let usage = self.local().usage().map_err(Error::Tier)?;
        let taken_bytes = usage.staged_bytes.saturating_add(usage.scratch_bytes);
        let available_bytes = usage.budget_bytes.saturating_sub(taken_bytes);
        if needed_bytes <= available_bytes {
            return Ok(());
        }
        Err(Error::BudgetTooSmall { needed_bytes, available_bytes })
    }

    /// Evicts the one object that is needed last, if it is needed later than `distance`
    /// positions ahead (`None`: in any case). Says whether it evicted one.
    pub(crate) fn make_room(
        &self,
        for_digest: Digest,
        for_object: &Key,
        distance: Option<u64>,
    ) -> Result<bool, Error> {
        let foresights = self.foresights().lock().unwrap_or_else(PoisonError::into_inner).alive();
        let mut candidates = self.listed_candidates()?;
        let last = match &foresights[..] {
            [reader] => {
                let weak = Arc::downgrade(reader);
                if !candidates.is_read_by(&weak) {
                    candidates.read_by(weak);
                }
                candidates.last_needed(reader.as_ref(), for_digest, distance)
            }
            readers => candidates.last_needed_by_all(readers, for_digest, distance),
        };
        let Some(digest) = last else { return Ok(false) };
        candidates.remove(digest);
        // Another process may have been quicker with it, and so made the room.
        let evicted = self.local().evict(digest).map_err(|source| Error::Local {
            act: "make room for",
            object: for_object.clone(),
            source,
        })?;
        if evicted {
            candidates.changed();
        }
        self.counters().evicted.fetch_add(u64::from(evicted), Ordering::Relaxed);
        Ok(true)
    }

    /// The candidates, read from the directory if they may have changed too much.
    fn listed_candidates(&self) -> Result<MutexGuard<'_, Candidates>, Error> {
        let mut candidates = self.candidates();
        let changes = self.local().cache_changes().map_err(Error::Tier)?;
        // Something that landed and is not in the list yet reads as a change by others.
        let missed = candidates.changes.map(|known| changes.wrapping_sub(known));
        let bearable = candidates.due.len() as u64 / OBJECTS_PER_CHANGE;
        if missed.is_none_or(|missed| missed > bearable) {
            let digests = self.local().cached_digests().map_err(Error::Tier)?;
            candidates.replace(digests);
            candidates.changes = Some(changes);
        }
        Ok(candidates)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    /// Needs every object of its own once a round, one a position; counts how often it is asked.
    struct Reader {
        own: HashMap<Digest, u64>,
        at: AtomicU64,
        asked: AtomicU64,
    }

    impl Foresight for Reader {
        fn position(&self) -> u64 {
            self.at.load(Ordering::Relaxed)
        }

        fn next_use(&self, digest: Digest, after: u64) -> Option<u64> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            let (round, first) = (self.own.len() as u64, *self.own.get(&digest)?);
            Some(first + after.saturating_sub(first).div_ceil(round) * round)
        }
    }

    #[test]
    fn several_readers_are_asked_for_a_bounded_number_of_objects() {
        const OBJECTS: u64 = 20_000;
        const EVICTIONS: u64 = 1000;
        let digest = |number: u64| Digest::of(&number.to_le_bytes());
        let reader = |first: u64| -> Arc<Reader> {
            let own = (first..OBJECTS).step_by(2).zip(0..);
            let own = own.map(|(number, at)| (digest(number), at)).collect();
            Arc::new(Reader { own, at: AtomicU64::new(0), asked: AtomicU64::new(0) })
        };
        let concrete = [reader(0), reader(1)];
        let readers: Vec<Arc<dyn Foresight>> =
            concrete.iter().map(|reader| reader.clone() as _).collect();
        let mut candidates = Candidates::default();
        (0..OBJECTS).for_each(|number| candidates.insert(digest(number), 0));
        let mut nearest = u64::MAX;
        for step in 0..EVICTIONS {
            concrete.iter().for_each(|reader| reader.at.store(step, Ordering::Relaxed));
            let evicted = candidates.last_needed_by_all(&readers, digest(0), None).unwrap();
            candidates.remove(evicted);
            let next = readers.iter().filter_map(|reader| reader.next_use(evicted, step)).min();
            nearest = nearest.min(next.unwrap() - step);
        }
        // With two of each position at hand, the farthest thousand are the last five hundred.
        let farthest = OBJECTS / 2 - EVICTIONS / 2 - OBJECTS / OBJECTS_PER_VICTIM as u64;
        assert!(nearest >= farthest, "{nearest} {farthest}");
        let asked: u64 = concrete.iter().map(|one| one.asked.load(Ordering::Relaxed)).sum();
        let bound = 2 * EVICTIONS * (OBJECTS_PER_VICTIM as u64 + 16) + 4 * OBJECTS;
        assert!(asked < bound, "{asked} {bound}");
    }
}
