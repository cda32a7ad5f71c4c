//! What the kernel knows of this process, as metrics. Reads a few small files of `/proc`, and lists the
//! descriptors, so not on a core that serves anybody.

use std::fs;

use crate::metrics::{Name, Report};

/// Ticks of the kernel's clock in a second, as its interface counts them on every machine.
const TICKS_PER_SECOND: f64 = 100.0;

/// Adds what can be read. What cannot is absent.
pub(in crate::shell) fn report(report: &mut Report) {
    times(report);
    memory(report);
    descriptors(report);
    network(report);
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn times(report: &mut Report) {
    let stat = read("/proc/self/stat");
    // The name in front may hold anything; behind its bracket come the third field and those that follow.
    let Some((_, rest)) = stat.rsplit_once(')') else { return };
    let fields: Vec<f64> = rest.split_whitespace().map(|field| field.parse().unwrap_or(0.0)).collect();
    let field = |number: usize| fields.get(number - 3).copied();
    if let (Some(user), Some(system)) = (field(14), field(15)) {
        report.number(Name::ProcessCpu, [], (user + system) / TICKS_PER_SECOND);
    }
    let booted = read("/proc/stat").lines().find_map(|line| line.strip_prefix("btime ")?.parse::<f64>().ok());
    if let (Some(booted), Some(started)) = (booted, field(22)) {
        report.number(Name::ProcessStart, [], booted + started / TICKS_PER_SECOND);
    }
}

fn memory(report: &mut Report) {
    let status = read("/proc/self/status");
    for (key, name) in [("VmRSS:", Name::ProcessResident), ("VmSize:", Name::ProcessVirtual)] {
        let kib = status.lines().find_map(|line| line.strip_prefix(key)?.split_whitespace().next());
        if let Some(kib) = kib.and_then(|kib| kib.parse::<u64>().ok()) {
            report.count(name, [], kib * 1024);
        }
    }
}

fn descriptors(report: &mut Report) {
    // The listing has one of its own.
    if let Ok(listed) = fs::read_dir("/proc/self/fd") {
        let open = (listed.count() as u64).saturating_sub(1);
        report.count(Name::ProcessOpenFds, [], open);
        report.count(Name::FdUsed, [], open);
    }
    let limits = read("/proc/self/limits");
    let limit = |key: &str| {
        let line = limits.lines().find_map(|line| line.strip_prefix(key))?;
        match line.split_whitespace().next()? {
            "unlimited" => Some(u64::MAX),
            number => number.parse().ok(),
        }
    };
    if let Some(max) = limit("Max open files") {
        report.count(Name::ProcessMaxFds, [], max);
        report.count(Name::FdLimit, [], max);
    }
    if let Some(max) = limit("Max address space") {
        report.count(Name::ProcessVirtualMax, [], max);
    }
}

fn network(report: &mut Report) {
    let (mut received, mut sent) = (0, 0);
    for line in read("/proc/self/net/dev").lines() {
        let Some((_interface, numbers)) = line.split_once(':') else { continue };
        let numbers: Vec<u64> =
            numbers.split_whitespace().map(|number| number.parse().unwrap_or(0)).collect();
        received += numbers.first().copied().unwrap_or(0);
        sent += numbers.get(8).copied().unwrap_or(0);
    }
    report.count(Name::ProcessNetworkReceive, [], received);
    report.count(Name::ProcessNetworkTransmit, [], sent);
}
