use super::*;

#[derive(Default)]
struct Heard(Vec<String>);

impl Sink for Heard {
    fn on_data(&mut self, stream: u32, payload: &[u8]) {
        self.0.push(format!("{stream} data {}", payload.len()));
    }
    fn on_end(&mut self, stream: u32, end: End<'_>) {
        self.0.push(match end {
            End::Status { code, message } => {
                format!("{stream} status {code} {message}").trim_end().to_owned()
            }
            End::Reset(code) => format!("{stream} reset {code}"),
        });
    }
}

fn settled(settings: &[(u16, u32)]) -> Connection {
    let mut connection = Connection::new("test");
    let mut bytes = Vec::new();
    frame::put_settings(&mut bytes, settings);
    connection.receive(&bytes, &mut Heard::default()).unwrap();
    assert!(connection.can_open());
    connection.out.clear();
    connection
}

fn frames(mut bytes: &[u8]) -> Vec<(FrameHeader, Vec<u8>)> {
    let (mut splitter, mut frames) = (Splitter::default(), Vec::new());
    while let Some((header, payload)) = splitter.next(&mut bytes, &mut Vec::new()).unwrap() {
        frames.push((header, payload.to_vec()));
    }
    frames
}

fn heard(connection: &mut Connection, bytes: &[u8]) -> Vec<String> {
    let mut heard = Heard::default();
    connection.receive(bytes, &mut heard).unwrap();
    heard.0
}

fn headers(stream: u32, flags: u8, block: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    frame::put_frame(&mut out, kind::HEADERS, flags, stream, block);
    out
}

/// A literal with (0x40) or without (0x00) insertion.
fn literal(pattern: u8, name: &str, value: &str) -> Vec<u8> {
    let mut block = vec![pattern, u8::try_from(name.len()).unwrap()];
    block.extend_from_slice(name.as_bytes());
    block.push(u8::try_from(value.len()).unwrap());
    block.extend_from_slice(value.as_bytes());
    block
}

const LAST: u8 = flag::END_STREAM | flag::END_HEADERS;

#[test]
fn it_greets_with_preface_settings_and_a_wide_window() {
    let connection = Connection::new("test");
    let rest = connection.out.strip_prefix(frame::PREFACE).unwrap();
    let kinds: Vec<u8> = frames(rest).iter().map(|(header, _)| header.kind).collect();
    assert_eq!(kinds, [kind::SETTINGS, kind::WINDOW_UPDATE]);
    assert!(!connection.can_open(), "nothing is asked before the server's SETTINGS");
}

#[test]
fn settings_and_pings_are_acknowledged() {
    let mut connection = settled(&[]);
    let mut bytes = Vec::new();
    frame::put_settings(&mut bytes, &[(setting::MAX_CONCURRENT_STREAMS, 7)]);
    frame::put_frame(&mut bytes, kind::PING, 0, 0, b"12345678");
    frame::put_frame(&mut bytes, 0xEE, 0, 0, b"unknown frames are skipped");
    assert_eq!(heard(&mut connection, &bytes), [""; 0]);
    assert_eq!(connection.streams_max(), 7);
    let sent = frames(&connection.out);
    assert_eq!((sent[0].0.kind, sent[0].0.flags), (kind::SETTINGS, flag::ACK));
    assert_eq!((sent[1].0.kind, sent[1].0.flags, &sent[1].1[..]), (kind::PING, flag::ACK, &b"12345678"[..]));
}

#[test]
fn a_steady_request_is_eighteen_bytes_of_frames_and_seven_of_headers() {
    let mut connection = settled(&[]);
    assert_eq!(connection.open(Method::Put, b"first"), 1);
    assert_eq!(connection.open(Method::Put, b"second"), 3);
    connection.out.clear();
    assert_eq!(connection.open(Method::Put, b"hello"), 5);
    let sent = frames(&connection.out);
    assert_eq!(
        sent[0].0,
        FrameHeader { length: 7, kind: kind::HEADERS, flags: flag::END_HEADERS, stream: 5 }
    );
    assert_eq!(sent[1].0, FrameHeader { length: 10, kind: kind::DATA, flags: flag::END_STREAM, stream: 5 });
    assert_eq!(sent[1].1, b"\0\0\0\0\x05hello");
}

