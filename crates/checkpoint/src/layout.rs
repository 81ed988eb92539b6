//! The layout of a save: which of its tensors are written, and where each of them lies.
//!
//! The image in the arena is the file of all tensors. Those that lie in earlier files are left out of
//! the file that is written; the others keep their order and move together.

use std::collections::BTreeMap;

use forebay_format::v1::{
    checkpoint::{EarlierFile, TensorEntry},
    tensors::{TensorPlan, TensorSpec},
};
use forebay_types::{Digest, Scattered};

use crate::{
    Error,
    base::{Reference, worth_keeping},
    capture::{Captured, Tensors},
};

/// Where each tensor of a captured state lies; numbers are those of [`Captured::tensors`].
pub(crate) struct Layout {
    /// The file that is written.
    plan: TensorPlan,
    /// The tensors in it, in its order.
    written: Vec<usize>,
    /// The earlier files that are referred to.
    pub earlier: Vec<EarlierFile>,
    /// The tensors in those, in the order in which they lie: file, offset, tensor.
    referred: Vec<(u32, u64, usize)>,
}

impl Layout {
    /// Refers to what is worth it of what was found in earlier files, and plans the file of the rest.
    pub(crate) fn new(tensors: &Tensors, found: BTreeMap<usize, Reference>) -> Result<Self, Error> {
        let bytes = |tensor: usize| tensors[tensor].0.bytes;
        let weighed: Vec<_> =
            found.iter().map(|(&tensor, one)| (one.clone(), bytes(tensor))).collect();
        let earlier = worth_keeping(&weighed);
        let mut referred: Vec<_> = found
            .iter()
            .filter_map(|(&tensor, Reference { file, offset })| {
                let number = earlier.binary_search(file).ok()?;
                Some((u32::try_from(number).ok()?, *offset, tensor))
            })
            .collect();
        referred.sort_unstable();
        let mut is_written = vec![true; tensors.len()];
        referred.iter().for_each(|&(_, _, tensor)| is_written[tensor] = false);
        let written: Vec<usize> = (0..tensors.len()).filter(|&tensor| is_written[tensor]).collect();
        let specs: Vec<TensorSpec> =
            written.iter().map(|&tensor| tensors[tensor].0.spec.clone()).collect();
        let plan = forebay_format::v1::tensors::plan(&specs)?;
        debug_assert!(plan.places.iter().map(|(index, _)| *index).eq(0..written.len()));
        Ok(Self { plan, written, earlier, referred })
    }

    /// The length of the file.
    pub(crate) const fn file_bytes(&self) -> u64 {
        self.plan.file_bytes
    }

    /// The tensors that are written.
    pub(crate) fn written(&self) -> &[usize] {
        &self.written
    }

    /// The file's bytes.
    pub(crate) fn file<'a>(&'a self, captured: &'a Captured<'_>) -> Scattered<'a> {
        if let Some(image) = captured.image().filter(|_| self.referred.is_empty()) {
            return image.into();
        }
        let values = self.written.iter().map(|&tensor| captured.values(tensor));
        std::iter::once(&self.plan.header[..]).chain(values).collect()
    }

    /// What the record says of each tensor, whose digests are given.
    pub(crate) fn entries(&self, tensors: &Tensors, digests: &[Digest]) -> Vec<TensorEntry> {
        let entry = |tensor: usize, offset: u64, earlier: Option<u32>| {
            let (place, part) = &tensors[tensor];
            TensorEntry {
                name: place.spec.name.clone(),
                dtype: place.spec.dtype,
                shape: place.spec.shape.clone(),
                offset,
                bytes: place.bytes,
                digest: digests[tensor],
                earlier,
                part: part.clone(),
            }
        };
        let places = self.plan.places.iter().map(|(_, place)| place.offset);
        let written = self.written.iter().zip(places);
        let written = written.map(|(&tensor, offset)| entry(tensor, offset, None));
        let referred = self.referred.iter();
        let referred = referred.map(|&(file, offset, tensor)| entry(tensor, offset, Some(file)));
        written.chain(referred).collect()
    }
}
