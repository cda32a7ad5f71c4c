//! What systemd and people are told while a member starts.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use pinion_kit::{Launch, TEST_DEADLINE, WorkDir, block_on, server_is_etcd, skip};

/// How long a message may take: reports come every ten seconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// A service manager's socket, and the name of it that a service gets.
fn service_manager(test: &str) -> (UnixDatagram, String) {
    let name = format!("pinion-{test}-{}", std::process::id());
    let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    (socket, format!("@{name}"))
}

/// The next messages up to the one with this line.
fn heard_up_to(socket: &UnixDatagram, line: &str) -> Vec<String> {
    let mut all = Vec::new();
    loop {
        let mut buffer = [0; 4096];
        let length =
            socket.recv(&mut buffer).unwrap_or_else(|error| panic!("no {line} after {all:?}: {error}"));
        let message = String::from_utf8(buffer[..length].to_vec()).unwrap();
        let is_last = message.lines().any(|heard| heard == line);
        all.push(message);
        if is_last {
            return all;
        }
    }
}

fn with_socket(mut launch: Launch, name: &str) -> Launch {
    launch.env.push(("NOTIFY_SOCKET".to_owned(), name.to_owned()));
    launch
}

#[test]
fn service_manager_hears_of_readiness_when_clients_are_served_and_of_the_stop() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let (socket, name) = service_manager("ready");
        let server = with_socket(Launch::new(work.join("data")), &name).spawn();
        heard_up_to(&socket, "READY=1");
        // Not before: the first attempt is answered.
        server.connect().await.put_kv("k", "v").await.unwrap();
        let exit = server.terminate().await;
        if !server_is_etcd() {
            assert_eq!(exit.status.code(), Some(0), "{}", exit.output);
            heard_up_to(&socket, "STOPPING=1");
            // A newcomer is told how to go on.
            exit.assert_says(&["ready to serve client requests", "etcdctl --endpoints=http://127.0.0.1:"]);
        }
    });
}

#[test]
fn service_managers_watchdog_is_fed_while_the_executors_run_and_only_for_the_process_that_is_meant() {
    if server_is_etcd() {
        return skip("etcd has no watchdog");
    }
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let (socket, name) = service_manager("watchdog");
        let mut launch = with_socket(Launch::new(work.join("data")), &name);
        launch.env.push(("WATCHDOG_USEC".to_owned(), "100000".to_owned()));
        let server = launch.start().await;
        heard_up_to(&socket, "READY=1");
        for _beat in 0..3 {
            heard_up_to(&socket, "WATCHDOG=1");
        }
        assert!(server.terminate().await.status.success());
        // Of another process, as when a script starts the member.
        launch.env.push(("WATCHDOG_PID".to_owned(), "1".to_owned()));
        let server = launch.start().await;
        heard_up_to(&socket, "READY=1");
        server.terminate().await;
        let messages = heard_up_to(&socket, "STOPPING=1");
        assert!(!messages.iter().any(|message| message.contains("WATCHDOG")), "{messages:?}");
    });
}

#[test]
fn service_manager_hears_by_a_path_too() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        // A short path: a socket's name has 107 bytes at most.
        let path = std::env::temp_dir().join(format!("pinion-notify-{}", std::process::id()));
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let server = with_socket(Launch::new(work.join("data")), path.to_str().unwrap()).spawn();
        heard_up_to(&socket, "READY=1");
        std::fs::remove_file(&path).unwrap();
        drop(server);
    });
}

#[test]
fn member_that_waits_for_a_quorum_says_so_and_is_ready_only_then() {
    if server_is_etcd() {
        return skip("etcd does not say what it waits for");
    }
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let mut launches = ["a", "b", "c"].map(|name| Launch::new(work.join(name)).named(name));
        let listed = Launch::listed(&launches);
        launches.iter_mut().for_each(|launch| launch.initial_cluster = Some(listed.clone()));
        let (socket, name) = service_manager("quorum");
        let first = with_socket(launches[0].clone(), &name).spawn();
        let waits = "1 of 3 members; serves when 2 are up";
        let messages = heard_up_to(&socket, &format!("STATUS=waiting: {waits}"));
        assert!(!messages.iter().any(|message| message.contains("READY=1")), "{messages:?}");
        // A unit whose start is bounded is not begun anew meanwhile.
        assert!(messages.last().unwrap().contains("EXTEND_TIMEOUT_USEC="), "{messages:?}");
        first.says(waits).await;
        let second = launches[1].start().await;
        heard_up_to(&socket, "READY=1");
        first.connect().await.put_kv("k", "v").await.unwrap();
        drop(second);
    });
}
