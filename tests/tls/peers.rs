//! Members among each other by TLS.

use std::cell::Cell;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::rc::Rc;
use std::time::Duration;

use pinion_kit::client::Client;
use pinion_kit::pb::etcdserverpb as pb;
use pinion_kit::tls::{self, Authority, Holder};
use pinion_kit::{Launch, Server, TEST_DEADLINE, WorkDir, block_on, eventually, start_all};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};

use crate::certificates::{launches, list_all, with_peer_tls};

async fn terms(servers: &[Server]) -> Vec<(u64, u64)> {
    let mut terms = Vec::new();
    for server in servers {
        let status = server.connect().await.status().await.unwrap();
        terms.push((status.raft_term, status.leader));
    }
    terms
}

/// Puts until it is told to stop; how many, and no error.
async fn load(client: Client, stop: Rc<Cell<bool>>) -> u64 {
    let mut puts = 0;
    while !stop.get() {
        let put = pb::PutRequest {
            key: format!("load{}", puts % 100).into(),
            value: "x".repeat(200).into(),
            ..Default::default()
        };
        client.put(&put).await.unwrap();
        puts += 1;
    }
    puts
}

#[test]
fn certificates_and_cas_rotate_under_load_without_an_error_or_an_election() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let (old, new) = (Authority::new(&work, "old"), Authority::new(&work, "new"));
        let pools: Vec<_> = (0..3).map(|number| work.join(&format!("pool{number}.pem"))).collect();
        for pool in &pools {
            fs::copy(&old.certificate, pool).unwrap();
        }
        let holders: Vec<Holder> = (0..3).map(|_| old.issue("member")).collect();
        let mut launches = launches(&work, 3);
        for ((launch, holder), pool) in launches.iter_mut().zip(&holders).zip(&pools) {
            with_peer_tls(launch, holder, &old);
            launch.flags.push(format!("--peer-trusted-ca-file={}", pool.display()));
        }
        list_all(&mut launches);
        let mut servers = start_all(&launches).await;
        let before = terms(&servers).await;
        let stop = Rc::new(Cell::new(false));
        let mut loads = Vec::new();
        for server in &servers {
            loads.push(tokio::task::spawn_local(load(server.connect().await, Rc::clone(&stop))));
        }
        // Both are believed, then all show the new one, then the old one goes.
        let (of_old, of_new) = (fs::read(&old.certificate).unwrap(), fs::read(&new.certificate).unwrap());
        let says_new = async |servers: &[Server], times: usize| {
            for server in servers {
                eventually(async || {
                    let said = server.output().matches("new connections use the new ones").count();
                    if times <= said { Ok(()) } else { Err(said) }
                })
                .await;
            }
        };
        pools.iter().for_each(|pool| tls::replace(&[of_old.clone(), of_new.clone()].concat(), pool));
        says_new(&servers, 1).await;
        holders.iter().for_each(|holder| new.issue("member").replace(holder));
        says_new(&servers, 2).await;
        pools.iter().for_each(|pool| tls::replace(&of_new, pool));
        says_new(&servers, 3).await;
        stop.set(true);
        for load in loads {
            let puts = load.await.unwrap();
            println!("{puts} puts");
            assert!(0 < puts);
        }
        assert_eq!(terms(&servers).await, before, "nobody was elected");
        // One that restarts comes back by the new ones alone.
        let last = servers.pop().unwrap();
        last.terminate().await;
        let _again = launches[2].start().await;
    });
}

/// What a stranger hears at the port for members.
fn knock(port: u16, authority: &Authority, holder: Option<&Holder>) -> Result<Vec<u8>, String> {
    let socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
    let mut config = (*tls::client_config(&authority.certificate, holder)).clone();
    config.alpn_protocols.clear();
    let client = ClientConnection::new(config.into(), ServerName::try_from("127.0.0.1").unwrap()).unwrap();
    let mut stream = StreamOwned::new(client, socket);
    stream.write_all(b"hello").and_then(|()| stream.flush()).map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    Ok(bytes)
}

