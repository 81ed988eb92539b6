//! The engine: both tiers of one node, and what can be done with them.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use forebay_checkpoint::{
    CheckpointSettings, Checkpointer, CommittedCheckpoint, Region, Tier, Which,
};
use forebay_evaluate::{Evaluation, Scorer};
use forebay_feed::{Cursor, Feed, FeedDataset, FeedSettings, TracedSample};
use forebay_format::v1::{
    dataset::DatasetManifest,
    evaluation::EvaluationRecord,
    journal::{Entry, Traffic},
    run::{DatasetReference, RunRecord},
};
use forebay_index::{Index, Indexed};
use forebay_lake::Lake;
use forebay_local::LocalTier;
use forebay_prepare::{Prepare, Prepared, Progress};
use forebay_runtime::Runtime;
use forebay_transfer::{Transfer, index::AnyManifest};
use forebay_types::{Digest, ErrorKind, Name, Rank, Split, Version};

use crate::{Error, IndexSettings, Settings, run, settings};

/// A lake and a node's local tier, opened.
///
/// Cloning is cheap and gives the same engine.
#[derive(Clone, Debug)]
pub struct Engine {
    transfer: Transfer,
    runtime: Runtime,
    /// What journals know of this engine's traffic.
    counted: Arc<Mutex<Traffic>>,
}

impl Engine {
    /// Opens both tiers: the lake at `store` (a directory is made if its parent exists), the local
    /// tier at `local` with room for `local_budget_bytes`.
    ///
    /// # Errors
    /// When either cannot be reached, written or trusted; the message names it.
    pub fn open(
        store: &str,
        local: &Path,
        local_budget_bytes: u64,
        runtime: &Runtime,
    ) -> Result<Self, Error> {
        let lake = Lake::open(store, runtime)?;
        let local = LocalTier::open(local, local_budget_bytes, runtime)?;
        let runtime = runtime.clone();
        let transfer = Transfer::new(&lake, &local, &runtime);
        Ok(Self { transfer, runtime, counted: Arc::default() })
    }

    /// The lake.
    #[must_use]
    pub fn lake(&self) -> &Lake {
        self.transfer.lake()
    }

    /// The clock and threads it works with.
    #[must_use]
    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// What moved between this engine and the lake since this was last asked, as traffic of `stage`.
    pub(crate) fn take_traffic(&self, stage: &str) -> Traffic {
        let now = run::traffic(self.lake(), stage);
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        run::moved_since(&now, &std::mem::replace(&mut counted, now.clone()))
    }

    pub(crate) fn transfer(&self) -> &Transfer {
        &self.transfer
    }

    /// Turns raw data into a published dataset version, or finds the equal one that is there.
    ///
    /// # Errors
    /// See [`forebay_prepare::Error`]; malformed records are quarantined and are no error.
    pub fn prepare(&self, settings: &Settings, progress: &dyn Progress) -> Result<Prepared, Error> {
        let prepare = Prepare {
            lake: self.lake(),
            local: self.transfer.local(),
            runtime: &self.runtime,
            source: &settings.prepare.source,
            dataset: &settings.prepare.dataset,
            recipe: &settings.prepare.recipe,
            workers: settings.workers(),
            memory_bytes: forebay_prepare::MEMORY_BYTES_DEFAULT,
            progress,
        };
        Ok(prepare.run()?)
    }

    /// Looks through a dataset where it lies and publishes its index as a version, or finds the
    /// equal one that is there. Nothing of the dataset is copied or written.
    ///
    /// # Errors
    /// See [`forebay_index::Error`].
    pub fn index(
        &self,
        settings: &IndexSettings,
        progress: &dyn forebay_index::Progress,
    ) -> Result<Indexed, Error> {
        let index = Index {
            lake: self.lake(),
            local: self.transfer.local(),
            runtime: &self.runtime,
            source: &settings.source,
            dataset: &settings.dataset,
            splits: &settings.splits,
            dialect: &settings.format,
            extent_bytes: settings.extent_bytes,
            workers: settings::workers(settings.workers),
            fresh: settings.fresh,
            progress,
        };
        Ok(index.run()?)
    }

    /// The manifest of a dataset version, the newest if none is named, with its digest.
    ///
    /// # Errors
    /// [`forebay_types::ErrorKind::NotFound`] when there is none.
    pub fn dataset(
        &self,
        name: &Name,
        version: Option<Version>,
    ) -> Result<(DatasetManifest, Digest), Error> {
        Ok(forebay_transfer::dataset::open_dataset(self.lake(), name, version)?)
    }

    /// A dataset version, prepared or indexed, the newest if none is named, with its digest.
    ///
    /// # Errors
    /// [`forebay_types::ErrorKind::NotFound`] when there is none.
    pub fn any_dataset(
        &self,
        name: &Name,
        version: Option<Version>,
    ) -> Result<(AnyManifest, Digest), Error> {
        Ok(forebay_transfer::index::open_any(self.lake(), name, version)?)
    }

