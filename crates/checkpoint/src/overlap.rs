//! Overlapping: a state is staged while it is still being copied.
//!
//! Copying takes the processor, and writing past the page cache mostly waits for the device. So each
//! piece of the image goes to the disk as soon as it is copied. Digests, which take the processor too,
//! come when nothing is left to copy: the optimizer's next step waits for the copy alone.
//!
//! That the state is whole is known when all is copied and the trainer has said so. Then it is kept in
//! memory, at once, as without a file; and only when both it and the file are whole is the save sealed.
//! A state that is not whole leaves no file.
//!
//! Where the file goes through the page cache, because the lake does not take it as it is, writing is
//! copying, and begins when the copy has ended.
//!
//! # Bounds
//! As staging: the file is written from the image. One thread more, which waits for the trainer's word.
//!
//! # After a crash
//! Until the state is kept, at most a file without a seal. From then on the capture too, from which the
//! file is staged anew.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use forebay_format::v1::dataset::ObjectEntry;
use forebay_transfer::Follow;
use forebay_types::{Checksum, Digest};

use crate::{
    Error,
    arena::PieceCopy,
    capture::{Captured, Settled, Unsettled},
    copying::Verdict,
    digests::TensorDigests,
    layout::Layout,
    pieces::Pieces,
    shared::{lock, next, take},
    site::Site,
    stage::{Staged, StagedNames, Writing, seal},
};

/// Completes what was captured, as [`Captured::complete`] does, and stages all of it meanwhile. Without
/// an outcome of the staging none was tried, or the state is not whole.
pub(crate) fn stage_overlapped(
    site: &Site,
    captured: &mut Captured<'_>,
    follows: bool,
) -> (Result<Verdict, Error>, Option<Result<Staged, Error>>) {
    let names = StagedNames::of_capture(&captured.facts);
    let layout = match Layout::new(&captured.tensors, BTreeMap::new()) {
        Ok(layout) => layout,
        Err(error) => return (captured.complete(site), Some(Err(error))),
    };
    let Some(later) = captured.later.take() else { return (captured.complete(site), None) };
    // What the caller fills is nobody else's before that, and neither is a piece that it lies in.
    if !later.copier.await_filled() {
        captured.later = Some(later);
        return (captured.complete(site), None);
    }
    let Some((copies, unsettled)) = captured.open(&later.tensors, Some(later.copier)) else {
        return (Ok(Verdict::Intact), None);
    };
    let (settled, written) = write(site, copies.into_iter(), unsettled, &layout, &names, follows);
    let completed = settled.map(|(verdict, metadata)| {
        captured.say(metadata);
        verdict
    });
    let staged = written.map(|written| {
        let (file, follow, sums) = written?;
        let sealed = seal(site, captured, &layout, &names.record, file, &sums)?;
        Ok((sealed, follow))
    });
    if matches!(staged, Some(Ok(_))) {
        return (completed, staged);
    }
    let released = site.local().release(&names.file).map_err(Error::from);
    (completed.and_then(|verdict| released.map(|()| verdict)), staged)
}

/// The file, on its way to the lake if it is, and the digests and checksums of all tensors.
type Written = (ObjectEntry, Option<Follow>, Vec<(Digest, Checksum)>);

/// Copies what is left to copy, settles the state and writes its file, which is nothing without the
/// state.
fn write<'a>(
    site: &Site,
    copies: impl Iterator<Item = PieceCopy<'a>> + Send,
    unsettled: Unsettled<'a>,
    layout: &Layout,
    names: &StagedNames,
    follows: bool,
) -> (Result<Settled, Error>, Option<Result<Written, Error>>) {
    let pieces = Pieces::new(layout.file_bytes());
    let digests = TensorDigests::of_image(unsettled.tensors, &pieces);
    let writing = Writing::new(site, unsettled.facts, &pieces, &names.file, follows);
    let (copies, unsettled) = (Mutex::new(copies), Mutex::new(Some(unsettled)));
    let (settled, is_failed) = (Mutex::new(None), AtomicBool::new(false));
    let copiers = site.threads();
    let outcome = site.runtime.workers("checkpoint-stage", copiers + 2, |index| {
        if index < copiers {
            pieces.fill(|| copy(&copies, &pieces));
            // What cannot be written need not be digested.
            if !is_failed.load(Ordering::Relaxed) {
                writing.digest();
                digests.work(layout.written());
            }
            return Ok(());
        }
        if index == copiers {
            let unsettled = take(&unsettled).expect("one thread settles it");
            *lock(&settled) = Some(settle(unsettled, &pieces));
            return Ok(());
        }
        if !writing.is_direct() {
            pieces.await_all();
        }
        let outcome = writing.reserve().and_then(|()| writing.write());
        is_failed.store(outcome.is_err(), Ordering::Relaxed);
        outcome
    });
    let settled = take(&settled).expect("one thread settled it");
    let is_intact = matches!(settled, Ok((Verdict::Intact, _)));
    let written = is_intact.then(|| {
        outcome.map(|()| {
            let (file, follow) = writing.finish();
            (file, follow, digests.all())
        })
    });
    (settled, written)
}

