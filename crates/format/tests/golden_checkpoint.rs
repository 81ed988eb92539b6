//! The checkpoint formats of version 1, as they were first written, are read by every later build.

#![allow(clippy::unwrap_used, reason = "a test may")]

use std::{fs, path::PathBuf};

use forebay_format::{
    record,
    v1::{
        capture::{CaptureFacts, CaptureRecord, CapturedTensor, Label},
        checkpoint::{
            CheckpointReference, CommitRecord, EarlierFile, RANKS_MAX, RankRecord, TensorEntry,
            commit_key, encoded_spec, longest_spec, rank_key, rank_of, step_of, tensors_key,
        },
        dataset::ObjectEntry,
        encoding::{Codec, Decoder, Encoded, Encoder},
        failure::{FailureRecord, REASON_BYTES_MAX, failure_key, failure_of},
        run::DatasetReference,
        tensors::{self, Dtype, TensorSpec},
        writer::{WriterRecord, number_of, writer_key, writers_prefix},
    },
};
use forebay_types::{Checksum, Digest, Key, Name, Nonce, Position, Version};

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden/v1").join(name)
}

fn run() -> Name {
    Name::new("day-1").unwrap()
}

fn specs() -> Vec<TensorSpec> {
    let spec = |name: &str, dtype, shape: &[u64]| TensorSpec {
        name: name.into(),
        dtype,
        shape: shape.to_vec(),
    };
    vec![
        spec("model.weight", Dtype::F32, &[2, 3]),
        spec("model.mask", Dtype::Bool, &[5]),
        spec("model.scale", Dtype::BF16, &[]),
        spec("optimizer.step", Dtype::U64, &[]),
        spec("optimizer.empty", Dtype::F64, &[0, 4]),
    ]
}

/// The tensor file and its rank record.
fn rank() -> (Vec<u8>, RankRecord) {
    let plan = tensors::plan(&specs()).unwrap();
    let mut file = plan.header.clone();
    let mut tensors = Vec::new();
    for (_, place) in &plan.places {
        let bytes: Vec<u8> = (0..place.bytes).map(|at| (at * 37 + place.offset) as u8).collect();
        tensors.push(TensorEntry {
            name: place.spec.name.clone(),
            dtype: place.spec.dtype,
            shape: place.spec.shape.clone(),
            offset: place.offset,
            bytes: place.bytes,
            digest: Digest::of(&bytes),
            checksum: None,
            encoded: None,
            earlier: None,
            part: None,
        });
        file.extend(bytes);
    }
    let record = RankRecord {
        run: run(),
        step: 120,
        rank: 0,
        world_size: 1,
        attempt: Nonce::from_bits(0x0123_4567_89ab_cdef),
        launch: None,
        position: Position { step: 120 },
        parent: Some(80),
        dataset: Some(DatasetReference {
            name: Name::new("books").unwrap(),
            version: Version::FIRST,
            digest: Digest::of(b"manifest"),
        }),
        forked_from: None,
        captured_unix_ms: 1_767_225_600_000,
        metadata: serde_json::json!({ "step": 120, "loss": 0.1, "random": [u64::MAX, 2] }),
        file: ObjectEntry { digest: Digest::of(&file), bytes: file.len() as u64 },
        earlier: Vec::new(),
        tensors,
    };
    (file, record)
}

