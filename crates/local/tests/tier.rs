//! The local tier against a plain model, across processes and after crashes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::{
    collections::BTreeMap,
    env,
    io::{Read, Write},
    os::unix::fs::MetadataExt,
    path::Path,
    process::{Command, Stdio},
};

use forebay_local::{Error, LocalTier};
use forebay_runtime::Runtime;
use forebay_testing::key;
use forebay_types::{Digest, ErrorKind, Scattered};
use proptest::prelude::*;

const BUDGET_BYTES: u64 = 1000;

fn open(directory: &Path) -> LocalTier {
    LocalTier::open(directory, BUDGET_BYTES, &Runtime::system()).unwrap()
}

fn content(number: u8, bytes: u64) -> Vec<u8> {
    vec![number; bytes as usize]
}

fn land(tier: &LocalTier, body: &[u8]) -> Result<Digest, Error> {
    let digest = Digest::of(body);
    let mut landing = tier.land(digest, body.len() as u64)?;
    landing.write_all(body).unwrap();
    landing.finish()?;
    Ok(digest)
}

fn stage(tier: &LocalTier, name: &str, body: &[u8]) -> Result<(), Error> {
    let mut writer = tier.stage(&key(name), body.len() as u64)?;
    writer.write_all(body).unwrap();
    writer.finish()
}

/// All files' lengths, as an outsider would add them up who lets nobody reserve meanwhile.
fn bytes_on_disk(directory: &Path) -> u64 {
    let space = std::fs::File::open(directory.join("locks/space")).unwrap();
    space.lock().unwrap();
    let mut files = BTreeMap::new();
    for folder in ["cache", "landing", "staging", "scratch"] {
        add_files(&directory.join(folder), &mut files);
    }
    files.values().sum()
}

/// By inode: a file that gets its name in the cache meanwhile is met twice.
fn add_files(folder: &Path, files: &mut BTreeMap<u64, u64>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.map(|entry| entry.unwrap()) {
        match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => add_files(&entry.path(), files),
            Ok(metadata) => drop(files.insert(metadata.ino(), metadata.len())),
            Err(_) => {}
        }
    }
}

#[derive(Clone, Debug)]
enum Act {
    Land(u8, u64),
    AbandonLanding(u8, u64),
    Evict(u8),
    Stage(u8, u64),
    Release(u8),
    Reserve(u64),
    FreeScratch,
    Reopen,
}

fn act() -> impl Strategy<Value = Act> {
    let number = 0..6u8;
    let bytes = prop_oneof![Just(0u64), 1..400u64];
    prop_oneof![
        3 => (number.clone(), bytes.clone()).prop_map(|(n, b)| Act::Land(n, b)),
        1 => (number.clone(), bytes.clone()).prop_map(|(n, b)| Act::AbandonLanding(n, b)),
        2 => number.clone().prop_map(Act::Evict),
        3 => (number.clone(), bytes).prop_map(|(n, b)| Act::Stage(n, b)),
        2 => number.prop_map(Act::Release),
        1 => (1..200u64).prop_map(Act::Reserve),
        1 => Just(Act::FreeScratch),
        1 => Just(Act::Reopen),
    ]
}

/// What must be there.
#[derive(Default)]
struct Model {
    cached: BTreeMap<Digest, Vec<u8>>,
    staged: BTreeMap<String, Vec<u8>>,
    /// The last body that landed under each number.
    landed: BTreeMap<u8, Digest>,
    scratch: Vec<(forebay_local::Scratch, u64)>,
}

impl Model {
    fn used_bytes(&self) -> u64 {
        let bodies = self.cached.values().chain(self.staged.values());
        let files: u64 = bodies.map(|body| body.len() as u64).sum();
        files + self.scratch.iter().map(|(_, bytes)| bytes).sum::<u64>()
    }

    fn fits(&self, bytes: u64) -> bool {
        self.used_bytes() + bytes <= BUDGET_BYTES
    }
}

