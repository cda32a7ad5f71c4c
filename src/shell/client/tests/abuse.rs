//! What hostile clients get: their connection's end, and nobody else notices.

use std::io::{Read as _, Write as _};

use super::super::call::place::{PLACE_BYTES, UPLOAD_BYTES_MAX};
use super::super::grpc::frame_credit::EARLY_ENDS_FIRST;
use super::super::silence::SILENT_MAX;
use super::raw::{self, Raw, frame, header, request_headers};
use super::*;

const ENHANCE_YOUR_CALM: u32 = 11;
const PROTOCOL_ERROR: u32 = 1;

/// Another connection is served while `attack` goes on, and after it.
fn others_are_served_during(server: &Server, attack: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let attack = scope.spawn(attack);
        client(async {
            let client = Client::connect(server).await;
            let mut last = false;
            loop {
                let answered = client.call(PUT, put("k", b"v")).await;
                assert_eq!(answered.status().0, 0);
                if last {
                    break;
                }
                last = attack.is_finished();
            }
        });
        attack.join().unwrap();
    });
}

/// Sends `piece` over and over and expects the end, with `code` where a GOAWAY could be read.
fn flood(server: &Server, hello: &[u8], piece: &[u8], code: u32) {
    let mut raw = Raw::open(server);
    raw.send(hello);
    let many = piece.repeat(500);
    others_are_served_during(server, || {
        raw.send_until_ended(&many, 200);
        if let Some((said, _)) = raw.end() {
            assert_eq!(said, code);
        }
    });
}

fn open_stream() -> Vec<u8> {
    frame(raw::HEADERS, raw::END_HEADERS, 1, &request_headers(PUT))
}

#[test]
fn each_flood_of_control_frames_ends_its_connection_only() {
    let server = Server::start(quick());
    let floods: [(&[u8], Vec<u8>); 6] = [
        (&[], frame(raw::PING, raw::ACK, 0, &[0; 8])),
        (&[], frame(raw::SETTINGS, 0, 0, &[])),
        (&[], frame(raw::PRIORITY, 0, 1, &[0, 0, 0, 3, 7])),
        (&open_stream(), frame(raw::WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])),
        (&[], frame(raw::WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])),
        (&[], frame(0xbe, 0, 0, b"unknown")),
    ];
    for (hello, piece) in &floods[1..] {
        let before = server.counters();
        flood(&server, hello, piece, ENHANCE_YOUR_CALM);
        let after = server.counters();
        assert_eq!(after.floods, before.floods + 1, "{piece:?}");
    }
    // Acknowledgements nobody asked for cost nothing but their bytes; pings are a matter of policy.
    flood(&server, &[], &frame(raw::PING, 0, 0, &[0; 8]), ENHANCE_YOUR_CALM);
    let counters = server.counters();
    assert_eq!(counters.floods + counters.too_many_pings, 6);
    // Streams that are reset as soon as they are open.
    let mut rapid = Vec::new();
    for n in 0..5 * EARLY_ENDS_FIRST {
        rapid.extend(frame(raw::HEADERS, raw::END_HEADERS, 2 * n + 1, &request_headers(PUT)));
        rapid.extend(frame(raw::RST_STREAM, 0, 2 * n + 1, &[0, 0, 0, 8]));
    }
    flood_once(&server, &rapid);
    // Empty DATA on an open stream.
    flood_once(&server, &[open_stream(), frame(raw::DATA, 0, 1, &[]).repeat(3_000)].concat());
}

#[test]
fn a_batch_that_is_called_and_given_up_in_one_go_costs_the_connection_nothing() {
    let server = Server::start(quick());
    let mut raw = Raw::open(&server);
    let mut batch = Vec::new();
    for n in 0..1_000_u32 {
        batch.extend(frame(raw::HEADERS, raw::END_HEADERS, 2 * n + 1, &request_headers(PUT)));
        batch.extend(frame(raw::RST_STREAM, 0, 2 * n + 1, &[0, 0, 0, 8]));
    }
    batch.extend(frame(raw::PING, 0, 0, b"served??"));
    raw.send(&batch);
    let pong = raw.receive_kind(raw::PING).expect("the connection goes on");
    assert_eq!(pong.payload, b"served??");
}

fn flood_once(server: &Server, bytes: &[u8]) {
    let mut raw = Raw::open(server);
    others_are_served_during(server, || {
        raw.send_until_ended(bytes, 1);
        if let Some((code, _)) = raw.end() {
            assert_eq!(code, ENHANCE_YOUR_CALM);
        }
    });
}