/// The file and the record of one that is stored in less room, and of one that is not.
fn encoded_rank() -> (Vec<u8>, RankRecord) {
    let spec = |name: &str, dtype, sides: &[u64]| TensorSpec {
        name: name.into(),
        dtype,
        shape: sides.to_vec(),
    };
    let values: [Vec<u8>; 2] = [
        (0_u16..300).flat_map(|at| (0x3c00 | (at * 7 % 128)).to_le_bytes()).collect(),
        (0_u8..12).collect(),
    ];
    let specs =
        [spec("model.weight", Dtype::BF16, &[20, 15]), spec("model.bias", Dtype::F32, &[3])];
    let mut stored = Vec::new();
    Encoder::new().unwrap().encode(&values[0], 2, &mut stored);
    let bytes = stored.len() as u64;
    let stands = [encoded_spec("model.weight", bytes), specs[1].clone()];
    let longest = [longest_spec(&specs[0]), specs[1].clone()];
    let plan = tensors::plan_with_room(&stands, &longest).unwrap();
    let (mut file, mut tensors) = (plan.header.clone(), Vec::new());
    for (index, place) in &plan.places {
        let (spec, values) = (&specs[*index], &values[*index]);
        tensors.push(TensorEntry {
            name: spec.name.clone(),
            dtype: spec.dtype,
            shape: spec.shape.clone(),
            offset: place.offset,
            bytes: values.len() as u64,
            digest: Digest::of(values),
            checksum: Some(Checksum::of(values)),
            encoded: (*index == 0).then_some(Encoded { codec: Codec::PlanesZstd, bytes }),
            earlier: None,
            part: None,
        });
        file.extend(if *index == 0 { &stored } else { values });
    }
    let own = ObjectEntry { digest: Digest::of(&file), bytes: file.len() as u64 };
    (file, RankRecord { file: own, tensors, ..rank().1 })
}

/// A later record, which refers to tensors of that file, and its commit.
fn later() -> (RankRecord, CommitRecord) {
    let (_, earlier) = rank();
    let plan = tensors::plan(&[]).unwrap();
    let held = ["model.weight", "optimizer.step"];
    let tensors = earlier.tensors.iter().filter(|tensor| held.contains(&&*tensor.name));
    let tensors = tensors.map(|tensor| TensorEntry { earlier: Some(0), ..tensor.clone() });
    let record = RankRecord {
        step: 160,
        launch: Some(Digest::of(b"launch")),
        position: Position { step: 160 },
        parent: Some(120),
        file: ObjectEntry { digest: Digest::of(&plan.header), bytes: plan.file_bytes },
        earlier: vec![EarlierFile {
            step: earlier.step,
            rank: earlier.rank,
            digest: earlier.file.digest,
            bytes: earlier.file.bytes,
        }],
        tensors: tensors.collect(),
        ..earlier
    };
    let (_, digest) = record::encode(&record).unwrap();
    let commit = CommitRecord::of(&[(record.clone(), digest)]).unwrap();
    (record, commit)
}

fn claim() -> WriterRecord {
    WriterRecord {
        run: run(),
        number: 2,
        launch: Digest::of(b"launch"),
        claimed_unix_ms: 1_767_225_600_000,
        newest_step: Some(120),
    }
}

fn failure() -> FailureRecord {
    FailureRecord {
        run: run(),
        step: 120,
        rank: 1,
        attempt: Nonce::from_bits(0x0123_4567_89ab_cdef),
        failed_unix_ms: 1_767_225_600_000,
        reason: "it could not be staged: there was no room".into(),
    }
}

fn commit() -> CommitRecord {
    let (_, record) = rank();
    let (_, digest) = record::encode(&record).unwrap();
    CommitRecord::of(&[(record, digest)]).unwrap()
}

/// The record of a rank of a run that was forked from another.
fn forked_rank() -> RankRecord {
    let (run, digest) = (Name::new("day-0").unwrap(), Digest::of(b"commit"));
    let forked_from = Some(CheckpointReference { run, step: 100, digest });
    RankRecord { parent: None, forked_from, ..rank().1 }
}

fn forked_commit() -> CommitRecord {
    let (_, digest) = record::encode(&forked_rank()).unwrap();
    CommitRecord::of(&[(forked_rank(), digest)]).unwrap()
}

