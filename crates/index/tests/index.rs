//! Whole indexings over directories: every row is found again, verified to the byte, where it lies.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod world;

use std::{fs, path::Path, sync::Arc, thread};

use forebay_dialect::{Arrow, Dialect, Jsonl, LitData, Mds, Parquet, Tfrecord, Webdataset};
use forebay_format::v1::index::EXTENTS_PER_PAGE;
use forebay_index::{Choice, Error, Source, SplitRule};
use forebay_lake::Lake;
use forebay_local::LocalTier;
use forebay_testing::{Fault, Request};
use forebay_transfer::{
    dataset::{newest_version, open_dataset},
    index::{AnyManifest, Extents, open_any},
};
use forebay_types::{ErrorKind, Key, Split, Version};
use world::{World, lines, text};

/// Three files with gaps in their numbers, in natural order, and what they hold.
fn write_three(world: &World) -> Vec<String> {
    let mut all = Vec::new();
    for name in ["part-2", "part-9", "part-10"] {
        let lines = lines(name, 300);
        world.write(&format!("data/{name}.lines"), text(&lines));
        all.extend(lines);
    }
    world.write("data/README.md", "words");
    all
}

#[test]
fn every_row_is_found_again_in_natural_order() {
    let world = World::new();
    let all = write_three(&world);
    let indexed = world.index().unwrap();
    let manifest = &indexed.manifest;
    assert_eq!(world.lines(manifest, Split::Train), all);
    assert_eq!(manifest.passed_over, [("md".to_owned(), 1)].into());
    assert_eq!((manifest.files, indexed.read_files, indexed.rows()), (3, 3, 900));
    assert_eq!(manifest.store.as_deref(), Some(&*format!("file://{}", world.foreign().display())));
    let split = manifest.split(Split::Train).unwrap();
    let mean = (split.rows + split.extents / 2) / split.extents;
    assert_eq!(u64::from(split.rows_per_portion), mean);
    assert_eq!(manifest.split(Split::Validation).unwrap().rows, 0);
    // Nothing of the dataset itself was written anywhere.
    let there = world.keys("");
    assert!(there.iter().all(|key| key.starts_with("shards/") || key == "datasets/set/v1.json"));
    assert_eq!(world.tiers.local.usage().unwrap().used_bytes(), 0);
}

#[test]
fn the_place_of_a_row_is_found_across_pages() {
    let mut world = World::new();
    let all = lines("many", 4000);
    world.write("many.lines", text(&all));
    world.extent_bytes = 4096;
    let few = world.index().unwrap().manifest;
    assert_eq!(few.split(Split::Train).unwrap().pages.len(), 1);
    // Extents of one row each: several pages.
    let one = |line: &String| format!("{}{}", "y".repeat(4096), line);
    let wide: Vec<String> = all[..600].iter().map(one).collect();
    world.write("many.lines", text(&wide));
    let manifest = world.index().unwrap().manifest;
    let split = manifest.split(Split::Train).unwrap();
    assert_eq!((split.extents, split.pages.len()), (600, 3));
    let extents = Extents::new(&world.tiers.lake, split);
    for row in [0, 1, 255, 256, 511, 512, 599] {
        let (extent, first, number) = extents.extent_of(row).unwrap();
        assert_eq!((first, number, extent.rows), (row, row, 1));
        assert!(extents.portions_of(extent.digest).is_some());
    }
    let around = extents.extents_of(254..258).unwrap();
    assert_eq!(around.iter().map(|it| it.2).collect::<Vec<_>>(), [254, 255, 256, 257]);
    assert_eq!(split.pages[1].first_extent, u64::from(EXTENTS_PER_PAGE));
}

