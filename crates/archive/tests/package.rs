//! What a package promises: whole, verifiable, found again, and never without its gate.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod support;

use std::{fs, io::ErrorKind as Io, path::Path, process::Command};

use forebay_archive::{
    Error, Finding, Harm, Published, lineage, list, newest, open, restore, verify, verify_directory,
};
use forebay_format::v1::{evaluation::Measures, journal::decode_entries};
use forebay_testing::{Fault, Request};
use forebay_types::{Digest, ErrorKind, Version};
use proptest::prelude::*;
use safetensors::SafeTensors;
use support::{
    evening::{Evening, STEP, publish_with, weights},
    story::{self, name},
};

const FILES: [&str; 10] = [
    "MODEL_CARD.md",
    "SHA256SUMS",
    "config.json",
    "evaluation.json",
    "journal.jsonl",
    "lineage.json",
    "metrics.csv",
    "report.html",
    "run.json",
    "weights.safetensors",
];

fn verified(evening: &Evening, published: &Published) -> Result<u64, Error> {
    verify(&evening.tiers.lake, &published.model, published.version).map(|found| found.files)
}

fn findings(error: Error) -> Vec<Finding> {
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    match error {
        Error::Damaged { findings, .. } => findings,
        other => panic!("{other}"),
    }
}

#[test]
fn a_package_holds_all_that_is_known_and_verifies() {
    let evening = Evening::new();
    let published = evening.publish().unwrap();
    let (lake, model) = (&evening.tiers.lake, &published.model);
    let (manifest, _) = open(lake, model, published.version).unwrap();
    let paths: Vec<_> = manifest.files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(paths, FILES);
    assert_eq!(verified(&evening, &published).unwrap(), FILES.len() as u64);
    assert_eq!((published.version, published.reused), (Version::FIRST, false));
    assert_eq!(newest(lake, model).unwrap(), Version::FIRST);
    let listed = list(lake, model).unwrap();
    assert_eq!((listed[0].step, listed[0].files, listed[0].bytes), (STEP, 10, published.bytes));

    let read = |path| fs::read(evening.file(&published, path)).unwrap();
    let entries = decode_entries(&read("journal.jsonl"), "journal.jsonl").unwrap();
    assert_eq!(entries.len(), story::training(0).len());
    let metrics = String::from_utf8(read("metrics.csv")).unwrap();
    assert_eq!(metrics.lines().count(), 1 + STEP as usize);
    let card = String::from_utf8(read("MODEL_CARD.md")).unwrap();
    assert!(
        card.contains("438 parameters") && card.contains("speeches \\<b\\>\\|\\`x\\`.jsonl"),
        "{card}"
    );
    assert_eq!(
        read("run.json"),
        fs::read(evening.tiers.lake_path().join("runs/day-1/run.json")).unwrap()
    );
}

#[test]
fn the_weights_are_plain_safetensors_without_the_optimizer() {
    let evening = Evening::new();
    let published = evening.publish().unwrap();
    let bytes = fs::read(evening.file(&published, "weights.safetensors")).unwrap();
    let judge = SafeTensors::deserialize(&bytes).unwrap();
    let mut expected: Vec<_> = (0..2).flat_map(weights).collect();
    expected.retain(|(name, ..)| name.starts_with("model."));
    assert_eq!(judge.len(), expected.len());
    for (name, _, shape, values) in expected {
        let tensor = judge.tensor(name.strip_prefix("model.").unwrap()).unwrap();
        let shape: Vec<_> = shape.iter().map(|side| *side as usize).collect();
        assert_eq!((tensor.shape(), tensor.data()), (shape.as_slice(), values.as_slice()));
    }
}

#[test]
fn what_leads_to_the_raw_records_is_in_the_package() {
    let evening = Evening::new();
    let published = evening.publish().unwrap();
    let found = lineage(&evening.tiers.lake, &published.model, published.version).unwrap();
    assert_eq!(found.package.dataset, evening.run.dataset);
    assert_eq!(found.package.checkpoint, evening.evaluation.checkpoint);
    assert_eq!(found.feed, evening.run.configuration["feed"]);
    assert_eq!((found.sources.len(), found.weights.len()), (1, 4));
    assert!(found.weights.iter().all(|weight| !weight.name.starts_with("model.")));
}

