//! Measures a workload against its limit: the least that the machine could need for it.
//!
//! Subject and limits take turns, round after round, so that whatever else the machine does meets
//! all of them alike; each round gives one ratio, and the median of the ratios is the result.
//! A time without a limit beside it says more about the machine than about Forebay. (The usual
//! harnesses run one subject after the other and report times, so this page replaces them.)
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `FOREBAY_BENCH_BYTES` | bytes a workload moves in a round | 64 MiB |
//! | `FOREBAY_BENCH_ROUNDS` | rounds, after one that warms up | 9 |
//! | `FOREBAY_BENCH_DIRECTORY` | where files are written | the system's temporary directory |

mod contest;
mod scratch;

use std::{fmt::Display, str::FromStr, time::Duration};

use forebay_runtime::Runtime;

pub use contest::{Contest, Work};
pub use scratch::Scratch;

/// What all workloads share: the clock and the sizes.
#[derive(Clone, Debug)]
pub struct Bench {
    runtime: Runtime,
    bytes: usize,
    rounds: usize,
}

impl Bench {
    /// Sizes from the environment, and a heading for this program's results.
    ///
    /// # Panics
    /// When a variable is no number.
    #[must_use]
    pub fn begin(name: &str) -> Self {
        let bytes = variable("FOREBAY_BENCH_BYTES", 64 << 20);
        let rounds = variable("FOREBAY_BENCH_ROUNDS", 9);
        println!("\n{name}");
        Self { runtime: Runtime::system(), bytes: bytes.max(1 << 20), rounds: rounds.max(1) }
    }

    /// The runtime everything runs on.
    #[must_use]
    pub const fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// Bytes a workload moves in a round.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// How long `work` takes; what it returns is kept from being optimized away.
    pub fn time<T>(&self, work: impl FnOnce() -> T) -> Duration {
        let watch = self.runtime.stopwatch();
        std::hint::black_box(work());
        watch.elapsed()
    }

    /// The processor time of all threads of this process so far, the kernel's work for it included.
    #[must_use]
    pub fn processor_time(&self) -> Duration {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
    }

    /// A workload called `name`, to be measured.
    #[must_use]
    pub fn contest<'a>(&self, name: &'a str, work: Work) -> Contest<'a> {
        Contest::new(name, work, self.rounds)
    }
}

fn variable<T: FromStr<Err: Display>>(name: &str, default: T) -> T {
    let Ok(text) = std::env::var(name) else { return default };
    text.parse().unwrap_or_else(|error| panic!("{name}={text} is no number: {error}"))
}