#[test]
fn strangers_are_refused_and_told_in_the_log() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let (authority, other) = (Authority::new(&work, "ca"), Authority::new(&work, "other"));
        let mut launches = launches(&work, 1);
        with_peer_tls(&mut launches[0], &authority.issue("member"), &authority);
        launches[0].flags.push("--peer-cert-allowed-cn=member,third".to_owned());
        list_all(&mut launches);
        let server = launches[0].start().await;
        let port = launches[0].peer_port;
        let stranger = other.issue("member");
        let misnamed = authority.issue("second");
        // Its names lead elsewhere, so it is not its own.
        let elsewhere = authority.issue_with("third", &rcgen::PKCS_ECDSA_P256_SHA256, |params| {
            params.subject_alt_names = vec![rcgen::SanType::IpAddress("192.0.2.1".parse().unwrap())];
        });
        for holder in [None, Some(&stranger), Some(&misnamed), Some(&elsewhere)] {
            let heard = knock(port, &authority, holder);
            assert!(heard.as_ref().is_err() || heard.as_ref().is_ok_and(Vec::is_empty), "{heard:?}");
        }
        server.says("rejected connection on peer endpoint").await;
        server.says("peer sent no certificates").await;
        server.says("x509: certificate is valid for 192.0.2.1, not 127.0.0.1").await;
        // Without TLS.
        let mut plain = TcpStream::connect(("127.0.0.1", port)).unwrap();
        plain.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
        plain.write_all(b"PINION\0\0garbage").unwrap();
        let mut heard = Vec::new();
        plain.read_to_end(&mut heard).ok();
        assert!(heard.is_empty(), "{heard:?}");
        server.says("bytes that are no TLS; this address is for TLS").await;
        // One with a good certificate is a member as far as TLS goes, and hears that it does not speak its protocol.
        let good = authority.issue("third");
        let heard = knock(port, &authority, Some(&good));
        server.says("peer connection refused").await;
        drop(heard);
    });
}

/// A member joins by TLS, and one that is not believed does not.
#[test]
fn members_join_by_tls_and_a_stranger_does_not() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let (authority, other) = (Authority::new(&work, "ca"), Authority::new(&work, "other"));
        let mut all = launches(&work, 2);
        with_peer_tls(&mut all[0], &authority.issue("member"), &authority);
        list_all(&mut all[..1]);
        let first = all[0].start().await;
        let url = format!("https://127.0.0.1:{}", all[1].peer_port);
        let client = first.connect().await;
        eventually(async || client.member_add(&url, false).await).await;
        let joining = |launch: &Launch, holder: &Holder| {
            let mut launch = launch.clone().flag("--initial-cluster-state=existing");
            with_peer_tls(&mut launch, holder, &authority);
            launch
        };
        let mut members = [all[0].clone(), joining(&all[1], &other.issue("member"))];
        list_all(&mut members);
        let exit = members[1].start_refused().await;
        exit.assert_says(&["could not retrieve cluster information"]);
        members[1].flags = joining(&all[1], &authority.issue("member")).flags;
        let _second = members[1].start().await;
    });
}

#[test]
fn peer_auto_tls_encrypts_a_cluster_and_says_what_it_does_not() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let mut launches = launches(&work, 3);
        for launch in &mut launches {
            let url = format!("https://127.0.0.1:{}", launch.peer_port);
            launch.flags.extend([
                format!("--listen-peer-urls={url}"),
                format!("--initial-advertise-peer-urls={url}"),
                "--peer-auto-tls".to_owned(),
            ]);
        }
        list_all(&mut launches);
        let servers = start_all(&launches).await;
        servers[0].says("encrypted and not authenticated").await;
        servers[1]
            .connect()
            .await
            .put(&pb::PutRequest { key: "a".into(), ..Default::default() })
            .await
            .unwrap();
        assert!(launches[0].data_dir.join("fixtures/peer/cert.pem").is_file());
    });
}

/// Members that meet by the files of unix sockets, by TLS: their certificates are for `localhost`, and there is no
/// address that they could be for.
#[test]
fn members_meet_by_unix_sockets_and_tls() {
    block_on(TEST_DEADLINE, async {
        // The kernel takes 107 bytes of a socket's path.
        let work = WorkDir::inside(std::path::Path::new("/tmp"));
        let authority = Authority::new(&work, "ca");
        let url = |name: &str| format!("unixs://{}", work.join(&format!("{name}.p")).display());
        let listed = ["m0", "m1", "m2"].map(|name| format!("{name}={}", url(name))).join(",");
        let mut launches = launches(&work, 3);
        for launch in &mut launches {
            with_peer_tls(launch, &authority.issue("member"), &authority);
            let url = url(&launch.name);
            launch.flags.push(format!("--listen-peer-urls={url}"));
            launch.flags.push(format!("--initial-advertise-peer-urls={url}"));
            launch.initial_cluster = Some(listed.clone());
        }
        let servers = start_all(&launches).await;
        servers[0].connect().await.put_kv("a", "b").await.unwrap();
        for server in &servers {
            assert_eq!(server.connect().await.get("a").await.unwrap().unwrap(), "b");
        }
    });
}
