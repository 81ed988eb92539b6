//! Memory that outlives its process: whoever finds a name finds all of it, and nobody takes it from
//! a process that lives.

#![allow(clippy::unwrap_used, reason = "a test may")]

use std::{
    io::{BufRead, BufReader, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use forebay_local::{Error, LocalTier};
use forebay_runtime::Runtime;
use forebay_testing::{TempTiers, key};

const DIRECTORY: &str = "FOREBAY_TEST_DIRECTORY";
const FORKS: &str = "FOREBAY_TEST_FORKS";
const STAGED: &str = "FOREBAY_TEST_STAGED";
const BYTES: usize = 3 << 20;

fn open(directory: &Path) -> LocalTier {
    LocalTier::open(directory, 1 << 20, &Runtime::system()).unwrap()
}

/// Not a test: what the process that dies runs. Without its variable it has nothing to do.
#[test]
fn owner() {
    let Some(directory) = std::env::var_os(DIRECTORY).map(PathBuf::from) else { return };
    let tier = open(&directory);
    let mut whole = tier.memory(BYTES).unwrap();
    whole.fill(7);
    whole.keep(&key("runs/a/whole")).unwrap();
    if std::env::var_os(STAGED).is_some() {
        whole.mark_staged().unwrap();
    }
    let mut torn = tier.memory(BYTES).unwrap();
    torn.fill(9);
    if std::env::var_os(FORKS).is_some() {
        // SAFETY: the child does nothing but sleep and end, as a worker process of a loader may.
        unsafe {
            if libc::fork() == 0 {
                libc::sleep(60);
                libc::_exit(0);
            }
        }
    }
    println!("\nready");
    loop {
        Runtime::system().sleep(std::time::Duration::from_secs(60)).unwrap();
    }
}

/// Starts it, and returns when it has kept something.
fn start(directory: &Path, forks: bool) -> Child {
    start_with(directory, if forks { &[FORKS] } else { &[] })
}

fn start_with(directory: &Path, variables: &[&str]) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "owner", "--nocapture"]).env(DIRECTORY, directory);
    command.envs(variables.iter().map(|name| (name, "1")));
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line == "ready"), "it did not come so far");
    child
}

fn killed_owner_leaves_what_it_kept(forks: bool) {
    let folder = tempfile::tempdir().unwrap();
    let mut child = start(folder.path(), forks);
    let (tier, name) = (open(folder.path()), key("runs/a/whole"));
    assert_eq!(tier.kept_memory().unwrap(), std::slice::from_ref(&name));
    assert!(tier.take_memory(&name).unwrap().is_none(), "its owner lives");
    assert!(matches!(tier.clear(), Err(Error::Undrained { count: 1, .. })));
    child.kill().unwrap();
    child.wait().unwrap();

    let tier = open(folder.path());
    assert!(matches!(tier.clear(), Err(Error::Undrained { count: 1, .. })));
    let mut memory = tier.take_memory(&name).unwrap().unwrap();
    assert!(memory.len() == BYTES && memory.iter().all(|&byte| byte == 7));
    assert!(tier.take_memory(&name).unwrap().is_none(), "it has an owner again");
    memory.unkeep().unwrap();
    assert!(tier.kept_memory().unwrap().is_empty());
    assert!(matches!(tier.clear(), Err(Error::InUse { .. })));
    drop(memory);
    tier.clear().unwrap();
}

#[test]
fn what_was_kept_outlives_its_owner() {
    killed_owner_leaves_what_it_kept(false);
}

/// A worker process that a trainer forked may outlive it; it must not keep what the trainer left.
#[test]
fn a_fork_of_the_owner_does_not_hold_it() {
    killed_owner_leaves_what_it_kept(true);
}

#[test]
fn memory_without_a_name_goes_with_its_owner() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = start(folder.path(), false);
    child.kill().unwrap();
    child.wait().unwrap();
    let count =
        |tier: &LocalTier| std::fs::read_dir(tier.memory_folder()).map_or(0, Iterator::count);
    let tier = open(folder.path());
    assert_eq!(count(&tier), 2, "the link and the whole one: the torn one is gone");
    tier.take_memory(&key("runs/a/whole")).unwrap().unwrap().unkeep().unwrap();
    assert!(!tier.memory_folder().exists());
}

