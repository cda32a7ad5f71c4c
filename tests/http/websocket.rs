//! WebSockets on the gateway's paths, as browsers use them.

use pinion_kit::{Launch, TEST_DEADLINE, WorkDir, block_on};
use serde_json::{Value, json};

use crate::web::{Web, b64};

const HANDSHAKE: &str = "Host: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// A client's frame, masked.
fn frame(first: u8, text: &[u8]) -> Vec<u8> {
    let mask = [1, 2, 3, 4];
    assert!(text.len() < 126, "longer ones have a longer head");
    let mut out = vec![first, 0x80 | u8::try_from(text.len()).unwrap()];
    out.extend_from_slice(&mask);
    out.extend(text.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    out
}

async fn opened(port: u16, path: &str) -> Web {
    let mut web = Web::connect(port).await;
    web.send(format!("GET {path} HTTP/1.1\r\n{HANDSHAKE}")).await;
    let head = web.head().await.unwrap();
    assert_eq!((head.status, head.header("connection")), (101, Some("Upgrade")));
    assert_eq!(head.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    web
}

/// The next frame of the server: its first byte and its payload.
async fn receive(web: &mut Web) -> (u8, Vec<u8>) {
    let head = web.exactly(2).await;
    assert_eq!(head[1] & 0x80, 0, "a server masks nothing");
    let length = match head[1] {
        126 => u64::from(u16::from_be_bytes(web.exactly(2).await.try_into().unwrap())),
        127 => u64::from_be_bytes(web.exactly(8).await.try_into().unwrap()),
        short => short.into(),
    };
    (head[0], web.exactly(usize::try_from(length).unwrap()).await)
}

async fn message(web: &mut Web) -> Value {
    let (first, text) = receive(web).await;
    assert_eq!(first, 0x81, "{}", text.escape_ascii());
    serde_json::from_slice(&text).unwrap()
}

#[test]
fn watch_by_websocket_has_a_message_for_each_response_and_pings_are_answered() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let server = Launch::new(work.join("data")).start().await;
        let client = server.connect().await;
        let mut web = opened(server.client_port(), "/v3/watch").await;
        let create = json!({"create_request": {"key": b64("a")}}).to_string();
        // In two fragments.
        web.send(frame(0x01, &create.as_bytes()[..9])).await;
        web.send(frame(0x80, &create.as_bytes()[9..])).await;
        assert_eq!(message(&mut web).await["result"]["created"], true);
        web.send(frame(0x89, b"alive")).await;
        assert_eq!(receive(&mut web).await, (0x8a, b"alive".to_vec()));
        client.put_kv("a", "1").await.unwrap();
        assert_eq!(message(&mut web).await["result"]["events"][0]["kv"]["value"], b64("1"));
        web.send(frame(0x88, &1000_u16.to_be_bytes())).await;
        assert_eq!(receive(&mut web).await.0, 0x88);
        assert_eq!(web.rest().await, b"");
    });
}

#[test]
fn call_with_one_answer_is_answered_and_the_websocket_closed() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let server = Launch::new(work.join("data")).start().await;
        for (body, key) in [(json!({"key": b64("a")}), "header"), (json!({}), "error")] {
            let mut web = opened(server.client_port(), "/v3/kv/put").await;
            web.send(frame(0x81, body.to_string().as_bytes())).await;
            assert!(message(&mut web).await.get(key).is_some());
            assert_eq!(receive(&mut web).await, (0x88, 1000_u16.to_be_bytes().to_vec()));
            assert_eq!(web.rest().await, b"");
        }
    });
}

#[test]
fn frames_that_break_the_protocol_end_the_connection_and_no_other() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let server = Launch::new(work.join("data")).start().await;
        let mut huge = vec![0x81, 0x80 | 127];
        huge.extend_from_slice(&(1_u64 << 40).to_be_bytes());
        huge.extend_from_slice(&[0; 4]);
        for bytes in [vec![0x81, 2, b'{', b'}'], vec![0xf1, 0x80, 0, 0, 0, 0], huge, frame(0x83, b"x")] {
            let mut web = opened(server.client_port(), "/v3/watch").await;
            web.send(&bytes).await;
            // At most a close frame is said.
            assert!(web.rest().await.len() < 130, "{}", bytes.escape_ascii());
        }
        let mut web = Web::connect(server.client_port()).await;
        web.send(format!("GET /v3/watch HTTP/1.1\r\n{}", HANDSHAKE.replace("13", "8"))).await;
        assert_eq!(web.answer().await.unwrap().status, 426);
        server.connect().await.put_kv("a", "1").await.unwrap();
    });
}
