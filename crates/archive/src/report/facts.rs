//! What a report tells, gathered from the entries of a journal in one pass.

use std::collections::BTreeMap;

use forebay_format::v1::journal::{
    Archived, CheckpointCommitted, Cleared, Entry, Evaluated, Event, FeedSummary, Finished, Host,
    Killed, Prepared, Resumed, Step, TrafficCounts, Validated, Verified,
};

/// What a run did, by kind. Of what happens once, the last time counts.
#[derive(Default)]
pub(crate) struct Facts<'a> {
    pub prepared: Option<&'a Prepared>,
    pub host: Option<&'a Host>,
    pub resumed: Vec<&'a Resumed>,
    pub killed: Vec<&'a Killed>,
    /// Each step once, as last taken, ascending.
    pub steps: Vec<&'a Step>,
    /// Steps that a crash threw away, by attempt.
    pub lost: BTreeMap<u32, Vec<&'a Step>>,
    pub validated: Vec<&'a Validated>,
    pub checkpoints: Vec<&'a CheckpointCommitted>,
    pub feeds: Vec<&'a FeedSummary>,
    pub traffic: BTreeMap<String, BTreeMap<String, TrafficCounts>>,
    pub finished: Option<&'a Finished>,
    pub evaluated: Option<&'a Evaluated>,
    pub archived: Option<&'a Archived>,
    pub verified: Option<&'a Verified>,
    pub cleared: Option<&'a Cleared>,
    /// When the first and the last entry were recorded.
    pub span_unix_ms: Option<(u64, u64)>,
}

impl<'a> Facts<'a> {
    pub(crate) fn of(entries: &'a [Entry]) -> Self {
        let mut facts = Self {
            span_unix_ms: entries.first().zip(entries.last()).map(|(a, b)| (a.unix_ms, b.unix_ms)),
            ..Self::default()
        };
        let timeline = forebay_journal::timeline(entries);
        timeline.counted.iter().for_each(|entry| facts.count(&entry.event));
        for entry in timeline.superseded {
            if let Event::Step(step) = &entry.event {
                facts.lost.entry(entry.attempt).or_default().push(step);
            }
        }
        facts
    }

    fn count(&mut self, event: &'a Event) {
        match event {
            Event::Prepared(prepared) => self.prepared = Some(prepared),
            Event::RunStarted(started) => self.host = Some(&started.host),
            Event::Resumed(resumed) => self.resumed.push(resumed),
            Event::Step(step) => self.steps.push(step),
            Event::Validated(validated) => self.validated.push(validated),
            Event::CheckpointCommitted(checkpoint) => self.checkpoints.push(checkpoint),
            Event::Killed(killed) => self.killed.push(killed),
            Event::FeedSummary(feed) => self.feeds.push(feed),
            Event::Traffic(traffic) => {
                let stage = self.traffic.entry(traffic.stage.clone()).or_default();
                for (purpose, counts) in &traffic.purposes {
                    add(stage.entry(purpose.clone()).or_default(), counts);
                }
            }
            Event::Finished(finished) => self.finished = Some(finished),
            Event::Evaluated(evaluated) => self.evaluated = Some(evaluated),
            Event::Archived(archived) => self.archived = Some(archived),
            Event::Verified(verified) => self.verified = Some(verified),
            Event::Cleared(cleared) => self.cleared = Some(cleared),
        }
    }

    /// Seconds waited for data, by the main cause of each step's wait.
    ///
    /// Summed over the steps and not over the feeds' own summaries: a feed that was killed left
    /// none.
    pub(crate) fn waited(&self) -> BTreeMap<&'a str, f64> {
        let mut waited = BTreeMap::new();
        for step in self.steps.iter().filter(|step| step.waited_seconds > 0.0) {
            let cause = step.wait_cause.as_deref().unwrap_or("other");
            *waited.entry(cause).or_default() += step.waited_seconds;
        }
        waited
    }

    pub(crate) fn lost_steps(&self) -> u64 {
        self.lost.values().map(|steps| steps.len() as u64).sum()
    }
}

fn add(sum: &mut TrafficCounts, counts: &TrafficCounts) {
    sum.reads += counts.reads;
    sum.writes += counts.writes;
    sum.bytes_read += counts.bytes_read;
    sum.bytes_written += counts.bytes_written;
    sum.retries += counts.retries;
}
