//! Directories as hosts and containers give them: of another user, fresh from mkfs, or with the data of
//! another program in them.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use pinion_kit::{Launch, TEST_DEADLINE, WorkDir, block_on, server_binary, server_is_etcd, skip};

/// Every name below a directory, with the sizes of files.
fn contents(dir: &Path) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(contents(&path));
            found.push((path, 0));
        } else {
            let size = fs::metadata(&path).unwrap().len();
            found.push((path, size));
        }
    }
    found.sort();
    found
}

fn make(dir: &Path, files: &[&str]) {
    for file in files {
        let path = dir.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, vec![0; 4096]).unwrap();
    }
}

const ETCD_WAL: &str = "0000000000000000-0000000000000000.wal";

/// The binary was swapped and the directory stayed: an empty store there would look to its clients as if
/// all keys had been deleted.
#[test]
fn directory_with_the_data_of_etcd_is_refused_and_stays_as_it_was() {
    if server_is_etcd() {
        return;
    }
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let wal = format!("member/wal/{ETCD_WAL}");
        for (number, files) in
            [&["member/snap/db", &wal][..], &["member/snap/db"], &[&wal], &["proxy/cluster"]]
                .iter()
                .enumerate()
        {
            let launch = Launch::new(work.join(&format!("{number}")));
            make(&launch.data_dir, files);
            let before = contents(&launch.data_dir);
            let exit = launch.start_refused().await;
            assert_eq!(exit.status.code(), Some(1));
            let top = files[0].rsplit_once('/').unwrap().0;
            exit.assert_says(&["--data-dir", "files of etcd", top, "no database"]);
            assert_eq!(contents(&launch.data_dir), before);
        }
        // The log alone, where --wal-dir of etcd pointed.
        let disk = work.join("disk");
        make(&disk, &[ETCD_WAL, "0.tmp"]);
        let launch = Launch::new(work.join("fresh")).flag(format!("--wal-dir={}", disk.display()));
        launch.start_refused().await.assert_says(&["--wal-dir", "files of etcd", ETCD_WAL]);
        assert!(!launch.data_dir.exists(), "nothing was begun");
    });
}

#[test]
fn directory_of_another_database_or_a_later_version_is_refused_naming_it() {
    if server_is_etcd() {
        return;
    }
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let launch = Launch::new(work.join("postgres"));
        make(&launch.data_dir, &["PG_VERSION", "base/1"]);
        launch.start_refused().await.assert_says(&["PostgreSQL", "PG_VERSION", "choose an empty directory"]);
        let launch = Launch::new(work.join("later"));
        fs::create_dir(&launch.data_dir).unwrap();
        fs::write(launch.data_dir.join("IDENTITY"), "pinion data directory, format 9\n").unwrap();
        launch.start_refused().await.assert_says(&["format 9", "later version of Pinion"]);
    });
}

/// `lost+found` of a new file system, marks of build tools and file servers: nobody's business.
#[test]
fn fresh_disks_and_foreign_names_are_served_and_told_once() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let disk = work.join("disk");
        let launch = Launch::new(work.join("data")).flag(format!("--wal-dir={}", disk.display()));
        for dir in [&disk, &launch.data_dir] {
            fs::create_dir_all(dir.join("lost+found")).unwrap();
            fs::create_dir_all(dir.join(".snapshot/hourly")).unwrap();
            fs::write(dir.join(".keep"), "").unwrap();
        }
        for _ in 0..2 {
            let server = launch.start().await;
            server.connect().await.put_kv("k", "v").await.unwrap();
            if !server_is_etcd() {
                // The last line of a start: what is told of the directories came before it.
                let output = server.says("ready to serve client requests").await;
                let told = output.matches("left alone").count();
                assert_eq!(told, 2, "once for each directory: {output}");
                assert!(output.contains("lost+found") && output.contains(".snapshot"), "{output}");
            }
            server.terminate().await;
        }
        assert!(launch.data_dir.join("lost+found").is_dir() && launch.data_dir.join(".keep").exists());
        // etcd renames a directory of its own over that of --wal-dir, and all in it is gone.
        if !server_is_etcd() {
            assert!(disk.join("lost+found").is_dir() && disk.join(".snapshot/hourly").is_dir());
            assert!(disk.join(".keep").exists());
        }
    });
}

#[test]
fn empty_wal_dir_under_existing_data_says_where_the_log_may_be() {
    if server_is_etcd() {
        return skip("etcd begins an empty log");
    }
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let plain = Launch::new(work.join("data"));
        plain.start().await.terminate().await;
        let disk = work.join("disk");
        fs::create_dir_all(disk.join("lost+found")).unwrap();
        let moved = plain.clone().flag(format!("--wal-dir={}", disk.display()));
        let default = plain.data_dir.join("wal").display().to_string();
        moved.start_refused().await.assert_says(&["holds no log", &default, "leave --wal-dir out"]);
        // Moved for real, it serves; and then the other way round.
        for entry in fs::read_dir(plain.data_dir.join("wal")).unwrap() {
            let path = entry.unwrap().path();
            fs::rename(&path, disk.join(path.file_name().unwrap())).unwrap();
        }
        moved.start().await.terminate().await;
        plain.start_refused().await.assert_says(&["holds no log", "started with --wal-dir before?"]);
    });
}

