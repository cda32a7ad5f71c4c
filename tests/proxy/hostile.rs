//! Endpoints that are down, freeze, break off in the middle, talk nonsense, or are the proxy itself.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use pinion_kit::client::{CallError, Client, refusal};
use pinion_kit::{Cluster, Launch, TEST_DEADLINE, WorkDir, block_on, free_port, server_binary, until};

use crate::process::{PATIENCE, Proxy, aside, at};

/// An endpoint that does this with each connection.
fn endpoint(each: impl Fn(std::net::TcpStream) + Send + Sync + 'static) -> u16 {
    let port = free_port();
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let each = Arc::new(each);
    aside(move || {
        while let Ok((stream, _)) = listener.accept() {
            let each = Arc::clone(&each);
            aside(move || each(stream));
        }
    });
    port
}

/// One that takes connections and says nothing.
fn silent() -> u16 {
    endpoint(|mut stream| drop(stream.read_to_end(&mut Vec::new())))
}

#[test]
fn with_nobody_to_answer_a_call_fails_in_time_and_goes_through_when_a_member_comes() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let launch = Launch::new(work.join("m"));
        let proxy = Proxy::start(&work, &[at(launch.client_port)], &[]);
        let client = proxy.client().await;
        let (code, text) = refusal(client.get("k").await);
        assert_eq!(code, 14, "{text}");
        assert!(text.contains("Error while dialing") && text.contains("refused"), "{text}");
        let _server = launch.start().await;
        pinion_kit::eventually(async || client.put_kv("k", "v").await).await;
        assert_eq!(client.get("k").await.unwrap().as_deref(), Some(&b"v"[..]));
    });
}

#[test]
fn endpoints_that_are_down_silent_or_no_members_get_no_calls() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let server = Launch::new(work.join("m")).start().await;
        let nonsense = endpoint(|mut stream| drop(stream.write_all(&[0xff; 4096])));
        let web = endpoint(|mut stream| {
            drop(stream.read(&mut [0; 1024]));
            drop(stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"));
        });
        let closes = endpoint(drop);
        let endpoints = [free_port(), silent(), nonsense, server.client_port(), web, closes].map(at);
        let mut proxy = Proxy::start(&work, &endpoints, &[]);
        proxy.wait_for("connected with an endpoint");
        let client = proxy.client().await;
        for number in 0..50 {
            let key = format!("k{number}");
            client.put_kv(&key, "v").await.unwrap();
            assert_eq!(client.get(&key).await.unwrap().as_deref(), Some(&b"v"[..]));
        }
    });
}

/// What such an endpoint says: HTTP/2's beginning, answers to pings, and the end when a call comes.
fn breaks_off(calls: &Arc<AtomicUsize>) -> u16 {
    let calls = Arc::clone(calls);
    endpoint(move |mut stream| {
        let mut preface = [0; 24];
        if stream.read_exact(&mut preface).is_err() {
            return;
        }
        stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).unwrap();
        loop {
            let mut head = [0; 9];
            if stream.read_exact(&mut head).is_err() {
                return;
            }
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let mut body = vec![0; length];
            stream.read_exact(&mut body).unwrap();
            match (head[3], head[4]) {
                (4, 0) => stream.write_all(&[0, 0, 0, 4, 1, 0, 0, 0, 0]).unwrap(),
                (6, 0) => {
                    let mut pong = vec![0, 0, 8, 6, 1, 0, 0, 0, 0];
                    pong.extend_from_slice(&body);
                    stream.write_all(&pong).unwrap();
                }
                (1, _) => {
                    calls.fetch_add(1, Ordering::SeqCst);
                    return;
                }
                _ => {}
            }
        }
    })
}

