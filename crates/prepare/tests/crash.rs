//! SIGKILL at the worst moments: nothing half-published, and the next run gives the same version.
#![cfg(feature = "crash-points")]
#![allow(clippy::unwrap_used, reason = "a test may")]

mod world;

use std::{path::PathBuf, process::Command};

use forebay_prepare::{Prepare, Recipe, Silent};
use forebay_runtime::Runtime;
use forebay_types::{Name, Nonce};
use world::{World, line};

const ROOT: &str = "FOREBAY_TEST_ROOT";

fn recipe() -> Recipe {
    Recipe {
        row_tokens: 16,
        characters_min: 2,
        shard_bytes: 2000,
        batch_bytes: 500,
        ..Recipe::default()
    }
}

/// Not a test: what the crashing process runs. Without its variable it has nothing to do.
#[test]
fn child() {
    let Some(root) = std::env::var_os(ROOT).map(PathBuf::from) else { return };
    let runtime = Runtime::system();
    let lake = forebay_lake::Lake::open(root.join("lake").to_str().unwrap(), &runtime).unwrap();
    let local = forebay_local::LocalTier::open(&root.join("local"), 1 << 30, &runtime).unwrap();
    let prepare = Prepare {
        lake: &lake,
        local: &local,
        runtime: &runtime,
        source: &root.join("raw"),
        dataset: &Name::new("test").unwrap(),
        recipe: &recipe(),
        workers: 2,
        memory_bytes: 256 << 20,
        progress: &Silent,
    };
    prepare.run().unwrap();
}

fn write_sources(world: &World) {
    for (name, seed) in [("a.jsonl", 1), ("b.jsonl.gz", 2)] {
        let lines = (0..300).map(|n| line(&format!("text {} of {seed}", n * n), None));
        world.write(name, lines.collect::<String>().as_bytes());
    }
}

#[test]
fn killed_anywhere_the_next_run_publishes_the_same_version() {
    let whole = World::new();
    write_sources(&whole);
    let mut wanted = whole.prepare(&recipe(), 1).unwrap().manifest;
    for point in [
        "prepare.map",
        "prepare.map:2",
        "prepare.reduce",
        "prepare.reduce:5",
        "prepare.before_manifest",
    ] {
        let world = World::new();
        write_sources(&world);
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["child", "--exact"])
            .env(ROOT, world.root.path())
            .env("FOREBAY_CRASH_AT", point)
            .output()
            .unwrap()
            .status;
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9), "{point}");
        assert!(!world.objects().keys().any(|key| key.starts_with("datasets/")), "{point}");
        // Opening the tier again wipes what the dead process left there.
        let runtime = &world.runtime;
        let directory = world.root.path().join("local");
        let local = forebay_local::LocalTier::open(&directory, 1 << 30, runtime).unwrap();
        assert_eq!(local.usage().unwrap().scratch_bytes, 0, "{point}");
        let mut found = world.prepare(&recipe(), 2).unwrap().manifest;
        for manifest in [&mut wanted, &mut found] {
            manifest.nonce = Nonce::from_bits(0);
            manifest.created_unix_ms = 0;
        }
        assert_eq!(found, wanted, "{point}");
        assert_eq!(world.payload(), whole.payload(), "{point}");
    }
}
