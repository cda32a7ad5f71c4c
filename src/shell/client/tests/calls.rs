//! What calls are answered.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use prost::Message as _;

use super::super::grpc::gzip;
use super::raw::{self, Raw, frame};
use super::*;

#[test]
fn put_and_get_are_answered_with_the_members_header_and_ok_in_trailers() {
    let server = Server::start(quick());
    client(async {
        let client = Client::connect(&server).await;
        let answered = client.call(PUT, put("k", b"v")).await;
        assert_eq!(answered.http, StatusCode::OK);
        assert_eq!(answered.headers["content-type"], "application/grpc");
        let header = answered.message::<pb::PutResponse>().header.unwrap();
        assert_eq!((header.cluster_id, header.member_id), (CLUSTER.0, MEMBER.0));
        assert_eq!((header.revision, header.raft_term), (2, TERM.0));
        let range: pb::RangeResponse = client.call(RANGE, get("k")).await.message();
        assert_eq!(range.kvs[0].value, "v");
        assert_eq!(range.header.unwrap().revision, 2);
    });
}

#[test]
fn invalid_request_is_answered_with_headers_alone() {
    let server = Server::start(quick());
    client(async {
        let client = Client::connect(&server).await;
        let answered = client.call(PUT, put("", b"v")).await;
        assert_eq!(answered.http, StatusCode::OK);
        assert!(answered.trailers.is_none());
        assert_eq!(answered.status(), (3, "etcdserver: key is not provided".into()));
    });
}

#[test]
fn refusals_and_unknown_names_carry_etcds_codes_and_texts() {
    let server = Server::start(quick());
    client(async {
        let client = Client::connect(&server).await;
        for (path, text) in [
            ("/etcdserverpb.KV/Nope", "unknown method Nope for service etcdserverpb.KV"),
            ("/nope.Nope/Put", "unknown service nope.Nope"),
            ("/nope", "malformed method name: \"/nope\""),
        ] {
            assert_eq!(client.call(path, put("k", b"v")).await.status(), (12, text.into()));
        }
        server.tell(Control::Refuse(Some(Refusal::NoSpace)));
        server.counters();
        let full = client.call(PUT, put("k", b"v")).await;
        assert_eq!(full.status(), (8, "etcdserver: mvcc: database space exceeded".into()));
    });
}

#[test]
fn requests_that_are_not_grpc_get_an_http_status_too() {
    let server = Server::start(quick());
    client(async {
        let client = Client::connect(&server).await;
        let url = format!("http://{}{PUT}", client.authority);
        let json = Request::post(&url).header("content-type", "application/json");
        let answered = client.send(json, put("k", b"v")).await.unwrap();
        assert_eq!(answered.http, StatusCode::UNSUPPORTED_MEDIA_TYPE);
        assert_eq!(answered.status(), (3, "invalid gRPC request content-type \"application/json\"".into()));
        let none = client.send(Request::post(&url), Vec::new()).await.unwrap();
        assert_eq!(none.status(), (3, "invalid gRPC request content-type \"\"".into()));
        let get = client.request(PUT).method("GET");
        let answered = client.send(get, Vec::new()).await.unwrap();
        assert_eq!((answered.http, answered.status().0), (StatusCode::METHOD_NOT_ALLOWED, 13));
        let timeout = client.request(PUT).header("grpc-timeout", "soon");
        let answered = client.send(timeout, put("k", b"v")).await.unwrap();
        assert_eq!((answered.http, answered.status().0), (StatusCode::BAD_REQUEST, 13));
        let version = client.request(PUT).header("client-api-version", &b"\xff"[..]);
        let answered = client.send(version, put("k", b"v")).await.unwrap();
        assert_eq!(answered.status(), (3, "etcdserver: invalid client api version".into()));
        // And the connection still works.
        assert_eq!(client.call(PUT, put("k", b"v")).await.status().0, 0);
    });
}

