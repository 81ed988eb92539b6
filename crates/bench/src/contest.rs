//! One workload and its limits, measured in turns.

use std::{fmt, time::Duration};

/// What one round does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Moves this many bytes.
    Bytes(u64),
    /// Makes this many calls.
    Calls(u64),
}

/// Does the work of one round and says how long it took; what it prepares is not counted.
type Trial<'a> = Box<dyn FnMut() -> Duration + 'a>;

/// A workload beside its limits.
pub struct Contest<'a> {
    name: &'a str,
    work: Work,
    rounds: usize,
    contestants: Vec<(&'a str, Trial<'a>)>,
}

impl<'a> Contest<'a> {
    pub(crate) const fn new(name: &'a str, work: Work, rounds: usize) -> Self {
        Self { name, work, rounds, contestants: Vec::new() }
    }

    /// Adds a contestant: first the subject, then each of its limits.
    #[must_use]
    pub fn with(mut self, name: &'a str, trial: impl FnMut() -> Duration + 'a) -> Self {
        self.contestants.push((name, Box::new(trial)));
        self
    }

    /// Measures all contestants in turns, and prints what came out.
    ///
    /// # Panics
    /// Without a subject.
    pub fn run(mut self) {
        let rounds = self.measure();
        let columns: Vec<Vec<f64>> = (0..self.contestants.len())
            .map(|column| rounds.iter().map(|round| round[column]).collect())
            .collect();
        let subject = columns.first().expect("a contest has a subject");
        let speed = self.work.speed(median(subject));
        println!("  {:<34} {speed:>14}   spread {:.0} %", self.name, spread(subject) * 100.0);
        for ((name, _), limit) in self.contestants.iter().zip(&columns).skip(1) {
            let ratios: Vec<f64> =
                limit.iter().zip(subject).map(|(limit, own)| limit / own).collect();
            let speed = self.work.speed(median(limit));
            let (ratio, spread) = (median(&ratios), spread(&ratios) * 100.0);
            println!("    {ratio:>6.2} of {name:<25} {speed:>14}   spread {spread:.0} %");
        }
    }

    /// Seconds of each contestant in each round, without the first round, which warms up.
    fn measure(&mut self) -> Vec<Vec<f64>> {
        let mut round = |_| {
            let times = self.contestants.iter_mut().map(|(_, trial)| trial().as_secs_f64());
            times.collect::<Vec<_>>()
        };
        (0..=self.rounds).map(&mut round).skip(1).collect()
    }
}

impl fmt::Debug for Contest<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Contest").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Work {
    fn speed(self, seconds: f64) -> String {
        match self {
            Self::Bytes(bytes) => format!("{:.2} GB/s", bytes as f64 / seconds / 1e9),
            Self::Calls(calls) => match seconds / calls as f64 {
                short if short < 1e-5 => format!("{:.1} ns/call", short * 1e9),
                short if short < 1e-2 => format!("{:.1} µs/call", short * 1e6),
                long => format!("{:.1} ms/call", long * 1e3),
            },
        }
    }
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

fn median(values: &[f64]) -> f64 {
    sorted(values)[values.len() / 2]
}

/// The distance between the quartiles, as a share of the median.
fn spread(values: &[f64]) -> f64 {
    let sorted = sorted(values);
    let quartile = |quarter: usize| sorted[(sorted.len() - 1) * quarter / 4];
    (quartile(3) - quartile(1)) / median(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_spreads_ignore_a_lone_outlier() {
        let values = [1.0, 99.0, 1.1, 0.9, 1.0];
        assert_eq!(median(&values), 1.0);
        assert!((spread(&values) - 0.1).abs() < 1e-9, "{}", spread(&values));
    }

    #[test]
    fn contestants_take_turns_and_the_first_round_is_left_out() {
        let turns = std::cell::RefCell::new(String::new());
        let trial = |letter, milliseconds| {
            let turns = &turns;
            move || {
                turns.borrow_mut().push(letter);
                Duration::from_millis(milliseconds)
            }
        };
        let contest = Contest::new("n", Work::Bytes(1), 2);
        let mut contest = contest.with("a", trial('a', 1)).with("b", trial('b', 2));
        assert_eq!(contest.measure(), [[0.001, 0.002], [0.001, 0.002]]);
        drop(contest);
        assert_eq!(turns.into_inner(), "ababab");
    }
}
