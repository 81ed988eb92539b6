//! Landing an object of the lake on the node: read, digest, write, map. Limits: copying the file
//! without looking at it, and digesting its bytes without moving them.

use std::{fs, path::Path};

use forebay_bench::{Bench, Scratch, Work};
use forebay_lake::{Lake, Purpose};
use forebay_local::LocalTier;
use forebay_transfer::{Object, Transfer};
use forebay_types::{Digest, Key};

fn main() {
    let bench = Bench::begin("transfer: a lake object to a verified file on the node");
    let scratch = Scratch::new();
    let body: Vec<u8> = (0..bench.bytes()).map(|index| (index / 3) as u8).collect();
    let transfer = open(&bench, scratch.path());
    let object = put(&transfer, &body);
    let (plain, copy) = (scratch.path().join("plain"), scratch.path().join("copy"));
    fs::write(&plain, &body).expect("room for the file");

    bench
        .contest("fetch once", Work::Bytes(body.len() as u64))
        .with("fetch", || {
            transfer.local().evict(object.digest).expect("the file can go");
            bench.time(|| transfer.fetch(&object).expect("the object is there"))
        })
        .with("cp of the same file", || {
            fs::remove_file(&copy).ok();
            bench.time(|| fs::copy(&plain, &copy).expect("room for the copy"))
        })
        .with("BLAKE3 of the same bytes", || bench.time(|| Digest::of(&body)))
        .run();

    transfer.fetch(&object).expect("the object is there");
    const CALLS: u64 = 1000;
    let again = || (0..CALLS).for_each(|_| drop(transfer.fetch(&object).expect("cached")));
    let map = || (0..CALLS).for_each(|_| drop(fs::File::open(&plain).expect("the file is there")));
    bench
        .contest("fetch what is cached", Work::Calls(CALLS))
        .with("fetch", || bench.time(again))
        .with("opening a file", || bench.time(map))
        .run();
    reserve(&bench, &transfer, &scratch.path().join("local/cache"));
}

/// What a reservation costs beside as many files as a large tier has.
fn reserve(bench: &Bench, transfer: &Transfer, cache: &Path) {
    const CALLS: u64 = 200;
    let digest = |number: u64| Digest::of(&number.to_le_bytes());
    let land = || {
        for number in 0..CALLS {
            drop(transfer.local().land(digest(number), 1).expect("room for a byte"));
        }
    };
    let mut files = 0;
    for more in [0, 10_000] {
        for number in files..files + more {
            let name = digest(number).to_string();
            fs::write(cache.join(name), []).expect("room for an empty file");
        }
        files += more;
        let plain = cache.join("../../plain");
        bench
            .contest(&format!("reserve and let go beside {files} files"), Work::Calls(CALLS))
            .with("reserve", || bench.time(land))
            .with("make and remove a file", || {
                bench.time(|| {
                    for _ in 0..CALLS {
                        fs::write(&plain, [1]).expect("room for a byte");
                        fs::remove_file(&plain).expect("it was made");
                    }
                })
            })
            .run();
    }
}

fn open(bench: &Bench, directory: &Path) -> Transfer {
    let runtime = bench.runtime();
    let url = directory.join("lake").display().to_string();
    let lake = Lake::open(&url, runtime).expect("a directory for the lake");
    let budget_bytes = 4 * bench.bytes() as u64;
    let local = LocalTier::open(&directory.join("local"), budget_bytes, runtime);
    Transfer::new(&lake, &local.expect("a directory for the local tier"), runtime)
}

fn put(transfer: &Transfer, body: &[u8]) -> Object {
    let digest = Digest::of(body);
    let key = Key::new(format!("shards/{digest}.arrow")).expect("a sound key");
    transfer.lake().write(&key, Purpose::Shard, body).expect("room in the lake");
    Object::whole(key, digest, body.len() as u64, Purpose::Shard)
}