#[test]
fn third_ping_against_the_policy_gets_goaway_too_many_pings() {
    let server = Server::start(quick());
    let mut raw = Raw::open(&server);
    for n in 0..4 {
        raw.send(&frame(raw::PING, 0, 0, &[n; 8]));
        if n < 3 {
            loop {
                let pong = raw.receive_kind(raw::PING).unwrap();
                if pong.payload == [n; 8] {
                    break;
                }
            }
        }
    }
    assert_eq!(raw.end(), Some((ENHANCE_YOUR_CALM, "too_many_pings".into())));
    assert_eq!(server.counters().too_many_pings, 1);
}

#[test]
fn headers_without_end_and_too_large_headers_end_or_are_refused() {
    let server = Server::start(quick());
    // CONTINUATION for ever.
    let mut raw = Raw::open(&server);
    raw.send(&frame(raw::HEADERS, 0, 1, &request_headers(PUT)));
    let more = frame(raw::CONTINUATION, 0, 1, &header("x", &[b'a'; 1000]));
    raw.send_until_ended(&more, 1000);
    assert_eq!(raw.end().unwrap_or((ENHANCE_YOUR_CALM, String::new())).0, ENHANCE_YOUR_CALM);
    // 80 KiB of headers: this request is refused, the connection lives.
    let mut raw = Raw::open(&server);
    let mut block = request_headers(PUT);
    block.extend(header("large", &[b'a'; 16_000]));
    raw.send(&frame(raw::HEADERS, raw::END_STREAM, 1, &block[..16_000]));
    block.drain(..16_000);
    for _ in 0..4 {
        raw.send(&frame(raw::CONTINUATION, 0, 1, &block));
        block = header("larger", &[b'a'; 16_000]);
    }
    raw.send(&frame(raw::CONTINUATION, raw::END_HEADERS, 1, &block));
    let answer = raw.receive_kind(raw::HEADERS).unwrap();
    assert_eq!((answer.stream, answer.flags & raw::END_STREAM), (1, raw::END_STREAM));
    raw.send(&frame(raw::PING, 0, 0, b"stillup!"));
    assert_eq!(raw.receive_kind(raw::PING).unwrap().payload, b"stillup!");
    // A compressed bomb: one table entry, named thousands of times.
    let mut raw = Raw::open(&server);
    let mut bomb = header("bomb", &[b'a'; 4_000]);
    bomb[0] = 0x40;
    bomb.extend([0xbe; 10_000]);
    raw.send(&frame(raw::HEADERS, raw::END_HEADERS, 1, &bomb));
    assert_eq!(raw.end().unwrap().0, ENHANCE_YOUR_CALM);
}

#[test]
fn garbage_after_the_preface_ends_the_connection() {
    let server = Server::start(quick());
    for garbage in [
        frame(raw::DATA, 0, 1, b"before headers"),
        frame(raw::SETTINGS, 0, 5, &[]),
        frame(raw::WINDOW_UPDATE, 0, 0, &[0; 4]),
        frame(raw::HEADERS, raw::END_HEADERS, 2, &request_headers(PUT)),
        frame(raw::HEADERS, raw::END_HEADERS, 1, &[0xff; 20]),
        frame(raw::PING, 0, 0, &[1]),
        vec![0xff; 100],
    ] {
        let mut raw = Raw::open(&server);
        raw.send(&garbage);
        let (code, _) = raw.end().unwrap_or((PROTOCOL_ERROR, String::new()));
        assert_ne!(code, 0, "{garbage:?}");
    }
    client(async { server.until("all have ended", |counters| counters.connections == 0).await });
}

#[test]
fn silent_connections_are_bounded_by_their_number_and_the_oldest_goes_first() {
    let server = Server::start(quick());
    let mut first = Raw::connect(&server);
    client(server.until("the first is there", |counters| counters.connections == 1));
    let mut others: Vec<Raw> = (0..SILENT_MAX).map(|_| Raw::connect(&server)).collect();
    assert_eq!(first.read_to_end(), "");
    client(server.until("one was dropped", |counters| counters.silent_dropped == 1));
    // Whoever speaks, however late, is served and is no longer one of them.
    for said in [raw::PREFACE, b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"] {
        let mut other = others.pop().unwrap();
        other.send(&said[..1]);
        other.send(&said[1..]);
        if said == raw::PREFACE {
            other.send(&frame(raw::SETTINGS, 0, 0, &[]));
            other.send(&frame(raw::PING, 0, 0, b"stillup!"));
            assert_eq!(other.receive_kind(raw::PING).unwrap().payload, b"stillup!");
        } else {
            assert!(other.read_to_end().starts_with("HTTP/1.1 404 "));
        }
    }
    assert_eq!(server.counters().silent_dropped, 1);
}

