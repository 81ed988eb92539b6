//! Weights of other tools come in and go out bit for bit, and what is hostile stays out.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod support;

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use forebay_checkpoint::{
    CheckpointSettings, Dtype, Error, Imported, Meaning, Part, StateTensor, Which, export_shards,
    import, list, restore, show, verify,
};
use forebay_testing::{Fault, Request, TempTiers};
use forebay_types::{ErrorKind, Name, Position};
use proptest::prelude::*;
use serde_json::json;

use support::{keep_all, metadata, open, run, told};

const BUDGET_BYTES: u64 = 64 << 20;

const DTYPES: [Dtype; 6] =
    [Dtype::F64, Dtype::F32, Dtype::BF16, Dtype::F8E4M3, Dtype::Bool, Dtype::C64];

/// Type, shape and values by name.
type Weights = BTreeMap<String, (Dtype, Vec<u64>, Vec<u8>)>;

fn weights() -> impl Strategy<Value = Weights> {
    let tensor = (0..DTYPES.len(), prop::collection::vec(0u64..6, 0..4), any::<u8>());
    prop::collection::btree_map("[a-z$][a-z.]{0,5}", tensor, 1..30).prop_map(|map| {
        let one = |(name, (dtype, shape, first)): (String, (usize, Vec<u64>, u8))| {
            let dtype = DTYPES[dtype];
            let bytes = shape.iter().product::<u64>() * dtype.bytes();
            let bytes = (0..bytes).map(|at| first.wrapping_add(at as u8)).collect();
            (name, (dtype, shape, bytes))
        };
        map.into_iter().map(one).collect()
    })
}

/// A file as the reference implementation writes it.
fn write_file(path: &Path, weights: &Weights) {
    let views = weights.iter().map(|(name, (dtype, shape, bytes))| {
        let dtype = serde_json::from_value(json!(dtype)).unwrap();
        let shape = shape.iter().map(|&side| side as usize).collect();
        (name, safetensors::tensor::TensorView::new(dtype, shape, bytes).unwrap())
    });
    let said = Some([("format".to_owned(), "pt".to_owned())].into());
    fs::write(path, safetensors::tensor::serialize(views, said).unwrap()).unwrap();
}

/// The tensors of a file as the reference implementation reads them.
fn read_file(path: &Path) -> Weights {
    let bytes = fs::read(path).unwrap();
    let judge = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let one = |(name, view): (String, safetensors::tensor::TensorView<'_>)| {
        let dtype = serde_json::from_value(json!(view.dtype())).unwrap();
        let shape = view.shape().iter().map(|&side| side as u64).collect();
        (name, (dtype, shape, view.data().to_vec()))
    };
    judge.tensors().into_iter().map(one).collect()
}

/// A directory of `count` files and an index, tensors dealt out in turn.
fn write_sharded(directory: &Path, weights: &Weights, count: usize) {
    let mut files: Vec<Weights> = vec![Weights::new(); count];
    let mut map = BTreeMap::new();
    let name = |at: usize| format!("model-{:05}-of-{count:05}.safetensors", at + 1);
    for (at, (tensor, values)) in weights.iter().enumerate() {
        files[at % count].insert(tensor.clone(), values.clone());
        map.insert(tensor.clone(), name(at % count));
    }
    for (at, file) in files.iter().enumerate() {
        write_file(&directory.join(name(at)), file);
    }
    write_index(directory, &json!(map));
}

fn write_index(directory: &Path, map: &serde_json::Value) {
    let index = json!({ "metadata": { "total_size": 1 }, "weight_map": map });
    fs::write(directory.join("model.safetensors.index.json"), index.to_string()).unwrap();
}

/// The tensors of a directory that was exported.
fn read_exported(directory: &Path) -> Weights {
    let index = directory.join("model.safetensors.index.json");
    let Ok(text) = fs::read(index) else {
        return read_file(&directory.join("model.safetensors"));
    };
    let index: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let map: BTreeMap<String, String> =
        serde_json::from_value(index["weight_map"].clone()).unwrap();
    let mut found = Weights::new();
    for (tensor, file) in map {
        let values = read_file(&directory.join(file)).remove(&tensor).unwrap();
        found.insert(tensor, values);
    }
    found
}

fn folder(tiers: &TempTiers, name: &str) -> PathBuf {
    let path = tiers.path().join(name);
    fs::create_dir(&path).unwrap();
    path
}

