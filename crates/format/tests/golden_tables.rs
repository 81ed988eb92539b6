//! The tables of version 1, as they were first written, are read by every later build.

#![allow(clippy::unwrap_used, reason = "a test may")]

use std::{fs, path::PathBuf};

use forebay_format::v1::{
    dataset::TokenSchema,
    origin::{OriginReader, OriginWriter, Span},
    quarantine,
    shard::{EncodedShard, ShardReader, ShardWriter},
};
use forebay_types::SampleId;

const SCHEMA: TokenSchema = TokenSchema { row_tokens: 6, token_bytes: 2 };
const ROWS: u16 = 5;

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden/v1").join(name)
}

fn id(row: u16) -> SampleId {
    SampleId::from_bytes(std::array::from_fn(|byte| (row as u8 + 1) * (byte as u8 + 1)))
}

fn tokens_le(row: u16) -> Vec<u8> {
    (0..6).flat_map(|column| (row * 1000 + column).to_le_bytes()).collect()
}

fn shard() -> EncodedShard {
    let mut writer = ShardWriter::new(SCHEMA, 2).unwrap();
    (0..ROWS).for_each(|row| writer.push(id(row), &tokens_le(row)).unwrap());
    writer.finish().unwrap()
}

fn spans(row: u16) -> Vec<Span> {
    let piece = |index: u64| Span {
        source: u32::from(row / 4),
        record: 2 * u64::from(row) + index,
        offset: 100 * u64::from(row) + 40 * index,
        bytes: 30 + index,
        token_start: 3 * (1 - index as u32),
        tokens: 3,
    };
    vec![piece(0), piece(1)]
}

fn origin() -> Vec<u8> {
    let mut writer = OriginWriter::new();
    (0..ROWS).for_each(|row| writer.push(&spans(row)).unwrap());
    writer.finish().unwrap()
}

#[test]
fn the_first_shard_is_still_read_and_still_written_alike() {
    let bytes = fs::read(golden("shard.arrow")).unwrap();
    let shard = shard();
    let reader = ShardReader::new(&bytes, SCHEMA, "golden shard").unwrap();
    assert_eq!(u32::from(ROWS), reader.rows());
    for row in 0..ROWS {
        let found = reader.row(row.into());
        assert_eq!((found.id, found.tokens_le.to_vec()), (id(row), tokens_le(row)));
    }
    for (index, entry) in shard.batches.iter().enumerate() {
        reader.verify_batch(index, entry).unwrap();
    }
    assert!(shard.bytes == bytes, "the same rows no longer give the same shard");
}

#[test]
fn the_first_origin_file_is_still_read() {
    // Not compared byte by byte: another release of zstd may compress another way.
    let bytes = fs::read(golden("origin.arrow")).unwrap();
    let reader = OriginReader::new(&bytes, "golden origin").unwrap();
    assert_eq!(reader.rows(), usize::from(ROWS));
    (0..ROWS).for_each(|row| assert_eq!(reader.row(row.into()), spans(row)));
}

#[test]
fn the_first_quarantine_file_is_still_read() {
    let text = fs::read_to_string(golden("quarantine.jsonl")).unwrap();
    let entries: Vec<_> = quarantine::decode(&text, "golden").collect::<Result<_, _>>().unwrap();
    assert_eq!(entries.len(), 2);
    assert_eq!(entries[1].reason, quarantine::Reason::DamagedStream);
    assert_eq!(entries.iter().map(quarantine::Quarantined::to_line).collect::<String>(), text);
}

/// Writes what is missing in `golden/v1`; what is there is never written again.
#[test]
#[ignore = "run by hand when a format is added"]
fn write_what_is_missing() {
    let files = [("shard.arrow", shard().bytes), ("origin.arrow", origin())];
    for (name, bytes) in files.into_iter().filter(|(name, _)| !golden(name).exists()) {
        fs::write(golden(name), bytes).unwrap();
    }
}
