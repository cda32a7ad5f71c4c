//! Every refusal to start names what is wrong, and ends with an exit code and not with a signal.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;

use pinion_kit::client::CallError;
use pinion_kit::{Launch, TEST_DEADLINE, WorkDir, block_on, free_port, server_is_etcd, skip};

#[test]
fn a_stopped_member_ends_cleanly_and_comes_back_with_its_data() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let launch = Launch::new(work.join("data"));
        let server = launch.start().await;
        let client = server.connect().await;
        let written = client.put_kv("k", "v").await.unwrap().header.unwrap();
        let exit = server.terminate().await;
        // etcd hands SIGTERM on to itself after its shutdown.
        if !server_is_etcd() {
            assert_eq!(exit.status.code(), Some(0), "{}: {}", exit.status, exit.output);
        }
        let server = launch.start().await;
        let client = server.connect().await;
        assert_eq!(client.get("k").await.unwrap().as_deref(), Some(&b"v"[..]));
        let header = client.put_kv("k", "w").await.unwrap().header.unwrap();
        assert_eq!(header.revision, written.revision + 1);
        assert_eq!(
            (header.cluster_id, header.member_id),
            (written.cluster_id, written.member_id),
            "identity changed over a restart"
        );
    });
}

/// What a supervisor does after a crash. The kernel takes an io_uring apart after its process is gone,
/// so the old listener may be there for some milliseconds more, and old connections for longer.
#[test]
fn killed_member_starts_again_on_its_port_at_once() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let launch = Launch::new(work.join("data"));
        for round in 0..5 {
            let mut server = launch.start().await;
            let mut clients = Vec::new();
            for _ in 0..8 {
                clients.push(server.connect().await);
            }
            for client in &clients {
                client.put_kv("round", &round.to_string()).await.unwrap();
            }
            server.kill();
        }
    });
}

/// Every key was given to etcd 3.5.30 as well.
#[test]
fn a_configuration_file_is_all_that_counts() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let mut launch = Launch::new(work.join("unused"));
        let file = work.join("etcd.yaml");
        let (client, peer) = (launch.client_url(), launch.peer_url());
        let text = format!(
            "name: filed\ndata-dir: {}\nlisten-client-urls: {client}\nadvertise-client-urls: {client}\n\
             listen-peer-urls: {peer}\ninitial-advertise-peer-urls: {peer}\ninitial-cluster: filed={peer}\n\
             heartbeat-interval: 50\nelection-timeout: 500\ngrpc-keepalive-interval: 7200000000000\n\
             log-outputs: [stderr]\nno-such-key: 1\n",
            work.join("data").display()
        );
        fs::write(&file, &text).unwrap();
        launch.flags.push(format!("--config-file={}", file.display()));
        launch.env.push(("ETCD_NAME".to_owned(), "of the environment".to_owned()));
        let server = launch.start().await;
        let members = server.connect().await.member_list(true).await.unwrap().members;
        assert_eq!((members.len(), members[0].name.as_str()), (1, "filed"));
        assert!(work.join("data").exists() && !work.join("unused").exists());
        let exit = server.terminate().await;
        if !server_is_etcd() {
            exit.assert_says(&["ignored: --advertise-client-urls", "ETCD_NAME", "no-such-key is unknown"]);
        }
        for (wrong, says) in [("name: [x", "line"), ("snapshot-count: 'x'", "snapshot-count")] {
            fs::write(&file, wrong).unwrap();
            let exit = launch.start_refused().await;
            assert_eq!(exit.status.code(), Some(1), "{}", exit.output);
            exit.assert_says(&[says]);
        }
        fs::remove_file(&file).unwrap();
        let exit = launch.start_refused().await;
        assert_eq!(exit.status.code(), Some(1), "{}", exit.output);
        exit.assert_says(&["no such file"]);
    });
}

#[test]
fn a_stop_ends_watches_in_a_way_that_lets_clients_go_on_elsewhere() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let server = Launch::new(work.join("data")).start().await;
        let client = server.connect().await;
        let (mut requests, mut answers) = client.watch().await.unwrap();
        requests.create(Default::default()).unwrap();
        assert!(answers.next().await.unwrap().unwrap().created);
        server.signal("TERM");
        let end = answers.next().await.unwrap_err();
        // etcd's connection breaks, which Go's client counts as Unavailable, too. It would end the watch for
        // good after any other status.
        match end {
            CallError::Status { code: 14, message } => assert_eq!(message, "etcdserver: server stopped"),
            CallError::Transport(_) => assert!(server_is_etcd()),
            other => panic!("{other}"),
        }
    });
}