/// Settles the state when all of it is copied. When it is not whole, nobody is to write it any more.
fn settle(unsettled: Unsettled<'_>, pieces: &Pieces<'_>) -> Result<Settled, Error> {
    let is_copied = pieces.await_all();
    let outcome = if is_copied { unsettled.settle() } else { Ok((Verdict::Silent, None)) };
    if !matches!(outcome, Ok((Verdict::Intact, _))) {
        pieces.give_up();
    }
    outcome
}

/// Copies piece after piece until none is left.
fn copy<'a>(copies: &Mutex<impl Iterator<Item = PieceCopy<'a>>>, pieces: &Pieces<'a>) {
    while let Some(copy) = next(copies) {
        let number = copy.number;
        pieces.give(number, copy.run());
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Read, os::unix::fs::FileExt, time::Duration};

    use forebay_format::v1::capture::CaptureFacts;
    use forebay_lake::Lake;
    use forebay_runtime::{Runtime, Task};
    use forebay_testing::TempTiers;
    use forebay_transfer::Transfer;
    use forebay_types::{Nonce, Position};
    use proptest::prelude::*;

    use super::*;
    use crate::{
        Copying, Deferred, StatePlan, StateTensor,
        arena::Arena,
        base::Base,
        capture::{Later, Metadata, copied},
        pieces::PIECE_BYTES,
        stage::stage,
    };

    const BUDGET_BYTES: u64 = 256 << 20;

    /// Whose lake takes a staged file as it is, so that it is written past the page cache.
    fn adopting(tiers: &TempTiers, threads: usize) -> Site {
        let lake = Lake::open(tiers.lake_path().to_str().unwrap(), &tiers.runtime).unwrap();
        let transfer = Transfer::new(&lake, &tiers.local, &tiers.runtime);
        assert!(transfer.adopts_staged());
        Site { transfer, ..Site::of_test(tiers, threads) }
    }

    /// A captured state of which the tensors behind the first `now` are still to be copied.
    fn captured(
        site: &Site,
        state: &[StateTensor<'static>],
        now: usize,
    ) -> (Captured<'static>, Option<Copying>) {
        let plan = StatePlan::new(state).unwrap();
        let facts = CaptureFacts {
            run: site.run.clone(),
            step: 1,
            rank: 0,
            world_size: 1,
            position: Position { step: 1 },
            attempt: Nonce::from_bits(7),
            launch: Digest::of(b"launch"),
            parent: None,
            dataset: None,
            forked_from: None,
            captured_unix_ms: 5,
            metadata: serde_json::Value::Null,
        };
        let mut arena = Arena::default();
        arena.begin(plan.file(), site).unwrap();
        let (now, later) = state.split_at(now);
        let values: Vec<&[u8]> = now.iter().map(|tensor| &*tensor.bytes).collect();
        let said = Metadata::Text("{\"loss\": 0.5}".into());
        let mut captured = copied(site, &plan, arena, &values, facts, said);
        let later = later.iter().map(|tensor| tensor.bytes.clone()).collect();
        let deferred = Deferred { later, filled: 0 };
        let copying = captured.copy_later(&plan, deferred, now.len());
        (captured, copying)
    }

    /// The trainer, which says that nothing changed.
    fn confirm(copying: Copying) -> Task<()> {
        Runtime::system().spawn("trainer", move || {
            while !copying.wait(Duration::from_millis(10)) {}
            copying.confirm();
        })
    }

    fn staged_bytes(site: &Site, names: &StagedNames) -> Vec<u8> {
        let mut bytes = Vec::new();
        site.local().staged_file(&names.file).unwrap().read_to_end(&mut bytes).unwrap();
        bytes
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(8))]

        #[test]
        fn what_is_staged_is_what_would_be_without_overlapping(
            sizes in prop::collection::vec(prop_oneof![0..200_usize, 0..9_usize << 20], 1..5),
            now in 0..4_usize,
            threads in 1..4_usize,
            adopts: bool,
            follows: bool,
        ) {
            let (tiers, state) = (TempTiers::new(BUDGET_BYTES), StateTensor::some(&sizes));
            let site =
                if adopts { adopting(&tiers, threads) } else { Site::of_test(&tiers, threads) };
            let names = StagedNames::new(&site.run, 1, Nonce::from_bits(7), 0);
            let (mut whole, _) = captured(&site, &state, state.len());
            prop_assert_eq!(whole.complete(&site).unwrap(), Verdict::Intact);
            let (wanted, _) = stage(&site, &whole, &Base::default(), false).unwrap();
            let wanted_bytes = staged_bytes(&site, &names);
            wanted.release(&site).unwrap();

            let (mut overlapped, copying) = captured(&site, &state, now.min(state.len()));
            let trainer = copying.map(confirm);
            let (completed, staged) = stage_overlapped(&site, &mut overlapped, follows);
            trainer.map(Task::join).transpose().unwrap();
            prop_assert_eq!(completed.unwrap(), Verdict::Intact);
            prop_assert_eq!(staged.is_some(), now < state.len(), "something was to be copied");
            if let Some((sealed, follow)) = staged.transpose().unwrap() {
                prop_assert_eq!(follow.is_some(), follows);
                prop_assert_eq!(&sealed.record, &wanted.record);
                prop_assert!(staged_bytes(&site, &names) == wanted_bytes);
                sealed.release(&site).unwrap();
            }
            prop_assert!(overlapped.image().unwrap() == wanted_bytes);
            prop_assert_eq!(site.local().usage().unwrap().staged_bytes, 0);
        }
    }

    /// Whether a file that is being staged has the first bytes of `wanted`.
    fn has_begun(tiers: &TempTiers, wanted: &[u8]) -> bool {
        let files = std::fs::read_dir(tiers.local_path().join("staging")).unwrap();
        let mut found = vec![0; wanted.len()];
        files.map(|file| file.unwrap()).any(|file| {
            file.file_name().to_string_lossy().starts_with(".incoming-")
                && File::open(file.path()).unwrap().read_exact_at(&mut found, 0).is_ok()
                && found == wanted
        })
    }

    #[test]
    fn the_first_piece_is_on_the_disk_before_the_last_is_copied() {
        let (tiers, state) =
            (TempTiers::new(BUDGET_BYTES), StateTensor::some(&[2 * PIECE_BYTES as usize]));
        let site = adopting(&tiers, 1);
        let (mut captured, copying) = captured(&site, &state, 0);
        let trainer = confirm(copying.unwrap());
        let header = captured.image().unwrap().len() - state[0].bytes.len();
        let mut first = captured.image().unwrap()[..header].to_vec();
        first.extend_from_slice(&state[0].bytes[..PIECE_BYTES as usize - header]);
        let layout = Layout::new(&captured.tensors, BTreeMap::new()).unwrap();
        let names = StagedNames::of_capture(&captured.facts);
        let Later { tensors, copier } = captured.later.take().unwrap();
        let (copies, unsettled) = captured.open(&tensors, Some(copier)).unwrap();
        assert_eq!(copies.len(), 3);
        let gate = |copy: &PieceCopy<'_>| {
            let mut looks = 0;
            while copy.number == 2 && !has_begun(&tiers, &first) {
                looks += 1;
                assert!(looks < 3000, "nothing is written before all is copied");
                Runtime::system().sleep(Duration::from_millis(10)).unwrap();
            }
        };
        let copies = copies.into_iter().inspect(gate);
        let (settled, written) = write(&site, copies, unsettled, &layout, &names, false);
        trainer.join().unwrap();
        assert_eq!(settled.unwrap().0, Verdict::Intact);
        let (file, _, _) = written.unwrap().unwrap();
        assert_eq!(file.digest, Digest::of(captured.image().unwrap()));
        assert!(staged_bytes(&site, &names) == captured.image().unwrap());
    }
}
