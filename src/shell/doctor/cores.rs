//! Which cores exist, what slows them, and who else interrupts them.

use std::collections::{BTreeMap, BTreeSet};

use super::finding::Finding;
use super::host::Host;
use crate::config::parse_cores;

pub(super) fn listed(cores: &BTreeSet<u32>) -> String {
    cores.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// The cores that processes here may use, and those that the machine has.
pub(super) fn usable(host: &Host) -> Option<(BTreeSet<u32>, BTreeSet<u32>)> {
    let list = |text: Option<String>| text.as_deref().and_then(parse_cores);
    let allowed = host.read("/proc/self/status").and_then(|text| {
        text.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).map(ToOwned::to_owned)
    });
    // The mask may name cores that the machine does not have.
    match (list(allowed), list(host.read("/sys/devices/system/cpu/online"))) {
        (Some(allowed), Some(online)) => Some((allowed.intersection(&online).copied().collect(), online)),
        (Some(cores), None) | (None, Some(cores)) => Some((cores.clone(), cores)),
        (None, None) => None,
    }
}

/// Whether Pinion may pin a thread to each of the cores that were named. It refuses a `--placement` with one
/// that it may not use.
pub(super) fn named(host: &Host, named: &BTreeSet<u32>) -> Finding {
    let name = "cores";
    let Some((usable, present)) = usable(host) else {
        return Finding::unknown(name, "the kernel does not tell which there are");
    };
    let absent: BTreeSet<u32> = named.difference(&present).copied().collect();
    let forbidden: BTreeSet<u32> = named.difference(&usable).copied().collect();
    if !absent.is_empty() {
        Finding::fail(
            name,
            format!("--cores names {}, and this machine has {}", listed(&absent), listed(&present)),
            "--placement with a core that is not there is refused: name ones that are",
        )
    } else if !forbidden.is_empty() {
        Finding::fail(
            name,
            format!("--cores names {}, and processes here may use {}", listed(&forbidden), listed(&usable)),
            "--placement with such a core is refused: widen CPUAffinity, the cpuset or taskset, or name others",
        )
    } else {
        Finding::pass(name, format!("{} may be used", listed(&usable)))
    }
}

/// Frequency governors other than `performance`.
pub(super) fn governor(host: &Host) -> Finding {
    let name = "frequency governor";
    let mut slow: BTreeMap<String, u32> = BTreeMap::new();
    let mut seen = 0;
    for cpu in host.names("/sys/devices/system/cpu") {
        let path = format!("/sys/devices/system/cpu/{cpu}/cpufreq/scaling_governor");
        let Some(governor) = host.read(&path) else { continue };
        seen += 1;
        if governor != "performance" {
            *slow.entry(governor).or_default() += 1;
        }
    }
    match (seen, slow.first_key_value()) {
        (0, _) => Finding::unknown(name, "no cpufreq here: a virtual machine, or set by the firmware"),
        (_, None) => Finding::pass(name, format!("performance on {seen} cores")),
        (_, Some((governor, count))) => Finding::warn(
            name,
            format!("{governor} on {count} of {seen} cores"),
            "a core that sleeps between two requests wakes slowly: cpupower frequency-set -g performance",
        ),
    }
}

/// A wake-up that takes longer is a good part of a put.
const WAKE_US_MAX: u64 = 50;

/// How deep an idle core sleeps.
pub(super) fn idle(host: &Host) -> Finding {
    let name = "C-states";
    let states = host.names("/sys/devices/system/cpu/cpu0/cpuidle");
    let slow = states.iter().filter_map(|state| {
        let dir = format!("/sys/devices/system/cpu/cpu0/cpuidle/{state}");
        let is_used = host.number(&format!("{dir}/disable")) != Some(1);
        let name = host.read(&format!("{dir}/name")).unwrap_or_else(|| state.clone());
        host.number(&format!("{dir}/latency")).filter(|_| is_used).map(|latency| (latency, name))
    });
    match slow.max() {
        None => Finding::unknown(name, "no states are told: a virtual machine, or the firmware decides"),
        Some((latency, state)) if latency <= WAKE_US_MAX => {
            Finding::pass(name, format!("the deepest is {state}, {latency} µs to wake"))
        }
        Some((latency, state)) => Finding::warn(
            name,
            format!("{state} takes {latency} µs to wake"),
            "every request that meets an idle core waits for it: cpupower idle-set -D 50, or --spin-before-park",
        ),
    }
}

