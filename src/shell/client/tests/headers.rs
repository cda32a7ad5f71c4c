//! Request headers that an etcd server takes or refuses, byte by byte as clients send them.

use super::raw::{self, Raw, frame, header, request_headers};
use super::*;
use crate::rpc::headers::tests::Decoder;

const COMPRESSION_ERROR: u32 = 9;
const INTERNAL: &str = "13";
const UNIMPLEMENTED: &str = "12";
const RESOURCE_EXHAUSTED: &str = "8";
const DEADLINE_EXCEEDED: &str = "4";

/// The fields of a put, one of which may be replaced and some added.
type Call = Vec<(&'static str, Vec<u8>)>;

fn call() -> Call {
    vec![
        (":method", b"POST".to_vec()),
        (":scheme", b"http".to_vec()),
        (":path", PUT.into()),
        (":authority", b"localhost:2379".to_vec()),
        ("content-type", b"application/grpc".to_vec()),
        ("te", b"trailers".to_vec()),
    ]
}

fn with(name: &str, value: impl AsRef<[u8]>) -> Call {
    let mut call = call();
    let field = call.iter_mut().find(|(known, _)| *known == name);
    field.expect("the call has it").1 = value.as_ref().to_vec();
    call
}

fn without(name: &str) -> Call {
    call().into_iter().filter(|(known, _)| *known != name).collect()
}

fn and(mut call: Call, name: &'static str, value: impl AsRef<[u8]>) -> Call {
    call.push((name, value.as_ref().to_vec()));
    call
}

fn first(mut call: Call, name: &'static str, value: impl AsRef<[u8]>) -> Call {
    call.insert(0, (name, value.as_ref().to_vec()));
    call
}

fn block(call: &Call) -> Vec<u8> {
    call.iter().flat_map(|(name, value)| header(name, value)).collect()
}

/// A connection that makes calls one by one and reads their answers.
struct Caller {
    raw: Raw,
    decoder: Decoder,
    stream: u32,
    /// Bytes of one write.
    size: usize,
}

/// HTTP status, gRPC status, text.
type Told = (String, String, String);

fn told(http: &str, status: &str, text: &str) -> Told {
    (http.into(), status.into(), text.into())
}

fn served() -> Told {
    told("200", "0", "")
}

impl Caller {
    fn open(server: &Server) -> Self {
        Self { raw: Raw::open(server), decoder: Decoder::new(), stream: 1, size: usize::MAX }
    }

    /// Makes a put with these headers and says what it was told.
    fn put(&mut self, block: &[u8]) -> Told {
        let stream = self.stream;
        self.stream += 2;
        let mut bytes = Vec::new();
        let pieces: Vec<&[u8]> = if block.is_empty() { vec![&[]] } else { block.chunks(16_000).collect() };
        for (at, piece) in pieces.iter().enumerate() {
            let kind = if at == 0 { raw::HEADERS } else { raw::CONTINUATION };
            let flags = if at + 1 == pieces.len() { raw::END_HEADERS } else { 0 };
            bytes.extend(frame(kind, flags, stream, piece));
        }
        bytes.extend(frame(raw::DATA, raw::END_STREAM, stream, &put("k", b"v")));
        bytes.chunks(self.size.min(bytes.len())).for_each(|piece| self.raw.send(piece));
        self.told(stream)
    }

    fn told(&mut self, stream: u32) -> Told {
        let mut told = Told::default();
        loop {
            let frame = self.raw.receive().expect("the connection lives");
            if frame.kind == raw::RST_STREAM && frame.stream == stream {
                return (format!("reset {:?}", frame.payload), String::new(), String::new());
            }
            assert_ne!(frame.kind, raw::GO_AWAY, "{:?}", String::from_utf8_lossy(&frame.payload));
            if frame.kind != raw::HEADERS {
                continue;
            }
            for (name, value) in self.decoder.decode(&frame.payload) {
                let value = String::from_utf8(value).unwrap();
                match &name[..] {
                    b":status" => told.0 = value,
                    b"grpc-status" => told.1 = value,
                    b"grpc-message" => told.2 = percent_decode(&value),
                    _ => {}
                }
            }
            if frame.stream == stream && frame.flags & raw::END_STREAM != 0 {
                return told;
            }
        }
    }
}

#[track_caller]
fn check(caller: &mut Caller, call: &Call, expected: &Told) {
    let name = |call: &Call| format!("{:?}", call.iter().map(|(name, _)| *name).collect::<Vec<_>>());
    assert_eq!(caller.put(&block(call)), *expected, "{}", name(call));
}

#[test]
fn whatever_is_said_of_authority_scheme_and_connection_is_served_as_etcd_serves_it() {
    let server = Server::start(quick());
    let authorities = [
        "",
        "a:2379,b:2379",
        "http://127.0.0.1:2379",
        "/run/etcd.sock",
        "%2Frun%2Fetcd.sock",
        "[::1]:2379,[::2]:2379",
        "#initially=[https://example.com:2379]",
        "a b",
        "ü",
        "user@host:1:2",
        ":",
    ];
    let mut calls: Vec<Call> = authorities.iter().map(|text| with(":authority", text)).collect();
    calls.extend([
        without(":authority"),
        and(without(":authority"), "host", "x"),
        and(call(), "host", "y"),
        without(":scheme"),
        with(":scheme", ""),
        with(":scheme", "1 x/"),
        with(":scheme", "grpc"),
        first(call(), ":protocol", "websocket"),
        with("te", "gzip"),
        without("te"),
        and(call(), "te", "gzip, trailers"),
        and(call(), "keep-alive", "5"),
        and(call(), "proxy-connection", "keep-alive"),
        and(call(), "upgrade", "h2c"),
        and(call(), "transfer-encoding", "chunked"),
        and(call(), "content-length", "3"),
        and(call(), "content-length", "x"),
        and(and(call(), "content-length", "3"), "content-length", "4"),
        and(call(), "x", "\t\u{80} \u{ff} "),
        first(call(), ":authority", "x")
            .into_iter()
            .filter(|(name, value)| *name != ":authority" || value == b"x")
            .collect(),
    ]);
    for size in [usize::MAX, 1, 5] {
        let mut caller = Caller::open(&server);
        caller.size = size;
        for call in &calls {
            check(&mut caller, call, &served());
        }
        check(&mut caller, &call(), &served());
    }
    // Each on a connection of its own, too: nothing before has changed how it is read.
    for call in &calls {
        check(&mut Caller::open(&server), call, &served());
    }
}

#[test]
fn odd_authority_is_served_in_every_form_of_hpack() {
    /// A string, in Huffman's code if `coded` is given.
    fn text(value: &[u8]) -> Vec<u8> {
        [&[u8::try_from(value.len()).unwrap()], value].concat()
    }
    // `http://127.0.0.1:1` in Huffman's code.
    let coded = [0x80 | 13, 0x9d, 0x29, 0xae, 0xe3, 0x0c, 0x04, 0x4e, 0xae, 0x05, 0xc0, 0xb8, 0x6e, 0x07];
    let rest: Vec<u8> = block(&without(":authority")).into_iter().collect();
    let server = Server::start(quick());
    for form in [0x40, 0x00, 0x10] {
        for value in [text(b"a:1,b:2"), text(b""), coded.to_vec()] {
            for size in [usize::MAX, 1] {
                let mut caller = Caller::open(&server);
                caller.size = size;
                let by_index = [&[form | 1][..], &value, &rest].concat();
                let spelled_out = [&[form][..], &text(b":authority"), &value, &rest].concat();
                assert_eq!(caller.put(&by_index), served(), "{form:x}");
                assert_eq!(caller.put(&spelled_out), served(), "{form:x}");
                if form == 0x40 {
                    // From the table: all of it, and its name alone.
                    assert_eq!(caller.put(&[&[0xbe][..], &rest].concat()), served());
                    assert_eq!(caller.put(&[&[0x7e][..], &text(b"/x"), &rest].concat()), served());
                    assert_eq!(caller.put(&[&[0xc0][..], &rest].concat()), served());
                }
                // The static table's, which is empty; and behind changes of the table's size.
                assert_eq!(caller.put(&[&[0x81][..], &rest].concat()), served());
                let sized = [&[0x20, 0x3f, 0xe1, 0x1f][..], &[0x41], &text(b"http://"), &rest].concat();
                assert_eq!(caller.put(&sized), served());
                assert_eq!(caller.put(&[&[0xbe][..], &rest].concat()), served());
            }
        }
    }
}

#[test]
fn malformed_headers_get_a_status_and_the_connection_goes_on() {
    let server = Server::start(quick());
    let mut calls: Vec<(Call, &str)> = Vec::new();
    for twice in [":method", ":scheme", ":path", ":authority"] {
        let value = call().into_iter().find(|(name, _)| *name == twice).unwrap().1;
        calls.push((first(call(), twice, value), "more than once"));
    }
    calls.extend([
        (and(without(":authority"), ":authority", "x"), "behind a field that is no pseudo-header"),
        (first(call(), ":foo", "x"), "invalid name \":foo\""),
        (first(call(), ":status", "200"), "invalid name \":status\""),
        (and(call(), "Upper", "x"), "invalid name \"Upper\""),
        (and(call(), "", "x"), "invalid name \"\""),
        (and(call(), "a b", "x"), "invalid name \"a b\""),
        (and(call(), "a:b", "x"), "invalid name \"a:b\""),
        (and(call(), "ä", "x"), "invalid name \"ä\""),
        (and(call(), "a", "x\0y"), "invalid value of \"a\""),
        (and(call(), "a", "x\ry"), "invalid value of \"a\""),
        (and(call(), "a", "x\ny"), "invalid value of \"a\""),
        (and(call(), "a", "x\x7fy"), "invalid value of \"a\""),
        (with(":authority", "x\0y"), "invalid value of \":authority\""),
        (and(call(), "connection", "close"), "\"connection\" has no meaning in HTTP/2"),
        (and(and(call(), "host", "a"), "host", "b"), "\"host\" more than once"),
    ]);
    let mut caller = Caller::open(&server);
    for (call, text) in &calls {
        let (http, status, said) = caller.put(&block(call));
        assert_eq!((&*http, &*status), ("200", INTERNAL), "{said}");
        assert!(said.starts_with("malformed header: ") && said.ends_with(text), "{said} is not {text}");
    }
    // From the table as well, the first time on a connection and later.
    let mut kept = header("Upper", b"x");
    kept[0] = 0x40;
    let plain = block(&call());
    for _ in 0..2 {
        let mut caller = Caller::open(&server);
        assert_eq!(caller.put(&[&plain[..], &kept].concat()).1, INTERNAL);
        assert_eq!(caller.put(&[&plain[..], &[0xbe]].concat()).1, INTERNAL);
        assert_eq!(caller.put(&plain), served());
    }
}

#[test]
fn what_is_no_call_is_told_what_grpc_go_says() {
    let server = Server::start(quick());
    let mut caller = Caller::open(&server);
    let method = |text: &str| format!("Received a HEADERS frame with :method {text:?} which should be POST");
    for text in ["GET", "", "PO ST", "post", "CONNECT", "OPTIONS", "x\"y"] {
        check(&mut caller, &with(":method", text), &told("405", INTERNAL, &method(text)));
    }
    check(&mut caller, &without(":method"), &told("405", INTERNAL, &method("")));
    for text in ["", "*", "/", "hello", "etcdserverpb.KV/Put", "http://x/etcdserverpb.KV/Put"] {
        let said = format!("malformed method name: {text:?}");
        check(&mut caller, &with(":path", text), &told("200", UNIMPLEMENTED, &said));
    }
    check(&mut caller, &without(":path"), &told("200", UNIMPLEMENTED, "malformed method name: \"\""));
    for (path, said) in [
        ("/a b/c", "unknown service a b"),
        ("/ü/ä", "unknown service ü"),
        ("/\"<>/x", "unknown service \"<>"),
        ("//etcdserverpb.KV/Put", "unknown service /etcdserverpb.KV"),
        ("/etcdserverpb.KV/Put#x", "unknown method Put#x for service etcdserverpb.KV"),
        ("/etcdserverpb.KV/Put?x", "unknown method Put?x for service etcdserverpb.KV"),
    ] {
        check(&mut caller, &with(":path", path), &told("200", UNIMPLEMENTED, said));
    }
    let content_type = |text: &str| format!("invalid gRPC request content-type {text:?}");
    check(&mut caller, &without("content-type"), &told("415", "3", &content_type("")));
    check(&mut caller, &with("content-type", "text/html"), &told("415", "3", &content_type("text/html")));
    check(
        &mut caller,
        &and(with("content-type", "text/html"), "content-type", "application/grpc"),
        &served(),
    );
    assert_eq!(caller.put(&[]), told("415", "3", &content_type("")), "no headers at all");
    let encoding = "grpc: Decompressor is not installed for grpc-encoding \"zstd\"";
    check(&mut caller, &and(call(), "grpc-encoding", "zstd"), &told("200", UNIMPLEMENTED, encoding));
}

#[test]
fn timeout_that_is_over_or_none_is_refused_whatever_its_unit() {
    let server = Server::start(quick());
    let mut caller = Caller::open(&server);
    let over = told("200", DEADLINE_EXCEEDED, "context deadline exceeded");
    for timeout in ["1n", "0n", "0u", "0m", "0S", "0M", "0H", "00000000n", "999999n", "1u", "999u"] {
        check(&mut caller, &and(call(), "grpc-timeout", timeout), &over);
    }
    for timeout in ["5000m", "99999999n", "10S", "1M", "1H", "99999999H", "99999999M", "2562048H"] {
        check(&mut caller, &and(call(), "grpc-timeout", timeout), &served());
    }
    let digits = |text: &str| format!("strconv.ParseUint: parsing {text:?}: invalid syntax");
    let short = |text: &str| format!("transport: timeout string is too short: {text:?}");
    let long = |text: &str| format!("transport: timeout string is too long: {text:?}");
    let unit = |text: &str| format!("transport: timeout unit is not recognized: {text:?}");
    for (timeout, why) in [
        ("", short("")),
        ("S", short("S")),
        ("1", short("1")),
        ("123456789S", long("123456789S")),
        ("1s", unit("1s")),
        ("1S ", unit("1S ")),
        ("1h", unit("1h")),
        ("-1S", digits("-1")),
        ("+1S", digits("+1")),
        ("1.5S", digits("1.5")),
        (" 1S", digits(" 1")),
        ("0x1S", digits("0x1")),
        ("1_0S", digits("1_0")),
        ("١S", digits("١")),
    ] {
        let said = told("400", INTERNAL, &format!("malformed grpc-timeout: {why}"));
        check(&mut caller, &and(call(), "grpc-timeout", timeout), &said);
    }
    // The last one counts.
    check(&mut caller, &and(and(call(), "grpc-timeout", "1n"), "grpc-timeout", "5S"), &served());
    check(&mut caller, &and(and(call(), "grpc-timeout", "5S"), "grpc-timeout", "1n"), &over);
    // Streams, too.
    for method in
        ["/etcdserverpb.Watch/Watch", "/etcdserverpb.Lease/LeaseKeepAlive", "/grpc.health.v1.Health/Watch"]
    {
        check(&mut caller, &and(with(":path", method), "grpc-timeout", "1n"), &over);
    }
}

#[test]
fn metadata_is_taken_up_to_its_bound_and_refused_with_a_status_above() {
    let mut config = quick();
    let server = Server::start(config.clone());
    let refused = |max: usize| {
        let text = format!("grpc: received metadata larger than max ({max} bytes)");
        told("200", RESOURCE_EXHAUSTED, &text)
    };
    for size in [usize::MAX, 4_000] {
        let mut caller = Caller::open(&server);
        caller.size = size;
        check(&mut caller, &and(call(), "token", vec![b'x'; 20_000]), &served());
        check(&mut caller, &and(call(), "token", vec![b'x'; 64 * 1024]), &served());
        let max = 64 * 1024 + 4096;
        for large in [70_000, 100_000, 1_000_000] {
            check(&mut caller, &and(call(), "token", vec![b'x'; large]), &refused(max));
            check(&mut caller, &call(), &served());
        }
        let mut many = call();
        for _ in 0..2_000 {
            many.push(("a", b"b".to_vec()));
        }
        check(&mut caller, &many, &served());
        many.extend_from_within(6..500);
        check(&mut caller, &many, &refused(max));
        check(&mut caller, &call(), &served());
    }
    drop(server);
    config.metadata_bytes_max = 1_000_000;
    let server = Server::start(config);
    let mut caller = Caller::open(&server);
    check(&mut caller, &and(call(), "token", vec![b'x'; 990_000]), &served());
    check(&mut caller, &and(call(), "token", vec![b'x'; 1_010_000]), &refused(1_004_096));
}

#[test]
fn broken_hpack_ends_its_connection_with_compression_error() {
    let server = Server::start(quick());
    let plain = block(&call());
    for broken in [&b"\x80"[..], b"\xbe", b"\x20", b"\x00\x03ab", b"\x00\x01a\x81\x00"] {
        for before in [&plain[..], &block(&with("te", "gzip"))] {
            let mut raw = Raw::open(&server);
            raw.send(&frame(raw::HEADERS, raw::END_HEADERS, 1, &[before, broken].concat()));
            assert_eq!(raw.end().map(|(code, _)| code), Some(COMPRESSION_ERROR), "{broken:x?}");
        }
    }
    client(async { server.until("all have ended", |counters| counters.connections == 0).await });
}

#[test]
fn open_stream_survives_malformed_calls_beside_it_and_trailers_end_it() {
    let server = Server::start(quick());
    let mut caller = Caller::open(&server);
    let stream = and(with(":path", "/etcdserverpb.Lease/LeaseKeepAlive"), "keep-alive", "5");
    caller.raw.send(&frame(raw::HEADERS, raw::END_HEADERS, 1, &block(&stream)));
    caller.stream = 3;
    assert_eq!(caller.put(&block(&and(call(), "Upper", "x"))).1, INTERNAL);
    assert_eq!(caller.put(&block(&with(":authority", "a,b"))), served());
    caller.raw.send(&frame(raw::HEADERS, raw::END_HEADERS | raw::END_STREAM, 1, &header("te", b"gzip")));
    // Its response headers came before.
    assert_eq!(caller.told(1).1, "0");
    assert_eq!(caller.put(&block(&call())), served());
    // A stream that depends on itself, and one with padding.
    let stream = caller.stream;
    caller.stream += 2;
    let payload = [&[3][..], &stream.to_be_bytes(), &[7], &block(&call()), &[0; 3]].concat();
    caller.raw.send(&frame(raw::HEADERS, raw::END_HEADERS | 0x28, stream, &payload));
    caller.raw.send(&frame(raw::DATA, raw::END_STREAM, stream, &put("k", b"v")));
    assert_eq!(caller.told(stream), served());
    // Trailers that are malformed end their stream alone.
    let stream = caller.stream;
    caller.stream += 2;
    caller.raw.send(&frame(raw::HEADERS, raw::END_HEADERS, stream, &request_headers(PUT)));
    caller.raw.send(&frame(raw::HEADERS, raw::END_HEADERS | raw::END_STREAM, stream, &header("A", b"b")));
    assert!(caller.told(stream).0.starts_with("reset"));
    assert_eq!(caller.put(&block(&call())), served());
}

#[test]
fn unfinished_header_blocks_are_refused_when_they_hold_too_much_memory() {
    let mut config = quick();
    config.metadata_bytes_max = 8_000_000;
    let server = Server::start(config);
    let block = block(&and(call(), "token", vec![b'x'; 7_900_000]));
    let (last, pieces) = {
        let mut pieces: Vec<&[u8]> = block.chunks(16_000).collect();
        (pieces.pop().unwrap(), pieces)
    };
    // As many connections as the shard has memory for, and more.
    let connections = super::super::call::account::SHARD_HEADER_BYTES_MAX / 8_000_000;
    let mut callers: Vec<Caller> = Vec::new();
    for _ in 0..connections + 8 {
        let mut caller = Caller::open(&server);
        for (at, piece) in pieces.iter().enumerate() {
            caller.raw.send(&frame(if at == 0 { raw::HEADERS } else { raw::CONTINUATION }, 0, 1, piece));
        }
        callers.push(caller);
    }
    let mut codes = Vec::new();
    for caller in &mut callers {
        caller.raw.send(&frame(raw::CONTINUATION, raw::END_HEADERS, 1, last));
        caller.raw.send(&frame(raw::DATA, raw::END_STREAM, 1, &put("k", b"v")));
        codes.push(caller.told(1).1);
    }
    let refused = codes.iter().filter(|code| *code == RESOURCE_EXHAUSTED).count();
    let served = codes.iter().filter(|code| *code == "0").count();
    assert_eq!(refused + served, codes.len());
    assert!(0 < refused && 0 < served, "{refused} refused, {served} served");
}
