//! Every engine meets the contract, and the commit protocol survives what stores do to replies.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::{
    collections::BTreeSet,
    env, fs, io,
    io::Write,
    os::unix::fs::symlink,
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
};

use forebay_lake::{Commit, Created, Directory, Lake, Listed, Memory, Purpose, Store};
use forebay_runtime::Runtime;
use forebay_testing::{Fault, FaultStore, Request, TempTiers, key, lake_contract};
use forebay_types::ErrorKind;

const MIB: u64 = 1 << 20;

#[test]
fn the_directory_meets_the_contract() {
    let folder = tempfile::tempdir().unwrap();
    let store: Arc<dyn Store> =
        Arc::new(Directory::open(&folder.path().join("lake"), &Runtime::system()).unwrap());
    lake_contract(&store);
}

#[test]
fn memory_meets_the_contract() {
    let store: Arc<dyn Store> = Arc::new(Memory::new(&Runtime::system()));
    lake_contract(&store);
}

#[test]
fn a_fault_store_without_faults_meets_the_contract() {
    let inner = Arc::new(Memory::new(&Runtime::system()));
    let store: Arc<dyn Store> = Arc::new(FaultStore::new(inner));
    lake_contract(&store);
}

#[test]
fn a_commit_is_won_whatever_happens_to_the_reply() {
    let faults = [
        Fault::ReplyLost(io::ErrorKind::TimedOut),
        Fault::ReplyLost(io::ErrorKind::Other),
        Fault::SaysExists,
        Fault::Fails(io::ErrorKind::TimedOut),
        Fault::Fails(io::ErrorKind::ConnectionReset),
    ];
    for fault in faults {
        let tiers = TempTiers::new(MIB);
        tiers.store.inject(Request::Create, "datasets", 1, fault);
        let record = key("datasets/a/v1.json");
        assert_eq!(tiers.lake.commit(&record, b"ours").unwrap(), Commit::Won, "{fault:?}");
        let theirs = tiers.lake.commit(&record, b"theirs").unwrap();
        assert_eq!(theirs, Commit::Lost(b"ours".to_vec()), "{fault:?}");
    }
}

#[test]
fn a_commit_that_stored_nothing_is_an_error_and_can_be_made_again() {
    let tiers = TempTiers::new(MIB);
    tiers.store.inject(Request::Create, "", 3, Fault::Fails(io::ErrorKind::PermissionDenied));
    let record = key("datasets/a/v1.json");
    let error = tiers.lake.commit(&record, b"ours").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("datasets/a/v1.json"), "{error}");
    assert_eq!(tiers.lake.commit(&record, b"ours").unwrap(), Commit::Won);
}

#[test]
fn passing_failures_are_retried_and_counted_and_lasting_ones_are_not() {
    let tiers = TempTiers::new(MIB);
    let object = key("shards/x");
    tiers.lake.write(&object, Purpose::Shard, b"abc").unwrap();
    tiers.store.inject(Request::Read, "shards", 2, Fault::Fails(io::ErrorKind::TimedOut));
    let read = tiers.lake.read(&object, Purpose::Shard, 10).unwrap();
    assert_eq!(read.as_deref(), Some(&b"abc"[..]));
    let traffic = tiers.lake.traffic()[&Purpose::Shard];
    assert_eq!((traffic.retries, traffic.reads, traffic.bytes_read), (2, 1, 3));
    assert_eq!((traffic.writes, traffic.bytes_written), (1, 3));

    tiers.store.inject(Request::Read, "shards", 1, Fault::Fails(io::ErrorKind::PermissionDenied));
    let error = tiers.lake.read(&object, Purpose::Shard, 10).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(tiers.lake.read(&object, Purpose::Shard, 2).is_err(), "larger than asked for");
}

#[test]
fn a_store_that_ignores_conditions_is_refused_in_words_that_say_so() {
    let runtime = Runtime::system();
    let store = FaultStore::new(Arc::new(Memory::new(&runtime)));
    store.inject(Request::Create, "probe", 2, Fault::IgnoresCondition);
    let error = Lake::probed(Arc::new(store), &runtime).unwrap_err();
    assert!(error.to_string().contains("create only if absent"), "{error}");
}