/// What an owner that was killed left staged, seen by a tier that is opened with the clock of `runtime`.
fn left_staged(folder: &Path, runtime: &Runtime) -> LocalTier {
    let mut child = start_with(folder, &[STAGED]);
    child.kill().unwrap();
    child.wait().unwrap();
    LocalTier::open(folder, 1 << 20, runtime).unwrap()
}

#[test]
fn what_is_staged_is_read_beside_its_owner_and_taken_over_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = start_with(folder.path(), &[STAGED]);
    let (tier, name) = (open(folder.path()), key("runs/a/whole"));
    assert!(tier.kept_memory().unwrap().is_empty(), "it need not be staged");
    assert_eq!(tier.staged_memory().unwrap(), std::slice::from_ref(&name));
    let mut bytes = Vec::new();
    let mut file = tier.staged_memory_file(&name).unwrap().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    assert!(bytes.len() == BYTES && bytes.iter().all(|&byte| byte == 7));
    assert!(tier.take_staged_memory(&name).unwrap().is_none(), "its owner lives");
    assert!(matches!(tier.clear(), Err(Error::InUse { .. })));
    child.kill().unwrap();
    child.wait().unwrap();

    let tier = open(folder.path());
    let memory = tier.take_staged_memory(&name).unwrap().unwrap();
    assert!(memory.iter().all(|&byte| byte == 7));
    assert!(tier.staged_memory_file(&name).unwrap().is_some(), "others still read it");
    drop(memory);
    assert!(tier.staged_memory_file(&name).unwrap().is_none());
    assert!(!tier.memory_folder().exists());
}

#[test]
fn what_a_dead_process_left_staged_makes_way() {
    let runtime = Runtime::system();
    let folder = tempfile::tempdir().unwrap();
    let tier = left_staged(folder.path(), &runtime);
    assert_eq!(tier.staged_memory().unwrap().len(), 1);
    tier.clear().unwrap();
    assert!(!tier.memory_folder().exists(), "cleared");
    let tier = left_staged(folder.path(), &runtime);
    assert!(tier.memory(1 << 50).is_err());
    assert!(tier.staged_memory().unwrap().is_empty(), "it was needed");
    tier.clear().unwrap();
}

#[test]
fn what_a_dead_process_left_staged_goes_a_day_later() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Runtime::manual(1);
    let young = left_staged(folder.path(), &clock);
    assert_eq!(young.staged_memory().unwrap().len(), 1);
    clock.advance(std::time::Duration::from_secs(200 * 366 * 24 * 3600));
    let old = LocalTier::open(folder.path(), 1 << 20, &clock).unwrap();
    assert!(old.staged_memory().unwrap().is_empty());
    assert!(!old.memory_folder().exists());
}

/// Somebody may clean `/dev/shm`: then nobody finds it, and its owner goes on.
#[test]
fn memory_whose_file_was_removed_is_still_its_owner_s() {
    let tiers = TempTiers::new(1 << 20);
    let mut memory = tiers.local.memory(5000).unwrap();
    memory.keep(&key("a")).unwrap();
    memory.mark_staged().unwrap();
    std::fs::remove_dir_all(tiers.local.memory_folder()).unwrap();
    memory.unkeep().unwrap();
    memory.fill(3);
    assert!(memory.iter().all(|&byte| byte == 3));
    assert!(memory.keep(&key("b")).is_err());
}

#[test]
fn it_grows_and_keeps_what_it_holds() {
    let tiers = TempTiers::new(1 << 20);
    let mut memory = tiers.local.memory(5000).unwrap();
    memory.populate(0..5000).unwrap();
    memory.fill(3);
    memory.keep(&key("a")).unwrap();
    memory.grow(BYTES).unwrap();
    memory.populate(4096..BYTES).unwrap();
    assert_eq!(memory.len(), BYTES);
    assert!(memory[..5000].iter().all(|&byte| byte == 3));
    assert!(memory[5000..].iter().all(|&byte| byte == 0));
    memory.grow(1).unwrap();
    assert_eq!(memory.len(), BYTES);
    memory.unkeep().unwrap();
}

