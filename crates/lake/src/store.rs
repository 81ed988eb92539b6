//! The trait of an engine: what every lake must be able to do, and nothing more.

use std::{fmt, fs::File, io, path::Path};

use forebay_types::Key;

use crate::Error;

/// Immutable objects below a root. Calls block and may come from any thread.
///
/// It is not a file system: there are no directories, no renames, no appends and no partial
/// writes; an object is there whole or not at all.
pub trait Store: Send + Sync + fmt::Debug {
    /// The store's address, for people.
    fn url(&self) -> &str;

    /// The length of an object in bytes; `None` if there is none.
    ///
    /// # Errors
    /// When the store cannot say.
    fn size(&self, key: &Key) -> Result<Option<u64>, Error>;

    /// Fills `into` with the object's bytes from `offset` on.
    ///
    /// # Errors
    /// [`Error::Truncated`] when the object ends before `into` is full.
    fn read_range(&self, key: &Key, offset: u64, into: &mut [u8]) -> Result<(), Error>;

    /// Says that a stretch of an object is going to be read soon. An engine overrides this if it can do
    /// something about it without a wait.
    fn will_read(&self, key: &Key, offset: u64, bytes: u64) {
        let _ = (key, offset, bytes);
    }

    /// A whole object of at most `bytes_max` bytes; `None` if there is none. An engine overrides
    /// this if one request can say how long an object is and give it.
    ///
    /// # Errors
    /// [`Error::TooLarge`] when it is larger.
    fn read_whole(&self, key: &Key, bytes_max: u64) -> Result<Option<Vec<u8>>, Error> {
        let Some(length) = self.size(key)? else { return Ok(None) };
        if length > bytes_max {
            return Err(Error::TooLarge { key: key.clone(), length, limit: bytes_max });
        }
        let mut bytes = vec![0; length as usize];
        self.read_range(key, 0, &mut bytes)?;
        Ok(Some(bytes))
    }

    /// Starts an object that becomes visible, whole and durable, when its writer is finished.
    /// Dropping the writer leaves nothing.
    ///
    /// # Errors
    /// When the store cannot be written.
    fn writer(&self, key: &Key) -> Result<Box<dyn ObjectWriter>, Error>;

    /// Writes a whole object; durable on return. It is one attempt: an engine overrides this if its
    /// writers try again by themselves.
    ///
    /// # Errors
    /// When the store cannot be written.
    fn put(&self, key: &Key, body: &[u8]) -> Result<(), Error> {
        let mut writer = self.writer(key)?;
        writer.write_all(body).map_err(|source| Error::Object {
            act: "write",
            key: key.clone(),
            place: self.url().to_owned(),
            source,
        })?;
        writer.finish()
    }

    /// Writes a small object if there is none of this key; durable on return.
    ///
    /// # Errors
    /// When the store cannot be written. The object may be there all the same.
    fn create(&self, key: &Key, body: &[u8]) -> Result<Created, Error>;

    /// Makes `to` an object with the `bytes` bytes of `from`, without their passing through this
    /// process; says whether this engine can do that with such an object. An object `to` that is
    /// there may stay: the keys of payload name its content.
    ///
    /// # Errors
    /// When there is no `from`, or the store cannot be written.
    fn copy(&self, from: &Key, to: &Key, bytes: u64) -> Result<bool, Error> {
        let _ = (from, to, bytes);
        Ok(false)
    }

    /// Whether a request travels, so that a few large ones are better than many small ones.
    fn is_remote(&self) -> bool {
        true
    }

    /// Whether [`Store::adopt`] may do something with files of a directory.
    fn adopts(&self, directory: &Path) -> bool {
        let _ = directory;
        false
    }

    /// Makes `key` an object with the bytes of `file`, which is durable and never written again, without
    /// copying them; says whether this engine can do that with such a file. An object that is there may
    /// stay, as in [`Store::copy`].
    ///
    /// # Errors
    /// When the store cannot be written.
    fn adopt(&self, file: &File, key: &Key) -> Result<bool, Error> {
        let _ = (file, key);
        Ok(false)
    }

    /// Calls `visit` for every object whose key starts with `prefix`, in no order.
    ///
    /// # Errors
    /// What `visit` returns, or when the store cannot list.
    fn list(
        &self,
        prefix: &str,
        visit: &mut dyn FnMut(Listed) -> Result<(), Error>,
    ) -> Result<(), Error>;

    /// Deletes an object; says whether there was one.
    ///
    /// # Errors
    /// When it cannot be deleted.
    fn delete(&self, key: &Key) -> Result<bool, Error>;
}

/// An object on its way into a store.
pub trait ObjectWriter: io::Write + Send {
    /// Makes the object visible and durable.
    ///
    /// # Errors
    /// When it could not be; then there is no such object.
    fn finish(self: Box<Self>) -> Result<(), Error>;
}

/// What a create found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Created {
    /// There was none; it is ours.
    New,
    /// There is one already, maybe ours.
    Exists,
}

/// One listed object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its key.
    pub key: Key,
    /// Its length.
    pub bytes: u64,
    /// When it was written, in milliseconds since 1970.
    pub modified_unix_ms: u64,
}
