//! The writer of a run: one launch at a time.
//!
//! A launch claims the next number with one conditional put before it saves, and whoever commits
//! looks whether a higher number was claimed, before its commit and once more after it. So of two
//! launches that save one run, because a scheduler restarted a job whose node was only cut off,
//! or two people chose one name, the later one goes on and the earlier one is told.
//!
//! A claim says which step was the newest. It is made again until no newer one appeared meanwhile, so
//! what the earlier writer committed before the claim is gone on from; and what it commits after it,
//! between its first look and its put, is told as failed to it and removed by retention.
//!
//! # After a crash
//! A claim without saves, which the next one replaces.

use forebay_format::{
    record,
    v1::writer::{self, WriterRecord},
};
use forebay_lake::{Commit, Lake, Purpose};
use forebay_types::{Digest, DigestWriter, Name};

use crate::{Error, read, site::Site};

/// Claims that are looked at for one of this launch: its ranks start together, so few come between.
const LOOK_BACK: usize = 4;

/// Claims that [`launches`] reads.
pub const LAUNCHES_MAX: usize = 32;

/// What tells a launch from every other.
pub(crate) fn launch_digest(launch: &str) -> Digest {
    let mut digest = DigestWriter::for_context("forebay 2026 run writer");
    digest.update(launch.as_bytes());
    digest.finish()
}

/// Makes a launch the writer of its run, unless it is.
///
/// # Errors
/// [`Error::Replaced`] when it was, and another has replaced it.
pub(crate) fn claim(site: &Site, launch: Digest) -> Result<(), Error> {
    let (lake, run) = (site.lake(), &site.run);
    loop {
        let newest_step = read::steps(lake, run)?.pop();
        let mut claims = Vec::new();
        for number in numbers(lake, run)?.into_iter().rev().take(LOOK_BACK) {
            claims.push(read_claim(lake, run, number)?);
        }
        match claims.iter().position(|claim| claim.launch == launch) {
            // Another rank of this launch has claimed.
            Some(0) => return Ok(()),
            Some(_) => return Err(replaced(&claims[0])),
            None => {}
        }
        let number = claims.first().map_or(0, |claim| claim.number) + 1;
        let claimed_unix_ms = site.runtime.now().unix_ms();
        let claim = WriterRecord { run: run.clone(), number, launch, claimed_unix_ms, newest_step };
        let (body, _) = record::encode(&claim)?;
        let won = lake.commit(&writer::writer_key(run, number), &body)?;
        // Whoever lost looks again: the winner may be a rank of the same launch.
        if matches!(won, Commit::Won) {
            return follow_up(site, claim);
        }
    }
}

/// Claims again for as long as a newer step appears: the claim must know all that went before it.
fn follow_up(site: &Site, mut claim: WriterRecord) -> Result<(), Error> {
    let (lake, run) = (site.lake(), &site.run);
    loop {
        let newest_step = read::steps(lake, run)?.pop();
        if newest_step == claim.newest_step {
            return Ok(());
        }
        claim = WriterRecord { number: claim.number + 1, newest_step, ..claim };
        let (body, _) = record::encode(&claim)?;
        if let Commit::Lost(found) = lake.commit(&writer::writer_key(run, claim.number), &body)? {
            let key = writer::writer_key(run, claim.number);
            return Err(replaced(&record::decode::<WriterRecord>(&found, key.as_str())?.0));
        }
    }
}

/// The writer's claim, if anybody has claimed.
///
/// # Errors
/// [`Error::Replaced`] when that is not `launch`.
pub(crate) fn check(
    lake: &Lake,
    run: &Name,
    launch: Option<Digest>,
) -> Result<Option<WriterRecord>, Error> {
    let Some(number) = numbers(lake, run)?.pop() else { return Ok(None) };
    let claim = read_claim(lake, run, number)?;
    if Some(claim.launch) == launch { Ok(Some(claim)) } else { Err(replaced(&claim)) }
}

/// The newest launches that wrote `run`, at most [`LAUNCHES_MAX`], in order: the first claim of each.
///
/// # Errors
/// When the lake fails, or a claim is damaged.
pub fn launches(lake: &Lake, run: &Name) -> Result<Vec<WriterRecord>, Error> {
    let numbers = numbers(lake, run)?;
    let mut claims: Vec<WriterRecord> = Vec::new();
    for &number in &numbers[numbers.len().saturating_sub(LAUNCHES_MAX)..] {
        let claim = read_claim(lake, run, number)?;
        if claims.last().is_none_or(|last| last.launch != claim.launch) {
            claims.push(claim);
        }
    }
    Ok(claims)
}

/// The numbers that were claimed, in order.
fn numbers(lake: &Lake, run: &Name) -> Result<Vec<u64>, Error> {
    let mut numbers = Vec::new();
    lake.list(&writer::writers_prefix(run), &mut |listed| {
        numbers.extend(writer::number_of(run, &listed.key));
        Ok(())
    })?;
    numbers.sort_unstable();
    Ok(numbers)
}

fn read_claim(lake: &Lake, run: &Name, number: u64) -> Result<WriterRecord, Error> {
    let key = writer::writer_key(run, number);
    let body = lake.read(&key, Purpose::Checkpoint, record::LEN_BYTES_MAX)?;
    let body = body.ok_or_else(|| Error::object(&key, "it was listed and is missing"))?;
    let (claim, _) = record::decode::<WriterRecord>(&body, key.as_str())?;
    if claim.run == *run && claim.number == number {
        Ok(claim)
    } else {
        Err(Error::object(&key, "it is another claim"))
    }
}

fn replaced(by: &WriterRecord) -> Error {
    Error::Replaced { run: by.run.clone(), key: writer::writer_key(&by.run, by.number) }
}
