//! Whoever reads the log may be slow or gone, and its disk may be full: that costs lines, never the member.

use std::fs::{self, OpenOptions};
use std::io::{self, Read as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use pinion_kit::{
    Launch, Server, TEST_DEADLINE, WorkDir, block_on, full_pipe, server_binary, server_is_etcd, skip,
};

fn full_disk() -> Stdio {
    OpenOptions::new().write(true).open("/dev/full").unwrap().into()
}

fn file_for(path: &Path) -> Stdio {
    OpenOptions::new().create(true).append(true).open(path).unwrap().into()
}

/// Starts, serves a write and a read, and ends as told.
async fn lives(mut server: Server) {
    server.wait_ready().await.unwrap();
    let client = server.connect().await;
    client.put_kv("k", "v").await.unwrap();
    // Connections that come and go are lines of the log at this level.
    for _ in 0..100 {
        let passing = server.connect().await;
        assert_eq!(passing.get("k").await.unwrap().as_deref(), Some(&b"v"[..]));
    }
    let exit = server.terminate().await;
    // etcd hands SIGTERM on to itself after its shutdown.
    if !server_is_etcd() {
        assert_eq!(exit.status.code(), Some(0), "{}", exit.status);
    }
}

fn launch(work: &WorkDir) -> Launch {
    Launch::new(work.join("data")).flag("--log-level=debug")
}

#[test]
fn member_whose_log_is_on_a_full_disk_serves_and_ends_as_told() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        lives(launch(&work).spawn_saying_to(full_disk(), full_disk())).await;
        // Again, with the data there.
        lives(launch(&work).flag("--log-outputs=stdout").spawn_saying_to(full_disk(), full_disk())).await;
    });
}

#[test]
fn member_whose_log_nobody_reads_serves_and_ends_as_told() {
    if server_is_etcd() {
        return skip("etcd stops at the first line that finds no room");
    }
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let (_reader, writer) = full_pipe();
        lives(launch(&work).spawn_saying_to(writer.try_clone().unwrap(), writer)).await;
    });
}

#[test]
fn member_whose_log_reader_is_gone_serves_and_ends_as_told() {
    if server_is_etcd() {
        return skip("etcd ends by SIGPIPE");
    }
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        lives(launch(&work).spawn_saying_to(writer.try_clone().unwrap(), writer)).await;
    });
}

#[test]
fn log_goes_to_every_output_and_one_that_is_stuck_does_not_hold_the_others_up() {
    if server_is_etcd() {
        return skip("etcd's outputs wait for each other");
    }
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let (file, full) = (work.join("member.log"), Path::new("/dev/full"));
        let outputs = format!("--log-outputs=stdout,stderr,{},{}", full.display(), file.display());
        let (_reader, stuck) = full_pipe();
        let heard = work.join("heard");
        lives(launch(&work).flag(outputs).spawn_saying_to(stuck, file_for(&heard))).await;
        let said = fs::read_to_string(&heard).unwrap();
        assert!(
            said.contains("ready to serve client requests") && said.ends_with("\"msg\":\"stopped\"}\n"),
            "{said}"
        );
        assert_eq!(fs::read_to_string(&file).unwrap(), said);

        // A start that has no log says so; a pipe that nobody opens does not hold it up.
        let pipe = work.join("pipe");
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        for path in [pipe, work.join("absent").join("log")] {
            let exit = launch(&work).flag(format!("--log-outputs={}", path.display())).start_refused().await;
            exit.assert_says(&["cannot open the log file", &path.display().to_string()]);
        }
    });
}

/// Otherwise a file of the data would become standard error, and log lines would be written into it.
#[test]
fn standard_descriptors_that_are_missing_are_not_given_to_files_of_the_data() {
    if server_is_etcd() {
        return skip("what is tested is how ours begins");
    }
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let script = work.join("closed");
        let binary = server_binary();
        fs::write(&script, format!("#!/bin/sh\nexec '{}' \"$@\" <&- >&- 2>&-\n", binary.display())).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        let mut launch = launch(&work);
        launch.binary = script;
        let mut server = launch.spawn();
        server.wait_ready().await.unwrap();
        for number in 0..3 {
            let held = fs::read_link(format!("/proc/{}/fd/{number}", server.pid())).unwrap();
            assert_eq!(held, Path::new("/dev/null"), "descriptor {number}");
        }
        lives(server).await;
    });
}

#[test]
fn refusal_ends_with_its_code_although_nobody_reads_it() {
    if server_is_etcd() {
        return skip("etcd waits for its reader");
    }
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let holder = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut taken = launch(&work);
        taken.client_port = holder.local_addr().unwrap().port();
        for (launch, code) in [(launch(&work).flag("--no-such-flag"), 2), (taken, 1)] {
            let (_reader, writer) = full_pipe();
            let mut server = launch.spawn_saying_to(writer.try_clone().unwrap(), writer);
            assert_eq!(server.wait_exit().await.status.code(), Some(code));
            let mut server = launch.spawn_saying_to(full_disk(), full_disk());
            assert_eq!(server.wait_exit().await.status.code(), Some(code));
        }
    });
}

