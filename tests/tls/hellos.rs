//! Bytes that are no hello, or half of one, and connections that say nothing.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use pinion_kit::tls::{self, Authority};
use pinion_kit::{TEST_DEADLINE, WorkDir, block_on};
use rustls::ClientConnection;
use rustls::pki_types::ServerName;

use crate::programs::Secured;

/// A client's first record.
fn hello(authority: &Authority) -> (ClientConnection, Vec<u8>) {
    let config = tls::client_config(&authority.certificate, Some(&authority.issue("user")));
    let mut client = ClientConnection::new(config, ServerName::try_from("127.0.0.1").unwrap()).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    (client, bytes)
}

fn dial(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Reads to the end; whether it came.
fn reads_to_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => bytes,
        Err(error) => panic!("it is not closed: {error}"),
    }
}

/// The same record's payload in records of `size` bytes.
fn recut(record: &[u8], size: usize) -> Vec<u8> {
    let (head, payload) = record.split_at(5);
    let mut out = Vec::new();
    for piece in payload.chunks(size) {
        out.extend_from_slice(&head[..3]);
        out.extend_from_slice(&u16::try_from(piece.len()).unwrap().to_be_bytes());
        out.extend_from_slice(piece);
    }
    out
}

#[test]
fn what_is_no_hello_is_closed_with_its_reason_and_a_hello_may_come_in_pieces() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let authority = Authority::new(&work, "ca");
        let member = Secured::start(&work, &authority, &[]).await;
        let (port, plain) = (member.port, member.launch.client_port);
        // HTTP is answered in its own words, as Go does; nothing else is answered.
        let mut http = dial(port);
        http.write_all(b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let told = String::from_utf8(reads_to_end(&mut http)).unwrap();
        assert!(told.contains("Client sent an HTTP request to an HTTPS server."), "{told}");
        member.server.says("HTTP without TLS; this address is for TLS").await;
        for bytes in
            [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], b"\0\x01\x02garbage", &[22, 3, 1, 0xff, 0xff, 1]]
        {
            let mut stream = dial(port);
            stream.write_all(bytes).unwrap();
            let told = reads_to_end(&mut stream);
            assert!(told.len() < 16, "{bytes:?}: {told:?}");
        }
        // TLS where nothing is encrypted.
        let (_, first) = hello(&authority);
        let mut stream = dial(plain);
        stream.write_all(&first).unwrap();
        assert!(reads_to_end(&mut stream).is_empty());
        member.server.says("TLS").await;
        // Half a hello, and the end.
        let mut stream = dial(port);
        stream.write_all(&first[..first.len() / 2]).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        reads_to_end(&mut stream);
        // Bytes flipped anywhere in a hello: whatever is said, the connection ends, or goes on as TLS.
        for at in (0..first.len()).step_by(7) {
            let mut bytes = first.clone();
            bytes[at] ^= 0x55;
            let mut stream = dial(port);
            stream.write_all(&bytes).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            reads_to_end(&mut stream);
        }
        // Byte by byte, and in many records.
        for size in [1, 0] {
            let (mut client, first) = hello(&authority);
            let mut stream = dial(port);
            if size == 1 {
                for byte in &first {
                    stream.write_all(&[*byte]).unwrap();
                }
            } else {
                stream.write_all(&recut(&first, 40)).unwrap();
            }
            while client.is_handshaking() {
                client.complete_io(&mut stream).unwrap();
            }
        }
        // In more records than anybody needs, each alone.
        let (_, first) = hello(&authority);
        let mut stream = dial(port);
        for record in recut(&first, 2).chunks(7) {
            if stream.write_all(record).is_err() {
                break;
            }
            std::thread::yield_now();
        }
        stream.shutdown(std::net::Shutdown::Write).ok();
        reads_to_end(&mut stream);
        let user = authority.issue("user");
        tls::connect(port, &authority.certificate, Some(&user)).await.unwrap().status().await.unwrap();
    });
}

#[test]
fn ten_thousand_silent_connections_keep_nobody_out_and_end_after_ten_seconds() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let authority = Authority::new(&work, "ca");
        let member = Secured::start(&work, &authority, &[]).await;
        let (_, first) = hello(&authority);
        let mut silent: Vec<TcpStream> = (0..10_000)
            .map(|number| {
                let mut stream = dial(member.port);
                // Some have begun.
                if number % 2 == 0 {
                    stream.write_all(&first[..number % first.len()]).unwrap();
                }
                stream
            })
            .collect();
        let user = authority.issue("user");
        for _ in 0..20 {
            let client = tls::connect(member.port, &authority.certificate, Some(&user)).await.unwrap();
            client.status().await.unwrap();
        }
        let ended = tokio::task::spawn_blocking(move || {
            silent.iter_mut().for_each(|stream| drop(reads_to_end(stream)));
        });
        ended.await.unwrap();
        member.server.says("the handshake took more than 10 s").await;
    });
}
