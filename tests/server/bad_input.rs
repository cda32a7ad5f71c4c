//! What a client may send wrongly: each gets etcd's error or the connection's end, and the others
//! on the same server never notice.

use std::time::Duration;

use bytes::Bytes;
use pinion_kit::client::{CallError, Client, refusal};
use pinion_kit::pb::etcdserverpb as pb;
use pinion_kit::{Launch, Server, TEST_DEADLINE, WorkDir, block_on, server_is_etcd};
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const PUT: &str = "/etcdserverpb.KV/Put";
const GRPC: &str = "application/grpc";

async fn started(work: &WorkDir) -> (Server, Client) {
    let server = Launch::new(work.join("data")).start().await;
    let client = server.connect().await;
    (server, client)
}

/// Fails unless the server still serves this client and new ones.
async fn assert_unhurt(server: &mut Server, client: &Client) {
    assert!(server.is_running(), "the server ended: {}", server.output());
    client.put_kv("unhurt", "1").await.expect("an old connection is served");
    server.connect().await.put_kv("unhurt", "2").await.expect("a new connection is served");
}

#[test]
fn request_that_breaks_a_rule_gets_etcds_code_and_text() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let (mut server, client) = started(&work).await;
        let key_missing = (3, "etcdserver: key is not provided".to_owned());
        assert_eq!(refusal(client.put_kv("", "v").await), key_missing);
        assert_eq!(refusal(client.range(&pb::RangeRequest::default()).await), key_missing);
        assert_eq!(refusal(client.delete(&pb::DeleteRangeRequest::default()).await), key_missing);

        let op =
            pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(pb::PutRequest::default())) };
        let txn = |count| pb::TxnRequest { success: vec![op.clone(); count], ..Default::default() };
        let too_many = (3, "etcdserver: too many operations in txn request".to_owned());
        assert_eq!(refusal(client.txn(&txn(129)).await), too_many, "counted before the keys are looked at");
        assert_eq!(refusal(client.txn(&txn(128)).await), key_missing);

        let put = |bytes: usize| pb::PutRequest {
            key: "large".into(),
            value: vec![b'v'; bytes].into(),
            ..Default::default()
        };
        client.put(&put(1_500_000)).await.expect("below the bound on requests");
        let too_large = (3, "etcdserver: request is too large".to_owned());
        assert_eq!(refusal(client.put(&put(1_600_000)).await), too_large);
        let message = put(2_097_152);
        let length = message.encoded_len();
        let refused = (8, format!("grpc: received message larger than max ({length} vs. 2097152)"));
        assert_eq!(refusal(client.put(&message).await), refused);

        let unknown_lease = pb::PutRequest { key: "k".into(), lease: 7, ..Default::default() };
        assert_eq!(
            refusal(client.put(&unknown_lease).await),
            (5, "etcdserver: requested lease not found".to_owned())
        );
        let future = pb::RangeRequest { key: "k".into(), revision: 1_000, ..Default::default() };
        assert_eq!(
            refusal(client.range(&future).await),
            (11, "etcdserver: mvcc: required revision is a future revision".to_owned())
        );
        assert_unhurt(&mut server, &client).await;
    });
}

#[test]
fn unknown_method_or_service_is_unimplemented() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let (mut server, client) = started(&work).await;
        let call = |method: &'static str| client.call(method, Bytes::new());
        assert_eq!(
            refusal(call("/etcdserverpb.KV/Frobnicate").await),
            (12, "unknown method Frobnicate for service etcdserverpb.KV".to_owned())
        );
        assert_eq!(refusal(call("/no.Such/Method").await), (12, "unknown service no.Such".to_owned()));
        // gRPC servers of etcd 3.4's time answered 8.
        let nonsense = refusal(call("/nonsense").await).0;
        assert!(nonsense == 12 || (nonsense == 8 && server_is_etcd()), "{nonsense}");
        assert_unhurt(&mut server, &client).await;
    });
}

