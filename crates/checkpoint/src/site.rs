//! Who saves, and where to.

use forebay_lake::Lake;
use forebay_local::LocalTier;
use forebay_runtime::Runtime;
use forebay_transfer::Transfer;
use forebay_types::{Name, Rank};

use crate::CheckpointSettings;

/// One rank of one run, and the tiers it saves to.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    pub transfer: Transfer,
    pub run: Name,
    pub rank: Rank,
    pub settings: CheckpointSettings,
    pub runtime: Runtime,
}

impl Site {
    pub(crate) fn lake(&self) -> &Lake {
        self.transfer.lake()
    }

    pub(crate) fn local(&self) -> &LocalTier {
        self.transfer.local()
    }

    /// One that saves to the tiers of a test.
    #[cfg(test)]
    pub(crate) fn of_test(tiers: &forebay_testing::TempTiers, threads: usize) -> Self {
        Self {
            transfer: tiers.transfer(),
            run: Name::new("run").expect("it is a name"),
            rank: Rank::ALONE,
            settings: CheckpointSettings { threads, ..CheckpointSettings::default() },
            runtime: tiers.runtime.clone(),
        }
    }

    pub(crate) fn threads(&self) -> usize {
        self.settings.threads.max(1)
    }
}
