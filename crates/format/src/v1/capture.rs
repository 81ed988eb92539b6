//! Captures: a training state in a node's memory, which outlives the process that put it there.
//!
//! ```text
//! image     a tensor file that holds all tensors of the state, as `tensors` plans it
//! record    what is said about them, framed as every record
//! room      whatever was there before
//! label     the last 40 bytes: `forebay capture\n`, then, as little-endian u64, the version of the
//!           format, the bytes of the image, and those of the record
//! ```
//!
//! A capture has no digest of its tensors: it is there until the state is on the node's disk, seconds
//! later, and memory that a process left is what it was. Its name says that it is whole.

use forebay_types::{Digest, Name, Nonce, Position};
use serde::{Deserialize, Serialize};

use super::{
    checkpoint::{self, CheckpointReference, RANKS_MAX, TensorPart},
    run::DatasetReference,
    tensors::{self, Dtype, TensorPlan, TensorSpec},
};
use crate::{Error, record::Record};

/// What is said about a capture besides its tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaptureFacts {
    /// The run.
    pub run: Name,
    /// Steps taken.
    pub step: u64,
    /// The rank.
    pub rank: u32,
    /// The number of ranks that belong to the checkpoint.
    pub world_size: u32,
    /// Shared by all ranks of one attempt at this step and by no other attempt.
    pub attempt: Nonce,
    /// The launch that saves it, as it claimed the run; see [`super::writer`].
    pub launch: Digest,
    /// Where the run stands in its data.
    pub position: Position,
    /// The checkpoint the run went on from before this one.
    pub parent: Option<u64>,
    /// What the run learns from.
    pub dataset: Option<DatasetReference>,
    /// The checkpoint of another run that this run went on from, if it was forked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forked_from: Option<CheckpointReference>,
    /// When it was captured, in milliseconds since 1970.
    pub captured_unix_ms: u64,
    /// What the trainer stored beside its tensors: schedule, random state, …
    pub metadata: serde_json::Value,
}

/// A tensor of a capture.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CapturedTensor {
    /// Its name.
    pub name: String,
    /// The type of its elements.
    pub dtype: Dtype,
    /// Its shape.
    pub shape: Vec<u64>,
    /// What of a larger tensor of this name it is; none when it is the whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<TensorPart>,
}

/// What is said about a capture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaptureRecord {
    /// Besides its tensors.
    pub facts: CaptureFacts,
    /// Its tensors in the order in which they lie in the image.
    pub tensors: Vec<CapturedTensor>,
}

impl CaptureRecord {
    /// The plan of the image.
    ///
    /// # Errors
    /// When the tensors make no file.
    pub fn plan(&self) -> Result<TensorPlan, Error> {
        let specs = self.tensors.iter().map(|tensor| {
            let CapturedTensor { name, dtype, shape, .. } = tensor.clone();
            TensorSpec { name, dtype, shape }
        });
        tensors::plan(&specs.collect::<Vec<_>>())
    }
}

impl Record for CaptureRecord {
    const FORMAT: &'static str = "forebay.checkpoint.capture";
    const VERSION: u32 = 1;

    fn check(&self) -> Result<(), String> {
        let CaptureFacts { run, step, rank, world_size, parent, forked_from, .. } = &self.facts;
        if rank >= world_size || *world_size > RANKS_MAX {
            return Err(format!("rank {rank} of world size {world_size}"));
        }
        checkpoint::check_parent(*parent, *step)?;
        checkpoint::check_fork(forked_from.as_ref(), run, *step)?;
        let plan = self.plan().map_err(|error| error.to_string())?;
        if plan.places.iter().map(|(index, _)| *index).ne(0..self.tensors.len()) {
            return Err("its tensors do not stand in the order of its image".into());
        }
        let apart = |tensor: &&CapturedTensor| {
            tensor.part.as_ref().is_some_and(|part| !part.holds(&tensor.shape))
        };
        match self.tensors.iter().find(apart) {
            Some(tensor) => Err(format!("tensor `{}` is no part of its whole", tensor.name)),
            None => Ok(()),
        }
    }
}