#[test]
fn the_same_data_is_one_version_and_a_changed_file_another() {
    let mut world = World::new();
    let mut all = write_three(&world);
    let first = world.index().unwrap();
    assert!(!first.reused);
    world.workers = 1;
    let again = world.index().unwrap();
    assert!(again.reused);
    assert_eq!((again.manifest, again.read_files), (first.manifest.clone(), 0));
    // Looked at again, it is still the same.
    world.fresh = true;
    let fresh = world.index().unwrap();
    assert_eq!((fresh.reused, fresh.read_files), (true, 3));
    world.fresh = false;
    // One more line in the last file: only that one is read.
    all.push("one more".into());
    world.write("data/part-10.lines", text(&all[600..]));
    let second = world.index().unwrap();
    assert_eq!((second.reused, second.read_files), (false, 1));
    assert_eq!(second.manifest.version, first.manifest.version.next());
    assert_eq!(second.manifest.parent, Some(first.manifest.version));
    assert_ne!(second.manifest.identity, first.manifest.identity);
    assert_eq!(world.lines(&second.manifest, Split::Train), all);
    let (newest, digest) = open_any(&world.tiers.lake, &world.name, None).unwrap();
    assert_eq!(newest, AnyManifest::Indexed(Box::new(second.manifest)));
    assert_eq!(digest, second.digest);
    let (one, _) = open_any(&world.tiers.lake, &world.name, Some(Version::FIRST)).unwrap();
    assert_eq!(one.identity(), first.manifest.identity);
    // Who can use prepared datasets alone is told what this is.
    let error = open_dataset(&world.tiers.lake, &world.name, None).unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("forebay.index"), "{source}");
}

#[test]
fn the_same_samples_elsewhere_are_a_version_of_the_same_identity() {
    let world = World::new();
    let all = write_three(&world);
    let first = world.index().unwrap().manifest;
    fs::rename(world.foreign().join("data"), world.foreign().join("moved")).unwrap();
    let second = world.index().unwrap();
    assert!(!second.reused, "the old places are gone");
    assert_eq!(second.manifest.identity, first.identity);
    assert_eq!(world.lines(&second.manifest, Split::Train), all);
}

#[test]
fn a_file_rewritten_unnoticed_is_noticed_when_asked_for_fresh() {
    let mut world = World::new();
    write_three(&world);
    world.index().unwrap();
    let path = world.foreign().join("data/part-2.lines");
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    let changed = fs::read_to_string(&path).unwrap().replacen('l', "L", 1);
    fs::write(&path, changed).unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
    assert!(world.index().unwrap().reused, "length and time are what they were");
    world.fresh = true;
    let fresh = world.index().unwrap();
    assert!(!fresh.reused);
    assert_eq!(world.lines(&fresh.manifest, Split::Train)[0], "part-2 Line 0 ");
}

#[test]
fn files_that_cannot_be_one_dataset_are_named() {
    let world = World::new();
    world.write("a.lines", "#x\none\n");
    world.write("b.lines", "#x\n%other\ntwo\n");
    let error = world.index().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().starts_with("a.lines and b.lines must be read"), "{error}");
    // A file without rows has no say.
    world.write("b.lines", "#z\n%other\n");
    assert_eq!(world.index().unwrap().rows(), 1);
    world.write("a.lines", "");
    let error = world.index().unwrap_err();
    assert!(matches!(error, Error::NoRows { files: 2, .. }), "{error}");
    assert_eq!(newest_version(&world.tiers.lake, &world.name).unwrap(), Version::new(1));
}

#[test]
fn what_is_decoded_by_the_fields_is_decoded_by_those_of_the_dataset() {
    let world = World::new();
    world.write("a.decoded.lines", "#x\none\n");
    world.write("b.decoded.lines", "#x,y\ntwo\n");
    world.write("c.lines", "#y\nthree\n");
    let indexed = world.index().unwrap();
    let names: Vec<_> =
        indexed.manifest.schema.fields.iter().map(|field| field.name.clone()).collect();
    assert_eq!(names, ["x", "y"]);
    assert_eq!(world.lines(&indexed.manifest, Split::Train), ["one", "two", "three"]);
    assert_eq!(indexed.read_files, 4, "one was looked through again");
    let again = world.index().unwrap();
    assert_eq!((again.reused, again.read_files), (true, 0));
}

