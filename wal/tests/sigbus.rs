//! The end of a process whose log file vanishes under it. A test file of its own: the child that it
//! starts would, between fork and exec, hold the directory locks of tests beside it.
#![cfg(feature = "map")]

mod common;
use common::*;
use pinion_wal::Wal;
use pinion_wal::map::{EXIT_LOG_STORAGE_LOST, MapStorage, install_sigbus_handler};

#[test]
fn a_segment_truncated_under_its_map_ends_the_process_with_its_own_code() {
    const NAME: &str = "a_segment_truncated_under_its_map_ends_the_process_with_its_own_code";
    if runs("PINION_WAL_SIGBUS_CHILD", 0) == 1 {
        let directory = tempfile::tempdir().unwrap();
        let mut wal =
            Wal::create(MapStorage::open(directory.path(), SEGMENT).unwrap(), IDENTITY, 0, 0).unwrap();
        install_sigbus_handler().unwrap();
        let file =
            std::fs::OpenOptions::new().write(true).open(directory.path().join("00000001.wal")).unwrap();
        file.set_len(0).unwrap();
        let appended = wal.append(None, &[entry(1, 1, 10)]);
        unreachable!("the store into the map went on: {appended:?}");
    }
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args([NAME, "--exact"])
        .env("PINION_WAL_SIGBUS_CHILD", "1")
        .output()
        .unwrap();
    assert_eq!(child.status.code(), Some(EXIT_LOG_STORAGE_LOST));
    assert!(String::from_utf8_lossy(&child.stderr).contains("log storage lost"));
}
