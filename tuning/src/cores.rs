//! Which cores exist, what slows them, and who else interrupts them.

use std::collections::{BTreeMap, BTreeSet};

use crate::check::Finding;
use crate::host::Host;

/// Reads Linux's list form, `0-2,5`. White space around is left out, and empty text is an empty list.
pub(crate) fn parse_list(text: &str) -> Option<BTreeSet<u32>> {
    let mut cores = BTreeSet::new();
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        // Linux has at most 8,192; a larger range is a typing error and not worth its memory.
        if first > last || last > 8_191 {
            return None;
        }
        cores.extend(first..=last);
    }
    Some(cores)
}

fn listed(cores: &BTreeSet<u32>) -> String {
    cores.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// Whether Pinion may pin a thread to each of the cores that were named. It refuses a `--placement` with one
/// that it may not use.
pub(crate) fn named(host: &Host, named: &BTreeSet<u32>) -> Finding {
    let name = "cores";
    let list = |text: Option<String>| text.as_deref().and_then(parse_list);
    let allowed = host.read("/proc/self/status").and_then(|text| {
        text.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).map(ToOwned::to_owned)
    });
    let online = list(host.read("/sys/devices/system/cpu/online"));
    // The mask may name cores that the machine does not have.
    let usable = match (list(allowed), online.clone()) {
        (Some(allowed), Some(online)) => allowed.intersection(&online).copied().collect(),
        (Some(cores), None) | (None, Some(cores)) => cores,
        (None, None) => return Finding::unknown(name, "the kernel does not tell which there are"),
    };
    let present = online.as_ref().unwrap_or(&usable);
    let absent: BTreeSet<u32> = named.difference(present).copied().collect();
    let forbidden: BTreeSet<u32> = named.difference(&usable).copied().collect();
    if !absent.is_empty() {
        Finding::fail(
            name,
            format!("--cores names {}, and this machine has {}", listed(&absent), listed(present)),
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
pub(crate) fn governor(host: &Host) -> Finding {
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

/// Two threads of one core share what a spinning thread uses up.
pub(crate) fn smt(host: &Host) -> Finding {
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

/// Memory of another node costs every access.
pub(crate) fn numa(host: &Host) -> Finding {
    let name = "NUMA";
    let nodes: Vec<String> = host
        .names("/sys/devices/system/node")
        .into_iter()
        .filter(|entry| entry.strip_prefix("node").is_some_and(|number| number.parse::<u32>().is_ok()))
        .collect();
    match nodes.len() {
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
pub(crate) fn quota(host: &Host) -> Finding {
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

/// Whose interrupts the pinned cores take. Without pinned cores it only says who takes the disk's.
pub(crate) fn interrupts(host: &Host, pinned: &BTreeSet<u32>) -> Finding {
    let name = "interrupts";
    let Some(table) = host.read("/proc/interrupts") else {
        return Finding::unknown(name, "/proc/interrupts cannot be read");
    };
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
        if let Some(cores) = effective.as_deref().and_then(parse_list) {
            disk_or_net.extend(cores);
        }
    }
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
