//! Staging in the room of what is cached: that can be had again, and what is staged cannot.

use forebay_local::StagedWriter;
use forebay_types::{Digest, ErrorKind, Key};

use crate::{Error, Transfer};

impl Transfer {
    /// Reserves `bytes` for a file that will be staged as `name`. Where they are wanting, cached objects
    /// make way, those that are needed last first.
    ///
    /// # Errors
    /// Of kind [`ErrorKind::Full`] when they would not make enough: then nothing is evicted.
    pub fn stage(&self, name: &Key, bytes: u64) -> Result<StagedWriter, Error> {
        self.require_process()?;
        loop {
            let full = match self.local().stage(name, bytes) {
                Err(error) if error.kind() == ErrorKind::Full => error,
                outcome => return outcome.map_err(unstaged(name)),
            };
            let usage = self.local().usage().map_err(Error::Tier)?;
            let taken_bytes = usage.staged_bytes.saturating_add(usage.scratch_bytes);
            let is_enough = taken_bytes.saturating_add(bytes) <= usage.budget_bytes;
            // No object is spared: none has this digest.
            let nobody = Digest::of(name.as_str().as_bytes());
            if !is_enough || !self.make_room(nobody, name, None)? {
                return Err(unstaged(name)(full));
            }
        }
    }
}

fn unstaged(name: &Key) -> impl Fn(forebay_local::Error) -> Error {
    let name = name.clone();
    move |source| Error::Local { act: "stage", object: name.clone(), source }
}
