//! Every engine meets the contract, and the commit protocol survives what stores do to replies.

use std::{io, sync::Arc};

use forebay_lake::{Commit, Directory, Lake, Memory, Purpose, Store};
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
    let error = Lake::open("s3://bucket/prefix", &runtime).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("`s3`"), "{error}");
    let error = Lake::open("/no/such/parent/lake", &runtime).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("/no/such/parent/lake"), "{error}");
    let error = Lake::open_existing("/tmp/no-such-lake", &runtime).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(!std::path::Path::new("/tmp/no-such-lake").exists());
    assert!(Lake::open("file://relative", &runtime).is_err());
    assert_eq!(Lake::open("memory://", &runtime).unwrap().url(), "memory://");
}
