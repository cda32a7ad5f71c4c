//! What honest clients do in bulk: none of it ends their connection, or anybody's call.

use super::super::grpc::frame_credit::{EARLY_ENDS_FIRST, PER_S};
use super::raw::{self, Frame, Raw, frame, request_headers};
use super::*;

const WATCH: &str = "/etcdserverpb.Watch/Watch";
const KEEP_ALIVE: &str = "/etcdserverpb.Lease/LeaseKeepAlive";

const WINDOW: [u8; 4] = [0, 0, 0, 5];
const CANCEL: [u8; 4] = [0, 0, 0, 8];

/// The client's `n`th stream.
fn stream(n: u32) -> u32 {
    2 * n + 1
}

/// A call as gRPC's C core sends it: a window update for the stream and one for the connection come
/// before any answer.
fn call_of_c_core(path: &str, n: u32, message: &[u8], flags: u8) -> Vec<u8> {
    let mut bytes = frame(raw::HEADERS, raw::END_HEADERS, stream(n), &request_headers(path));
    bytes.extend(frame(raw::WINDOW_UPDATE, 0, stream(n), &WINDOW));
    bytes.extend(frame(raw::WINDOW_UPDATE, 0, 0, &WINDOW));
    bytes.extend(frame(raw::DATA, flags, stream(n), message));
    bytes
}

fn cancel(n: u32) -> Vec<u8> {
    frame(raw::RST_STREAM, 0, stream(n), &CANCEL)
}

/// The connection lives, and all that was sent has been read.
#[track_caller]
fn is_served(raw: &mut Raw) {
    raw.send(&frame(raw::PING, 0, 0, b"served??"));
    let pong = raw.receive_kind(raw::PING).expect("the connection goes on");
    assert_eq!(pong.payload, b"served??");
}

fn create_watch(key: &str) -> Vec<u8> {
    let key = Bytes::copy_from_slice(key.as_bytes());
    let create = pb::WatchCreateRequest { key, ..Default::default() };
    let request_union = Some(pb::watch_request::RequestUnion::CreateRequest(create));
    framed(&pb::WatchRequest { request_union }.encode_to_vec())
}

#[test]
fn calls_that_wait_pay_for_their_window_updates_and_for_being_given_up_later() {
    const CALLS: u32 = 4_000;
    let server = Server::start(quick());
    server.tell(Control::Hold(true));
    let mut raw = Raw::open(&server);
    for n in 0..CALLS {
        raw.send(&call_of_c_core(PUT, n, &put("k", b"v"), raw::END_STREAM));
    }
    is_served(&mut raw);
    raw.send(&(0..CALLS).flat_map(cancel).collect::<Vec<u8>>());
    is_served(&mut raw);
    server.tell(Control::Hold(false));
    assert_eq!(server.counters().floods, 0);
}

#[test]
fn who_greets_and_calls_later_hears_the_settings_once_and_each_of_its_own_acknowledged_once() {
    let server = Server::start(quick());
    let mut raw = Raw::connect(&server);
    raw.send(raw::PREFACE);
    // In pieces, and settled before more is said.
    let ours = frame(raw::SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0]);
    for piece in ours.chunks(5) {
        raw.send(piece);
    }
    let settings = raw.receive().unwrap();
    assert_eq!((settings.kind, settings.flags), (raw::SETTINGS, 0));
    let acknowledged = raw.receive().unwrap();
    assert_eq!((acknowledged.kind, acknowledged.flags), (raw::SETTINGS, raw::ACK));
    raw.send(&frame(raw::SETTINGS, raw::ACK, 0, &[]));
    raw.send(&frame(raw::WINDOW_UPDATE, 0, 0, &WINDOW));
    raw.send(&frame(raw::SETTINGS, 0, 0, &[]));
    assert_eq!(raw.receive().map(|frame| (frame.kind, frame.flags)), Some((raw::SETTINGS, raw::ACK)));
    for n in 0..3 {
        raw.send(&call_of_c_core(PUT, n, &put("k", b"v"), raw::END_STREAM));
        loop {
            let frame = raw.receive().expect("the connection goes on");
            assert_ne!(frame.kind, raw::SETTINGS, "{frame:?}");
            if frame.kind == raw::HEADERS && frame.flags & raw::END_STREAM != 0 {
                break;
            }
        }
    }
    raw.send(&frame(raw::SETTINGS, 0, 0, &[]));
    assert_eq!(raw.receive_kind(raw::SETTINGS).unwrap().flags, raw::ACK);
    is_served(&mut raw);
}

#[test]
fn watch_streams_are_cancelled_together_at_once() {
    const STREAMS: u32 = 6_000;
    const { assert!(EARLY_ENDS_FIRST < STREAMS) };
    let server = Server::start(quick());
    let mut raw = Raw::open(&server);
    for n in 0..STREAMS {
        raw.send(&call_of_c_core(WATCH, n, &create_watch("k"), 0));
    }
    is_served(&mut raw);
    raw.send(&(0..STREAMS).flat_map(cancel).collect::<Vec<u8>>());
    is_served(&mut raw);
    client(server.until("all have ended", |counters| counters.watch_streams == 0));
}

#[test]
fn calls_given_up_while_the_server_stood_still_are_no_rapid_reset() {
    let server = Server::start(quick());
    let mut raw = Raw::open(&server);
    is_served(&mut raw);
    // One second less than what the pause pays for.
    const PAUSE_S: u32 = 3;
    let calls = EARLY_ENDS_FIRST + (PAUSE_S - 1) * PER_S;
    let all: Vec<u8> =
        (0..calls).flat_map(|n| [call_of_c_core(PUT, n, &put("k", b"v"), 0), cancel(n)].concat()).collect();
    std::thread::scope(|scope| {
        scope.spawn(|| server.run(|_, _| std::thread::sleep(Duration::from_secs(PAUSE_S.into()))));
        raw.send(&all);
    });
    is_served(&mut raw);
}