/// Whoever keeps it does not need what others read of it meanwhile.
#[test]
fn its_end_is_written_and_named_while_its_beginning_is_read() {
    for (next_bytes, length) in [(100, 8192), (4000, 12_288)] {
        let tiers = TempTiers::new(1 << 20);
        let mut memory = tiers.local.memory(8192).unwrap();
        memory.fill(3);
        let (first, mut end) = memory.split(5000);
        first.fill(4);
        let first: &[u8] = first;
        end.keep(&key("a"), &vec![5; next_bytes], &[6; 8]).unwrap();
        assert!(first.iter().all(|&byte| byte == 4));
        assert!(memory.is_named() && memory.len() == 8192);
        let kept = tiers.local.memory_folder().join("a");
        let kept = std::fs::read(kept).unwrap();
        assert_eq!(kept.len(), length);
        assert!(kept[..5000].iter().all(|&byte| byte == 4));
        assert!(kept[5000..5000 + next_bytes].iter().all(|&byte| byte == 5));
        assert_eq!(kept[length - 8..], [6; 8]);
        // What is kept the next time may be shorter.
        memory.unkeep().unwrap();
        memory.split(5000).1.keep(&key("b"), &[7], &[8]).unwrap();
        let kept = std::fs::read(tiers.local.memory_folder().join("b")).unwrap();
        assert_eq!((kept.len(), kept[5000], kept[8191]), (8192, 7, 8));
        memory.unkeep().unwrap();
    }
}

#[test]
fn more_than_the_node_has_is_refused_and_leaves_nothing() {
    let tiers = TempTiers::new(1 << 20);
    let refused = tiers.local.memory(1 << 50).unwrap_err();
    assert_eq!(refused.kind(), forebay_types::ErrorKind::Full);
    let mut memory = tiers.local.memory(5000).unwrap();
    memory.fill(3);
    assert!(memory.grow(1 << 50).is_err());
    assert!(memory.len() == 5000 && memory.iter().all(|&byte| byte == 3));
    drop(memory);
    tiers.local.clear().unwrap();
}

#[test]
fn what_was_kept_for_a_directory_that_is_gone_goes_a_day_later() {
    let keep = || {
        let folder = tempfile::tempdir().unwrap();
        let tier = open(folder.path());
        let mut memory = tier.memory(5000).unwrap();
        memory.keep(&key("a")).unwrap();
        (folder, tier.memory_folder())
    };
    let (gone, here) = (keep(), keep());
    let long_ago = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
    for (_, folder) in [&gone, &here] {
        std::fs::File::open(folder).unwrap().set_modified(long_ago).unwrap();
    }
    let young = keep();
    drop((gone.0, young.0));
    let other = tempfile::tempdir().unwrap();
    open(other.path());
    assert!(!gone.1.exists(), "nobody can take it over");
    assert!(here.1.exists() && young.1.exists(), "somebody may");
    open(here.0.path()).take_memory(&key("a")).unwrap().unwrap().unkeep().unwrap();
    std::fs::remove_dir_all(young.1).unwrap();
}

/// `/dev/shm` is everybody's: a folder of that name that others can write is no place for a state.
#[test]
fn a_folder_that_is_not_ours_alone_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let tier = open(folder.path());
    let memory = tier.memory_folder();
    std::fs::create_dir(&memory).unwrap();
    std::fs::set_permissions(&memory, std::fs::Permissions::from_mode(0o777)).unwrap();
    std::fs::write(memory.join("runs:a:whole"), b"planted").unwrap();
    let tier = open(tier.directory());
    assert!(tier.memory(5000).is_err());
    assert!(tier.kept_memory().unwrap().is_empty());
    assert!(tier.take_memory(&key("runs/a/whole")).is_err());
    tier.clear().unwrap();
    assert!(memory.join("runs:a:whole").exists());
    std::fs::remove_dir_all(memory).unwrap();
}
