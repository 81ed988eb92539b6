//! The base: what the save before stored and where, so that what did not change is not stored again.
//!
//! A tensor that has the digest it had in the save before is referred to where it lies, in the file
//! of that save or of an earlier one; a file referred to always holds the tensor itself, so there are
//! no chains. Knowing that before anything is written takes a pass over the tensor. Only tensors that
//! are not known to change are given one, and only where enough of a file may be at rest to be worth
//! referring to: a few bytes from all over a tensor tell most that did change, and after two saves of a
//! model that learns throughout none is looked at. A tensor that comes to rest is written once more
//! before it is noticed.
//!
//! # Bounds
//! What a checkpoint keeps alive in the lake is at most twice its state: a file is referred to only
//! if at least half of it is still of use, else what is wanted of it is written anew. At most
//! [`FILES_MAX`] files are referred to.
//!
//! # After a crash
//! The base is in memory alone. The next process begins with what it restored, or with none.

use std::collections::{BTreeMap, HashMap};

use forebay_format::v1::{
    checkpoint::{EarlierFile, RankRecord, TensorEntry, TensorPart},
    encoding::Encoded,
};
use forebay_types::{Digest, DigestWriter};

use crate::capture::{Captured, Tensors};

/// The most files of earlier checkpoints that one rank's record refers to.
const FILES_MAX: usize = 16;
/// A smaller tensor is written anew: that costs less than to say where it lies, and to fetch it.
const TENSOR_BYTES_MIN: u64 = 4 << 10;
/// So many places of a tensor are looked at before all of it is, and so many bytes of each.
const SAMPLES: usize = 16;
const SAMPLE_BYTES: usize = 64;

/// Where a tensor lies in the lake, or will when the save before is drained.
#[derive(Clone, Debug)]
struct Stored {
    digest: Digest,
    bytes: u64,
    offset: u64,
    encoded: Option<Encoded>,
    file: EarlierFile,
    /// Whether it differed from the save before that.
    changed: bool,
    /// That of its values, where they were at hand: when another tensor has another, it differs.
    sample: Option<Digest>,
}

type Name = (String, Option<TensorPart>);

/// The tensors of the save before.
#[derive(Clone, Debug, Default)]
pub(crate) struct Base(HashMap<Name, Stored>);

/// A tensor's place in an earlier file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reference {
    pub file: EarlierFile,
    pub offset: u64,
    /// How it is stored there.
    pub encoded: Option<Encoded>,
}

impl Base {
    /// The tensors of a committed checkpoint, over all its ranks.
    pub(crate) fn of(ranks: &[RankRecord]) -> Self {
        let stored = ranks.iter().flat_map(|record| {
            record.tensors.iter().map(|tensor| (name(tensor), stored(record, tensor, false, None)))
        });
        Self(stored.collect())
    }

    /// The tensors of the save that `record` describes and `captured` holds, compared with those of this
    /// one.
    pub(crate) fn followed_by(&self, record: &RankRecord, captured: &Captured<'_>) -> Self {
        let samples = captured.tensors.iter().enumerate().map(|(tensor, (place, part))| {
            ((place.spec.name.clone(), part.clone()), sample(captured.values(tensor)))
        });
        let samples: HashMap<Name, Digest> = samples.collect();
        let stored = record.tensors.iter().map(|tensor| {
            let name = name(tensor);
            let before = self.0.get(&name);
            let changed = before.is_some_and(|before| before.digest != tensor.digest);
            let sample = samples.get(&name).copied();
            (name, stored(record, tensor, changed, sample))
        });
        Self(stored.collect())
    }

    /// What is of use to a save of `step`: it refers to earlier ones only.
    pub(crate) fn for_step(mut self, step: u64) -> Self {
        self.0.retain(|_, held| held.file.step < step);
        self
    }