#[test]
fn refusal_is_said_once() {
    if server_is_etcd() {
        return skip("etcd says it as often as it likes");
    }
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let holder = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut taken = Launch::new(work.join("data"));
        taken.client_port = holder.local_addr().unwrap().port();
        let exit = taken.start_refused().await;
        let told = exit.output.lines().filter(|line| line.contains("in use")).collect::<Vec<_>>();
        assert_eq!(told.len(), 1, "{}", exit.output);
        // In the log, and the last of it.
        let last = exit.output.lines().last().unwrap();
        assert!(told[0] == last && last.starts_with("{\"level\":\"error\""), "{}", exit.output);
    });
}

#[test]
fn help_that_nobody_wants_to_the_end_is_no_panic() {
    if server_is_etcd() {
        return skip("etcd's help is not ours");
    }
    let help = |stdout: Stdio| {
        let child = Command::new(server_binary())
            .arg("--help")
            .stdout(stdout)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let output = child.wait_with_output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    assert_eq!(help(writer.into()), (Some(0), String::new()));
    let (code, told) = help(full_disk());
    assert_eq!(code, Some(1));
    assert!(told.starts_with("pinion: cannot write to standard output: No space left"), "{told}");
}

/// The newest file of the log, found by its name.
fn segment(data_dir: &Path) -> PathBuf {
    let mut dirs = vec![data_dir.to_owned()];
    let mut found = Vec::new();
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|extension| extension == "wal") {
                found.push(path);
            }
        }
    }
    found.sort();
    found.into_iter().next().expect("a member has a log")
}

#[test]
fn member_whose_log_segment_was_cut_ends_with_74_whether_or_not_somebody_reads_why() {
    if server_is_etcd() {
        return skip("etcd's log is not mapped");
    }
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        for (name, is_read) in [("read", true), ("unread", false)] {
            let launch = Launch::new(work.join(name)).flag("--wal-sync=mmap");
            let (mut reader, writer) = if is_read { io::pipe().unwrap() } else { full_pipe() };
            let mut server = launch.spawn_saying_to(writer.try_clone().unwrap(), writer);
            server.wait_ready().await.unwrap();
            let client = server.connect().await;
            let file = OpenOptions::new().write(true).open(segment(&launch.data_dir)).unwrap();
            file.set_len(0).unwrap();
            client.put_kv("k", "v").await.unwrap_err();
            assert_eq!(server.wait_exit().await.status.code(), Some(74));
            if is_read {
                let mut said = String::new();
                reader.read_to_string(&mut said).unwrap();
                let last = said.lines().last().unwrap();
                assert!(last.starts_with("fatal: log storage lost"), "{said}");
            }
        }
    });
}

#[test]
fn a_full_log_file_is_rotated_and_every_line_is_in_one_of_the_files() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let log = work.join("member.log");
        let rotation = r#"{"maxsize":1,"maxage":0,"maxbackups":0,"localtime":false,"compress":true}"#;
        let server = launch(&work)
            .flag(format!("--log-outputs={}", log.display()))
            .flag("--enable-log-rotation")
            .flag(format!("--log-rotation-config-json={rotation}"))
            .start()
            .await;
        let old_ones = || {
            let names = fs::read_dir(work.join("")).unwrap().map(|entry| entry.unwrap().file_name());
            names.filter(|name| name.to_string_lossy().starts_with("member-2")).count()
        };
        // Lines of this level, a few for each connection.
        while old_ones() == 0 {
            let passing = server.connect().await;
            passing.put_kv(&"k".repeat(200), "v").await.unwrap();
        }
        let exit = server.terminate().await;
        assert!(exit.status.success() || server_is_etcd(), "{}", exit.output);
        assert!(fs::metadata(&log).unwrap().len() <= 1 << 20);
    });
}

#[test]
fn lines_name_their_source_and_the_member_says_what_it_was_built_of() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let server = Launch::new(work.join("data")).start().await;
        let output = server.terminate().await.output;
        let lines: Vec<&str> = output.lines().filter(|line| line.starts_with('{')).collect();
        // A pipe or a file is no terminal: lines are for programs.
        assert!(lines.iter().all(|line| line.contains(",\"caller\":\"")), "{output}");
        assert!(!lines.is_empty(), "{output}");
        let version = Command::new(server_binary()).arg("--version").output().unwrap();
        let version = String::from_utf8(version.stdout).unwrap();
        let commit = version.lines().find_map(|line| line.strip_prefix("Git SHA: ")).unwrap();
        assert!(!commit.is_empty());
        let is_told = output.contains(&format!("\"commit\":\"{commit}\""));
        assert!(is_told || server_is_etcd(), "{version}{output}");
    });
}

#[test]
fn slow_requests_are_told_with_what_they_waited_for() {
    if server_is_etcd() {
        return skip("etcd's line has steps of its own");
    }
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let server =
            Launch::new(work.join("data")).flag("--warning-unary-request-duration=1ns").start().await;
        let client = server.connect().await;
        client.put_kv("k", "v").await.unwrap();
        client.get("k").await.unwrap();
        server.says("\"request\":\"Range\"").await;
        let output = server.says("\"request\":\"Put\"").await;
        let line = |request: &str| {
            let request = format!("\"request\":\"{request}\"");
            output.lines().find(|line| line.contains("slow request") && line.contains(&request)).unwrap()
        };
        let (put, range) = (line("Put"), line("Range"));
        assert!(put.contains("the log: a sync on a quorum") && put.contains("\"response_bytes\":"), "{put}");
        assert!(range.contains("the store") && range.contains("\"in_the_member_ms\":"), "{range}");
    });
}