#[test]
fn undecodable_message_is_an_internal_error_and_changes_nothing() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let (mut server, client) = started(&work).await;
        let whole =
            pb::PutRequest { key: "k".into(), value: "value".into(), ..Default::default() }.encode_to_vec();
        let mut messages: Vec<Vec<u8>> = vec![
            whole[..whole.len() - 1].to_vec(), // a field that promises more than there is
            vec![0xff; 64],                    // a tag that never ends
            vec![0x0a, 0xff, 0xff, 0xff, 0xff, 0x7f], // a length of 32 GiB
            vec![0x0b; 200],                   // groups in groups
        ];
        // Nested transactions, deeper than any decoder should follow.
        let mut nested = Vec::new();
        for _ in 0..5_000 {
            let mut op = vec![0x22];
            prost::encoding::encode_varint(nested.len() as u64, &mut op);
            op.extend_from_slice(&nested);
            let mut txn = vec![0x12];
            prost::encoding::encode_varint(op.len() as u64, &mut txn);
            txn.extend_from_slice(&op);
            nested = txn;
        }
        for message in messages.drain(..) {
            let (code, text) = refusal(client.call(PUT, message.clone().into()).await);
            assert_eq!(code, 13, "{text} for {message:02x?}");
            assert!(text.starts_with("grpc: error unmarshalling request"), "{text}");
        }
        // etcd follows it and finds an empty operation at the bottom.
        let (code, text) = refusal(client.call("/etcdserverpb.KV/Txn", nested.into()).await);
        assert!(matches!(code, 3 | 13), "{code} {text}");
        assert_eq!(client.get("k").await.unwrap(), None);
        assert_unhurt(&mut server, &client).await;
    });
}

#[test]
fn body_that_is_not_one_whole_frame_is_refused() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let (mut server, client) = started(&work).await;
        for (what, body) in [
            ("nothing", &b""[..]),
            ("half a prefix", b"\0\0\0"),
            ("a prefix without its message", b"\0\0\0\0\x09"),
            ("a compressed flag without an encoding", b"\x01\0\0\0\x01x"),
            ("a flag that means nothing", b"\x07\0\0\0\0"),
            ("4 GiB announced", b"\0\xff\xff\xff\xffx"),
        ] {
            let answer = client.call_framed(PUT, GRPC, Bytes::from_static(body)).await;
            let is_error = matches!(answer, Err(CallError::Status { .. } | CallError::Transport(_)));
            assert!(is_error, "{what}: {answer:?}");
            assert_unhurt(&mut server, &client).await;
        }
    });
}

#[test]
fn wrong_content_type_is_refused_and_harms_no_one_else() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let (mut server, client) = started(&work).await;
        for content_type in ["text/html", "application/json", "application/grpcx", ""] {
            // On a connection of its own: ending it is a valid answer.
            let other = server.connect().await;
            let body = Bytes::from_static(b"\0\0\0\0\x03\x0a\x01k");
            let answer = other.call_framed(PUT, content_type, body).await;
            assert!(answer.is_err(), "{content_type:?}: {answer:?}");
        }
        assert_eq!(client.get("k").await.unwrap(), None);
        assert_unhurt(&mut server, &client).await;
    });
}

/// The client preface, an empty SETTINGS frame and the beginning of a HEADERS frame of 100 bytes.
const HALF_A_FRAME: &[u8] =
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\x64\x01\x04\0\0\0\x01\x82\x86";

#[test]
fn half_a_frame_then_silence_keeps_no_one_waiting() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let (mut server, client) = started(&work).await;
        let mut silent = Vec::new();
        for cut in 0..100 {
            let mut stream = TcpStream::connect(("127.0.0.1", server.client_port())).await.unwrap();
            let length = HALF_A_FRAME.len() * cut / 100;
            stream.write_all(&HALF_A_FRAME[..length]).await.unwrap();
            silent.push(stream);
        }
        for _ in 0..50 {
            let put = client.put_kv("k", "v");
            tokio::time::timeout(Duration::from_secs(5), put).await.expect("served meanwhile").unwrap();
        }
        assert_unhurt(&mut server, &client).await;
    });
}