fn apply(tier: &mut LocalTier, directory: &Path, model: &mut Model, act: &Act) {
    match *act {
        Act::Land(number, bytes) => {
            let body = content(number, bytes);
            let fits = model.fits(bytes);
            match land(tier, &body) {
                Ok(digest) => {
                    assert!(fits, "landed beyond the budget");
                    model.cached.insert(digest, body);
                    model.landed.insert(number, digest);
                }
                Err(error) => assert!(!fits && error.kind() == ErrorKind::Full, "{error}"),
            }
        }
        Act::AbandonLanding(number, bytes) => {
            if let Ok(mut landing) = tier.land(Digest::of(&[number]), bytes) {
                landing.write_all(&content(number, bytes / 2)).unwrap();
            }
        }
        Act::Evict(number) => {
            let Some(digest) = model.landed.get(&number) else { return };
            let was_there = model.cached.remove(digest).is_some();
            assert_eq!(tier.evict(*digest).unwrap(), was_there);
        }
        Act::Stage(number, bytes) => {
            let (name, body) = (format!("runs/{number}/file"), content(number, bytes));
            let fits = model.fits(bytes);
            match stage(tier, &name, &body) {
                Ok(()) => {
                    assert!(fits, "staged beyond the budget");
                    model.staged.insert(name, body);
                }
                Err(error) => assert!(!fits && error.kind() == ErrorKind::Full, "{error}"),
            }
        }
        Act::Release(number) => {
            let name = format!("runs/{number}/file");
            model.staged.remove(&name);
            tier.release(&key(&name)).unwrap();
        }
        Act::Reserve(bytes) => {
            let scratch = tier.scratch("work").unwrap();
            let fits = model.fits(bytes);
            match scratch.reserve(bytes) {
                Ok(()) => {
                    assert!(fits, "reserved beyond the budget");
                    model.scratch.push((scratch, bytes));
                }
                Err(error) => assert!(!fits && error.kind() == ErrorKind::Full, "{error}"),
            }
        }
        Act::FreeScratch => drop(model.scratch.pop()),
        Act::Reopen => *tier = open(directory),
    }
}

fn compare(tier: &LocalTier, directory: &Path, model: &Model) {
    let cached: Vec<_> = tier.cached_bytes_of().unwrap().into_iter().map(|(d, _)| d).collect();
    assert_eq!(cached, model.cached.keys().copied().collect::<Vec<_>>());
    for (digest, body) in &model.cached {
        assert_eq!(&tier.cached(*digest).unwrap().unwrap()[..], &body[..]);
    }
    let staged: Vec<_> =
        tier.staged().unwrap().into_iter().map(|s| (s.name.to_string(), s.bytes)).collect();
    let wanted: Vec<_> =
        model.staged.iter().map(|(name, body)| (name.clone(), body.len() as u64)).collect();
    assert_eq!(staged, wanted);
    assert_eq!(tier.usage().unwrap().used_bytes(), model.used_bytes());
    assert!(bytes_on_disk(directory) <= BUDGET_BYTES);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..Default::default() })]

    #[test]
    fn any_sequence_of_acts_leaves_what_a_plain_model_says(acts in prop::collection::vec(act(), 1..40)) {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("local");
        let mut tier = open(&directory);
        let mut model = Model::default();
        for act in &acts {
            apply(&mut tier, &directory, &mut model, act);
            compare(&tier, &directory, &model);
        }
    }
}

#[test]
fn other_bytes_than_the_digest_says_never_get_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let tier = open(folder.path());
    let digest = Digest::of(b"right");
    let mut landing = tier.land(digest, 5).unwrap();
    landing.write_all(b"wrong").unwrap();
    assert_eq!(landing.finish().unwrap_err().kind(), ErrorKind::Corrupt);
    let mut landing = tier.land(digest, 5).unwrap();
    landing.write_all(b"rig").unwrap();
    assert_eq!(landing.finish().unwrap_err().kind(), ErrorKind::Corrupt);
    let mut landing = tier.land(digest, 5).unwrap();
    assert!(landing.write_all(b"right and more").is_err());
    drop(landing);
    assert!(tier.cached(digest).unwrap().is_none());
    assert_eq!(tier.usage().unwrap().used_bytes(), 0);
}

#[test]
fn an_evicted_file_stays_readable_for_who_has_it_mapped() {
    let folder = tempfile::tempdir().unwrap();
    let tier = open(folder.path());
    let digest = land(&tier, b"some bytes").unwrap();
    let mapped = tier.cached(digest).unwrap().unwrap();
    assert!(tier.evict(digest).unwrap());
    assert_eq!(&mapped[..], b"some bytes");
    assert!(!tier.evict(digest).unwrap());
}

