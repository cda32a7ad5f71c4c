//! The head of an answer, and the framing of its body.

use crate::rpc::web::AnswerHead;

/// What the length of a body is written over when it is known.
const LENGTH_DIGITS: usize = 10;

/// Digits of a chunk's size, which is written when the chunk is over.
const CHUNK_DIGITS: usize = 8;

/// What scripts of other origins may do and say.
pub const ALLOWED_METHODS: &str = "POST, GET, OPTIONS, PUT, DELETE";
pub const ALLOWED_HEADERS: &str = "accept, content-type, authorization";

/// Told to a client that waits with its body.
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Ends a body in chunks.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// How an answer's body is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyFraming {
    /// Its length is told in front.
    Length,
    Chunks,
    /// It ends with the connection, for clients that know no chunks.
    UntilClose,
    /// There is none: another protocol follows.
    Upgrade,
}

/// Appends a head. Returns where its length belongs, for `put_length`.
pub fn put_head(head: &AnswerHead, framing: BodyFraming, keeps_alive: bool, out: &mut Vec<u8>) -> usize {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(itoa::Buffer::new().format(head.status).as_bytes());
    out.push(b' ');
    out.extend_from_slice(head.reason().as_bytes());
    out.extend_from_slice(b"\r\n");
    if !head.content_type.is_empty() {
        put_header("Content-Type", head.content_type, out);
    }
    for (name, value) in &head.headers {
        put_header(name, value, out);
    }
    if let Some(origin) = &head.origin {
        put_header("Access-Control-Allow-Methods", ALLOWED_METHODS, out);
        put_header("Access-Control-Allow-Origin", origin, out);
        put_header("Access-Control-Allow-Headers", ALLOWED_HEADERS, out);
    }
    if !keeps_alive || framing == BodyFraming::UntilClose {
        put_header("Connection", "close", out);
    }
    match framing {
        BodyFraming::Length => {
            out.extend_from_slice(b"Content-Length: ");
            let at = out.len();
            // Leading blanks are no part of a header's value.
            out.extend_from_slice(&[b' '; LENGTH_DIGITS - 1]);
            out.extend_from_slice(b"0\r\n\r\n");
            at
        }
        BodyFraming::Chunks => {
            out.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
            0
        }
        BodyFraming::UntilClose | BodyFraming::Upgrade => {
            out.extend_from_slice(b"\r\n");
            0
        }
    }
}

/// Writes the length of a body into its head.
pub fn put_length(out: &mut [u8], at: usize, length: usize) {
    let mut digits = itoa::Buffer::new();
    let digits = digits.format(length).as_bytes();
    out[at + LENGTH_DIGITS - digits.len()..at + LENGTH_DIGITS].copy_from_slice(digits);
}

fn put_header(name: &str, value: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    // Some values are a client's words.
    out.extend(value.bytes().filter(|byte| !byte.is_ascii_control()));
    out.extend_from_slice(b"\r\n");
}

/// Begins a chunk. Its data follows.
pub fn begin_chunk(out: &mut Vec<u8>) {
    out.extend_from_slice(&[b'0'; CHUNK_DIGITS]);
    out.extend_from_slice(b"\r\n");
}

/// Ends the chunk that began at `start`.
pub fn end_chunk(out: &mut Vec<u8>, start: usize) {
    let mut size = out.len() - start - CHUNK_DIGITS - 2;
    assert!(0 < size, "an empty chunk would end the body");
    for digit in out[start..start + CHUNK_DIGITS].iter_mut().rev() {
        *digit = b"0123456789abcdef"[size % 16];
        size /= 16;
    }
    assert_eq!(size, 0, "a chunk has less than 4 GiB");
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::http1::{Decoder, Length};

    #[test]
    fn chunks_decode_to_what_was_put_in() {
        let mut out = Vec::new();
        let (mut data, mut found) = (Vec::new(), Vec::new());
        for size in [1, 9, 15, 16, 255, 70_000] {
            let start = out.len();
            begin_chunk(&mut out);
            out.resize(out.len() + size, b'x');
            data.resize(data.len() + size, b'x');
            end_chunk(&mut out, start);
        }
        out.extend_from_slice(LAST_CHUNK);
        let mut decoder = Decoder::new(Length::Chunked);
        decoder.decode(&mut &out[..], &mut |bytes| found.extend_from_slice(bytes)).unwrap();
        assert!(decoder.is_over() && found == data);
    }

    #[test]
    fn head_tells_length_and_connection_and_no_header_breaks_out_of_its_line() {
        let mut head = AnswerHead::new(200, "application/json");
        head.headers.push(("X".into(), "a\r\nSet-Cookie: b".into()));
        let mut out = Vec::new();
        let at = put_head(&head, BodyFraming::Length, false, &mut out);
        put_length(&mut out, at, 1234);
        let text = String::from_utf8(out).unwrap();
        assert_eq!(
            text,
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX: aSet-Cookie: b\r\nConnection: close\r\n\
             Content-Length:       1234\r\n\r\n"
        );
    }
}
