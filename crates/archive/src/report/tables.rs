//! The words and tables of a report.

use std::collections::BTreeMap;

use forebay_format::v1::{
    journal::{CheckpointCommitted, Evaluated, FeedSummary, Prepared},
    run::RunRecord,
};
use forebay_types::Split;

use super::{
    facts::Facts,
    series::median,
    text::{bytes, count, escape, moment, number, percent, rate, seconds},
};

/// The most rows of a table; the rest is counted.
pub(crate) const ROWS_MAX: usize = 200;

/// The most reasons, rules or causes in one line.
const PARTS_MAX: usize = 24;

/// Who, with what, when.
pub(crate) fn head(run: &RunRecord, facts: &Facts<'_>) -> String {
    let dataset = &run.dataset;
    let host = facts.host.map_or_else(String::new, |host| {
        let (cores, system, device) = (host.cores, escape(&host.system), escape(&host.device));
        let s = if cores == 1 { "" } else { "s" };
        format!(" · {device}, {cores} core{s}, {system}")
    });
    format!(
        "<header>\n<p class=\"kicker\">Forebay · the day of a model</p>\n<h1>{}</h1>\n\
         <p class=\"lead\">{} on {}@{} · begun {} · seed {}{host}</p>\n</header>\n",
        escape(run.run.as_str()),
        escape(&run.trainer),
        escape(dataset.name.as_str()),
        dataset.version.number(),
        moment(run.created_unix_ms),
        run.seed,
    )
}

fn card(name: &str, value: &str, note: &str) -> String {
    format!(
        "<div class=\"card\"><div class=\"name\">{name}</div><div class=\"value\">{value}</div>\
         <div class=\"note\">{note}</div></div>\n"
    )
}

/// The numbers that are looked for first.
pub(crate) fn cards(run: &RunRecord, facts: &Facts<'_>) -> String {
    let mut cards = String::from("<div class=\"cards\">\n");
    if let Some(evaluated) = facts.evaluated {
        cards += &validation_card(evaluated);
    }
    if let Some(last) = facts.steps.last() {
        let first = facts.steps.first().map_or(last.loss, |first| first.loss);
        let value = format!("{} <small>nats</small>", number(last.loss));
        cards += &card("Training loss", &value, &format!("from {} at the start", number(first)));
    }
    let taken = facts.steps.len() as u64;
    let note = match facts.resumed.last() {
        Some(resumed) => format!(
            "resumed at step {}, {} steps taken again",
            count(resumed.step),
            count(facts.lost_steps())
        ),
        None if taken < run.steps => format!("of {} planned", count(run.steps)),
        None => "without interruption".into(),
    };
    cards += &card("Steps", &count(taken), &note);
    cards += &package_card(facts);
    cards + "</div>\n"
}

fn validation_card(evaluated: &Evaluated) -> String {
    let measures = &evaluated.measures;
    let below = measures.unigram_entropy - measures.loss;
    let note = if below.is_finite() {
        let (side, class) = if below > 0.0 { ("below", "good") } else { ("above", "bad") };
        format!(
            "<span class=\"{class}\">{} {side}</span> the unigram entropy, {}",
            number(below.abs()),
            number(measures.unigram_entropy)
        )
    } else {
        "<span class=\"bad\">the model is broken</span>".into()
    };
    card("Validation loss", &format!("{} <small>nats</small>", number(measures.loss)), &note)
}

fn package_card(facts: &Facts<'_>) -> String {
    match (facts.archived, facts.evaluated) {
        (Some(archived), _) => {
            let name = format!(
                "{}<small>@{}</small>",
                escape(archived.model.as_str()),
                archived.version.number()
            );
            let verified = match facts.verified {
                Some(_) => "<span class=\"good\">read back and verified</span>",
                None => "published",
            };
            let note = format!("{} files, {}, {verified}", archived.files, bytes(archived.bytes));
            card("Package", &name, &note)
        }
        (None, Some(evaluated)) if !evaluated.passed => {
            card("Gate", "<span class=\"bad\">not passed</span>", "nothing is archived")
        }
        (None, Some(_)) => card("Gate", "<span class=\"good\">passed</span>", "ready to archive"),
        (None, None) => card("Gate", "—", "not evaluated yet"),
    }
}