#[test]
fn clearing_refuses_with_names_and_otherwise_leaves_an_empty_directory() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("local");
    let tier = open(&directory);
    land(&tier, b"cached").unwrap();
    stage(&tier, "runs/mine/6/rank-0", b"state").unwrap();
    let error = tier.clear().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.to_string().contains("runs/mine/6/rank-0"), "{error}");
    tier.release(&key("runs/mine/6/rank-0")).unwrap();

    let working = tier.scratch("prepare").unwrap();
    assert!(matches!(tier.clear().unwrap_err(), Error::InUse { .. }));
    drop(working);
    let landing = tier.land(Digest::of(b"x"), 1).unwrap();
    assert!(matches!(tier.clear().unwrap_err(), Error::InUse { .. }));
    drop(landing);

    let cleared = tier.clear().unwrap();
    assert_eq!((cleared.files, cleared.bytes), (1, 6));
    // Asking leaves it as empty as it was: the summary of a day asks after it has cleared.
    assert_eq!(tier.usage().unwrap().used_bytes(), 0);
    assert_eq!(tier.cached(Digest::of(b"cached")).unwrap().map(|file| file.bytes()), None);
    assert!(!tier.evict(Digest::of(b"cached")).unwrap());
    assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 0);
    land(&tier, b"usable again").unwrap();
}

#[test]
fn scratch_counts_and_goes_with_its_owner() {
    let folder = tempfile::tempdir().unwrap();
    let tier = open(folder.path());
    let scratch = tier.scratch("prepare").unwrap();
    scratch.reserve(600).unwrap();
    assert_eq!(tier.usage().unwrap().scratch_bytes, 600);
    assert_eq!(scratch.reserve(600).unwrap_err().kind(), ErrorKind::Full);
    std::fs::write(scratch.path().join("spill"), b"data").unwrap();
    let path = scratch.path().to_owned();
    let again = open(folder.path());
    assert!(path.exists(), "its owner lives");
    drop(scratch);
    assert!(!path.exists());
    assert_eq!(again.usage().unwrap().scratch_bytes, 0);
}

#[test]
fn unusable_budgets_and_directories_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = Runtime::system();
    let error = LocalTier::open(folder.path(), 0, &runtime).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = LocalTier::open(&file, 10, &runtime).unwrap_err();
    assert!(error.to_string().contains("file"), "{error}");
}

#[test]
fn who_lives_takes_the_room_that_a_dead_process_left() {
    let folder = tempfile::tempdir().unwrap();
    let beside = open(folder.path());
    let mut child = start_child(folder.path(), "FOREBAY_TEST_DIE", "1");
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    assert!(lines.any(|line| line.unwrap().contains("ready")));
    let body = content(3, BUDGET_BYTES);
    assert_eq!(land(&beside, &body).unwrap_err().kind(), ErrorKind::Full);
    child.kill().unwrap();
    child.wait().unwrap();
    land(&beside, &body).unwrap();
}

