//! The S3 engine against a real server, and through a bad network.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::{
    collections::BTreeSet, env, error::Error as _, fs, io::Write, process::Command, sync::Arc,
    thread, time::Duration,
};

use forebay_lake::{Commit, Created, Error, Lake, Purpose, S3, S3Settings, Store};
use forebay_runtime::Runtime;
use forebay_testing::{
    FaultProxy, Group, S3Server, WireFault, free_ports, key, lake_contract, tool, variables,
};
use forebay_types::ErrorKind;

const MIB: usize = 1 << 20;

fn open(variables: Vec<(String, String)>, url: &str) -> S3 {
    S3::new(url, variables, S3Settings::default(), &Runtime::system()).unwrap()
}

/// A store that finds out soon that a network is silent, but not sooner than a busy machine
/// answers.
fn open_hasty(variables: Vec<(String, String)>, url: &str) -> S3 {
    let progress_timeout = Duration::from_secs(3);
    let settings = S3Settings { progress_timeout, ..S3Settings::default() };
    S3::new(url, variables, settings, &Runtime::system()).unwrap()
}

fn lake(store: S3) -> Lake {
    Lake::new(Arc::new(store), &Runtime::system())
}

/// Bytes in which every position can be told from its neighbours.
fn pattern(length: usize) -> Vec<u8> {
    (0..length as u64)
        .flat_map(|at| {
            (at / 8)
                .wrapping_mul(0x9E37_79B9_7F4A_7C15)
                .to_le_bytes()
                .into_iter()
                .skip((at % 8) as usize)
                .take(1)
        })
        .collect()
}

/// The message and all its causes, as a command prints them.
fn words(error: &Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        words.push_str(&format!(": {error}"));
        cause = error.source();
    }
    words
}

#[test]
fn the_engine_meets_the_contract_and_its_prefix_is_its_own() {
    let server = S3Server::start();
    let store: Arc<dyn Store> = Arc::new(server.store("s3://lake/inner"));
    lake_contract(&store);

    let whole = server.store("s3://lake");
    let other = server.store("s3://lake/inn");
    other.put(&key("er/x"), b"1").unwrap();
    assert_eq!(store.size(&key("x")).unwrap(), None);
    assert_eq!(whole.size(&key("inn/er/x")).unwrap(), Some(1));
    let mut names = Vec::new();
    other
        .list("", &mut |listed| {
            names.push(listed.key.to_string());
            Ok(())
        })
        .unwrap();
    assert_eq!(names, ["er/x"]);

    objects_of_any_size_are_read_at_all_edges(store.as_ref());
    foreign_names_survive_the_way(&whole);
    pages_of_a_listing_are_one_list(&server);
    writers_that_fail_leave_nothing(&server);
    records_are_read_in_one_request(&server);
    a_lake_is_opened_by_its_url(&server);
}

fn objects_of_any_size_are_read_at_all_edges(store: &dyn Store) {
    let body = pattern(40 * MIB + 7);
    let mut writer = store.writer(&key("large")).unwrap();
    body.chunks(MIB - 3).for_each(|piece| writer.write_all(piece).unwrap());
    assert_eq!(store.size(&key("large")).unwrap(), None, "visible before it is whole");
    writer.finish().unwrap();
    assert_eq!(store.size(&key("large")).unwrap(), Some(body.len() as u64));
    store.put(&key("large-put"), &body).unwrap();
    let found = store.read_whole(&key("large-put"), u64::MAX).unwrap().unwrap();
    assert!(found == body, "a put of several parts gives other bytes");

    let end = body.len();
    let ranges = [
        (0, 0),
        (0, 1),
        (0, end),
        (0, end - 1),
        (1, end - 1),
        (end - 1, 1),
        (end, 0),
        (16 * MIB - 1, 2),
        (16 * MIB, 1),
        (32 * MIB - 5, 11),
        (3 * MIB, 17 * MIB),
    ];
    for (offset, length) in ranges {
        let mut into = vec![0; length];
        store.read_range(&key("large"), offset as u64, &mut into).unwrap();
        assert!(into == body[offset..offset + length], "{offset} {length}");
    }
    for (offset, length) in [(0, end + 1), (end - 1, 2), (end, 1), (end + 1, 1), (end + MIB, 9)] {
        let mut into = vec![0; length];
        let error = store.read_range(&key("large"), offset as u64, &mut into).unwrap_err();
        let Error::Truncated { wanted, length: found, .. } = error else { panic!("{error:?}") };
        assert_eq!((wanted, found), ((offset + length) as u64, end as u64));
    }
    store.put(&key("empty"), b"").unwrap();
    assert_eq!(store.read_whole(&key("empty"), 0).unwrap().as_deref(), Some(&b""[..]));
    assert!(store.read_range(&key("empty"), 0, &mut [0]).is_err());
}

