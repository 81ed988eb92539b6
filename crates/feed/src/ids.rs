//! The identities of a batch's samples.
//!
//! A prepared row carries its identity. Rows that lie in files of another format have none, so it is
//! derived from where they lie, by a digest a row. Few consumers ask for them at every step, so
//! they are computed when somebody does.

use forebay_types::{Digest, SampleId};

/// The identities of a batch's samples, in order.
#[derive(Clone, Debug, Default)]
pub struct SampleIds {
    /// The extents that derived identities name by their numbers here.
    extents: Vec<Digest>,
    identities: Vec<Identity>,
}

/// What a sample's identity is, or is computed from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Identity {
    /// It lies beside the sample.
    Stored(SampleId),
    /// It follows from the extent's digest and the row's number in it.
    Derived { extent: u32, row: u32 },
}

/// The identity of a row that carries none: the first half of a digest over its extent's digest and
/// its number there.
pub(crate) fn derived(extent: Digest, row: u32) -> SampleId {
    let mut bytes = [0; 36];
    bytes[..32].copy_from_slice(extent.as_bytes());
    bytes[32..].copy_from_slice(&row.to_le_bytes());
    let digest = Digest::of(&bytes);
    let mut id = [0; 16];
    id.copy_from_slice(&digest.as_bytes()[..16]);
    SampleId::from_bytes(id)
}

impl SampleIds {
    /// Begins anew, with samples of these extents.
    pub(crate) fn reset(&mut self, extents: impl Iterator<Item = Digest>) {
        self.identities.clear();
        self.extents.clear();
        self.extents.extend(extents);
    }

    pub(crate) fn extend(&mut self, identities: impl Iterator<Item = Identity>) {
        self.identities.extend(identities);
    }

    /// The memory they hold.
    pub(crate) fn capacity_bytes(&self) -> u64 {
        let extents = self.extents.capacity() * size_of::<Digest>();
        (extents + self.identities.capacity() * size_of::<Identity>()) as u64
    }

    /// Each identity; those that are derived cost a hash each time.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = SampleId> + '_ {
        self.identities.iter().map(|identity| match *identity {
            Identity::Stored(id) => id,
            Identity::Derived { extent, row } => derived(self.extents[extent as usize], row),
        })
    }
}