    /// The tensors of a save of `step` that may be what they were, by all that is known without their
    /// values, and whose files would then be worth referring to.
    pub(crate) fn candidates(&self, tensors: &Tensors, step: u64) -> Vec<usize> {
        let may = |held: &&Stored, bytes: u64| {
            held.bytes == bytes && !held.changed && held.file.step < step
        };
        let found = tensors.iter().enumerate().filter_map(|(tensor, (place, part))| {
            let bytes = Some(place.bytes).filter(|&bytes| bytes >= TENSOR_BYTES_MIN)?;
            let held = self.find(&place.spec.name, part.as_ref());
            let held = held.filter(|held| may(held, bytes))?;
            let stored = held.encoded.map_or(bytes, |encoded| encoded.bytes);
            Some((tensor, &held.file, stored))
        });
        let found: Vec<_> = found.collect();
        let of_use = of_use(found.iter().map(|&(_, file, bytes)| (file, bytes)));
        let is_worth_it = |&&(_, file, _): &&(usize, &EarlierFile, u64)| of_use.contains_key(file);
        found.iter().filter(is_worth_it).map(|&(tensor, _, _)| tensor).collect()
    }

    /// Whether a candidate of such values is worth a look at all of them.
    pub(crate) fn may_hold(&self, tensor: &str, part: Option<&TensorPart>, values: &[u8]) -> bool {
        let alike = |held: &Stored| held.sample.is_none_or(|found| found == sample(values));
        self.find(tensor, part).is_some_and(alike)
    }

    /// Where a tensor of this digest lies.
    pub(crate) fn holds(
        &self,
        tensor: &str,
        part: Option<&TensorPart>,
        digest: Digest,
    ) -> Option<Reference> {
        let held = self.find(tensor, part).filter(|held| held.digest == digest)?;
        let Stored { file, offset, encoded, .. } = held;
        Some(Reference { file: file.clone(), offset: *offset, encoded: *encoded })
    }

    fn find(&self, tensor: &str, part: Option<&TensorPart>) -> Option<&Stored> {
        self.0.get(&(tensor.to_owned(), part.cloned()))
    }
}

fn name(tensor: &TensorEntry) -> Name {
    (tensor.name.clone(), tensor.part.clone())
}

/// The digest of a few bytes from all over a tensor.
fn sample(values: &[u8]) -> Digest {
    let mut digest = DigestWriter::new();
    for stretch in values.chunks(values.len().div_ceil(SAMPLES).max(1)) {
        digest.update(&stretch[..stretch.len().min(SAMPLE_BYTES)]);
    }
    digest.finish()
}

fn stored(
    record: &RankRecord,
    tensor: &TensorEntry,
    changed: bool,
    sample: Option<Digest>,
) -> Stored {
    let own = || EarlierFile {
        step: record.step,
        rank: record.rank,
        digest: record.file.digest,
        bytes: record.file.bytes,
    };
    let file = record.earlier_file(tensor).cloned().unwrap_or_else(own);
    let TensorEntry { digest, bytes, offset, encoded, .. } = *tensor;
    Stored { digest, bytes, offset, encoded, file, changed, sample }
}

/// The files at least half of which is of use, of those that so many bytes each are wanted of.
fn of_use<'a>(
    wanted: impl Iterator<Item = (&'a EarlierFile, u64)>,
) -> BTreeMap<&'a EarlierFile, u64> {
    let mut of_use: BTreeMap<&EarlierFile, u64> = BTreeMap::new();
    for (file, bytes) in wanted {
        *of_use.entry(file).or_default() += bytes;
    }
    of_use.retain(|file, bytes| bytes.saturating_mul(2) >= file.bytes);
    of_use
}

