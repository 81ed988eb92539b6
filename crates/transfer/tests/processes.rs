//! Several processes on one tier and one lake: every promise that a lock or a file keeps between
//! them, with real processes that are really killed.
//!
//! Children are this test binary, started again at [`child`]. Requests to the lake are counted over
//! all of them, in a file that each appends to.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::{
    collections::BTreeMap,
    env,
    fs::{self, File, OpenOptions},
    io::{BufRead, BufReader, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use forebay_lake::{
    Created, Directory, Error as LakeError, Lake, Listed, ObjectWriter, Purpose, Store,
};
use forebay_local::LocalTier;
use forebay_runtime::{Random, Runtime, Task};
use forebay_testing::key;
use forebay_transfer::{Object, Transfer};
use forebay_types::{Digest, Key};

const SHARDS: u64 = 6;
/// Three pieces, the last of them short.
const SHARD_BYTES: usize = (8 << 20) + 4321;

/// A directory that notes every read in a file, and stops for ever at one key if it is told to.
#[derive(Debug)]
struct Counting {
    inner: Directory,
    log: File,
    stall_at: Option<String>,
}

impl Store for Counting {
    fn url(&self) -> &str {
        self.inner.url()
    }

    fn size(&self, key: &Key) -> Result<Option<u64>, LakeError> {
        self.inner.size(key)
    }

    fn read_range(&self, key: &Key, offset: u64, into: &mut [u8]) -> Result<(), LakeError> {
        // One write to a file opened for appending: lines of several processes do not mix.
        (&self.log).write_all(format!("{key} {offset} {}\n", into.len()).as_bytes()).unwrap();
        if self.stall_at.as_deref() == Some(key.as_str()) && offset > 0 {
            println!("stalled");
            loop {
                std::thread::park();
            }
        }
        self.inner.read_range(key, offset, into)
    }

    fn writer(&self, key: &Key) -> Result<Box<dyn ObjectWriter>, LakeError> {
        self.inner.writer(key)
    }

    fn create(&self, key: &Key, body: &[u8]) -> Result<Created, LakeError> {
        self.inner.create(key, body)
    }

    fn list(
        &self,
        prefix: &str,
        visit: &mut dyn FnMut(Listed) -> Result<(), LakeError>,
    ) -> Result<(), LakeError> {
        self.inner.list(prefix, visit)
    }

    fn delete(&self, key: &Key) -> Result<bool, LakeError> {
        self.inner.delete(key)
    }
}

fn body(number: u64) -> Vec<u8> {
    let mut random = Random::new(number);
    let words = (0..SHARD_BYTES.div_ceil(8)).flat_map(|_| random.next_u64().to_le_bytes());
    words.take(SHARD_BYTES).collect()
}

fn object(number: u64) -> Object {
    let digest = Digest::of(&body(number));
    Object::whole(key(&format!("shards/{number}")), digest, SHARD_BYTES as u64, Purpose::Shard)
}

/// A lake of shards, and room for a tier beside it.
struct Node {
    folder: tempfile::TempDir,
    budget_bytes: u64,
}

impl Node {
    fn new(budget_shards: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("lake/shards")).unwrap();
        for number in 0..SHARDS {
            fs::write(folder.path().join(format!("lake/shards/{number}")), body(number)).unwrap();
        }
        Self { folder, budget_bytes: budget_shards * SHARD_BYTES as u64 }
    }

    fn local(&self) -> PathBuf {
        self.folder.path().join("local")
    }

    fn start(&self, act: &str, seed: u64, stall_at: Option<&str>) -> Started {
        let mut command = Command::new(env::current_exe().unwrap());
        command
            .args(["child", "--exact", "--nocapture"])
            .env("FOREBAY_TEST_NODE", self.folder.path())
            .env("FOREBAY_TEST_BUDGET", self.budget_bytes.to_string())
            .env("FOREBAY_TEST_ACT", act)
            .env("FOREBAY_TEST_SEED", seed.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        if let Some(key) = stall_at {
            command.env("FOREBAY_TEST_STALL", key);
        }
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        let stdin = child.stdin.take().unwrap();
        let mut started = Started { child, lines, stdin };
        started.wait_for("ready");
        started
    }

    fn reads_path(&self) -> PathBuf {
        self.folder.path().join("reads")
    }

    /// How often each read was made, over all processes.
    fn reads(&self) -> BTreeMap<String, u32> {
        let mut reads = BTreeMap::new();
        for line in fs::read_to_string(self.reads_path()).unwrap().lines() {
            *reads.entry(line.to_owned()).or_default() += 1;
        }
        reads
    }

    /// Looks at what is taken, again and again.
    fn watch(&self) -> Watch {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, local, runtime) = (stop.clone(), self.local(), Runtime::system());
        let task = runtime.clone().spawn("watch", move || {
            let mut most = 0;
            while !stopped.load(Ordering::SeqCst) {
                most = most.max(bytes_on_disk(&local));
                // Whoever waits for the lock must get it.
                runtime.sleep(Duration::from_micros(300)).unwrap();
            }
            most
        });
        Watch { stop, task }
    }
}

