//! WebSocket: each text message is one request or more, each answer a text message.
//!
//! The frames of clients are read by `tungstenite`, out of one buffer, with its answers to pings and closes into
//! another. Our own frames have no mask and go out in one piece, so they need but a head, which is written here:
//! their messages are shared with the other framings, and counted.
//!
//! Compatibility: RFC 6455, server side. A frame without a mask, or one too long, ends the connection. The token of
//! a browser, which can set no header, may come as a subprotocol, as through etcd's gateway:
//! `Sec-WebSocket-Protocol: Bearer, TOKEN`.

use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest as _, Sha1};
use tungstenite::protocol::{Role, WebSocketConfig, WebSocketContext};
use tungstenite::{Error, Message};

use crate::auth;
use crate::rpc::web::{AnswerHead, Ask, TEXT};
use crate::shell::client::web::part::Part;

/// What the key of a client is hashed with.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The first byte of a frame: the last of its message, or not, and whether it begins one, of text.
const FINAL: u8 = 0x80;
const BEGINS_TEXT: u8 = 0x01;

/// The close frame behind an answer that is over: normal closure.
pub(super) const CLOSE: &[u8] = &[0x88, 2, 0x03, 0xe8];

/// Puts the head of a text frame in front of what was appended at `start`, and leaves out the end of its line.
pub(in crate::shell::client) fn frame_text(out: &mut Vec<u8>, start: usize, part: Part) {
    if out[start..].last() == Some(&b'\n') {
        out.pop();
    }
    let length = out.len() - start;
    let mut head = vec![match part {
        Part::Whole => FINAL | BEGINS_TEXT,
        Part::First => BEGINS_TEXT,
        Part::Middle => 0,
        Part::Last => FINAL,
    }];
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short @ ..126), _) => head.push(short),
        (_, Ok(length)) => {
            head.push(126);
            head.extend_from_slice(&length.to_be_bytes());
        }
        _ => {
            head.push(127);
            head.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    out.splice(start..start, head);
}

/// Answers the wish to speak WebSocket.
///
/// # Errors
/// The answer to a request that is none.
pub(super) fn accept(ask: &Ask<'_>) -> Result<AnswerHead, AnswerHead> {
    if ask.header("sec-websocket-version") != Some(b"13") {
        return Err(AnswerHead::new(426, TEXT).with("Sec-WebSocket-Version", "13"));
    }
    let key = ask.header("sec-websocket-key").unwrap_or_default();
    if STANDARD.decode(key).map_or(0, |key| key.len()) != 16 || ask.method != "GET" {
        return Err(AnswerHead::new(400, TEXT));
    }
    let hash = Sha1::new().chain_update(key).chain_update(GUID).finalize();
    let head = AnswerHead::new(101, "")
        .with("Upgrade", "websocket")
        .with("Connection", "Upgrade")
        .with("Sec-WebSocket-Accept", STANDARD.encode(hash));
    Ok(match token(ask) {
        Some(_) => head.with("Sec-WebSocket-Protocol", "Bearer"),
        None => head,
    })
}

/// The token in the list of subprotocols.
pub(in crate::shell::client) fn token<'a>(ask: &Ask<'a>) -> Option<&'a [u8]> {
    auth::subprotocol(ask.header("sec-websocket-protocol")?)
}

/// What a client says.
pub(super) enum Said {
    /// Text of requests.
    Text(Vec<u8>),
    /// It has taken its leave, or breaks the protocol.
    Left,
}

/// The client's side of a WebSocket.
pub(super) struct Frames {
    context: WebSocketContext,
}

impl Frames {
    /// Messages of at most so many bytes.
    pub(super) fn new(message_bytes_max: usize) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(4096)
            .write_buffer_size(0)
            .max_message_size(Some(message_bytes_max))
            .max_frame_size(Some(message_bytes_max));
        Self { context: WebSocketContext::new(Role::Server, Some(config)) }
    }

    /// Takes the bytes of `input`, and puts in `output` what the protocol has to say to them. None: there is no
    /// message yet.
    pub(super) fn read(&mut self, input: &mut Vec<u8>, output: &mut Vec<u8>) -> Option<Said> {
        let mut ends = Ends { input, taken: 0, output };
        let said = match self.context.read(&mut ends) {
            Ok(Message::Text(text)) => Some(Said::Text(text.as_bytes().to_vec())),
            Ok(Message::Binary(bytes)) => Some(Said::Text(bytes.to_vec())),
            Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => Some(Said::Text(Vec::new())),
            Ok(Message::Close(_)) => Some(Said::Left),
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(_) => Some(Said::Left),
        };
        // Its answers to pings and closes are written now; memory takes them all.
        self.context.flush(&mut ends).ok();
        let taken = ends.taken;
        input.drain(..taken);
        said
    }
}

