//! Settings: plain data, as a configuration file writes them.
//!
//! Components (lake, local tier, runtime) are objects and come by another door, [`crate::Engine`].

use std::{
    fs::DirBuilder,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use forebay_checkpoint::CheckpointSettings;
use forebay_feed::FeedSettings;
use forebay_format::v1::evaluation::Gate;
use forebay_index::{Choice as FormatChoice, EXTENT_BYTES_DEFAULT, Source, SplitRule};
use forebay_prepare::Recipe;
use forebay_types::Name;
use serde::{Deserialize, Serialize};

use crate::Error;

/// Where both tiers lie unless they are named.
const HOME: &str = "forebay-day";

/// Everything a model's day depends on. Every field has a default that works, sized for a small
/// model on two cores; a large run raises `prepare.recipe.shard_bytes` first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// The lake: a directory or a URL.
    pub store: String,
    /// The local tier: a directory on this node.
    pub local: PathBuf,
    /// The most the local tier may hold, crash leftovers included.
    pub local_budget_bytes: u64,
    /// Decides initialization and order of a run; the dataset has its own, in its recipe.
    pub seed: u64,
    /// Optimizer steps of a run.
    pub steps: u64,
    /// Morning.
    pub prepare: PrepareSettings,
    /// Mid-day. Its seed is that of the run.
    pub feed: FeedSettings,
    /// The trainer's own settings, which the engine only stores.
    pub train: serde_json::Value,
    /// Afternoon.
    pub checkpoint: CheckpointSettings,
    /// Evening: how to score.
    pub evaluate: EvaluateSettings,
    /// Evening: what a model must reach to be archived.
    pub gate: Gate,
    /// Evening: under which name.
    pub archive: ArchiveSettings,
}

/// What to prepare, from where.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PrepareSettings {
    /// Raw data: a directory, or one file.
    pub source: PathBuf,
    /// The dataset's name.
    pub dataset: Name,
    /// Threads that work at once; 0: one for each core. The result does not depend on it.
    pub workers: usize,
    /// How samples are made.
    pub recipe: Recipe,
}

/// What to index, from where: a dataset that stays where it lies.
#[derive(Clone, Debug)]
pub struct IndexSettings {
    /// Where its files lie.
    pub source: Source,
    /// The dataset's name.
    pub dataset: Name,
    /// What its files are.
    pub format: FormatChoice,
    /// Which of them are held out.
    pub splits: SplitRule,
    /// How long the byte ranges should be that are brought to a node at once.
    pub extent_bytes: u64,
    /// Files that are looked through at once; 0: one for each core. The result does not depend
    /// on it.
    pub workers: usize,
    /// Look through every file, also where it is known what it holds.
    pub fresh: bool,
}

/// How a checkpoint is scored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EvaluateSettings {
    /// Samples scored at once.
    pub batch_size: u32,
}

/// How a model is archived.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ArchiveSettings {
    /// The model's name.
    pub model: Name,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            store: format!("{HOME}/lake"),
            local: Path::new(HOME).join("local"),
            local_budget_bytes: 1 << 30,
            seed: 7,
            steps: 240,
            prepare: PrepareSettings::default(),
            feed: FeedSettings { batch_size: 16, ..FeedSettings::default() },
            train: serde_json::Value::Object(serde_json::Map::new()),
            checkpoint: CheckpointSettings { every_steps: 40, ..CheckpointSettings::default() },
            evaluate: EvaluateSettings::default(),
            // A model that learned no more than how frequent each token is reaches 0.
            gate: Gate { loss_below_unigram_entropy_by: Some(0.5), ..Gate::default() },
            archive: ArchiveSettings::default(),
        }
    }
}

impl Default for PrepareSettings {
    fn default() -> Self {
        Self {
            source: "data/raw".into(),
            dataset: name("day-text"),
            workers: 0,
            recipe: Recipe {
                row_tokens: 129,
                shard_bytes: 1 << 20,
                batch_bytes: 1 << 16,
                ..Recipe::default()
            },
        }
    }
}

impl IndexSettings {
    /// Settings for the dataset `dataset`, whose files lie at `source`.
    #[must_use]
    pub fn new(dataset: Name, source: Source) -> Self {
        Self {
            source,
            dataset,
            format: FormatChoice::Detect,
            splits: SplitRule::Train,
            extent_bytes: EXTENT_BYTES_DEFAULT,
            workers: 0,
            fresh: false,
        }
    }
}

impl Default for EvaluateSettings {
    fn default() -> Self {
        Self { batch_size: 32 }
    }
}

impl Default for ArchiveSettings {
    fn default() -> Self {
        Self { model: name("day") }
    }
}

/// One thread for each core where none are asked for.
pub(crate) fn workers(asked_for: usize) -> usize {
    match asked_for {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        workers => workers,
    }
}

fn name(text: &'static str) -> Name {
    Name::new(text).expect("a sound name")
}

impl Settings {
    /// Settings in which every derived value is filled in and every limit is sane.
    ///
    /// # Errors
    /// [`Error::Setting`] naming the first setting that cannot work.
    pub fn resolve(mut self) -> Result<Self, Error> {
        self.feed.seed = self.seed;
        let refuse = |setting, value: &dyn ToString, why: &str| {
            Err(Error::Setting { setting, value: value.to_string(), why: why.into() })
        };
        if self.steps == 0 {
            return refuse("steps", &0, "a run takes at least one step");
        }
        if self.evaluate.batch_size == 0 {
            return refuse("evaluate.batch_size", &0, "score at least one sample at once");
        }
        if self.store.is_empty() {
            return refuse("store", &"empty", "name a directory or a URL");
        }
        if let Err(why) = self.gate.check() {
            return refuse("gate", &"unusable", &why);
        }
        Ok(self)
    }

    /// Makes the directory that the default tiers lie in, if these are the default tiers: whoever
    /// named none should not have to make one. A tier that was named must have its parent.
    ///
    /// # Errors
    /// [`Error::Home`] when it cannot be made.
    pub fn make_home(&self) -> Result<(), Error> {
        let defaults = Self::default();
        if self.store != defaults.store && self.local != defaults.local {
            return Ok(());
        }
        let home = Path::new(HOME);
        let made = DirBuilder::new().recursive(true).mode(0o700).create(home);
        made.map_err(|source| Error::Home { path: home.to_owned(), source })
    }

    /// Threads for preparation.
    #[must_use]
    pub fn workers(&self) -> usize {
        workers(self.prepare.workers)
    }

    /// What shapes a run's result: all but where things lie and how many threads work.
    #[must_use]
    pub(crate) fn of_run(&self) -> serde_json::Value {
        serde_json::json!({
            "seed": self.seed,
            "steps": self.steps,
            "dataset": self.prepare.dataset,
            "feed": self.feed,
            "train": self.train,
            "checkpoint": self.checkpoint,
            "evaluate": self.evaluate,
        })
    }
}