    /// A feed without a run: one rank's batches of some datasets, from where another one stood.
    ///
    /// # Errors
    /// When a setting does not fit the datasets or the local tier's budget.
    pub fn feed(
        &self,
        datasets: &[FeedDataset<'_>],
        settings: &FeedSettings,
        rank: Rank,
        from: Cursor,
    ) -> Result<Feed, Error> {
        Ok(Feed::open_at(&self.transfer, datasets, settings, rank, from)?)
    }

    /// The samples of the global batch of `step` of such a feed, each with what it was made of.
    ///
    /// # Errors
    /// When there is no such step, or what leads to its records cannot be had.
    pub fn samples(
        &self,
        datasets: &[FeedDataset<'_>],
        settings: &FeedSettings,
        step: u64,
    ) -> Result<Vec<TracedSample>, Error> {
        Ok(forebay_feed::trace(&self.transfer, datasets, settings, step)?)
    }

    /// What run `name` set out to do.
    ///
    /// # Errors
    /// [`forebay_types::ErrorKind::NotFound`] when there is no such run.
    pub fn run_record(&self, name: &Name) -> Result<RunRecord, Error> {
        run_record(self.lake(), name)
    }

    /// The whole journal of run `name`, in order.
    ///
    /// # Errors
    /// When a segment is damaged, naming it.
    pub fn entries(&self, name: &Name) -> Result<Vec<Entry>, Error> {
        Ok(forebay_journal::read(self.lake(), name)?)
    }

    /// Scores a checkpoint of `run` (the newest if `step` is `None`) on the validation split of
    /// the dataset it was trained on, against the gate that stands in its run record.
    ///
    /// # Errors
    /// When there is no such checkpoint, or it or the data is damaged. A gate that is not passed
    /// is no error: the record says so.
    pub fn evaluate(
        &self,
        run: &Name,
        step: Option<u64>,
        settings: &Settings,
        scorer: &mut dyn Scorer,
    ) -> Result<EvaluationRecord, Error> {
        let evaluation = Evaluation {
            transfer: &self.transfer,
            runtime: &self.runtime,
            run,
            step,
            batch_size: settings.evaluate.batch_size,
        };
        Ok(evaluation.run(scorer)?)
    }

    /// The checkpoints of one rank of run `name`, for a training loop that is not a [`crate::Run`].
    ///
    /// `launch` is a text that all ranks of this launch share and no other launch has. Each
    /// checkpoint names the dataset version, if one is given and lies in this lake.
    ///
    /// # Errors
    /// What keeps staged data from the lake.
    pub fn checkpointer(
        &self,
        name: &Name,
        rank: Rank,
        launch: &str,
        settings: &CheckpointSettings,
        dataset: Option<(&Name, Version)>,
    ) -> Result<Checkpointer, Error> {
        let (transfer, runtime) = (&self.transfer, &self.runtime);
        let opened = Checkpointer::open_launch(transfer, name, rank, launch, settings, runtime)?;
        let Some((name, version)) = dataset else { return Ok(opened) };
        match self.any_dataset(name, Some(version)) {
            Ok((_, digest)) => {
                Ok(opened.with_dataset(DatasetReference { name: name.clone(), version, digest }))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(opened),
            Err(error) => Err(error),
        }
    }

    /// Asks run `name`, which trains on this node, for a checkpoint, and waits for its commit at most
    /// `patience`; the step, if there was one.
    ///
    /// # Errors
    /// When a tier fails.
    pub fn ask_for_checkpoint(
        &self,
        name: &Name,
        patience: Duration,
    ) -> Result<Option<u64>, Error> {
        let (transfer, runtime) = (&self.transfer, &self.runtime);
        Ok(forebay_checkpoint::ask(transfer.lake(), transfer.local(), name, patience, runtime)?)
    }

    /// A committed checkpoint of run `name`; `None` when the newest is asked for and there is none.
    ///
    /// # Errors
    /// When there is no such step, or it is damaged.
    pub fn checkpoint(
        &self,
        name: &Name,
        which: Which,
    ) -> Result<Option<CommittedCheckpoint>, Error> {
        Ok(CommittedCheckpoint::open(&self.transfer, name, which)?)
    }

    /// Fills `regions` from a checkpoint, and says which tier they came from.
    ///
    /// # Errors
    /// When a region is not in it, or what it needs is damaged.
    pub fn read_checkpoint(
        &self,
        checkpoint: &CommittedCheckpoint,
        regions: Vec<Region<'_>>,
    ) -> Result<Tier, Error> {
        Ok(checkpoint.read(&self.transfer, regions)?)
    }

    /// The dataset that `reference` names, checked against the digest in it.
    pub(crate) fn referenced(
        &self,
        reference: &DatasetReference,
    ) -> Result<DatasetManifest, Error> {
        let (manifest, digest) = self.dataset(&reference.name, Some(reference.version))?;
        if digest == reference.digest {
            return Ok(manifest);
        }
        Err(forebay_format::Error::damaged(
            format!("dataset {}@{}", reference.name, reference.version),
            format!("its manifest is {digest}, the run was started on {}", reference.digest),
        )
        .into())
    }

    /// Number of tokens, rows and documents in `split`, for the day's summary.
    #[must_use]
    pub fn rows(manifest: &DatasetManifest, split: Split) -> u64 {
        manifest.split(split).map_or(0, |entry| entry.rows)
    }
}

/// What run `name` set out to do, for those who have only a lake.
///
/// # Errors
/// [`forebay_types::ErrorKind::NotFound`] when there is no such run.
pub fn run_record(lake: &Lake, name: &Name) -> Result<RunRecord, Error> {
    Ok(forebay_journal::run_record(lake, name)?.0)
}