/// A number and what it counts.
fn fact(value: &str, meaning: &str) -> String {
    format!("<li><b>{value}</b> {meaning}</li>")
}

fn line(facts: &[String]) -> String {
    if facts.is_empty() {
        String::new()
    } else {
        format!("<ul class=\"facts\">{}</ul>", facts.concat())
    }
}

fn hour(time: &str, stage: &str, lines: &[Vec<String>]) -> String {
    let lines: String = lines.iter().map(|facts| line(facts)).collect();
    if lines.is_empty() {
        return String::new();
    }
    format!("<tr><th scope=\"row\">{stage}<small>{time}</small></th><td>{lines}</td></tr>\n")
}

/// The day, hour by hour.
pub(crate) fn hours(facts: &Facts<'_>) -> String {
    let rows = [
        facts.prepared.map_or_else(String::new, prepare),
        feed(facts),
        checkpoint(facts),
        crash(facts),
        facts.evaluated.map_or_else(String::new, evaluate),
        archive(facts),
        facts.cleared.map_or_else(String::new, |cleared| {
            let gone = [fact(&count(cleared.files), "files"), fact(&bytes(cleared.bytes), "freed")];
            hour("evening", "clear", &[gone.to_vec()])
        }),
    ]
    .concat();
    if rows.is_empty() {
        return String::new();
    }
    format!(
        "<section>\n<h2>The day, hour by hour</h2>\n<div class=\"scroll\"><table class=\"hours\">\n\
         <tbody>\n{rows}</tbody>\n</table></div>\n</section>\n"
    )
}

fn prepare(prepared: &Prepared) -> String {
    let dropped: u64 = prepared.dropped.values().sum();
    let quarantined: u64 = prepared.quarantined.values().sum();
    let rows = |split| count(prepared.rows.get(&split).copied().unwrap_or(0));
    let raw = format!("records in, {} raw", bytes(prepared.source_bytes));
    let records = vec![
        fact(&count(prepared.read), &raw),
        fact(&count(prepared.kept), "kept"),
        fact(&count(dropped), &format!("dropped{}", reasons(&prepared.dropped))),
        fact(&count(quarantined), &format!("quarantined{}", reasons(&prepared.quarantined))),
    ];
    let shards = vec![
        fact(&rows(Split::Train), "training rows"),
        fact(&rows(Split::Validation), "validation rows"),
        fact(&count(prepared.row_tokens.into()), "tokens each"),
        fact(&count(prepared.shards), &format!("shards, {}", bytes(prepared.shard_bytes))),
        fact(&seconds(prepared.seconds), if prepared.reused { "and reused" } else { "" }),
    ];
    hour("morning", "prepare", &[records, shards])
}

/// ` (empty 3, duplicate 14)`, the most frequent first.
fn reasons(counts: &BTreeMap<String, u64>) -> String {
    let mut sorted: Vec<_> = counts.iter().filter(|(_, count)| **count > 0).collect();
    sorted.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let told: Vec<_> = sorted
        .iter()
        .take(PARTS_MAX)
        .map(|(reason, number)| {
            format!("{} {}", escape(&reason.replace('_', " ")), count(**number))
        })
        .collect();
    if told.is_empty() { String::new() } else { format!(" ({})", told.join(", ")) }
}

