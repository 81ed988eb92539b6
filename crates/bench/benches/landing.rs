//! Landing shards as a feed lets them, two at a time: read, digest, write, map. The limit is the
//! barest way to get the same bytes: four ranged reads at a time into reused memory.
//!
//! The lake is a directory whose files are cold, and a real S3 server on this machine (SeaweedFS, in
//! `FOREBAY_TOOLS` or on the `PATH`). The server's work is done by the same cores, and by none of
//! those that a training node has, so its processor time is left out of what is printed.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use forebay_bench::{Bench, Scratch, Work};
use forebay_lake::{Lake, Purpose};
use forebay_local::LocalTier;
use forebay_testing::{S3Server, anonymous_bytes};
use forebay_transfer::{Object, Transfer};
use forebay_types::{Digest, Key};

const SHARDS: usize = 8;
const LANDINGS: usize = 2;
const READERS: usize = 4;
const PIECE_BYTES: usize = 4 << 20;
const GIB: f64 = (1 << 30) as f64;
const MIB: f64 = (1 << 20) as f64;

fn main() {
    let bench = Bench::begin("landing: shards of a lake to verified files on the node");
    let scratch = Scratch::new();
    let directory = scratch.path().join("lake");
    let lake = Lake::open(&directory.display().to_string(), bench.runtime());
    let landing = Landing::new(&bench, lake.expect("a directory for the lake"), &scratch);
    landing.compare("of a cold directory", || landing.cool(&directory));
    landing.spend("of a cold directory", || landing.cool(&directory));
    landing.spend("of a warm directory", || ());

    let server = S3Server::start();
    let scratch = Scratch::new();
    let lake = Lake::new(Arc::new(server.store("s3://lake")), bench.runtime());
    let landing = Landing::new(&bench, lake, &scratch);
    landing.compare("of an S3 server", || ());
    landing.spend("of an S3 server", || ());
}

struct Landing<'a> {
    bench: &'a Bench,
    transfer: Transfer,
    objects: Vec<Object>,
}

impl<'a> Landing<'a> {
    /// Puts the shards into `lake`.
    fn new(bench: &'a Bench, lake: Lake, scratch: &Scratch) -> Self {
        let local = scratch.path().join("local");
        let local = LocalTier::open(&local, 4 * bench.bytes() as u64, bench.runtime());
        let local = local.expect("a directory for the local tier");
        let transfer = Transfer::new(&lake, &local, bench.runtime());
        let body: Vec<u8> = (0..bench.bytes()).map(|index| (index / 3) as u8).collect();
        let put = |part: &[u8]| {
            let digest = Digest::of(part);
            let key = Key::new(format!("shards/{digest}.arrow")).expect("a sound key");
            lake.write(&key, Purpose::Shard, part).expect("room in the lake");
            Object::whole(key, digest, part.len() as u64, Purpose::Shard)
        };
        let objects = body.chunks(body.len() / SHARDS).map(put).collect();
        Self { bench, transfer, objects }
    }

    /// Speed, beside the bare reads.
    fn compare(&self, what: &str, cool: impl Fn()) {
        let bytes = self.objects.iter().map(|object| object.bytes).sum();
        self.bench
            .contest(&format!("land shards {what}"), Work::Bytes(bytes))
            .with("land", || {
                self.clear();
                cool();
                self.bench.time(|| self.each(LANDINGS, |object| self.land(object)))
            })
            .with("bare ranged reads", || {
                cool();
                self.bench.time(|| self.each(READERS, |object| self.get(object)))
            })
            .run();
    }

    /// Processor time and memory of this process, beside those of the bare reads.
    fn spend(&self, what: &str, cool: impl Fn()) {
        self.clear();
        cool();
        let (landing, landing_bytes) =
            self.measure(|| self.each(LANDINGS, |object| self.land(object)));
        self.clear();
        cool();
        let (getting, getting_bytes) =
            self.measure(|| self.each(READERS, |object| self.get(object)));
        println!(
            "    {what}: {landing:.2} CPU s/GiB and {:.0} MiB of memory; bare reads take \
             {getting:.2} and {:.0}",
            landing_bytes as f64 / MIB,
            getting_bytes as f64 / MIB
        );
    }

    /// Processor seconds for a GiB, and the most memory that was added.
    fn measure(&self, work: impl Fn() + Sync) -> (f64, u64) {
        let (over, peak) = (AtomicBool::new(false), AtomicU64::new(0));
        let before_bytes = anonymous_bytes();
        let before = self.bench.processor_time();
        let part = |index| {
            if index == 0 {
                work();
                over.store(true, Ordering::SeqCst);
            }
            while !over.load(Ordering::SeqCst) {
                peak.fetch_max(anonymous_bytes(), Ordering::SeqCst);
                self.bench.runtime().sleep(Duration::from_millis(2)).expect("nobody cancels");
            }
            Ok::<_, ()>(())
        };
        self.bench.runtime().workers("bench", 2, part).expect("none fails");
        let seconds = (self.bench.processor_time() - before).as_secs_f64();
        let bytes: u64 = self.objects.iter().map(|object| object.bytes).sum();
        (seconds / (bytes as f64 / GIB), peak.into_inner().saturating_sub(before_bytes))
    }

    /// Works on all objects, so many at once.
    fn each(&self, threads: usize, work: impl Fn(&Object) + Sync) {
        let next = AtomicUsize::new(0);
        let claim = |_| {
            while let Some(object) = self.objects.get(next.fetch_add(1, Ordering::Relaxed)) {
                work(object);
            }
            Ok::<_, ()>(())
        };
        self.bench.runtime().workers("bench", threads, claim).expect("none fails");
    }

    fn land(&self, object: &Object) {
        drop(self.transfer.fetch(object).expect("the object is there"));
    }

    fn get(&self, object: &Object) {
        let mut piece = vec![0; PIECE_BYTES.min(object.bytes as usize)];
        for offset in (0..object.bytes).step_by(PIECE_BYTES) {
            let piece = &mut piece[..PIECE_BYTES.min((object.bytes - offset) as usize)];
            let read = self.transfer.lake().read_range(&object.key, object.purpose, offset, piece);
            read.expect("the object is there");
        }
    }

    fn clear(&self) {
        for object in &self.objects {
            self.transfer.local().evict(object.digest).expect("the file can go");
        }
    }

    /// Linux alone forgets what it has read when it is told to; elsewhere all is warm.
    fn cool(&self, directory: &Path) {
        for object in &self.objects {
            let file = fs::File::open(directory.join(object.key.as_str())).expect("it was put");
            file.sync_all().expect("a disk");
            let _warm = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
        }
    }
}