/// Each limit of processes, from none on, is a message or enough: the runtime would panic.
#[test]
fn too_few_processes_are_refused_naming_the_limit() {
    if server_is_etcd() {
        return skip("Go throws where no thread can be started");
    }
    let Some((work, binary)) = public() else { return };
    block_on(TEST_DEADLINE, async {
        let mut serves = false;
        // The limit counts all processes of the user, so it is one that nobody else is.
        for limit in (2..60).step_by(3) {
            let mut launch = Launch::binary(&binary, work.join(&format!("{limit}")));
            let prlimit = ["prlimit".to_owned(), format!("--nproc={limit}")];
            launch.wrapper = as_user(43_217, 43_217, "--clear-groups").into_iter().chain(prlimit).collect();
            fs::create_dir(&launch.data_dir).unwrap();
            chown(&launch.data_dir, Some(43_217), Some(43_217)).unwrap();
            let mut server = launch.spawn();
            if server.wait_ready().await.is_ok() {
                serves = true;
                server.terminate().await;
                break;
            }
            let exit = server.wait_exit().await;
            exit.assert_says(&["ulimit -u", "TasksMax=", "pids limit"]);
            assert_eq!(exit.status.code(), Some(1), "{limit}: {}", exit.output);
        }
        assert!(serves, "no limit is enough");
    });
}

/// A directory outside of any private one, with a copy of the binary: for processes of other users.
fn public() -> Option<(WorkDir, PathBuf)> {
    let work = WorkDir::inside(Path::new("/tmp"));
    if fs::metadata(work.path()).unwrap().uid() != 0 {
        skip("needs root, to run as other users");
        return None;
    }
    fs::set_permissions(work.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let binary = work.join(if server_is_etcd() { "etcd" } else { "server" });
    fs::copy(server_binary(), &binary).unwrap();
    Some((work, binary))
}

fn as_user(uid: u32, gid: u32, groups: &str) -> Vec<String> {
    let program = ["setpriv".to_owned(), format!("--reuid={uid}"), format!("--regid={gid}")];
    program.into_iter().chain([groups.to_owned()]).collect()
}

/// fsGroup, emptyDir, hostPath and OpenShift's arbitrary user: the process may write, and owns nothing.
#[test]
fn mount_that_belongs_to_somebody_else_is_served_with_a_warning() {
    let Some((work, binary)) = public() else { return };
    block_on(TEST_DEADLINE, async {
        for (label, (uid, gid, groups), group, mode) in [
            ("fsGroup", (1000, 1000, "--groups=2000"), 2000, 0o2775),
            ("emptyDir", (65534, 65534, "--clear-groups"), 0, 0o777),
            ("OpenShift", (1_000_650_000, 0, "--clear-groups"), 0, 0o770),
        ] {
            let mut launch = Launch::binary(&binary, work.join(label));
            launch.wrapper = as_user(uid, gid, groups);
            fs::create_dir(&launch.data_dir).unwrap();
            chown(&launch.data_dir, Some(0), Some(group)).unwrap();
            fs::set_permissions(&launch.data_dir, fs::Permissions::from_mode(mode)).unwrap();
            for _ in 0..2 {
                let server = launch.start().await;
                server.connect().await.put_kv("k", "v").await.unwrap();
                if !server_is_etcd() {
                    server.says("others may enter the data directory").await;
                }
                server.terminate().await;
            }
            let kept = fs::metadata(&launch.data_dir).unwrap().permissions().mode() & 0o7777;
            assert_eq!(kept, mode, "{label}");
            for (path, _) in contents(&launch.data_dir) {
                let mode = fs::metadata(&path).unwrap().permissions().mode();
                if !server_is_etcd() {
                    assert_eq!(mode & 0o077, 0, "{label}: {} is open to others", path.display());
                }
            }
        }
    });
}

#[test]
fn directory_that_may_not_be_written_to_is_refused_saying_whose_it_is() {
    let Some((work, binary)) = public() else { return };
    block_on(TEST_DEADLINE, async {
        let mut launch = Launch::binary(&binary, work.join("data"));
        launch.wrapper = as_user(1000, 1000, "--clear-groups");
        fs::create_dir(&launch.data_dir).unwrap();
        fs::set_permissions(&launch.data_dir, fs::Permissions::from_mode(0o755)).unwrap();
        let exit = launch.start_refused().await;
        if !server_is_etcd() {
            exit.assert_says(&[
                "user 1000",
                "may not write",
                "mode 755",
                "belongs to user 0, group 0",
                "fsGroup",
            ]);
        }
    });
}
