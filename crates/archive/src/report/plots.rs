//! The plots of a report.

use forebay_format::v1::journal::{CheckpointCommitted, Step};

use super::{
    chart::{Chart, Told, WIDTH, ticks, trimmed},
    facts::Facts,
    series::{POINTS_MAX, Point, median, thin},
    text::{bytes, count, escape, number, seconds},
};

/// Checkpoints that get a row of their own; of more, the newest.
const CHECKPOINTS_MAX: usize = 24;

/// A key of a plot: the class of its colour and mark, and what it means.
fn key(class: &str, meaning: &str) -> String {
    format!("<span class=\"key {class}\"><span>{meaning}</span></span>")
}

fn figure(heading: &str, about: &str, keys: &[String], svg: &str) -> String {
    let keys = keys.concat();
    format!(
        "<section>\n<h2>{heading}</h2>\n<p class=\"soft\">{about}</p>\n<figure>\n\
         <figcaption>{keys}</figcaption>\n{svg}</figure>\n</section>\n"
    )
}

#[allow(clippy::cast_precision_loss, reason = "steps are far fewer than 2^53")]
fn xy(steps: &[&Step], y: impl Fn(&Step) -> f64) -> Vec<(f64, f64)> {
    steps.iter().map(|step| (step.step as f64, y(step))).collect()
}

/// First and last step, and one more, so that a last bar has room.
#[allow(clippy::cast_precision_loss, reason = "steps are far fewer than 2^53")]
fn step_range(facts: &Facts<'_>) -> (f64, f64) {
    let lost = facts.lost.values().flatten();
    let last = facts.steps.iter().chain(lost).map(|step| step.step).max().unwrap_or(0);
    let first = facts.steps.first().map_or(0, |step| step.step);
    (first as f64, (last + 1) as f64)
}

fn step_label(step: f64) -> String {
    count(step.max(0.0) as u64)
}

/// The loss of each step, the steps that were lost, and where the scores lie.
#[allow(clippy::cast_precision_loss, reason = "steps are far fewer than 2^53")]
pub(crate) fn loss(facts: &Facts<'_>) -> String {
    let curve = thin(&xy(&facts.steps, |step| step.loss));
    if curve.is_empty() {
        return String::new();
    }
    let lost: Vec<Vec<Point>> =
        facts.lost.values().map(|steps| thin(&xy(steps, |step| step.loss))).collect();
    let measures = facts.evaluated.map(|evaluated| &evaluated.measures);
    let entropy = measures.map(|measures| measures.unigram_entropy);
    let scored = facts.evaluated.map(|e| (e.step as f64, e.measures.loss));
    let scored = scored.filter(|(_, loss)| loss.is_finite());
    let all = curve.iter().chain(lost.iter().flatten()).flat_map(|point| [point.low, point.high]);
    let all: Vec<f64> = all.chain(entropy).chain(scored.map(|(_, loss)| loss)).collect();
    let low = all.iter().copied().fold(f64::INFINITY, f64::min);
    let high = all.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let room = (high - low) * 0.06;
    let mut chart = Chart::new(330.0, step_range(facts), ((low - room).max(0.0), high + room));
    chart.horizontals(number);
    let mut keys = vec![key("water", "training")];
    if let Some(entropy) = entropy {
        chart.level("violet", entropy);
        keys.push(key("violet", &format!("unigram entropy, {} nats", number(entropy))));
    }
    mark_crashes(&mut chart, facts);
    chart.curve("water", &curve);
    for points in &lost {
        chart.curve("amber", points);
    }
    mark_checkpoints(&mut chart, facts, &mut keys);
    if !lost.is_empty() {
        let steps = count(facts.lost_steps());
        keys.push(key("amber", &format!("lost to the crash and taken again, {steps} steps")));
    }
    for validated in &facts.validated {
        if validated.loss.is_finite() {
            chart.dot("green", validated.step as f64, validated.loss);
        }
    }
    if let Some((step, loss)) = scored {
        chart.dot("green", step, loss);
        keys.push(key("green dot", &format!("validation, {} nats", number(loss))));
    }
    chart.axis("step", true, step_label);
    let told = Told {
        id: "loss",
        title: "Loss of each step",
        description: loss_description(facts, &curve),
    };
    let about = "Mean loss per token of each step's batch, in nats.";
    figure("Loss", about, &keys, &chart.finish(&told))
}

fn loss_description(facts: &Facts<'_>, curve: &[Point]) -> String {
    let ends = curve.first().zip(curve.last());
    let mut text = ends.map_or_else(String::new, |(first, last)| {
        format!(
            "The training loss goes from {} at step {} to {} at step {}.",
            number(first.y),
            step_label(first.x),
            number(last.y),
            step_label(last.x)
        )
    });
    if let Some(evaluated) = facts.evaluated {
        let measures = &evaluated.measures;
        let (loss, entropy) = (number(measures.loss), number(measures.unigram_entropy));
        text += &format!(" The validation loss is {loss}, the unigram entropy {entropy}.");
    }
    for resumed in &facts.resumed {
        text += &format!(" It was resumed at step {}.", count(resumed.step));
    }
    text
}

