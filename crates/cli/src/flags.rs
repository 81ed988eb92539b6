//! The command line as it is typed. `config` resolves it against the configuration file.

mod checkpoint;

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};
use forebay::{Name, Split, Version};

pub use checkpoint::{
    Checkpoint, CheckpointConvert, CheckpointDiff, CheckpointFork, CheckpointList, CheckpointNow,
    CheckpointOf, CheckpointRemove, CheckpointRestore, CheckpointRetain, CheckpointSweep, Place,
};

/// Storage for AI training: one engine for a model's whole day.
///
/// Forebay prepares datasets, feeds batches to the trainer, checkpoints without a pause, evaluates
/// and archives, over two tiers: the lake (large, shared, durable) and the local tier (small,
/// fast, disposable).
#[derive(Debug, Parser)]
#[command(name = "forebay", version, max_term_width = 100)]
#[command(
    after_help = "Example:\n  forebay day        one model's whole day on real data, in minutes"
)]
pub struct Flags {
    #[command(flatten)]
    pub common: Common,
    #[command(subcommand)]
    pub verb: Verb,
}

/// What every verb understands.
#[derive(Clone, Debug, Default, Args)]
pub struct Common {
    /// The lake: a directory, or a URL such as file:///srv/lake
    #[arg(long, global = true, value_name = "URL")]
    pub store: Option<String>,
    /// The local tier: a directory on this node's fastest disk
    #[arg(long, global = true, value_name = "DIR")]
    pub local: Option<PathBuf>,
    /// A configuration file (TOML); flags win over it
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print one JSON object a line instead of text
    #[arg(long, global = true)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    Day(Day),
    Prepare(Prepare),
    Index(Index),
    Train(Train),
    #[command(subcommand)]
    Checkpoint(Checkpoint),
    Evaluate(Evaluate),
    #[command(subcommand)]
    Archive(Archive),
    Trace(Trace),
    #[command(subcommand)]
    Bench(Bench),
    Doctor(Doctor),
    Clear(Clear),
    Config(Config),
}

/// Run one model's whole day: prepare, train, crash, resume, evaluate, archive, clear
///
/// The trainer runs as a child process and is killed once with SIGKILL; it resumes from its newest
/// committed checkpoint, and its losses and weights are compared with those of a run that was never
/// interrupted. Stop the day with Ctrl-C or worse and start it again: it goes on where it stood.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  forebay day --store /tmp/lake --local /tmp/nvme --steps 100")]
pub struct Day {
    #[command(flatten)]
    pub work: Work,
    /// Keep what the local tier caches when the day is over
    #[arg(long)]
    pub keep: bool,
    /// Where to write the HTML report [default: report.html beside the local tier]
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
}

/// What a run is made of.
#[derive(Clone, Debug, Default, Args)]
pub struct Work {
    /// Raw data: a directory of .jsonl and .txt files, each also as .gz or .zst, or one such file
    #[arg(long, value_name = "PATH")]
    pub source: Option<PathBuf>,
    /// Optimizer steps of the run
    #[arg(long, value_name = "N")]
    pub steps: Option<u64>,
    /// Decides initialization and order
    #[arg(long, value_name = "S")]
    pub seed: Option<u64>,
}

/// Turn raw records into an immutable, shuffled, tokenized dataset version
///
/// Publishes a new version only if the data or the recipe changed.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  forebay prepare --source data/raw --store /tmp/lake --local /tmp/nvme"
)]
pub struct Prepare {
    /// Raw data: a directory of .jsonl and .txt files, each also as .gz or .zst, or one such file
    #[arg(long, value_name = "PATH")]
    pub source: Option<PathBuf>,
    /// The dataset's name
    #[arg(long, value_name = "NAME")]
    pub dataset: Option<Name>,
    /// Threads that work at once; the result does not depend on it
    #[arg(long, value_name = "N")]
    pub workers: Option<usize>,
}