/// The server's view: every block of an interleaving of methods decodes to its own path.
#[test]
fn copied_header_blocks_name_the_right_path() {
    let mut connection = settled(&[]);
    let mut decoder = Decoder::new();
    let order =
        [Method::Put, Method::Put, Method::Range, Method::Put, Method::Txn, Method::Range, Method::Txn];
    for method in order.into_iter().cycle().take(40) {
        connection.out.clear();
        connection.open(method, b"");
        let mut path = Vec::new();
        let on_field = |name: &[u8], value: &[u8]| {
            if name == b":path" {
                path = value.to_vec();
            }
        };
        decoder.decode(&frames(&connection.out)[0].1, on_field).unwrap();
        assert_eq!(path, method.path().as_bytes());
    }
}

#[test]
fn a_reply_is_headers_data_and_trailers() {
    let mut connection = settled(&[]);
    let mut bytes = headers(1, flag::END_HEADERS, &[0x88]);
    frame::put_frame(&mut bytes, kind::DATA, 0, 1, b"\0\0\0\0\x01a");
    bytes.extend(headers(1, LAST, &literal(0, "grpc-status", "0")));
    assert_eq!(heard(&mut connection, &bytes), ["1 data 6", "1 status 0"]);
}

#[test]
fn trailers_only_errors_carry_their_decoded_message() {
    let mut connection = settled(&[]);
    let mut block = vec![0x88];
    block.extend(literal(0, "grpc-status", "8"));
    block.extend(literal(0, "grpc-message", "etcdserver: 100%25 too many %"));
    assert_eq!(heard(&mut connection, &headers(3, LAST, &block)), ["3 status 8 etcdserver: 100% too many %"]);
}

#[test]
fn a_block_in_pieces_is_joined() {
    let mut connection = settled(&[]);
    let block = literal(0x40, "grpc-status", "5");
    let mut bytes = headers(1, flag::END_STREAM, &block[..4]);
    frame::put_frame(&mut bytes, kind::CONTINUATION, 0, 1, &block[4..6]);
    frame::put_frame(&mut bytes, kind::CONTINUATION, flag::END_HEADERS, 1, &block[6..]);
    assert_eq!(heard(&mut connection, &bytes), ["1 status 5"]);
    let lonely = headers(1, flag::END_STREAM, &block);
    let mut broken = lonely.clone();
    frame::put_frame(&mut broken, kind::PING, 0, 0, &[0; 8]);
    assert!(matches!(
        connection.receive(&broken, &mut Heard::default()),
        Err(ConnectionError::Malformed("HEADERS without its CONTINUATION"))
    ));
}

/// Index 62 means another thing after each insertion: a block that was remembered must not be believed
/// once the table has moved.
#[test]
fn a_remembered_block_is_forgotten_when_the_table_moves() {
    let mut connection = settled(&[]);
    let indexed = [0xBE]; // index 62
    assert_eq!(heard(&mut connection, &headers(1, LAST, &literal(0x40, "grpc-status", "0"))), ["1 status 0"]);
    for stream in [3, 5] {
        assert_eq!(heard(&mut connection, &headers(stream, LAST, &indexed)), [format!("{stream} status 0")]);
    }
    assert_eq!(connection.known_blocks.len(), 1, "the steady block is remembered");
    assert_eq!(
        heard(&mut connection, &headers(7, LAST, &literal(0x40, "grpc-status", "14"))),
        ["7 status 14"]
    );
    assert_eq!(heard(&mut connection, &headers(9, LAST, &indexed)), ["9 status 14"]);
    assert_eq!(heard(&mut connection, &headers(11, LAST, &[0xBF])), ["11 status 0"]);
    // The same inserting bytes twice: the second must insert again.
    heard(&mut connection, &headers(13, LAST, &literal(0x40, "grpc-status", "14")));
    assert_eq!(heard(&mut connection, &headers(15, LAST, &[0xC0])), ["15 status 0"]);
}

