//! The lake: reached, committed to, and how fast.

use std::{
    io::Write,
    sync::atomic::{AtomicU64, Ordering},
};

use forebay_lake::{Error as LakeError, Lake, Listed, Purpose};
use forebay_runtime::Runtime;
use forebay_types::Key;

use super::{PIECE_BYTES, Patient, Rates, STREAMS, finding::Findings, rate_of};
use crate::Error;

/// How far the lake's clock may be from ours. S3 refuses requests at fifteen minutes; what is left
/// of dead writers is removed by age, in hours.
const SKEW_SECONDS_MAX: f64 = 30.0;
/// Times of objects are given to the second by some stores.
const SKEW_UNSEEN_MS: u64 = 1000;

pub(super) fn examine(
    patient: &Patient<'_>,
    found: &mut Findings,
    rates: &mut Rates,
) -> Result<(), Error> {
    let store = &patient.settings.store;
    let lake = match Lake::open_existing(store, patient.runtime) {
        Ok(lake) => lake,
        Err(error) => {
            let advice = "check --store, or make it: the first `forebay day`, `prepare` or `index` \
                          that names it does";
            return found.error("reached", error.into(), advice);
        }
    };
    found.ok("reached", lake.url());
    // What was begun is removed, also when we were stopped meanwhile: a handle whose runtime is
    // stopped makes no more requests, so this one has its own.
    let own = Runtime::system();
    let tidy = match Lake::open_existing(store, &own) {
        Ok(tidy) => tidy,
        Err(error) => return found.error("reached", error.into(), "try again"),
    };
    match tidy.probe(&own) {
        Ok(true) => found.ok("commits", "of two creates of one object the second is refused"),
        Ok(false) => {
            let advice = "feeding works; to prepare, checkpoint and archive, and to measure it \
                          here, allow writing";
            found.warning("commits", "it can be read and not written", advice);
            return Ok(());
        }
        Err(error) => {
            let advice = "a lake needs a store that honours create-only-if-absent; check access \
                          rights and the store's version";
            return found.error("commits", error.into(), advice);
        }
    }
    let mut probes = Probes { patient, lake, tidy, keys: Vec::new() };
    let outcome = probes.examine(found, rates);
    let removed = probes.remove();
    if let Err(error) = outcome {
        let advice = "check the connection, access rights and quotas";
        found.error("throughput", error, advice)?;
    }
    if let Err(error) = removed {
        found.error("removal", error.into(), "remove the objects under probe/ by hand")?;
    }
    Ok(())
}

/// Objects that go with this value.
struct Probes<'a> {
    patient: &'a Patient<'a>,
    lake: Lake,
    /// The handle that removes them.
    tidy: Lake,
    keys: Vec<Key>,
}

