//! Services that are silent, babble, lie about lengths or end in the middle.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};

use super::*;
use crate::config::Url;
use crate::pb::etcdserverpb::{RangeRequest, RangeResponse};
use crate::shell::net::{Dialer, Stream};
use crate::shell::runtime::aside::run_aside;

const DIAL: Duration = Duration::from_millis(500);

/// For calls that are to succeed, however busy the machine is.
const LONG: Duration = Duration::from_secs(20);
use crate::shell::runtime::waiting::Waiting;

const PATH: &str = "/etcdserverpb.KV/Range";

fn patience(keepalive_timeout: u64) -> Patience {
    let ms = Duration::from_millis;
    Patience { request: ms(500), keepalive_time: None, keepalive_timeout: ms(keepalive_timeout) }
}

/// A service that does this with each connection.
fn raw(act: impl Fn(TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || listener.incoming().for_each(|stream| act(stream.unwrap())));
    address
}

/// A service that answers every call with these body bytes and these trailers.
fn grpc(
    body: impl Fn() -> Vec<u8> + Send + 'static,
    status: &'static [(&'static str, &'static str)],
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let (stream, _) = listener.accept().await.unwrap();
            let mut connection = h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((_request, mut respond))) = connection.accept().await {
                let response =
                    Response::builder().header("content-type", "application/grpc").body(()).unwrap();
                let mut stream = respond.send_response(response, false).unwrap();
                // h2 keeps what the window does not take.
                stream.send_data(body().into(), false).unwrap();
                let mut trailers = HeaderMap::new();
                for (name, value) in status {
                    trailers.insert(*name, HeaderValue::from_static(value));
                }
                stream.send_trailers(trailers).unwrap();
            }
        });
    });
    address
}

fn framed(message: &impl Message) -> Vec<u8> {
    let mut body = BytesMut::new();
    put_prefix(&mut body, false, u32::try_from(message.encoded_len()).unwrap());
    message.encode(&mut body).unwrap();
    body.to_vec()
}

async fn connect(address: SocketAddr) -> std::io::Result<Stream> {
    let url = Url::parse(&format!("http://{address}")).unwrap();
    Dialer::new(DIAL, None).connect(&url, &address.into()).await
}

async fn begin<'a>(
    address: SocketAddr,
    patience: Patience,
    stop: &'a Stop<'a>,
) -> Result<Client<'a>, CallError> {
    let stream = connect(address).await?;
    Client::begin(stream, "x:1", patience, stop).await
}

/// The answer to a call, of a service that hears no signal.
fn call(address: SocketAddr, request: Duration) -> Result<RangeResponse, CallError> {
    run_aside(async {
        let waiting = Waiting::default();
        let stop = Stop::new(&|| false, &waiting);
        let mut client = begin(address, Patience { request, ..patience(100) }, &stop).await?;
        client.unary(PATH, &RangeRequest::default()).await
    })
    .unwrap()
}

fn failure(address: SocketAddr) -> String {
    match call(address, DIAL) {
        Err(CallError::Connection(reason)) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn service_that_is_silent_closes_or_speaks_otherwise_fails_in_time() {
    let begun = Instant::now();
    let silent = raw(std::mem::forget);
    assert_eq!(failure(silent), "no answer in time");
    assert!(Instant::now() < begun + Duration::from_secs(3), "half a second was allowed");
    assert!(!failure(raw(drop)).is_empty());
    let babbling = raw(|mut stream| {
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
        drop(stream.read(&mut [0; 4096]));
    });
    assert!(!failure(babbling).is_empty());
    let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert!(failure(dead).contains("refused"));
}

#[test]
fn answer_larger_than_all_windows_arrives_whole() {
    let response = RangeResponse {
        kvs: vec![crate::pb::mvccpb::KeyValue { value: vec![7; 1 << 20].into(), ..Default::default() }],
        ..Default::default()
    };
    let body = framed(&response);
    let address = grpc(move || body.clone(), &[("grpc-status", "0")]);
    assert_eq!(call(address, LONG).unwrap(), response);
}

#[test]
fn announced_length_beyond_the_bound_second_messages_and_missing_ends_are_refused() {
    let ok: &[(&str, &str)] = &[("grpc-status", "0")];
    assert!(failure(grpc(|| vec![0, 0xff, 0xff, 0xff, 0xff, 1], ok)).contains("larger than max"));
    assert!(
        failure(grpc(|| [framed(&RangeResponse::default()), vec![0; 5]].concat(), ok))
            .contains("more than one")
    );
    assert!(failure(grpc(|| vec![0, 0, 0, 0, 9, 1], ok)).contains("unexpected EOF"));
    assert!(failure(grpc(|| vec![1, 0, 0, 0, 1, 0], ok)).contains("compressed"));
    assert!(failure(grpc(|| vec![0, 0, 0, 0, 1, 0xff], ok)).contains("no such message"));
}

#[test]
fn status_of_the_service_is_read_whatever_it_sent_before() {
    let refusing = grpc(Vec::new, &[("grpc-status", "7"), ("grpc-message", "permission%20denied")]);
    let wanted = CallError::Status { code: 7, message: "permission denied".to_owned() };
    assert_eq!(call(refusing, LONG), Err(wanted));
    let odd = grpc(Vec::new, &[("grpc-status", "seven")]);
    assert!(failure(odd).contains("no number"));
}

#[test]
fn signal_ends_a_wait_and_so_does_a_ping_without_answer() {
    let silent = raw(std::mem::forget);
    run_aside(async {
        let waiting = Waiting::default();
        let stop = Stop::new(&|| true, &waiting);
        let mut client = begin(silent, patience(100), &stop).await.unwrap();
        let answer: Result<RangeResponse, CallError> = client.unary(PATH, &RangeRequest::default()).await;
        assert_eq!(answer, Err(CallError::Interrupted));

        let waiting = Waiting::default();
        let stop = Stop::new(&|| false, &waiting);
        let patience = Patience { keepalive_time: Some(Duration::from_secs(2)), ..patience(100) };
        // As if nothing had come for longer than anybody may ping.
        let long_ago = Instant::now().checked_sub(PING_INTERVAL_MIN).expect("this host runs for longer");
        let stream = connect(silent).await.unwrap();
        let client = Client::begin_at(long_ago, stream, "x:1", patience, &stop).await.unwrap();
        let begun = Instant::now();
        let waited = client.try_drive(begun + Duration::from_secs(10), |_| Poll::<()>::Pending).await;
        assert_eq!(waited, Err(CallError::Connection("it does not answer pings".to_owned())));
        assert!(begun.elapsed() < Duration::from_secs(5));
    })
    .unwrap();
}

#[test]
fn timeout_in_a_header_has_eight_digits_at_most() {
    assert_eq!(timeout_text(5_000), "5000m");
    assert_eq!(timeout_text(99_999_999), "99999999m");
    assert_eq!(timeout_text(100_000_000), "100000S");
    assert_eq!(timeout_text(u128::MAX), "99999999S");
}