#[test]
fn a_call_without_a_status_is_unknown() {
    let mut connection = settled(&[]);
    let mut bytes = headers(1, LAST, &[0x8D]); // :status 404, no grpc-status
    frame::put_frame(&mut bytes, kind::DATA, flag::END_STREAM, 3, b"");
    assert_eq!(
        heard(&mut connection, &bytes),
        [
            "1 status 2 no grpc-status; HTTP status \"404\"",
            "3 data 0",
            "3 status 2 reply ended without trailers"
        ]
    );
}

#[test]
fn data_never_exceeds_the_windows() {
    let mut connection = settled(&[(setting::INITIAL_WINDOW_SIZE, 20_000)]);
    let message = vec![7; 70_000];
    connection.open(Method::Put, &message);
    assert!(!connection.can_open());
    let data_bytes = |connection: &Connection| -> usize {
        let data = frames(&connection.out);
        data.iter().filter(|(header, _)| header.kind == kind::DATA).map(|(header, _)| header.length).sum()
    };
    assert_eq!(data_bytes(&connection), 20_000, "the stream's window");
    let mut bytes = Vec::new();
    frame::put_window_update(&mut bytes, 1, 1_000_000);
    heard(&mut connection, &bytes);
    assert_eq!(data_bytes(&connection), 65_535, "the connection's window");
    bytes.clear();
    frame::put_window_update(&mut bytes, 0, 1_000_000);
    heard(&mut connection, &bytes);
    assert_eq!(data_bytes(&connection), 70_005);
    let sent = frames(&connection.out);
    assert_eq!(sent.last().unwrap().0.flags, flag::END_STREAM);
    assert!(sent.iter().all(|(header, _)| header.length <= PAYLOAD_BYTES_MAX));
    assert!(connection.can_open());
}

#[test]
fn the_receive_window_is_given_back() {
    let mut connection = settled(&[]);
    let mut data = Vec::new();
    frame::put_frame(&mut data, kind::DATA, 0, 1, &[0; PAYLOAD_BYTES_MAX]);
    for _ in 0..=65_536 {
        connection.receive(&data, &mut Heard(Vec::new())).unwrap();
    }
    let sent = frames(&connection.out);
    assert_eq!(sent.len(), 1);
    assert_eq!((sent[0].0.kind, sent[0].0.stream), (kind::WINDOW_UPDATE, 0));
    assert_eq!(frame::word(&sent[0].1), Some(65_537 * 16_384));
}

#[test]
fn goaway_and_resets_are_told_apart() {
    let mut connection = settled(&[]);
    connection.open(Method::Put, b"");
    let mut bytes = Vec::new();
    frame::put_frame(&mut bytes, kind::RST_STREAM, 0, 1, &7_u32.to_be_bytes());
    frame::put_frame(&mut bytes, kind::GOAWAY, 0, 0, &[0, 0, 0, 9, 0, 0, 0, 0]);
    assert_eq!(heard(&mut connection, &bytes), ["1 reset 7"]);
    assert_eq!(connection.goaway(), Some(9));
    assert!(!connection.can_open());
    bytes.clear();
    frame::put_frame(&mut bytes, kind::GOAWAY, 0, 0, b"\0\0\0\x09\0\0\0\x0btoo_many_pings");
    let error = connection.receive(&bytes, &mut Heard::default()).unwrap_err();
    assert_eq!(error.to_string(), "server closed the connection with HTTP/2 error 11: too_many_pings");
}

#[test]
fn stream_ids_run_out_instead_of_wrapping() {
    let mut connection = settled(&[]);
    connection.next_stream = STREAM_MAX;
    assert_eq!(connection.open(Method::Range, b""), STREAM_MAX);
    assert!(connection.is_spent());
    assert!(!connection.can_open());
}

