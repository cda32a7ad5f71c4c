//! Where the data lies: the file system, how it is mounted, and what the device does at a flush.

use std::path::{Path, PathBuf};

use super::finding::Finding;
use super::host::Host;

/// One line of `/proc/self/mountinfo`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mount {
    pub(super) device: String,
    pub(super) point: PathBuf,
    pub(super) kind: String,
    pub(super) options: String,
}

/// Fields: id, parent, major:minor, root, mount point, options, optional ones, `-`, type, source,
/// options of the file system.
fn parse_mount(line: &str) -> Option<Mount> {
    let (front, back) = line.split_once(" - ")?;
    let front: Vec<&str> = front.split(' ').collect();
    let back: Vec<&str> = back.split(' ').collect();
    Some(Mount {
        device: (*front.get(2)?).to_owned(),
        point: PathBuf::from(front.get(4)?.replace("\\040", " ")),
        kind: (*back.first()?).to_owned(),
        options: format!("{},{}", front.get(5)?, back.get(2).unwrap_or(&"")),
    })
}

/// The mount that holds `path`, which is absolute: the longest mount point above it, the last of
/// equal ones, since it covers the others.
pub(super) fn mount_of(host: &Host, path: &Path) -> Option<Mount> {
    host.read("/proc/self/mountinfo")?
        .lines()
        .filter_map(parse_mount)
        .filter(|mount| path.starts_with(&mount.point))
        .max_by_key(|mount| mount.point.components().count())
}

/// Whether the data directory is one, or can be made where it is to be.
pub(super) fn directory(path: &Path) -> Finding {
    let name = "data directory";
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    match absolute.ancestors().find(|part| part.symlink_metadata().is_ok()) {
        Some(found) if !found.is_dir() => Finding::fail(
            name,
            format!("{} is not a directory", found.display()),
            "name another --data-dir: this one cannot be made",
        ),
        Some(found) if found == absolute => Finding::pass(name, absolute.display().to_string()),
        _ => Finding::pass(name, format!("{} will be made at the first start", absolute.display())),
    }
}

/// Types that are known to keep what a sync promised, and to have been tested under a log.
pub(super) fn file_system(mount: Option<&Mount>) -> Finding {
    let name = "file system";
    let Some(mount) = mount else {
        return Finding::unknown(name, "the data directory's mount was not found");
    };
    let at = mount.point.display();
    match mount.kind.as_str() {
        "ext4" | "xfs" => Finding::pass(name, format!("{} at {at}", mount.kind)),
        "tmpfs" | "ramfs" => Finding::fail(
            name,
            format!("{} at {at}", mount.kind),
            "memory is not durable: acknowledged writes are gone after a reboot",
        ),
        "nfs" | "nfs4" | "cifs" | "9p" | "fuse" | "virtiofs" => Finding::warn(
            name,
            format!("{} at {at}", mount.kind),
            "what a sync means is decided elsewhere; locks may not hold between machines: use a local disk",
        ),
        "btrfs" | "zfs" | "overlay" => Finding::warn(
            name,
            format!("{} at {at}", mount.kind),
            "overwriting in place is copied on write here, so every sync costs more: use ext4 or XFS",
        ),
        other => Finding::unknown(name, format!("{other} at {at}: never tried")),
    }
}

/// Mount options that take the promise out of a sync.
pub(super) fn options(mount: Option<&Mount>) -> Finding {
    let name = "mount options";
    let Some(mount) = mount else {
        return Finding::unknown(name, "the data directory's mount was not found");
    };
    let has = |wanted: &str| mount.options.split(',').any(|option| option == wanted);
    if has("ro") {
        Finding::fail(name, mount.options.clone(), "the file system is mounted read-only")
    } else if has("nobarrier") || has("barrier=0") {
        Finding::fail(
            name,
            mount.options.clone(),
            "without barriers a power cut loses acknowledged writes: remount without nobarrier",
        )
    } else if has("sync") {
        Finding::warn(
            name,
            mount.options.clone(),
            "every write syncs, also those that need not: remount async",
        )
    } else {
        Finding::pass(name, mount.options.clone())
    }
}

/// The device's queue directory; a partition's is its disk's.
fn queue(host: &Host, mount: &Mount) -> Option<String> {
    let device = host.resolved(&format!("/sys/dev/block/{}", mount.device))?;
    let own = format!("{device}/queue");
    if !host.names(&own).is_empty() {
        return Some(own);
    }
    let (disk, _) = device.rsplit_once('/')?;
    let parent = format!("{disk}/queue");
    (!host.names(&parent).is_empty()).then_some(parent)
}

/// What a sync must do: nothing, one write that is passed through, or a flush of the whole cache.
pub(super) fn write_cache(host: &Host, mount: Option<&Mount>) -> Finding {
    let name = "write cache";
    let Some(queue) = mount.and_then(|mount| queue(host, mount)) else {
        return Finding::unknown(name, "the device below the data directory is not visible");
    };
    let cache = host.read(&format!("{queue}/write_cache")).unwrap_or_default();
    let fua = host.number(&format!("{queue}/fua"));
    match (cache.as_str(), fua) {
        ("write through", _) => Finding::pass(name, "none that could be lost: a sync is one write"),
        ("write back", Some(1)) => {
            Finding::pass(name, "volatile, with FUA: --wal-sync=direct is one write a sync")
        }
        ("write back", _) => Finding::warn(
            name,
            "volatile, without FUA",
            "every sync flushes the whole cache; give the log a disk of its own (--wal-dir) or one with power-loss protection",
        ),
        _ => Finding::unknown(name, "the kernel does not tell"),
    }
}

/// A seek costs more than everything else in a put.
pub(super) fn rotational(host: &Host, mount: Option<&Mount>) -> Finding {
    let name = "device";
    let Some(queue) = mount.and_then(|mount| queue(host, mount)) else {
        return Finding::unknown(name, "the device below the data directory is not visible");
    };
    let scheduler = host.chosen(&format!("{queue}/scheduler")).unwrap_or_else(|| "none".to_owned());
    match host.number(&format!("{queue}/rotational")) {
        // Virtual disks often say that they rotate, so this is a hint and not more.
        Some(1) => Finding::warn(
            name,
            format!("says that it rotates; scheduler {scheduler}"),
            "if it truly does, a sync costs a rotation, 4 to 8 ms: use an SSD",
        ),
        Some(_) if matches!(scheduler.as_str(), "none" | "mq-deadline" | "kyber") => {
            Finding::pass(name, format!("does not rotate; scheduler {scheduler}"))
        }
        Some(_) => Finding::warn(
            name,
            format!("does not rotate; scheduler {scheduler}"),
            "a fair scheduler holds a lone sync back: echo none > /sys/block/…/queue/scheduler",
        ),
        None => Finding::unknown(name, "the kernel does not tell"),
    }
}
