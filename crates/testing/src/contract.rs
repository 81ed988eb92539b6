//! What every engine must do, whatever it is made of.

use std::{collections::BTreeSet, io::Write, sync::Arc, thread};

use forebay_lake::{Created, Error, Store};
use forebay_types::ErrorKind;

use crate::key;

/// Runs the whole suite on `store`, which must be empty.
///
/// # Panics
/// At the first thing that does not hold.
pub fn lake_contract(store: &Arc<dyn Store>) {
    absent_objects_are_absent(store.as_ref());
    written_objects_are_read_back(store.as_ref());
    unfinished_objects_do_not_exist(store.as_ref());
    ranges_beyond_the_end_are_refused(store.as_ref());
    one_of_many_creators_wins(store);
    copies_outlive_what_they_are_of(store.as_ref());
    lists_hold_what_was_written_and_nothing_else(store.as_ref());
}

fn put(store: &dyn Store, name: &str, body: &[u8]) {
    let mut writer = store.writer(&key(name)).unwrap();
    writer.write_all(body).unwrap();
    writer.finish().unwrap();
}

fn get(store: &dyn Store, name: &str) -> Vec<u8> {
    let length = store.size(&key(name)).unwrap().unwrap();
    let mut bytes = vec![0; length as usize];
    store.read_range(&key(name), 0, &mut bytes).unwrap();
    bytes
}

fn absent_objects_are_absent(store: &dyn Store) {
    assert_eq!(store.size(&key("absent/object")).unwrap(), None);
    let error = store.read_range(&key("absent/object"), 0, &mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("absent/object"), "{error}");
    assert!(!store.delete(&key("absent/object")).unwrap());
}

fn written_objects_are_read_back(store: &dyn Store) {
    put(store, "a/b/c", b"0123456789");
    assert_eq!(get(store, "a/b/c"), b"0123456789");
    let mut middle = [0; 3];
    store.read_range(&key("a/b/c"), 4, &mut middle).unwrap();
    assert_eq!(&middle, b"456");
    put(store, "a/empty", b"");
    assert_eq!(store.size(&key("a/empty")).unwrap(), Some(0));
    // A directory is no object, and an object is no directory.
    assert_eq!(store.size(&key("a/b")).unwrap(), None);
    assert_eq!(store.size(&key("a/b/c/d")).unwrap(), None);
    assert!(store.delete(&key("a/b/c")).unwrap());
    assert_eq!(store.size(&key("a/b/c")).unwrap(), None);
}

fn unfinished_objects_do_not_exist(store: &dyn Store) {
    let mut writer = store.writer(&key("unfinished")).unwrap();
    writer.write_all(b"half").unwrap();
    assert_eq!(store.size(&key("unfinished")).unwrap(), None);
    drop(writer);
    assert_eq!(store.size(&key("unfinished")).unwrap(), None);
}

fn ranges_beyond_the_end_are_refused(store: &dyn Store) {
    put(store, "short", b"abc");
    let error = store.read_range(&key("short"), 1, &mut [0; 3]).unwrap_err();
    assert!(matches!(error, Error::Truncated { wanted: 4, length: 3, .. }), "{error:?}");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}

fn one_of_many_creators_wins(store: &Arc<dyn Store>) {
    for round in 0..20 {
        let name = format!("race/{round}");
        let outcomes: Vec<(usize, Created)> = thread::scope(|scope| {
            let racer = |index: usize| {
                let name = &name;
                scope.spawn(move || {
                    (index, store.create(&key(name), index.to_string().as_bytes()).unwrap())
                })
            };
            let racers: Vec<_> = (0..8).map(racer).collect();
            racers.into_iter().map(|racer| racer.join().unwrap()).collect()
        });
        let winners: Vec<_> = outcomes.iter().filter(|(_, made)| *made == Created::New).collect();
        assert_eq!(winners.len(), 1, "{outcomes:?}");
        assert_eq!(get(store.as_ref(), &name), winners[0].0.to_string().as_bytes());
    }
}

fn copies_outlive_what_they_are_of(store: &dyn Store) {
    let error = store.copy(&key("copies/none"), &key("copies/of-none"), 1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    put(store, "copies/one", b"0123456789");
    for _again in 0..2 {
        assert!(store.copy(&key("copies/one"), &key("copies/deep/two"), 10).unwrap());
    }
    assert!(store.delete(&key("copies/one")).unwrap());
    assert_eq!(get(store, "copies/deep/two"), b"0123456789");
    put(store, "copies/one", b"another");
    assert_eq!(get(store, "copies/deep/two"), b"0123456789");
}

fn lists_hold_what_was_written_and_nothing_else(store: &dyn Store) {
    for name in ["list/one", "list/deep/two", "list/deep/three", "listed"] {
        put(store, name, name.as_bytes());
    }
    let _unfinished = store.writer(&key("list/unfinished")).unwrap();
    let found = |prefix: &str| {
        let mut found = BTreeSet::new();
        store
            .list(prefix, &mut |listed| {
                assert_eq!(listed.bytes, listed.key.as_str().len() as u64);
                assert!(listed.modified_unix_ms > 0);
                assert!(found.insert(listed.key.to_string()), "listed twice");
                Ok(())
            })
            .unwrap();
        found.into_iter().collect::<Vec<_>>()
    };
    assert_eq!(found("list/"), ["list/deep/three", "list/deep/two", "list/one"]);
    assert_eq!(found("list/deep/t"), ["list/deep/three", "list/deep/two"]);
    assert_eq!(found("nothing/"), Vec::<String>::new());
}
