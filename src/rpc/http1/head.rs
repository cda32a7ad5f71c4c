//! The head of a request: request line, headers, and what they say about the body and the connection.
//!
//! Bounds: `HEADERS_MAX` headers; the bytes are bounded by whoever reads them.

use crate::rpc::web::{Ask, Header};

/// Headers of one request.
const HEADERS_MAX: usize = 96;

/// Why a head is refused, and with which status. The connection ends behind the answer: where the next request
/// begins is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("malformed request head")]
    Syntax,
    #[error("too many headers")]
    TooManyHeaders,
    #[error("unsupported HTTP version")]
    Version,
    #[error("a request needs exactly one Host header")]
    Host,
    #[error("invalid Content-Length")]
    ContentLength,
    #[error("more than one Content-Length")]
    TwoLengths,
    #[error("both Content-Length and Transfer-Encoding")]
    LengthAndEncoding,
    #[error("unsupported transfer encoding")]
    TransferEncoding,
    #[error("unknown expectation")]
    Expectation,
}

impl Malformed {
    /// The status of the answer.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::TooManyHeaders => 431,
            Self::Version => 505,
            Self::TransferEncoding => 501,
            Self::Expectation => 417,
            _ => 400,
        }
    }
}

/// How the end of a body is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    Exact(u64),
    Chunked,
}

/// The head of a request.
#[derive(Debug)]
pub struct Head<'a> {
    pub ask: Ask<'a>,
    pub length: Length,
    /// HTTP/1.1. HTTP/1.0 knows no chunks.
    pub is_current: bool,
    /// The client wants to go on with this connection.
    pub keeps_alive: bool,
    /// The client waits to be told that its body is wanted.
    pub expects_continue: bool,
    /// The client wants to speak WebSocket.
    pub wants_websocket: bool,
}

/// What the bytes so far are.
#[derive(Debug)]
pub enum Parsed<'a> {
    /// The head goes on.
    Partial,
    /// A head of so many bytes.
    Whole(Head<'a>, usize),
}

/// Reads the head that `bytes` begin with. `headers` is where its headers are kept.
///
/// # Errors
/// It is no head, or one that is not served.
pub fn parse<'a>(bytes: &'a [u8], headers: &'a mut Vec<Header<'a>>) -> Result<Parsed<'a>, Malformed> {
    let mut found = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut found);
    let length = match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(Parsed::Partial),
        Err(httparse::Error::TooManyHeaders) => return Err(Malformed::TooManyHeaders),
        Err(httparse::Error::Version) => return Err(Malformed::Version),
        Err(_) => return Err(Malformed::Syntax),
    };
    let (Some(method), Some(target), Some(version)) = (request.method, request.path, request.version) else {
        return Err(Malformed::Syntax);
    };
    headers.clear();
    headers.extend(request.headers.iter().map(|header| Header { name: header.name, value: header.value }));
    let is_current = version == 1;
    let facts = Facts::of(headers, is_current)?;
    let (path, query) = split_target(target);
    let ask = Ask { method, path, query, headers, is_secured: false, is_named: false };
    let head = Head {
        ask,
        length: facts.length,
        is_current,
        keeps_alive: if is_current { !facts.close } else { facts.keep_alive },
        expects_continue: facts.expects_continue && is_current,
        wants_websocket: facts.upgrade && facts.websocket && is_current,
    };
    Ok(Parsed::Whole(head, length))
}

/// Path and query of a target, which may also name its host.
fn split_target(target: &str) -> (&str, &str) {
    let origin = match target.split_once("://") {
        Some((scheme, rest)) if !scheme.contains('/') => rest.find('/').map_or("/", |at| &rest[at..]),
        _ => target,
    };
    origin.split_once('?').unwrap_or((origin, ""))
}

/// Whether a list of words holds this one.
fn has_word(value: &[u8], word: &str) -> bool {
    value.split(|&byte| byte == b',').any(|found| found.trim_ascii().eq_ignore_ascii_case(word.as_bytes()))
}

/// What the headers say about body and connection.
#[derive(Default)]
struct Facts {
    length: Length,
    close: bool,
    keep_alive: bool,
    upgrade: bool,
    websocket: bool,
    expects_continue: bool,
}

impl Default for Length {
    fn default() -> Self {
        Self::Exact(0)
    }
}

