//! This process's memory, as the Linux kernel counts it.

use std::fs;

/// The memory that no file stands behind: mapped shards are the page cache, and not in it.
///
/// # Panics
/// Where the system does not tell.
#[must_use]
pub fn anonymous_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}
