//! Commits: how anything comes to exist.
//!
//! A commit is one small conditional put: the record is created if its key is free. The record
//! carries a nonce, so no two writers' bytes are equal. After *any* outcome but a plain success the
//! key is read back and compared:
//!
//! | read back | then |
//! |---|---|
//! | our bytes | the put was ours, whatever the reply said: won |
//! | other bytes | somebody else was first: lost, and theirs are returned |
//! | nothing | nothing was stored: the put is made again, a few times |
//!
//! # After a crash
//! The record is there, whole, or it is not. There is no third case.

use forebay_types::Key;

use crate::{Created, Error, Lake, Purpose};

/// The largest record that is committed or compared.
const BODY_BYTES_MAX: u64 = 64 << 20;
/// How often a put is made whose record is then found absent.
const PUTS_MAX: u32 = 3;

/// What became of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Commit {
    /// Our record stands.
    Won,
    /// Somebody else's record stands; these are its bytes.
    Lost(Vec<u8>),
}

impl Lake {
    /// Writes `body`, which must carry a nonce of its writer, if `key` is free.
    ///
    /// # Errors
    /// When neither the put nor reading back gave an answer; whether the record stands is unknown
    /// then, and the same call may be made again.
    pub fn commit(&self, key: &Key, body: &[u8]) -> Result<Commit, Error> {
        let mut puts = 0;
        loop {
            puts += 1;
            let outcome = self.retry(Purpose::Manifest, || self.store().create(key, body));
            if matches!(outcome, Ok(Created::New)) {
                self.count_written(Purpose::Manifest, body.len() as u64);
                return Ok(Commit::Won);
            }
            match self.read(key, Purpose::Manifest, BODY_BYTES_MAX)? {
                Some(found) if found == body => return Ok(Commit::Won),
                Some(found) => return Ok(Commit::Lost(found)),
                None if puts < PUTS_MAX => {}
                None => return Err(unknown(key, self.url(), outcome)),
            }
        }
    }
}

fn unknown(key: &Key, url: &str, outcome: Result<Created, Error>) -> Error {
    outcome.err().unwrap_or_else(|| Error::Unsuited {
        url: url.to_owned(),
        why: format!("it says that {key} exists, and then that it does not"),
    })
}
