//! What a preparation promises, against a plain model that holds everything in memory.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod world;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use forebay_format::v1::quarantine::Reason;
use forebay_prepare::{Error, Recipe, TextRecords};
use forebay_types::{ErrorKind, Split, Version};
use proptest::prelude::*;
use world::{Row, World, gzip, line};

const END: u32 = 256;

fn recipe() -> Recipe {
    Recipe {
        row_tokens: 16,
        characters_min: 2,
        validation_share: 0.3,
        shard_bytes: 400,
        batch_bytes: 150,
        record_bytes_max: 4096,
        group_field: Some("group".into()),
        seed: 1,
        ..Recipe::default()
    }
}

/// One line of the model's source.
#[derive(Clone, Debug)]
enum Raw {
    Text(String, Option<u32>),
    BadJson,
    NoText,
    BadUtf8,
    TooLarge,
}

impl Raw {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Text(text, group) => line(text, *group).into_bytes(),
            Self::BadJson => b"{\"text\":\n".to_vec(),
            Self::NoText => b"{\"txt\":\"abc\"}\n".to_vec(),
            Self::BadUtf8 => b"{\"text\":\"\xc3\x28 abc\"}\n".to_vec(),
            Self::TooLarge => line(&"x".repeat(5000), None).into_bytes(),
        }
    }
}

fn raw() -> impl Strategy<Value = Raw> {
    let text = "[a-c \\n\u{301}\u{a0}]{0,30}";
    prop_oneof![
        12 => (text, prop::option::of(0u32..4)).prop_map(|(text, group)| Raw::Text(text, group)),
        4 => (0u32..6).prop_map(|n| Raw::Text(format!("again and again {n}"), Some(n))),
        1 => Just(Raw::BadJson),
        1 => Just(Raw::NoText),
        1 => Just(Raw::BadUtf8),
        1 => Just(Raw::TooLarge),
    ]
}

const NAMES: [&str; 4] = ["a.jsonl", "b.jsonl.gz", "c.ndjson.zst", "d.jsonl"];

fn write(world: &World, files: &[Vec<Raw>]) {
    for (name, records) in NAMES.iter().zip(files) {
        let bytes: Vec<u8> = records.iter().flat_map(Raw::bytes).collect();
        world.write(name, &bytes);
    }
}

/// The plain normalization of the model: only what its texts need.
fn plain(text: &str) -> String {
    let mut text = text.replace('\u{a0}', " ");
    for (apart, joined) in [("a\u{301}", "á"), ("c\u{301}", "ć")] {
        text = text.replace(apart, joined);
    }
    let lines = text.split('\n').map(|line| line.split(' ').filter(|w| !w.is_empty()));
    let lines: Vec<String> = lines.map(|words| words.collect::<Vec<_>>().join(" ")).collect();
    let mut out = String::new();
    let mut empty = false;
    for line in lines {
        if line.is_empty() {
            empty = true;
            continue;
        }
        if !out.is_empty() {
            out.push_str(if empty { "\n\n" } else { "\n" });
        }
        empty = false;
        out.push_str(&line);
    }
    out
}

#[derive(Default)]
struct Model {
    read: u64,
    counts: BTreeMap<&'static str, u64>,
    /// (source, record) of each document that is kept, with its text and group.
    documents: BTreeMap<(u32, u64), (String, Option<u32>)>,
}

fn model(files: &[Vec<Raw>]) -> Model {
    let mut model = Model::default();
    let mut seen = HashSet::new();
    for (source, records) in files.iter().enumerate() {
        for (record, raw) in records.iter().enumerate() {
            model.read += 1;
            let why = match raw {
                Raw::BadJson => "invalid_json",
                Raw::NoText => "no_text",
                Raw::BadUtf8 => "invalid_utf8",
                Raw::TooLarge => "too_large",
                Raw::Text(text, group) => {
                    let text = plain(text);
                    match text.chars().count() {
                        0 => "empty",
                        1 => "too_short",
                        _ if !seen.insert(text.clone()) => "duplicate",
                        _ => {
                            model.documents.insert((source as u32, record as u64), (text, *group));
                            continue;
                        }
                    }
                }
            };
            *model.counts.entry(why).or_default() += 1;
        }
    }
    model
}