fn take_in(tiers: &TempTiers, step: u64, source: &Path) -> Result<Imported, Error> {
    import(&tiers.lake, &tiers.runtime, &run(), step, &Meaning::State("model".into()), source)
}

fn some(first: u8) -> Weights {
    let tensor = |name: &str, bytes: u8| {
        let values = (0..bytes).map(|at| at.wrapping_add(first)).collect();
        (name.to_owned(), (Dtype::U8, vec![u64::from(bytes)], values))
    };
    [tensor("a", 4), tensor("b", 60), tensor("c", 8)].into()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn weights_come_in_and_go_out_bit_for_bit(
        weights in weights(), count in 1usize..4, shard_bytes in 0u64..400,
    ) {
        let tiers = TempTiers::new(BUDGET_BYTES);
        let source = folder(&tiers, "source");
        write_sharded(&source, &weights, count);
        let imported = take_in(&tiers, 7, &source).unwrap();
        prop_assert_eq!((imported.tensors, imported.existed), (weights.len() as u64, false));
        verify(&tiers.lake, &run(), None).unwrap();
        let restored =
            restore(&tiers.transfer(), &run(), Which::Newest, Part::Weights).unwrap().unwrap();
        prop_assert_eq!(restored.position(), Position { step: 7 });
        prop_assert_eq!(restored.tensors().count(), weights.len());
        for (name, (dtype, shape, bytes)) in &weights {
            let found = restored.tensor(&format!("model.{name}")).unwrap();
            prop_assert_eq!((found.dtype, found.shape, found.bytes), (*dtype, &shape[..], &bytes[..]));
        }

        let output = tiers.path().join("exported");
        let exported =
            export_shards(&tiers.lake, &run(), None, Some("model"), shard_bytes, &output).unwrap();
        prop_assert_eq!(read_exported(&output), weights.clone());
        for file in &exported.files {
            let held = read_file(&output.join(file));
            let bytes: Vec<_> = held.values().map(|(_, _, bytes)| bytes.len() as u64).collect();
            let alone = bytes.iter().filter(|&&bytes| bytes > 0).count() == 1;
            prop_assert!(bytes.iter().sum::<u64>() <= shard_bytes || alone);
            let mode = fs::metadata(output.join(file)).unwrap().permissions().mode();
            prop_assert_eq!(mode & 0o777, 0o600);
        }

        let again = take_in(&tiers, 7, &output).unwrap();
        prop_assert!(again.existed, "what was exported is what was imported");
    }
}

#[test]
fn an_import_is_a_checkpoint_like_those_of_python() {
    let tiers = TempTiers::new(BUDGET_BYTES);
    let source = folder(&tiers, "source");
    write_file(&source.join("adapter.safetensors"), &some(1));
    take_in(&tiers, 0, &source.join("adapter.safetensors")).unwrap();
    let shown = show(&tiers.lake, &run(), 0).unwrap();
    let tensor = |name: &str| json!({ "$tensor": format!("model.{name}") });
    let state = json!({ "model": { "a": tensor("a"), "b": tensor("b"), "c": tensor("c") } });
    assert_eq!(*shown.metadata(), json!({ "version": 1, "state": state, "metrics": {} }));
}

#[test]
fn a_step_that_is_committed_stands() {
    let tiers = TempTiers::new(BUDGET_BYTES);
    let source = folder(&tiers, "source");
    write_file(&source.join("model.safetensors"), &some(1));
    assert!(!take_in(&tiers, 3, &source).unwrap().existed);
    assert!(take_in(&tiers, 3, &source).unwrap().existed);
    write_file(&source.join("model.safetensors"), &some(2));
    let error = take_in(&tiers, 3, &source).unwrap_err();
    assert!(matches!(error, Error::Conflict { .. }), "{error}");
    take_in(&tiers, 4, &source).unwrap();
    let steps: Vec<_> = list(&tiers.lake, &run()).unwrap().iter().map(|one| one.step).collect();
    assert_eq!(steps, [3, 4]);
}