/// What a process keeps in memory of a capture of the same state, with room behind its record.
fn capture() -> (CaptureRecord, Vec<u8>) {
    let (mut memory, rank) = rank();
    let RankRecord { run, step, position, parent, dataset, metadata, .. } = rank;
    let facts = CaptureFacts {
        run,
        step,
        rank: 0,
        world_size: 1,
        attempt: rank.attempt,
        launch: Digest::of(b"launch"),
        position,
        parent,
        dataset,
        forked_from: None,
        captured_unix_ms: rank.captured_unix_ms,
        metadata,
    };
    let tensors = rank.tensors.into_iter().map(|tensor| {
        let TensorEntry { name, dtype, shape, part, .. } = tensor;
        CapturedTensor { name, dtype, shape, part }
    });
    let record = CaptureRecord { facts, tensors: tensors.collect() };
    let (image_bytes, body) = (memory.len() as u64, record::encode(&record).unwrap().0);
    let label = Label { image_bytes, record_bytes: body.len() as u64 };
    memory.extend(body);
    memory.extend([0; 24]);
    memory.extend(label.encode());
    (record, memory)
}

/// Every file, as this build writes it.
fn files() -> [(&'static str, Vec<u8>); 12] {
    let (file, record) = rank();
    let (encoded_file, encoded) = encoded_rank();
    let (later, later_commit) = later();
    [
        ("checkpoint-rank-0.safetensors", file),
        ("checkpoint-rank-0.json", record::encode(&record).unwrap().0),
        ("checkpoint-commit.json", record::encode(&commit()).unwrap().0),
        ("checkpoint-later-rank-0.json", record::encode(&later).unwrap().0),
        ("checkpoint-later-commit.json", record::encode(&later_commit).unwrap().0),
        ("checkpoint-encoded-rank-0.safetensors", encoded_file),
        ("checkpoint-encoded-rank-0.json", record::encode(&encoded).unwrap().0),
        ("writer.json", record::encode(&claim()).unwrap().0),
        ("checkpoint-failure.json", record::encode(&failure()).unwrap().0),
        ("checkpoint-rank-0.capture", capture().1),
        ("checkpoint-forked-rank-0.json", record::encode(&forked_rank()).unwrap().0),
        ("checkpoint-forked-commit.json", record::encode(&forked_commit()).unwrap().0),
    ]
}

#[test]
fn the_first_files_are_still_written_alike() {
    // What zstd makes of the same bytes is zstd's to improve.
    for (name, bytes) in files().into_iter().filter(|(name, _)| !name.contains("encoded")) {
        assert!(fs::read(golden(name)).unwrap() == bytes, "{name} is written otherwise");
    }
}

#[test]
fn the_first_records_are_still_read() {
    let read = |name| fs::read(golden(name)).unwrap();
    let found: RankRecord = record::decode(&read("checkpoint-rank-0.json"), "golden").unwrap().0;
    assert_eq!(found, rank().1);
    let found: CommitRecord = record::decode(&read("checkpoint-commit.json"), "golden").unwrap().0;
    assert_eq!(found, commit());
    let read = |name| fs::read(golden(name)).unwrap();
    let (record, commit) = later();
    let found: RankRecord =
        record::decode(&read("checkpoint-later-rank-0.json"), "golden").unwrap().0;
    assert_eq!(found, record);
    let found: CommitRecord =
        record::decode(&read("checkpoint-later-commit.json"), "golden").unwrap().0;
    assert_eq!(found, commit);
    assert_eq!(commit.needs, [120]);
    let found: WriterRecord = record::decode(&read("writer.json"), "golden").unwrap().0;
    assert_eq!(found, claim());
    let found: FailureRecord =
        record::decode(&read("checkpoint-failure.json"), "golden").unwrap().0;
    assert_eq!(found, failure());
    let kept = read("checkpoint-rank-0.capture");
    let (image, body) = Label::split(&kept, "golden").unwrap();
    assert!(image == rank().0);
    let found: CaptureRecord = record::decode(body, "golden").unwrap().0;
    assert_eq!(found, capture().0);
    let forked = read("checkpoint-forked-rank-0.json");
    let found: RankRecord = record::decode(&forked, "golden").unwrap().0;
    assert_eq!(found, forked_rank());
    let forked = read("checkpoint-forked-commit.json");
    let found: CommitRecord = record::decode(&forked, "golden").unwrap().0;
    assert_eq!(found, forked_commit());
}

#[test]
fn the_first_tensor_file_is_still_read_by_us_and_by_others() {
    let bytes = fs::read(golden("checkpoint-rank-0.safetensors")).unwrap();
    let (first, rest) = bytes.split_first_chunk().unwrap();
    let json = &rest[..tensors::header_bytes(*first, "golden").unwrap() as usize];
    let places = tensors::parse(json, bytes.len() as u64, "golden").unwrap();
    assert_eq!(places.len(), specs().len());
    let judge = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    for place in places {
        assert!(specs().contains(&place.spec));
        let range = place.offset as usize..(place.offset + place.bytes) as usize;
        assert_eq!(judge.tensor(&place.spec.name).unwrap().data(), &bytes[range]);
    }
}

#[test]
fn the_first_encoded_tensor_is_still_decoded() {
    let read = |name| fs::read(golden(name)).unwrap();
    let bytes = read("checkpoint-encoded-rank-0.safetensors");
    let record = read("checkpoint-encoded-rank-0.json");
    let record: RankRecord = record::decode(&record, "golden").unwrap().0;
    assert_eq!(record.file, ObjectEntry { digest: Digest::of(&bytes), bytes: bytes.len() as u64 });
    assert!(bytes.starts_with(&record.plan().unwrap().header));
    let entry = record.tensors.iter().find(|tensor| tensor.encoded.is_some()).unwrap();
    let judge = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let stored = judge.tensor("model.weight").unwrap();
    assert_eq!(stored.shape(), [entry.stored_bytes() as usize]);
    assert!(entry.stored_bytes() < entry.bytes);
    let (encoded, values) = (entry.encoded.unwrap(), (entry.bytes, entry.dtype.bytes()));
    let (mut decoder, mut found) = (Decoder::new(encoded, values, "x").unwrap(), Vec::new());
    let take = |values: &[u8]| {
        found.extend_from_slice(values);
        Ok::<_, forebay_format::Error>(())
    };
    decoder.push(stored.data(), take).unwrap();
    decoder.finish().unwrap();
    let (_, today) = encoded_rank();
    let same = |one: &&TensorEntry| one.name == entry.name;
    let TensorEntry { digest, checksum, .. } = today.tensors.iter().find(same).unwrap();
    assert_eq!((Digest::of(&found), Some(Checksum::of(&found))), (*digest, *checksum));
    assert_eq!((entry.digest, entry.checksum), (*digest, *checksum));
}

#[test]
fn keys_lie_where_the_layout_says_and_are_read_back() {
    let digest = Digest::of(b"x");
    let keys = [
        commit_key(&run(), 120),
        rank_key(&run(), 120, 7, digest),
        tensors_key(&run(), 120, 7, digest),
    ];
    assert_eq!(keys[0].as_str(), "runs/day-1/checkpoints/000000000120/commit.json");
    assert!(keys.iter().all(|key| step_of(&run(), key) == Some(120)));
    assert!(keys.iter().all(|key| failure_of(key).is_none()));
    assert_eq!(keys.map(|key| rank_of(&key)), [None, Some((7, digest)), None]);
    let failure = failure_key(&run(), 120, Nonce::from_bits(0xab), 7);
    let name = "failed-000000000000000000000000000000ab-rank-7.json";
    assert_eq!(failure.file_name(), name);
    assert_eq!(failure_of(&failure), Some((Nonce::from_bits(0xab), 7)));
    assert_eq!((rank_of(&failure), step_of(&run(), &failure)), (None, Some(120)));
    for rank in ["07", "", "7-8"] {
        let other = Key::new(name.replace('7', rank)).unwrap();
        assert_eq!(failure_of(&other), None, "{other}");
    }
    let claim = writer_key(&run(), 3);
    assert!(claim.as_str().starts_with(&writers_prefix(&run())));
    assert_eq!(number_of(&run(), &claim), Some(3));
    assert_eq!(number_of(&run(), &Key::new("runs/day-1/writers/3.json").unwrap()), None);
    for text in ["runs/day-1/checkpoints/120/commit.json", "runs/day/checkpoints/000000000120/x"] {
        assert_eq!(step_of(&run(), &Key::new(text).unwrap()), None, "{text}");
    }
}

#[test]
fn records_that_break_their_rules_are_refused() {
    let break_it = |change: fn(&mut RankRecord)| {
        let (_, mut record) = rank();
        change(&mut record);
        record::encode(&record).unwrap_err().to_string()
    };
    assert!(break_it(|record| record.parent = Some(120)).contains("no earlier step"));
    let from = |run: &str, step| {
        let (run, digest) = (Name::new(run).unwrap(), Digest::of(b"commit"));
        Some(CheckpointReference { run, step, digest })
    };
    let (_, mut itself) = rank();
    itself.forked_from = from("day-1", 80);
    assert!(record::encode(&itself).unwrap_err().to_string().contains("its own run"));
    itself.forked_from = from("day-0", 121);
    assert!(record::encode(&itself).unwrap_err().to_string().contains("a later step"));
    assert!(break_it(|record| record.rank = 1).contains("rank 1 of world size 1"));
    assert!(break_it(|record| record.file.bytes += 1).contains("make a file of"));
    assert!(break_it(|record| record.tensors[0].offset += 8).contains("lie where it must"));
    assert!(break_it(|record| record.tensors.swap(1, 2)).contains("lie where it must"));
    assert!(break_it(|record| record.tensors[1].name = "model.mask".into()).contains("is taken"));
    let break_encoded = |change: fn(&mut TensorEntry)| {
        let (_, mut record) = encoded_rank();
        change(record.tensors.iter_mut().find(|tensor| tensor.encoded.is_some()).unwrap());
        record::encode(&record).unwrap_err().to_string()
    };
    assert!(break_encoded(|tensor| tensor.bytes += 2).contains("bytes of its shape"));
    assert!(break_encoded(|tensor| tensor.encoded = None).contains("make a file of"));
    let longer = |tensor: &mut TensorEntry| tensor.encoded.as_mut().unwrap().bytes = 609;
    assert!(break_encoded(longer).contains("bytes of its shape"));
    let break_later = |change: fn(&mut RankRecord)| {
        let (mut record, _) = later();
        change(&mut record);
        record::encode(&record).unwrap_err().to_string()
    };
    assert!(break_later(|record| record.earlier.clear()).contains("lies in no file"));
    assert!(break_later(|record| record.tensors[0].earlier = Some(1)).contains("lies in no file"));
    assert!(break_later(|record| record.earlier[0].step = 160).contains("no earlier one"));
    assert!(
        break_later(|record| record.tensors[0].bytes += 1).contains("does not lie in the file")
    );
    assert!(
        break_later(|record| record.tensors[0].offset = u64::MAX)
            .contains("does not lie in the file")
    );
    assert!(break_later(|record| record.tensors[1] = record.tensors[0].clone()).contains("twice"));
    let long = FailureRecord { reason: "x".repeat(REASON_BYTES_MAX + 1), ..failure() };
    assert!(record::encode(&long).unwrap_err().to_string().contains("its reason is longer"));
    let beyond = FailureRecord { rank: RANKS_MAX, ..failure() };
    assert!(record::encode(&beyond).unwrap_err().to_string().contains("there is no rank"));
    let (_, record) = rank();
    let ranks = [(record.clone(), Digest::of(b"0")), (record, Digest::of(b"1"))];
    assert!(CommitRecord::of(&ranks).unwrap_err().contains("2 ranks of 1"));
    assert!(CommitRecord::of(&[]).is_err());
}

/// Writes what is missing in `golden/v1`; what is there is never written again.
#[test]
#[ignore = "run by hand when a format is added"]
fn write_what_is_missing() {
    for (name, bytes) in files().into_iter().filter(|(name, _)| !golden(name).exists()) {
        fs::write(golden(name), bytes).unwrap();
    }
}
