//! A client of a member's JSON gateway: one connection, one request at a time.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// A member on loopback answers a dial at once or not at all.
const DIAL_PATIENCE: Duration = Duration::from_millis(300);

/// Members answer these requests in a few hundred bytes.
const ANSWER_BYTES_MAX: usize = 64 << 10;

const HEADERS_MAX: usize = 32;

/// A connection that is made when it is needed.
pub(super) struct GatewayClient {
    address: SocketAddr,
    patience: Duration,
    stream: Option<TcpStream>,
}

impl GatewayClient {
    /// `patience` is for one answer.
    pub(super) fn new(port: u16, patience: Duration) -> Self {
        Self { address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)), patience, stream: None }
    }

    pub(super) fn put(&mut self, key: &str, value: &str) -> io::Result<()> {
        let body = json!({ "key": STANDARD.encode(key), "value": STANDARD.encode(value) });
        self.ask("/v3/kv/put", &body.to_string()).map(drop)
    }

    /// All of these at once.
    pub(super) fn put_all(&mut self, pairs: &[(String, String)]) -> io::Result<()> {
        let put = |(key, value): &(String, String)| json!({ "request_put": { "key": STANDARD.encode(key), "value": STANDARD.encode(value) } });
        let body = json!({ "success": pairs.iter().map(put).collect::<Vec<_>>() });
        self.ask("/v3/kv/txn", &body.to_string()).map(drop)
    }

    pub(super) fn status(&mut self) -> io::Result<Status> {
        let answer = self.ask("/v3/maintenance/status", "{}")?;
        // 64-bit numbers are texts in protobuf's JSON, and absent when they are 0.
        let number = |value: &Value| value.as_str().and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        Ok(Status {
            id: number(&answer["header"]["member_id"]),
            leader: number(&answer["leader"]),
            term: number(&answer["raftTerm"]),
        })
    }

    fn ask(&mut self, path: &str, body: &str) -> io::Result<Value> {
        let answer = self.exchange(path, body);
        if answer.is_err() {
            self.stream = None;
        }
        answer
    }

    fn exchange(&mut self, path: &str, body: &str) -> io::Result<Value> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            none => {
                let stream = TcpStream::connect_timeout(&self.address, DIAL_PATIENCE)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(self.patience))?;
                stream.set_write_timeout(Some(self.patience))?;
                none.insert(stream)
            }
        };
        let (host, length) = (self.address, body.len());
        let request =
            format!("POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n\r\n{body}");
        stream.write_all(request.as_bytes())?;
        let mut bytes = Vec::new();
        let mut scratch = [0; 4096];
        loop {
            if let Some((code, body)) = parse(&bytes)? {
                let told = String::from_utf8_lossy(body);
                return match code {
                    200 => serde_json::from_str(&told).map_err(io::Error::other),
                    _ => Err(io::Error::other(format!("{code}: {told}"))),
                };
            }
            match stream.read(&mut scratch)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => bytes.extend_from_slice(&scratch[..read]),
            }
            if ANSWER_BYTES_MAX < bytes.len() {
                return Err(io::Error::other("the answer is too long"));
            }
        }
    }
}

/// A member's answer about itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Status {
    pub(super) id: u64,
    /// 0: it knows of none.
    pub(super) leader: u64,
    pub(super) term: u64,
}

/// Code and body of an answer, once it is whole.
fn parse(bytes: &[u8]) -> io::Result<Option<(u16, &[u8])>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut answer = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head) = answer.parse(bytes).map_err(io::Error::other)? else {
        return Ok(None);
    };
    let length = answer.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let length = length.and_then(|header| std::str::from_utf8(header.value).ok()?.parse::<usize>().ok());
    let length = length.ok_or_else(|| io::Error::other("an answer without a length"))?;
    Ok(bytes[head..].get(..length).map(|body| (answer.code.unwrap_or(0), body)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_once_it_is_whole() {
        let whole = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
        for end in 0..whole.len() {
            assert_eq!(parse(&whole[..end]).unwrap(), None, "{end}");
        }
        assert_eq!(parse(whole).unwrap(), Some((200, &b"{}"[..])));
        assert!(parse(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
        assert!(parse(b"SSH-2.0-x\r\n\r\n").is_err());
    }
}
