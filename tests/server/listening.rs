//! The ports of a member: whose they are, who reaches them, what else arrives there, and what is left when
//! clients take all they can.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};
use std::time::Duration;

use pinion_kit::client::Client;
use pinion_kit::{
    Launch, Server, TEST_DEADLINE, WorkDir, block_on, env_number, free_port, server_is_etcd, skip,
};
use tokio::time::{Instant, sleep};

/// Less than the 10 s after which a silent connection is given up.
const AT_ONCE: Duration = Duration::from_secs(8);
const POLL: Duration = Duration::from_millis(5);

/// What two members have in common that are started in the same moment.
#[derive(Debug, Clone, Copy)]
enum Shared {
    ClientPort,
    PeerPort,
    /// One listens on all addresses, the other on one of them.
    ClientPortByWildcard,
}

/// Two members that are started in the same moment: one serves, and the other ends and leaves nothing
/// behind, or both lived on one port and every second write went to the other cluster.
/// `PINION_PAIRS` sets how many pairs.
#[test]
fn of_two_members_that_start_together_on_one_port_one_ends() {
    let pairs = env_number("PINION_PAIRS", 9);
    let deadline = TEST_DEADLINE * u32::try_from(pairs.div_ceil(9)).unwrap();
    block_on(deadline, async {
        let work = WorkDir::new();
        for pair in 0..pairs {
            let shared = match pair % 3 {
                0 => Shared::ClientPort,
                1 => Shared::PeerPort,
                _ => Shared::ClientPortByWildcard,
            };
            one_of_a_pair_lives(&work, pair, shared).await;
        }
    });
}

async fn one_of_a_pair_lives(work: &WorkDir, pair: u64, shared: Shared) {
    let mut launches = ["a", "b"].map(|name| Launch::new(work.join(&format!("{pair}-{name}"))));
    let [a, b] = &mut launches;
    match shared {
        Shared::ClientPort => b.client_port = a.client_port,
        Shared::PeerPort => b.peer_port = a.peer_port,
        Shared::ClientPortByWildcard => {
            b.client_port = a.client_port;
            b.flags.push(format!("--listen-client-urls=http://0.0.0.0:{}", a.client_port));
        }
    }
    let [a, b] = &launches;
    let mut servers = [a.spawn(), b.spawn()];
    let deadline = Instant::now() + AT_ONCE * 3;
    let loser = loop {
        if let Some(loser) = servers.iter_mut().position(|server| !server.is_running()) {
            break loser;
        }
        assert!(Instant::now() < deadline, "pair {pair}, {shared:?}: both are alive");
        sleep(POLL).await;
    };
    let exit = servers[loser].wait_exit().await;
    exit.assert_says(&["address already in use"]);
    if !server_is_etcd() {
        assert!(
            !launches[loser].data_dir.exists(),
            "pair {pair}, {shared:?}: it wrote before it had its ports"
        );
    }
    let winner = &mut servers[1 - loser];
    winner.wait_ready().await.unwrap_or_else(|reason| panic!("pair {pair}, {shared:?}: {reason}"));
    drop(servers);
    for launch in &launches {
        drop(fs::remove_dir_all(&launch.data_dir));
    }
}

/// The ports are a member's own from its start on: one that waits for its peers has them, too.
#[test]
fn a_member_without_a_quorum_holds_its_ports_and_refuses_clients() {
    if server_is_etcd() {
        return skip("etcd listens at once and lets clients wait");
    }
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let mut waiting = Launch::new(work.join("waiting"));
        let other = free_port();
        waiting.initial_cluster =
            Some(format!("m0=http://127.0.0.1:{},m1=http://127.0.0.1:{other}", waiting.peer_port));
        let mut waits = waiting.spawn();
        until(|| waiting.data_dir.exists(), "its directory").await;
        let refused = TcpStream::connect((Ipv4Addr::LOCALHOST, waiting.client_port)).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        for is_client_port in [true, false] {
            let mut second = Launch::new(work.join("second"));
            if is_client_port {
                second.client_port = waiting.client_port;
            } else {
                second.peer_port = waiting.peer_port;
            }
            second.start_refused().await.assert_says(&["address already in use"]);
        }
        assert!(waits.is_running());
    });
}

