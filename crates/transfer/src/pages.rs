//! A bounded number of pages in memory.
//!
//! A dataset lists what it consists of on pages of some hundred entries; whoever reads one keeps it
//! here. The page used longest ago makes room for a new one.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Pages kept in memory: shards of a window are neighbours in no page, so the shards in use may
/// lie on as many pages as there are of them; 64 pages hold 16 384 shards.
pub const PAGES_MAX: usize = 64;

/// Pages by their numbers. Cloning is cheap and shares them.
#[derive(Debug)]
pub(crate) struct Pages<P> {
    kept: Arc<Mutex<Kept<P>>>,
}

#[derive(Debug)]
struct Kept<P> {
    /// Each with the time of its last use.
    pages: HashMap<usize, (Arc<P>, u64)>,
    clock: u64,
}

impl<P> Pages<P> {
    /// Page `number`, read by `load` if it is not in memory.
    ///
    /// Nothing is locked while it is read: others need their own pages meanwhile. Two threads may
    /// read the same page; it is the same page.
    pub(crate) fn get<E>(
        &self,
        number: usize,
        load: impl FnOnce() -> Result<P, E>,
    ) -> Result<Arc<P>, E> {
        if let Some(page) = self.lock().touch(number) {
            return Ok(page);
        }
        let page = Arc::new(load()?);
        self.lock().keep(number, page.clone());
        Ok(page)
    }

    fn lock(&self) -> MutexGuard<'_, Kept<P>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<P> Kept<P> {
    fn touch(&mut self, number: usize) -> Option<Arc<P>> {
        self.clock += 1;
        let (page, used) = self.pages.get_mut(&number)?;
        *used = self.clock;
        Some(page.clone())
    }

    fn keep(&mut self, number: usize, page: Arc<P>) {
        if self.pages.len() >= PAGES_MAX {
            let oldest = self.pages.iter().min_by_key(|(_, (_, used))| used);
            let oldest = oldest.map(|(&number, _)| number);
            oldest.and_then(|number| self.pages.remove(&number));
        }
        self.clock += 1;
        self.pages.insert(number, (page, self.clock));
    }
}

impl<P> Default for Pages<P> {
    fn default() -> Self {
        Self { kept: Arc::new(Mutex::new(Kept { pages: HashMap::new(), clock: 0 })) }
    }
}

impl<P> Clone for Pages<P> {
    fn clone(&self) -> Self {
        Self { kept: self.kept.clone() }
    }
}
