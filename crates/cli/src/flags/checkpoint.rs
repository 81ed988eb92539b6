//! What is typed behind `forebay checkpoint`.

use std::{fmt, path::PathBuf, str::FromStr};

use clap::{Args, Subcommand};
use forebay::{Name, checkpoint::KeepBest};

use super::size;

/// List, verify and restore a run's checkpoints
#[derive(Debug, Subcommand)]
#[command(after_help = "Example:\n  forebay checkpoint list day-1 --store forebay-day/lake")]
pub enum Checkpoint {
    /// The committed checkpoints of a run
    List(CheckpointList),
    /// What a checkpoint holds: position, metrics, tensors
    Show(CheckpointOf),
    /// Read every byte of a checkpoint and compare it with its digests
    Verify(CheckpointOf),
    /// Which tensors changed between two checkpoints of a run, and by how much
    Diff(CheckpointDiff),
    /// Bring to the lake what a run that was killed left on this node, without starting it again
    Drain(CheckpointList),
    /// Have a run that trains on this node save after its next step
    Now(CheckpointNow),
    /// Write a checkpoint's tensors and metadata into a directory, verified
    Restore(CheckpointRestore),
    /// Make safetensors as Hugging Face lays them out a step of a run, or the other way round, bit for bit
    Convert(CheckpointConvert),
    /// Start a run that goes on from a committed step of another one
    Fork(CheckpointFork),
    /// Keep the newest, every so many and the best checkpoints of a run, and remove the others
    Retain(CheckpointRetain),
    /// Find what saves that were never committed left in the lake, and delete it if told to
    Sweep(CheckpointSweep),
    /// Remove a checkpoint: a damaged one, or one that a run is to be taken back behind
    Remove(CheckpointRemove),
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  forebay checkpoint list day-1 --store forebay-day/lake")]
pub struct CheckpointList {
    /// The run
    #[arg(value_name = "RUN")]
    pub run: Name,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  forebay checkpoint verify day-1 --step 160 --store forebay-day/lake"
)]
pub struct CheckpointOf {
    /// The run
    #[arg(value_name = "RUN")]
    pub run: Name,
    /// The step [default: the newest committed]
    #[arg(long, value_name = "N")]
    pub step: Option<u64>,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  forebay checkpoint now day-1 --local forebay-day/local")]
pub struct CheckpointNow {
    /// The run
    #[arg(value_name = "RUN")]
    pub run: Name,
    /// How long to wait for the commit
    #[arg(long, value_name = "N", default_value_t = 60)]
    pub wait_seconds: u64,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  forebay checkpoint diff day-1 120 160 --store forebay-day/lake"
)]
pub struct CheckpointDiff {
    /// The run
    #[arg(value_name = "RUN")]
    pub run: Name,
    /// The first step
    #[arg(value_name = "BEFORE")]
    pub before: u64,
    /// The second step
    #[arg(value_name = "AFTER")]
    pub after: u64,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  forebay checkpoint sweep day-1 --older-than-minutes 60 --delete"
)]
pub struct CheckpointSweep {
    /// The run
    #[arg(value_name = "RUN")]
    pub run: Name,
    /// Leave what was written since: a slow rank may still complete it
    #[arg(long, value_name = "N", default_value_t = 24 * 60)]
    pub older_than_minutes: u64,
    /// Delete what is found; without, it is only listed
    #[arg(long)]
    pub delete: bool,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  forebay checkpoint restore day-1 --output /tmp/restored --weights-only"
)]
pub struct CheckpointRestore {
    #[command(flatten)]
    pub of: CheckpointOf,
    /// The directory to write; must not exist, or be empty
    #[arg(long, value_name = "DIR")]
    pub output: PathBuf,
    /// Leave the optimizer's state out
    #[arg(long)]
    pub weights_only: bool,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  forebay checkpoint fork day-1 120 day-1b --store forebay-day/lake"
)]
pub struct CheckpointFork {
    /// The run to go on from
    #[arg(value_name = "RUN")]
    pub run: Name,
    /// Its committed step
    #[arg(value_name = "STEP")]
    pub step: u64,
    /// The new run; must have no checkpoints
    #[arg(value_name = "NEW_RUN")]
    pub new_run: Name,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  forebay checkpoint retain day-1 --keep-last 2 --keep-every 1000 --keep-best loss --dry-run"
)]
pub struct CheckpointRetain {
    /// The run
    #[arg(value_name = "RUN")]
    pub run: Name,
    #[command(flatten)]
    pub keep: Keep,
    /// How many of the best are kept
    #[arg(long, value_name = "K", requires = "keep_best", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    pub keep_best_count: u64,
    /// Say what would be removed, and remove nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// What is kept: at least one of these is said.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub struct Keep {
    /// The newest so many; the newest one stays whatever is said
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub keep_last: Option<u64>,
    /// Those of steps divisible by this
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub keep_every: Option<u64>,
    /// Those of the best values of a metric that was saved with them: the lowest, or the highest
    #[arg(long, value_name = "METRIC[:min|max]")]
    pub keep_best: Option<KeepBest>,
}