/// A small mark on the axis for each checkpoint.
#[allow(clippy::cast_precision_loss, reason = "steps are far fewer than 2^53")]
fn mark_checkpoints(chart: &mut Chart, facts: &Facts<'_>, keys: &mut Vec<String>) {
    let spread = facts.checkpoints.len().div_ceil(POINTS_MAX).max(1);
    for checkpoint in facts.checkpoints.iter().step_by(spread) {
        let (x, bottom) = (chart.px(checkpoint.step as f64), chart.bottom());
        let (left, right, top) = (x - 4.0, x + 4.0, bottom - 7.0);
        chart.shape(format_args!(
            "<path class=\"fill ash\" d=\"M{left:.1} {bottom}L{right:.1} {bottom}L{x:.1} {top}Z\"/>"
        ));
    }
    if !facts.checkpoints.is_empty() {
        keys.push(key("ash block", "checkpoint"));
    }
}

/// Crashes and resumptions that a plot has room for.
const MARKS_MAX: usize = 8;

#[allow(clippy::cast_precision_loss, reason = "steps are far fewer than 2^53")]
fn mark_crashes(chart: &mut Chart, facts: &Facts<'_>) {
    for steps in facts.lost.values().take(MARKS_MAX) {
        if let Some((first, last)) = steps.first().zip(steps.last()) {
            chart.stretch("amber", first.step as f64, last.step as f64 + 1.0);
        }
    }
    for killed in facts.killed.iter().take(MARKS_MAX) {
        chart.event("red", killed.step as f64 + 1.0, "killed", false);
    }
    for resumed in facts.resumed.iter().take(MARKS_MAX) {
        let word = format!("resumed from step {}", count(resumed.step));
        chart.event("green", resumed.step as f64, &word, true);
    }
}

/// Tokens a second, step by step.
#[allow(clippy::cast_precision_loss, reason = "steps are far fewer than 2^53")]
pub(crate) fn throughput(facts: &Facts<'_>) -> String {
    let rate = |step: &Step| step.tokens as f64 / step.seconds.max(1e-9);
    let rates = xy(&facts.steps, rate);
    let curve = thin(&rates);
    if curve.is_empty() {
        return String::new();
    }
    let typical = median(rates.iter().map(|(_, rate)| *rate));
    // A first step that takes no measurable time must not flatten all others.
    let high = curve.iter().map(|point| point.y).fold(0.0, f64::max).min(typical * 3.0);
    let curve: Vec<_> = curve
        .into_iter()
        .map(|p| Point { y: p.y.min(high), low: p.low.min(high), high: p.high.min(high), ..p })
        .collect();
    let room = if facts.killed.is_empty() && facts.resumed.is_empty() { 1.08 } else { 1.22 };
    let mut chart = Chart::new(230.0, step_range(facts), (0.0, high * room));
    chart.horizontals(|rate| count(rate.max(0.0) as u64));
    chart.level("ash", typical);
    mark_crashes(&mut chart, facts);
    chart.curve("water", &curve);
    chart.axis("step", true, step_label);
    let typical = count(typical as u64);
    let told = Told {
        id: "throughput",
        title: "Tokens a second, step by step",
        description: format!("Half of the steps went faster than {typical} tokens a second."),
    };
    let keys = [key("water", "tokens a second"), key("ash", &format!("median, {typical}"))];
    let about = "Waiting, captures of checkpoints and everything else between two steps included.";
    figure("Throughput", about, &keys, &chart.finish(&told))
}

/// The colour of a cause of waiting.
fn cause_class(cause: &str) -> &'static str {
    match cause {
        "lake" => "red",
        "local" => "amber",
        "assembly" => "violet",
        _ => "ash",
    }
}

/// What each step waited for its batch.
pub(crate) fn waiting(facts: &Facts<'_>) -> String {
    if facts.steps.is_empty() {
        return String::new();
    }
    let stretch = facts.steps.len().div_ceil(POINTS_MAX).max(1);
    // The longest wait of each stretch, so that thinning hides none.
    let longest: Vec<&Step> = facts
        .steps
        .chunks(stretch)
        .filter_map(|steps| {
            steps.iter().copied().max_by(|a, b| a.waited_seconds.total_cmp(&b.waited_seconds))
        })
        .collect();
    let high = longest.iter().map(|step| step.waited_seconds).fold(0.0, f64::max);
    let waited: f64 = facts.steps.iter().map(|step| step.waited_seconds).sum();
    let total: f64 = facts.steps.iter().map(|step| step.seconds).sum();
    let share = if total > 0.0 { waited / total } else { 0.0 };
    let sum = format!(
        "{} of {} in all, {}",
        seconds(waited),
        seconds(total),
        super::text::percent(share)
    );
    let mut chart = Chart::new(200.0, step_range(facts), (0.0, (high * 1.1).max(1e-3)));
    chart.horizontals(seconds);
    for step in &longest {
        bar_of_wait(&mut chart, step, stretch);
    }
    chart.axis("step", true, step_label);
    let mut causes: Vec<_> = longest.iter().filter_map(|step| step.wait_cause.as_deref()).collect();
    causes.sort_unstable();
    causes.dedup();
    let mut keys: Vec<_> = causes
        .iter()
        .take(MARKS_MAX)
        .map(|cause| key(&format!("{} block", cause_class(cause)), &escape(cause)))
        .collect();
    keys.push(format!("<span>{sum}</span>"));
    let told = Told {
        id: "waiting",
        title: "How long each step waited for its batch",
        description: format!("Steps waited {sum}; the longest wait was {}.", seconds(high)),
    };
    let about = "How long each step waited for its batch, and for what it waited longest.";
    figure("Waiting for data", about, &keys, &chart.finish(&told))
}