#[test]
fn a_read_is_asked_elsewhere_when_its_endpoint_breaks_off_and_a_write_is_never_asked_twice() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let server = Launch::new(work.join("m")).start().await;
        let direct = server.connect().await;
        let calls = Arc::<AtomicUsize>::default();
        let mut proxy = Proxy::start(&work, &[at(breaks_off(&calls)), at(server.client_port())], &[]);
        proxy.wait_for("connected with an endpoint");
        let client = proxy.client().await;
        until(PATIENCE, async || {
            client.get("k").await.unwrap();
            2 <= calls.load(Ordering::SeqCst)
        })
        .await;
        let (mut refused, mut number) = (0, 0);
        while refused < 2 {
            number += 1;
            match client.put_kv(&format!("w{number}"), "v").await {
                Ok(_) => {}
                Err(CallError::Status { code: 14, message }) => {
                    assert!(message.contains("error reading from server"), "{message}");
                    refused += 1;
                    let written = direct.get(&format!("w{number}")).await.unwrap();
                    assert_eq!(written, None, "it went to the one that broke off, and to nobody else");
                }
                Err(other) => panic!("{other}"),
            }
            assert!(number < 10_000, "the endpoint is back in its turn");
        }
    });
}

#[test]
fn a_member_that_freezes_or_is_killed_costs_its_calls_and_no_others() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let mut cluster = Cluster::start(3, &[]).await;
        let endpoints: Vec<_> = (0..3).map(|member| at(cluster.client_port(member))).collect();
        let flags = ["--dial-keepalive-time=1s", "--dial-keepalive-timeout=1s"].map(str::to_owned);
        let mut proxy = Proxy::start(&work, &endpoints, &flags);
        let client = proxy.client().await;
        pinion_kit::eventually(async || client.put_kv("k", "v").await).await;
        let follower = (cluster.leader().await + 1) % 3;
        cluster.signal(follower, "STOP");
        let impatient: Client = client.clone().with_timeout("10S");
        // Until the pings tell: reads that went there are asked elsewhere.
        for _ in 0..10 {
            assert_eq!(impatient.get("k").await.unwrap().as_deref(), Some(&b"v"[..]));
        }
        proxy.wait_for("keepalive ping failed to receive ACK within timeout");
        cluster.signal(follower, "CONT");
        cluster.kill(follower);
        for _ in 0..10 {
            assert_eq!(impatient.get("k").await.unwrap().as_deref(), Some(&b"v"[..]));
        }
    });
}

#[test]
fn its_own_address_is_refused_as_an_endpoint_in_every_form() {
    let work = WorkDir::new();
    for (listen, endpoint) in
        [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("127.0.0.1", "localhost")]
    {
        let port = free_port();
        let output = Command::new("timeout")
            .arg("20")
            .arg(server_binary())
            .args(["grpc-proxy", "start", &format!("--listen-addr={listen}:{port}")])
            .arg(format!("--endpoints=127.0.0.1:1,{endpoint}:{port}"))
            .current_dir(work.path())
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(told.contains("calls would go round in a circle"), "{told}");
    }
}

#[test]
fn proxies_that_are_each_others_endpoints_refuse_calls_and_say_why() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let port = free_port();
        let first = Proxy::start(&work, &[at(port)], &[]);
        let command = Command::new(server_binary());
        let mut second = Proxy::spawn_at(command, &work, port, &[first.endpoint()], &[]);
        second.wait_for("ready to pass client requests on");
        second.wait_for("connected with an endpoint");
        let client = first.client().await;
        let mut told = String::new();
        until(PATIENCE, async || {
            let (code, text) = refusal(client.get("k").await);
            told = format!("{code}: {text}");
            code == 9
        })
        .await;
        assert!(told.contains("goes round in a circle"), "{told}");
        let lease = pinion_kit::pb::etcdserverpb::LeaseKeepAliveRequest { id: 7 };
        let (mut renewals, mut renewed) = client.keep_alive().await.unwrap();
        renewals.send(&lease).unwrap();
        assert!(renewed.next().await.is_err());
        let (mut requests, mut answers) = client.watch().await.unwrap();
        requests
            .create(pinion_kit::pb::etcdserverpb::WatchCreateRequest {
                key: "k".into(),
                ..Default::default()
            })
            .unwrap();
        assert!(answers.next().await.is_err());
    });
}
