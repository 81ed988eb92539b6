//! Where a run stands in its data, and which part of it one process takes.

use serde::{Deserialize, Serialize};

/// How far a run has read: the whole of a feed's state.
///
/// Together with the dataset version and the order's settings (seed, batch size, shuffle) it says
/// which samples were seen and which come next. It does not depend on the world size.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(deny_unknown_fields)]
pub struct Position {
    /// Global batches consumed since the start of the run; also the number of the next step.
    pub step: u64,
}

/// One process of a job: its rank and how many there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "RawRank", into = "RawRank")]
pub struct Rank {
    rank: u32,
    world_size: u32,
}

/// A rank outside its world.
#[derive(Debug, thiserror::Error)]
#[error(
    "rank {rank} of world size {world_size} does not exist: ranks count from 0 to world size - 1"
)]
pub struct RankError {
    rank: u32,
    world_size: u32,
}

#[derive(Serialize, Deserialize)]
struct RawRank {
    rank: u32,
    world_size: u32,
}

impl Rank {
    /// The only process of a job of one.
    pub const ALONE: Self = Self { rank: 0, world_size: 1 };

    /// Rank `rank` of `world_size`.
    ///
    /// # Errors
    /// [`RankError`] unless `rank < world_size`.
    pub const fn new(rank: u32, world_size: u32) -> Result<Self, RankError> {
        if rank < world_size {
            Ok(Self { rank, world_size })
        } else {
            Err(RankError { rank, world_size })
        }
    }

    /// This process's number, from 0.
    #[must_use]
    pub const fn rank(self) -> u32 {
        self.rank
    }

    /// The number of processes, at least 1.
    #[must_use]
    pub const fn world_size(self) -> u32 {
        self.world_size
    }
}

impl TryFrom<RawRank> for Rank {
    type Error = RankError;

    fn try_from(raw: RawRank) -> Result<Self, RankError> {
        Self::new(raw.rank, raw.world_size)
    }
}

impl From<Rank> for RawRank {
    fn from(rank: Rank) -> Self {
        Self { rank: rank.rank, world_size: rank.world_size }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rank_lies_inside_its_world() {
        assert!(Rank::new(0, 0).is_err());
        assert!(Rank::new(2, 2).is_err());
        assert_eq!(Rank::new(0, 1).unwrap(), Rank::ALONE);
        assert!(serde_json::from_str::<Rank>(r#"{"rank":3,"world_size":2}"#).is_err());
    }
}