/// Puts the pieces of every document together again; checks that no token occurs twice.
fn documents(rows: &[Row]) -> BTreeMap<(u32, u64), Vec<u32>> {
    let mut pieces: BTreeMap<(u32, u64), BTreeMap<u32, Vec<u32>>> = BTreeMap::new();
    for row in rows {
        let mut rest = row.tokens.as_slice();
        for span in &row.spans {
            let (taken, left) = rest.split_at(span.tokens as usize);
            rest = left;
            let document = pieces.entry((span.source, span.record)).or_default();
            assert_eq!(document.insert(span.token_start, taken.to_vec()), None);
        }
        assert!(rest.is_empty(), "spans cover their row");
    }
    pieces
        .into_iter()
        .map(|(place, pieces)| {
            let mut tokens = Vec::new();
            for (start, piece) in pieces {
                assert_eq!(start as usize, tokens.len(), "{place:?} has no holes");
                tokens.extend(piece);
            }
            (place, tokens)
        })
        .collect()
}

fn bytes_of(text: &str) -> Vec<u32> {
    text.bytes().map(u32::from).chain([END]).collect()
}

fn files() -> impl Strategy<Value = Vec<Vec<Raw>>> {
    // Some text that is always there, so that a row is always filled.
    let filler = |n| Raw::Text(format!("something to fill rows with, number {n}"), None);
    prop::collection::vec(prop::collection::vec(raw(), 0..25), 4).prop_map(move |mut files| {
        files[3].extend((0..8).map(filler));
        files
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 12,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_dataset_is_what_the_plain_model_says(files in files(), workers in 1usize..4) {
        let world = World::in_memory();
        write(&world, &files);
        let model = model(&files);
        let prepared = world.prepare(&recipe(), workers).unwrap();
        let counts = &prepared.manifest.counts;
        prop_assert_eq!(counts.read, model.read);
        let found = counts.dropped.iter().chain(&counts.quarantined);
        let mut found: BTreeMap<&str, u64> = found.map(|(why, n)| (why.as_str(), *n)).collect();
        let not_filled = found.remove("row_not_filled").unwrap_or(0);
        prop_assert_eq!(&found, &model.counts);
        prop_assert_eq!(counts.kept + not_filled, model.documents.len() as u64);

        let mut ids = HashSet::new();
        let mut split_of = HashMap::new();
        let mut groups: HashMap<u32, Split> = HashMap::new();
        for split in Split::ALL {
            let rows = world.rows(&prepared.manifest, split);
            prop_assert!(rows.iter().all(|row| ids.insert(row.id)), "ids are unique");
            let documents = documents(&rows);
            let mut cut = 0;
            for (place, tokens) in &documents {
                let (text, group) = &model.documents[place];
                let wanted = bytes_of(text);
                prop_assert_eq!(tokens.as_slice(), &wanted[..tokens.len()]);
                cut += wanted.len() - tokens.len();
                prop_assert!(split_of.insert(*place, split).is_none(), "a document crosses");
                if let Some(group) = group {
                    prop_assert_eq!(*groups.entry(*group).or_insert(split), split);
                }
            }
            let entry = prepared.manifest.split(split).unwrap();
            prop_assert_eq!(entry.documents, documents.len() as u64);
            // At most one row's worth is cut, and it is said how much.
            prop_assert!(counts.tokens_cut[&split] < 16);
            prop_assert!(cut as u64 <= counts.tokens_cut[&split]);
        }
        prop_assert_eq!(split_of.len() as u64, counts.kept);
        let quarantined = world.quarantined(&prepared.manifest);
        prop_assert_eq!(quarantined.len() as u64, counts.quarantined.values().sum::<u64>());
        for entry in quarantined {
            let source = NAMES.iter().position(|name| *name == entry.source).unwrap();
            let raw = &files[source][entry.record as usize];
            let start: usize =
                files[source][..entry.record as usize].iter().map(|raw| raw.bytes().len()).sum();
            prop_assert_eq!(entry.offset, start as u64);
            prop_assert_eq!(entry.bytes, raw.bytes().len() as u64 - 1);
        }
    }

    #[test]
    fn neither_workers_nor_memory_change_a_byte(files in files()) {
        let outcome = |workers, memory_bytes| {
            let world = World::in_memory();
            write(&world, &files);
            let prepared = world.prepare_from(&world.raw(), &recipe(), workers, memory_bytes);
            let mut manifest = prepared.unwrap().manifest;
            manifest.nonce = forebay_types::Nonce::from_bits(0);
            manifest.created_unix_ms = 0;
            (manifest, world.payload())
        };
        let one = outcome(1, 256 << 20);
        for (workers, memory_bytes) in [(2, 256 << 20), (5, 256 << 20), (1, 6 << 20), (3, 6 << 20)] {
            prop_assert!(one == outcome(workers, memory_bytes), "{} workers", workers);
        }
    }
}

fn texts(count: usize, seed: usize) -> String {
    (0..count).map(|n| line(&format!("text {} of {seed}", n * n), None)).collect()
}

#[test]
fn origins_lead_to_the_raw_bytes() {
    let world = World::new();
    let novel = "\n\nOne  line\nand another\n\n \nTwo\n\n\n\nThree, the end";
    world.write("a.txt.gz", novel.as_bytes());
    world.write("b.txt.zst", b"x\r\ny\r\n\r\nz z");
    let recipe = Recipe { row_tokens: 4, characters_min: 1, validation_share: 0.0, ..recipe() };
    let manifest = world.prepare(&recipe, 2).unwrap().manifest;
    let raw = [novel.as_bytes(), b"x\r\ny\r\n\r\nz z"];
    let mut seen = BTreeMap::new();
    for row in world.rows(&manifest, Split::Train) {
        for span in row.spans {
            let record = &raw[span.source as usize][span.offset as usize..][..span.bytes as usize];
            seen.insert((span.source, span.record), String::from_utf8(record.to_vec()).unwrap());
        }
    }
    let seen: Vec<_> = seen.into_values().collect();
    let wanted = ["One  line\nand another", "Two", "Three, the end", "x\r\ny\r", "z z"];
    assert_eq!(seen, wanted);
}

#[test]
fn damaged_streams_keep_what_was_good_and_are_counted() {
    let whole = texts(30_000, 1);
    let packed = gzip(whole.as_bytes());
    let zstd = zstd::encode_all(whole.as_bytes(), 1).unwrap();
    let mut flipped = packed.clone();
    let middle = flipped.len() / 2;
    flipped[middle..middle + 40].fill(0xff);
    let cases = [
        ("cut.jsonl.gz", packed[..packed.len() / 2].to_vec()),
        ("cut.jsonl.zst", zstd[..zstd.len() / 2].to_vec()),
        ("flipped.jsonl.gz", flipped),
        ("trailing.jsonl.gz", [packed.as_slice(), b"rubbish"].concat()),
    ];
    for (name, bytes) in cases {
        let world = World::new();
        std::fs::write(world.raw().join(name), bytes).unwrap();
        let recipe = Recipe { shard_bytes: 1 << 16, batch_bytes: 1 << 12, ..recipe() };
        let manifest = world.prepare(&recipe, 2).unwrap().manifest;
        assert_eq!(manifest.counts.quarantined["damaged_stream"], 1, "{name}");
        let entry = world.quarantined(&manifest).pop().unwrap();
        assert_eq!((entry.source.as_str(), entry.reason), (name, Reason::DamagedStream));
        assert_eq!(manifest.sources[0].records, entry.record + 1, "{name}");
        assert!(entry.offset > 0 && manifest.counts.kept > 0, "{name}");
    }
}

#[test]
fn the_second_run_publishes_nothing_and_a_change_makes_the_next_version() {
    let world = World::new();
    world.write("a.jsonl", texts(40, 1).as_bytes());
    let first = world.prepare(&recipe(), 2).unwrap();
    assert!(!first.reused && first.written_bytes > 0);
    assert_eq!((first.manifest.version, first.manifest.parent), (Version::FIRST, None));
    let objects = world.objects();
    let again = world.prepare(&recipe(), 1).unwrap();
    assert!(again.reused);
    assert_eq!((again.digest, again.written_bytes), (first.digest, 0));
    assert_eq!(world.objects(), objects);
    world.write("b.jsonl", texts(40, 2).as_bytes());
    let second = world.prepare(&recipe(), 2).unwrap();
    assert_eq!(second.manifest.version, Version::FIRST.next());
    assert_eq!(second.manifest.parent, Some(Version::FIRST));
    let third = world.prepare(&Recipe { seed: 9, ..recipe() }, 2).unwrap().manifest;
    assert_eq!(third.version.number(), 3);
    let ids = |manifest| -> BTreeSet<_> {
        let rows = |split| world.rows(manifest, split).into_iter().map(|row| row.id);
        Split::ALL.into_iter().flat_map(rows).collect()
    };
    // Another seed: another split and order of other rows, but every row has its own identity.
    assert_eq!(ids(&third).len() as u64, third.splits.iter().map(|split| split.rows).sum::<u64>());
}

#[test]
fn a_seed_reorders_the_same_samples() {
    let order = |seed| {
        let world = World::new();
        world.write("a.jsonl", texts(200, 1).as_bytes());
        let recipe = Recipe { seed, validation_share: 0.0, ..recipe() };
        let manifest = world.prepare(&recipe, 2).unwrap().manifest;
        world.rows(&manifest, Split::Train).into_iter().map(|row| row.id).collect::<Vec<_>>()
    };
    let (one, two) = (order(1), order(2));
    assert_ne!(one, two);
    assert_eq!(one.iter().collect::<BTreeSet<_>>(), two.iter().collect::<BTreeSet<_>>());
}

#[test]
fn writers_at_once_publish_one_version_of_one_dataset() {
    let world = World::new();
    world.write("a.jsonl", texts(60, 1).as_bytes());
    let outcomes = std::sync::Mutex::new(Vec::new());
    world
        .runtime
        .workers("race", 4, |_| {
            let prepared = world.prepare(&recipe(), 1)?;
            outcomes.lock().unwrap().push((prepared.reused, prepared.digest));
            Ok::<_, Error>(())
        })
        .unwrap();
    let outcomes = outcomes.into_inner().unwrap();
    assert_eq!(outcomes.iter().filter(|(reused, _)| !reused).count(), 1);
    assert!(outcomes.iter().all(|(_, digest)| *digest == outcomes[0].1));
}

#[test]
fn writers_of_different_datasets_get_different_versions() {
    let world = World::new();
    world.write("a.jsonl", texts(60, 1).as_bytes());
    let versions = std::sync::Mutex::new(BTreeSet::new());
    world
        .runtime
        .workers("race", 4, |worker| {
            let recipe = Recipe { seed: worker as u64, ..recipe() };
            let prepared = world.prepare(&recipe, 1)?;
            assert!(!prepared.reused);
            versions.lock().unwrap().insert(prepared.manifest.version.number());
            Ok::<_, Error>(())
        })
        .unwrap();
    assert_eq!(versions.into_inner().unwrap(), BTreeSet::from([1, 2, 3, 4]));
}

#[test]
fn what_cannot_work_says_why_and_publishes_nothing() {
    let world = World::new();
    let error = world.prepare(&recipe(), 1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    world.write("a.jsonl", texts(2000, 1).as_bytes());
    let error = world.prepare(&Recipe { row_tokens: 1 << 20, ..recipe() }, 1).unwrap_err();
    assert!(error.to_string().contains("2000 of 2000 records are usable"), "{error}");
    let error = world.prepare(&Recipe { row_tokens: 0, ..recipe() }, 1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let error = world.prepare_from(&world.raw(), &recipe(), 1, 100).unwrap_err();
    assert!(error.to_string().contains("memory_bytes"), "{error}");
    world.runtime.cancel();
    assert_eq!(world.prepare(&recipe(), 1).unwrap_err().kind(), ErrorKind::Interrupted);
    assert!(world.objects().is_empty());
}

#[test]
fn a_local_tier_without_room_is_full_and_left_empty() {
    let world = World::with_budget(20_000);
    world.write("a.jsonl", texts(2000, 1).as_bytes());
    let error = world.prepare(&recipe(), 2).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Full, "{error}");
    assert_eq!(world.local.usage().unwrap().scratch_bytes, 0);
    assert!(world.objects().is_empty());
}

/// The real corpus with its own tokenizer: what `forebay day` does in the morning.
#[test]
fn the_corpus_becomes_a_dataset_that_decodes_to_its_texts() {
    let data = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../data"));
    let world = World::new();
    let recipe = Recipe {
        tokenizer: data.join("tokenizer.json").to_str().unwrap().into(),
        row_tokens: 256,
        shard_bytes: 1 << 20,
        batch_bytes: 1 << 16,
        ..Recipe::default()
    };
    let source = data.join("raw");
    let prepared = world.prepare_from(&source, &recipe, 2, 512 << 20).unwrap();
    let manifest = prepared.manifest;
    assert_eq!(manifest.sources.len(), 7);
    assert_eq!(manifest.counts.read, 233 + 2561);
    assert!(manifest.counts.quarantined.is_empty() && manifest.quarantine.is_none());
    assert!(prepared.text_bytes > 11_000_000);
    let tokens: u64 = manifest.splits.iter().map(|split| split.rows * 256).sum();
    let per_token = prepared.text_bytes as f64 / tokens as f64;
    assert!((3.0..6.0).contains(&per_token), "{per_token} bytes a token");
    for split in Split::ALL {
        let rows = world.rows(&manifest, split);
        assert_eq!(documents(&rows).len() as u64, manifest.split(split).unwrap().documents);
    }
    // The lake alone is enough to make tokens again.
    let key = forebay_format::v1::dataset::tokenizer_key(manifest.tokenizer.digest);
    let stored = world.lake.read(&key, forebay_lake::Purpose::Manifest, 1 << 20).unwrap().unwrap();
    assert_eq!(stored, std::fs::read(data.join("tokenizer.json")).unwrap());
    // From another place the same tokenizer makes the same dataset.
    let copy = world.root.path().join("copy.json");
    std::fs::write(&copy, stored).unwrap();
    let recipe = Recipe { tokenizer: copy.to_str().unwrap().into(), ..recipe };
    assert!(world.prepare_from(&source, &recipe, 1, 512 << 20).unwrap().reused);
}

#[test]
fn plain_text_has_the_records_its_recipe_names() {
    for (text_records, records) in
        [(TextRecords::File, 1), (TextRecords::Paragraph, 2), (TextRecords::Line, 4)]
    {
        let world = World::new();
        world.write("a.txt", b"one line\nanother line\n\nthe last line of all");
        let recipe = Recipe { text_records, ..recipe() };
        let manifest = world.prepare(&recipe, 1).unwrap().manifest;
        assert_eq!(manifest.counts.read, records, "{text_records:?}");
    }
}