/// A socket of two buffers.
struct Ends<'a> {
    input: &'a [u8],
    taken: usize,
    output: &'a mut Vec<u8>,
}

impl io::Read for Ends<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let rest = &self.input[self.taken..];
        if rest.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let n = rest.len().min(into.len());
        into[..n].copy_from_slice(&rest[..n]);
        self.taken += n;
        Ok(n)
    }
}

impl io::Write for Ends<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.output.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::web::Header;

    #[test]
    fn frames_are_read_back_as_the_text_that_was_framed_whatever_its_length() {
        for length in [0, 1, 125, 126, 65_535, 65_536, 200_000] {
            let text = "x".repeat(length);
            let mut framed = b"before".to_vec();
            framed.extend_from_slice(text.as_bytes());
            framed.push(b'\n');
            frame_text(&mut framed, 6, Part::Whole);
            let mut client = WebSocketContext::new(Role::Client, None);
            let mut ends = Ends { input: &framed[6..], taken: 0, output: &mut Vec::new() };
            assert_eq!(client.read(&mut ends).unwrap(), Message::text(text));
        }
    }

    #[test]
    fn message_in_parts_is_read_back_as_one() {
        let mut framed = Vec::new();
        for (part, text) in [(Part::First, "a"), (Part::Middle, "b"), (Part::Middle, ""), (Part::Last, "c")] {
            let start = framed.len();
            framed.extend_from_slice(text.as_bytes());
            frame_text(&mut framed, start, part);
        }
        let mut client = WebSocketContext::new(Role::Client, None);
        let mut ends = Ends { input: &framed, taken: 0, output: &mut Vec::new() };
        assert_eq!(client.read(&mut ends).unwrap(), Message::text("abc"));
    }

    #[test]
    fn client_without_a_mask_or_with_too_long_a_message_has_left() {
        let masked = |text: &[u8]| {
            let length = u16::try_from(text.len()).unwrap().to_be_bytes();
            [&[FINAL | BEGINS_TEXT, 0x80 | 126, length[0], length[1], 0, 0, 0, 0], text].concat()
        };
        let read = |mut bytes: Vec<u8>| Frames::new(1000).read(&mut bytes, &mut Vec::new());
        assert!(matches!(read(masked(&[b'x'; 1000])), Some(Said::Text(text)) if text.len() == 1000));
        assert!(matches!(read(masked(&[b'x'; 1001])), Some(Said::Left)));
        assert!(matches!(read(vec![FINAL | BEGINS_TEXT, 1, b'x']), Some(Said::Left)));
        assert!(read(masked(b"xyz")[..8].to_vec()).is_none());
    }

    #[test]
    fn key_is_answered_as_the_rfc_has_it() {
        let header = |name, value: &'static str| Header { name, value: value.as_bytes() };
        let headers = [
            header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
            header("Sec-WebSocket-Version", "13"),
            header("Sec-WebSocket-Protocol", "Bearer, abc.12"),
        ];
        let ask = Ask {
            method: "GET",
            path: "/v3/watch",
            query: "",
            headers: &headers,
            is_secured: false,
            is_named: false,
        };
        let head = accept(&ask).unwrap();
        assert!(
            head.headers.contains(&("Sec-WebSocket-Accept".into(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=".into()))
        );
        assert_eq!(token(&ask), Some(&b"abc.12"[..]));
        assert_eq!(accept(&Ask { headers: &headers[..1], ..ask }).unwrap_err().status, 426);
        assert_eq!(accept(&Ask { headers: &headers[1..], ..ask }).unwrap_err().status, 400);
    }
}
