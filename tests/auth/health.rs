//! Health pages where rights are asked for: whoever asks need not log in.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use pinion_kit::{Launch, TEST_DEADLINE, WorkDir, block_on};

use crate::manage::{self, CHEAP};

fn get(port: u16, path: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn health_is_told_without_a_login() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let server = Launch::new(work.join("data")).flag(CHEAP).start().await;
        manage::people(&server.connect().await).await;
        for path in ["/health", "/livez", "/readyz", "/health?serializable=true", "/version", "/metrics"] {
            let answer = get(server.client_port(), path);
            assert!(answer.starts_with("HTTP/1.1 200 "), "{path}: {answer}");
            // Whose keys and which addresses cause the load is for nobody who has not logged in.
            assert!(!answer.contains("pinion_load_"), "{path}");
        }
    });
}
