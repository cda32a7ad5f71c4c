//! A client made of bytes.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::{PATIENCE, Server};

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const PRIORITY: u8 = 2;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const GO_AWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

pub(super) const END_STREAM: u8 = 1;
pub(super) const ACK: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;

pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A frame's bytes.
pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
    out
}

/// A header as HPACK's literal without indexing.
pub(super) fn header(name: &str, value: &[u8]) -> Vec<u8> {
    fn length(out: &mut Vec<u8>, n: usize) {
        // A 7-bit prefixed integer.
        if n < 127 {
            out.push(n.to_le_bytes()[0]);
            return;
        }
        out.push(127);
        let mut rest = n - 127;
        while 128 <= rest {
            out.push(rest.to_le_bytes()[0] | 128);
            rest /= 128;
        }
        out.push(rest.to_le_bytes()[0]);
    }
    let mut out = vec![0];
    length(&mut out, name.len());
    out.extend_from_slice(name.as_bytes());
    length(&mut out, value.len());
    out.extend_from_slice(value);
    out
}

/// The header block of a call.
pub(super) fn request_headers(path: &str) -> Vec<u8> {
    let fields: [(&str, &[u8]); 6] = [
        (":method", b"POST"),
        (":scheme", b"http"),
        (":path", path.as_bytes()),
        (":authority", b"localhost"),
        ("content-type", b"application/grpc"),
        ("te", b"trailers"),
    ];
    fields.iter().flat_map(|(name, value)| header(name, value)).collect()
}

/// A frame that was received.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    pub(super) payload: Vec<u8>,
}

/// A raw connection.
pub(super) struct Raw(pub(super) TcpStream);

impl Raw {
    /// Connects and says nothing.
    pub(super) fn connect(server: &Server) -> Self {
        let stream = TcpStream::connect(server.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self(stream)
    }

    /// Connects and says what HTTP/2 clients say first.
    pub(super) fn open(server: &Server) -> Self {
        let mut raw = Self::connect(server);
        raw.send(PREFACE);
        raw.send(&frame(SETTINGS, 0, 0, &[]));
        raw
    }

    pub(super) fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    /// Sends `bytes` again and again until the server ends the connection.
    pub(super) fn send_until_ended(&mut self, bytes: &[u8], times: usize) {
        for _ in 0..times {
            if self.0.write_all(bytes).is_err() {
                return;
            }
        }
    }

    /// The next frame; None when the server has ended the connection.
    pub(super) fn receive(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.fill(&mut head)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        self.fill(&mut payload)?;
        let stream = u32::from_be_bytes(head[5..].try_into().unwrap());
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    fn fill(&mut self, into: &mut [u8]) -> Option<()> {
        match self.0.read_exact(into) {
            Ok(()) => Some(()),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("the server neither answered nor ended the connection in time")
            }
            Err(_) => None,
        }
    }

    /// The next frame of a kind; frames of other kinds are passed over.
    pub(super) fn receive_kind(&mut self, kind: u8) -> Option<Frame> {
        loop {
            let frame = self.receive()?;
            if frame.kind == kind {
                return Some(frame);
            }
        }
    }

    /// Reads until the end; returns the code and debug data of the GOAWAY, if one came.
    pub(super) fn end(&mut self) -> Option<(u32, String)> {
        let mut said = None;
        while let Some(frame) = self.receive() {
            if frame.kind == GO_AWAY {
                let code = u32::from_be_bytes(frame.payload[4..8].try_into().unwrap());
                said = Some((code, String::from_utf8_lossy(&frame.payload[8..]).into_owned()));
            }
        }
        said
    }

    /// Everything until the end, as text.
    pub(super) fn read_to_end(&mut self) -> String {
        let mut text = Vec::new();
        drop(self.0.read_to_end(&mut text));
        String::from_utf8_lossy(&text).into_owned()
    }

    pub(super) fn patience(&self, patience: Duration) {
        self.0.set_read_timeout(Some(patience)).unwrap();
    }
}