#[test]
fn malformed_messages_are_refused_and_the_connection_goes_on() {
    let server = Server::start(quick());
    client(async {
        let client = Client::connect(&server).await;
        let garbage = client.call(PUT, framed(&[0xff; 9])).await.status();
        assert_eq!(garbage.0, 13);
        assert!(garbage.1.starts_with("grpc: error unmarshalling request: "), "{}", garbage.1);
        let missing = client.call(PUT, Vec::new()).await.status();
        assert_eq!(missing, (13, "EOF".into()));
        let cut = client.call(PUT, put("k", b"v")[..6].to_vec()).await.status();
        assert_eq!(cut, (13, "unexpected EOF".into()));
        let mut two = put("k", b"v");
        two.extend(put("k", b"v"));
        assert_eq!(client.call(PUT, two).await.status().0, 13);
        let flag = client.call(PUT, vec![7, 0, 0, 0, 0]).await.status();
        assert_eq!(flag, (13, "grpc: received unexpected payload format 7".into()));
        assert_eq!(client.call(PUT, put("k", b"v")).await.status().0, 0);
    });
}

#[test]
fn too_large_message_is_refused_by_its_prefix_before_its_bytes_come() {
    let server = Server::start(quick());
    let mut raw = Raw::open(&server);
    raw.send(&raw::frame(raw::HEADERS, raw::END_HEADERS, 1, &raw::request_headers(PUT)));
    raw.send(&raw::frame(raw::DATA, 0, 1, &[0, 0x7f, 0xff, 0xff, 0xff]));
    let answer = raw.receive_kind(raw::HEADERS).unwrap();
    assert_eq!(answer.flags & raw::END_STREAM, raw::END_STREAM);
    client(async {
        let client = Client::connect(&server).await;
        let status = client.call(PUT, put("k", &vec![0; 2_097_152])).await.status();
        let text = "grpc: received message larger than max (2097160 vs. 2097152)";
        assert_eq!(status, (8, text.into()));
        let status = client.call(PUT, put("k", &vec![0; 1_600_000])).await.status();
        assert_eq!(status, (3, "etcdserver: request is too large".into()));
    });
}

#[test]
fn body_in_single_bytes_and_body_of_a_megabyte_arrive_whole() {
    let server = Server::start(quick());
    client(async {
        let client = Client::connect(&server).await;
        let mut requests = client.requests.clone().ready().await.unwrap();
        let request = client.request(PUT).body(()).unwrap();
        let (response, mut stream) = requests.send_request(request, false).unwrap();
        for byte in put("slow", b"value") {
            stream.send_data(Bytes::copy_from_slice(&[byte]), false).unwrap();
            tokio::task::yield_now().await;
        }
        stream.send_data(Bytes::new(), true).unwrap();
        assert_eq!(read_answer(response).await.unwrap().status().0, 0);
        let range: pb::RangeResponse = client.call(RANGE, get("slow")).await.message();
        assert_eq!(range.kvs[0].value, "value");

        let large = vec![b'x'; 1_500_000];
        assert_eq!(client.call(PUT, put("large", &large)).await.status().0, 0);
        let range: pb::RangeResponse = client.call(RANGE, get("large")).await.message();
        assert_eq!(range.kvs[0].value, large);
    });
}

#[test]
fn thirty_two_uploads_of_a_megabyte_side_by_side_all_arrive() {
    let server = Server::start(quick());
    client(async {
        let client = Client::connect(&server).await;
        let value = vec![b'x'; 1 << 20];
        let calls = (0..32).map(|n| client.call(PUT, put(&format!("k{n}"), &value)));
        for answered in futures_util::future::join_all(calls).await {
            assert_eq!(answered.status().0, 0);
        }
    });
}

#[test]
fn clients_deadline_and_our_own_end_a_call_each_with_its_text() {
    let mut config = quick();
    config.request_timeout = Duration::from_millis(300);
    let server = Server::start(config);
    server.tell(Control::Hold(true));
    client(async {
        let client = Client::connect(&server).await;
        let short = client.request(PUT).header("grpc-timeout", "20m");
        let status = client.send(short, put("k", b"v")).await.unwrap().status();
        assert_eq!(status, (4, "context deadline exceeded".into()));
        let status = client.call(PUT, put("k", b"v")).await.status();
        assert_eq!(status, (14, "etcdserver: request timed out".into()));
    });
    assert_eq!(server.counters().timeouts, 2);
    // Late answers find nobody, and nothing stays behind.
    server.tell(Control::Hold(false));
    client(server.until("calls are over", |counters| counters.calls == 0));
}