#[test]
fn a_failed_gate_leaves_nothing_in_the_lake() {
    let measures = Measures { accuracy: 0.1, ..story::measures() };
    let evening = Evening::with_measures(measures);
    let error = evening.publish().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.to_string().contains("accuracy_min: 0.1000 against 0.2"), "{error}");
    assert!(!evening.tiers.lake_path().join("packages").exists());
}

#[test]
fn another_gate_than_the_run_s_is_refused() {
    let mut evening = Evening::new();
    let lowered =
        forebay_format::v1::evaluation::Gate { loss_max: Some(99.0), ..Default::default() };
    evening.evaluation.gate = lowered;
    evening.evaluation.rules = lowered.judge(&evening.evaluation.measures);
    let (body, _) = forebay_format::record::encode(&evening.evaluation).unwrap();
    evening.tiers.lake.commit(&evening.evaluation.key(), &body).unwrap();
    let error = evening.publish().unwrap_err();
    assert!(matches!(error, Error::OtherGate { .. }), "{error}");
    assert!(!evening.tiers.lake_path().join("packages").exists());
}

#[test]
fn an_evaluation_that_nobody_stored_is_not_archived() {
    let mut evening = Evening::new();
    evening.evaluation.batch_size += 1;
    assert_eq!(evening.publish().unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn the_same_model_is_the_same_package_whenever_it_is_archived() {
    let evening = Evening::new();
    evening.note_evaluated();
    let first = evening.publish().unwrap();
    evening.note(forebay_format::v1::journal::Event::Archived(
        forebay_format::v1::journal::Archived {
            model: name("day"),
            version: first.version,
            content: first.content,
            reused: false,
            files: first.files,
            bytes: first.bytes,
            seconds: 0.1,
        },
    ));
    let second = evening.publish().unwrap();
    assert!(second.reused);
    assert_eq!((second.version, second.content), (first.version, first.content));
    assert_eq!(evening.manifests(), ["v1.json"]);
}

#[test]
fn publishers_at_once_make_one_version_of_one_content() {
    let evening = Evening::new();
    let mut outcomes: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| publish_with(&evening.tiers, &evening.evaluation, &evening.run))
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap().unwrap()).collect()
    });
    outcomes.sort_by_key(|outcome| outcome.reused);
    assert_eq!(outcomes.iter().map(|o| o.reused).collect::<Vec<_>>(), [false, true, true, true]);
    assert!(outcomes.iter().all(|outcome| outcome.version == Version::FIRST));
    assert_eq!(evening.manifests(), ["v1.json"]);
    verified(&evening, &outcomes[0]).unwrap();
}

#[test]
fn another_content_becomes_the_next_version_and_harms_none_before() {
    let evening = Evening::new();
    let first = evening.publish().unwrap();
    evening.note_evaluated();
    let second = evening.publish().unwrap();
    assert_eq!((second.version.number(), second.reused), (2, false));
    assert_ne!(first.content, second.content);
    verified(&evening, &first).unwrap();
    verified(&evening, &second).unwrap();
    assert_eq!(newest(&evening.tiers.lake, &name("day")).unwrap(), second.version);
}

#[test]
fn a_damaged_checkpoint_is_named_and_not_archived() {
    let evening = Evening::new();
    let folder = evening.tiers.lake_path().join(format!("runs/day-1/checkpoints/{STEP:012}"));
    let tensors = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let tensors = tensors.filter(|path| path.extension().is_some_and(|e| e == "safetensors"));
    let victim = tensors.min().unwrap();
    let mut bytes = fs::read(&victim).unwrap();
    // The data starts with the weights of four bytes; this is one of theirs.
    let at = bytes.len() - 900;
    bytes[at] ^= 4;
    replace(&victim, &bytes);
    let error = evening.publish().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("tensor `model.block.0.weight`"), "{error}");
    assert!(evening.manifests().is_empty());
}