#[test]
fn fresh_member_derives_its_ids_as_etcd_does() {
    if server_is_etcd() {
        return;
    }
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let mut launch = Launch::new(work.join("data"));
        // Known from etcd 3.4.23, started once with this very URL (a lone member does not connect to its own).
        // It listens elsewhere: any connection of this machine may have that port.
        launch.advertised_peer_port = Some(42_380);
        let header = launch.start().await.connect().await.put_kv("k", "v").await.unwrap().header.unwrap();
        assert_eq!(format!("{:x}", header.member_id), MEMBER_ID_OF_PORT_42380);
        assert_eq!(format!("{:x}", header.cluster_id), CLUSTER_ID_OF_PORT_42380);
    });
}

const MEMBER_ID_OF_PORT_42380: &str = "667880157b8812c8";
const CLUSTER_ID_OF_PORT_42380: &str = "dc50b8daae93b3e0";

#[test]
fn port_that_another_program_holds_is_refused_naming_it() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let holder = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut launch = Launch::new(work.join("data"));
        launch.client_port = holder.local_addr().unwrap().port();
        let exit = launch.start_refused().await;
        exit.assert_says(&[&launch.client_port.to_string(), "already in use"]);
    });
}

/// The client shards share their port by SO_REUSEPORT, which would let a second member share it too
/// and take half of the first one's connections.
#[test]
fn port_that_another_member_holds_is_refused_naming_it() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let first = Launch::new(work.join("first")).start().await;
        let mut second = Launch::new(work.join("second"));
        second.client_port = first.client_port();
        let exit = second.start_refused().await;
        exit.assert_says(&[&second.client_port.to_string(), "already in use"]);
        first.connect().await.put_kv("k", "v").await.unwrap();
    });
}

#[test]
fn data_directory_in_use_is_refused_and_its_owner_unhurt() {
    if server_is_etcd() {
        return skip("etcd waits for the lock for ever");
    }
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let first = Launch::new(work.join("data")).start().await;
        let client = first.connect().await;
        client.put_kv("k", "v").await.unwrap();
        let second = Launch::new(work.join("data"));
        second.start_refused().await.assert_says(&["data", "lock"]);
        assert_eq!(client.get("k").await.unwrap().as_deref(), Some(&b"v"[..]));
        client.put_kv("k", "w").await.unwrap();
    });
}

#[test]
fn data_directory_is_private_and_a_wide_one_is_refused_or_narrowed() {
    if server_is_etcd() {
        return skip("etcd only warns");
    }
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let mode = |dir: &std::path::Path| fs::metadata(dir).unwrap().permissions().mode() & 0o777;
        let fresh = Launch::new(work.join("fresh"));
        let server = fresh.start().await;
        assert_eq!(mode(&fresh.data_dir), 0o700);
        drop(server);
        let wide = Launch::new(work.join("wide"));
        fs::create_dir(&wide.data_dir).unwrap();
        fs::set_permissions(&wide.data_dir, fs::Permissions::from_mode(0o755)).unwrap();
        let mut server = wide.spawn();
        if server.wait_ready().await.is_ok() {
            assert_eq!(mode(&wide.data_dir), 0o700, "it serves from a directory that others can read");
        } else {
            server.wait_exit().await.assert_says(&["wide", "700"]);
        }
    });
}

/// A directory that belongs to another member: its files say who they are.
#[test]
fn data_directory_of_another_cluster_is_refused() {
    if server_is_etcd() {
        return skip("etcd believes its data and ignores the flags");
    }
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let [ours, theirs] = ["ours", "theirs"].map(|name| {
            Launch::new(work.join(name))
                .flag(format!("--initial-cluster-token={name}"))
                .flag("--snapshot-count=10")
        });
        for launch in [&ours, &theirs] {
            let server = launch.start().await;
            let client = server.connect().await;
            for number in 0..30 {
                client.put_kv(&format!("k{number}"), "v").await.unwrap();
            }
            let exit = server.terminate().await;
            assert!(exit.status.success(), "{}", exit.output);
        }
        // Their log under our identity: what a restore into the wrong directory does.
        let moved = swap_one_file(&ours.data_dir, &theirs.data_dir);
        let exit = ours.start_refused().await;
        exit.assert_says(&["cluster"]);
        println!("with {moved} of another cluster: {}", exit.output.trim());
    });
}

/// Replaces the first log segment of `ours` by that of `theirs` and returns its name.
fn swap_one_file(ours: &std::path::Path, theirs: &std::path::Path) -> String {
    let mut dirs = vec![theirs.to_owned()];
    let mut files = Vec::new();
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.to_string_lossy().contains("wal") && fs::metadata(&path).unwrap().len() > 4096 {
                files.push(path);
            }
        }
    }
    files.sort();
    let file = files.first().expect("a data directory has a log");
    let relative = file.strip_prefix(theirs).unwrap();
    fs::copy(file, ours.join(relative)).unwrap();
    relative.display().to_string()
}

#[test]
fn too_little_locked_memory_is_refused_naming_the_limit() {
    if server_is_etcd() {
        return skip("etcd locks no memory");
    }
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let mut launch = Launch::new(work.join("data"));
        launch.memlock_kib = Some(64);
        launch.start_refused().await.assert_says(&["memlock"]);
    });
}