#[test]
fn cancelled_call_is_counted_until_its_answer_comes_and_then_forgotten() {
    let server = Server::start(quick());
    server.tell(Control::Hold(true));
    client(async {
        let client = Client::connect(&server).await;
        let mut requests = client.requests.clone().ready().await.unwrap();
        for _ in 0..100 {
            let request = client.request(PUT).body(()).unwrap();
            let (response, mut stream) = requests.send_request(request, false).unwrap();
            stream.send_data(Bytes::from(put("k", b"v")), true).unwrap();
            tokio::task::yield_now().await;
            drop((response, stream));
            requests = requests.ready().await.unwrap();
        }
        server.until("requests have come", |counters| 1 <= counters.calls).await;
        server.tell(Control::Hold(false));
        server.until("calls are over", |counters| counters.calls == 0).await;
        assert_eq!(client.call(PUT, put("k", b"v")).await.status().0, 0);
    });
}

#[test]
fn connection_that_ends_takes_its_calls_along() {
    let server = Server::start(quick());
    server.tell(Control::Hold(true));
    client(async {
        let client = Client::connect(&server).await;
        let mut requests = client.requests.clone().ready().await.unwrap();
        let (_response, mut stream) =
            requests.send_request(client.request(PUT).body(()).unwrap(), false).unwrap();
        stream.send_data(Bytes::from(put("k", b"v")), true).unwrap();
        server.until("the call has come", |counters| counters.calls == 1).await;
    });
    client(async {
        server.until("the connection is gone", |counters| counters.connections == 0).await;
        server.tell(Control::Hold(false));
        server.until("the call is over", |counters| counters.calls == 0).await;
    });
}

#[test]
fn ten_thousand_calls_with_512_in_flight_are_all_answered_each_with_its_own_value() {
    let server = Server::start(quick());
    client(async {
        let connection = Client::connect(&server).await;
        let workers = (0..512).map(|worker| {
            let client = connection.clone();
            async move {
                let mut answered = 0;
                for n in 0..10 {
                    let key = format!("{worker}/{n}");
                    assert_eq!(client.call(PUT, put(&key, key.as_bytes())).await.status().0, 0);
                    let range: pb::RangeResponse = client.call(RANGE, get(&key)).await.message();
                    assert_eq!(range.kvs[0].value, key);
                    answered += 2;
                }
                answered
            }
        });
        let answered: u32 = futures_util::future::join_all(workers).await.into_iter().sum();
        assert_eq!(answered, 10_240);
    });
    let counters = server.counters();
    assert_eq!((counters.replies, counters.stale_replies, counters.calls), (10_240, 0, 0));
}

#[test]
fn gzip_is_taken_and_answered_in_kind() {
    let server = Server::start(quick());
    client(async {
        let client = Client::connect(&server).await;
        let pack = |message: Vec<u8>| {
            let packed = gzip::deflate(&[&message[PREFIX_BYTES..]]);
            let mut out = Vec::new();
            put_prefix(&mut out, true, packed.len().try_into().unwrap());
            out.extend(packed);
            out
        };
        let request = || client.request(PUT).header("grpc-encoding", "gzip");
        let answered = client.send(request(), pack(put("k", &[b'z'; 100_000]))).await.unwrap();
        assert_eq!(answered.status().0, 0);
        assert_eq!(answered.headers["grpc-encoding"], "gzip");
        assert_eq!(answered.body[0], 1);
        let message = gzip::inflate(&answered.body[PREFIX_BYTES..], 1000).unwrap();
        assert_eq!(pb::PutResponse::decode(&message[..]).unwrap().header.unwrap().revision, 2);

        let bomb = pack(put("k", &vec![0; 64 << 20]));
        assert!(bomb.len() < 1 << 20);
        assert_eq!(client.send(request(), bomb).await.unwrap().status().0, 8);
        let mut garbage = framed(b"not gzip");
        garbage[0] = 1;
        assert_eq!(client.send(request(), garbage).await.unwrap().status().0, 13);
        let unknown = client.request(PUT).header("grpc-encoding", "zstd");
        let status = client.send(unknown, put("k", b"v")).await.unwrap().status();
        assert_eq!(status, (12, "grpc: Decompressor is not installed for grpc-encoding \"zstd\"".into()));
        let unnamed = client.call(PUT, pack(put("k", b"v"))).await.status();
        assert_eq!(unnamed, (13, "grpc: compressed flag set with identity or empty encoding".into()));
    });
}

