//! The number of this process, without asking the kernel each time.
//!
//! Whoever holds locks or threads must know when it was copied into a forked child, and some ask for
//! every batch. The number is kept on a page of memory that the kernel wipes in a forked child
//! (`MADV_WIPEONFORK`, Linux 4.14), so it cannot be the parent's there, however the child was made.
//! Where there is no such page, the kernel is asked.

use std::sync::atomic::{AtomicU32, Ordering};

/// The number of this process.
#[must_use]
pub fn process_id() -> u32 {
    let Some(known) = page() else {
        return std::process::id();
    };
    match known.load(Ordering::Relaxed) {
        0 => {
            let process = std::process::id();
            known.store(process, Ordering::Relaxed);
            process
        }
        process => process,
    }
}

/// The number's place on the page that forks wipe; 0 until it is known.
#[cfg(all(target_os = "linux", not(miri)))]
fn page() -> Option<&'static AtomicU32> {
    use std::{ptr::null_mut, sync::OnceLock};

    use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

    static PAGE: OnceLock<Option<&'static AtomicU32>> = OnceLock::new();
    const PAGE_BYTES: usize = 4096;
    *PAGE.get_or_init(|| {
        let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // SAFETY: a mapping at an address of the kernel's choice touches no other memory.
        let page = unsafe { mmap_anonymous(null_mut(), PAGE_BYTES, access, flags) }.ok()?;
        // SAFETY: the range is the mapping made above, which nobody else knows. Its content may
        // become zero, which is a value of what is read there.
        if unsafe { madvise(page, PAGE_BYTES, Advice::LinuxWipeOnFork) }.is_err() {
            // SAFETY: as above, and it is not used again.
            let _ = unsafe { munmap(page, PAGE_BYTES) };
            return None;
        }
        // SAFETY: the page is aligned, readable, writable, zeroed, and never unmapped.
        Some(unsafe { AtomicU32::from_ptr(page.cast()) })
    })
}

#[cfg(not(all(target_os = "linux", not(miri))))]
fn page() -> Option<&'static AtomicU32> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_what_the_kernel_says() {
        assert_eq!([process_id(), process_id()], [std::process::id(); 2]);
    }

    /// What a fork does to it, by wiping the page as the kernel does.
    #[test]
    fn a_wiped_page_is_filled_again() {
        if let Some(known) = page() {
            known.store(0, Ordering::Relaxed);
        }
        assert_eq!(process_id(), std::process::id());
    }
}