struct Watch {
    stop: Arc<AtomicBool>,
    task: Task<u64>,
}

impl Watch {
    /// The most that was ever seen taken.
    fn most(self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        self.task.join().unwrap()
    }
}

/// What an outsider finds taken, who lets nobody reserve meanwhile.
fn bytes_on_disk(local: &Path) -> u64 {
    let space = File::open(local.join("locks/space")).unwrap();
    space.lock().unwrap();
    let mut files = BTreeMap::new();
    for folder in ["cache", "landing", "staging", "scratch"] {
        add_files(&local.join(folder), &mut files);
    }
    files.values().sum()
}

/// By inode: a file that is renamed meanwhile is met twice.
fn add_files(folder: &Path, files: &mut BTreeMap<u64, u64>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.map(|entry| entry.unwrap()) {
        match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => add_files(&entry.path(), files),
            // What its owner writes in scratch is within what it reserved there.
            Ok(_) if entry.file_name() == "spill" => {}
            Ok(metadata) => drop(files.insert(metadata.ino(), metadata.len())),
            Err(_) => {}
        }
    }
}

struct Started {
    child: Child,
    lines: BufReader<ChildStdout>,
    stdin: ChildStdin,
}

impl Started {
    fn wait_for(&mut self, word: &str) -> String {
        loop {
            let mut line = String::new();
            assert!(self.lines.read_line(&mut line).unwrap() > 0, "it ended before `{word}`");
            if let Some(at) = line.find(word) {
                return line[at + word.len()..].trim().to_owned();
            }
        }
    }

    fn go(&mut self) {
        self.stdin.write_all(b"go\n").unwrap();
    }

