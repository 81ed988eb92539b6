//! The local tier: its file system, its room, what lies in it, and how fast it is.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
};

use forebay_local::LocalTier;
use forebay_types::ErrorKind;

use super::{PIECE_BYTES, Patient, Rates, finding::Findings, rate_of, size};
use crate::Error;

/// Less room than this measures the system's memory and not the disk.
const PROBE_BYTES_MIN: u64 = 1 << 20;

pub(super) fn examine(
    patient: &Patient<'_>,
    found: &mut Findings,
    rates: &mut Rates,
) -> Result<(), Error> {
    let settings = patient.settings;
    let before = Before::of(&settings.local);
    let tier = match LocalTier::open(&settings.local, settings.local_budget_bytes, patient.runtime)
    {
        Ok(tier) => tier,
        Err(error) => {
            let advice = "name a directory of its own on this node's fastest disk with --local";
            return found.error("opened", error.into(), advice);
        }
    };
    let restore = Restore { tier, before };
    let tier = &restore.tier;
    found.ok("opened", tier.directory().display().to_string());
    permissions(tier, found);
    file_system(tier, found);
    let outcome = room(patient, tier, found).and_then(|room_bytes| {
        staged(tier, found)?;
        throughput(patient, tier, room_bytes, found, rates)
    });
    match outcome {
        Ok(()) => Ok(()),
        Err(error) => {
            let advice = "check the disk's room, its health and access rights";
            found.error("throughput", error, advice)
        }
    }
}

/// What lay in the tier's place before we looked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Before {
    Nothing,
    Empty,
    Tier,
}

impl Before {
    fn of(directory: &Path) -> Self {
        match fs::read_dir(directory) {
            Ok(mut entries) => match entries.next() {
                None => Self::Empty,
                Some(_) => Self::Tier,
            },
            Err(_) => Self::Nothing,
        }
    }
}

/// Leaves no tier where there was none.
struct Restore {
    tier: LocalTier,
    before: Before,
}

impl Drop for Restore {
    fn drop(&mut self) {
        if self.before == Before::Tier {
            return;
        }
        // Who uses the tier by now keeps it.
        if self.tier.clear().is_ok() && self.before == Before::Nothing {
            let _not_empty = fs::remove_dir(self.tier.directory());
        }
    }
}

fn permissions(tier: &LocalTier, found: &mut Findings) {
    let Ok(metadata) = fs::metadata(tier.directory()) else { return };
    let mode = metadata.mode() & 0o777;
    if mode & 0o077 == 0 {
        found.ok("permissions", format!("{mode:o}: its owner alone"));
    } else {
        let advice = format!("chmod 700 {}", tier.directory().display());
        found.warning("permissions", format!("{mode:o}: others may enter"), advice);
    }
}

/// What the budget and the disk leave; returns how much may be written.
fn room(patient: &Patient<'_>, tier: &LocalTier, found: &mut Findings) -> Result<u64, Error> {
    let usage = tier.usage()?;
    let left_bytes = usage.budget_bytes.saturating_sub(usage.used_bytes());
    let shard_bytes = patient.settings.prepare.recipe.shard_bytes;
    let feed = &patient.settings.feed;
    let shards = u64::from(feed.canonical_streams) * u64::from(feed.window_shards);
    let at_hand_bytes = shards.saturating_mul(shard_bytes);
    let used = format!(
        "{} of {} taken: cache {}, staged {}, scratch {}",
        size(usage.used_bytes()),
        size(usage.budget_bytes),
        size(usage.cached_bytes),
        size(usage.staged_bytes),
        size(usage.scratch_bytes)
    );
    if usage.budget_bytes < shard_bytes {
        let advice = format!("raise local_budget_bytes; a shard has {}", size(shard_bytes));
        found.failure("budget", ErrorKind::Full, format!("{used}: not one shard fits"), advice);
    } else if usage.budget_bytes < at_hand_bytes {
        let advice = format!(
            "raise local_budget_bytes: a feed of a large dataset keeps {shards} shards, {}, at hand",
            size(at_hand_bytes)
        );
        found.warning("budget", used, advice);
    } else {
        found.ok("budget", used);
    }

    let directory = tier.directory();
    let disk = rustix::fs::statvfs(directory).map_err(|error| unusable(directory)(error.into()))?;
    let free_bytes = disk.f_bavail.saturating_mul(disk.f_frsize);
    let free = format!("{} free on its disk", size(free_bytes));
    if free_bytes < left_bytes {
        let advice = "free space, or lower local_budget_bytes to what the disk has: the tier \
                      evicts at its budget, not at a full disk";
        found.warning("space", free, advice);
    } else {
        found.ok("space", free);
    }
    Ok(left_bytes)
}

fn staged(tier: &LocalTier, found: &mut Findings) -> Result<(), Error> {
    let staged = tier.staged()?.into_iter().map(|staged| staged.name);
    let waiting: Vec<_> = staged.chain(tier.kept_memory()?).collect();
    match waiting.first() {
        None => found.ok("staged", "nothing waits for the lake"),
        Some(first) => found.warning(
            "staged",
            format!("{} files have not reached the lake, such as {first}", waiting.len()),
            "start the run again to drain them",
        ),
    }
    Ok(())
}