#[test]
fn a_port_is_shared_where_both_members_ask_for_it() {
    if server_is_etcd() {
        return skip("etcd 3.4 has no such flag; 3.5.30 passes");
    }
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let first = Launch::new(work.join("first")).flag("--socket-reuse-port=true");
        let mut second = Launch::new(work.join("second")).flag("--socket-reuse-port=true");
        second.client_port = first.client_port;
        let _first = first.start().await;
        let _second = second.start().await;
        let mut third = Launch::new(work.join("third"));
        third.client_port = first.client_port;
        third.start_refused().await.assert_says(&["address already in use"]);
    });
}

/// Connections are spread evenly over the shards, whichever of them accepts.
#[test]
fn every_shard_serves_and_clients_of_all_are_answered() {
    if server_is_etcd() {
        return;
    }
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        // Two shards, on the cores that every machine has.
        let launch = Launch::new(work.join("data")).flag("--placement=shards=0,1;raft=0;log=1;store=1");
        let server = launch.start().await;
        let mut clients = Vec::new();
        for _ in 0..20 {
            clients.push(server.connect().await);
        }
        for (number, client) in clients.iter().enumerate() {
            client.put_kv(&format!("k{number}"), "v").await.unwrap();
        }
        let exit = server.terminate().await;
        assert!(exit.status.success(), "{}", exit.output);
    });
}

#[test]
fn listening_on_the_wildcard_of_ipv4_takes_ipv6_too() {
    if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
        return skip("this host has no IPv6");
    }
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let mut launch = Launch::new(work.join("data"));
        launch.flags.push(format!("--listen-client-urls=http://0.0.0.0:{}", launch.client_port));
        launch.flags.push(format!("--listen-peer-urls=http://0.0.0.0:{}", launch.peer_port));
        let server = launch.start().await;
        for port in [server.client_port(), launch.peer_port] {
            for host in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
                TcpStream::connect((host, port)).unwrap_or_else(|error| panic!("{host} {port}: {error}"));
            }
        }
    });
}

#[test]
fn an_advertised_wildcard_is_told_as_it_is_with_a_warning() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let advertised = "http://0.0.0.0:2379";
        let launch = Launch::new(work.join("data")).flag(format!("--advertise-client-urls={advertised}"));
        let server = launch.start().await;
        let members = server.connect().await.member_list(false).await.unwrap();
        assert_eq!(members.members[0].client_ur_ls, [advertised]);
        if !server_is_etcd() {
            server.says("--advertise-client-urls has http://0.0.0.0:2379").await;
        }
    });
}

/// Sends the bytes and nothing more; how long it took until the other side closed, and what it said.
async fn send_until_closed(port: u16, bytes: &'static [u8]) -> (Duration, Vec<u8>) {
    let begun = Instant::now();
    let reading = tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        stream.set_read_timeout(Some(AT_ONCE * 2)).unwrap();
        stream.write_all(bytes).unwrap();
        let mut said = Vec::new();
        match stream.read_to_end(&mut said) {
            // What was not read of ours makes the kernel reset the connection.
            Err(error) if error.kind() != io::ErrorKind::ConnectionReset => panic!("not closed: {error}"),
            _ => said,
        }
    });
    let said = reading.await.unwrap();
    (begun.elapsed(), said)
}

async fn until(mut is_so: impl FnMut() -> bool, what: &str) {
    let deadline = Instant::now() + TEST_DEADLINE / 4;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        sleep(POLL).await;
    }
}