#[test]
fn garbage_from_the_server_is_an_error_not_a_panic() {
    use rand::{RngExt, SeedableRng};
    let seed = 11;
    let mut rng = rand::rngs::StdRng::seed_from_u64(seed);
    for _ in 0..20_000 {
        let mut connection = settled(&[]);
        connection.open(Method::Put, &[0; 100]);
        for _ in 0..4 {
            let length = rng.random_range(0..24);
            let payload: Vec<u8> = (0..length).map(|_| rng.random()).collect();
            let mut bytes = Vec::new();
            let stream = rng.random_range(0..4);
            frame::put_frame(&mut bytes, rng.random_range(0..11), rng.random(), stream, &payload);
            if connection.receive(&bytes, &mut Heard::default()).is_err() {
                break;
            }
        }
    }
}

/// Messages of an open stream obey both windows, come out whole and in order once these open, and a
/// stream that has ended takes no more.
#[test]
fn a_stream_sends_within_its_windows() {
    let mut connection = settled(&[(setting::INITIAL_WINDOW_SIZE, 20)]);
    let first = connection.open_stream(Method::Watch);
    let second = connection.open_stream(Method::Watch);
    connection.out.clear();
    assert!(connection.send(first, b"0123456789"));
    assert!(connection.send(first, b"abcdefghij"), "held back by the stream's window");
    assert!(connection.send(second, b"xyz"), "the other stream's window is its own");
    assert!(connection.is_holding_back(first) && !connection.is_holding_back(second));
    let update = |stream, increment| {
        let mut bytes = Vec::new();
        frame::put_window_update(&mut bytes, stream, increment);
        bytes
    };
    heard(&mut connection, &update(first, 3));
    heard(&mut connection, &update(first, 100));
    assert!(!connection.is_holding_back(first));
    let mut sent = Vec::new();
    for (header, payload) in frames(&connection.out) {
        assert_eq!((header.kind, header.flags), (kind::DATA, 0), "our half stays open");
        if header.stream == first {
            sent.extend_from_slice(&payload);
        }
    }
    assert_eq!(sent, b"\0\0\0\0\x0a0123456789\0\0\0\0\x0aabcdefghij");
    assert_eq!(heard(&mut connection, &headers(first, LAST, b"\x40\x0bgrpc-status\x010")), ["1 status 0"]);
    assert!(!connection.send(first, b"late"));
    assert!(connection.send(second, b"still open"));
}

/// §6.9.2: the server may take back what it gave; and the connection's window binds all streams.
#[test]
fn streams_share_the_connections_window_and_lose_what_settings_take() {
    let mut connection = settled(&[]);
    let stream = connection.open_stream(Method::Watch);
    connection.out.clear();
    let half = vec![7; 40_000];
    connection.send(stream, &half);
    let mut bytes = Vec::new();
    frame::put_settings(&mut bytes, &[(setting::INITIAL_WINDOW_SIZE, 1_000)]);
    frame::put_window_update(&mut bytes, 0, 1_000_000);
    heard(&mut connection, &bytes);
    connection.send(stream, &half[..20_000]);
    assert!(connection.is_holding_back(stream), "the window is below zero");
    bytes.clear();
    frame::put_window_update(&mut bytes, stream, 1_000_000);
    heard(&mut connection, &bytes);
    assert!(!connection.is_holding_back(stream));
    let data: usize = frames(&connection.out)
        .iter()
        .filter(|(header, _)| header.kind == kind::DATA)
        .map(|(_, payload)| payload.len())
        .sum();
    assert_eq!(data, 40_005 + 20_005);
}

#[test]
fn a_narrow_stream_window_is_announced_and_widened() {
    let mut connection = Connection::with_stream_window("test", 1024);
    let rest = frames(connection.out.strip_prefix(frame::PREFACE).unwrap());
    assert_eq!(rest[0].1, [0, 4, 0, 0, 4, 0]);
    connection.out.clear();
    connection.widen(9, 77);
    let sent = frames(&connection.out);
    assert_eq!(
        (sent[0].0.kind, sent[0].0.stream, &sent[0].1[..]),
        (kind::WINDOW_UPDATE, 9, &[0, 0, 0, 77][..])
    );
}