#[test]
fn a_full_store_says_so_and_leaves_no_object() {
    let tiers = TempTiers::new(MIB);
    tiers.store.inject(Request::Write, "", 1, Fault::FullAfter(4));
    let error = tiers.lake.write(&key("shards/x"), Purpose::Shard, &[0; 100]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Full);
    assert_eq!(tiers.lake.size(&key("shards/x")).unwrap(), None);
}

#[test]
fn nothing_but_objects_and_their_directories_is_left() {
    let tiers = TempTiers::new(MIB);
    tiers.lake.write(&key("a/b"), Purpose::Shard, b"x").unwrap();
    tiers.lake.commit(&key("c/d"), b"y").unwrap();
    tiers.lake.commit(&key("c/d"), b"z").unwrap();
    drop(tiers.lake.writer(&key("e"), Purpose::Shard).unwrap());
    let incoming = tiers.lake_path().join(".incoming");
    assert_eq!(std::fs::read_dir(incoming).unwrap().count(), 0);
}

#[test]
fn a_deletion_takes_the_directories_that_it_empties_and_no_others() {
    let folder = tempfile::tempdir().unwrap();
    let (root, outside) = (folder.path().join("lake"), folder.path().join("outside"));
    let store = Directory::open(&root, &Runtime::system()).unwrap();
    for name in ["a/b/c/x", "a/b/c/y", "a/z", "d/e/x"] {
        store.put(&key(name), b"x").unwrap();
    }
    assert!(store.delete(&key("a/b/c/x")).unwrap());
    assert!(root.join("a/b/c").is_dir());
    assert!(store.delete(&key("a/b/c/y")).unwrap());
    assert!(!root.join("a/b").exists() && root.join("a").is_dir());
    assert!(store.delete(&key("a/z")).unwrap());
    assert!(!root.join("a").exists() && root.join("d/e").is_dir());
    // What others put there is not ours to remove, and a link is no directory.
    fs::create_dir(&outside).unwrap();
    symlink(&outside, root.join("d/link")).unwrap();
    store.delete(&key("d/link/x")).unwrap_err();
    assert!(store.delete(&key("d/e/x")).unwrap());
    assert!(!root.join("d/e").exists() && root.join("d/link").is_symlink() && outside.is_dir());
    fs::remove_file(root.join("d/link")).unwrap();
    store.put(&key("d/last"), b"x").unwrap();
    assert!(store.delete(&key("d/last")).unwrap());
    let left: Vec<_> = fs::read_dir(&root).unwrap().map(|one| one.unwrap().file_name()).collect();
    assert_eq!(left, [".incoming"]);
    store.put(&key("a/again"), b"x").unwrap();
    assert_eq!(store.size(&key("a/again")).unwrap(), Some(1));
}

/// Two stores of one directory, each of which empties the directory that the other is about to write to.
#[test]
fn a_writer_makes_a_directory_again_that_a_deletion_took() {
    let folder = tempfile::tempdir().unwrap();
    let (root, runtime) = (folder.path().join("lake"), Runtime::system());
    let file = folder.path().join("staged");
    fs::write(&file, b"body").unwrap();
    Directory::open(&root, &runtime).unwrap().put(&key("source"), b"body").unwrap();
    let work = |worker: usize| {
        let store = Directory::open(&root, &Runtime::system()).unwrap();
        for round in 0..150 {
            let object = key(&format!("shared/deep/{worker}-{round}"));
            match round % 4 {
                0 => store.put(&object, b"body").unwrap(),
                1 => assert_eq!(store.create(&object, b"body").unwrap(), Created::New),
                2 => assert!(store.copy(&key("source"), &object, 4).unwrap()),
                _ => assert!(store.adopt(&fs::File::open(&file).unwrap(), &object).unwrap()),
            }
            assert_eq!(store.read_whole(&object, 10).unwrap().unwrap(), b"body");
            let mut listed = Vec::new();
            let visit = &mut |one: Listed| {
                listed.push(one.key);
                Ok(())
            };
            store.list("shared/", visit).unwrap();
            assert!(listed.contains(&object), "{object} is not in {listed:?}");
            assert!(store.delete(&object).unwrap());
        }
        Ok::<_, io::Error>(())
    };
    runtime.workers("writer", 3, work).unwrap();
    assert!(!root.join("shared").exists());
}

