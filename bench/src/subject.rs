//! What is measured: an endpoint, and the process behind it where it runs on this machine.

use std::fs;
use std::io;
use std::time::Duration;

use crate::client::{Endpoint, Observer};
use crate::findings::{Findings, Unit};
use crate::host;
use crate::report::ratio;
use crate::sys;

/// A process that we may look at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pid(pub u32);

impl Pid {
    /// CPU time of all its threads, user and system, to the kernel's tick (10 ms).
    pub(crate) fn cpu_time(self) -> io::Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0))?;
        let ticks = parse_cpu_ticks(&stat).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Duration::from_nanos(ticks * (1_000_000_000 / sys::ticks_per_s())))
    }

    /// Resident anonymous memory: heap and stacks, not the page cache behind mapped files.
    pub(crate) fn anonymous_bytes(self) -> io::Result<u64> {
        let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.0))?;
        parse_anonymous_bytes(&rollup).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

/// A server under load.
#[derive(Debug, Clone)]
pub(crate) struct Subject {
    pub endpoint: Endpoint,
    /// Without it there are no figures of the server's CPU and memory.
    pub pid: Option<Pid>,
}

impl Subject {
    pub(crate) fn anonymous_bytes(&self) -> Option<u64> {
        self.pid?.anonymous_bytes().ok()
    }
}

/// CPU time up to one moment: the server's, and the whole machine's.
#[derive(Debug, Clone, Copy)]
struct Reading {
    server: Duration,
    machine: Duration,
}

/// Reads the server's CPU time at a window's edges.
#[derive(Debug)]
pub(crate) struct CpuGauge<'a> {
    subject: &'a Subject,
    open: Option<Reading>,
    close: Option<Reading>,
}

impl<'a> CpuGauge<'a> {
    pub(crate) fn new(subject: &'a Subject) -> Self {
        Self { subject, open: None, close: None }
    }

    /// Adds what the server used for each of `count` things in the window, and what others used meanwhile,
    /// in percent of one core: above some 20 the figures are noise.
    pub(crate) fn add_to(
        &self,
        findings: &mut Findings,
        name: &str,
        count: f64,
        client: Duration,
        window_s: f64,
    ) {
        let Some((open, close)) = self.open.zip(self.close) else { return };
        let server = close.server.saturating_sub(open.server);
        let machine = close.machine.saturating_sub(open.machine);
        findings.add(name, Unit::Cpu, ratio(server.as_secs_f64() * 1e6, count));
        let others = machine.saturating_sub(server + client);
        findings.add("others' CPU", Unit::Percent, 100.0 * ratio(others.as_secs_f64(), window_s));
    }

    fn read(&self) -> Option<Reading> {
        Some(Reading { server: self.subject.pid?.cpu_time().ok()?, machine: host::machine_cpu()? })
    }
}

impl Observer for CpuGauge<'_> {
    fn on_window_open(&mut self) {
        self.open = self.read();
    }

    fn on_window_close(&mut self) {
        self.close = self.read();
    }
}

/// `utime + stime` of `/proc/PID/stat`; the name before them may hold spaces and parentheses.
fn parse_cpu_ticks(stat: &str) -> Option<u64> {
    let mut fields = stat[stat.rfind(')')? + 1..].split_ascii_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

fn parse_anonymous_bytes(rollup: &str) -> Option<u64> {
    let rest = rollup.lines().find_map(|line| line.strip_prefix("Anonymous:"))?;
    Some(rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_files_are_read_as_the_kernel_writes_them() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 9 0 100 0 0";
        assert_eq!(parse_cpu_ticks(stat), Some(300));
        let rollup = "Rss:   10 kB\nAnonymous:          1000 kB\nLazyFree: 0 kB\n";
        assert_eq!(parse_anonymous_bytes(rollup), Some(1_024_000));
        let ours = Pid(std::process::id());
        assert!(0 < ours.anonymous_bytes().unwrap());
        assert!(ours.cpu_time().is_ok());
    }
}
