//! What machine a figure was measured on: without it a figure says nothing.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::disk::Device;
use crate::sys;

/// The facts that travel with every result.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Host {
    pub command: Vec<String>,
    pub date_utc: String,
    pub cpu_model: String,
    pub cores: usize,
    pub memory_bytes: u64,
    pub kernel: String,
    /// One, five and fifteen minutes, before the run: a busy machine makes noisy figures.
    pub load_average: String,
    pub directory: String,
    pub filesystem: String,
    pub device: Option<String>,
}

impl Host {
    /// Reads the facts; `dir` is where data lies.
    pub(crate) fn read(dir: &Path) -> Self {
        let file = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let memory_kib = field(&file("/proc/meminfo"), "MemTotal:")
            .and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
        let load = file("/proc/loadavg");
        let canonical = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
        Self {
            command: std::env::args().collect(),
            date_utc: date_utc(seconds),
            cpu_model: field(&file("/proc/cpuinfo"), "model name").unwrap_or_else(|| "unknown".to_owned()),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: memory_kib.unwrap_or(0) * 1024,
            kernel: file("/proc/sys/kernel/osrelease").trim().to_owned(),
            load_average: load.split_whitespace().take(3).collect::<Vec<_>>().join(" "),
            filesystem: filesystem_of(&file("/proc/self/mountinfo"), &canonical),
            device: Device::of(&canonical).map(|device| device.name),
            directory: canonical.display().to_string(),
        }
    }

    /// For people.
    pub(crate) fn lines(&self) -> String {
        format!(
            "{}\n{} cores, {}, {:.1} GiB, Linux {}, {} on {}, load {}\n",
            self.date_utc,
            self.cores,
            self.cpu_model,
            self.memory_bytes as f64 / f64::from(1 << 30),
            self.kernel,
            self.filesystem,
            self.device.as_deref().unwrap_or("no block device"),
            self.load_average,
        )
    }
}

/// CPU time that the whole machine has spent on anything, to the kernel's tick.
pub(crate) fn machine_cpu() -> Option<Duration> {
    let ticks = parse_busy_ticks(&fs::read_to_string("/proc/stat").ok()?)?;
    Some(Duration::from_nanos(ticks * (1_000_000_000 / sys::ticks_per_s())))
}

/// The first line of `/proc/stat` without idle, iowait (fields 4 and 5) and guest time (counted already).
fn parse_busy_ticks(stat: &str) -> Option<u64> {
    let fields = stat.lines().next()?.strip_prefix("cpu ")?.split_ascii_whitespace();
    let ticks: Vec<u64> = fields.map(str::parse).collect::<Result<_, _>>().ok()?;
    let busy = ticks.iter().take(8).enumerate().filter(|(slot, _)| *slot != 3 && *slot != 4);
    Some(busy.map(|(_, ticks)| ticks).sum())
}

/// The value behind `name` (and a colon) in a file of such lines.
fn field(text: &str, name: &str) -> Option<String> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(rest.trim_start_matches([' ', '\t', ':']).trim().to_owned())
}

/// The type of the mount that holds `path`: the longest mount point that is a prefix of it.
fn filesystem_of(mountinfo: &str, path: &Path) -> String {
    let mounts = mountinfo.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        Some((Path::new(before.split(' ').nth(4)?), after.split(' ').next()?))
    });
    mounts
        .filter(|(point, _)| path.starts_with(point))
        .max_by_key(|(point, _)| point.components().count())
        .map_or_else(|| "unknown".to_owned(), |(_, kind)| kind.to_owned())
}

/// `2026-03-21T10:00:00Z` of a Unix time, by the civil calendar's 400-year cycles.
fn date_utc(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Days since 0000-03-01: a year that starts in March ends with its leap day.
    let shifted = days + 719_468;
    let (cycle, day_of_cycle) = (shifted / 146_097, shifted % 146_097);
    let year_of_cycle =
        (day_of_cycle - day_of_cycle / 1_460 + day_of_cycle / 36_524 - day_of_cycle / 146_096) / 365;
    let day_of_year = day_of_cycle - (365 * year_of_cycle + year_of_cycle / 4 - year_of_cycle / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = cycle * 400 + year_of_cycle + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_the_calendars() {
        assert_eq!(date_utc(0), "1970-01-01T00:00:00Z");
        assert_eq!(date_utc(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(date_utc(1_709_251_199), "2024-02-29T23:59:59Z");
        assert_eq!(date_utc(1_709_251_200), "2024-03-01T00:00:00Z");
        assert_eq!(date_utc(4_102_444_799), "2099-12-31T23:59:59Z");
    }

    #[test]
    fn busy_time_leaves_out_idle_waiting_and_what_is_counted_twice() {
        let stat = "cpu  100 20 3 9999 9999 4 5 6 50 7\ncpu0 1 1 1 1 1 1 1 1 1 1\n";
        assert_eq!(parse_busy_ticks(stat), Some(138));
        assert!(Duration::ZERO < machine_cpu().unwrap());
    }

    #[test]
    fn the_deepest_mount_wins() {
        let mounts =
            "22 1 254:0 / / rw - ext4 /dev/vda rw\n30 22 0:25 / /tmp rw,nosuid shared:5 - tmpfs tmpfs rw\n";
        assert_eq!(filesystem_of(mounts, Path::new("/tmp/x")), "tmpfs");
        assert_eq!(filesystem_of(mounts, Path::new("/tmpx")), "ext4");
    }

    #[test]
    fn this_machine_has_a_processor_and_a_kernel() {
        let host = Host::read(Path::new("."));
        assert!(!host.kernel.is_empty());
        assert!(0 < host.cores);
        assert!(0 < host.memory_bytes);
    }
}