#[test]
fn host_without_io_uring_is_refused_saying_so() {
    if server_is_etcd() {
        return skip("etcd does not need io_uring");
    }
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let mut launch = Launch::new(work.join("data"));
        launch.forbid_io_uring = true;
        launch.start_refused().await.assert_says(&["io_uring"]);
    });
}

#[test]
fn bad_flag_is_refused_with_etcds_exit_code_and_without_a_trace_on_disk() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let data_dir = work.join("data");
        for (flag, exit_code, words) in [
            ("--listen-peer-urls=http://example.com:1", None, &["listen-peer-urls", "example.com"][..]),
            ("--listen-peer-urls=localhost:1", Some(2), &["listen-peer-urls", "localhost:1"]),
            ("--listen-client-urls=http://127.0.0.1:99999", Some(2), &["99999", "a port is at most 65535"]),
            ("--advertise-client-urls=127.0.0.1:1", Some(2), &["has none; write http://127.0.0.1:1"]),
            (
                "--placement=shards=9",
                Some(2),
                &["--placement", "raft is not placed", "every role needs a core"],
            ),
            ("--placement=shards=1000;raft=0;log=0;store=0", Some(1), &["core 1000 is not one of the cores"]),
            ("--no-such-flag", Some(2), &["flag provided but not defined: -no-such-flag"]),
            ("stray", Some(1), &["is not a valid flag"]),
            ("--election-timeout=60000", Some(1), &["--election-timeout[60000ms] is too long"]),
        ] {
            let exit = Launch::new(&data_dir).flag(flag).start_refused().await;
            // etcd 3.4 words some of them otherwise and ends with 1 where 3.7 ends with 2.
            if !server_is_etcd() {
                if let Some(exit_code) = exit_code {
                    assert_eq!(exit.status.code(), Some(exit_code), "{flag}: {}", exit.output);
                }
                exit.assert_says(words);
            }
        }
        if !server_is_etcd() {
            assert!(!data_dir.exists(), "a refused command line left a data directory");
        }
    });
}

/// As charts, units and compose files set them. Each asks for nothing that is missing.
#[test]
fn member_serves_with_the_settings_of_charts_and_says_which_have_no_effect() {
    if server_is_etcd() {
        return skip("etcd acts on most of them");
    }
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let mut launch = Launch::new(work.join("data"));
        let settings = [
            ("ETCD_MAX_SNAPSHOTS", "5_0"),
            ("ETCD_MAX_WALS", "0"),
            ("ETCD_BACKEND_BATCH_LIMIT", "5000"),
            ("ETCD_BACKEND_BATCH_INTERVAL", "1µs"),
            ("ETCD_BACKEND_BBOLT_FREELIST_TYPE", "array"),
            ("ETCD_INITIAL_ELECTION_TICK_ADVANCE", "f"),
            ("ETCD_SOCKET_REUSE_ADDRESS", "TRUE"),
            ("ETCD_SNAPSHOT_COUNT", "0"),
            ("ETCD_EXPERIMENTAL_INITIAL_CORRUPT_CHECK", "true"),
        ];
        let silent = [
            ("ETCD_LOG_OUTPUTS", "stderr,stdout"),
            ("ETCD_AUTO_COMPACTION_RETENTION", ""),
            ("ETCD_CERT_FILE", ""),
            ("ETCD_GRPC_KEEPALIVE_INTERVAL", "1h30m"),
            ("ETCD_AUTO_TLS", "F"),
            ("ETCD_LOG_LEVEL", "INFO"),
        ];
        let both = settings.iter().chain(&silent);
        launch.env = both.map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let server = launch.start().await;
        let output = server.says("ready to serve client requests").await;
        for (name, _) in settings {
            let warned = output.lines().any(|line| line.contains("warn") && line.contains(name));
            assert!(warned, "{name} is not told: {output}");
        }
    });
}

#[test]
fn flag_that_is_not_supported_yet_is_refused_by_name() {
    if server_is_etcd() {
        return;
    }
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let launch = Launch::new(work.join("data")).flag("--enable-distributed-tracing");
        let exit = launch.start_refused().await;
        assert_eq!(exit.status.code(), Some(2));
        exit.assert_says(&["--enable-distributed-tracing", "nothing is traced"]);
    });
}

#[test]
fn data_directory_that_cannot_be_made_is_refused_naming_it() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        fs::write(work.join("file"), "not a directory").unwrap();
        let mut launch = Launch::new(work.join("file").join("data"));
        launch.client_port = free_port();
        // The log lies beside the data directory, which cannot be: put it elsewhere.
        launch.log_path = Some(work.join("server.log"));
        let exit = launch.start_refused().await;
        if !server_is_etcd() {
            exit.assert_says(&["file/data", "not a directory"]);
        }
    });
}
