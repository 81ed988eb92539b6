//! `MODEL_CARD.md`: what a person wants to know first.

use std::fmt::Write as _;

use crate::{report, story::Story};

/// Source objects that are named; the rest are counted.
const SOURCES_MAX: usize = 50;

/// The model card. Every number in it was measured by us.
pub(crate) fn markdown(story: &Story, parameters: u64) -> String {
    let mut card = String::new();
    let mut add = |text: String| {
        card.push_str(&text);
        card.push('\n');
    };
    add(head(story, parameters));
    add(scores(story));
    add(data(story));
    add(training(story));
    add(FILES.into());
    card
}

const FILES: &str = "\
## Files

| file | what |
|---|---|
| `weights.safetensors` | the weights; in checkpoints their names start with `model.` |
| `config.json` | every resolved setting |
| `run.json` | what the run set out to do, its gate included, written before the first step |
| `journal.jsonl` | the complete log, one event a line |
| `metrics.csv` | one line for each step |
| `evaluation.json` | the scores, and each rule of the gate |
| `lineage.json` | dataset, sources, recipe and order: what leads from any step to its raw records |
| `report.html` | tables and plots; opens offline |
| `SHA256SUMS` | `sha256sum -c SHA256SUMS` verifies the package without Forebay |";

fn head(story: &Story, parameters: u64) -> String {
    let (run, evaluation) = (&story.run, &story.evaluation);
    format!(
        "# {run}\n\n{parameters} parameters, trained by {trainer} for {step} steps on {dataset}@{version}.\n",
        run = run.run,
        trainer = cell(&run.trainer),
        step = evaluation.step,
        dataset = run.dataset.name,
        version = run.dataset.version.number(),
    )
}

fn scores(story: &Story) -> String {
    let evaluation = &story.evaluation;
    let measures = &evaluation.measures;
    let mut text = format!(
        "## Scores\n\n{} samples of split `{}`, {} predictions, {} at once, on {} ({}).\n\n\
         | measure | value |\n|---|---|\n\
         | loss | {:.4} nats |\n| perplexity | {:.3} |\n| accuracy | {:.2} % |\n\
         | unigram entropy of the same tokens | {:.4} nats |\n",
        measures.samples,
        evaluation.split,
        measures.predictions,
        evaluation.batch_size,
        cell(&evaluation.host.device),
        cell(&evaluation.host.system),
        measures.loss,
        measures.perplexity,
        measures.accuracy * 100.0,
        measures.unigram_entropy,
    );
    if let Some(bits) = measures.bits_per_byte {
        line(&mut text, format_args!("| bits per byte | {bits:.4} |"));
    }
    text.push_str("\nThe gate, fixed before the first step:\n\n");
    text.push_str("| rule | limit | measured | |\n|---|---|---|---|\n");
    for outcome in &evaluation.rules {
        let verdict = if outcome.passed { "passed" } else { "failed" };
        let (rule, limit, measured) = (outcome.rule, outcome.limit, outcome.measured);
        line(&mut text, format_args!("| `{rule}` | {limit} | {measured:.4} | {verdict} |"));
    }
    text
}

fn data(story: &Story) -> String {
    let (dataset, held_out) = (&story.dataset, &story.evaluation.held_out);
    let counts = &dataset.counts;
    let mut text = format!(
        "## Data\n\n{} raw records were read and {} kept. Rows of {} tokens, {} of them for \
         training. The {} records behind the scored samples are in no training sample; all were \
         compared.\n\nManifest `{}`, made from:\n\n",
        counts.read,
        counts.kept,
        dataset.schema.row_tokens,
        held_out.training_rows,
        held_out.scored_records,
        story.run.dataset.digest,
    );
    for source in dataset.sources.iter().take(SOURCES_MAX) {
        let (name, bytes, digest) = (cell(&source.name), source.bytes, source.digest);
        line(&mut text, format_args!("- {name}, {bytes} bytes, BLAKE3 `{digest}`"));
    }
    if let Some(more) = dataset.sources.len().checked_sub(SOURCES_MAX).filter(|more| *more > 0) {
        line(&mut text, format_args!("- {more} more, named in `lineage.json`"));
    }
    text
}

fn training(story: &Story) -> String {
    let (run, evaluation) = (&story.run, &story.evaluation);
    format!(
        "## Training\n\nRun `{}`, begun {}, seed {}. Checkpoint at step {}, commit `{}`. Settings \
         `{}`.\n",
        run.run,
        report::moment(run.created_unix_ms),
        run.seed,
        evaluation.step,
        evaluation.checkpoint,
        run.configuration_digest,
    )
}

/// A text that others chose, unable to become markup or another line.
fn cell(text: &str) -> String {
    let mut cell = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' | '`' | '*' | '_' | '[' | ']' | '<' | '>' | '|' | '#' | '!' | '&' => {
                cell.extend(['\\', c]);
            }
            c if c.is_control() => cell.push(' '),
            c => cell.push(c),
        }
    }
    cell
}

fn line(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    writeln!(text, "{arguments}").expect("writing to a string does not fail");
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_cannot_become_markup() {
        let hostile = "<script>\n# [x](http://y) | `z`";
        assert_eq!(super::cell(hostile), "\\<script\\> \\# \\[x\\](http://y) \\| \\`z\\`");
    }
}
