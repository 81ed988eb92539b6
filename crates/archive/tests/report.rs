//! The report of a day: complete, self-contained, safe whatever the journal says.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod support;

use forebay_archive::report::html;
use forebay_format::v1::journal::{Entry, Event};
use support::story;

#[test]
fn a_day_is_told_in_full() {
    let (run, entries) = story::day();
    let page = html(&run, &entries);
    for part in [
        "<h1>day-1</h1>",
        "<title>day-1 — the day of a model</title>",
        "Validation loss",
        "unigram entropy",
        "dropped (duplicate 14, too short 3)",
        "killed after step 93",
        "resumed at step 80",
        "14</b> steps taken again",
        "<title id=\"loss-t\">",
        "<title id=\"throughput-t\">",
        "<title id=\"waiting-t\">",
        "<title id=\"checkpoints-t\">",
        "day<small>@1</small>",
        "read back and verified",
        "freed",
    ] {
        assert!(page.contains(part), "{part}");
    }
    assert_eq!(page, html(&run, &entries), "a pure function");
    // For eyes: a page that passes every test may still be ugly.
    std::fs::write(concat!(env!("CARGO_TARGET_TMPDIR"), "/report.html"), page).unwrap();
}

#[test]
fn the_page_asks_for_nothing_and_runs_nothing() {
    let (run, entries) = story::day();
    let page = html(&run, &entries).to_lowercase();
    for part in
        ["<script", "javascript:", "http://", "https://", "src=", "href=", "url(", "@import", " on"]
    {
        let found: Vec<_> = page.match_indices(part).map(|(at, _)| &page[at..at + 12]).collect();
        let harmless = |text: &&str| part == " on" && !text.trim_start()[..].contains('=');
        assert!(found.iter().all(harmless), "{part}: {found:?}");
    }
    assert!(page.contains("default-src 'none'"));
}

#[test]
fn every_tag_is_closed() {
    let (run, entries) = story::day();
    assert_balanced(&html(&run, &entries));
    assert_balanced(&html(&run, &[]));
    for end in 0..40 {
        assert_balanced(&html(&run, &entries[..end * entries.len() / 40]));
    }
}

#[test]
fn hostile_words_stay_words() {
    let (mut run, mut entries) = story::day();
    let hostile = "\"'></td></svg><script>alert(1)</script><img src=x onerror=y>";
    run.trainer = hostile.into();
    run.configuration = serde_json::json!({ hostile: hostile });
    for entry in &mut entries {
        poison(entry, hostile);
    }
    let page = html(&run, &entries);
    assert!(!page.contains("<script") && !page.contains("<img") && !page.contains("'>"), "escaped");
    assert!(page.contains("&lt;script&gt;"));
    assert_balanced(&page);
}

#[test]
fn numbers_that_are_none_leave_the_page_whole() {
    let (run, mut entries) = story::day();
    for entry in &mut entries {
        match &mut entry.event {
            Event::Step(step) => {
                step.loss = if step.step % 2 == 0 { f64::NAN } else { f64::INFINITY };
                step.seconds = 0.0;
                step.waited_seconds = 0.0;
            }
            Event::Evaluated(evaluated) => {
                evaluated.measures.loss = f64::NAN;
                evaluated.measures.perplexity = f64::NAN;
            }
            Event::CheckpointCommitted(checkpoint) => checkpoint.durable_seconds = 0.0,
            _ => {}
        }
    }
    let page = html(&run, &entries);
    assert!(page.contains("not a number") && page.contains("the model is broken"));
    for coordinate in ["=\"NaN", "=\"inf", "=\"-inf", "MNaN", "LNaN", " NaN", " inf"] {
        assert!(!page.contains(coordinate), "{coordinate}");
    }
    assert_balanced(&page);
}

#[test]
fn a_run_of_a_million_steps_gives_a_page_of_the_same_size() {
    let (run, entries) = story::day();
    let short = html(&run, &entries).len();
    let step = entries.iter().find_map(|entry| match &entry.event {
        Event::Step(step) => Some(step.clone()),
        _ => None,
    });
    let long: Vec<Entry> = (0..200_000)
        .map(|number| {
            let mut step = step.clone().unwrap();
            step.step = number;
            step.loss = 5.0 / (1.0 + number as f64).sqrt() + (number % 7) as f64 * 0.01;
            Entry { sequence: number, unix_ms: number, attempt: 1, event: Event::Step(step) }
        })
        .collect();
    assert!(html(&run, &long).len() < 4 * short);
}

fn poison(entry: &mut Entry, hostile: &str) {
    match &mut entry.event {
        Event::Prepared(prepared) => {
            prepared.dropped.insert(hostile.into(), 1);
            prepared.quarantined.insert(hostile.into(), 1);
        }
        Event::RunStarted(started) => {
            started.host.device = hostile.into();
            started.host.system = hostile.into();
            started.host.forebay = hostile.into();
        }
        Event::Resumed(resumed) => resumed.tier = hostile.into(),
        Event::Step(step) => step.wait_cause = Some(hostile.into()),
        Event::FeedSummary(feed) => {
            feed.waited_seconds.insert(hostile.into(), 1.0);
        }
        Event::Traffic(traffic) => {
            traffic.stage = hostile.into();
            traffic.purposes.insert(hostile.into(), Default::default());
        }
        _ => {}
    }
}

/// Every element that is opened is closed, in the right order.
fn assert_balanced(page: &str) {
    const VOID: [&str; 4] = ["!doctype", "meta", "br", "!--"];
    let mut open = Vec::new();
    let style = page.find("</style>").unwrap();
    for tag in page[style..].split('<').skip(1) {
        let (tag, _) = tag.split_once('>').expect("a tag ends");
        let name = tag.split([' ', '/']).find(|part| !part.is_empty()).unwrap();
        if tag.starts_with('/') {
            match open.pop() {
                Some(opened) => assert_eq!(opened, name),
                None => assert!(["style", "head", "html"].contains(&name), "{name}"),
            }
        } else if !tag.ends_with('/') && !VOID.contains(&name) {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "{open:?}");
}