#[test]
fn somebody_else_s_directory_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let thesis = folder.path().join("cache/thesis");
    std::fs::create_dir(folder.path().join("cache")).unwrap();
    std::fs::write(&thesis, "years").unwrap();
    let error = LocalTier::open(folder.path(), 10, &Runtime::system()).unwrap_err();
    assert!(matches!(error, Error::Foreign { .. }), "{error:?}");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(std::fs::read(&thesis).unwrap(), b"years");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn working_space_cannot_be_named_out_of_the_tier() {
    let folder = tempfile::tempdir().unwrap();
    let tier = open(&folder.path().join("local"));
    for name in ["../escaped", "", "/tmp/escaped", "a/b"] {
        assert_eq!(tier.scratch(name).unwrap_err().kind(), ErrorKind::Invalid, "{name}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

/// A small file system in memory at `folder`, which root alone can mount.
fn mount(folder: &Path, kind: &str, options: &str) -> bool {
    let mut command = Command::new("mount");
    command.args(["-t", kind, "-o", options, kind]).arg(folder).stderr(Stdio::null());
    let is_mounted = command.status().is_ok_and(|status| status.success());
    if !is_mounted {
        eprintln!("SKIPPED: a file system can be mounted by root alone");
    }
    is_mounted
}

fn unmount(folder: &Path) {
    assert!(Command::new("umount").arg(folder).status().unwrap().success());
}

#[test]
fn a_full_disk_is_met_before_the_first_byte_and_is_no_full_budget() {
    let folder = tempfile::tempdir().unwrap();
    if !mount(folder.path(), "tmpfs", "size=1m") {
        return;
    }
    let tier = LocalTier::open(folder.path(), 1 << 30, &Runtime::system()).unwrap();
    let landed = tier.land(Digest::of(b"large"), 8 << 20).unwrap_err();
    let staged = tier.stage(&key("runs/a/large"), 8 << 20).unwrap_err();
    let used_bytes = tier.usage().unwrap().used_bytes();
    let small = stage(&tier, "runs/a/small", &[1; 1000]);
    unmount(folder.path());
    for error in [landed, staged] {
        assert!(matches!(error, Error::DiskFull { .. }), "{error:?}");
        assert_eq!(error.kind(), ErrorKind::Full);
        assert!(error.to_string().contains("free space on that disk"), "{error}");
    }
    assert_eq!(used_bytes, 0, "a failed reservation holds nothing");
    small.unwrap();
}

fn stage_direct(tier: &LocalTier, name: &str, body: &[u8], reserved: u64) -> Result<(), Error> {
    let mut writer = tier.stage(&key(name), reserved)?;
    let halves: Scattered<'_> = body.chunks(body.len().div_ceil(2).max(1)).collect();
    writer.write_direct(&halves, &|_| ()).unwrap();
    writer.finish()
}

#[test]
fn what_is_written_past_the_page_cache_is_staged_on_any_file_system() {
    let runtime = Runtime::system();
    let check = |folder: &Path| {
        let tier = LocalTier::open(folder, 64 << 20, &runtime).unwrap();
        for bytes in [0, 1, 4095, 4096, 4097, 9 << 20, (9 << 20) + 3] {
            let body: Vec<u8> = (0..bytes).map(|at| ((at * 7) >> 3) as u8).collect();
            stage_direct(&tier, "runs/a/one", &body, bytes as u64 + 5000).unwrap();
            let staged = tier.staged().unwrap().remove(0);
            assert_eq!(staged.bytes, bytes as u64);
            assert_eq!(tier.usage().unwrap().staged_bytes, bytes as u64);
            let mut found = Vec::new();
            tier.staged_file(&staged.name).unwrap().read_to_end(&mut found).unwrap();
            assert!(found == body, "{bytes} bytes");
        }
    };
    check(tempfile::tempdir().unwrap().path());
    check(tempfile::tempdir_in("/dev/shm").unwrap().path());
    let folder = tempfile::tempdir().unwrap();
    // It has no way past the page cache, and no reservation either.
    if mount(folder.path(), "ramfs", "mode=700") {
        check(folder.path());
        unmount(folder.path());
    }
}

#[test]
fn more_than_was_reserved_is_refused_and_what_was_not_finished_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let tier = LocalTier::open(folder.path(), 1 << 20, &Runtime::system()).unwrap();
    let mut writer = tier.stage(&key("runs/a/one"), 9000).unwrap();
    let body = content(1, 9001);
    let error = writer.write_direct(&Scattered::from(&body[..]), &|_| ()).unwrap_err();
    assert!(error.to_string().contains("more than the 9000 bytes"), "{error}");
    writer.write_direct(&Scattered::from(&body[..8999]), &|_| ()).unwrap();
    writer.write_all(&body[..1]).unwrap();
    assert!(writer.write_all(&body[..1]).is_err());
    drop(writer);
    assert!(tier.staged().unwrap().is_empty());
    assert_eq!(tier.usage().unwrap().used_bytes(), 0);
}

/// Where nothing can be reserved, the disk is full in the middle of a file.
#[test]
fn a_disk_that_fills_up_meanwhile_is_told_of() {
    let folder = tempfile::tempdir().unwrap();
    if !mount(folder.path(), "tmpfs", "size=8m") {
        return;
    }
    let tier = LocalTier::open(folder.path(), 1 << 30, &Runtime::system()).unwrap();
    let mut writer = tier.stage(&key("runs/a/large"), 6 << 20).unwrap();
    let file = writer.reader().unwrap();
    file.set_len(0).unwrap();
    std::fs::write(folder.path().join("others"), vec![1; 3 << 20]).unwrap();
    let body = content(1, 6 << 20);
    let direct = writer.write_direct(&Scattered::from(&body[..]), &|_| ()).unwrap_err();
    drop(writer);
    drop(file);
    unmount(folder.path());
    assert_eq!(ErrorKind::of_io(&direct), ErrorKind::Full);
}

fn is_note_under_way(directory: &Path) -> bool {
    std::fs::read(directory.join("locks/ledger")).is_ok_and(|note| note[12] == 1)
}

/// The ledger says so when its process died in the middle of an act, and the next sums up the files.
#[test]
fn a_ledger_survives_kills_at_any_moment() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = Runtime::system();
    let mut random = forebay_runtime::Random::new(3);
    let mut under_way = 0;
    for round in 0..40 {
        let mut child = start_child(folder.path(), "FOREBAY_TEST_CHURN", &round.to_string());
        let lines = std::io::BufReader::new(child.stdout.take().unwrap());
        assert!(std::io::BufRead::lines(lines).any(|line| line.unwrap().contains("ready")));
        let pause = std::time::Duration::from_micros(500 + random.next_u64() % 4000);
        runtime.sleep(pause).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        under_way += u32::from(is_note_under_way(folder.path()));
        // Before recovery: leftovers count.
        let taken = bytes_on_disk(folder.path());
        assert!(taken <= BUDGET_BYTES, "{taken} bytes after round {round}");
        let tier = open(folder.path());
        assert_eq!(tier.usage().unwrap().used_bytes(), bytes_on_disk(folder.path()));
        assert!(!is_note_under_way(folder.path()));
    }
    assert!(under_way > 0, "no kill met an act: this test shows nothing");
}

#[test]
fn a_stranger_s_hand_in_the_tier_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let tier = open(folder.path());
    let digest = land(&tier, &content(1, 600)).unwrap();
    let changes = tier.cache_changes().unwrap();
    // File systems tick every few milliseconds.
    Runtime::system().sleep(std::time::Duration::from_millis(30)).unwrap();
    std::fs::remove_file(folder.path().join(format!("cache/{digest}"))).unwrap();
    assert_eq!(tier.usage().unwrap().used_bytes(), 0);
    assert_ne!(tier.cache_changes().unwrap(), changes);
    land(&tier, &content(2, 900)).unwrap();

    // A note of another boot, and one that is no note, count for nothing.
    for damage in [16, 33] {
        let path = folder.path().join("locks/ledger");
        let mut note = std::fs::read(&path).unwrap();
        note[damage] ^= 1;
        std::fs::write(&path, note).unwrap();
        assert_eq!(tier.usage().unwrap().used_bytes(), 900);
    }
    // Lengths alone show in no directory; a full tier looks for itself in the end.
    let path = folder.path().join(format!("cache/{}", Digest::of(&content(2, 900))));
    std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(10).unwrap();
    for _ in 0..4 {
        drop(tier.scratch("work").unwrap());
    }
    land(&tier, &content(3, 900)).unwrap();
}