#[test]
fn connections_that_never_speak_do_not_hold_up_a_stop() {
    let mut config = quick();
    config.drain_timeout = 10 * PATIENCE;
    let server = Server::start(config);
    let _silent: Vec<Raw> = (0..10).map(|_| Raw::connect(&server)).collect();
    let mut half = Raw::connect(&server);
    half.send(b"GET / HTTP/1.1\r\nHost: x");
    client(server.until("all are there", |counters| counters.connections == 11));
    // The drop waits for the server.
    drop(server);
    half.read_to_end();
}

#[test]
fn idle_connection_is_pinged_and_ended_when_it_does_not_answer() {
    let mut config = quick();
    config.keepalive.interval = Duration::from_millis(100);
    config.keepalive.timeout = Duration::from_millis(100);
    let server = Server::start(config);
    let mut raw = Raw::open(&server);
    for _ in 0..3 {
        // Answered pings keep it alive.
        let ping = loop {
            let ping = raw.receive_kind(raw::PING).unwrap();
            if ping.flags & raw::ACK == 0 {
                break ping;
            }
        };
        raw.send(&frame(raw::PING, raw::ACK, 0, &ping.payload));
    }
    assert_eq!(raw.end(), Some((0, "stalled".into())));
}

#[test]
fn http1_request_is_answered_and_a_head_without_end_is_refused() {
    let server = Server::start(quick());
    let mut raw = Raw::connect(&server);
    raw.send(b"GET /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let text = raw.read_to_end();
    assert!(text.starts_with("HTTP/1.1 404 Not Found\r\n"), "{text}");
    assert!(text.ends_with("\r\n\r\n404 page not found\n"), "{text}");
    let mut raw = Raw::connect(&server);
    raw.send(format!("GET /{}", "x".repeat(70_000)).as_bytes());
    assert!(raw.read_to_end().starts_with("HTTP/1.1 431"));
}

/// However it is dripped: the time for a head is one, and each piece of a body has its own.
#[test]
fn http1_head_that_does_not_end_and_body_that_stands_still_are_refused_in_time() {
    let mut config = quick();
    config.http_idle = Duration::from_millis(300);
    let server = Server::start(config);
    others_are_served_during(&server, || {
        let mut quiet = Raw::connect(&server);
        quiet.send(b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n");
        let text = quiet.read_to_end();
        assert!(text.starts_with("HTTP/1.1 404 ") && text.matches("HTTP/1.1").count() == 1, "{text}");

        let mut slow = Raw::connect(&server);
        slow.send(b"GET /nothing HTTP/1.1\r\n");
        slow.patience(Duration::from_millis(20));
        let mut answer = Vec::new();
        for _ in 0..500 {
            if slow.0.read_to_end(&mut answer).is_ok() || slow.0.write_all(b"X: y\r\n").is_err() {
                break;
            }
        }
        assert!(answer.starts_with(b"HTTP/1.1 408 "), "{}", answer.escape_ascii());

        let mut still = Raw::connect(&server);
        still.send(b"POST /v3/kv/put HTTP/1.1\r\nHost: x\r\nContent-Length: 30\r\n\r\n{\"key\":");
        let text = still.read_to_end();
        assert!(text.starts_with("HTTP/1.1 429 "), "{text}");
        assert!(text.contains("unfinished request has not moved for too long"), "{text}");
    });
}

#[test]
fn what_is_no_http_is_closed_at_its_first_bytes() {
    let server = Server::start(quick());
    for bytes in [&b"\x16"[..], b"\x16\x03\x01\x02\x00\x01", b"SSH-2.0-x\r\n", b"\0", b"xx"] {
        let mut raw = Raw::connect(&server);
        raw.send(bytes);
        assert_eq!(raw.read_to_end(), "", "{}", bytes.escape_ascii());
    }
    assert_eq!(server.counters().strangers, 5);
}

#[test]
fn too_many_unfinished_requests_are_refused_one_by_one() {
    let server = Server::start(quick());
    let mut raw = Raw::open(&server);
    let uploads_max = UPLOAD_BYTES_MAX / PLACE_BYTES;
    let uploads_max = u32::try_from(uploads_max).unwrap();
    others_are_served_during(&server, || {
        for n in 0..=uploads_max {
            raw.send(&frame(raw::HEADERS, raw::END_HEADERS, 2 * n + 1, &request_headers(PUT)));
        }
        let refused = raw.receive_kind(raw::HEADERS).unwrap();
        assert_eq!(refused.stream, 2 * uploads_max + 1);
    });
}