/// Make a dataset that lies elsewhere a version in the lake, without copying it
///
/// Looks through the files once, wherever they lie, and publishes where every row is and what its
/// bytes must be. Reads WebDataset, Parquet, Arrow, JSON lines, TFRecord, MDS and LitData. Stopped
/// and started again, it goes on where it stood; files that did not change are not read again.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  forebay index /data/laion --name laion --split names --store /tmp/lake --local /tmp/nvme"
)]
pub struct Index {
    /// The store the files lie in: a directory or a URL, which is only read [default: the lake]
    #[arg(value_name = "SOURCE")]
    pub source: Option<String>,
    /// The dataset's name
    #[arg(long, value_name = "NAME")]
    pub name: Name,
    /// A folder or file of the store to look through; may be repeated [default: all of it]
    #[arg(long = "path", value_name = "PATH")]
    pub paths: Vec<String>,
    /// The files' format [default: as their names say]
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Which files are held out: `names` to go by the words in their paths (train, validation,
    /// test, …), or any number of train=PREFIX and validation=PREFIX [default: train on all]
    #[arg(long = "split", value_name = "RULE")]
    pub splits: Vec<String>,
    /// The length of the byte ranges that are brought to a node at once
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub extent_bytes: Option<u64>,
    /// Files looked through at once; the result does not depend on it
    #[arg(long, value_name = "N")]
    pub workers: Option<usize>,
    /// Look through every file, also those whose length and time did not change
    #[arg(long)]
    pub fresh: bool,
}

/// Train the reference model, or go on with a run from its newest committed checkpoint
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  forebay train small-1 --steps 300 --store /tmp/lake --local /tmp/nvme"
)]
pub struct Train {
    /// The run's name; an existing run is resumed
    #[arg(value_name = "RUN")]
    pub run: Name,
    #[command(flatten)]
    pub work: TrainWork,
    /// Checkpoint after this many steps; 0: only at the end
    #[arg(long, value_name = "N")]
    pub checkpoint_every: Option<u64>,
    /// Die when the process that started this one dies
    #[arg(long, hide = true)]
    pub with_parent: bool,
}

/// What a training run is made of.
#[derive(Clone, Debug, Default, Args)]
pub struct TrainWork {
    /// The dataset's name
    #[arg(long, value_name = "NAME")]
    pub dataset: Option<Name>,
    /// The dataset's version [default: the newest]
    #[arg(long, value_name = "N", value_parser = version)]
    pub dataset_version: Option<Version>,
    /// Optimizer steps of the run
    #[arg(long, value_name = "N")]
    pub steps: Option<u64>,
    /// Decides initialization and order
    #[arg(long, value_name = "S")]
    pub seed: Option<u64>,
}

/// Score a checkpoint on the validation split and hold it against the gate
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  forebay evaluate day-1 --store forebay-day/lake --local forebay-day/local"
)]
pub struct Evaluate {
    #[command(flatten)]
    pub of: CheckpointOf,
}

/// Package, verify, restore and list archived models
#[derive(Debug, Subcommand)]
#[command(after_help = "Example:\n  forebay archive verify day --store forebay-day/lake")]
pub enum Archive {
    /// Publish a run's evaluated checkpoint as a package, if it passed its gate
    Publish(ArchivePublish),
    /// Find any changed, missing or added byte of a package
    Verify(Package),
    /// Write a package's files into a directory, verified
    Restore(ArchiveRestore),
    /// The versions of a model
    List(ArchiveList),
}

#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  forebay archive publish day-1 --model day --store forebay-day/lake"
)]
pub struct ArchivePublish {
    #[command(flatten)]
    pub of: CheckpointOf,
    /// The model's name
    #[arg(long, value_name = "NAME")]
    pub model: Option<Name>,
}

#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:\n  forebay archive verify day@1 --store forebay-day/lake")]
pub struct Package {
    /// The package: MODEL or MODEL@VERSION
    #[arg(value_name = "PACKAGE", value_parser = versioned)]
    pub package: (Name, Option<Version>),
}