#[test]
fn leftovers_of_dead_writers_are_removed_when_they_are_old() {
    let tiers = TempTiers::new(MIB);
    let leftover = tiers.lake_path().join(".incoming/dead");
    std::fs::create_dir_all(leftover.parent().unwrap()).unwrap();
    std::fs::write(&leftover, "half").unwrap();
    let tiers = tiers.reopen();
    assert!(leftover.exists(), "too young to be sure");
    let old = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1);
    std::fs::File::options().write(true).open(&leftover).unwrap().set_modified(old).unwrap();
    let _tiers = tiers.reopen();
    assert!(!leftover.exists());
}

#[test]
fn schemes_that_are_not_built_and_missing_parents_are_refused_by_name() {
    let runtime = Runtime::system();
    let error = Lake::open("gs://bucket/prefix", &runtime).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("`gs`"), "{error}");
    let error = Lake::open("/no/such/parent/lake", &runtime).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("/no/such/parent/lake"), "{error}");
    let error = Lake::open_existing("/tmp/no-such-lake", &runtime).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(!std::path::Path::new("/tmp/no-such-lake").exists());
    assert!(Lake::open("file://relative", &runtime).is_err());
    assert_eq!(Lake::open("memory://", &runtime).unwrap().url(), "memory://");
}

#[test]
fn a_store_that_may_only_be_read_is_opened_and_says_so_when_it_is_written() {
    let runtime = Runtime::system();
    let store = FaultStore::new(Arc::new(Memory::new(&runtime)));
    store.create(&key("datasets/a/v1.json"), b"theirs").unwrap();
    store.inject(Request::Create, "", 9, Fault::Fails(io::ErrorKind::ReadOnlyFilesystem));
    let lake = Lake::probed(Arc::new(store), &runtime).unwrap();
    let read = lake.read(&key("datasets/a/v1.json"), Purpose::Manifest, 10).unwrap();
    assert_eq!(read.as_deref(), Some(&b"theirs"[..]));
    let error = lake.commit(&key("datasets/a/v2.json"), b"ours").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("datasets/a/v2.json"), "{error}");
}

#[test]
fn probing_leaves_no_object() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("file://{}", folder.path().display());
    let lake = Lake::open(&url, &Runtime::system()).unwrap();
    lake.list("", &mut |listed| panic!("{} was left", listed.key)).unwrap();
}

#[test]
fn an_object_with_a_hole_is_never_finished() {
    let tiers = TempTiers::new(MIB);
    let object = key("shards/x");
    tiers.store.inject(Request::Write, "shards", 1, Fault::FullAfter(4));
    let mut writer = tiers.lake.writer(&object, Purpose::Shard).unwrap();
    writer.write_all(b"1234").unwrap();
    let error = writer.write_all(b"5678").unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert!(error.to_string().contains("shards/x"), "{error}");
    writer.finish().unwrap_err();
    assert_eq!(tiers.lake.size(&object).unwrap(), None);
}

#[test]
fn links_in_a_lake_are_not_followed_and_said_to_be_links() {
    let tiers = TempTiers::new(MIB);
    let outside = tiers.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "secret").unwrap();
    symlink(&outside, tiers.lake_path().join("shards")).unwrap();
    symlink(outside.join("secret"), tiers.lake_path().join("linked")).unwrap();
    let refusals = [
        tiers.lake.size(&key("shards/secret")).unwrap_err(),
        tiers.lake.read(&key("linked"), Purpose::Shard, 100).unwrap_err(),
        tiers.lake.write(&key("shards/new"), Purpose::Shard, b"x").unwrap_err(),
        tiers.lake.commit(&key("shards/new"), b"x").unwrap_err(),
        tiers.lake.delete(&key("shards/secret")).unwrap_err(),
    ];
    for error in refusals {
        let why = std::error::Error::source(&error).unwrap().to_string();
        assert!(why.contains("symbolic link"), "{error}: {why}");
    }
    tiers.lake.list("", &mut |listed| panic!("{} was listed", listed.key)).unwrap();
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    assert_eq!(fs::read(outside.join("secret")).unwrap(), b"secret");
}