fn foreign_names_survive_the_way(store: &dyn Store) {
    let names = ["f/date=2026-01-02/a+b@c,(1)~!.x", "f/part 0 of 2", "f/plain"];
    for name in names {
        store.put(&key(name), name.as_bytes()).unwrap();
    }
    let mut found = BTreeSet::new();
    store
        .list("f/", &mut |listed| {
            found.insert(listed.key.to_string());
            Ok(())
        })
        .unwrap();
    assert_eq!(found, names.iter().map(ToString::to_string).collect());
    for name in names {
        let body = store.read_whole(&key(name), 100).unwrap().unwrap();
        assert_eq!(body, name.as_bytes());
        assert!(store.delete(&key(name)).unwrap());
    }
}

fn pages_of_a_listing_are_one_list(server: &S3Server) {
    let store = server.store("s3://lake/many");
    Runtime::system()
        .workers("put", 8, |worker| {
            (worker..1203).step_by(8).try_for_each(|at| store.put(&key(&format!("o/{at}")), b"x"))
        })
        .unwrap();
    let mut found = BTreeSet::new();
    store
        .list("o/", &mut |listed| {
            assert!(found.insert(listed.key));
            Ok(())
        })
        .unwrap();
    assert_eq!(found.len(), 1203);
}

fn writers_that_fail_leave_nothing(server: &S3Server) {
    let store = server.store("s3://lake/aborted");
    let mut writer = store.writer(&key("half")).unwrap();
    writer.write_all(&pattern(33 * MIB)).unwrap();
    assert_eq!(server.uploads(), 1);
    drop(writer);
    assert_eq!(store.size(&key("half")).unwrap(), None);
    store.list("", &mut |listed| panic!("{} was left", listed.key)).unwrap();
    assert_eq!(server.uploads(), 0, "parts were left");
}

fn records_are_read_in_one_request(server: &S3Server) {
    let proxy = FaultProxy::start(server.port());
    let lake = lake(open(server.variables_at(proxy.port()), "s3://lake/records"));
    lake.write(&key("a"), Purpose::Manifest, b"body").unwrap();
    let before = proxy.requests();
    let found = lake.read(&key("a"), Purpose::Manifest, 4).unwrap();
    assert_eq!(found.as_deref(), Some(&b"body"[..]));
    assert_eq!(proxy.requests() - before, 1);
    assert!(matches!(lake.read(&key("a"), Purpose::Manifest, 3), Err(Error::TooLarge { .. })));
    assert_eq!(lake.read(&key("b"), Purpose::Manifest, 3).unwrap(), None);
    let traffic = lake.traffic()[&Purpose::Manifest];
    assert_eq!((traffic.reads, traffic.bytes_read, traffic.retries), (1, 4, 0));
}

/// The body of the child processes below: this test binary, started again.
#[test]
fn child() {
    let Ok(url) = env::var("FOREBAY_TEST_LAKE") else { return };
    match Lake::open(&url, &Runtime::system()) {
        Ok(lake) => {
            let won = lake.commit(&key("child/v1.json"), b"ours").unwrap();
            lake.list("probe", &mut |listed| panic!("{} was left", listed.key)).unwrap();
            println!("\nopened {} {won:?}", lake.url());
        }
        Err(error) => println!("\nrefused {:?} {}", error.kind(), words(&error)),
    }
}

/// What a process that opens `url` with `variables` says.
fn opened(url: &str, variables: &[(String, String)]) -> String {
    let output = Command::new(env::current_exe().unwrap())
        .args(["child", "--exact", "--nocapture"])
        .env("FOREBAY_TEST_LAKE", url)
        .envs(variables.iter().cloned())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let line = |line: &&str| line.starts_with("opened ") || line.starts_with("refused ");
    text.lines().find(line).unwrap_or_else(|| panic!("{text}")).to_owned()
}