    /// Waits for its end; how many objects it fetched and refetched.
    fn outcome(mut self) -> (u64, u64) {
        let line = self.wait_for("done");
        assert!(self.child.wait().unwrap().success());
        let numbers: Vec<u64> = line.split(' ').map(|number| number.parse().unwrap()).collect();
        (numbers[0], numbers[1])
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// The body of the child processes.
#[test]
fn child() {
    let Ok(node) = env::var("FOREBAY_TEST_NODE") else { return };
    let node = Path::new(&node);
    let number = |name: &str| env::var(name).unwrap().parse::<u64>().unwrap();
    let runtime = Runtime::system();
    let log = OpenOptions::new().append(true).create(true).open(node.join("reads")).unwrap();
    let inner = Directory::open(&node.join("lake"), &runtime).unwrap();
    let store = Counting { inner, log, stall_at: env::var("FOREBAY_TEST_STALL").ok() };
    let lake = Lake::new(Arc::new(store), &runtime);
    let budget_bytes = number("FOREBAY_TEST_BUDGET");
    let local = LocalTier::open(&node.join("local"), budget_bytes, &runtime).unwrap();
    let transfer = Transfer::new(&lake, &local, &runtime);
    let objects: Vec<Object> = (0..SHARDS).map(object).collect();
    println!("ready");
    std::io::stdin().read_line(&mut String::new()).unwrap();
    match env::var("FOREBAY_TEST_ACT").unwrap().as_str() {
        "fetch" => {
            for (number, object) in (0..).zip(&objects) {
                assert!(*transfer.fetch(object).unwrap() == *body(number));
            }
        }
        "refetch" => assert!(*transfer.refetch(&objects[2]).unwrap() == *body(2)),
        "churn" => churn(&transfer, &objects, number("FOREBAY_TEST_SEED")),
        other => panic!("no act {other}"),
    }
    let stats = transfer.fetch_stats();
    println!("done {} {}", stats.fetched, stats.refetched);
}

/// Everything that leaves something on the node, until it is killed.
fn churn(transfer: &Transfer, objects: &[Object], seed: u64) {
    let mut random = Random::new(seed);
    loop {
        let object = &objects[(random.next_u64() % SHARDS) as usize];
        match random.next_u64() % 4 {
            0 => drop(transfer.local().evict(object.digest).unwrap()),
            1 => {
                let scratch = transfer.local().scratch("churn").unwrap();
                if scratch.reserve(1000).is_ok() {
                    fs::write(scratch.path().join("spill"), [1; 1000]).unwrap();
                }
            }
            // All may be taken by the others' landings for a while.
            _ => drop(transfer.fetch(object)),
        }
    }
}

#[test]
fn eight_processes_download_each_shard_once() {
    let node = Node::new(SHARDS);
    let mut children: Vec<Started> = (0..8).map(|seed| node.start("fetch", seed, None)).collect();
    let watch = node.watch();
    children.iter_mut().for_each(Started::go);
    let fetched: u64 = children.into_iter().map(|child| child.outcome().0).sum();
    assert!(watch.most() <= node.budget_bytes);
    let reads = node.reads();
    assert_eq!(fetched, SHARDS);
    assert_eq!(reads.len() as u64, 3 * SHARDS, "three pieces a shard");
    assert!(reads.values().all(|&times| times == 1), "{reads:?}");
}

/// The budget holds all shards and nothing besides, so what the dead process had reserved must be
/// found and freed before the others can finish.
#[test]
fn a_process_killed_in_mid_download_costs_that_download_alone() {
    let node = Node::new(SHARDS);
    let mut victim = node.start("fetch", 0, Some("shards/2"));
    victim.go();
    victim.wait_for("stalled");
    let mut children: Vec<Started> = (1..8).map(|seed| node.start("fetch", seed, None)).collect();
    children.iter_mut().for_each(Started::go);
    // The others wait for the lock that it holds by now, or soon will.
    Runtime::system().sleep(Duration::from_millis(50)).unwrap();
    let landing = || fs::read_dir(node.local().join("landing")).unwrap().count();
    assert_eq!(landing(), 1);
    let watch = node.watch();
    victim.kill();
    let fetched: u64 = children.into_iter().map(|child| child.outcome().0).sum();
    assert!(watch.most() <= node.budget_bytes);
    assert_eq!(fetched, SHARDS - 2, "the victim had landed two");
    for (read, times) in node.reads() {
        let again = u32::from(read.starts_with("shards/2 "));
        assert!(times <= 1 + again, "{read} was made {times} times");
    }
    assert_eq!(landing(), 0);
}

#[test]
fn a_damaged_file_that_several_notice_is_downloaded_once() {
    let node = Node::new(SHARDS);
    let mut first = node.start("fetch", 0, None);
    first.go();
    first.outcome();
    let path = node.local().join(format!("cache/{}", object(2).digest));
    let mut bytes = fs::read(&path).unwrap();
    bytes[SHARD_BYTES / 2] ^= 1;
    fs::write(&path, bytes).unwrap();
    fs::remove_file(node.reads_path()).unwrap();
    let mut children: Vec<Started> = (0..4).map(|seed| node.start("refetch", seed, None)).collect();
    children.iter_mut().for_each(Started::go);
    let outcomes: Vec<_> = children.into_iter().map(Started::outcome).collect();
    assert_eq!(outcomes.iter().map(|(fetched, _)| fetched).sum::<u64>(), 1);
    assert_eq!(outcomes.iter().map(|(_, refetched)| refetched).sum::<u64>(), 1);
    assert_eq!(node.reads().values().sum::<u32>(), 3);
    assert!(fs::read(&path).unwrap() == body(2));
}

/// Names in shared memory that are ours.
fn shared_memory() -> Vec<String> {
    let entries = fs::read_dir("/dev/shm").into_iter().flatten();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.contains("forebay")).collect()
}

#[test]
fn killing_everything_at_any_moment_leaves_nothing_but_sound_files() {
    let runtime = Runtime::system();
    let mut random = Random::new(7);
    let node = Node::new(3);
    let before = shared_memory();
    for round in 0..8 {
        let mut children: Vec<Started> =
            (0..4).map(|seed| node.start("churn", 4 * round + seed, None)).collect();
        children.iter_mut().for_each(Started::go);
        let watch = node.watch();
        runtime.sleep(Duration::from_millis(20 + random.next_u64() % 150)).unwrap();
        children.into_iter().for_each(Started::kill);
        let most = watch.most();
        assert!(most <= node.budget_bytes, "{most} bytes in round {round}");

        let local = LocalTier::open(&node.local(), node.budget_bytes, &runtime).unwrap();
        for folder in ["landing", "scratch", "staging"] {
            let left = fs::read_dir(node.local().join(folder)).unwrap().count();
            assert_eq!(left, 0, "in {folder} after round {round}");
        }
        assert_eq!(local.usage().unwrap().used_bytes(), bytes_on_disk(&node.local()));
        for (digest, _) in local.cached_bytes_of().unwrap() {
            assert_eq!(Digest::of(&local.cached(digest).unwrap().unwrap()), digest);
        }
        assert_eq!(shared_memory(), before);
    }
}