#[test]
fn content_and_what_it_is_made_of_are_reserved_together() {
    let folder = tempfile::tempdir().unwrap();
    let tier = open(folder.path());
    let body = content(5, 600);
    let error = tier.land_from(Digest::of(&body), 600, 401).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Full);
    let (mut landing, spool) = tier.land_from(Digest::of(&body), 600, 400).unwrap();
    assert_eq!(tier.usage().unwrap().used_bytes(), 1000);
    assert!(spool.file().write_at(1, &content(4, 400)).is_err());
    spool.file().write_at(0, &content(4, 400)).unwrap();
    let stored = spool.map().unwrap();
    assert_eq!(*stored, content(4, 400));
    landing.write_all(&body).unwrap();
    landing.finish().unwrap();
    assert_eq!(tier.usage().unwrap().used_bytes(), 1000);
    drop(stored);
    assert_eq!(tier.usage().unwrap().used_bytes(), 600);
}

#[test]
fn pieces_land_in_any_order_and_none_may_lack() {
    let folder = tempfile::tempdir().unwrap();
    let tier = open(folder.path());
    let body: Vec<u8> = (0..900).map(|index| (index / 7) as u8).collect();
    for missing in [true, false] {
        let mut landing = tier.land(Digest::of(&body), 900).unwrap();
        let file = landing.file();
        for (from, to) in [(500, 900), (0, 1), (1, 300)] {
            file.write_at(from, &body[from as usize..to]).unwrap();
        }
        if !missing {
            file.write_at(300, &body[300..500]).unwrap();
        }
        landing.see(&body);
        match landing.finish() {
            Ok(cached) => assert!(!missing && *cached == *body),
            Err(error) => assert!(missing && error.kind() == ErrorKind::Corrupt, "{error}"),
        }
    }
}

