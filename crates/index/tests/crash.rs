//! SIGKILL at the worst moments: nothing half-published, and the next run goes on where it stood.
#![cfg(feature = "crash-points")]
#![allow(clippy::unwrap_used, reason = "a test may")]

mod world;

use std::{path::PathBuf, process::Command, sync::Arc};

use forebay_index::{Choice, Index, Silent, Source, SplitRule};
use forebay_lake::Lake;
use forebay_local::LocalTier;
use forebay_runtime::Runtime;
use forebay_types::{Name, Split};
use world::{Lines, World, lines, text};

const ROOT: &str = "FOREBAY_TEST_ROOT";
const FILES: u64 = 4;

/// Not a test: what the crashing process runs. Without its variable it has nothing to do.
#[test]
fn child() {
    let Some(root) = std::env::var_os(ROOT).map(PathBuf::from) else { return };
    let runtime = Runtime::system();
    let lake = Lake::open(root.join("lake").to_str().unwrap(), &runtime).unwrap();
    let local = LocalTier::open(&root.join("local"), 1 << 30, &runtime).unwrap();
    let store = root.join("foreign").to_str().unwrap().to_owned();
    let index = Index {
        lake: &lake,
        local: &local,
        runtime: &runtime,
        source: &Source { store: Some(store), paths: vec![] },
        dataset: &Name::new("set").unwrap(),
        splits: &SplitRule::Train,
        dialect: &Choice::Given(Arc::new(Lines)),
        extent_bytes: 4096,
        workers: 1,
        fresh: false,
        progress: &Silent,
    };
    index.run().unwrap();
}

fn write_files(world: &World) -> Vec<String> {
    let mut all = Vec::new();
    for number in 0..FILES {
        let lines = lines(&format!("f{number}"), 200);
        world.write(&format!("f{number}.lines"), text(&lines));
        all.extend(lines);
    }
    all
}

#[test]
fn killed_anywhere_the_next_run_goes_on_where_it_stood() {
    for (point, finished) in [
        ("index.file", 1),
        ("index.file:3", 3),
        ("index.page", FILES),
        ("index.before_manifest", FILES),
    ] {
        let world = World::new();
        let all = write_files(&world);
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["child", "--exact"])
            .env(ROOT, world.tiers.path())
            .env("FOREBAY_CRASH_AT", point)
            .output()
            .unwrap()
            .status;
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9), "{point}");
        assert_eq!(world.keys("datasets/"), [""; 0], "{point}");
        // Opening the tier again wipes what the dead process left there.
        let directory = world.tiers.local_path();
        let local = LocalTier::open(&directory, 1 << 30, &world.tiers.runtime).unwrap();
        assert_eq!(local.usage().unwrap().used_bytes(), 0, "{point}");
        let indexed = world.index().unwrap();
        assert_eq!(indexed.read_files, FILES - finished, "{point}");
        assert_eq!(world.lines(&indexed.manifest, Split::Train), all, "{point}");
        assert!(world.index().unwrap().reused);
    }
}
