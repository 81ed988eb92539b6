//! `forebay bench feed`: whether an accelerator would wait for its data.

use forebay::{
    EndedBy, FeedBenchmark, FeedMeasured, FeedSettings, ImageSettings, Meter, Settings, WaitCause,
};

use crate::{
    Context, config,
    error::CommandError,
    flags::BenchFeed,
    printer::{bytes, rate},
};

pub fn feed(context: &Context<'_>, flags: &BenchFeed) -> Result<(), CommandError> {
    let settings = config::settings(context.flags)?.resolve()?;
    let benchmark = benchmark(flags, &settings)?;
    let engine = config::engine(context, &settings)?;
    let (name, version) = &flags.dataset;
    let (manifest, _) = engine.any_dataset(name, *version)?;
    let show = |meter: Meter| {
        let detail = format!(
            "% {:.0} samples/s  {}",
            meter.samples as f64 / meter.seconds,
            rate(meter.bytes as f64 / meter.seconds)
        );
        // Below the whole: the bar goes when the result is there.
        context.printer.progress("feed", (meter.share * 99.0) as u64, 100, &detail);
    };
    let measured = engine.measure_feed(&manifest, flags.split, &benchmark, &show)?;
    context.printer.progress("feed", 100, 100, "%");
    context.printer.result("feed", &measured, &describe(&measured));
    Ok(())
}

fn benchmark(flags: &BenchFeed, settings: &Settings) -> Result<FeedBenchmark, CommandError> {
    let configured = &settings.feed;
    let batch_size = flags.batch_size.unwrap_or(configured.batch_size);
    let global_batch_size = batch_size.checked_mul(flags.ranks).ok_or_else(|| {
        let value = format!("{batch_size} on each of {} ranks", flags.ranks);
        forebay::Error::Setting { setting: "batch_size", value, why: "a step is too large".into() }
    })?;
    let is_limited = flags.epochs.is_some() || flags.steps.is_some() || flags.seconds.is_some();
    let images = flags.images.iter().map(|image| {
        let size = [image.height, image.width];
        (image.name.clone(), ImageSettings { size, ..ImageSettings::default() })
    });
    let feed = FeedSettings {
        seed: flags.seed.unwrap_or(configured.seed),
        shuffle: configured.shuffle && !flags.no_shuffle,
        batch_size: global_batch_size,
        epochs: if is_limited { flags.epochs } else { Some(1) },
        skip_steps: Vec::new(),
        mixture: None,
        images: configured.images.clone().into_iter().chain(images).collect(),
        threads: flags.threads.unwrap_or(configured.threads),
        prefetch_threads: flags.prefetch_threads.unwrap_or(configured.prefetch_threads),
        buffer_bytes: flags.buffer_bytes.unwrap_or(configured.buffer_bytes),
        lookahead_bytes: flags.lookahead_bytes.unwrap_or(configured.lookahead_bytes),
        ..configured.clone()
    };
    Ok(FeedBenchmark {
        feed,
        ranks: flags.ranks,
        steps: flags.steps,
        duration: if is_limited { flags.seconds } else { Some(FeedBenchmark::DURATION_DEFAULT) },
        compute: flags.compute_ms,
    })
}

/// What was measured, for people.
fn describe(measured: &FeedMeasured) -> String {
    let ranks = measured.ranks.len();
    let mut lines = vec![format!(
        "{}@{} {}, {} samples a step, {ranks} rank{}: {} batches, {} samples in {:.2} s; {}",
        measured.dataset,
        measured.version.number(),
        measured.split,
        measured.global_batch_size,
        if ranks == 1 { "" } else { "s" },
        measured.batches,
        measured.samples,
        measured.seconds,
        ended(measured.ended_by),
    )];
    let mut line = |name: &str, text: String| lines.push(format!("  {name:<12} {text}"));
    let per_second = rate(measured.bytes_per_second);
    line("throughput", format!("{:.0} samples/s, {per_second}", measured.samples_per_second));
    line("accelerator", accelerator(measured));
    if measured.waiting_percent.is_some() {
        line("waited", waited(measured));
    }
    if let Some(seconds) = measured.first_batch_seconds {
        line("first batch", format!("{:.1} ms after opening began", seconds * 1000.0));
    }
    let requests = measured.lake_requests.map(|count| format!(" ({count} requests)"));
    let hits = measured
        .cache_hit_percent
        .map(|percent| format!("; {percent:.1} % of what batches needed was on the node by then"));
    line(
        "lake",
        format!(
            "{}{}{}",
            bytes(measured.lake_bytes),
            requests.unwrap_or_default(),
            hits.unwrap_or_default()
        ),
    );
    let peak =
        measured.peak_memory_bytes.map(|peak| format!(", the process {} at its peak", bytes(peak)));
    line("memory", format!("batches {}{}", bytes(measured.buffer_bytes), peak.unwrap_or_default()));
    lines.join("\n")
}

fn ended(by: EndedBy) -> &'static str {
    match by {
        EndedBy::Epochs => "the last epoch was over",
        EndedBy::Steps => "the steps were taken",
        EndedBy::Duration => "the time was over",
        EndedBy::Stopped => "stopped",
    }
}

fn accelerator(measured: &FeedMeasured) -> String {
    let compute = measured.compute_seconds.map(|seconds| seconds * 1000.0);
    match (measured.au_percent, measured.au_percent_worst, compute) {
        (Some(mean), Some(worst), Some(compute)) if measured.ranks.len() > 1 => format!(
            "utilization (AU) {mean:.2} %, worst rank {worst:.2} %, at {compute} ms a batch"
        ),
        (Some(mean), _, Some(compute)) => {
            format!("utilization (AU) {mean:.2} % at {compute} ms a batch")
        }
        (.., None) => match measured.seconds_per_step() {
            Some(seconds) => format!(
                "got a batch every {:.2} ms: one that computes longer hardly waits; try --compute-ms",
                seconds * 1000.0
            ),
            None => "not known from one step".to_owned(),
        },
        _ => "not known from one step".to_owned(),
    }
}

/// What the ranks waited for; without a compute time they do nothing else, which goes without
/// saying.
fn waited(measured: &FeedMeasured) -> String {
    let share = measured.waiting_percent.filter(|_| measured.compute_seconds.is_some());
    let share = share.map(|percent| format!("{percent:.2} % after the first step, "));
    let most = match measured.waited_for {
        Some(WaitCause::Lake) => "most for the lake",
        Some(WaitCause::Local) => "most for the local tier",
        Some(WaitCause::Assembly) => "most for the making of batches",
        None => "for nothing known",
    };
    let waited = measured.waited;
    format!(
        "{}{most}: lake {:.3} s, local tier {:.3} s, assembly {:.3} s, other {:.3} s",
        share.unwrap_or_default(),
        waited.lake,
        waited.local,
        waited.assembly,
        waited.other
    )
}