#[test]
fn a_prefix_never_leads_out_of_the_lake() {
    let tiers = TempTiers::new(MIB);
    tiers.lake.write(&key("a/b"), Purpose::Shard, b"x").unwrap();
    for prefix in ["../", "/", "/etc/", "a/../", "a//", ".incoming/", "./"] {
        tiers.lake.list(prefix, &mut |listed| panic!("{prefix}: {}", listed.key)).unwrap();
    }
}

#[test]
fn what_cannot_be_reached_is_not_absent() {
    let tiers = TempTiers::new(MIB);
    tiers.lake.write(&key("a/b"), Purpose::Shard, b"x").unwrap();
    fs::rename(tiers.lake_path(), tiers.path().join("unmounted")).unwrap();
    let error = tiers.lake.size(&key("a/b")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(tiers.lake.list("", &mut |_| Ok(())).is_err());
    assert!(tiers.lake.write(&key("a/c"), Purpose::Shard, b"x").is_err());
    assert!(!tiers.lake_path().exists(), "a lost root is not made anew");
}

#[test]
fn objects_and_directories_are_their_owner_s_alone() {
    use std::os::unix::fs::PermissionsExt;
    let tiers = TempTiers::new(MIB);
    tiers.lake.write(&key("a/b"), Purpose::Shard, b"x").unwrap();
    tiers.lake.commit(&key("a/c"), b"x").unwrap();
    let mode = |path: &str| {
        fs::metadata(tiers.lake_path().join(path)).unwrap().permissions().mode() & 0o777
    };
    assert_eq!([mode(""), mode("a"), mode("a/b"), mode("a/c")], [0o700, 0o700, 0o600, 0o600]);
}

/// The body of the child processes below: this test binary, started again.
#[test]
fn child() {
    let Ok(url) = env::var("FOREBAY_TEST_LAKE") else { return };
    let lake = Lake::open(&url, &Runtime::system()).unwrap();
    if env::var("FOREBAY_TEST_DIE").is_ok() {
        let mut writer = lake.writer(&key("shards/half"), Purpose::Shard).unwrap();
        writer.write_all(&[1; 100_000]).unwrap();
        println!("ready");
        loop {
            std::thread::park();
        }
    }
    for round in 0..30 {
        let body = format!("{} of round {round}", std::process::id());
        let record = key(&format!("race/deep/{round}/v1.json"));
        if lake.commit(&record, body.as_bytes()).unwrap() == Commit::Won {
            println!("\nwon {round}");
        }
    }
}

fn start_child(lake: &Path, variable: &str) -> Child {
    Command::new(env::current_exe().unwrap())
        .args(["child", "--exact", "--nocapture"])
        .env("FOREBAY_TEST_LAKE", lake)
        .env(variable, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn of_racing_processes_exactly_one_wins_each_round() {
    let tiers = TempTiers::new(MIB);
    let children: Vec<_> =
        (0..4).map(|_| start_child(&tiers.lake_path(), "FOREBAY_TEST_RACE")).collect();
    let mut won = Vec::new();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).unwrap();
        won.extend(text.lines().filter_map(|line| line.strip_prefix("won ")).map(String::from));
    }
    assert_eq!(won.len(), 30, "{won:?}");
    assert_eq!(won.into_iter().collect::<BTreeSet<_>>().len(), 30);
}

#[test]
fn a_killed_writer_leaves_no_object_and_its_file_goes_when_it_is_old() {
    let tiers = TempTiers::new(MIB);
    let mut child = start_child(&tiers.lake_path(), "FOREBAY_TEST_DIE");
    let mut lines = io::BufRead::lines(io::BufReader::new(child.stdout.take().unwrap()));
    assert!(lines.any(|line| line.unwrap().contains("ready")));
    let incoming = tiers.lake_path().join(".incoming");
    let half = fs::read_dir(&incoming).unwrap().next().unwrap().unwrap().path();
    let old = std::time::SystemTime::UNIX_EPOCH;
    let age = || fs::File::options().write(true).open(&half).unwrap().set_modified(old).unwrap();
    age();
    let tiers = tiers.reopen();
    assert!(half.exists(), "its writer lives");
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(tiers.lake.size(&key("shards/half")).unwrap(), None);
    tiers.lake.list("", &mut |listed| panic!("{} was left", listed.key)).unwrap();
    let _tiers = tiers.reopen();
    assert!(!half.exists());
}
