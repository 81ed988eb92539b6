//! A lake, a local tier and a source to prepare from, and everything a dataset holds read back.

#![allow(dead_code, reason = "each test uses its part")]
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use forebay_format::v1::{
    dataset::{DatasetManifest, quarantine_key},
    origin::{OriginReader, Span},
    quarantine::{self, Quarantined},
    shard::ShardReader,
};
use forebay_lake::{Lake, Purpose};
use forebay_local::LocalTier;
use forebay_prepare::{Error, Prepare, Prepared, Recipe, Silent};
use forebay_runtime::Runtime;
use forebay_transfer::dataset::{Shards, origin_object, shard_object};
use forebay_types::{Name, SampleId, Split};

pub struct World {
    pub root: tempfile::TempDir,
    pub runtime: Runtime,
    pub lake: Lake,
    pub local: LocalTier,
    pub name: Name,
}

impl World {
    pub fn new() -> Self {
        Self::with_budget(1 << 30)
    }

    /// With a lake in memory, for tests that prepare very often: a directory syncs every object.
    pub fn in_memory() -> Self {
        let mut world = Self::new();
        world.lake = Lake::open("memory://", &world.runtime).unwrap();
        world
    }

    pub fn with_budget(budget_bytes: u64) -> Self {
        let root = tempfile::tempdir().unwrap();
        let runtime = Runtime::system();
        let lake_root = root.path().join("lake");
        fs::create_dir_all(&lake_root).unwrap();
        fs::create_dir_all(root.path().join("raw")).unwrap();
        let lake = Lake::open(lake_root.to_str().unwrap(), &runtime).unwrap();
        let local = LocalTier::open(&root.path().join("local"), budget_bytes, &runtime).unwrap();
        Self { root, runtime, lake, local, name: Name::new("test").unwrap() }
    }

    pub fn raw(&self) -> PathBuf {
        self.root.path().join("raw")
    }

    /// Writes a raw file, packed as its name says.
    pub fn write(&self, name: &str, bytes: &[u8]) {
        let packed = match name.rsplit_once('.').unwrap().1 {
            "gz" => gzip(bytes),
            "zst" => zstd::encode_all(bytes, 1).unwrap(),
            _ => bytes.to_vec(),
        };
        fs::write(self.raw().join(name), packed).unwrap();
    }

    pub fn prepare(&self, recipe: &Recipe, workers: usize) -> Result<Prepared, Error> {
        self.prepare_from(&self.raw(), recipe, workers, 256 << 20)
    }

    pub fn prepare_from(
        &self,
        source: &Path,
        recipe: &Recipe,
        workers: usize,
        memory_bytes: u64,
    ) -> Result<Prepared, Error> {
        Prepare {
            lake: &self.lake,
            local: &self.local,
            runtime: &self.runtime,
            source,
            dataset: &self.name,
            recipe,
            workers,
            memory_bytes,
            progress: &Silent,
        }
        .run()
    }

    /// Every object in the lake, by key.
    pub fn objects(&self) -> BTreeMap<String, Vec<u8>> {
        let mut objects = BTreeMap::new();
        let mut keys = Vec::new();
        self.lake
            .list("", &mut |listed| {
                keys.push(listed.key);
                Ok(())
            })
            .unwrap();
        for key in keys {
            let bytes = self.lake.read(&key, Purpose::Shard, 1 << 30).unwrap().unwrap();
            objects.insert(key.to_string(), bytes);
        }
        objects
    }

    /// Everything but manifests, which carry times and nonces.
    pub fn payload(&self) -> BTreeMap<String, Vec<u8>> {
        self.objects().into_iter().filter(|(key, _)| key.starts_with("shards/")).collect()
    }

    /// All rows of a split, in order, with their spans; every digest is checked on the way.
    pub fn rows(&self, manifest: &DatasetManifest, split: Split) -> Vec<Row> {
        let entry = manifest.split(split).unwrap();
        let shards = Shards::new(&self.lake, entry);
        let mut rows = Vec::new();
        for number in 0..entry.shards {
            let shard = shards.get(number).unwrap();
            let file = self.object(&shard_object(&shard));
            let origin = self.object(&origin_object(shard.origin));
            let reader = ShardReader::new(file, manifest.schema, "shard").unwrap();
            reader.check(&shard).unwrap();
            let origin = OriginReader::new(&origin, "origin").unwrap();
            assert_eq!(origin.rows(), reader.rows() as usize);
            for (index, batch) in shard.batches.iter().enumerate() {
                reader.verify_batch(index, batch).unwrap();
            }
            for index in 0..reader.rows() {
                let row = reader.row(index);
                let tokens = tokens(row.tokens_le, manifest.schema.token_bytes);
                rows.push(Row { id: row.id, tokens, spans: origin.row(index).to_vec() });
            }
        }
        assert_eq!(rows.len() as u64, entry.rows);
        rows
    }

    fn object(&self, object: &forebay_transfer::Object) -> Vec<u8> {
        let bytes = self.lake.read(&object.key, Purpose::Shard, 1 << 30).unwrap().unwrap();
        assert_eq!(forebay_types::Digest::of(&bytes), object.digest);
        assert_eq!(bytes.len() as u64, object.bytes);
        bytes
    }

    pub fn quarantined(&self, manifest: &DatasetManifest) -> Vec<Quarantined> {
        let Some(entry) = manifest.quarantine else { return Vec::new() };
        let key = quarantine_key(entry.digest);
        let bytes = self.lake.read(&key, Purpose::Manifest, 1 << 30).unwrap().unwrap();
        assert_eq!(forebay_types::Digest::of(&bytes), entry.digest);
        let text = String::from_utf8(bytes).unwrap();
        quarantine::decode(&text, "quarantine").collect::<Result<_, _>>().unwrap()
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub id: SampleId,
    pub tokens: Vec<u32>,
    pub spans: Vec<Span>,
}

fn tokens(bytes: &[u8], width: u32) -> Vec<u32> {
    let token = |bytes: &[u8]| match *bytes {
        [a, b] => u32::from(u16::from_le_bytes([a, b])),
        [a, b, c, d] => u32::from_le_bytes([a, b, c, d]),
        _ => unreachable!(),
    };
    bytes.chunks_exact(width as usize).map(token).collect()
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(bytes).unwrap();
    packer.finish().unwrap()
}

/// A record of JSON lines.
pub fn line(text: &str, group: Option<u32>) -> String {
    serde_json::json!({ "text": text, "group": group }).to_string() + "\n"
}