#[test]
fn an_import_that_was_cut_off_is_done_by_asking_again() {
    let source = |tiers: &TempTiers| {
        let source = folder(tiers, "source");
        write_file(&source.join("model.safetensors"), &some(1));
        source
    };
    let fails = Fault::Fails(std::io::ErrorKind::PermissionDenied);
    for (request, key) in
        [(Request::Write, ".safetensors"), (Request::Write, ".json"), (Request::Create, "commit")]
    {
        let tiers = TempTiers::new(BUDGET_BYTES);
        let source = source(&tiers);
        tiers.store.inject(request, key, 9, fails);
        take_in(&tiers, 3, &source).unwrap_err();
        assert!(list(&tiers.lake, &run()).unwrap().is_empty());
        tiers.store.behave();
        assert!(!take_in(&tiers, 3, &source).unwrap().existed);
        verify(&tiers.lake, &run(), Some(3)).unwrap();
    }
    let tiers = TempTiers::new(BUDGET_BYTES);
    let lost = Fault::ReplyLost(std::io::ErrorKind::TimedOut);
    tiers.store.inject(Request::Create, "commit", 1, lost);
    assert!(!take_in(&tiers, 3, &source(&tiers)).unwrap().existed);
}

/// Makes a directory hostile, and what is said of it then.
type Attack = (&'static str, fn(&Path), ErrorKind);

fn header(path: &Path, json: &str, data_bytes: usize) {
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend(json.as_bytes());
    bytes.resize(bytes.len() + data_bytes, 0);
    fs::write(path, bytes).unwrap();
}

const ONE: &str = "model-00001-of-00002.safetensors";
const TWO: &str = "model-00002-of-00002.safetensors";

const ATTACKS: [Attack; 16] = [
    ("is damaged", |at| fs::write(at.join(ONE), [0; 5]).unwrap(), ErrorKind::Corrupt),
    ("would have", |at| fs::write(at.join(ONE), [255; 64]).unwrap(), ErrorKind::Corrupt),
    (
        "longer than the file",
        |at| fs::write(at.join(ONE), (1u64 << 20).to_le_bytes()).unwrap(),
        ErrorKind::Corrupt,
    ),
    (
        "stands twice",
        |at| {
            let row = r#""a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}"#;
            header(&at.join(ONE), &format!("{{{row},{row}}}"), 4);
        },
        ErrorKind::Corrupt,
    ),
    (
        "does not follow",
        |at| {
            let rows = r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},
                "c":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}}"#;
            header(&at.join(ONE), rows, 6);
        },
        ErrorKind::Corrupt,
    ),
    (
        "bytes of its shape",
        |at| {
            let row =
                r#"{"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,4]}}"#;
            header(&at.join(ONE), row, 4);
        },
        ErrorKind::Corrupt,
    ),
    (
        "F4",
        |at| {
            let row = r#"{"a":{"dtype":"F4","shape":[4],"data_offsets":[0,4]}}"#;
            header(&at.join(ONE), row, 4);
        },
        ErrorKind::Corrupt,
    ),
    (
        "instead of",
        |at| {
            let mut bytes = fs::read(at.join(ONE)).unwrap();
            bytes.push(0);
            fs::write(at.join(ONE), bytes).unwrap();
        },
        ErrorKind::Corrupt,
    ),
    (
        "no name of a .safetensors file",
        |at| write_index(at, &json!({ "a": "../outside.safetensors" })),
        ErrorKind::Invalid,
    ),
    (
        "no name of a .safetensors file",
        |at| write_index(at, &json!({ "a": "/etc/passwd" })),
        ErrorKind::Invalid,
    ),
    (
        "stands twice",
        |at| {
            let index = format!(r#"{{"weight_map":{{"a":"{ONE}","a":"{TWO}"}}}}"#);
            fs::write(at.join("model.safetensors.index.json"), index).unwrap();
        },
        ErrorKind::Corrupt,
    ),
    ("holds tensor `c`", |at| write_index(at, &json!({ "a": ONE, "b": TWO })), ErrorKind::Invalid),
    (
        "does not hold tensor `d`",
        |at| write_index(at, &json!({ "a": ONE, "b": TWO, "c": ONE, "d": TWO })),
        ErrorKind::Invalid,
    ),
    ("cannot read", |at| fs::remove_file(at.join(TWO)).unwrap(), ErrorKind::NotFound),
    (
        "remove one of them",
        |at| write_file(&at.join("model.safetensors"), &some(1)),
        ErrorKind::Invalid,
    ),
    (
        "holds neither",
        |at| fs::remove_file(at.join("model.safetensors.index.json")).unwrap(),
        ErrorKind::Invalid,
    ),
];

#[test]
fn what_is_hostile_or_torn_is_refused_by_name_and_nothing_is_written() {
    for (says, attack, kind) in ATTACKS {
        let tiers = TempTiers::new(BUDGET_BYTES);
        let source = folder(&tiers, "source");
        write_sharded(&source, &some(1), 2);
        write_file(&tiers.path().join("outside.safetensors"), &some(1));
        attack(&source);
        let error = take_in(&tiers, 1, &source).unwrap_err();
        assert!(told(&error).contains(says), "{says}: {}", told(&error));
        assert!(told(&error).contains("source"), "the file is named: {}", told(&error));
        assert_eq!(error.kind(), kind, "{says}");
        assert!(support::objects(&tiers.transfer()).is_empty());
    }
}