#[test]
fn bytes_that_are_not_http_end_their_own_connection_only() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let (mut server, client) = started(&work).await;
        let mut garbage: Vec<Vec<u8>> =
            vec![vec![0; 4096], vec![0xff; 4096], b"SSH-2.0-OpenSSH_9\r\n\r\n".to_vec()];
        let mut oversized = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
        oversized.extend_from_slice(b"\xff\xff\xff\x00\x00\0\0\0\x01");
        oversized.extend_from_slice(&[0; 65_536]);
        garbage.push(oversized);
        for bytes in garbage {
            let mut stream = TcpStream::connect(("127.0.0.1", server.client_port())).await.unwrap();
            // The peer may close while we still write.
            if stream.write_all(&bytes).await.is_ok() && stream.shutdown().await.is_ok() {
                let mut answer = Vec::new();
                let read = tokio::time::timeout(Duration::from_secs(15), stream.read_to_end(&mut answer));
                let ended = read.await;
                assert!(ended.is_ok(), "still open after {:02x?}…", &bytes[..20]);
            }
        }
        assert_unhurt(&mut server, &client).await;
    });
}

/// A connection that asks for much and never reads must not make the server's memory grow with it.
#[test]
fn client_that_never_reads_costs_bounded_memory() {
    if server_is_etcd() {
        return;
    }
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let (mut server, client) = started(&work).await;
        for number in 0..20 {
            let value = vec![b'v'; 1_000_000];
            let request = pb::PutRequest {
                key: format!("big/{number:02}").into(),
                value: value.into(),
                ..Default::default()
            };
            client.put(&request).await.unwrap();
        }
        let before = server.resident_bytes_peak();
        // Hand-written frames: h2's client would read. SETTINGS keeps the default window of 65,535.
        let mut stream = TcpStream::connect(("127.0.0.1", server.client_port())).await.unwrap();
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
        for call in 0..50u32 {
            bytes.extend_from_slice(&request_frames(1 + 2 * call));
        }
        stream.write_all(&bytes).await.unwrap();
        for _ in 0..200 {
            let served = tokio::time::timeout(Duration::from_secs(2), client.put_kv("k", "v"));
            served.await.expect("others are served meanwhile").unwrap();
        }
        let growth = server.resident_bytes_peak().saturating_sub(before);
        println!("50 reads of 20 MB that nobody takes: {} MiB more", growth >> 20);
        assert!(growth < 512 << 20, "{} MiB more for one client", growth >> 20);
        assert_unhurt(&mut server, &client).await;
    });
}

/// HEADERS and DATA of one Range over everything, HPACK without compression.
fn request_frames(stream_id: u32) -> Vec<u8> {
    fn literal(block: &mut Vec<u8>, name: &str, value: &str) {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).expect("short enough for one HPACK length byte"));
            block.extend_from_slice(text.as_bytes());
        }
    }
    fn frame(kind: u8, flags: u8, stream_id: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = length[1..].to_vec();
        frame.extend_from_slice(&[kind, flags]);
        frame.extend_from_slice(&stream_id.to_be_bytes());
        frame.extend_from_slice(payload);
        frame
    }
    let mut block = vec![0x83, 0x86]; // :method POST, :scheme http
    literal(&mut block, ":path", "/etcdserverpb.KV/Range");
    literal(&mut block, ":authority", "localhost");
    literal(&mut block, "content-type", GRPC);
    literal(&mut block, "te", "trailers");
    let range = pb::RangeRequest { key: "big/".into(), range_end: "big0".into(), ..Default::default() };
    let message = range.encode_to_vec();
    let mut body = vec![0];
    body.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
    body.extend_from_slice(&message);
    let mut frames = frame(1, 0x4, stream_id, &block);
    frames.extend_from_slice(&frame(0, 0x1, stream_id, &body));
    frames
}

#[test]
fn frames_that_the_http2_library_warns_of_do_not_fill_the_log() {
    if server_is_etcd() {
        return;
    }
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let (mut server, client) = started(&work).await;
        let quiet = server.says("ready to serve client requests").await.len();
        let mut stream = TcpStream::connect(("127.0.0.1", server.client_port())).await.unwrap();
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
        // Answers to pings that nobody sent, then a ping: what came before it has been read when it is
        // answered.
        stream.write_all(&b"\0\0\x08\x06\x01\0\0\0\0unasked!".repeat(2_000)).await.unwrap();
        stream.write_all(b"\0\0\x08\x06\0\0\0\0\0answer!!").await.unwrap();
        let mut received = Vec::new();
        while !received.windows(8).any(|bytes| bytes == b"answer!!") {
            assert_ne!(stream.read_buf(&mut received).await.unwrap(), 0, "the connection ended");
        }
        assert_unhurt(&mut server, &client).await;
        assert_eq!(server.output().len(), quiet, "{}", server.output());
    });
}
