//! Writing and reading shards. Limits: copying the same bytes, and digesting them.

use std::hint::black_box;

use forebay_bench::{Bench, Work};
use forebay_format::v1::{
    dataset::TokenSchema,
    shard::{EncodedShard, ShardReader, ShardWriter},
};
use forebay_types::{Digest, SampleId};

const SCHEMA: TokenSchema = TokenSchema { row_tokens: 513, token_bytes: 2 };
const BATCH_BYTES: usize = 1 << 20;

fn main() {
    let bench = Bench::begin("shards: rows into a file and out of it");
    let row_bytes = SCHEMA.row_bytes();
    let tokens: Vec<u8> =
        (0..bench.bytes() / row_bytes * row_bytes).map(|index| index as u8).collect();
    let mut warm = tokens.clone();
    let work = Work::Bytes(tokens.len() as u64);

    bench
        .contest("write, digests included", work)
        .with("write", || bench.time(|| write(&tokens)))
        .with("BLAKE3 of the same bytes", || bench.time(|| Digest::of(&tokens)))
        .with("memcpy to warm memory", || bench.time(|| copy(&tokens, &mut warm)))
        .run();

    let shard = write(&tokens);
    let reader = ShardReader::new(&shard.bytes, SCHEMA, "shard").expect("the shard just written");
    let mut rows = tokens.clone();
    bench
        .contest("open and copy every row out", work)
        .with("read", || bench.time(|| read(&shard, &mut rows)))
        .with("memcpy of the same rows", || bench.time(|| copy(&tokens, &mut warm)))
        .run();
    bench
        .contest("verify every record batch", work)
        .with("verify", || bench.time(|| verify(&reader, &shard)))
        .with("CRC-32C of the same bytes", || bench.time(|| crc32c::crc32c(&tokens)))
        .run();
}

fn write(tokens: &[u8]) -> EncodedShard {
    let row_bytes = SCHEMA.row_bytes();
    let rows_per_batch = (BATCH_BYTES / row_bytes) as u32;
    let mut writer = ShardWriter::new(SCHEMA, rows_per_batch).expect("a sound schema");
    for (index, row) in tokens.chunks_exact(row_bytes).enumerate() {
        let id = SampleId::from_bytes((index as u128).to_le_bytes());
        writer.push(id, row).expect("a row of the schema");
    }
    writer.finish().expect("a shard in memory")
}

fn read(shard: &EncodedShard, into: &mut [u8]) {
    let reader = ShardReader::new(&shard.bytes, SCHEMA, "shard").expect("the shard just written");
    for (index, row) in into.chunks_exact_mut(SCHEMA.row_bytes()).enumerate() {
        row.copy_from_slice(reader.row(index as u32).tokens_le);
    }
}

fn verify(reader: &ShardReader<&Vec<u8>>, shard: &EncodedShard) {
    for (index, entry) in shard.batches.iter().enumerate() {
        reader.verify_batch(index, entry).expect("the shard just written");
    }
}

fn copy(from: &[u8], to: &mut [u8]) {
    to.copy_from_slice(black_box(from));
}
