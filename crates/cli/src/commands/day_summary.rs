//! The end of a day: one block of lines, an hour each.

use std::{collections::BTreeMap, path::Path};

use forebay::{
    Engine, EvaluationRecord, Event, Settings,
    compare::Comparison,
    day::DayPlan,
    journal::{Entry, FeedSummary, Prepared, TrafficCounts},
};
use serde::Serialize;

use crate::{
    error::CommandError,
    printer::{bytes, reasons},
};

/// What a day came to.
#[derive(Debug, Serialize)]
pub struct DaySummary {
    pub run: String,
    pub seconds: f64,
    pub prepared: Option<Prepared>,
    pub training: Training,
    pub checkpoints: Checkpoints,
    pub comparison: Comparison,
    pub evaluation: EvaluationRecord,
    /// Bytes and requests between this node and the lake, by hour and purpose.
    pub traffic: BTreeMap<String, BTreeMap<String, TrafficCounts>>,
    /// What the local tier cached, held staged and held as scratch when the day ended, in bytes.
    pub local_bytes: [u64; 3],
    pub package: Option<String>,
}

/// Mid-day.
#[derive(Debug, Default, Serialize)]
pub struct Training {
    pub steps: u64,
    pub samples: u64,
    pub samples_per_second: f64,
    pub waited_seconds: BTreeMap<String, f64>,
    pub lake_bytes: u64,
    pub final_loss: f64,
    pub resumed_at_step: Option<u64>,
    pub resume_seconds: Option<f64>,
    pub killed_after_step: Option<u64>,
}

/// Afternoon.
#[derive(Debug, Default, Serialize)]
pub struct Checkpoints {
    pub committed: u64,
    pub bytes: u64,
    pub pause_seconds_max: f64,
    pub durable_seconds_max: f64,
}

impl DaySummary {
    pub fn new(
        engine: &Engine,
        plan: &DayPlan,
        evaluation: &EvaluationRecord,
        comparison: Comparison,
        package: Option<String>,
        seconds: f64,
    ) -> Result<Self, CommandError> {
        let entries = engine.entries(&plan.run)?;
        let usage = engine.local_usage()?;
        Ok(Self {
            run: plan.run.to_string(),
            seconds,
            prepared: newest(&entries, |event| match event {
                Event::Prepared(prepared) => Some(prepared.clone()),
                _ => None,
            }),
            training: Training::of(&entries),
            checkpoints: Checkpoints::of(&entries),
            comparison,
            evaluation: evaluation.clone(),
            traffic: traffic(&entries),
            local_bytes: [usage.cached_bytes, usage.staged_bytes, usage.scratch_bytes],
            package,
        })
    }

    /// The summary for people.
    pub fn text(&self, settings: &Settings, report: &Path) -> String {
        let mut lines = vec![format!("\nThe day of {} in {:.0} s", self.run, self.seconds)];
        lines.extend(self.prepared.as_ref().map(prepare_line));
        lines.push(self.training.line());
        lines.extend(self.training.resume_line());
        lines.push(self.checkpoints.line());
        lines.push(self.compare_line());
        lines.push(self.evaluate_line());
        lines.extend(self.traffic.iter().map(|(hour, purposes)| traffic_line(hour, purposes)));
        lines.push(match &self.package {
            Some(package) => format!("  archive      package {package} in {}", settings.store),
            None => "  archive      nothing: the gate was not passed".into(),
        });
        let held: u64 = self.local_bytes.iter().sum();
        lines.push(match held {
            0 => "  clear        the local tier is empty".into(),
            _ => format!("  clear        the local tier keeps {}", bytes(held)),
        });
        lines.push(format!("  report       {}", report.display()));
        lines.join("\n")
    }

    fn compare_line(&self) -> String {
        format!(
            "  compare      {} losses and {} tensors bit-identical to the uninterrupted run",
            self.comparison.losses, self.comparison.tensors
        )
    }

    fn evaluate_line(&self) -> String {
        let measures = &self.evaluation.measures;
        format!(
            "  evaluate     train loss {:.3}, validation loss {:.3} (unigram entropy {:.3}), perplexity \
             {:.2}, accuracy {:.1} %, gate {}",
            self.training.final_loss,
            measures.loss,
            measures.unigram_entropy,
            measures.perplexity,
            measures.accuracy * 100.0,
            if self.evaluation.passed { "passed" } else { "FAILED" }
        )
    }
}