#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  forebay archive restore day@1 --output /tmp/model --store forebay-day/lake"
)]
pub struct ArchiveRestore {
    #[command(flatten)]
    pub package: Package,
    /// The directory to write; must not exist, or be empty
    #[arg(long, value_name = "DIR")]
    pub output: PathBuf,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  forebay archive list day --store forebay-day/lake")]
pub struct ArchiveList {
    /// The model
    #[arg(value_name = "MODEL")]
    pub model: Name,
}

/// Print the samples an archived model or a run saw at a step, with source file and record
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  forebay trace day --step 12 --store forebay-day/lake --local forebay-day/local\n  forebay trace --run day-1 --step 12 --store forebay-day/lake --local forebay-day/local"
)]
pub struct Trace {
    #[command(flatten)]
    pub of: TraceOf,
    /// The step, counted from 0
    #[arg(long, value_name = "N")]
    pub step: u64,
}

/// What was trained: exactly one of the two.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct TraceOf {
    /// The package: MODEL or MODEL@VERSION
    #[arg(value_name = "PACKAGE", value_parser = versioned)]
    pub package: Option<(Name, Option<Version>)>,
    /// A run, archived or not
    #[arg(long, value_name = "RUN")]
    pub run: Option<Name>,
}

/// Measure whether an accelerator would wait for its data
#[derive(Debug, Subcommand)]
#[command(after_help = "Example:\n  forebay bench feed day-text --compute-ms 20 --store /tmp/lake")]
pub enum Bench {
    Feed(BenchFeed),
}

/// Feed a dataset as a training run would, and say what the accelerator waited for
///
/// Takes any dataset of the lake, prepared or indexed, with the feed that the configuration
/// describes. Without --epochs, --steps and --seconds it ends after one epoch or 30 s, whichever is
/// first. Ctrl-C ends it too: what was measured until then is printed, and the exit code is 0.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  forebay bench feed photos@2 --batch-size 64 --image jpg=224x224 --compute-ms 50 --ranks 4"
)]
pub struct BenchFeed {
    /// The dataset: NAME or NAME@VERSION
    #[arg(value_name = "DATASET", value_parser = versioned)]
    pub dataset: (Name, Option<Version>),
    /// The split: train or validation
    #[arg(long, value_name = "SPLIT", default_value = "train", value_parser = split)]
    pub split: Split,
    /// Samples of one rank's batch [default: feed.batch_size of the configuration]
    #[arg(long, value_name = "N")]
    pub batch_size: Option<u32>,
    /// End after so many epochs
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub epochs: Option<u64>,
    /// End after so many steps
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub steps: Option<u64>,
    /// End after so long
    #[arg(long, value_name = "S", value_parser = seconds)]
    pub seconds: Option<Duration>,
    /// Decides the order
    #[arg(long, value_name = "S")]
    pub seed: Option<u64>,
    /// Take the samples as they are stored
    #[arg(long)]
    pub no_shuffle: bool,
    /// Threads of each rank that assemble batches
    #[arg(long, value_name = "N")]
    pub threads: Option<u32>,
    /// Threads of each rank that bring data to the node ahead
    #[arg(long, value_name = "N")]
    pub prefetch_threads: Option<u32>,
    /// Memory of each rank's batches: bytes, or with KiB, MiB, GiB
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub buffer_bytes: Option<u64>,
    /// What is brought to the node ahead: bytes, or with KiB, MiB, GiB
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub lookahead_bytes: Option<u64>,
    /// Simulate an accelerator that computes so long on every batch
    #[arg(long, value_name = "MS", value_parser = milliseconds)]
    pub compute_ms: Option<Duration>,
    /// Simulate so many ranks of one node, each with a feed of its own
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub ranks: u32,
    /// Decode a column of encoded images, cropped at random to this size as in training; may be
    /// repeated
    #[arg(long = "image", value_name = "NAME=WIDTHxHEIGHT", value_parser = image)]
    pub images: Vec<ImageColumn>,
}

/// A column of images and the size they are decoded to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageColumn {
    pub name: String,
    pub width: u32,
    pub height: u32,
}

/// Examine this node, the lake and the local tier, and say what limits throughput
///
/// Prints every check with what to do about it. Warnings leave the exit code 0; a failure gives
/// that of its kind. Writes probes to both tiers and removes them.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  forebay doctor --store s3://bucket/lake --local /mnt/nvme/forebay"
)]
pub struct Doctor {
    /// The size of the probes: bytes, or with KiB, MiB, GiB [default: 64MiB]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub probe_bytes: Option<u64>,
}

