//! The backlog: which steps are under way, failed or ready, and how far ahead of the consumer.
//!
//! Steps are claimed in order, by the feed's threads or by the consumer itself, and delivered in
//! order. What may be ready fills the *depth*, so a slow consumer stops the threads. The depth begins
//! at [`DEPTH_START_BYTES`], so that batches are written where the caches hold them still, and
//! doubles up to `buffer_bytes` whenever the consumer had to wait although it had been full.
//!
//! Plain state: whoever shares it locks it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{Error, FeedSettings, assemble::Assembled};

/// What is assembled ahead at first, if the settings allow as much: what a core's own cache holds beside
/// what it is gathered from. To fill 4 MiB in turn costs a tenth more, and ever new memory half as much
/// again as to gather what is put there.
const DEPTH_START_BYTES: u64 = 512 << 10;
/// What the consumer waits before it is more than the machine's noise.
const WAIT_MIN: Duration = Duration::from_millis(1);

pub(crate) struct Backlog {
    /// The step after the last.
    steps: u64,
    buffer_bytes: u64,
    threads: u64,
    /// The step the consumer gets next.
    deliver: u64,
    /// The step to be claimed next.
    claim: u64,
    /// Steps that failed and are to be tried again.
    again: BTreeSet<u64>,
    busy: BTreeSet<u64>,
    ready: BTreeMap<u64, Result<Assembled, Error>>,
    /// Bytes of the batches in `ready`.
    ready_bytes: u64,
    /// The bytes that may be ready, if that is enough for every thread to have a batch under way.
    depth_bytes: u64,
    /// Whether so much was ready since the consumer waited last.
    was_full: bool,
    /// The largest batch met, or what the sizes of the dataset let expect.
    batch_bytes: u64,
}

impl Backlog {
    /// Nothing is under way, and `step` comes next.
    pub(crate) fn at(step: u64, steps: u64, batch_bytes: u64, settings: &FeedSettings) -> Self {
        Self {
            steps,
            buffer_bytes: settings.buffer_bytes,
            threads: settings.threads.into(),
            deliver: step,
            claim: step,
            again: BTreeSet::new(),
            busy: BTreeSet::new(),
            ready: BTreeMap::new(),
            ready_bytes: 0,
            depth_bytes: DEPTH_START_BYTES,
            was_full: false,
            batch_bytes,
        }
    }

    /// The step the consumer gets next.
    pub(crate) const fn next_step(&self) -> u64 {
        self.deliver
    }

    /// The first step that is not assembled yet.
    pub(crate) fn front(&self) -> u64 {
        let waiting = self.busy.first().into_iter().chain(self.again.first());
        waiting.min().copied().unwrap_or(self.claim)
    }

    /// A step for a thread to assemble, if there is room for its batch.
    pub(crate) fn claim(&mut self) -> Option<u64> {
        let has_room = self.has_room();
        let fresh = self.claim < self.steps && has_room;
        let step = self.again.pop_first().or_else(|| {
            self.claim += u64::from(fresh);
            fresh.then(|| self.claim - 1)
        });
        match step {
            Some(step) => _ = self.busy.insert(step),
            None => self.was_full |= !has_room && !self.ready.is_empty(),
        }
        step
    }

    /// Claims the step the consumer waits for, unless it is ready or a thread has it.
    pub(crate) fn claim_for_consumer(&mut self, step: u64) -> bool {
        if self.ready.contains_key(&step) {
            return false;
        }
        match (self.again.remove(&step), self.claim == step) {
            (true, _) => {}
            (false, true) => self.claim += 1,
            (false, false) => return false,
        }
        self.busy.insert(step)
    }

    /// The consumer has what it claimed, or somebody else is to try.
    pub(crate) fn settle(&mut self, step: u64, is_delivered: bool) {
        self.busy.remove(&step);
        if is_delivered {
            self.deliver += 1;
        } else {
            self.again.insert(step);
        }
    }

    /// What a thread made of the step it claimed.
    pub(crate) fn put(&mut self, step: u64, outcome: Result<Assembled, Error>) {
        self.busy.remove(&step);
        if let Ok(assembled) = &outcome {
            let bytes = assembled.buffer.bytes();
            self.ready_bytes += bytes;
            self.batch_bytes = self.batch_bytes.max(bytes);
        }
        self.ready.insert(step, outcome);
    }

    pub(crate) fn is_ready(&self, step: u64) -> bool {
        self.ready.contains_key(&step)
    }

    /// The outcome of a step that is ready, for which the consumer waited so long.
    pub(crate) fn take(&mut self, step: u64, waited: Duration) -> Option<Result<Assembled, Error>> {
        let outcome = self.ready.remove(&step)?;
        self.deepen(waited);
        match &outcome {
            Ok(assembled) => {
                self.ready_bytes -= assembled.buffer.bytes();
                self.deliver += 1;
            }
            Err(_) => self.retry(step),
        }
        Some(outcome)
    }

    /// Whether there is enough to do for idle threads to be woken.
    pub(crate) fn is_due(&self) -> bool {
        self.ready_bytes <= self.depth_bytes() / 2 || !self.again.is_empty()
    }

    /// The bytes of batches that may exist now.
    fn depth_bytes(&self) -> u64 {
        // One in the consumer's hands, one ready, and one under way on each thread.
        let least = (self.threads + 2) * self.batch_bytes;
        self.depth_bytes.max(least).min(self.buffer_bytes)
    }

    /// Whether one more batch may be begun beside those that are ready, under way and in the
    /// consumer's hands.
    fn has_room(&self) -> bool {
        let begun = self.busy.len() as u64 + 2;
        self.ready_bytes + begun * self.batch_bytes <= self.depth_bytes()
            || (self.ready.is_empty() && self.busy.is_empty())
    }

    /// More ahead may spare the consumer the next wait, if this one came although it was full.
    fn deepen(&mut self, waited: Duration) {
        if waited >= WAIT_MIN && self.was_full {
            self.depth_bytes = self.depth_bytes.saturating_mul(2).min(self.buffer_bytes);
            self.was_full = false;
        }
    }

    /// Tries `step` again, and every other that has failed: the cause is likely the same.
    fn retry(&mut self, step: u64) {
        self.again.insert(step);
        let failed = self.ready.iter().filter(|(_, outcome)| outcome.is_err());
        self.again.extend(failed.map(|(step, _)| *step));
        self.ready.retain(|_, outcome| outcome.is_ok());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// More ahead helps a consumer that waited for a batch although enough had been ready, up to
    /// the setting; it does not help one whose threads never catch up.
    #[test]
    fn the_depth_grows_when_a_full_buffer_did_not_spare_a_wait() {
        let most = 3 * DEPTH_START_BYTES;
        let settings = FeedSettings { buffer_bytes: most, ..FeedSettings::default() };
        let mut backlog = Backlog::at(0, 1, 1, &settings);
        backlog.deepen(WAIT_MIN);
        assert_eq!(backlog.depth_bytes, DEPTH_START_BYTES, "it was never full");
        backlog.was_full = true;
        backlog.deepen(WAIT_MIN / 2);
        assert_eq!(backlog.depth_bytes, DEPTH_START_BYTES, "nobody waited");
        backlog.deepen(WAIT_MIN);
        assert_eq!((backlog.depth_bytes, backlog.was_full), (2 * DEPTH_START_BYTES, false));
        backlog.was_full = true;
        backlog.deepen(WAIT_MIN);
        assert_eq!(backlog.depth_bytes, most);
    }
}