#[derive(Debug, Args)]
#[command(
    after_help = "One side is a run of the store, the other a path, which has a `/` in it.\n\nExample:\n  forebay checkpoint convert ~/models/small small@0\n  forebay checkpoint convert day-1@160 /tmp/small --shard-bytes 2GB"
)]
pub struct CheckpointConvert {
    /// A run, `NAME@STEP` or `NAME` for its newest step; or the path of a safetensors file, or of a
    /// directory with model.safetensors or with model.safetensors.index.json and the files that it names
    #[arg(value_name = "FROM")]
    pub from: Place,
    /// A run, `NAME@STEP` or `NAME` for step 0; or the path of a directory that does not exist or is
    /// empty
    #[arg(value_name = "TO")]
    pub to: Place,
    /// What a training script calls these weights in its state
    #[arg(long, value_name = "NAME", default_value = "model")]
    pub state: String,
    /// Write every tensor to the path, the optimizer's too, under its stored name
    #[arg(long, conflicts_with = "state")]
    pub all: bool,
    /// The most bytes of tensors in one file of the path [default: 5GB]; a larger tensor has a file of its
    /// own
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub shard_bytes: Option<u64>,
}

/// Where weights are: in a run of the store, or in files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A run, and a step of it if one was named.
    Run(Name, Option<u64>),
    Path(PathBuf),
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.contains('/') || text == "." || text == ".." {
            return Ok(Self::Path(text.into()));
        }
        let (run, step) = match text.split_once('@') {
            Some((run, step)) => (run, Some(step)),
            None => (text, None),
        };
        let hint = format!("a path has a `/` in it, such as ./{text}");
        let run = Name::new(run).map_err(|error| format!("{error}; {hint}"))?;
        let step = step.map(str::parse).transpose();
        Ok(Self::Run(run, step.map_err(|_| format!("a step is a whole number; {hint}"))?))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Run(run, None) => write!(formatter, "{run}"),
            Self::Run(run, Some(step)) => write!(formatter, "{run}@{step}"),
            Self::Path(path) => write!(formatter, "{}", path.display()),
        }
    }
}

#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  forebay checkpoint remove day-1 --step 160 --store forebay-day/lake"
)]
pub struct CheckpointRemove {
    /// The run
    #[arg(value_name = "RUN")]
    pub run: Name,
    /// The step; the newest is removed only if it is damaged
    #[arg(long, value_name = "N")]
    pub step: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_path_where_it_has_a_slash() {
        let place = |text: &str| text.parse::<Place>();
        let run = |step| Ok(Place::Run(Name::new("day-1").unwrap(), step));
        assert_eq!((place("day-1"), place("day-1@160")), (run(None), run(Some(160))));
        for path in ["./day-1", "/tmp/day-1@160", "~/a", ".", "..", "s3://a"] {
            assert_eq!(place(path), Ok(Place::Path(path.into())));
        }
        for text in ["day-1@", "day-1@newest", "day-1@-1", "Model.safetensors", "@1", ""] {
            assert!(place(text).unwrap_err().contains("a path has a `/` in it"), "{text}");
        }
    }
}