fn a_lake_is_opened_by_its_url(server: &S3Server) {
    let text = opened("s3://lake/by-url", &server.variables());
    assert_eq!(text, "opened s3://lake/by-url Won");
    let absent = opened("s3://no-such-bucket/x", &server.variables());
    assert!(absent.starts_with("refused NotFound"), "{absent}");
    assert!(absent.contains("NoSuchBucket") && absent.contains("AWS_ENDPOINT_URL"), "{absent}");
    for (access, secret) in [("nobody", "nothing"), ("forebay-key", "wrong-secret")] {
        let wrong = opened("s3://lake/x", &variables(server.port(), access, secret));
        assert!(wrong.starts_with("refused Unavailable"), "{wrong}");
        assert!(wrong.contains("AWS_ACCESS_KEY_ID"), "{wrong}");
        assert!(!wrong.contains(secret), "{wrong}");
    }
    let nobody = opened("s3://lake/x", &variables(free_ports(1)[0], "a", "b"));
    assert!(nobody.starts_with("refused Unavailable"), "{nobody}");
    assert!(nobody.contains("AWS_ENDPOINT_URL"), "{nobody}");
}

#[test]
fn an_absent_object_of_an_absent_bucket_is_an_error() {
    let server = S3Server::start();
    let store = open(server.variables(), "s3://no-such-bucket/x");
    for error in [
        store.size(&key("a")).unwrap_err(),
        store.read_whole(&key("a"), 9).unwrap_err(),
        store.read_range(&key("a"), 0, &mut [0]).unwrap_err(),
        store.create(&key("a"), b"x").unwrap_err(),
        store.delete(&key("a")).unwrap_err(),
    ] {
        assert_ne!(error.kind(), ErrorKind::NotFound, "{error:?}");
        assert!(words(&error).contains("bucket"), "{}", words(&error));
    }
}

#[test]
fn a_bad_network_is_waited_out_or_said_in_words() {
    let server = S3Server::start();
    let body = pattern(5 * MIB);
    server.store("s3://lake").put(&key("shards/x"), &body).unwrap();
    let proxy = FaultProxy::start(server.port());
    let faults = [
        WireFault::Drops,
        WireFault::LosesReply,
        WireFault::SlowsDown(0),
        WireFault::CutsAfter(0),
        WireFault::CutsAfter(40),
        WireFault::CutsAfter(3 * MIB),
        WireFault::StallsAfter(0),
        WireFault::StallsAfter(3 * MIB),
    ];
    for fault in faults {
        let lake = lake(open_hasty(server.variables_at(proxy.port()), "s3://lake"));
        let times = if matches!(fault, WireFault::StallsAfter(_)) { 1 } else { 3 };
        proxy.inject("GET", times, fault);
        let mut into = vec![0; body.len()];
        lake.read_range(&key("shards/x"), Purpose::Shard, 0, &mut into).unwrap();
        assert!(into == body, "{fault:?}");
        assert_eq!(lake.traffic()[&Purpose::Shard].retries, times as u64, "{fault:?}");
        proxy.behave();
    }
    for fault in [WireFault::Drops, WireFault::CutsAfter(3 * MIB), WireFault::SlowsDown(0)] {
        let lake = lake(open_hasty(server.variables_at(proxy.port()), "s3://lake"));
        proxy.inject("GET", usize::MAX, fault);
        let before = proxy.requests();
        let mut into = vec![0; body.len()];
        let error = lake.read_range(&key("shards/x"), Purpose::Shard, 0, &mut into).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{fault:?}");
        assert!(words(&error).contains("127.0.0.1"), "{}", words(&error));
        assert!(proxy.requests() - before <= 6, "tried for ever");
        proxy.behave();
    }
}

#[test]
fn a_store_that_says_when_to_come_back_is_left_alone_until_then() {
    let server = S3Server::start();
    server.store("s3://lake").put(&key("a"), b"x").unwrap();
    let proxy = FaultProxy::start(server.port());
    let runtime = Runtime::system();
    let lake = lake(open(server.variables_at(proxy.port()), "s3://lake"));
    lake.read(&key("a"), Purpose::Shard, 9).unwrap();
    proxy.inject("GET", 1, WireFault::SlowsDown(2));
    let stopwatch = runtime.stopwatch();
    lake.read(&key("a"), Purpose::Shard, 9).unwrap();
    // Not a limit on speed: the promise is that nothing was asked in between.
    assert!(stopwatch.elapsed() >= Duration::from_secs(2));
    assert_eq!(lake.traffic()[&Purpose::Shard].retries, 1);
}

