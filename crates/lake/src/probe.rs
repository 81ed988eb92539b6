//! Whether a store keeps the promise that commits rest on.
//!
//! Not every store that speaks the protocol does: some accept a condition and ignore it, and let
//! every racer win. Publishing to one would lose data without a word, so it is refused when it
//! is opened.

use forebay_runtime::Runtime;
use forebay_types::Key;

use crate::{Created, Error, Store};

/// Creates one object twice, reads it by range, and deletes it.
pub(crate) fn run(store: &dyn Store, runtime: &Runtime) -> Result<(), Error> {
    let key = Key::new(format!("probe/{}", runtime.nonce())).expect("a nonce makes a sound key");
    let result = check(store, &key);
    let cleaned = store.delete(&key);
    result?;
    cleaned.map(drop)
}

fn check(store: &dyn Store, key: &Key) -> Result<(), Error> {
    let unsuited = |why: &str| Err(Error::Unsuited { url: store.url().into(), why: why.into() });
    if store.create(key, b"first")? != Created::New {
        return unsuited("it says that an object exists which was never written");
    }
    if store.create(key, b"second")? != Created::Exists {
        return unsuited(
            "it ignores the condition `create only if absent`, so two writers would both win",
        );
    }
    let mut middle = [0; 3];
    store.read_range(key, 1, &mut middle)?;
    if &middle != b"irs" {
        return unsuited("a ranged read gives other bytes than were written");
    }
    Ok(())
}