/// Writes, syncs and reads a file in scratch, which counts into the budget and goes with its owner.
fn throughput(
    patient: &Patient<'_>,
    tier: &LocalTier,
    room_bytes: u64,
    found: &mut Findings,
    rates: &mut Rates,
) -> Result<(), Error> {
    let bytes = patient.probe_bytes.min(room_bytes);
    if bytes < PROBE_BYTES_MIN.min(patient.probe_bytes) {
        let advice = "its budget is used up, as it is in mid-run; to measure it, `forebay clear`";
        found.warning("throughput", "not measured: no room within the budget", advice);
        return Ok(());
    }
    let scratch = tier.scratch("doctor")?;
    scratch.reserve(bytes)?;
    let path = scratch.path().join("probe");
    let written = patient.rate(bytes, || write(patient, &path, bytes))?;
    forget(&path)?;
    let read = patient.rate(bytes, || read(patient, &path))?;
    rates.local_write = Some(written);
    rates.local_read = Some(read);
    found.ok(
        "throughput",
        format!(
            "a file of {}: write and sync {}, read {}",
            size(bytes),
            rate_of(written),
            rate_of(read)
        ),
    );
    Ok(())
}

fn write(patient: &Patient<'_>, path: &Path, bytes: u64) -> Result<(), Error> {
    let create = || OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = create().map_err(unusable(path))?;
    patient.in_pieces(bytes, |piece| file.write_all(piece).map_err(unusable(path)))?;
    file.sync_data().map_err(unusable(path))
}

/// Lets the system drop what it keeps of the file in memory. A hint: a file system that keeps its
/// files in memory keeps them.
#[cfg(target_os = "linux")]
fn forget(path: &Path) -> Result<(), Error> {
    let file = File::open(path).map_err(unusable(path))?;
    let _hint = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn forget(_path: &Path) -> Result<(), Error> {
    Ok(())
}

fn read(patient: &Patient<'_>, path: &Path) -> Result<(), Error> {
    let mut file = File::open(path).map_err(unusable(path))?;
    let mut buffer = vec![0; PIECE_BYTES];
    while file.read(&mut buffer).map_err(unusable(path))? > 0 {
        patient.runtime.check()?;
    }
    Ok(())
}

fn unusable(path: &Path) -> impl Fn(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Unusable { path: path.clone(), source }
}

#[cfg(not(target_os = "linux"))]
fn file_system(_tier: &LocalTier, found: &mut Findings) {
    found.ok("file system", "not known on this system");
}

#[cfg(target_os = "linux")]
fn file_system(tier: &LocalTier, found: &mut Findings) {
    let Ok(status) = rustix::fs::statfs(tier.directory()) else { return };
    // The field's width and sign differ from one processor to the next; the constants have 32 bits.
    let magic = status.f_type as u32;
    let Some(&(_, name, kind)) = FILE_SYSTEMS.iter().find(|(known, ..)| *known == magic) else {
        found.ok("file system", format!("of type {magic:#x}{}", device(tier.directory())));
        return;
    };
    match kind {
        Kind::Disk => found.ok("file system", format!("{name}{}", device(tier.directory()))),
        Kind::Memory => found.warning(
            "file system",
            format!("{name}: what the tier holds takes memory"),
            "put the tier on a disk, or count its budget as the trainer's memory",
        ),
        Kind::Network => found.warning(
            "file system",
            format!("{name}: it lies on the network"),
            "put the tier on a disk of this node: it is there to spare the network",
        ),
        Kind::Layers => found.warning(
            "file system",
            format!("{name}: the container's own layer"),
            "mount a disk of the node into the container, and put the tier there",
        ),
    }
}

#[cfg(target_os = "linux")]
#[derive(Clone, Copy)]
enum Kind {
    Disk,
    Memory,
    Network,
    Layers,
}

/// `f_type` as `statfs(2)` lists it.
#[cfg(target_os = "linux")]
const FILE_SYSTEMS: [(u32, &str, Kind); 18] = [
    (0xef53, "ext4", Kind::Disk),
    (0x5846_5342, "xfs", Kind::Disk),
    (0x9123_683e, "btrfs", Kind::Disk),
    (0x2fc1_2fc1, "zfs", Kind::Disk),
    (0xf2f5_2010, "f2fs", Kind::Disk),
    (0xca45_1a4e, "bcachefs", Kind::Disk),
    (0x0102_1994, "tmpfs", Kind::Memory),
    (0x8584_58f6, "ramfs", Kind::Memory),
    (0x794c_7630, "overlayfs", Kind::Layers),
    (0x6969, "nfs", Kind::Network),
    (0xff53_4d42, "cifs", Kind::Network),
    (0xfe53_4d42, "smb2", Kind::Network),
    (0x6573_5546, "fuse", Kind::Network),
    (0x0bd0_0bd0, "lustre", Kind::Network),
    (0x00c3_6400, "ceph", Kind::Network),
    (0x4750_4653, "gpfs", Kind::Network),
    (0x1983_0326, "beegfs", Kind::Network),
    (0x0102_1997, "9p", Kind::Network),
];

/// The disk under a directory, as far as the kernel shows it.
#[cfg(target_os = "linux")]
fn device(directory: &Path) -> String {
    let describe = || {
        let number = fs::metadata(directory).ok()?.dev();
        let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
        let disk = fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok()?;
        let name = disk.file_name()?.to_str()?.to_owned();
        // A partition's queue is that of its disk.
        let queue = [disk.join("queue"), disk.parent()?.join("queue")];
        let turns = queue.iter().find_map(|q| fs::read_to_string(q.join("rotational")).ok())?;
        // Told, and not held against it: what it is worth is measured.
        let turns = if turns.trim() == "1" { ", rotating or virtual" } else { "" };
        Some(format!(" on {name}{turns}"))
    };
    describe().unwrap_or_default()
}