/// The files that are worth referring to, of those that `found` would refer to for so many bytes.
pub(crate) fn worth_keeping(found: &[(Reference, u64)]) -> Vec<EarlierFile> {
    let of_use = of_use(found.iter().map(|(reference, bytes)| (&reference.file, *bytes)));
    let mut kept: Vec<_> = of_use.into_iter().collect();
    kept.sort_by_key(|&(file, bytes)| (std::cmp::Reverse(bytes), file));
    kept.truncate(FILES_MAX);
    let mut kept: Vec<_> = kept.into_iter().map(|(file, _)| file.clone()).collect();
    kept.sort();
    kept
}

#[cfg(test)]
mod tests {
    use forebay_format::v1::tensors::{Dtype, TensorPlace, TensorSpec};

    use super::*;

    fn file(step: u64, bytes: u64) -> EarlierFile {
        EarlierFile { step, rank: 0, digest: Digest::of(&step.to_le_bytes()), bytes }
    }

    fn reference(file: &EarlierFile) -> Reference {
        Reference { file: file.clone(), offset: 64, encoded: None }
    }

    #[test]
    fn a_tensor_whose_sample_differs_is_not_looked_at() {
        let mut values = vec![7; 1 << 20];
        let held = |sample| {
            let (digest, file) = (Digest::of(&values), file(1, 2 << 20));
            let (bytes, offset, encoded, changed) = (1 << 20, 64, None, false);
            let stored = Stored { digest, bytes, offset, encoded, file, changed, sample };
            Base(HashMap::from([(("t".to_owned(), None), stored)]))
        };
        let (sampled, unknown) = (held(Some(sample(&values))), held(None));
        let may = |base: &Base, values: &[u8]| base.may_hold("t", None, values);
        assert!(may(&sampled, &values) && may(&unknown, &values));
        assert!(!may(&sampled, &[8; 9]));
        // Between the samples it takes a look at all of it.
        values[100] = 8;
        assert!(may(&sampled, &values));
        values[15 << 16] = 8;
        assert!(!may(&sampled, &values) && may(&unknown, &values));
    }

    #[test]
    fn a_candidate_is_as_long_as_before_at_rest_and_in_a_file_worth_keeping() {
        let spec =
            |bytes: u64| TensorSpec { name: "t".into(), dtype: Dtype::U8, shape: vec![bytes] };
        let tensors = |bytes: u64| [(TensorPlace { spec: spec(bytes), offset: 64, bytes }, None)];
        let held = |step, file_bytes, changed| {
            let (digest, file) = (Digest::of(b""), file(step, file_bytes));
            let (bytes, offset, encoded, sample) = (5000, 64, None, None);
            let stored = Stored { digest, bytes, offset, encoded, file, changed, sample };
            Base(HashMap::from([(("t".to_owned(), None), stored)]))
        };
        let found = |base: &Base, bytes, step| base.candidates(&tensors(bytes), step);
        assert_eq!(found(&held(1, 10_000, false), 5000, 2), [0]);
        assert!(found(&held(1, 10_001, false), 5000, 2).is_empty(), "too little of its file");
        assert!(found(&held(1, 10_000, true), 5000, 2).is_empty(), "it changes");
        assert!(found(&held(2, 10_000, false), 5000, 2).is_empty(), "it is no earlier one");
        assert!(found(&held(1, 10_000, false), 5001, 2).is_empty(), "it is longer");
        assert!(found(&Base::default(), 5000, 2).is_empty());
    }

    #[test]
    fn a_file_of_which_less_than_half_is_of_use_is_let_go() {
        let (old, new) = (file(1, 1000), file(2, 1001));
        let found = [(reference(&old), 300), (reference(&new), 500), (reference(&old), 200)];
        assert_eq!(worth_keeping(&found), [old]);
    }

    #[test]
    fn the_most_useful_files_are_referred_to_and_no_more_than_the_limit() {
        let files: Vec<_> = (1..=40).map(|step| file(step, step)).collect();
        let found: Vec<_> = files.iter().map(|one| (reference(one), one.bytes)).collect();
        assert_eq!(worth_keeping(&found), files[40 - FILES_MAX..]);
    }
}