#[test]
fn splits_follow_their_rule() {
    let mut world = World::new();
    for path in ["train/a.lines", "val/a.lines", "test/a.lines", "more/a.lines"] {
        world.write(path, format!("{path}\n"));
    }
    let all = world.index().unwrap();
    assert_eq!((all.rows(), all.trained_on_held_out), (4, 2));
    world.splits = SplitRule::Names;
    let named = world.index().unwrap();
    assert_eq!(named.trained_on_held_out, 0);
    let held_out = world.lines(&named.manifest, Split::Validation);
    assert_eq!(held_out, ["test/a.lines", "val/a.lines"]);
    let trained = world.lines(&named.manifest, Split::Train);
    assert_eq!(trained, ["more/a.lines", "train/a.lines"]);
    assert_ne!(named.manifest.identity, all.manifest.identity);
    let prefixes =
        [(Split::Train, vec!["train/".into()]), (Split::Validation, vec!["val/".into()])];
    world.splits = SplitRule::Prefixes(prefixes.into());
    let chosen = world.index().unwrap().manifest;
    assert_eq!(world.lines(&chosen, Split::Train), ["train/a.lines"]);
    assert_eq!(world.lines(&chosen, Split::Validation), ["val/a.lines"]);
    assert_eq!(chosen.passed_over, [("lines".to_owned(), 2)].into());
}

#[test]
fn paths_name_folders_and_files_and_each_file_counts_once() {
    let world = World::new();
    for path in ["a/x.lines", "a/y.lines", "ab/x.lines", "b.lines"] {
        world.write(path, format!("{path}\n"));
    }
    let rows = |paths: &[&str]| {
        let manifest = world.index_from(&world.source_at(paths)).unwrap().manifest;
        world.lines(&manifest, Split::Train)
    };
    assert_eq!(rows(&["/a/"]), ["a/x.lines", "a/y.lines"]);
    assert_eq!(rows(&["b.lines", "a", "a/x.lines"]), ["a/x.lines", "a/y.lines", "b.lines"]);
    for wrong in ["c", "a/x", "b.line", "../foreign", "a//x.lines"] {
        let error = world.index_from(&world.source_at(&[wrong])).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{wrong}: {error}");
    }
}

#[test]
fn hostile_names_are_left_alone() {
    let world = World::new();
    world.write("good.lines", "good\n");
    for name in ["per%cent.lines", "ümlaut.lines", ".hidden.lines", "a\nb.lines", "x\\y.lines"] {
        world.write(name, "bad\n");
    }
    world.write(".cache/inside.lines", "bad\n");
    std::os::unix::fs::symlink(world.foreign().join("good.lines"), world.foreign().join("l.lines"))
        .unwrap();
    std::os::unix::fs::symlink("/etc", world.foreign().join("etc")).unwrap();
    for number in 0..100 {
        world.write(&format!("strange.e{number}"), "");
    }
    world.write(&format!("long.{}", "e".repeat(200)), "");
    let manifest = world.index().unwrap().manifest;
    assert_eq!(world.lines(&manifest, Split::Train), ["good"]);
    assert_eq!(manifest.passed_over.values().sum::<u64>(), 101);
    assert!(manifest.passed_over.len() <= 65);
}

#[test]
fn a_dataset_may_lie_in_the_lake_itself() {
    let world = World::new();
    let put = |key: &str, body: &[u8]| {
        let key = Key::new(key).unwrap();
        world.tiers.lake.write(&key, forebay_lake::Purpose::Source, body).unwrap();
    };
    put("raw/a.lines", b"one\ntwo\n");
    let source = Source { store: None, paths: vec!["raw".into()] };
    let indexed = world.index_from(&source).unwrap();
    assert_eq!(indexed.manifest.store, None);
    assert_eq!(world.lines(&indexed.manifest, Split::Train), ["one", "two"]);
    // Named by its URL it is the same store.
    let url = world.tiers.lake.url().to_owned();
    let source = Source { store: Some(url.clone()), paths: vec!["raw".into()] };
    assert!(world.index_from(&source).unwrap().reused);
    for store in [None, Some(url)] {
        let error = world.index_from(&Source { store, paths: vec![] }).unwrap_err();
        assert!(matches!(error, Error::WholeLake { .. }), "{error}");
    }
}

#[test]
fn a_foreign_store_is_only_read() {
    let world = World::new();
    write_three(&world);
    let snapshot = || {
        let mut found: Vec<_> = fs::read_dir(world.foreign())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        found.sort();
        found
    };
    let before = snapshot();
    world.index().unwrap();
    assert_eq!(snapshot(), before);
    let absent = Source { store: Some("/nowhere/at-all".into()), paths: vec![] };
    assert_eq!(world.index_from(&absent).unwrap_err().kind(), ErrorKind::NotFound);
    assert!(!Path::new("/nowhere").exists());
}