#[test]
fn a_commit_whose_reply_was_lost_is_known_as_won() {
    let server = S3Server::start();
    let proxy = FaultProxy::start(server.port());
    let lake = lake(open_hasty(server.variables_at(proxy.port()), "s3://lake"));
    for (round, fault) in [
        WireFault::LosesReply,
        WireFault::Drops,
        WireFault::CutsAfter(10),
        WireFault::StallsAfter(0),
        WireFault::SlowsDown(0),
    ]
    .into_iter()
    .enumerate()
    {
        let record = key(&format!("datasets/a/v{round}.json"));
        proxy.inject("PUT", 1, fault);
        assert_eq!(lake.commit(&record, b"ours").unwrap(), Commit::Won, "{fault:?}");
        assert_eq!(lake.commit(&record, b"theirs").unwrap(), Commit::Lost(b"ours".to_vec()));
    }
    let url: Arc<dyn Store> =
        Arc::new(open_hasty(server.variables_at(proxy.port()), "s3://lake/p"));
    proxy.inject("PUT", 1, WireFault::LosesReply);
    Lake::probed(url, &Runtime::system()).unwrap();
}

#[test]
fn an_upload_bears_a_bad_network_and_gives_up_in_words() {
    let server = S3Server::start();
    let proxy = FaultProxy::start(server.port());
    let lake = lake(open(server.variables_at(proxy.port()), "s3://lake"));
    let body = pattern(33 * MIB);
    let write = |name: &str| {
        let mut writer = lake.writer(&key(name), Purpose::Checkpoint)?;
        let written = writer.write_all(&body);
        written.map_err(|source| Error::Object {
            act: "write",
            key: key(name),
            place: String::new(),
            source,
        })?;
        writer.finish()
    };
    proxy.inject("partNumber=2", 2, WireFault::Drops);
    proxy.inject("POST", 1, WireFault::SlowsDown(0));
    assert_eq!(write("a").unwrap(), body.len() as u64);
    // The completion is done, its answer lost, and made again in vain.
    proxy.inject("uploadId", 0, WireFault::Drops);
    proxy.inject("POST /lake/b?uploadId", 1, WireFault::LosesReply);
    assert_eq!(write("b").unwrap(), body.len() as u64);
    for name in ["a", "b"] {
        let found = lake.read(&key(name), Purpose::Checkpoint, u64::MAX).unwrap().unwrap();
        assert!(found == body);
    }
    proxy.inject("PUT", usize::MAX, WireFault::Drops);
    let error = write("c").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    proxy.behave();
    assert_eq!(lake.size(&key("c")).unwrap(), None);
}

#[test]
fn racers_for_one_key_have_one_winner() {
    let server = S3Server::start();
    let store = server.store("s3://lake");
    for round in 0..5 {
        let name = format!("race/{round}");
        let made = thread::scope(|scope| {
            let racer = |index: usize| {
                let (store, name) = (&store, &name);
                scope.spawn(move || store.create(&key(name), &[index as u8]).unwrap())
            };
            let racers: Vec<_> = (0..6).map(racer).collect();
            racers.into_iter().map(|racer| racer.join().unwrap()).collect::<Vec<_>>()
        });
        assert_eq!(made.iter().filter(|made| **made == Created::New).count(), 1, "{made:?}");
    }
}

/// `rclone serve s3` accepts the condition and ignores it: two writers would both win.
#[test]
fn a_server_that_ignores_conditions_is_refused_for_publishing_and_can_be_read() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("lake")).unwrap();
    fs::write(folder.path().join("lake/record"), "theirs").unwrap();
    let port = free_ports(1)[0];
    let _server = Group::start(
        Command::new(tool("rclone"))
            .args([
                "serve",
                "s3",
                "--auth-key",
                "access-key,secret-key",
                "--addr",
                &format!("127.0.0.1:{port}"),
            ])
            .arg(folder.path()),
    );
    let runtime = Runtime::system();
    let variables = variables(port, "access-key", "secret-key");
    let store = open(variables.clone(), "s3://lake");
    let started = runtime.elapsed();
    while let Err(error) = store.size(&key("record")) {
        let waited = runtime.elapsed() - started;
        assert!(waited < Duration::from_secs(20), "rclone did not start: {}", words(&error));
        runtime.sleep(Duration::from_millis(50)).unwrap();
    }
    let refused = opened("s3://lake", &variables);
    assert!(refused.starts_with("refused Unavailable"), "{refused}");
    assert!(refused.contains("create only if absent"), "{refused}");
    let found = lake(store).read(&key("record"), Purpose::Source, 10).unwrap();
    assert_eq!(found.as_deref(), Some(&b"theirs"[..]));
}