/// The body of the child processes below: this test binary, started again.
#[test]
fn child() {
    let Ok(directory) = env::var("FOREBAY_TEST_TIER") else { return };
    let tier = open(Path::new(&directory));
    if env::var("FOREBAY_TEST_DIE").is_ok() {
        let _lock = tier.lock(Digest::of(b"never")).unwrap();
        let mut landing = tier.land(Digest::of(b"never"), 300).unwrap();
        landing.write_all(&[1; 100]).unwrap();
        let mut staged = tier.stage(&key("runs/x/half"), 300).unwrap();
        staged.write_all(&[1; 100]).unwrap();
        let scratch = tier.scratch("prepare").unwrap();
        scratch.reserve(300).unwrap();
        std::fs::write(scratch.path().join("spill"), [1; 200]).unwrap();
        println!("ready");
        loop {
            std::thread::park();
        }
    }
    if let Ok(seed) = env::var("FOREBAY_TEST_CHURN") {
        println!("ready");
        churn(&tier, seed.parse().unwrap());
    }
    let start: u8 = env::var("FOREBAY_TEST_START").unwrap().parse().unwrap();
    for round in 0..40u8 {
        let body = content(start.wrapping_add(round), 90);
        let name = format!("runs/{start}/{}/rank-0", round % 5);
        if round % 2 == 0 {
            let _full = stage(&tier, &name, &body);
        } else {
            tier.release(&key(&name)).unwrap();
        }
        if let Ok(digest) = land(&tier, &body) {
            let used = bytes_on_disk(Path::new(&directory));
            assert!(used <= BUDGET_BYTES, "{used} bytes");
            if round % 3 == 0 {
                tier.evict(digest).unwrap();
            }
        }
    }
}

/// Acts without end.
fn churn(tier: &LocalTier, seed: u64) -> ! {
    let mut random = forebay_runtime::Random::new(seed);
    loop {
        let number = (random.next_u64() % 4) as u8;
        let body = content(number, 50 + 100 * u64::from(number));
        let name = format!("runs/{number}/file");
        match random.next_u64() % 5 {
            0 => drop(tier.evict(Digest::of(&body)).unwrap()),
            1 => tier.release(&key(&name)).unwrap(),
            2 => drop(stage(tier, &name, &body)),
            3 => drop(tier.scratch("work").unwrap().reserve(100)),
            _ => drop(land(tier, &body)),
        }
    }
}

fn start_child(directory: &Path, name: &str, value: &str) -> std::process::Child {
    Command::new(env::current_exe().unwrap())
        .args(["child", "--exact", "--nocapture"])
        .env("FOREBAY_TEST_TIER", directory)
        .env(name, value)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn concurrent_processes_never_exceed_the_budget_together() {
    let folder = tempfile::tempdir().unwrap();
    let children: Vec<_> = ["0", "60", "120", "180"]
        .map(|start| start_child(folder.path(), "FOREBAY_TEST_START", start))
        .into();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    assert!(open(folder.path()).usage().unwrap().used_bytes() <= BUDGET_BYTES);
}

#[test]
fn a_killed_process_leaves_nothing_that_the_next_open_does_not_remove() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = start_child(folder.path(), "FOREBAY_TEST_DIE", "1");
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    assert!(lines.any(|line| line.unwrap().contains("ready")));
    let beside = open(folder.path());
    assert_eq!(beside.usage().unwrap().used_bytes(), 900, "its owner lives, so it stays");
    assert!(matches!(beside.clear().unwrap_err(), Error::InUse { .. }));
    child.kill().unwrap();
    child.wait().unwrap();
    drop(beside.lock(Digest::of(b"never")).unwrap());
    let after = open(folder.path());
    assert_eq!(after.usage().unwrap().used_bytes(), 0);
    assert_eq!(after.staged().unwrap(), []);
    after.clear().unwrap();
}