/// A client with the wrong scheme is told at its first byte, and the log says what is wrong; once, however
/// often it comes back.
#[test]
fn what_is_not_spoken_on_a_port_is_closed_at_once_and_named_once() {
    if server_is_etcd() {
        return skip("etcd waits for the rest of a TLS handshake, and for more bytes of noise");
    }
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let launch = Launch::new(work.join("data"));
        let server = launch.start().await;
        let (client_port, peer_port) = (launch.client_port, launch.peer_port);
        for (port, bytes, complaint) in [
            (client_port, &b"\x16"[..], "TLS on a plain listener; use http:// for this address"),
            (client_port, b"SSH-2.0-OpenSSH_9.6\r\n", "SSH on a listener"),
            (client_port, b"\0\0\0\0", "neither gRPC nor HTTP"),
            (peer_port, b"\0\0\0\0", "does not speak the peer protocol"),
            (peer_port, b"\x16", "TLS on a plain listener: peers"),
            (peer_port, b"GET /version HTTP/1.1\r\n\r\n", "HTTP on the listener for peers"),
        ] {
            for _ in 0..3 {
                let (took, said) = send_until_closed(port, bytes).await;
                assert!(took < AT_ONCE, "{complaint}: closed after {took:?}");
                if port == client_port {
                    assert_eq!(said, b"", "{complaint}");
                }
            }
            until(|| server.output().contains(complaint), complaint).await;
            assert_eq!(server.output().matches(complaint).count(), 1, "{}", server.output());
        }
        // Somebody who speaks HTTP gets an answer.
        let (_took, said) = send_until_closed(
            client_port,
            b"GET /no-such-page HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        )
        .await;
        assert!(said.starts_with(b"HTTP/1.1 404"), "{}", said.escape_ascii());
        server.connect().await.put_kv("k", "v").await.unwrap();
    });
}

/// Soft and hard limit of a running process.
fn limits(server: &Server, name: &str) -> (String, String) {
    let table = fs::read_to_string(format!("/proc/{}/limits", server.pid())).unwrap();
    let line = table.lines().find_map(|line| line.strip_prefix(name)).expect("the kernel lists it");
    let mut words = line.split_whitespace().map(ToOwned::to_owned);
    (words.next().unwrap(), words.next().unwrap())
}

#[test]
fn soft_limits_are_raised_to_the_hard_ones() {
    if server_is_etcd() {
        return skip("Go's newer runtimes stop one below the hard limit, and etcd locks no memory");
    }
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let mut launch = Launch::new(work.join("data"));
        launch.descriptors = Some("-S -n 256");
        let server = launch.start().await;
        let (soft, hard) = limits(&server, "Max open files");
        assert_eq!(soft, hard);
        let (soft, hard) = limits(&server, "Max locked memory");
        assert_eq!(soft, hard);
    });
}

#[test]
fn too_few_descriptors_for_a_member_are_refused_naming_the_limit() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let mut launch = Launch::new(work.join("data"));
        launch.descriptors = Some("-n 48");
        let exit = launch.start_refused().await;
        if !server_is_etcd() {
            exit.assert_says(&["48 open files", "ulimit -n"]);
            assert!(!launch.data_dir.exists());
        }
    });
}

/// Connections that a client leaks are closed beyond the bound, which the log says once; other members
/// reach this one all the same, and clients do when there is room.
#[test]
fn clients_do_not_get_the_last_descriptors() {
    if server_is_etcd() {
        return skip("etcd lets clients beyond its bound wait");
    }
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let mut launch = Launch::new(work.join("data"));
        launch.descriptors = Some("-n 256");
        let server = launch.start().await;
        let mut leaked = Vec::new();
        for _ in 0..400 {
            leaked.push(TcpStream::connect((Ipv4Addr::LOCALHOST, launch.client_port)).unwrap());
        }
        let complaint = "too many client connections";
        until(|| server.output().contains(complaint), complaint).await;
        // A member of another time or an intruder: whoever it is, the peer port takes it and looks at it.
        let (took, _said) = send_until_closed(launch.peer_port, b"\x16").await;
        assert!(took < AT_ONCE, "{took:?}");
        until(|| server.output().contains("TLS on a plain listener: peers"), "the peer port's answer").await;
        let open = fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap().count();
        assert!(open <= 256 - 64, "{open} descriptors are open: none is kept back");
        assert_eq!(server.output().matches(complaint).count(), 1, "{}", server.output());
        assert!(!server.output().contains("cannot accept"), "{}", server.output());
        drop(leaked);
        let deadline = Instant::now() + TEST_DEADLINE / 4;
        loop {
            if let Ok(client) = Client::connect(launch.client_port).await
                && client.put_kv("k", "v").await.is_ok()
            {
                break;
            }
            assert!(Instant::now() < deadline, "no client is let in though all others have left");
            sleep(POLL).await;
        }
    });
}
