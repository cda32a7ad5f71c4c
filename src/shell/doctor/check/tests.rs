//! Hosts described in directories, and what is found on them.

use std::fs;

use super::*;
use crate::config::parse_cores;
use crate::shell::doctor::finding::Verdict;

pub(in super::super) struct Described(PathBuf);

impl Described {
    /// A host with these files, in a directory that is named after the test.
    pub(in super::super) fn new(test: &str, files: &[(&str, &str)]) -> (Self, Host) {
        let root = std::env::temp_dir().join(format!("pinion-doctor-{test}-{}", std::process::id()));
        for (path, text) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        fs::create_dir_all(&root).unwrap();
        let host = Host::described_in(&root);
        (Self(root), host)
    }
}

impl Drop for Described {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("{}: {error}", self.0.display());
        }
    }
}

#[test]
fn kernel_before_5_8_fails_and_later_ones_pass() {
    for (release, verdict) in [
        ("5.7.19", Verdict::Fail),
        ("4.19.0-27-amd64", Verdict::Fail),
        ("5.8.0", Verdict::Pass),
        ("6.18.5+", Verdict::Pass),
        ("6.1-rc1", Verdict::Pass),
        ("nonsense", Verdict::Unknown),
    ] {
        let (_dir, host) = Described::new("kernel", &[("proc/sys/kernel/osrelease", release)]);
        assert_eq!(kernel(&host).verdict, verdict, "{release}");
    }
}

#[test]
fn forbidden_io_uring_fails_and_a_missing_switch_passes() {
    for (text, verdict) in [("0\n", Verdict::Pass), ("1\n", Verdict::Warn), ("2\n", Verdict::Fail)] {
        let (_dir, host) = Described::new("uring", &[("proc/sys/kernel/io_uring_disabled", text)]);
        assert_eq!(io_uring(&host).verdict, verdict, "{text}");
    }
    let (_dir, host) = Described::new("uring-none", &[]);
    assert_eq!(io_uring(&host).verdict, Verdict::Pass);
}

#[test]
fn limits_are_read_from_the_soft_column() {
    let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                  Max open files            1024                 524288               files     \n\
                  Max locked memory         65536                unlimited            bytes     \n";
    let (_dir, host) = Described::new("limits", &[("proc/self/limits", limits)]);
    assert_eq!(open_files(&host).verdict, Verdict::Warn);
    assert_eq!(locked_memory(&host).verdict, Verdict::Fail);
    assert_eq!(limit(&host, "Max locked memory"), Some(65_536));
}

#[test]
fn mount_of_the_data_is_the_nearest_one_above_it() {
    let mounts = "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro\n\
                  30 22 0:26 / /srv rw,nosuid - tmpfs tmpfs rw,size=1024k\n\
                  31 30 8:17 / /srv/my\\040data rw - xfs /dev/sdb1 rw,nobarrier\n";
    let (_dir, host) = Described::new("mounts", &[("proc/self/mountinfo", mounts)]);
    let kind = |path: &str| disk::mount_of(&host, Path::new(path)).unwrap().kind;
    assert_eq!(kind("/var/lib/pinion"), "ext4");
    assert_eq!(kind("/srvother"), "ext4", "a name that begins alike is not below it");
    assert_eq!(kind("/srv/pinion"), "tmpfs");
    assert_eq!(kind("/srv/my data/pinion"), "xfs");
    let verdicts = |path: &str| {
        let mount = disk::mount_of(&host, Path::new(path));
        (disk::file_system(mount.as_ref()).verdict, disk::options(mount.as_ref()).verdict)
    };
    assert_eq!(verdicts("/var"), (Verdict::Pass, Verdict::Pass));
    assert_eq!(verdicts("/srv"), (Verdict::Fail, Verdict::Pass));
    assert_eq!(verdicts("/srv/my data"), (Verdict::Pass, Verdict::Fail), "no barriers, no durability");
}

#[test]
fn partition_has_the_write_cache_of_its_disk() {
    let (dir, host) = Described::new(
        "cache",
        &[
            ("proc/self/mountinfo", "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n"),
            ("sys/devices/pci/sda/queue/write_cache", "write back\n"),
            ("sys/devices/pci/sda/queue/fua", "0\n"),
            ("sys/devices/pci/sda/queue/rotational", "0\n"),
            ("sys/devices/pci/sda/queue/scheduler", "none [bfq] mq-deadline\n"),
            ("sys/devices/pci/sda/sda1/partition", "1\n"),
            ("sys/dev/block/keep", ""),
        ],
    );
    std::os::unix::fs::symlink("../../devices/pci/sda/sda1", dir.0.join("sys/dev/block/8:1")).unwrap();
    let mount = disk::mount_of(&host, Path::new("/var"));
    let cache = disk::write_cache(&host, mount.as_ref());
    assert_eq!((cache.verdict, cache.found.as_str()), (Verdict::Warn, "volatile, without FUA"));
    assert_eq!(disk::rotational(&host, mount.as_ref()).found, "does not rotate; scheduler bfq");
}

#[test]
fn interrupt_on_a_pinned_core_is_a_warning() {
    let (_dir, host) = Described::new(
        "interrupts",
        &[
            (
                "proc/interrupts",
                "      CPU0 CPU1\n 24: 5 0 PCI-MSI 512-edge nvme0q0\n 25: 0 9 PCI-MSI timer\n",
            ),
            ("proc/irq/24/effective_affinity_list", "1\n"),
            ("proc/irq/25/effective_affinity_list", "0\n"),
        ],
    );
    let verdict = |pinned: &str| cores::interrupts(&host, &parse_cores(pinned).unwrap()).verdict;
    assert_eq!(verdict("1-3"), Verdict::Warn);
    assert_eq!(verdict("0"), Verdict::Pass, "only disks and network count");
    assert_eq!(verdict(""), Verdict::Unknown);
}

#[test]
fn core_that_is_not_there_or_not_allowed_fails() {
    let (_dir, host) = Described::new(
        "cores",
        &[
            ("sys/devices/system/cpu/online", "0-3\n"),
            ("proc/self/status", "Name:\tx\nCpus_allowed_list:\t0-1,64-95\n"),
        ],
    );
    let found = |list: &str| cores::named(&host, &parse_cores(list).unwrap());
    assert_eq!((found("").verdict, found("0-1").verdict), (Verdict::Pass, Verdict::Pass));
    let absent = found("1,5");
    assert_eq!(
        (absent.verdict, absent.found.contains("names 5,")),
        (Verdict::Fail, true),
        "{}",
        absent.found
    );
    let forbidden = found("0-2");
    assert_eq!(forbidden.verdict, Verdict::Fail);
    assert!(forbidden.found.contains("names 2, and processes here may use 0,1"), "{}", forbidden.found);
}

#[test]
fn data_directory_below_a_file_fails() {
    let (dir, _host) = Described::new("directory", &[("file", "")]);
    let verdict = |path: &str| disk::directory(&dir.0.join(path)).verdict;
    assert_eq!((verdict("new/data"), verdict("")), (Verdict::Pass, Verdict::Pass));
    assert_eq!((verdict("file"), verdict("file/data")), (Verdict::Fail, Verdict::Fail));
}

#[test]
fn host_that_tells_nothing_is_unknown_and_not_a_failure() {
    let (_dir, host) = Described::new("nothing", &[]);
    for finding in all(&host, Path::new("/nowhere"), &BTreeSet::new()) {
        assert!(matches!(finding.verdict, Verdict::Unknown | Verdict::Pass), "{finding:?}");
    }
}