impl Probes<'_> {
    fn examine(&mut self, found: &mut Findings, rates: &mut Rates) -> Result<(), Error> {
        let bytes = self.patient.probe_bytes;
        let skew = self.skew_seconds()?;
        match skew {
            Some(skew) if skew.abs() > SKEW_SECONDS_MAX => found.warning(
                "clock",
                format!("the lake's clock is {skew:+.0} s from this node's"),
                "run a time service on both",
            ),
            Some(_) => found.ok("clock", "agrees with this node's"),
            None => found.ok("clock", "not known: the lake does not list what was just written"),
        }

        let one = self.keys(1);
        let written = self.patient.rate(bytes, || self.write(&one, bytes))?;
        let read = self.patient.rate(bytes, || self.read(&one[0], bytes, 1))?;
        let read_parallel = self.patient.rate(bytes, || self.read(&one[0], bytes, STREAMS))?;
        let several = self.keys(STREAMS);
        let each = bytes.div_ceil(STREAMS as u64);
        let all = each * STREAMS as u64;
        let written_parallel = self.patient.rate(all, || self.write(&several, each))?;
        rates.lake_write = Some(written);
        rates.lake_read = Some(read);
        rates.lake_read_parallel = Some(read_parallel);
        rates.lake_write_parallel = Some(written_parallel);
        let cached = if self.lake.url().starts_with("file:") {
            " (what was just written may come from this machine's memory)"
        } else {
            ""
        };
        found.ok(
            "read",
            format!("{}, {STREAMS} streams {}{cached}", rate_of(read), rate_of(read_parallel)),
        );
        found.ok(
            "write",
            format!("{}, {STREAMS} streams {}", rate_of(written), rate_of(written_parallel)),
        );
        Ok(())
    }

    /// New keys, to be removed.
    fn keys(&mut self, count: usize) -> Vec<Key> {
        let key = |_| {
            let nonce = self.patient.runtime.nonce();
            Key::new(format!("probe/{nonce}")).expect("a nonce makes a sound key")
        };
        let keys: Vec<Key> = (0..count).map(key).collect();
        self.keys.extend(keys.iter().cloned());
        keys
    }

    /// How far the lake's clock is ahead of ours, as far as the time it gives a small object shows.
    /// (The time of a large one is when its upload began.)
    fn skew_seconds(&mut self) -> Result<Option<f64>, Error> {
        let key = self.keys(1).remove(0);
        let now = || self.patient.runtime.now().unix_ms();
        let before = now();
        self.lake.write(&key, Purpose::Manifest, b"what time is it")?;
        let after = now();
        let mut modified = None;
        self.lake.list(key.as_str(), &mut |listed: Listed| {
            modified = (listed.key == key).then_some(listed.modified_unix_ms).or(modified);
            Ok(())
        })?;
        Ok(modified.map(|modified| skew_seconds(before, after, modified)))
    }

    /// Writes every object on a thread of its own.
    fn write(&self, keys: &[Key], bytes: u64) -> Result<(), Error> {
        self.patient.runtime.workers("probe", keys.len(), |index| {
            let key = &keys[index];
            let mut writer = self.lake.writer(key, Purpose::Source)?;
            self.patient.in_pieces(bytes, |piece| {
                writer.write_all(piece).map_err(|source| self.unwritten(key, source))
            })?;
            writer.finish()?;
            Ok(())
        })
    }

    fn unwritten(&self, key: &Key, source: std::io::Error) -> Error {
        let (key, place) = (key.clone(), self.lake.url().to_owned());
        LakeError::Object { act: "write", key, place, source }.into()
    }

    /// Reads an object with `streams` requests in flight.
    fn read(&self, key: &Key, bytes: u64, streams: usize) -> Result<(), Error> {
        let next = AtomicU64::new(0);
        self.patient.runtime.workers("probe", streams, |_| {
            let mut buffer = vec![0; PIECE_BYTES];
            loop {
                self.patient.runtime.check()?;
                let offset = next.fetch_add(PIECE_BYTES as u64, Ordering::Relaxed);
                if offset >= bytes {
                    return Ok(());
                }
                let length = (bytes - offset).min(PIECE_BYTES as u64) as usize;
                self.lake.read_range(key, Purpose::Source, offset, &mut buffer[..length])?;
            }
        })
    }

    /// Removes every object; tries all of them.
    fn remove(&mut self) -> Result<(), LakeError> {
        self.keys.drain(..).map(|key| self.tidy.delete(&key).map(drop)).fold(Ok(()), Result::and)
    }
}

impl Drop for Probes<'_> {
    fn drop(&mut self) {
        // After a panic alone: otherwise there is nothing left to remove.
        if !self.keys.is_empty() {
            let _reported_nowhere = self.remove();
        }
    }
}

/// How far a clock that said `modified` between `before` and `after` is ahead; negative if behind.
fn skew_seconds(before: u64, after: u64, modified: u64) -> f64 {
    let ahead = modified.saturating_sub(after);
    let behind = before.saturating_sub(modified).saturating_sub(SKEW_UNSEEN_MS);
    (ahead as f64 - behind as f64) / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_to_the_second_is_not_behind() {
        assert_eq!(skew_seconds(10_900, 11_100, 10_000), 0.0);
        assert_eq!(skew_seconds(10_900, 11_100, 11_000), 0.0);
        assert_eq!(skew_seconds(10_900, 11_100, 71_100), 60.0);
        assert_eq!(skew_seconds(70_900, 71_100, 9_900), -60.0);
    }
}
