//! Failures: a rank that gives its part of a checkpoint up tells those that wait for it.
//!
//! Without its part the attempt is never committed, and the others would wait for as long as they
//! wait for a slow rank. So it leaves a small record beside the parts, which they find when they look
//! for those. What will be tried again is not given up. The record says what kind of thing went wrong,
//! without names and paths: those stand in the rank's own error. A lake that is away cannot be told;
//! then the others wait as they do for a rank that died.
//!
//! # After a crash
//! Told or not told. The record is a leftover like the parts, and goes with them. A part that was
//! given up and is found by the next start of its rank is published all the same: a step whose parts
//! are all there is committed, whatever was said before.

use forebay_format::{
    record,
    v1::{checkpoint::commit_key, failure::FailureRecord},
};
use forebay_lake::Purpose;
use forebay_types::{ErrorKind, Key, Nonce};

use crate::{Error, site::Site};

/// Tells the other ranks, if there are any, that this one's part of an attempt will not come.
pub(crate) fn tell(site: &Site, step: u64, attempt: Nonce, reason: String) {
    if site.rank.world_size() == 1 {
        return;
    }
    let (run, rank) = (site.run.clone(), site.rank.rank());
    let failed_unix_ms = site.runtime.now().unix_ms();
    let failure = FailureRecord { run, step, rank, attempt, failed_unix_ms, reason };
    // What went wrong is told here; that the others could not be told of it would hide it.
    let _told = write(site, &failure);
}

/// Writes a failure, unless its step is committed: then the others see that, and it would only lie there.
fn write(site: &Site, failure: &FailureRecord) -> Result<(), Error> {
    if site.lake().size(&commit_key(&failure.run, failure.step))?.is_none() {
        let (body, _) = record::encode(failure)?;
        site.lake().write(&failure.key(), Purpose::Checkpoint, &body)?;
    }
    Ok(())
}

/// Tells it of a part that could not be `captured`, `staged` or `published`.
pub(crate) fn tell_error(site: &Site, step: u64, attempt: Nonce, act: &'static str, error: &Error) {
    if let Some(reason) = reason_of(act, error) {
        tell(site, step, attempt, reason);
    }
}

/// What is told of an error. Work that was stopped from outside is taken up again by the next start.
pub(crate) fn reason_of(act: &'static str, error: &Error) -> Option<String> {
    let is_final = error.kind() != ErrorKind::Interrupted;
    is_final.then(|| format!("it could not be {act}: {}", cause(error)))
}

fn cause(error: &Error) -> &'static str {
    use Error::{Background, Changed, RankFailed, RanksMissing, Retention};
    if let Background { .. }
    | Changed { .. }
    | RankFailed { .. }
    | RanksMissing { .. }
    | Retention { .. } = error
    {
        return "what went wrong with an earlier save was told instead";
    }
    match error.kind() {
        ErrorKind::Invalid => "the state was refused",
        ErrorKind::NotFound => "something that it needs is missing",
        ErrorKind::Corrupt => "what was staged is damaged",
        ErrorKind::Conflict => "another launch writes the run",
        ErrorKind::Unavailable => "a tier could not be reached or written",
        ErrorKind::Full => "there was no room",
        ErrorKind::NewerFormat => "a newer Forebay wrote what it needs",
        ErrorKind::Refused => "a rule said no",
        _ => "it met a defect",
    }
}

/// Why the rank whose failure is listed at `key` gave up; `None` if it is gone meanwhile.
pub(crate) fn reason(site: &Site, key: &Key) -> Result<Option<String>, Error> {
    let body = site.lake().read(key, Purpose::Checkpoint, record::LEN_BYTES_MAX)?;
    let Some(body) = body else { return Ok(None) };
    let told = match record::decode::<FailureRecord>(&body, key.as_str()) {
        Ok((failure, _)) if failure.key() == *key => failure.reason,
        // That it failed the name says already.
        _ => "its reason cannot be read".into(),
    };
    Ok(Some(told))
}