/// Says where in a capture's memory image and record end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label {
    /// The length of the image, which comes first.
    pub image_bytes: u64,
    /// The length of the record, which follows it.
    pub record_bytes: u64,
}

const MAGIC: &[u8; 16] = b"forebay capture\n";
const VERSION: u64 = 1;

impl Label {
    /// Its length, at the end of the memory.
    pub const BYTES: usize = 40;

    /// Its bytes.
    #[must_use]
    pub fn encode(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..16].copy_from_slice(MAGIC);
        let numbers = [VERSION, self.image_bytes, self.record_bytes];
        for (number, into) in numbers.into_iter().zip(bytes[16..].chunks_exact_mut(8)) {
            into.copy_from_slice(&number.to_le_bytes());
        }
        bytes
    }

    /// What a label says, the last [`Label::BYTES`] of memory.
    ///
    /// `object` names the memory in errors.
    ///
    /// # Errors
    /// [`Error::Newer`] for a version this build does not know, [`Error::Damaged`] when it is none.
    pub fn decode(label: &[u8; Self::BYTES], object: &str) -> Result<Self, Error> {
        let mut numbers = label[16..].chunks_exact(8).map(|bytes| {
            bytes.try_into().map(u64::from_le_bytes).expect("the chunks are of eight bytes")
        });
        let mut next = || numbers.next().unwrap_or(0);
        let (version, image_bytes, record_bytes) = (next(), next(), next());
        if label[..16] != *MAGIC {
            return Err(Error::damaged(object, "it has no label".to_owned()));
        }
        if version > VERSION {
            return Err(Error::Newer {
                object: object.into(),
                format: CaptureRecord::FORMAT,
                found: u32::try_from(version).unwrap_or(u32::MAX),
                known: VERSION as u32,
            });
        }
        Ok(Self { image_bytes, record_bytes })
    }

    /// Splits memory into the image and the bytes of the record that its label speaks of.
    ///
    /// `object` names the memory in errors.
    ///
    /// # Errors
    /// [`Error::Newer`] for a version this build does not know, [`Error::Damaged`] otherwise.
    pub fn split<'a>(memory: &'a [u8], object: &str) -> Result<(&'a [u8], &'a [u8]), Error> {
        let damaged = |what: &str| Error::damaged(object, what.to_owned());
        let (rest, label) = memory
            .split_last_chunk::<{ Self::BYTES }>()
            .ok_or_else(|| damaged("it is shorter than its label"))?;
        let Self { image_bytes, record_bytes } = Self::decode(label, object)?;
        let end = image_bytes.checked_add(record_bytes).filter(|&end| end <= rest.len() as u64);
        if end.is_none() {
            return Err(damaged("it is shorter than its label says"));
        }
        let (image, rest) = rest.split_at(image_bytes as usize);
        Ok((image, &rest[..record_bytes as usize]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_finds_what_it_speaks_of_and_nothing_else() {
        let label = Label { image_bytes: 3, record_bytes: 2 };
        let memory = |room: usize| [&[1, 2, 3, 4, 5], &vec![9; room][..], &label.encode()].concat();
        for room in [0, 1, 100] {
            assert_eq!(Label::split(&memory(room), "m").unwrap(), (&[1, 2, 3][..], &[4, 5][..]));
        }
        assert!(Label::split(&memory(0)[1..], "m").is_err());
        assert!(Label::split(&[], "m").is_err());
        for at in 0..16 {
            let mut other = memory(7);
            let start = other.len() - Label::BYTES;
            other[start + at] ^= 1;
            assert!(Label::split(&other, "m").is_err());
        }
        let endless = Label { image_bytes: u64::MAX, record_bytes: 2 }.encode();
        assert!(Label::split(&endless, "m").is_err());
        let mut newer = memory(0);
        let version = newer.len() - Label::BYTES + 16;
        newer[version] = 2;
        assert!(matches!(Label::split(&newer, "m"), Err(Error::Newer { found: 2, .. })));
    }
}
