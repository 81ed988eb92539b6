//! Making room by known future.
//!
//! Whoever reads in a known order registers its [`Foresight`]. When the tier is full, the cached
//! object whose next use lies farthest ahead is evicted (Belady's rule); objects nobody foresees
//! go before all others, in the order of their digests. A prefetch evicts nothing that is needed
//! before, or as soon as, what it brings: then bringing it would only cause a second download.
//!
//! An object in use may be evicted: whoever mapped it goes on reading it.

use std::sync::{Arc, PoisonError, Weak, atomic::Ordering};

use forebay_types::{Digest, Key};

use crate::{Error, Transfer};

/// Somebody who knows when objects will be needed.
pub trait Foresight: Send + Sync {
    /// How many positions ahead `digest` is needed next, or sooner; `None` when it is not known
    /// to be needed again.
    fn distance(&self, digest: Digest) -> Option<u64>;
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
        // Not held while asking: a foresight may take locks of its own.
        let foresights = self.foresights().lock().unwrap_or_else(PoisonError::into_inner).alive();
        let next_use = |digest| foresights.iter().filter_map(|f| f.distance(digest)).min();
        let mut candidates: Vec<(u64, Digest)> = (self.local().cached_bytes_of())
            .map_err(Error::Tier)?
            .into_iter()
            .filter(|&(digest, _)| digest != for_digest)
            .map(|(digest, _)| (next_use(digest).unwrap_or(u64::MAX), digest))
            .filter(|&(ahead, _)| distance.is_none_or(|distance| ahead > distance))
            .collect();
        candidates.sort_unstable_by_key(|&(ahead, digest)| (std::cmp::Reverse(ahead), digest));
        // Another process may have been quicker with the first of them, and so made the room.
        let Some(&(_, digest)) = candidates.first() else { return Ok(false) };
        let evicted = self.local().evict(digest).map_err(|source| Error::Local {
            act: "make room for",
            object: for_object.clone(),
            source,
        })?;
        self.counters().evicted.fetch_add(u64::from(evicted), Ordering::Relaxed);
        Ok(true)
    }
}
