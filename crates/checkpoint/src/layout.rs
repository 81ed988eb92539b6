//! The layout of a save: which of its tensors are written, and where each of them lies.
//!
//! The image in the arena is the file of all tensors. Those that lie in earlier files are left out of
//! the file that is written; the others keep their order and move together. Those that are stored encoded
//! move behind the wider ones, and it is known where they lie when all are written.

use std::collections::{BTreeMap, BTreeSet};

use forebay_format::v1::{
    checkpoint::{EarlierFile, TensorEntry, encoded_spec, longest_spec},
    encoding::{Codec, Encoded},
    tensors::{TensorPlan, TensorSpec, plan, plan_with_room},
};
use forebay_types::{Checksum, Digest, Scattered};

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
    /// Those of them that are stored encoded, and how: before they were, as long as may be.
    encoded: BTreeMap<usize, Encoded>,
    /// The earlier files that are referred to.
    pub earlier: Vec<EarlierFile>,
    /// The tensors in those, in the order in which they lie: file, offset, tensor, how it is stored.
    referred: Vec<(u32, u64, usize, Option<Encoded>)>,
}

impl Layout {
    /// Refers to what is worth it of what was found in earlier files, and plans the file of the rest.
    pub(crate) fn new(tensors: &Tensors, found: BTreeMap<usize, Reference>) -> Result<Self, Error> {
        let bytes = |tensor: usize, one: &Reference| {
            one.encoded.map_or(tensors[tensor].0.bytes, |encoded| encoded.bytes)
        };
        let weighed: Vec<_> =
            found.iter().map(|(&tensor, one)| (one.clone(), bytes(tensor, one))).collect();
        let earlier = worth_keeping(&weighed);
        let mut referred: Vec<_> = found
            .iter()
            .filter_map(|(&tensor, Reference { file, offset, encoded })| {
                let number = earlier.binary_search(file).ok()?;
                Some((u32::try_from(number).ok()?, *offset, tensor, *encoded))
            })
            .collect();
        referred.sort_unstable_by_key(|&(file, offset, tensor, _)| (file, offset, tensor));
        let mut is_written = vec![true; tensors.len()];
        referred.iter().for_each(|&(_, _, tensor, _)| is_written[tensor] = false);
        let written: Vec<usize> = (0..tensors.len()).filter(|&tensor| is_written[tensor]).collect();
        let specs: Vec<TensorSpec> =
            written.iter().map(|&tensor| tensors[tensor].0.spec.clone()).collect();
        let plan = plan(&specs)?;
        debug_assert!(plan.places.iter().map(|(index, _)| *index).eq(0..written.len()));
        Ok(Self { plan, written, encoded: BTreeMap::new(), earlier, referred })
    }

    /// Has some of the tensors that are written stored encoded: room is planned for the longest that they
    /// may become.
    ///
    /// # Errors
    /// When they make no file.
    pub(crate) fn encode(
        &mut self,
        captured: &Captured<'_>,
        chosen: &BTreeSet<usize>,
    ) -> Result<(), Error> {
        if chosen.is_empty() {
            return Ok(());
        }
        let spec = |&tensor: &usize| {
            let spec = &captured.tensors[tensor].0.spec;
            if chosen.contains(&tensor) { longest_spec(spec) } else { spec.clone() }
        };
        self.plan = plan(&self.written.iter().map(spec).collect::<Vec<_>>())?;
        let places = self.plan.places.iter();
        let order = places.clone().map(|(index, place)| (self.written[*index], place.bytes));
        let order: Vec<_> = order.collect();
        self.written = order.iter().map(|&(tensor, _)| tensor).collect();
        let encoded = order.into_iter().filter(|(tensor, _)| chosen.contains(tensor));
        self.encoded = encoded
            .map(|(tensor, bytes)| (tensor, Encoded { codec: Codec::PlanesZstd, bytes }))
            .collect();
        Ok(())
    }

    /// Says how long each of them became, whose lengths these are.
    ///
    /// # Errors
    /// When they make no file.
    pub(crate) fn settle(
        &mut self,
        captured: &Captured<'_>,
        lengths: &BTreeMap<usize, u64>,
    ) -> Result<(), Error> {
        for (tensor, bytes) in lengths {
            self.encoded.entry(*tensor).and_modify(|encoded| encoded.bytes = *bytes);
        }
        let specs = self.written.iter().map(|&tensor| {
            let spec = &captured.tensors[tensor].0.spec;
            match self.encoded.get(&tensor) {
                Some(encoded) => (encoded_spec(&spec.name, encoded.bytes), longest_spec(spec)),
                None => (spec.clone(), spec.clone()),
            }
        });
        let (specs, longest): (Vec<_>, Vec<_>) = specs.unzip();
        self.plan = plan_with_room(&specs, &longest)?;
        debug_assert!(self.plan.places.iter().map(|(index, _)| *index).eq(0..self.written.len()));
        Ok(())
    }

    /// How a tensor that is written is stored, if not as it is.
    pub(crate) fn encoded(&self, tensor: usize) -> Option<Encoded> {
        self.encoded.get(&tensor).copied()
    }

    /// Whether anything is stored encoded.
    pub(crate) fn has_encoded(&self) -> bool {
        !self.encoded.is_empty()
    }

    /// What stands before the data.
    pub(crate) fn header(&self) -> &[u8] {
        &self.plan.header
    }

    /// The length of the file.
    pub(crate) const fn file_bytes(&self) -> u64 {
        self.plan.file_bytes
    }

    /// The tensors that are written.
    pub(crate) fn written(&self) -> &[usize] {
        &self.written
    }

    /// The file's bytes, where nothing is encoded.
    pub(crate) fn file<'a>(&'a self, captured: &'a Captured<'_>) -> Scattered<'a> {
        if let Some(image) = captured.image().filter(|_| self.referred.is_empty()) {
            return image.into();
        }
        let values = self.written.iter().map(|&tensor| captured.values(tensor));
        std::iter::once(&self.plan.header[..]).chain(values).collect()
    }

    pub(crate) fn entries(
        &self,
        tensors: &Tensors,
        sums: &[(Digest, Checksum)],
    ) -> Vec<TensorEntry> {
        let entry = |tensor: usize, offset: u64, encoded, earlier: Option<u32>| {
            let (place, part) = &tensors[tensor];
            let (digest, checksum) = sums[tensor];
            TensorEntry {
                name: place.spec.name.clone(),
                dtype: place.spec.dtype,
                shape: place.spec.shape.clone(),
                offset,
                bytes: place.bytes,
                digest,
                checksum: Some(checksum),
                encoded,
                earlier,
                part: part.clone(),
            }
        };
        let places = self.plan.places.iter().map(|(_, place)| place.offset);
        let written = self.written.iter().zip(places);
        let written =
            written.map(|(&tensor, offset)| entry(tensor, offset, self.encoded(tensor), None));
        let referred = self.referred.iter();
        let referred = referred
            .map(|&(file, offset, tensor, encoded)| entry(tensor, offset, encoded, Some(file)));
        written.chain(referred).collect()
    }
}