fn prepare_line(prepared: &Prepared) -> String {
    format!(
        "  prepare      {} in, {} kept, {} dropped{}, {} quarantined{}; {} shards, {}, {:.1} s{}",
        prepared.read,
        prepared.kept,
        prepared.dropped.values().sum::<u64>(),
        reasons(&prepared.dropped),
        prepared.quarantined.values().sum::<u64>(),
        reasons(&prepared.quarantined),
        prepared.shards,
        bytes(prepared.shard_bytes),
        prepared.seconds,
        if prepared.reused { ", reused" } else { "" }
    )
}

fn traffic_line(hour: &str, purposes: &BTreeMap<String, TrafficCounts>) -> String {
    let moved = purposes.iter().map(|(purpose, counts)| {
        format!("{purpose} {} in {} out", bytes(counts.bytes_read), bytes(counts.bytes_written))
    });
    format!("  lake, {hour:<6} {}", moved.collect::<Vec<_>>().join("; "))
}

impl Training {
    fn of(entries: &[Entry]) -> Self {
        let mut training = Self::default();
        let mut seconds = 0.0;
        for entry in entries {
            match &entry.event {
                Event::FeedSummary(feed) => {
                    training.add(feed);
                    seconds += feed.seconds;
                }
                Event::Resumed(resumed) => {
                    training.resumed_at_step = Some(resumed.step);
                    training.resume_seconds = Some(resumed.seconds);
                }
                Event::Killed(killed) => training.killed_after_step = Some(killed.step),
                Event::Finished(finished) => {
                    training.steps = finished.steps;
                    training.final_loss = finished.loss;
                }
                _ => {}
            }
        }
        if seconds > 0.0 {
            training.samples_per_second = training.samples as f64 / seconds;
        }
        training
    }

    fn add(&mut self, feed: &FeedSummary) {
        self.samples += feed.samples;
        self.lake_bytes += feed.lake_bytes;
        for (cause, seconds) in &feed.waited_seconds {
            *self.waited_seconds.entry(cause.clone()).or_default() += seconds;
        }
    }

    fn line(&self) -> String {
        let waited: f64 = self.waited_seconds.values().sum();
        let causes: Vec<_> =
            self.waited_seconds.iter().map(|(cause, s)| format!("{cause} {s:.3}")).collect();
        format!(
            "  feed, train  {} steps, {:.0} samples/s, waited {waited:.3} s for data ({}), {} from the lake",
            self.steps,
            self.samples_per_second,
            causes.join(", "),
            bytes(self.lake_bytes)
        )
    }

    fn resume_line(&self) -> Option<String> {
        let (at, seconds) = (self.resumed_at_step?, self.resume_seconds?);
        let killed = self
            .killed_after_step
            .map_or_else(String::new, |step| format!("killed after step {step}, "));
        Some(format!("  crash        {killed}resumed at step {at} in {seconds:.3} s"))
    }
}

impl Checkpoints {
    fn of(entries: &[Entry]) -> Self {
        let mut checkpoints = Self::default();
        for entry in entries {
            if let Event::CheckpointCommitted(saved) = &entry.event {
                checkpoints.committed += 1;
                checkpoints.bytes = saved.bytes;
                checkpoints.pause_seconds_max =
                    checkpoints.pause_seconds_max.max(saved.pause_seconds);
                checkpoints.durable_seconds_max =
                    checkpoints.durable_seconds_max.max(saved.durable_seconds);
            }
        }
        checkpoints
    }

    fn line(&self) -> String {
        format!(
            "  checkpoint   {} committed, {} each, paused at most {:.1} ms, durable in at most {:.0} ms",
            self.committed,
            bytes(self.bytes),
            self.pause_seconds_max * 1e3,
            self.durable_seconds_max * 1e3
        )
    }
}

fn newest<T>(entries: &[Entry], wanted: impl Fn(&Event) -> Option<T>) -> Option<T> {
    entries.iter().rev().find_map(|entry| wanted(&entry.event))
}

fn traffic(entries: &[Entry]) -> BTreeMap<String, BTreeMap<String, TrafficCounts>> {
    let mut hours: BTreeMap<String, BTreeMap<String, TrafficCounts>> = BTreeMap::new();
    for entry in entries {
        if let Event::Traffic(traffic) = &entry.event {
            let hour = hours.entry(traffic.stage.clone()).or_default();
            for (purpose, counts) in &traffic.purposes {
                let sum = hour.entry(purpose.clone()).or_default();
                sum.reads += counts.reads;
                sum.writes += counts.writes;
                sum.bytes_read += counts.bytes_read;
                sum.bytes_written += counts.bytes_written;
                sum.retries += counts.retries;
            }
        }
    }
    hours
}
