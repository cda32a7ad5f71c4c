//! The client against somebody else's HTTP/2: the h2 crate, which Pinion serves with.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};

use crate::client::{self, Endpoint, Plan, Unobserved};
use crate::http2::Method;
use crate::report::Figures;
use crate::streams::{Script, Streams};
use crate::sys::Clock;
use crate::tally::Failure;
use crate::workload::{Load, Space};

/// Serves gRPC-shaped replies until its runtime goes: every tenth call of a connection is refused.
async fn serve(listener: tokio::net::TcpListener) {
    loop {
        let (socket, _) = listener.accept().await.unwrap();
        tokio::spawn(async move {
            let mut server = h2::server::Builder::new();
            // Small windows, so that both kinds of WINDOW_UPDATE are needed.
            server.initial_window_size(20_000).initial_connection_window_size(70_000);
            let mut connection = server.handshake::<_, Bytes>(socket).await.unwrap();
            let mut calls = 0;
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                calls += 1;
                let is_refused = calls % 10 == 0;
                tokio::spawn(async move {
                    assert_eq!(request.uri().path(), "/etcdserverpb.KV/Put");
                    assert_eq!(request.headers()["content-type"], "application/grpc");
                    assert_eq!(request.headers()["te"], "trailers");
                    let mut body = request.into_body();
                    let mut length = 0;
                    while let Some(Ok(data)) = body.data().await {
                        length += data.len();
                        body.flow_control().release_capacity(data.len()).unwrap();
                    }
                    assert!(30_000 < length, "{length}");
                    let response = Response::builder().header("content-type", "application/grpc");
                    let mut stream = respond.send_response(response.body(()).unwrap(), false).unwrap();
                    let mut trailers = HeaderMap::new();
                    if is_refused {
                        trailers.insert("grpc-status", HeaderValue::from_static("8"));
                        trailers.insert("grpc-message", HeaderValue::from_static("too%20many"));
                    } else {
                        stream.send_data(Bytes::from_static(b"\0\0\0\0\x04\x0a\x02\x18\x07"), false).unwrap();
                        trailers.insert("grpc-status", HeaderValue::from_static("0"));
                    }
                    stream.send_trailers(trailers).unwrap();
                });
            }
        });
    }
}

/// Values larger than the stream's window go out in pieces, trailers come indexed and not, and every call
/// of a few connections ends as the server meant it.
#[test]
fn the_h2_crate_understands_us_and_we_it() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::spawn(serve(listener));
            stopped.await.unwrap();
        });
    });
    let plan = Plan {
        endpoints: vec![Endpoint::plain(address)],
        connections: 2,
        in_flight: 8,
        rate_per_s: None,
        warmup: Duration::ZERO,
        duration: None,
        cutoff: None,
        deadline: Duration::from_secs(5),
        threads: 1,
        pin: Vec::new(),
        is_spinning: false,
        keeps_timeline: false,
        seed: 1,
        space: Space { keys: 400, key_bytes: 32, value_bytes: 30_000 },
        load: Load::Fill(crate::workload::Fill { batch: 1, is_shuffled: true }),
    };
    let figures = Figures::of(&client::run(&plan, &mut Unobserved).unwrap());
    stop.send(()).unwrap();
    server.join().unwrap();
    assert_eq!((figures.requests_sent, figures.unaccounted, figures.reconnects), (400, 0, 0));
    let [refused] = &figures.failures[..] else { panic!("{figures:?}") };
    assert_eq!(
        (refused.what.as_str(), refused.example.as_str()),
        ("grpc-status 8 RESOURCE_EXHAUSTED", "too many")
    );
    assert!((38..=40).contains(&refused.count), "a tenth of each connection's calls: {}", refused.count);
}

/// Sends every byte of every stream back, as it comes.
async fn echo(listener: tokio::net::TcpListener) {
    loop {
        let (socket, _) = listener.accept().await.unwrap();
        tokio::spawn(async move {
            let mut server = h2::server::Builder::new();
            // Small windows: the client must hold messages back and send on.
            server.initial_window_size(1_000).initial_connection_window_size(70_000);
            let mut connection = server.handshake::<_, Bytes>(socket).await.unwrap();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                tokio::spawn(async move {
                    assert_eq!(request.uri().path(), "/etcdserverpb.Watch/Watch");
                    let response = Response::builder().header("content-type", "application/grpc");
                    let mut stream = respond.send_response(response.body(()).unwrap(), false).unwrap();
                    let mut body = request.into_body();
                    while let Some(Ok(data)) = body.data().await {
                        body.flow_control().release_capacity(data.len()).unwrap();
                        stream.send_data(data, false).unwrap();
                    }
                });
            }
        });
    }
}

/// What each stream was sent and has heard.
#[derive(Default)]
struct Echoes(Vec<Vec<Vec<u8>>>);

impl Script for Echoes {
    fn on_message(&mut self, tag: u64, message: &[u8], _now_ns: u64) {
        self.0[usize::try_from(tag).unwrap()].push(message.to_vec());
    }

    fn on_end(&mut self, tag: u64, end: Result<(), (Failure, &str)>, _now_ns: u64) {
        panic!("stream {tag} ended: {end:?}");
    }
}

/// Messages larger and smaller than the window, on several streams at once, all come back, whole and in
/// order: both halves of a stream work with the HTTP/2 that Pinion serves with.
#[test]
fn streams_of_many_messages_work_with_the_h2_crate() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::spawn(echo(listener));
            stopped.await.unwrap();
        });
    });
    let clock = Clock::start();
    let mut streams = Streams::new(clock).unwrap();
    let endpoint = Endpoint::plain(address);
    let lanes = streams.connect(&endpoint, 2, None).unwrap();
    let refs: Vec<_> =
        (0..6).map(|tag| streams.open(lanes.start + tag % 2, Method::Watch, tag as u64)).collect();
    let mut sent = vec![Vec::new(); refs.len()];
    for round in 0..40_usize {
        for (number, &at) in refs.iter().enumerate() {
            let byte = u8::try_from(round).unwrap();
            let message = vec![byte; round * 97 + number];
            streams.send(at, &message);
            sent[number].push(message);
        }
    }
    let give_up_ns = clock.now_ns() + 10_000_000_000;
    let mut echoes = Echoes(vec![Vec::new(); refs.len()]);
    while echoes.0.iter().map(Vec::len).sum::<usize>() < 40 * refs.len() {
        assert!(clock.now_ns() < give_up_ns, "stuck");
        streams.turn(None, &mut echoes).unwrap();
    }
    assert_eq!(echoes.0, sent);
    stop.send(()).unwrap();
    server.join().unwrap();
}
