//! Whether a store keeps the promise that commits rest on.
//!
//! Not every store that speaks the protocol does: some accept a condition and ignore it, and let
//! every racer win. Publishing to one would lose data without a word, so it is refused when it
//! is opened.

use forebay_runtime::Runtime;
use forebay_types::Key;

use crate::{Created, Error, Lake, Purpose};

const FIRST: &[u8] = b"first";

/// Creates one object twice, reads it by range, and deletes it.
pub(crate) fn run(lake: &Lake, runtime: &Runtime) -> Result<(), Error> {
    let key = Key::new(format!("probe/{}", runtime.nonce())).expect("a nonce makes a sound key");
    let result = check(lake, &key);
    let cleaned = lake.delete(&key);
    result?;
    cleaned.map(drop)
}

fn check(lake: &Lake, key: &Key) -> Result<(), Error> {
    let unsuited = |why: &str| Err(Error::Unsuited { url: lake.url().into(), why: why.into() });
    let store = lake.store();
    let create = |body: &[u8]| lake.retry(Purpose::Manifest, || store.create(key, body));
    // A create whose reply was lost is made again, and then finds its own object.
    let found = || lake.retry(Purpose::Manifest, || store.read_whole(key, FIRST.len() as u64));
    if create(FIRST)? != Created::New && found()?.as_deref() != Some(FIRST) {
        return unsuited("it says that an object exists which was never written");
    }
    if create(b"second")? != Created::Exists {
        return unsuited(
            "it ignores the condition `create only if absent`, so two writers would both win",
        );
    }
    let mut middle = [0; 3];
    lake.retry(Purpose::Manifest, || store.read_range(key, 1, &mut middle))?;
    if &middle != b"irs" {
        return unsuited("a ranged read gives other bytes than were written");
    }
    Ok(())
}
