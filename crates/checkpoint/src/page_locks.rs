//! Locking the pages of captures, so that a device copies into them by itself.
//!
//! A copy from a device into memory whose pages may move goes through a buffer of its driver, and the
//! caller waits. So the memory of an arena is locked once it is there: in the background, because that
//! takes some 0.3 s for each GB. Until it is, and where it is refused, copies are slower and no less
//! right.
//!
//! A lock over memory that is no longer mapped would let a device write into what lies there next. So
//! it is taken away before memory moves, grows or goes; memory that cannot be unlocked stays mapped
//! until the process ends, and is not used again.

/// Who locks memory for a device. Called by threads of the engine.
pub trait PageLocks: Send + Sync {
    /// Locks memory whose pages are there; says whether it did.
    fn lock(&self, address: usize, bytes: usize) -> bool;

    /// Takes away the lock of the memory that was locked at `address`; says whether it did.
    fn unlock(&self, address: usize) -> bool;
}