#[allow(clippy::cast_precision_loss, reason = "counts of samples lie far below 2^53")]
fn feed(facts: &Facts<'_>) -> String {
    let sum = |of: fn(&FeedSummary) -> u64| facts.feeds.iter().map(|feed| of(feed)).sum::<u64>();
    let mut speed = Vec::new();
    if !facts.steps.is_empty() {
        let rate =
            median(facts.steps.iter().map(|step| step.tokens as f64 / step.seconds.max(1e-9)));
        speed.push(fact(&count(facts.steps.len() as u64), "steps"));
        speed.push(fact(&count(rate as u64), "tokens/s, median"));
    }
    let fed: f64 = facts.feeds.iter().map(|feed| feed.seconds).sum();
    if fed > 0.0 {
        speed.push(fact(&rate(sum(|feed| feed.samples) as f64 / fed), "samples/s"));
    }
    let waited = facts.waited();
    let by_cause: Vec<_> = waited
        .iter()
        .take(PARTS_MAX)
        .map(|(cause, waited)| format!("{} {}", escape(cause), seconds(*waited)))
        .collect();
    let causes =
        if by_cause.is_empty() { String::new() } else { format!(" ({})", by_cause.join(", ")) };
    if !facts.steps.is_empty() {
        speed.push(fact(&seconds(waited.values().sum()), &format!("waited for data{causes}")));
    }
    let mut cache = Vec::new();
    if !facts.feeds.is_empty() {
        cache.push(fact(&bytes(sum(|feed| feed.lake_bytes)), "from the lake"));
        cache.push(fact(&count(sum(|feed| feed.hits)), "shards found on the node"));
        cache.push(fact(&count(sum(|feed| feed.misses)), "waited for"));
        let again = sum(|feed| feed.refetches);
        if again > 0 {
            cache.push(fact(&count(again), "fetched again"));
        }
    }
    hour("mid-day", "feed and train", &[speed, cache])
}

fn checkpoint(facts: &Facts<'_>) -> String {
    let checkpoints = &facts.checkpoints;
    let Some(last) = checkpoints.last() else { return String::new() };
    let longest = |of: fn(&CheckpointCommitted) -> f64| {
        seconds(checkpoints.iter().map(|checkpoint| of(checkpoint)).fold(0.0, f64::max))
    };
    let typical = |of: fn(&CheckpointCommitted) -> f64| {
        seconds(median(checkpoints.iter().map(|checkpoint| of(checkpoint))))
    };
    let told = vec![
        fact(&count(checkpoints.len() as u64), "committed"),
        fact(&bytes(last.bytes), "each"),
        fact(
            &typical(|c| c.pause_seconds),
            &format!("pause, at most {}", longest(|c| c.pause_seconds)),
        ),
        fact(
            &typical(|c| c.durable_seconds),
            &format!("until durable, at most {}", longest(|c| c.durable_seconds)),
        ),
    ];
    hour("afternoon", "checkpoint", &[told])
}

fn crash(facts: &Facts<'_>) -> String {
    let mut told = Vec::new();
    for killed in facts.killed.iter().take(PARTS_MAX) {
        told.push(fact(&format!("killed after step {}", count(killed.step)), ""));
    }
    for resumed in facts.resumed.iter().take(PARTS_MAX) {
        let from = format!("from the {} in {}", escape(&resumed.tier), seconds(resumed.seconds));
        told.push(fact(&format!("resumed at step {}", count(resumed.step)), &from));
    }
    if facts.lost_steps() > 0 {
        told.push(fact(&count(facts.lost_steps()), "steps taken again"));
    }
    hour("afternoon", "crash and resume", &[told])
}

fn evaluate(evaluated: &Evaluated) -> String {
    let measures = &evaluated.measures;
    let mut scores = vec![
        fact(&number(measures.loss), "nats loss"),
        fact(&number(measures.unigram_entropy), "nats unigram entropy"),
        fact(&number(measures.perplexity), "perplexity"),
        fact(&percent(measures.accuracy), "accuracy"),
    ];
    if let Some(bits) = measures.bits_per_byte {
        scores.push(fact(&number(bits), "bits per byte"));
    }
    let size = vec![
        fact(&count(measures.samples), "samples, all of the split"),
        fact(&count(measures.predictions), "predictions"),
        fact(&format!("step {}", count(evaluated.step)), ""),
        fact(&seconds(evaluated.seconds), ""),
    ];
    let rules = evaluated.rules.iter().map(|outcome| {
        let (class, verdict) = if outcome.passed { ("good", "passed") } else { ("bad", "failed") };
        let rule = outcome.rule.as_str().replace('_', " ");
        let limit = number(outcome.limit);
        fact(
            &format!("<span class=\"{class}\">{verdict}</span>"),
            &format!("{rule} {limit}, measured {}", number(outcome.measured)),
        )
    });
    hour("evening", "evaluate", &[scores, size, rules.take(PARTS_MAX).collect()])
}