#[test]
fn a_publish_that_fails_half_way_leaves_no_version_and_can_be_repeated() {
    let evening = Evening::new();
    for (request, part) in [
        (Request::Write, "weights.safetensors"),
        (Request::Write, "report.html"),
        (Request::Write, "SHA256SUMS"),
        (Request::Create, "packages/day/v1.json"),
    ] {
        evening.tiers.store.inject(request, part, 1, Fault::Fails(Io::PermissionDenied));
        if request == Request::Create {
            evening.tiers.store.inject(request, part, 9, Fault::Fails(Io::PermissionDenied));
        }
        assert_eq!(evening.publish().unwrap_err().kind(), ErrorKind::Unavailable, "{part}");
        assert!(evening.manifests().is_empty(), "{part}");
        evening.tiers.store.behave();
    }
    evening.tiers.store.inject(
        Request::Create,
        "v1.json",
        1,
        Fault::ReplyLost(Io::PermissionDenied),
    );
    let published = evening.publish().unwrap();
    assert_eq!((published.version, published.reused), (Version::FIRST, false));
    verified(&evening, &published).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever is done to whichever file, verification finds and names exactly that.
    #[test]
    fn every_changed_missing_cut_or_added_file_is_found_and_named(
        deeds in prop::collection::btree_map(0usize..FILES.len(), (0u8..4, any::<prop::sample::Index>(), 0u8..8), 0..4)
    ) {
        let evening = Evening::new();
        let published = evening.publish().unwrap();
        let copy = evening.tiers.path().join("copy");
        restore(&evening.tiers.lake, &published.model, published.version, &copy).unwrap();
        let mut expected = Vec::new();
        for (file, (deed, place, bit)) in deeds {
            let path = FILES[file];
            let stored = [evening.file(&published, path), copy.join(path)];
            let bytes = fs::read(&stored[0]).unwrap();
            let (wanted, at) = (bytes.len() as u64, place.index(bytes.len()));
            let (path, harm) = match deed {
                0 => {
                    let mut changed = bytes.clone();
                    changed[at] ^= 1 << bit;
                    stored.iter().for_each(|stored| replace(stored, &changed));
                    (path.to_owned(), Harm::Changed)
                }
                1 => {
                    stored.iter().for_each(|stored| replace(stored, &bytes[..at]));
                    (path.to_owned(), Harm::Resized { wanted, found: at as u64 })
                }
                2 => {
                    stored.iter().for_each(|stored| fs::remove_file(stored).unwrap());
                    (path.to_owned(), Harm::Missing)
                }
                _ => {
                    let added = format!("{path}.{bit}");
                    for stored in &stored {
                        replace(&stored.with_file_name(&added), &bytes);
                    }
                    (added, Harm::Added)
                }
            };
            expected.push(Finding { path, harm });
        }
        expected.sort();
        let told = [
            verified(&evening, &published),
            verify_directory(&copy).map(|found| found.files),
        ];
        for outcome in told {
            match outcome {
                Ok(files) => prop_assert!(expected.is_empty() && files == FILES.len() as u64),
                Err(error) => prop_assert_eq!(findings(error), expected.clone()),
            }
        }
    }
}

#[test]
fn every_byte_of_the_manifest_is_covered() {
    let evening = Evening::new();
    let published = evening.publish().unwrap();
    let path = evening.tiers.lake_path().join("packages/day/v1.json");
    let bytes = fs::read(&path).unwrap();
    for index in (0..bytes.len()).step_by(3) {
        let mut changed = bytes.clone();
        changed[index] ^= 2;
        replace(&path, &changed);
        let error = verified(&evening, &published).unwrap_err();
        assert!(error.to_string().contains("packages/day/v1.json"), "{index}: {error}");
    }
    replace(&path, &bytes);
    fs::copy(&path, path.with_file_name("v2.json")).unwrap();
    let second = Version::FIRST.next();
    let error = verify(&evening.tiers.lake, &name("day"), second).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "a manifest under another version's name");
}

#[test]
fn unreachable_is_not_damaged() {
    let evening = Evening::new();
    let published = evening.publish().unwrap();
    let fault = Fault::Fails(Io::PermissionDenied);
    evening.tiers.store.inject(Request::Read, "weights.safetensors", 1, fault);
    assert_eq!(verified(&evening, &published).unwrap_err().kind(), ErrorKind::Unavailable);
    evening.tiers.store.inject(Request::Read, "weights.safetensors", 1, Fault::FlipsBit);
    assert_eq!(verified(&evening, &published).unwrap_err().kind(), ErrorKind::Corrupt);
    verified(&evening, &published).unwrap();
}