#[test]
fn workers_share_the_budget_and_a_file_beyond_it_is_refused() {
    let mut world = World::with_budget(100_000);
    let mut all = Vec::new();
    for number in 0..8 {
        let lines = lines(&format!("f{number}"), 1000);
        world.write(&format!("f{number}.lines"), text(&lines));
        all.extend(lines);
    }
    // Each is more than half of the budget: one after the other.
    world.workers = 4;
    let manifest = world.index().unwrap().manifest;
    assert_eq!(world.lines(&manifest, Split::Train), all);
    world.write("g.lines", text(&lines("g", 2000)));
    let error = world.index().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Full);
    assert!(error.to_string().starts_with("g.lines has "), "{error}");
    // What others hold is no room either, and nobody waits for ever.
    fs::remove_file(world.foreign().join("g.lines")).unwrap();
    world.fresh = true;
    let other = world.tiers.local.scratch("other").unwrap();
    other.reserve(80_000).unwrap();
    assert_eq!(world.index().unwrap_err().kind(), ErrorKind::Full);
}

#[test]
fn a_damaged_survey_is_made_again() {
    let world = World::new();
    let all = write_three(&world);
    world.index().unwrap();
    let survey = world.keys("shards/").into_iter().find(|key| key.contains("survey")).unwrap();
    let path = world.tiers.lake_path().join(&survey);
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).unwrap();
    let again = world.index().unwrap();
    assert_eq!((again.reused, again.read_files), (true, 1));
    assert_eq!(world.lines(&again.manifest, Split::Train), all);
    // All of them may go: no version needs them.
    for key in world.keys("shards/").into_iter().filter(|key| key.contains("survey")) {
        fs::remove_file(world.tiers.lake_path().join(key)).unwrap();
    }
    assert_eq!(world.lines(&again.manifest, Split::Train), all);
    assert!(world.index().unwrap().reused);
}

#[test]
fn a_damaged_file_is_named_and_the_finished_ones_are_kept() {
    let mut world = World::new();
    world.workers = 1;
    write_three(&world);
    world.write("data/part-11.lines", [0xff, 0xfe, b'\n']);
    let error = world.index().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("data/part-11.lines"), "{source}");
    assert_eq!(newest_version(&world.tiers.lake, &world.name).unwrap(), None);
    fs::remove_file(world.foreign().join("data/part-11.lines")).unwrap();
    assert_eq!(world.index().unwrap().read_files, 0, "the other three were looked through");
}

#[test]
fn a_reply_that_is_lost_publishes_once() {
    let world = World::new();
    write_three(&world);
    let lost = Fault::ReplyLost(std::io::ErrorKind::ConnectionReset);
    world.tiers.store.inject(Request::Create, "datasets/", 1, lost);
    world.tiers.store.inject(Request::Write, "shards/", 2, lost);
    let indexed = world.index().unwrap();
    assert!(!indexed.reused);
    assert_eq!(world.keys("datasets/"), ["datasets/set/v1.json"]);
}

#[test]
fn two_at_once_lose_nothing() {
    for different in [false, true] {
        let world = World::new();
        let all = write_three(&world);
        for (number, chunk) in all.chunks(300).enumerate() {
            world.write(&format!("other/{number}.lines"), text(chunk));
        }
        let paths = if different { ["data", "other"] } else { ["data", "data"] };
        let indexed: Vec<_> = thread::scope(|scope| {
            let one = |(number, path): (usize, &'static str)| {
                let world = &world;
                scope.spawn(move || {
                    // As two processes on two nodes would.
                    let runtime = &world.tiers.runtime;
                    let url = world.tiers.lake_path();
                    let lake = Lake::open_existing(url.to_str().unwrap(), runtime).unwrap();
                    let local = world.tiers.path().join(format!("node-{number}"));
                    let local = LocalTier::open(&local, 1 << 20, runtime).unwrap();
                    world.index_on(&world.source_at(&[path]), &lake, &local).unwrap()
                })
            };
            let tasks: Vec<_> = paths.into_iter().enumerate().map(one).collect();
            tasks.into_iter().map(|task| task.join().unwrap()).collect()
        });
        let mut versions: Vec<u32> =
            indexed.iter().map(|indexed| indexed.manifest.version.number()).collect();
        versions.sort_unstable();
        let reused = indexed.iter().filter(|indexed| indexed.reused).count();
        if different {
            assert_eq!((versions, reused), (vec![1, 2], 0));
        } else {
            assert_eq!((versions, reused), (vec![1, 1], 1));
        }
        for indexed in &indexed {
            let version = Some(indexed.manifest.version);
            let (found, digest) = open_any(&world.tiers.lake, &world.name, version).unwrap();
            assert_eq!(digest, indexed.digest);
            assert_eq!(found, AnyManifest::Indexed(Box::new(indexed.manifest.clone())));
        }
    }
}