#[test]
fn member_and_health_calls_have_the_headers_that_etcds_have() {
    let server = Server::start(quick());
    client(async {
        let client = Client::connect(&server).await;
        let list = client.call("/etcdserverpb.Cluster/MemberList", framed(&[])).await;
        let list: pb::MemberListResponse = list.message();
        let header = list.header.unwrap();
        assert_eq!((header.revision, header.raft_term), (0, TERM.0));
        assert_eq!(list.members[0].name, "solo");
        let status = client.call("/etcdserverpb.Maintenance/Status", framed(&[])).await;
        let status: pb::StatusResponse = status.message();
        assert_eq!((status.header.unwrap().revision, &status.version[..]), (1, "3.7.0"));
        let alarm = client.call("/etcdserverpb.Maintenance/Alarm", framed(&[])).await;
        let alarm: pb::AlarmResponse = alarm.message();
        assert_eq!(alarm.header.unwrap().revision, 1);
        assert!(alarm.alarms.is_empty());
        let defragment = client.call("/etcdserverpb.Maintenance/Defragment", framed(&[])).await;
        assert_eq!(defragment.message::<pb::DefragmentResponse>(), pb::DefragmentResponse::default());
        let check = client.call("/grpc.health.v1.Health/Check", framed(&[])).await;
        assert_eq!(check.message::<crate::pb::health::HealthCheckResponse>().status, 1);
        let other = client.call("/grpc.health.v1.Health/Check", framed(b"\x0a\x01x")).await;
        assert_eq!(other.status(), (5, "unknown service".into()));
        let list = client.call("/grpc.health.v1.Health/List", framed(&[])).await;
        assert_eq!(list.message::<crate::pb::health::HealthListResponse>().statuses[""].status, 1);
    });
}

#[test]
fn health_watch_stays_open_until_the_server_stops() {
    let server = Server::start(quick());
    client(async {
        let client = Client::connect(&server).await;
        let mut requests = client.requests.clone().ready().await.unwrap();
        let request = client.request("/grpc.health.v1.Health/Watch").body(()).unwrap();
        let (response, mut stream) = requests.send_request(request, false).unwrap();
        stream.send_data(Bytes::from(framed(&[])), true).unwrap();
        let mut body = response.await.unwrap().into_body();
        assert_eq!(body.data().await.unwrap().unwrap(), framed(&[8, 1]));
        server.tell(Control::Stop);
        assert!(body.data().await.is_none());
        let trailers = body.trailers().await.unwrap().unwrap();
        assert_eq!(trailers["grpc-status"], "14");
    });
}

#[test]
fn range_stream_sends_every_key_once_and_its_header_last() {
    let server = Server::start(quick());
    client(async {
        let client = Client::connect(&server).await;
        for n in 0..100 {
            client.call(PUT, put(&format!("{n:03}"), b"v")).await;
        }
        let answered = client.call("/etcdserverpb.KV/RangeStream", wide("\0")).await;
        assert_eq!(answered.status().0, 0);
        let (mut rest, mut keys, mut messages) = (&answered.body[..], Vec::new(), 0);
        while let Some((prefix, after)) = rest.split_at_checked(PREFIX_BYTES) {
            let length = u32::from_be_bytes(prefix[1..].try_into().unwrap()) as usize;
            let message = pb::RangeStreamResponse::decode(&after[..length]).unwrap();
            let slice = message.range_response.unwrap();
            rest = &after[length..];
            messages += 1;
            assert!(slice.kvs.len() <= 10 << messages, "the first slices are short");
            assert_eq!(slice.header.is_some(), rest.is_empty(), "only the last has a header");
            assert_eq!(slice.count, if rest.is_empty() { 100 } else { 0 });
            keys.extend(slice.kvs.into_iter().map(|entry| entry.key));
        }
        assert_eq!(keys, (0..100).map(|n| Bytes::from(format!("{n:03}"))).collect::<Vec<_>>());
        assert!(3 <= messages, "{messages} messages");
    });
}