/// Empty the local tier, unless something staged has not reached the lake
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  forebay clear --local forebay-day/local")]
pub struct Clear {}

/// Print the configuration that a command would use, as TOML
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  forebay config > forebay.toml")]
pub struct Config {}

fn version(text: &str) -> Result<Version, String> {
    let number = text.strip_prefix('v').unwrap_or(text).parse().ok().and_then(Version::new);
    number.ok_or_else(|| "versions are 1, 2, 3, …".to_owned())
}

fn versioned(text: &str) -> Result<(Name, Option<Version>), String> {
    let (name, number) = match text.split_once('@') {
        Some((name, number)) => (name, Some(version(number)?)),
        None => (text, None),
    };
    Ok((Name::new(name).map_err(|error| error.to_string())?, number))
}

fn split(text: &str) -> Result<Split, String> {
    match text {
        "train" => Ok(Split::Train),
        "validation" => Ok(Split::Validation),
        _ => Err("splits are train and validation".to_owned()),
    }
}

fn size(text: &str) -> Result<u64, String> {
    let binary = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40)];
    let decimal = [("kB", 1_000), ("MB", 1_000_000), ("GB", 1_000_000_000_u64)];
    let mut units = binary.into_iter().chain(decimal);
    let with_unit = units.find_map(|(unit, scale)| Some((text.strip_suffix(unit)?, scale)));
    let (number, scale) = with_unit.unwrap_or((text, 1));
    let bytes = number.trim().parse::<u64>().ok().and_then(|number| number.checked_mul(scale));
    bytes.ok_or_else(|| "sizes are whole numbers of bytes, or such as 64MiB or 5GB".to_owned())
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().and_then(|number| Duration::try_from_secs_f64(number).ok());
    seconds.filter(|time| !time.is_zero()).ok_or_else(|| "times are numbers above 0".to_owned())
}

fn milliseconds(text: &str) -> Result<Duration, String> {
    seconds(text).map(|time| time / 1000)
}

fn image(text: &str) -> Result<ImageColumn, String> {
    let parse = || {
        let (name, size) = text.split_once('=')?;
        let (width, height) = size.split_once('x')?;
        let (width, height) = (width.parse().ok()?, height.parse().ok()?);
        Some(ImageColumn { name: name.to_owned(), width, height })
    };
    parse().ok_or_else(|| "say which column and size, as in jpg=224x224".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Flags::command().debug_assert();
    }

    #[test]
    fn every_verb_shows_an_example() {
        fn visit(command: &clap::Command) {
            let help = command.clone().render_long_help().to_string();
            assert!(help.contains("Example:\n"), "`{}` shows none", command.get_name());
            command.get_subcommands().for_each(visit);
        }
        visit(&Flags::command());
    }

    #[test]
    fn names_come_with_or_without_a_version() {
        let name = Name::new("day").unwrap();
        assert_eq!(versioned("day"), Ok((name.clone(), None)));
        assert_eq!(versioned("day@v2"), Ok((name.clone(), Version::new(2))));
        assert_eq!(versioned("day@2"), Ok((name, Version::new(2))));
        assert!(versioned("day@0").is_err() && versioned("../x").is_err());
    }

    #[test]
    fn sizes_and_times_are_read_as_people_write_them() {
        assert_eq!(
            (size("4096"), size("64MiB"), size("2 GiB"), size("5GB")),
            (Ok(4096), Ok(64 << 20), Ok(2 << 30), Ok(5_000_000_000))
        );
        assert!(size("-1").is_err() && size("64Mb").is_err() && size("99999999TiB").is_err());
        assert_eq!(milliseconds("1.5"), Ok(Duration::from_micros(1500)));
        assert!(seconds("0").is_err() && seconds("-1").is_err() && seconds("NaN").is_err());
        let column = ImageColumn { name: "jpg".into(), width: 320, height: 200 };
        assert_eq!(image("jpg=320x200"), Ok(column));
        assert!(image("jpg").is_err() && image("jpg=224").is_err());
    }
}