impl Facts {
    fn of(headers: &[Header<'_>], is_current: bool) -> Result<Self, Malformed> {
        let mut facts = Self::default();
        let (mut hosts, mut content_length, mut is_chunked) = (0, None, false);
        for header in headers {
            let (name, value) = (header.name, header.value);
            // Most headers are none of these.
            match name.len() {
                4 if name.eq_ignore_ascii_case("host") => hosts += 1,
                6 if name.eq_ignore_ascii_case("expect") => {
                    if !value.trim_ascii().eq_ignore_ascii_case(b"100-continue") {
                        return Err(Malformed::Expectation);
                    }
                    facts.expects_continue = true;
                }
                7 if name.eq_ignore_ascii_case("upgrade") => facts.websocket |= has_word(value, "websocket"),
                10 if name.eq_ignore_ascii_case("connection") => {
                    facts.close |= has_word(value, "close");
                    facts.keep_alive |= has_word(value, "keep-alive");
                    facts.upgrade |= has_word(value, "upgrade");
                }
                14 if name.eq_ignore_ascii_case("content-length") => {
                    let bytes = number(value).ok_or(Malformed::ContentLength)?;
                    if content_length.replace(bytes).is_some() {
                        return Err(Malformed::TwoLengths);
                    }
                }
                17 if name.eq_ignore_ascii_case("transfer-encoding") => {
                    if is_chunked || !is_current || !value.trim_ascii().eq_ignore_ascii_case(b"chunked") {
                        return Err(Malformed::TransferEncoding);
                    }
                    is_chunked = true;
                }
                _ => {}
            }
        }
        if 1 < hosts || (hosts == 0 && is_current) {
            return Err(Malformed::Host);
        }
        facts.length = match (is_chunked, content_length) {
            (true, Some(_)) => return Err(Malformed::LengthAndEncoding),
            (true, None) => Length::Chunked,
            (false, bytes) => Length::Exact(bytes.unwrap_or(0)),
        };
        Ok(facts)
    }
}

/// A number of digits alone: no sign, no list.
fn number(value: &[u8]) -> Option<u64> {
    let digits = value.trim_ascii();
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_head<T>(text: &str, look: impl FnOnce(&Head<'_>) -> T) -> Result<T, Malformed> {
        match parse(text.as_bytes(), &mut Vec::new())? {
            Parsed::Whole(head, length) => {
                assert_eq!(length, text.len());
                Ok(look(&head))
            }
            Parsed::Partial => panic!("{text:?} is whole"),
        }
    }

    #[test]
    fn head_tells_path_query_body_and_connection() {
        let text = "POST http://x:1/v3/kv/put?a=b HTTP/1.1\r\nhost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";
        let told = with_head(text, |head| {
            assert_eq!((head.ask.method, head.ask.path, head.ask.query), ("POST", "/v3/kv/put", "a=b"));
            assert_eq!(head.ask.header("HOST"), Some(&b"x"[..]));
            (head.length, head.keeps_alive, head.expects_continue, head.wants_websocket)
        });
        assert_eq!(told, Ok((Length::Exact(5), true, true, false)));
        let keeps_alive = |text: &str| with_head(text, |head| head.keeps_alive).unwrap();
        assert!(!keeps_alive("GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, close\r\n\r\n"));
        assert!(!keeps_alive("GET / HTTP/1.0\r\n\r\n"));
        assert!(keeps_alive("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"));
        let upgrade =
            "GET / HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n\r\n";
        assert!(with_head(upgrade, |head| head.wants_websocket).unwrap());
    }

    #[test]
    fn request_that_could_be_cut_in_two_ways_is_refused() {
        for (headers, expected) in [
            ("Content-Length: 5\r\nContent-Length: 6\r\n", Malformed::TwoLengths),
            ("Content-Length: 5\r\ncontent-length: 5\r\n", Malformed::TwoLengths),
            ("Content-Length: 5, 5\r\n", Malformed::ContentLength),
            ("Content-Length: +5\r\n", Malformed::ContentLength),
            ("Content-Length: -1\r\n", Malformed::ContentLength),
            ("Content-Length: 0x5\r\n", Malformed::ContentLength),
            ("Content-Length:\r\n", Malformed::ContentLength),
            ("Content-Length: 99999999999999999999\r\n", Malformed::ContentLength),
            ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", Malformed::LengthAndEncoding),
            ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", Malformed::LengthAndEncoding),
            ("Transfer-Encoding: gzip, chunked\r\n", Malformed::TransferEncoding),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", Malformed::TransferEncoding),
            ("Transfer-Encoding: identity\r\n", Malformed::TransferEncoding),
            ("Transfer-Encoding : chunked\r\n", Malformed::Syntax),
            ("Transfer-Encoding: chunked\r\n X: folded\r\n", Malformed::Syntax),
            ("Content Length: 5\r\n", Malformed::Syntax),
            ("Host: y\r\n", Malformed::Host),
            ("Expect: 200-ok\r\n", Malformed::Expectation),
        ] {
            let text = format!("POST / HTTP/1.1\r\nHost: x\r\n{headers}\r\n");
            assert_eq!(with_head(&text, |_| ()), Err(expected), "{headers}");
        }
        assert_eq!(with_head("GET / HTTP/1.1\r\n\r\n", |_| ()), Err(Malformed::Host));
        let old = "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(with_head(old, |_| ()), Err(Malformed::TransferEncoding));
        assert_eq!(with_head("GET / HTTP/3.0\r\n\r\n", |_| ()), Err(Malformed::Version));
        let many = format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "a: b\r\n".repeat(HEADERS_MAX));
        assert_eq!(with_head(&many, |_| ()), Err(Malformed::TooManyHeaders));
    }

    #[test]
    fn head_is_partial_until_its_last_byte() {
        let text = b"GET /health HTTP/1.1\r\nHost: x\r\nA: b\r\n\r\n";
        for cut in 0..text.len() {
            assert!(matches!(parse(&text[..cut], &mut Vec::new()), Ok(Parsed::Partial)), "{cut}");
        }
    }
}
