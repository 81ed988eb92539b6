//! An object on its way into the lake.

use std::io;

use forebay_types::Key;

use crate::{Error, Lake, ObjectWriter, Purpose};

/// An object on its way into the lake. Dropping it leaves nothing.
pub struct LakeWriter {
    lake: Lake,
    key: Key,
    purpose: Purpose,
    writer: Box<dyn ObjectWriter>,
    bytes: u64,
    /// What is written after a failure would follow a hole.
    failed: bool,
}

impl LakeWriter {
    pub(crate) fn new(
        lake: Lake,
        key: Key,
        purpose: Purpose,
        writer: Box<dyn ObjectWriter>,
    ) -> Self {
        Self { lake, key, purpose, writer, bytes: 0, failed: false }
    }

    /// Makes the object visible and durable; returns its length.
    ///
    /// # Errors
    /// When it could not be, or a write failed before; then there is no such object.
    pub fn finish(self) -> Result<u64, Error> {
        if self.failed {
            return Err(self.lake.unwritten(&self.key)(io::Error::other("a write failed before")));
        }
        self.writer.finish()?;
        self.lake.count_written(self.purpose, self.bytes);
        Ok(self.bytes)
    }

    /// Remembers a failure, and names the object in it.
    fn note<T>(&mut self, result: io::Result<T>) -> io::Result<T> {
        result.map_err(|error| {
            self.failed |= error.kind() != io::ErrorKind::Interrupted;
            io::Error::new(error.kind(), self.lake.unwritten(&self.key)(error))
        })
    }
}

impl io::Write for LakeWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let result = self.writer.write(bytes);
        let written = self.note(result)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        let result = self.writer.flush();
        self.note(result)
    }
}