#[test]
fn only_a_state_that_is_there_and_has_types_of_safetensors_is_exported() {
    let tiers = TempTiers::new(BUDGET_BYTES);
    let mut checkpointer = open(&tiers.transfer(), &keep_all()).unwrap();
    let tensor = |name: &'static str| StateTensor {
        name: Cow::Borrowed(name),
        dtype: Dtype::F64,
        shape: vec![1, 2],
        bytes: Cow::Owned(vec![7; 16]),
        part: None,
    };
    let state = [tensor("model.w"), tensor("odd.z")];
    let tree = json!({ "state": { "odd": { "$tensor": "odd.z", "dtype": "complex128" } } });
    checkpointer.save(1, Position { step: 1 }, &state, &tree).unwrap();
    checkpointer.wait().unwrap();
    let output = tiers.path().join("output");
    let take_out = |state, output: &Path| {
        export_shards(&tiers.lake, &run(), None, state, 1 << 30, output)
            .map_err(|error| (error.kind(), told(&error)))
    };
    let (kind, text) = take_out(Some("net"), &output).unwrap_err();
    assert_eq!(kind, ErrorKind::Invalid);
    assert!(text.contains("no tensor of a state `net`; it has model, odd"), "{text}");
    for state in [Some("odd"), None] {
        let (kind, text) = take_out(state, &output).unwrap_err();
        assert_eq!(kind, ErrorKind::Invalid);
        assert!(text.contains("no name for complex128, which `odd.z` is of"), "{text}");
    }
    assert!(!output.exists(), "nothing was begun");
    assert_eq!(take_out(Some("model"), &output).unwrap().files, ["model.safetensors"]);
    assert_eq!(take_out(Some("model"), &output).unwrap_err().0, ErrorKind::Invalid);
    let error = export_shards(&tiers.lake, &run(), Some(9), None, 1, &output).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[test]
fn a_flipped_bit_in_the_lake_is_not_exported() {
    let tiers = TempTiers::new(BUDGET_BYTES);
    let mut checkpointer = open(&tiers.transfer(), &CheckpointSettings::default()).unwrap();
    let state = support::state(1);
    checkpointer.save(1, Position { step: 1 }, &state, &metadata(1)).unwrap();
    checkpointer.wait().unwrap();
    tiers.store.inject(Request::Read, ".safetensors", 9, Fault::FlipsBit);
    let output = tiers.path().join("output");
    let error = export_shards(&tiers.lake, &run(), None, None, 1 << 30, &output).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}

#[test]
fn a_state_has_a_sound_name() {
    let tiers = TempTiers::new(BUDGET_BYTES);
    let source = folder(&tiers, "source");
    write_file(&source.join("model.safetensors"), &some(1));
    let name = Name::new("other").unwrap();
    for state in ["", "$tensor"] {
        let meaning = Meaning::State(state.into());
        let error = import(&tiers.lake, &tiers.runtime, &name, 0, &meaning, &source).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }
}

#[test]
fn what_python_alone_reads_and_writes_is_said_to_be() {
    let tiers = TempTiers::new(BUDGET_BYTES);
    let bring = |path: &Path| {
        let meaning = Meaning::State("model".into());
        import(&tiers.lake, &tiers.runtime, &run(), 0, &meaning, path).unwrap_err()
    };
    let file = tiers.path().join("weights.pt");
    // As torch.save writes it today, and as it did before 1.6.
    for start in [&b"PK\x03\x04\0\0\x08\x08\0\0"[..], b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P"] {
        fs::write(&file, start).unwrap();
        let error = bring(&file);
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(told(&error).contains("a file of torch.save"), "{}", told(&error));
        assert!(told(&error).contains("forebay.import_checkpoint"), "{}", told(&error));
    }
    let directory = tiers.path().join("dcp");
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join(".metadata"), "").unwrap();
    let error = bring(&directory);
    assert!(told(&error).contains("torch.distributed.checkpoint"), "{}", told(&error));
    let output = tiers.path().join("out.pt");
    let error = export_shards(&tiers.lake, &run(), None, None, 1, &output).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(told(&error).contains("forebay.export_checkpoint"), "{}", told(&error));
    assert!(!output.exists());
}
