//! What the tiers and a core do in a second, and which of that is the least.

use serde::Serialize;

/// Measured rates, in bytes per second; none where it could not be measured.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Rates {
    /// Reading an object from the lake, one request after the other.
    pub lake_read: Option<f64>,
    /// Reading an object from the lake with many requests in flight, as a fetch does.
    pub lake_read_parallel: Option<f64>,
    /// Writing one object to the lake, durably.
    pub lake_write: Option<f64>,
    /// Writing several objects at once.
    pub lake_write_parallel: Option<f64>,
    /// Writing a file of the local tier and syncing it: as fast as landing can go on.
    pub local_write: Option<f64>,
    /// Reading it again, from the disk where the system lets its cached pages go.
    pub local_read: Option<f64>,
    /// BLAKE3 on one core.
    pub digest: Option<f64>,
    /// Objects that land at once, each digested on a core of its own.
    pub landings: u32,
}

/// What can be the least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Reading from the lake.
    LakeRead,
    /// Verifying what lands.
    Digest,
    /// Writing to the local tier.
    LocalWrite,
    /// Reading from the local tier.
    LocalRead,
}

/// A rate that nothing can exceed, and what it is the rate of.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Bound {
    /// The step.
    pub step: Step,
    /// Its rate.
    pub bytes_per_second: f64,
}

/// What limits throughput.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Bounds {
    /// Data that must come from the lake first; none where a step on its way was not measured.
    pub cold: Option<Bound>,
    /// Data that is on the node.
    pub warm: Option<Bound>,
}

impl Rates {
    /// The smallest rate on each way.
    #[must_use]
    pub fn bounds(&self) -> Bounds {
        let digest = self.digest.map(|rate| rate * f64::from(self.landings));
        let way = [
            (Step::LakeRead, self.lake_read_parallel),
            (Step::Digest, digest),
            (Step::LocalWrite, self.local_write),
            (Step::LocalRead, self.local_read),
        ];
        let bound =
            |(step, rate): (Step, Option<f64>)| Some(Bound { step, bytes_per_second: rate? });
        let all: Option<Vec<Bound>> = way.into_iter().map(bound).collect();
        let least = |bounds: Vec<Bound>| {
            let by_rate = |one: &Bound, other: &Bound| {
                one.bytes_per_second.total_cmp(&other.bytes_per_second)
            };
            bounds.into_iter().min_by(by_rate)
        };
        Bounds { cold: all.and_then(least), warm: bound((Step::LocalRead, self.local_read)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_rate_is_the_limit() {
        let rates = Rates {
            lake_read_parallel: Some(300.0),
            digest: Some(200.0),
            landings: 2,
            local_write: Some(500.0),
            local_read: Some(900.0),
            ..Rates::default()
        };
        let bound = |step, bytes_per_second| Some(Bound { step, bytes_per_second });
        assert_eq!(rates.bounds().cold, bound(Step::LakeRead, 300.0));
        assert_eq!(rates.bounds().warm, bound(Step::LocalRead, 900.0));
        let one = Rates { landings: 1, ..rates };
        assert_eq!(one.bounds().cold, bound(Step::Digest, 200.0));
        let slow_disk = Rates { local_write: Some(100.0), ..rates };
        assert_eq!(slow_disk.bounds().cold, bound(Step::LocalWrite, 100.0));
    }

    #[test]
    fn nothing_is_said_of_a_way_that_was_not_measured_whole() {
        let rates = Rates { local_read: Some(900.0), ..Rates::default() };
        assert_eq!(rates.bounds().cold, None);
        assert!(rates.bounds().warm.is_some());
        assert_eq!(Rates::default().bounds().warm, None);
    }
}
