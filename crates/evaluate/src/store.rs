//! Committing an evaluation, and finding one again.

use forebay_format::{record, v1::evaluation::EvaluationRecord};
use forebay_lake::{Commit, Lake};

use crate::Error;

/// Commits `record`; returns what stands in the lake then: it, or the record of an earlier
/// evaluation that found the same.
pub(crate) fn commit(lake: &Lake, record: EvaluationRecord) -> Result<EvaluationRecord, Error> {
    let (body, _) = record::encode(&record)?;
    let key = record.key();
    let failed = |source| Error::Lake { run: record.run.clone(), step: record.step, source };
    let Commit::Lost(standing) = lake.commit(&key, &body).map_err(failed)? else {
        return Ok(record);
    };
    let (standing, _) = record::decode::<EvaluationRecord>(&standing, key.as_str())?;
    if standing.identity() == record.identity() {
        return Ok(standing);
    }
    Err(forebay_format::Error::damaged(key, "it is the record of another evaluation").into())
}