#[test]
fn a_restored_package_is_usable_verifiable_and_private() {
    use std::os::unix::fs::PermissionsExt;

    let evening = Evening::new();
    let published = evening.publish().unwrap();
    let at = evening.tiers.path().join("out/model");
    fs::create_dir_all(&at).unwrap();
    let lake = &evening.tiers.lake;
    let restored = restore(lake, &published.model, published.version, &at).unwrap();
    assert_eq!((restored.files, restored.bytes), (published.files, published.bytes));
    assert_eq!(verify_directory(&at).unwrap().files, published.files);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&at), mode(&at.join("weights.safetensors"))), (0o700, 0o600));
    // Other people's tool, without us.
    let sums =
        Command::new("sha256sum").args(["-c", "--strict", "SHA256SUMS"]).current_dir(&at).output();
    assert!(sums.unwrap().status.success());

    let error = restore(lake, &published.model, published.version, &at).unwrap_err();
    assert!(matches!(error, Error::NotEmpty(path) if path == at));
}

#[test]
fn a_restore_of_damaged_files_names_them_and_leaves_nothing() {
    let evening = Evening::new();
    let published = evening.publish().unwrap();
    replace(&evening.file(&published, "metrics.csv"), b"step\n");
    fs::remove_file(evening.file(&published, "report.html")).unwrap();
    let parent = evening.tiers.path().join("out");
    fs::create_dir(&parent).unwrap();
    let outcome =
        restore(&evening.tiers.lake, &published.model, published.version, &parent.join("m"));
    let found = findings(outcome.unwrap_err());
    let paths: Vec<_> = found.iter().map(|finding| finding.path.as_str()).collect();
    assert_eq!(paths, ["metrics.csv", "report.html"]);
    assert_eq!(fs::read_dir(parent).unwrap().count(), 0);
}

#[test]
fn a_crash_in_a_restore_is_cleared_away_by_the_next() {
    let evening = Evening::new();
    let published = evening.publish().unwrap();
    let left = evening.tiers.path().join(format!(".model-{}", published.content.short()));
    fs::create_dir_all(left.join("deep")).unwrap();
    let at = evening.tiers.path().join("model");
    restore(&evening.tiers.lake, &published.model, published.version, &at).unwrap();
    assert!(!left.exists() && verify_directory(&at).is_ok());
}

#[test]
fn what_is_not_a_plain_file_is_no_part_of_a_package() {
    let evening = Evening::new();
    let published = evening.publish().unwrap();
    let at = evening.tiers.path().join("model");
    restore(&evening.tiers.lake, &published.model, published.version, &at).unwrap();
    let elsewhere = evening.tiers.path().join("elsewhere");
    fs::rename(at.join("config.json"), &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, at.join("config.json")).unwrap();
    let found = findings(verify_directory(&at).unwrap_err());
    assert_eq!(found[0].path, "config.json");
}

#[test]
fn what_does_not_exist_is_named_with_what_to_do() {
    let evening = Evening::new();
    let lake = &evening.tiers.lake;
    for error in [
        newest(lake, &name("day")).unwrap_err(),
        list(lake, &name("day")).unwrap_err(),
        verify(lake, &name("day"), Version::FIRST).unwrap_err(),
        lineage(lake, &name("day"), Version::FIRST).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("forebay archive publish"), "{error}");
    }
}

#[test]
fn the_content_is_what_b3sum_would_say() {
    let evening = Evening::new();
    let published = evening.publish().unwrap();
    let mut lines = String::new();
    for path in FILES.iter().filter(|path| !["SHA256SUMS", "weights.safetensors"].contains(path)) {
        let digest = Digest::of(&fs::read(evening.file(&published, path)).unwrap());
        lines += &format!("{digest}  {path}\n");
    }
    assert_eq!(Digest::of(lines.as_bytes()), published.content);
}

fn replace(path: &Path, bytes: &[u8]) {
    let _ = fs::remove_file(path);
    fs::write(path, bytes).unwrap();
}
