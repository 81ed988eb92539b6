//! This node: its cores, memory, descriptors and clocks.
//!
//! Linux tells of memory and of shared memory; elsewhere those checks say that they are not known.

use std::{thread, time::Duration};

use forebay_runtime::{Runtime, available_memory_bytes};
use forebay_types::DigestWriter;
use rustix::process::{Resource, getrlimit};

use super::{Patient, Rates, finding::Findings, rate_of, size};
use crate::Error;

/// A feed has a descriptor open for each shard at hand, a lake one for each request in flight, and
/// the trainer its own.
const DESCRIPTORS_MIN: u64 = 4096;
/// What Docker gives a container unless it is told otherwise.
const SHARED_MEMORY_BYTES_MIN: u64 = (64 << 20) + 1;
/// How far wall clock and steady clock may drift apart while the doctor is at work.
const DRIFT_MS_MAX: u64 = 1000;
/// 2025-01-01: whoever says that it is earlier has a clock that was never set.
const UNIX_MS_MIN: u64 = 1_735_689_600_000;

pub(super) fn examine(
    patient: &Patient<'_>,
    found: &mut Findings,
    rates: &mut Rates,
) -> Result<(), Error> {
    cores(patient, found, rates);
    digest(patient, found, rates)?;
    memory(patient, found);
    descriptors(found);
    shared_memory(found);
    Ok(())
}

/// As many as the affinity and the quota of this process leave it.
fn cores(patient: &Patient<'_>, found: &mut Findings, rates: &mut Rates) {
    let cores = thread::available_parallelism().map_or(1, usize::from) as u32;
    let feed = &patient.settings.feed;
    rates.landings = feed.prefetch_threads.clamp(1, cores);
    let says = format!(
        "{cores} for this process; feed.threads is {}, feed.prefetch_threads {}",
        feed.threads, feed.prefetch_threads
    );
    if feed.threads > cores {
        let advice = format!("lower feed.threads to {cores} at most, or give the process more");
        found.warning("cores", says, advice);
    } else {
        found.ok("cores", says);
    }
}

fn digest(patient: &Patient<'_>, found: &mut Findings, rates: &mut Rates) -> Result<(), Error> {
    let mut seen = DigestWriter::new();
    let update = |piece: &[u8]| {
        seen.update(piece);
        Ok(())
    };
    let rate =
        patient.rate(patient.probe_bytes, || patient.in_pieces(patient.probe_bytes, update))?;
    rates.digest = Some(rate);
    found.ok("digest", format!("BLAKE3 {} on one core", rate_of(rate)));
    Ok(())
}

fn memory(patient: &Patient<'_>, found: &mut Findings) {
    let Some(available_bytes) = available_memory_bytes() else {
        found.ok("memory", "not known on this system");
        return;
    };
    let buffer_bytes = patient.settings.feed.buffer_bytes;
    let says = format!(
        "{} available; feed.buffer_bytes is {} for each rank",
        size(available_bytes),
        size(buffer_bytes)
    );
    if buffer_bytes > available_bytes {
        found.warning("memory", says, "lower feed.buffer_bytes, or free memory");
    } else {
        found.ok("memory", says);
    }
}

fn descriptors(found: &mut Findings) {
    match getrlimit(Resource::Nofile).current {
        Some(limit) if limit < DESCRIPTORS_MIN => found.warning(
            "descriptors",
            format!("{limit} open files at most"),
            format!("ulimit -n {DESCRIPTORS_MIN}, or the service's LimitNOFILE"),
        ),
        Some(limit) => found.ok("descriptors", format!("{limit} open files at most")),
        None => found.ok("descriptors", "any number of open files"),
    }
}

/// Captures of checkpoints lie there, so that they outlive their process; and what trains beside
/// Forebay takes some.
fn shared_memory(found: &mut Findings) {
    let Ok(status) = rustix::fs::statvfs("/dev/shm") else {
        found.ok("shared memory", "there is no /dev/shm");
        return;
    };
    let bytes = status.f_blocks.saturating_mul(status.f_frsize);
    let says = format!("/dev/shm has {}", size(bytes));
    if bytes < SHARED_MEMORY_BYTES_MIN {
        let advice = "what a save captures is lost with its process where it does not fit in, and \
                      NCCL and worker processes of PyTorch need some: start the container with \
                      --shm-size or --ipc=host";
        found.warning("shared memory", says, advice);
    } else {
        found.ok("shared memory", says);
    }
}

/// Both clocks at one moment.
pub(super) struct Clocks {
    wall_ms: u64,
    steady: Duration,
}

impl Clocks {
    pub(super) fn read(runtime: &Runtime) -> Self {
        Self { wall_ms: runtime.now().unix_ms(), steady: runtime.elapsed() }
    }

    /// Whether the clocks went on alike since they were read.
    pub(super) fn compare(&self, runtime: &Runtime, found: &mut Findings) {
        let now = Self::read(runtime);
        let advice = "run a time service; certificates, signatures and journals need the time";
        let passed_ms = (now.steady - self.steady).as_millis() as u64;
        let drift_ms = (self.wall_ms + passed_ms).abs_diff(now.wall_ms);
        if now.wall_ms < UNIX_MS_MIN {
            found.warning("clock", "the wall clock was never set", advice);
        } else if drift_ms > DRIFT_MS_MAX {
            let says = format!("the wall clock jumped by {drift_ms} ms in {passed_ms} ms");
            found.warning("clock", says, advice);
        } else {
            found.ok("clock", "wall clock and steady clock go alike");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wall_clock_that_jumps_is_noticed() {
        let runtime = Runtime::manual(1);
        let mut found = Findings::of(super::super::Area::Node);
        Clocks::read(&runtime).compare(&runtime, &mut found);
        let mut jumped = Clocks::read(&runtime);
        jumped.wall_ms -= 5000;
        jumped.compare(&runtime, &mut found);
        let states: Vec<_> = found.all.iter().map(|finding| finding.state).collect();
        assert_eq!(states, [super::super::State::Ok, super::super::State::Warning]);
    }
}
