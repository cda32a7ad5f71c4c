//! The checks. Kernel, limits and memory are here; cores and disk have files
//! of their own.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::finding::Finding;
use super::host::Host;
use super::{cores, disk};

/// Every check, in the order in which they matter.
pub(super) fn all(host: &Host, data_dir: &Path, pinned: &BTreeSet<u32>) -> Vec<Finding> {
    let mount = disk::mount_of(host, &existing_above(data_dir));
    let mount = mount.as_ref();
    vec![
        kernel(host),
        io_uring(host),
        locked_memory(host),
        open_files(host),
        disk::directory(data_dir),
        disk::file_system(mount),
        disk::options(mount),
        disk::write_cache(host, mount),
        disk::rotational(host, mount),
        swap(host),
        huge_pages(host),
        cores::named(host, pinned),
        cores::governor(host),
        cores::idle(host),
        cores::smt(host),
        cores::numa(host),
        cores::quota(host),
        cores::interrupts(host, pinned),
        clock_source(host),
        accept_queue(host),
    ]
}

/// The nearest directory above that exists, absolute: the data directory is made at the first start.
pub(super) fn existing_above(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| PathBuf::from("/"));
    let existing = absolute.ancestors().find_map(|dir| dir.canonicalize().ok());
    existing.unwrap_or_else(|| PathBuf::from("/"))
}

/// io_uring as glommio uses it came with 5.8.
fn kernel(host: &Host) -> Finding {
    let name = "kernel";
    let Some(release) = host.read("/proc/sys/kernel/osrelease") else {
        return Finding::unknown(name, "no /proc: is this Linux?");
    };
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) if (major, minor) >= (5, 8) => Finding::pass(name, release),
        (Some(_), Some(_)) => Finding::fail(name, release, "io_uring needs Linux 5.8 or newer"),
        _ => Finding::unknown(name, release),
    }
}

fn io_uring(host: &Host) -> Finding {
    let name = "io_uring";
    match host.number("/proc/sys/kernel/io_uring_disabled") {
        None => Finding::pass(
            name,
            "this kernel has no switch to forbid it (a container's seccomp profile still may)",
        ),
        Some(0) => Finding::pass(name, "allowed (a container's seccomp profile still may forbid it)"),
        Some(1) => Finding::warn(
            name,
            "for privileged processes and one group only",
            "put the service's group into kernel.io_uring_group, or: sysctl kernel.io_uring_disabled=0",
        ),
        Some(found) => Finding::fail(name, "forbidden for all", "sysctl kernel.io_uring_disabled=0")
            .fixed_by("/proc/sys/kernel/io_uring_disabled", "0", found.to_string()),
    }
}

/// Soft limit of a line in `/proc/self/limits`; `u64::MAX` is unlimited.
fn limit(host: &Host, name: &str) -> Option<u64> {
    let limits = host.read("/proc/self/limits")?;
    let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
    let soft = line.split_whitespace().next()?;
    if soft == "unlimited" { Some(u64::MAX) } else { soft.parse().ok() }
}

/// What one executor's rings lock.
const EXECUTOR_LOCKED_BYTES: u64 = 512 << 10;

fn locked_memory(host: &Host) -> Finding {
    let name = "locked memory";
    // One executor a core at most, and never fewer than the roles of the smallest plan.
    let executors = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    let wanted = executors * EXECUTOR_LOCKED_BYTES;
    match limit(host, "Max locked memory") {
        None => Finding::unknown(name, "the limit cannot be read"),
        Some(u64::MAX) => Finding::pass(name, "unlimited"),
        Some(bytes) if bytes >= wanted => Finding::pass(name, format!("{} KiB", bytes >> 10)),
        Some(bytes) if bytes < EXECUTOR_LOCKED_BYTES => Finding::fail(
            name,
            format!("{} KiB", bytes >> 10),
            "each executor needs 512 KiB: ulimit -l unlimited, or LimitMEMLOCK=infinity in the unit",
        ),
        Some(bytes) => Finding::warn(
            name,
            format!("{} KiB for up to {executors} executors", bytes >> 10),
            "each executor needs 512 KiB: ulimit -l unlimited, or LimitMEMLOCK=infinity in the unit",
        ),
    }
}

fn open_files(host: &Host) -> Finding {
    let name = "open files";
    match limit(host, "Max open files") {
        None => Finding::unknown(name, "the limit cannot be read"),
        Some(count) if count >= 16_384 => Finding::pass(name, count.to_string()),
        Some(count) => Finding::warn(
            name,
            count.to_string(),
            "each client connection is one: ulimit -n 65536, or LimitNOFILE=65536 in the unit",
        ),
    }
}

/// A swapped-out page of the index stops the store for a disk read.
fn swap(host: &Host) -> Finding {
    let name = "swap";
    let Some(table) = host.read("/proc/swaps") else {
        return Finding::unknown(name, "the kernel does not tell");
    };
    match table.lines().skip(1).count() {
        0 => Finding::pass(name, "none"),
        count => Finding::warn(
            name,
            format!("{count} in use"),
            "one page of the index in swap stops every request: swapoff -a, or MemorySwapMax=0 in the unit",
        ),
    }
}

fn huge_pages(host: &Host) -> Finding {
    let name = "huge pages";
    let Some(mode) = host.chosen("/sys/kernel/mm/transparent_hugepage/enabled") else {
        return Finding::unknown(name, "the kernel has none");
    };
    if mode != "always" {
        return Finding::pass(name, mode);
    }
    Finding::warn(
        name,
        "always",
        "memory grows in steps of 2 MiB, and the kernel pauses the process to make them: \
         echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
    )
    .fixed_by("/sys/kernel/mm/transparent_hugepage/enabled", "madvise", mode)
}

/// Without the TSC each reading of the clock is a system call, and every request reads it.
fn clock_source(host: &Host) -> Finding {
    let name = "clock source";
    match host.read("/sys/devices/system/clocksource/clocksource0/current_clocksource").as_deref() {
        None => Finding::unknown(name, "the kernel does not tell"),
        Some(source @ ("tsc" | "kvm-clock" | "arch_sys_counter" | "hyperv_clocksource_tsc_page")) => {
            Finding::pass(name, source)
        }
        Some(source) => Finding::warn(
            name,
            source,
            "reading the clock is a system call here: see clocksource= of the kernel",
        ),
    }
}

fn accept_queue(host: &Host) -> Finding {
    let name = "accept queue";
    match host.number("/proc/sys/net/core/somaxconn") {
        None => Finding::unknown(name, "the kernel does not tell"),
        Some(length) if length >= 1_024 => Finding::pass(name, length.to_string()),
        Some(length) => Finding::warn(
            name,
            length.to_string(),
            "connections are refused when many clients return at once: sysctl net.core.somaxconn=4096",
        )
        .fixed_by("/proc/sys/net/core/somaxconn", "4096", length.to_string()),
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
pub(super) use tests::Described;