#[test]
fn formats_of_others_are_detected_and_read_where_they_lie() {
    type Wanted = fn(&str) -> bool;
    let sets: [(&str, &str, Wanted, Arc<dyn Dialect>); 9] = [
        ("row_formats", "webdataset", |name| name == "samples.tar", Arc::new(Webdataset)),
        (
            "row_formats",
            "webdataset",
            |name| name.starts_with("samples.tar."),
            Arc::new(Webdataset),
        ),
        ("row_formats", "jsonl", |name| name.starts_with("corpus"), Arc::new(Jsonl)),
        ("row_formats", "tfrecord", |name| name.starts_with("train.tf"), Arc::new(Tfrecord)),
        ("column_formats/parquet", "parquet", |name| name == "zstd.parquet", Arc::new(Parquet)),
        ("column_formats/hugging_face", "arrow", |_| true, Arc::new(Arrow)),
        ("column_formats/mds_raw", "mds", |_| true, Arc::new(Mds)),
        ("column_formats/mds_zstd", "mds", |_| true, Arc::new(Mds)),
        ("column_formats/litdata", "litdata", |_| true, {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dialect/tests/fixtures");
            let index = fs::read(folder.join("column_formats/litdata/index.json")).unwrap();
            Arc::new(LitData::new(&index).unwrap())
        }),
    ];
    for (folder, format, wanted, dialect) in sets {
        let mut world = World::new();
        world.copy(folder, wanted);
        world.choice = Choice::Detect;
        let indexed = world.index().unwrap_or_else(|error| panic!("{folder}, {format}: {error:?}"));
        assert_eq!(indexed.manifest.dialect, format);
        let rows = world.rows(&indexed.manifest, Split::Train, dialect.as_ref());
        assert!(!rows.is_empty(), "{folder}");
        world.choice = Choice::Named(format.into());
        assert!(world.index().unwrap().reused, "{folder}");
    }
}

#[test]
fn compressed_copies_hold_the_same_rows() {
    let mut world = World::new();
    world.choice = Choice::Detect;
    world.copy("row_formats", |name| name.starts_with("corpus"));
    let manifest = world.index().unwrap().manifest;
    let rows = world.rows(&manifest, Split::Train, &Jsonl);
    let of = |file: &str| {
        let rows = rows.iter().filter(|row| row.file == file);
        rows.map(|row| world::by_field(&manifest, row)).collect::<Vec<_>>()
    };
    assert!(!of("corpus.jsonl").is_empty());
    assert_eq!(of("corpus.jsonl"), of("corpus.jsonl.gz"));
    assert_eq!(of("corpus.jsonl"), of("corpus.jsonl.zst"));
}

#[test]
fn a_format_that_cannot_be_decided_is_asked_for() {
    let mut world = World::new();
    world.choice = Choice::Detect;
    world.write("notes.md", "words");
    let error = world.index().unwrap_err();
    assert!(matches!(error, Error::NoFiles { files: 1, .. }), "{error}");
    assert!(error.to_string().ends_with("(md 1)"), "{error}");
    world.write("a.jsonl", "{\"a\":1}\n");
    world.write("b.tar", "{\"a\":1}\n");
    let error = world.index().unwrap_err();
    assert!(matches!(error, Error::Ambiguous { .. }), "{error}");
    world.choice = Choice::Named("jsonl".into());
    assert_eq!(world.index().unwrap().rows(), 1);
    world.choice = Choice::Named("csv".into());
    let error = world.index().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("webdataset"), "{error}");
    world.extent_bytes = 0;
    assert!(matches!(world.index().unwrap_err(), Error::ExtentBytes { .. }));
}