#[allow(clippy::cast_precision_loss, reason = "steps are far fewer than 2^53")]
fn bar_of_wait(chart: &mut Chart, step: &Step, stretch: usize) {
    if step.waited_seconds > 0.0 {
        let class = cause_class(step.wait_cause.as_deref().unwrap_or_default());
        let from = step.step as f64;
        chart.bar(class, from, from + stretch as f64, 0.0, step.waited_seconds);
    }
}

/// What each checkpoint took, from its capture until it was durable.
pub(crate) fn checkpoints(facts: &Facts<'_>) -> String {
    let skipped = facts.checkpoints.len().saturating_sub(CHECKPOINTS_MAX);
    let shown = &facts.checkpoints[skipped..];
    if shown.is_empty() {
        return String::new();
    }
    let longest = shown.iter().map(|c| c.pause_seconds + c.durable_seconds).fold(0.0, f64::max);
    let chart = Rows::new(shown.len(), longest.max(1e-6));
    let svg = chart.draw(shown, facts.checkpoints.len());
    let keys = [
        key("red block", "pause: the trainer stands still"),
        key("amber block", "staging on the local tier"),
        key("water block", "draining to the lake and committing"),
    ];
    let about = if skipped == 0 {
        "From the start of each capture until the checkpoint was durable in the lake.".to_owned()
    } else {
        format!(
            "The newest {CHECKPOINTS_MAX}; {} before them are in the journal.",
            count(skipped as u64)
        )
    };
    figure("Checkpoints", &about, &keys, &svg)
}

/// Horizontal bars, one row each.
struct Rows {
    height: f64,
    longest: f64,
}

const ROW: f64 = 30.0;
const LABEL: f64 = 132.0;
const VALUE: f64 = 78.0;

impl Rows {
    #[allow(clippy::cast_precision_loss, reason = "at most CHECKPOINTS_MAX rows")]
    fn new(rows: usize, longest: f64) -> Self {
        Self { height: rows as f64 * ROW + 30.0, longest }
    }

    fn x(&self, seconds: f64) -> f64 {
        LABEL + seconds / self.longest * (WIDTH - LABEL - VALUE)
    }

    fn draw(&self, shown: &[&CheckpointCommitted], all: usize) -> String {
        let mut shapes = String::new();
        let bottom = self.height - 24.0;
        for tick in ticks((0.0, self.longest), 6) {
            let (x, low) = (self.x(tick), self.height - 7.0);
            shapes += &format!(
                "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"2\" y2=\"{bottom}\"/>\
                 <text x=\"{x:.1}\" y=\"{low}\" text-anchor=\"middle\">{}</text>\n",
                trimmed(&seconds(tick))
            );
        }
        for (row, checkpoint) in (0u32..).zip(shown) {
            shapes += &self.row(f64::from(row) * ROW, checkpoint);
        }
        let height = self.height;
        format!(
            "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
             aria-labelledby=\"checkpoints-t checkpoints-d\">\n\
             <title id=\"checkpoints-t\">What each checkpoint took</title>\n\
             <desc id=\"checkpoints-d\">{all} checkpoints; the table below has every \
             number.</desc>\n{shapes}</svg>\n"
        )
    }

    fn row(&self, top: f64, checkpoint: &CheckpointCommitted) -> String {
        let CheckpointCommitted { pause_seconds, stage_seconds, durable_seconds, .. } = *checkpoint;
        let end = pause_seconds + durable_seconds;
        let staged = (pause_seconds + stage_seconds).min(end);
        let (middle, high) = (top + ROW / 2.0 + 4.0, top + 7.0);
        let parts =
            [("red", 0.0, pause_seconds), ("amber", pause_seconds, staged), ("water", staged, end)];
        let bars = parts.map(|(class, from, to)| {
            let (left, width) = (self.x(from), (self.x(to) - self.x(from)).max(0.0));
            format!(
                "<rect class=\"fill {class}\" x=\"{left:.1}\" y=\"{high}\" width=\"{width:.1}\" \
                 height=\"16\"/>"
            )
        });
        format!(
            "<text class=\"name\" x=\"0\" y=\"{middle}\">step {}</text>\
             <text x=\"{}\" y=\"{middle}\" text-anchor=\"end\">{}</text>{}\
             <text x=\"{:.1}\" y=\"{middle}\">{}</text>\n",
            count(checkpoint.step),
            LABEL - 10.0,
            bytes(checkpoint.bytes),
            bars.concat(),
            self.x(end) + 8.0,
            seconds(end)
        )
    }
}
