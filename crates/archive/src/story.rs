//! All that is known of an evaluated model, read from the lake, each link checked.

use forebay_format::{
    record,
    v1::{
        dataset::DatasetManifest,
        evaluation::EvaluationRecord,
        journal::{Entry, Event},
        package::{LineageRecord, PackageLineage},
        run::{RunRecord, run_key},
    },
};
use forebay_lake::{Lake, Purpose};
use forebay_transfer::dataset::open_dataset;
use forebay_types::{Digest, Key, Split};

use crate::{Error, checkpoint::Weights};

/// What a package is made from, apart from the weights.
pub(crate) struct Story {
    pub run: RunRecord,
    /// The run record as it stands in the lake.
    pub run_bytes: Vec<u8>,
    pub run_digest: Digest,
    pub evaluation: EvaluationRecord,
    /// The evaluation as it stands in the lake.
    pub evaluation_bytes: Vec<u8>,
    pub evaluation_digest: Digest,
    pub dataset: DatasetManifest,
    /// What the run did, up to and with this evaluation.
    pub entries: Vec<Entry>,
}

impl Story {
    /// Reads what belongs to `evaluation`, which must stand in the lake.
    pub(crate) fn read(lake: &Lake, evaluation: &EvaluationRecord) -> Result<Self, Error> {
        let (run_bytes, run, run_digest) = stored::<RunRecord>(lake, &run_key(&evaluation.run))?;
        let key = evaluation.key();
        let (evaluation_bytes, standing, evaluation_digest) =
            stored::<EvaluationRecord>(lake, &key)?;
        if standing.identity() != evaluation.identity() {
            return Err(forebay_format::Error::damaged(key, "it is another evaluation").into());
        }
        let reference = &run.dataset;
        let (dataset, digest) = open_dataset(lake, &reference.name, Some(reference.version))?;
        if digest != reference.digest || standing.dataset != *reference {
            let object = format!("dataset {}@{}", reference.name, reference.version.number());
            let what = "it is not the version that the run learned from";
            return Err(forebay_format::Error::damaged(object, what).into());
        }
        let entries = until(forebay_journal::read(lake, &run.run)?, evaluation_digest);
        Ok(Self {
            run,
            run_bytes,
            run_digest,
            evaluation: standing,
            evaluation_bytes,
            evaluation_digest,
            dataset,
            entries,
        })
    }

    pub(crate) fn links(&self) -> PackageLineage {
        PackageLineage {
            run: self.run.run.clone(),
            run_digest: self.run_digest,
            step: self.evaluation.step,
            checkpoint: self.evaluation.checkpoint,
            dataset: self.run.dataset.clone(),
            evaluation: self.evaluation_digest,
        }
    }

    pub(crate) fn lineage(&self, feed: &serde_json::Value, weights: &Weights) -> LineageRecord {
        LineageRecord {
            package: self.links(),
            split: Split::Train,
            feed: feed.clone(),
            recipe: self.dataset.recipe.clone(),
            recipe_digest: self.dataset.recipe_digest,
            tokenizer: self.dataset.tokenizer.clone(),
            schema: self.dataset.schema,
            sources: self.dataset.sources.clone(),
            counts: self.dataset.counts.clone(),
            weights_header: weights.header(),
            weights: weights.entries(),
        }
    }
}

/// The entries up to the one that tells of `evaluation`, or up to the first that tells of a
/// package. What came later is told about the package and not by it; leaving it out makes the
/// same model the same package, whenever it is archived.
fn until(mut entries: Vec<Entry>, evaluation: Digest) -> Vec<Entry> {
    let told = entries.iter().position(
        |entry| matches!(&entry.event, Event::Evaluated(told) if told.evaluation == evaluation),
    );
    let archived = || {
        let archived = |entry: &Entry| matches!(entry.event, Event::Archived(_));
        entries.iter().position(archived).unwrap_or(entries.len())
    };
    let end = told.map_or_else(archived, |index| index + 1);
    entries.truncate(end);
    entries
}

fn stored<R: record::Record>(lake: &Lake, key: &Key) -> Result<(Vec<u8>, R, Digest), Error> {
    let bytes = lake
        .read(key, Purpose::Manifest, record::LEN_BYTES_MAX)
        .map_err(|source| Error::Record { object: key.clone(), source })?
        .ok_or_else(|| Error::Missing { object: key.clone(), lake: lake.url().to_owned() })?;
    let (record, digest) = record::decode(&bytes, key.as_str())?;
    Ok((bytes, record, digest))
}
