//! Telling how far an indexing has come.

/// Who is told. Called from many threads, often: it must be quick.
pub trait Progress: Sync {
    /// `done_bytes` more of `total_bytes` of files are looked through. A file that was surveyed
    /// before counts at once.
    fn add(&self, done_bytes: u64, total_bytes: u64);
}

/// Tells nobody.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn add(&self, _: u64, _: u64) {}
}
