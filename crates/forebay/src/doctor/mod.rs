//! Whether this node, its lake and its local tier are fit for work, and what limits them.
//!
//! Every check is one [`Finding`]: what was found, and what to do about it. A check that fails does
//! not keep the others from being made. Rates are measured with bytes that do not compress, in
//! probes of a bounded size.
//!
//! # Bounds
//! Twice `probe_bytes` in the lake, once on the local tier, there within its budget like all other
//! scratch; nine pieces of 4 MiB of memory.
//!
//! # What is left
//! Nothing: objects and files are removed when the check is over, failed or was stopped, and a tier
//! that was not there is not there afterwards. A doctor who is killed leaves objects, or an upload
//! that was not completed, under `probe/`, which nothing ever reads, and scratch that the next open
//! of the tier removes.

mod finding;
mod lake;
mod local;
mod node;
mod rates;

use forebay_runtime::{Random, Runtime};
use forebay_types::ErrorKind;
use serde::Serialize;

use crate::{Error, Settings};
use finding::Findings;
pub use finding::{Area, Finding, State};
pub use rates::{Bound, Bounds, Rates, Step};

/// The size of probes unless another is asked for: long enough for a request's latency not to
/// matter.
pub const PROBE_BYTES_DEFAULT: u64 = 64 << 20;
/// Requests in flight where the lake is read and written in parallel: two fetches, the prefetching
/// of default settings, have as many.
const STREAMS: usize = 8;
/// What is read and written at once, as fetches do.
const PIECE_BYTES: usize = 4 << 20;

/// Everything the doctor has to say.
#[derive(Clone, Debug, Serialize)]
pub struct Diagnosis {
    /// Every check, in the order they were made.
    pub findings: Vec<Finding>,
    /// What was measured.
    pub rates: Rates,
    /// What limits throughput.
    pub bounds: Bounds,
}

/// What every part of the examination is given.
struct Patient<'a> {
    settings: &'a Settings,
    probe_bytes: u64,
    /// A piece that does not compress.
    piece: Vec<u8>,
    runtime: &'a Runtime,
}

/// Makes the checks of one area. What goes wrong is a finding; only an interruption is an error.
type Examine = fn(&Patient<'_>, &mut Findings, &mut Rates) -> Result<(), Error>;

/// Examines the lake and the local tier that `settings` name, and this node. Calls `begin` before
/// each area.
///
/// # Errors
/// [`ErrorKind::Invalid`] for probes of nothing, [`ErrorKind::Interrupted`] when it was stopped.
/// Whatever else goes wrong is a finding.
pub fn examine(
    settings: &Settings,
    probe_bytes: u64,
    runtime: &Runtime,
    begin: &dyn Fn(Area),
) -> Result<Diagnosis, Error> {
    if probe_bytes == 0 {
        let (value, why) = ("0".into(), "measure with at least one byte".into());
        return Err(Error::Setting { setting: "probe_bytes", value, why });
    }
    let mut random = Random::new(0);
    let piece = (0..PIECE_BYTES / 8).flat_map(|_| random.next_u64().to_le_bytes()).collect();
    let patient = Patient { settings, probe_bytes, piece, runtime };
    let mut rates = Rates::default();
    let mut findings = Vec::new();
    // Read first, so that the clocks are compared over the whole examination.
    let clocks = node::Clocks::read(runtime);
    for (area, examine) in [
        (Area::Lake, lake::examine as Examine),
        (Area::Local, local::examine),
        (Area::Node, node::examine),
    ] {
        begin(area);
        let mut found = Findings::of(area);
        examine(&patient, &mut found, &mut rates)?;
        if area == Area::Node {
            clocks.compare(runtime, &mut found);
        }
        findings.append(&mut found.all);
    }
    Ok(Diagnosis { findings, rates, bounds: rates.bounds() })
}

impl Diagnosis {
    /// Nothing, if nothing failed.
    ///
    /// # Errors
    /// [`Error::Unfit`], of the kind of the first failure.
    pub fn require_fit(&self) -> Result<(), Error> {
        let failures = self.findings.iter().filter(|finding| finding.state == State::Failure);
        let Some(first) = failures.clone().next() else { return Ok(()) };
        Err(Error::Unfit {
            count: failures.count(),
            first: first.found.clone(),
            kind: first.kind.unwrap_or(ErrorKind::Unavailable),
        })
    }
}

impl Patient<'_> {
    /// Calls `write` with pieces of together `bytes`.
    fn in_pieces(
        &self,
        bytes: u64,
        mut write: impl FnMut(&[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut left = bytes;
        while left > 0 {
            self.runtime.check()?;
            let piece = &self.piece[..left.min(PIECE_BYTES as u64) as usize];
            write(piece)?;
            left -= piece.len() as u64;
        }
        Ok(())
    }

    /// Does `work`, which moves `bytes`; returns how many of them in a second.
    fn rate(&self, bytes: u64, work: impl FnOnce() -> Result<(), Error>) -> Result<f64, Error> {
        let watch = self.runtime.stopwatch();
        work()?;
        // A clock that did not move: then the rate is as high as can be said.
        Ok(bytes as f64 / watch.seconds().max(f64::EPSILON))
    }
}

/// A rate, for people: in powers of ten, as disks and networks are sold.
fn rate_of(bytes_per_second: f64) -> String {
    format!("{:.0} MB/s", bytes_per_second / 1e6)
}

/// A size, for people.
fn size(bytes: u64) -> String {
    if bytes < 1 << 30 {
        format!("{:.1} MiB", bytes as f64 / 1_048_576.0)
    } else {
        format!("{:.1} GiB", bytes as f64 / 1_073_741_824.0)
    }
}