#[test]
fn renewals_whose_answers_share_frames_pay_for_two_window_updates_each() {
    const RENEWALS: u32 = 10_000;
    const AT_ONCE: u32 = 50;
    let server = Server::start(quick());
    let mut raw = Raw::open(&server);
    let renewal = framed(&pb::LeaseKeepAliveRequest { id: i64::MAX }.encode_to_vec());
    raw.send(&frame(raw::HEADERS, raw::END_HEADERS, 1, &request_headers(KEEP_ALIVE)));
    let renewals = frame(raw::DATA, 0, 1, &renewal).repeat(AT_ONCE as usize);
    let updates =
        [frame(raw::WINDOW_UPDATE, 0, 1, &[0, 0, 1, 0]), frame(raw::WINDOW_UPDATE, 0, 0, &[0, 0, 1, 0])];
    let mut messages = Vec::new();
    for _ in 0..RENEWALS / AT_ONCE {
        raw.send(&renewals);
        let mut answered = 0;
        while answered < AT_ONCE {
            let Frame { kind, payload, .. } = raw.receive().expect("the connection goes on");
            assert_ne!(kind, raw::GO_AWAY, "{}", String::from_utf8_lossy(&payload));
            if kind == raw::DATA {
                messages.extend(payload);
            }
            answered += take_messages(&mut messages);
        }
        raw.send(&updates.concat().repeat(AT_ONCE as usize));
    }
    is_served(&mut raw);
}

/// Takes whole messages off the front and counts them.
fn take_messages(bytes: &mut Vec<u8>) -> u32 {
    let mut count = 0;
    while let Some(prefix) = bytes.first_chunk::<PREFIX_BYTES>() {
        let length = u32::from_be_bytes(prefix[1..].try_into().unwrap()) as usize;
        if bytes.len() < PREFIX_BYTES + length {
            break;
        }
        bytes.drain(..PREFIX_BYTES + length);
        count += 1;
    }
    count
}

#[test]
fn upload_that_stands_still_is_waited_for_and_carried_out() {
    let mut config = quick();
    config.pressure_timeout = Duration::from_millis(20);
    config.request_timeout = Duration::from_millis(20);
    let server = Server::start(config);
    let mut raw = Raw::open(&server);
    let body = put("slow", &[b'v'; 1000]);
    let mut bytes = frame(raw::HEADERS, raw::END_HEADERS, 1, &request_headers(PUT));
    bytes.extend(frame(raw::DATA, raw::END_STREAM, 1, &body));
    // In the middle of the headers, of the body, of a frame's head, and of each piece.
    for piece in bytes.chunks(bytes.len() / 7) {
        raw.send(piece);
        std::thread::sleep(Duration::from_millis(100));
    }
    let head = raw.receive_kind(raw::HEADERS).expect("the connection goes on");
    assert_eq!((head.stream, head.flags & raw::END_STREAM), (1, 0), "it is answered with a message");
    is_served(&mut raw);
}

#[test]
fn thousands_of_watch_streams_leave_every_other_call_of_their_connection_alone() {
    const STREAMS: u32 = 20_000;
    let server = Server::start(quick());
    let mut raw = Raw::open(&server);
    raw.send(&frame(raw::WINDOW_UPDATE, 0, 0, &(1_u32 << 30).to_be_bytes()));
    for n in 0..STREAMS {
        raw.send(&call_of_c_core(WATCH, n, &create_watch("k"), 0));
        if n % 1_000 == 999 {
            is_served(&mut raw);
        }
    }
    client(server.until("all watch", |counters| counters.watchers == u64::from(STREAMS)));
    // A put in two pieces has a task, and so has a renewal.
    let body = put("k2", &[b'v'; 1000]);
    let (first, rest) = body.split_at(500);
    raw.send(&frame(raw::HEADERS, raw::END_HEADERS, stream(STREAMS), &request_headers(PUT)));
    raw.send(&frame(raw::DATA, 0, stream(STREAMS), first));
    is_served(&mut raw);
    raw.send(&frame(raw::DATA, raw::END_STREAM, stream(STREAMS), rest));
    is_answered(&mut raw, STREAMS);
    let renewal = framed(&pb::LeaseKeepAliveRequest { id: 7 }.encode_to_vec());
    raw.send(&call_of_c_core(KEEP_ALIVE, STREAMS + 1, &renewal, 0));
    is_answered(&mut raw, STREAMS + 1);
    // They are as good as the first ones: each gets the change.
    raw.send(&call_of_c_core(PUT, STREAMS + 2, &put("k", b"v"), raw::END_STREAM));
    let mut told = std::collections::BTreeSet::new();
    while told.len() < STREAMS as usize {
        let Frame { kind, stream: of, .. } = raw.receive().expect("the connection goes on");
        if kind == raw::DATA && of < stream(STREAMS) {
            told.insert(of);
        }
    }
}

/// The `n`th call gets a message.
#[track_caller]
fn is_answered(raw: &mut Raw, n: u32) {
    loop {
        let Frame { kind, flags, stream: of, .. } = raw.receive().expect("the connection goes on");
        if of == stream(n) && kind == raw::HEADERS {
            assert_eq!(flags & raw::END_STREAM, 0, "a status alone");
        }
        if of == stream(n) && kind == raw::DATA {
            return;
        }
    }
}
