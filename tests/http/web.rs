//! A client of HTTP/1.1 that sends bytes as they are given and reads answers one by one.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pinion_kit::PATIENCE;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Text as the gateway writes keys and values.
pub fn b64(text: impl AsRef<[u8]>) -> String {
    STANDARD.encode(text)
}

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// Names in small letters.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }
}

/// A connection.
pub struct Web {
    stream: TcpStream,
    read: Vec<u8>,
    /// Bytes of the chunk that is being read.
    is_chunked: bool,
}

impl Web {
    pub async fn connect(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, read: Vec::new(), is_chunked: false }
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Sends as far as the other side takes it.
    pub async fn send_some(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).await.is_ok()
    }

    /// Ends this side.
    pub async fn shut(&mut self) {
        self.stream.shutdown().await.unwrap();
    }

    /// Reads more. False: the other side has ended.
    async fn fill(&mut self) -> bool {
        self.read.reserve(16 * 1024);
        match timeout(PATIENCE, self.stream.read_buf(&mut self.read)).await {
            Ok(read) => 0 < read.unwrap_or(0),
            Err(_) => panic!("nothing came; before: {}", self.read.escape_ascii()),
        }
    }

    /// Reads up to and with `end`.
    async fn until(&mut self, end: &[u8]) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = self.read.windows(end.len()).position(|found| found == end) {
                return Some(self.read.drain(..at + end.len()).collect());
            }
            if !self.fill().await {
                return None;
            }
        }
    }

    pub async fn exactly(&mut self, bytes: usize) -> Vec<u8> {
        while self.read.len() < bytes {
            assert!(self.fill().await, "the connection ended inside a body");
        }
        self.read.drain(..bytes).collect()
    }

    /// Whatever comes until the connection ends.
    pub async fn rest(&mut self) -> Vec<u8> {
        while self.fill().await {}
        std::mem::take(&mut self.read)
    }

    /// Status line and headers.
    pub async fn head(&mut self) -> Option<Answer> {
        let head = String::from_utf8(self.until(b"\r\n\r\n").await?).unwrap();
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers: Vec<_> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let answer = Answer { status, headers, body: Vec::new() };
        self.is_chunked = answer.header("transfer-encoding") == Some("chunked");
        Some(answer)
    }

    /// A whole answer. None: the connection has ended.
    pub async fn answer(&mut self) -> Option<Answer> {
        let mut answer = self.head().await?;
        if answer.status == 100 {
            answer = self.head().await?;
        }
        if answer.status == 204 {
            return Some(answer);
        }
        if self.is_chunked {
            while let Some(chunk) = self.chunk().await {
                answer.body.extend(chunk);
            }
        } else {
            let length = answer.header("content-length").unwrap().parse().unwrap();
            answer.body = self.exactly(length).await;
        }
        Some(answer)
    }

    /// The next chunk of a body. None: it was the last.
    pub async fn chunk(&mut self) -> Option<Vec<u8>> {
        let line = String::from_utf8(self.until(b"\r\n").await.expect("a chunk")).unwrap();
        let size = usize::from_str_radix(line.trim(), 16).unwrap();
        if size == 0 {
            // A trailer may follow.
            while self.until(b"\r\n").await.expect("the end of a body") != b"\r\n" {}
            return None;
        }
        let chunk = self.exactly(size).await;
        assert_eq!(self.exactly(2).await, b"\r\n");
        Some(chunk)
    }

    /// The next line of an answer of many, as JSON. None: there are no more.
    pub async fn line(&mut self) -> Option<Value> {
        let chunk = self.chunk().await?;
        Some(serde_json::from_slice(&chunk).unwrap())
    }

    /// Asks for a page.
    pub async fn get(&mut self, path: &str) -> Answer {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")).await;
        self.answer().await.expect("an answer")
    }

    /// Calls through the gateway, with more headers.
    pub async fn post_with(&mut self, path: &str, headers: &str, body: &str) -> Answer {
        self.begin(path, headers, body).await;
        self.answer().await.expect("an answer")
    }

    pub async fn post(&mut self, path: &str, body: &str) -> Answer {
        self.post_with(path, "", body).await
    }

    /// Sends a call and does not wait.
    pub async fn begin(&mut self, path: &str, headers: &str, body: &str) {
        let length = body.len();
        self.send(format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
        ))
        .await;
    }

    /// A call that goes well.
    pub async fn call(&mut self, path: &str, body: Value) -> Value {
        let answer = self.post(path, &body.to_string()).await;
        assert_eq!(answer.status, 200, "{path} {body}: {}", answer.text());
        answer.json()
    }

    /// Whether the other side ends the connection.
    pub async fn is_ended(&mut self) -> bool {
        let mut piece = [0; 1024];
        match timeout(Duration::from_secs(10), self.stream.read(&mut piece)).await {
            Ok(Ok(0) | Err(_)) => true,
            Ok(Ok(_)) | Err(_) => false,
        }
    }
}
