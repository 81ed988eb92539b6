//! How much memory may still be taken.
//!
//! What is asked for beyond it is not refused: the system gives it and then kills a process, which is
//! why whoever takes much asks here first.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// What the system can still give, and the control groups above this process allow; none where that
/// is not known.
#[must_use]
pub fn available_memory_bytes() -> Option<u64> {
    let information = fs::read_to_string("/proc/meminfo").ok()?;
    let line = information.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let available = line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? << 10;
    Some(control_groups().filter_map(|group| room_of(&group)).fold(available, u64::min))
}

/// The control groups of this process, version 2, from its own to the outermost.
fn control_groups() -> impl Iterator<Item = PathBuf> {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/")).map(str::to_owned);
    let own = own.map(|own| Path::new("/sys/fs/cgroup").join(own));
    let all =
        own.into_iter().flat_map(|own| own.ancestors().map(Path::to_owned).collect::<Vec<_>>());
    all.take_while(|path| path.starts_with("/sys/fs/cgroup"))
}

/// What the limit of a control group leaves; none without a limit. Cached pages make way.
fn room_of(group: &Path) -> Option<u64> {
    let read = |name| fs::read_to_string(group.join(name)).ok();
    let number = |text: String| text.trim().parse::<u64>().ok();
    let limit = read("memory.max").and_then(number)?;
    let current = read("memory.current").and_then(number)?;
    let cached = read("memory.stat").map_or(0, |text| inactive_file_bytes(&text));
    Some(limit.saturating_sub(current.saturating_sub(cached)))
}

fn inactive_file_bytes(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("inactive_file "));
    line.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cached_pages_of_a_control_group_are_room() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        write("memory.max", "max\n");
        write("memory.current", "700\n");
        assert_eq!(room_of(folder.path()), None);
        write("memory.max", "1000\n");
        assert_eq!(room_of(folder.path()), Some(300));
        write("memory.stat", "anon 600\ninactive_file 100\nactive_file 0\n");
        assert_eq!(room_of(folder.path()), Some(400));
    }
}