/// Two threads of one core share what a spinning thread uses up.
pub(super) fn smt(host: &Host) -> Finding {
    let name = "SMT";
    match host.number("/sys/devices/system/cpu/smt/active") {
        None => Finding::unknown(name, "the kernel does not tell"),
        Some(0) => Finding::pass(name, "off or not there"),
        Some(_) => {
            let siblings =
                host.read("/sys/devices/system/cpu/cpu0/topology/thread_siblings_list").unwrap_or_default();
            Finding::warn(
                name,
                format!("on; cpu 0 shares its core with {siblings}"),
                "place raft, log and store on different physical cores (--placement)",
            )
        }
    }
}

/// The numbers of the nodes that memory is on.
pub(super) fn nodes(host: &Host) -> Vec<u32> {
    let names = host.names("/sys/devices/system/node");
    names.iter().filter_map(|name| name.strip_prefix("node")?.parse().ok()).collect()
}

/// Memory of another node costs every access.
pub(super) fn numa(host: &Host) -> Finding {
    let name = "NUMA";
    match nodes(host).len() {
        0 => Finding::unknown(name, "the kernel does not tell"),
        1 => Finding::pass(name, "one node"),
        count => {
            let cores = host.read("/sys/devices/system/node/node0/cpulist").unwrap_or_default();
            Finding::warn(
                name,
                format!("{count} nodes; node 0 has cores {cores}"),
                "keep all roles on one node: numactl --cpunodebind=0 --membind=0 pinion …",
            )
        }
    }
}

/// A CPU quota stops all roles at once when it is used up, for up to its period.
pub(super) fn quota(host: &Host) -> Finding {
    let name = "CPU quota";
    let group = host
        .read("/proc/self/cgroup")
        .and_then(|text| text.lines().find_map(|line| line.strip_prefix("0::")).map(ToOwned::to_owned));
    let v2 =
        group.and_then(|group| host.read(&format!("/sys/fs/cgroup{}/cpu.max", group.trim_end_matches('/'))));
    let v1 = host.read("/sys/fs/cgroup/cpu/cpu.cfs_quota_us");
    match (v2.as_deref(), v1.as_deref()) {
        (None, None) => Finding::unknown(name, "no CPU controller is visible"),
        (Some(text), _) if text.starts_with("max") => Finding::pass(name, "none"),
        (None, Some("-1")) => Finding::pass(name, "none"),
        (Some(text), _) | (None, Some(text)) => Finding::warn(
            name,
            format!("{text} (quota and period in µs)"),
            "a used-up quota stops every role for the rest of the period: give whole cores instead",
        ),
    }
}

/// Cores that serve the interrupts of disks and network cards.
pub(super) fn interrupted(host: &Host) -> Option<BTreeSet<u32>> {
    let table = host.read("/proc/interrupts")?;
    let mut disk_or_net: BTreeSet<u32> = BTreeSet::new();
    for line in table.lines() {
        let Some((number, rest)) = line.trim().split_once(':') else { continue };
        let is_device =
            ["nvme", "virtio", "ahci", "scsi", "sd", "eth", "ens", "enp", "mlx", "ixgbe", "i40e", "ice"]
                .iter()
                .any(|driver| rest.split([' ', ',']).any(|word| word.starts_with(driver)));
        if !is_device || number.parse::<u32>().is_err() {
            continue;
        }
        let effective = host
            .read(&format!("/proc/irq/{number}/effective_affinity_list"))
            .or_else(|| host.read(&format!("/proc/irq/{number}/smp_affinity_list")));
        if let Some(cores) = effective.as_deref().and_then(parse_cores) {
            disk_or_net.extend(cores);
        }
    }
    Some(disk_or_net)
}

/// Whose interrupts the pinned cores take. Without pinned cores it only says who takes the disk's.
pub(super) fn interrupts(host: &Host, pinned: &BTreeSet<u32>) -> Finding {
    let name = "interrupts";
    let Some(disk_or_net) = interrupted(host) else {
        return Finding::unknown(name, "/proc/interrupts cannot be read");
    };
    let both: BTreeSet<u32> = disk_or_net.intersection(pinned).copied().collect();
    if disk_or_net.is_empty() {
        Finding::unknown(name, "no interrupts of disks or network cards were recognised")
    } else if pinned.is_empty() {
        Finding::unknown(
            name,
            format!(
                "disks and network interrupt cores {}; --cores tells which are pinned",
                listed(&disk_or_net)
            ),
        )
    } else if both.is_empty() {
        Finding::pass(name, format!("disks and network interrupt cores {}", listed(&disk_or_net)))
    } else {
        Finding::warn(
            name,
            format!("disks or network interrupt pinned cores {}", listed(&both)),
            "a flush may wait a whole tick behind a busy core: echo other cores into /proc/irq/N/smp_affinity_list",
        )
    }
}
