//! The end of a process whose log file vanishes under it. A test file of its own: the child that it
//! starts would, between fork and exec, hold the directory locks of tests beside it.
#![cfg(feature = "map")]

mod common;
use common::*;
use pinion_wal::Wal;
use pinion_wal::map::{EXIT_LOG_STORAGE_LOST, MapStorage, install_sigbus_handler, name_log_directory};
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output};

/// Runs a test of this file again, as a child that is to be ended by the handler.
fn child_of(test: &str, directory: &Path) -> Output {
    let mut child = Command::new(std::env::current_exe().expect("a test has a file"));
    child.args([test, "--exact"]).env("PINION_WAL_SIGBUS_CHILD", "1").env("PINION_WAL_SIGBUS_DIR", directory);
    child.output().expect("it is started")
}

/// btrfs has no room for the copy of a page, however whole the file is. Here a sparse file on a full
/// tmpfs stands for it: the same fault.
#[test]
fn a_full_file_system_under_a_map_is_called_full() {
    const NAME: &str = "a_full_file_system_under_a_map_is_called_full";
    if runs("PINION_WAL_SIGBUS_CHILD", 0) == 1 {
        let directory = std::env::var_os("PINION_WAL_SIGBUS_DIR").unwrap();
        let directory = Path::new(&directory);
        let mut wal = Wal::create(MapStorage::open(directory, SEGMENT).unwrap(), IDENTITY, 0, 0).unwrap();
        install_sigbus_handler(2).unwrap();
        name_log_directory(directory);
        let segment = std::fs::OpenOptions::new().write(true).open(directory.join("00000001.wal")).unwrap();
        segment.set_len(0).unwrap();
        segment.set_len(u64::from(SEGMENT)).unwrap();
        let mut filler = std::fs::OpenOptions::new();
        let mut filler = filler.write(true).create_new(true).open(directory.join("filler")).unwrap();
        while filler.write_all(&[1; 4096]).is_ok() {}
        let appended = wal.append(None, &[entry(1, 1, 10)]);
        unreachable!("the store into the map went on: {appended:?}");
    }
    let directory = tempfile::tempdir().unwrap();
    let size = format!("size={}", 16 * SEGMENT);
    let mounted =
        Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(directory.path()).status();
    if !mounted.is_ok_and(|status| status.success()) {
        // Past libtest's capture, which would swallow it.
        let line = format!("SKIPPED {NAME}: needs root, to mount a small file system\n");
        std::io::stderr().write_all(line.as_bytes()).unwrap();
        return;
    }
    let child = child_of(NAME, directory.path());
    let unmounted = Command::new("umount").arg(directory.path()).status().unwrap();
    assert!(unmounted.success());
    let said = String::from_utf8_lossy(&child.stderr);
    assert_eq!(child.status.code(), Some(EXIT_LOG_STORAGE_LOST), "{said}");
    assert!(said.contains("is full") && said.contains("Make room"), "{said}");
}

#[test]
fn a_segment_truncated_under_its_map_ends_the_process_with_its_own_code() {
    const NAME: &str = "a_segment_truncated_under_its_map_ends_the_process_with_its_own_code";
    if runs("PINION_WAL_SIGBUS_CHILD", 0) == 1 {
        let directory = tempfile::tempdir().unwrap();
        let mut wal =
            Wal::create(MapStorage::open(directory.path(), SEGMENT).unwrap(), IDENTITY, 0, 0).unwrap();
        install_sigbus_handler(2).unwrap();
        let file =
            std::fs::OpenOptions::new().write(true).open(directory.path().join("00000001.wal")).unwrap();
        file.set_len(0).unwrap();
        let appended = wal.append(None, &[entry(1, 1, 10)]);
        unreachable!("the store into the map went on: {appended:?}");
    }
    let child = child_of(NAME, Path::new("/"));
    assert_eq!(child.status.code(), Some(EXIT_LOG_STORAGE_LOST));
    assert!(String::from_utf8_lossy(&child.stderr).contains("log storage lost"));
}
