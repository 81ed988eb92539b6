//! What every stage of one preparation needs: settings, limits, and a way to run pure tasks.

use std::sync::{Mutex, MutexGuard, PoisonError};

use forebay_format::v1::dataset::TokenSchema;
use forebay_runtime::Runtime;
use forebay_types::{Digest, DigestWriter, Split};

use crate::{Error, Progress, Recipe, raw::CHUNK_BYTES, source::Source, tokenizer::Tokenizer};

/// One preparation under way.
pub(crate) struct Job<'a> {
    pub(crate) recipe: &'a Recipe,
    pub(crate) runtime: &'a Runtime,
    pub(crate) progress: &'a dyn Progress,
    pub(crate) tokenizer: &'a Tokenizer,
    pub(crate) schema: TokenSchema,
    pub(crate) sources: &'a [Source],
    pub(crate) digests: &'a [Digest],
    pub(crate) limits: Limits,
}

/// How `memory_bytes` is shared out. None of these numbers changes the result.
///
/// The largest record counts, not the usual one, so that no input can exceed the limit. Two
/// tables come on top and grow with the data: 24 bytes for each MiB of text, and two kilobytes
/// for each shard.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Workers that clean: each holds a chunk, a text, and what is made of them.
    pub(crate) cleaners: usize,
    /// Workers that tokenize: each holds a chunk and the tokens of a document.
    pub(crate) tokenizers: usize,
    /// Workers that write shards: each holds one, and a copy while it ends.
    pub(crate) writers: usize,
    /// Workers that look for duplicates.
    pub(crate) deduplicators: usize,
    /// What a worker may hold back for all lanes together.
    pub(crate) lane_bytes: usize,
    /// What one worker loads at once of a partition of digests.
    pub(crate) pass_bytes: u64,
    /// What is loaded at once of a bucket of rows.
    pub(crate) bucket_bytes: u64,
}

impl Limits {
    pub(crate) fn new(recipe: &Recipe, workers: usize, memory_bytes: u64) -> Result<Self, Error> {
        let workers = workers.max(1) as u64;
        let record = recipe.record_bytes_max;
        let chunk = record + CHUNK_BYTES as u64;
        // A quarter for lanes and passes; the rest for the workers of the stage that runs.
        let (shared, own) = (memory_bytes / 4, memory_bytes - memory_bytes / 4);
        let (clean, tokenize, write) = (4 * chunk, chunk + 8 * record, 2 * recipe.shard_bytes);
        let needed_bytes = clean.max(tokenize).max(write).div_ceil(3) * 4;
        if memory_bytes < needed_bytes {
            return Err(Error::Memory { given_bytes: memory_bytes, needed_bytes });
        }
        let fitting = |each: u64| (own / each).clamp(1, workers) as usize;
        Ok(Self {
            cleaners: fitting(clean),
            tokenizers: fitting(tokenize),
            writers: fitting(write),
            deduplicators: workers as usize,
            lane_bytes: (shared / 2 / workers) as usize,
            pass_bytes: (shared / 2 / workers).max(1),
            bucket_bytes: shared / 2,
        })
    }
}

impl Job<'_> {
    /// Runs pure tasks, see [`tasks`].
    pub(crate) fn tasks(
        &self,
        name: &str,
        workers: usize,
        count: usize,
        task: impl Fn(usize) -> Result<(), Error> + Sync,
    ) -> Result<(), Error> {
        self.runtime.tasks(name, workers, count, task)
    }

    /// The split of a document: by its group, if it has one, and by its text otherwise.
    pub(crate) fn split(&self, group: Option<&str>, text: Digest) -> Split {
        let mut hash = DigestWriter::for_context("forebay dataset 1: split of a document");
        hash.update(&self.recipe.seed.to_le_bytes());
        match group {
            Some(group) => hash.update(b"group").update(group.as_bytes()),
            None => hash.update(b"text").update(text.as_bytes()),
        };
        let unit = (first_u64(&hash.finish()) >> 11) as f64 / (1u64 << 53) as f64;
        if unit < self.recipe.validation_share { Split::Validation } else { Split::Train }
    }
}

/// The first eight bytes of a digest as a number.
pub(crate) fn first_u64(digest: &Digest) -> u64 {
    let (first, _) = digest.as_bytes().split_first_chunk().expect("a digest has 32 bytes");
    u64::from_be_bytes(*first)
}

/// Locks, also after a panic elsewhere: that panic is carried to the caller anyway.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_decides_how_many_work_and_too_little_is_refused() {
        let recipe = Recipe::default();
        let limits = Limits::new(&recipe, 16, 512 << 20).unwrap();
        assert!(limits.cleaners < 16 && limits.writers < 16, "{limits:?}");
        let error = Limits::new(&recipe, 1, 100 << 20).unwrap_err();
        let Error::Memory { needed_bytes, .. } = error else { panic!("{error}") };
        assert_eq!(Limits::new(&recipe, 9, needed_bytes).unwrap().tokenizers, 1);
        let small = Recipe { record_bytes_max: 1 << 20, shard_bytes: 1 << 20, ..recipe };
        assert_eq!(Limits::new(&small, 16, 512 << 20).unwrap().cleaners, 16);
    }
}