fn archive(facts: &Facts<'_>) -> String {
    let Some(archived) = facts.archived else { return String::new() };
    let name = format!("{}@{}", escape(archived.model.as_str()), archived.version.number());
    let mut told = vec![
        fact(&name, if archived.reused { "was there already" } else { "published" }),
        fact(&count(archived.files), &format!("files, {}", bytes(archived.bytes))),
        fact(&seconds(archived.seconds), ""),
    ];
    if let Some(verified) = facts.verified {
        told.push(fact(
            &bytes(verified.bytes),
            &format!("read back and verified in {}", seconds(verified.seconds)),
        ));
    }
    let content = vec![format!("<li>content <code>{}</code></li>", archived.content)];
    hour("evening", "archive", &[told, content])
}

/// The numbers behind the plot of the checkpoints.
pub(crate) fn checkpoints(facts: &Facts<'_>) -> String {
    if facts.checkpoints.is_empty() {
        return String::new();
    }
    let rows: String = facts
        .checkpoints
        .iter()
        .rev()
        .take(ROWS_MAX)
        .map(|checkpoint| {
            let cells = [
                count(checkpoint.step),
                bytes(checkpoint.bytes),
                seconds(checkpoint.pause_seconds),
                seconds(checkpoint.stage_seconds),
                seconds(checkpoint.durable_seconds),
                moment(checkpoint.committed_unix_ms),
            ];
            row(&cells)
        })
        .collect();
    let heads = ["step", "size", "pause", "staged after", "durable after", "committed"];
    folded("Every checkpoint, the newest first", &table(&heads, &rows))
}

/// What moved between this node and the lake.
pub(crate) fn traffic(facts: &Facts<'_>) -> String {
    let mut rows = String::new();
    for (stage, purposes) in facts.traffic.iter().take(ROWS_MAX) {
        for (purpose, counts) in purposes.iter().take(ROWS_MAX) {
            rows += &row(&[
                format!("{} · {}", escape(stage), escape(purpose)),
                bytes(counts.bytes_read),
                count(counts.reads),
                bytes(counts.bytes_written),
                count(counts.writes),
                count(counts.retries),
            ]);
        }
    }
    if rows.is_empty() {
        return String::new();
    }
    let heads = ["for", "read", "requests", "written", "requests", "retries"];
    folded("What moved between this node and the lake", &table(&heads, &rows))
}

fn row(cells: &[String]) -> String {
    let cells = cells.iter().enumerate().map(|(index, cell)| match index {
        0 => format!("<th scope=\"row\">{cell}</th>"),
        _ => format!("<td class=\"number\">{cell}</td>"),
    });
    format!("<tr>{}</tr>\n", cells.collect::<String>())
}

fn table(heads: &[&str], rows: &str) -> String {
    let heads = heads.iter().enumerate().map(|(index, head)| match index {
        0 => format!("<th scope=\"col\">{head}</th>"),
        _ => format!("<th scope=\"col\" class=\"number\">{head}</th>"),
    });
    format!(
        "<div class=\"scroll\"><table>\n<thead><tr>{}</tr></thead>\n<tbody>\n{rows}</tbody>\n\
         </table></div>\n",
        heads.collect::<String>()
    )
}

fn folded(summary: &str, inner: &str) -> String {
    format!("<details>\n<summary>{summary}</summary>\n{inner}</details>\n")
}

/// The longest configuration that is shown, in characters.
const SETTINGS_MAX: usize = 64 << 10;

/// Every resolved setting.
pub(crate) fn settings(run: &RunRecord) -> String {
    let mut sorted = run.configuration.clone();
    sorted.sort_all_objects();
    let text = format!("{sorted:#}");
    let shown: String = text.chars().take(SETTINGS_MAX).collect();
    folded("Every setting of the run", &format!("<pre>{}</pre>\n", escape(&shown)))
}

/// What this page was made from.
pub(crate) fn foot(run: &RunRecord, facts: &Facts<'_>) -> String {
    let forebay = facts.host.map_or_else(String::new, |host| format!(" {}", escape(&host.forebay)));
    let span = facts.span_unix_ms.map_or_else(String::new, |(first, last)| {
        format!(" Recorded from {} to {}.", moment(first), moment(last))
    });
    format!(
        "<footer>Made by Forebay{forebay} from the run record and the journal alone.{span}<br>\
         Settings <code>{}</code></footer>\n",
        run.configuration_digest
    )
}