#[test]
fn range_stream_asks_for_a_slice_only_when_the_last_has_left() {
    let server = Server::start(quick());
    client(async {
        let client = Client::connect(&server).await;
        for n in 0..100 {
            client.call(PUT, put(&format!("{n:03}"), &[b'v'; 10_000])).await;
        }
        // A window that the first slice does not fit in, never opened.
        let mut narrow = h2::client::Builder::new();
        let reader = Client::connect_with(&server, narrow.initial_window_size(50_000)).await;
        let mut requests = reader.requests.clone().ready().await.unwrap();
        let request = reader.request("/etcdserverpb.KV/RangeStream").body(()).unwrap();
        let (response, mut stream) = requests.send_request(request, false).unwrap();
        stream.send_data(Bytes::from(wide("\0")), true).unwrap();
        let mut body = response.await.unwrap().into_body();
        for _ in 0..20 {
            assert_eq!(client.call(PUT, put("other", b"v")).await.status().0, 0);
        }
        assert_eq!(server.slices(), 1);
        let mut bytes = 0;
        while let Some(piece) = body.data().await {
            let n = piece.unwrap().len();
            body.flow_control().release_capacity(n).unwrap();
            bytes += n;
        }
        assert!(1_000_000 < bytes);
        assert!(3 <= server.slices());
    });
}

#[test]
fn stop_lets_calls_finish_and_takes_no_new_ones() {
    let server = Server::start(quick());
    server.tell(Control::Hold(true));
    client(async {
        let client = Client::connect(&server).await;
        let call = client.call(PUT, put("k", b"v"));
        tokio::pin!(call);
        let started = std::future::poll_fn(|cx| {
            assert!(call.as_mut().poll(cx).is_pending());
            Poll::Ready(())
        });
        started.await;
        tokio::task::yield_now().await;
        let other = Raw::open(&server);
        other.patience(PATIENCE);
        let waited = async {
            // The held call is with the backend before the stop, and answered after it.
            loop {
                if server.counters().calls == 1 {
                    break;
                }
                tokio::task::yield_now().await;
            }
            server.tell(Control::Hold(false));
            server.tell(Control::Stop);
        };
        let (answered, ()) = tokio::join!(call, waited);
        assert_eq!(answered.status().0, 0);
    });
}

#[test]
fn url_as_authority_is_answered_also_from_the_table_and_byte_by_byte() {
    let server = Server::start(quick());
    let fields = |authority: &[u8]| {
        let path = header_value(PUT.as_bytes());
        let content_type = header_value(b"application/grpc");
        let head = [b"\x83\x86\x04", &path[..], authority, b"\x0f\x10", &content_type].concat();
        [&head[..], b"\x00\x02te\x08trailers"].concat()
    };
    // The second call has it from the dynamic table.
    let literal = [b"\x41", &header_value(b"http://127.0.0.1:1")[..]].concat();
    for size in [usize::MAX, 1] {
        let mut raw = Raw::open(&server);
        for (stream, authority) in [(1, &literal[..]), (3, b"\xbe")] {
            let bytes = [
                frame(raw::HEADERS, raw::END_HEADERS, stream, &fields(authority)),
                frame(raw::DATA, raw::END_STREAM, stream, &put("k", b"v")),
            ]
            .concat();
            bytes.chunks(size.min(bytes.len())).for_each(|piece| raw.send(piece));
            loop {
                let answer = raw.receive().expect("the connection lives");
                assert_ne!(answer.kind, raw::RST_STREAM, "stream {stream} in pieces of {size}");
                if answer.kind == raw::HEADERS && answer.flags & raw::END_STREAM != 0 {
                    assert_eq!(answer.stream, stream);
                    break;
                }
            }
        }
        raw.send(&frame(raw::PING, 0, 0, b"stillup!"));
        assert_eq!(raw.receive_kind(raw::PING).unwrap().payload, b"stillup!");
    }
}

/// A short string as HPACK has it, without Huffman's code.
fn header_value(value: &[u8]) -> Vec<u8> {
    [&[u8::try_from(value.len()).unwrap()], value].concat()
}

#[test]
fn an_answer_that_takes_long_is_counted_and_one_that_does_not_is_not() {
    let config = ShardConfig { slow_after: Duration::from_millis(100), ..quick() };
    let server = Server::start(config);
    client(async {
        let client = Client::connect(&server).await;
        assert_eq!(client.call(PUT, put("k", b"v")).await.status().0, 0);
        assert_eq!(server.counters().slow, 0);
        server.tell(Control::Hold(true));
        server.counters();
        let call = client.call(PUT, put("k", b"v"));
        let release = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            server.tell(Control::Hold(false));
        };
        let (answered, ()) = tokio::join!(call, release);
        assert_eq!(answered.status().0, 0);
    });
    assert_eq!(server.counters().slow, 1);
}
