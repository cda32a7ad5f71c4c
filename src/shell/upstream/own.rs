//! What the proxy asks the members for itself: short calls, and their pages.

use std::future::poll_fn;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures_lite::io::{AsyncReadExt as _, AsyncWriteExt as _};
use prost::Message;

use super::call::{Asked, Call, Failure, Said, bad_answer};
use super::line::Page;
use super::turns::Tried;
use super::{DIAL_PATIENCE, Upstream};
use crate::rpc::framing::Splitter;
use crate::rpc::{Code, Method, Status, status};
use crate::shell::net::{Stream, TimedOut, within};

/// Of an answer to a question of our own.
const ANSWER_BYTES_MAX: u32 = 4 << 20;

/// Of a page: a member with some thousand series has half a megabyte.
const PAGE_BYTES_MAX: usize = 16 << 20;

/// It took too long, or the connection said no.
enum Late {
    Late,
    Status(Status),
}

impl From<TimedOut> for Late {
    fn from(TimedOut: TimedOut) -> Self {
        Self::Late
    }
}

impl From<Late> for Status {
    fn from(late: Late) -> Self {
        match late {
            Late::Late => status::CONTEXT_DEADLINE_EXCEEDED,
            Late::Status(status) => status,
        }
    }
}

impl Upstream {
    /// Asks whoever answers, in nobody's name.
    ///
    /// # Errors
    /// What the member says, or that nobody answers in time.
    pub(in crate::shell) async fn ask<A: Message + Default>(
        &self,
        method: Method,
        request: &impl Message,
        patience: Duration,
    ) -> Result<A, Status> {
        self.ask_beside(method, request, patience, Tried::default()).await
    }

    /// Asks an endpoint that is connected.
    ///
    /// # Errors
    /// What the member says, or that it does not answer in time.
    pub(in crate::shell) async fn ask_at<A: Message + Default>(
        &self,
        endpoint: usize,
        method: Method,
        request: &impl Message,
        patience: Duration,
    ) -> Result<A, Status> {
        self.ask_beside(method, request, patience, Tried::all_but(endpoint)).await
    }

    /// Asks whoever was not tried.
    async fn ask_beside<A: Message + Default>(
        &self,
        method: Method,
        request: &impl Message,
        patience: Duration,
        mut tried: Tried,
    ) -> Result<A, Status> {
        let asked = self.own(method, request, patience, true);
        let answered = async {
            let mut call = self.begin(&asked, &mut tried).await.map_err(Late::Status)?;
            let mut splitter = Splitter::new(ANSWER_BYTES_MAX);
            let first: A = next(&mut call, &mut splitter).await.map_err(Late::Status)?;
            // Its status is the last word.
            match poll_fn(|cx| call.poll_piece(cx)).await {
                Ok(None) => Ok(first),
                Ok(Some(_)) => Err(Late::Status(bad_answer("more than one answer"))),
                Err(failure) => Err(Late::Status(failure.status())),
            }
        };
        within(patience, answered).await.map_err(Status::from)
    }

    /// The first of many answers, after which the call is given up.
    ///
    /// # Errors
    /// As above.
    pub(in crate::shell) async fn ask_first<A: Message + Default>(
        &self,
        method: Method,
        request: &impl Message,
        patience: Duration,
    ) -> Result<A, Status> {
        let asked = self.own(method, request, patience, false);
        let answered = async {
            let mut call = self.begin(&asked, &mut Tried::default()).await.map_err(Late::Status)?;
            next(&mut call, &mut Splitter::new(ANSWER_BYTES_MAX)).await.map_err(Late::Status)
        };
        within(patience, answered).await.map_err(Status::from)
    }

    fn own(&self, method: Method, request: &impl Message, patience: Duration, is_unary: bool) -> Asked {
        Asked {
            path: method.row().path,
            said: Said::default(),
            timeout: Some(patience),
            first: Some(request.encode_to_vec().into()),
            is_unary,
            fails_fast: true,
        }
    }

    /// A page of whoever answers.
    ///
    /// # Errors
    /// Why nobody does.
    pub(in crate::shell) async fn page(&self, path: &str) -> Result<Page, String> {
        let mut tried = Tried::default();
        let mut reason = self.nobody().message.into_owned();
        while let Some((index, line)) = self.pick(&tried) {
            tried.add(index);
            let url = &self.slots[index].url;
            let fetched = async {
                match url.is_tls() {
                    // By TLS a connection of clients is HTTP/2's.
                    true => line.get(path, PAGE_BYTES_MAX).await.map_err(io::Error::other),
                    false => {
                        self.dialer.dial(url, async |stream| get(stream, path, &url.authority()).await).await
                    }
                }
            };
            match within(DIAL_PATIENCE, fetched).await {
                Ok(page) => return Ok(page),
                Err(error) => reason = format!("{url}: {error}"),
            }
        }
        Err(reason)
    }
}

/// The next message of an answer.
async fn next<A: Message + Default>(call: &mut Call, splitter: &mut Splitter) -> Result<A, Status> {
    loop {
        match splitter.take() {
            Ok(Some(message)) if !message.compressed => {
                return A::decode(message.payload).map_err(|error| Status::undecodable(&error.to_string()));
            }
            Ok(Some(_)) => return Err(bad_answer("a compressed answer that nobody asked for")),
            Ok(None) => {}
            Err(error) => return Err(Status { code: Code::Internal, message: error.to_string().into() }),
        }
        let piece: Bytes = match poll_fn(|cx| call.poll_piece(cx)).await.map_err(Failure::status)? {
            Some(piece) => piece,
            None => return Err(bad_answer("the call has ended without an answer")),
        };
        call.release(piece.len());
        splitter.push(&piece);
    }
}

/// Asks for a page by HTTP/1.0, whose answers end with their connection.
async fn get(mut stream: Stream, path: &str, authority: &str) -> io::Result<Page> {
    let request = format!("GET {path} HTTP/1.0\r\nHost: {authority}\r\nAccept: text/plain\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let mut all = Vec::new();
    let mut scratch = vec![0; 64 << 10];
    loop {
        let read = stream.read(&mut scratch).await?;
        if read == 0 {
            break;
        }
        all.extend_from_slice(&scratch[..read]);
        if PAGE_BYTES_MAX < all.len() {
            return Err(io::Error::other(format!("a page of more than {PAGE_BYTES_MAX} bytes")));
        }
    }
    parse(&all).ok_or_else(|| io::Error::other("what came is no answer of HTTP/1"))
}

/// Takes an answer apart that is all there.
fn parse(all: &[u8]) -> Option<Page> {
    let end = all.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = str::from_utf8(&all[..end]).ok()?;
    let mut lines = head.split("\r\n");
    let first = lines.next()?.strip_prefix("HTTP/1.")?;
    let status = first.split(' ').nth(1)?.parse().ok()?;
    let mut length = None;
    for line in lines {
        let (name, value) = line.split_once(':')?;
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = Some(value.trim().parse::<usize>().ok()?),
            // HTTP/1.0 has none.
            "transfer-encoding" => return None,
            _ => {}
        }
    }
    let body = &all[end + 4..];
    if length.is_some_and(|length| length != body.len()) {
        return None;
    }
    Some(Page { status, body: body.to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_taken_whole_or_not_at_all() {
        let page =
            parse(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nab").unwrap();
        assert_eq!((page.status, &*page.body), (200, &b"ab"[..]));
        assert_eq!(parse(b"HTTP/1.0 503 no\r\n\r\n").unwrap().status, 503);
        for bad in [
            &b""[..],
            b"HTTP/1.1 200 OK\r\n",
            b"HTTP/2 200\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab",
            b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nab",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
            b"HTTP/1.1 two\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nnonsense\r\n\r\n",
            b"HTTP/1.1 200 \xff\r\n\r\n",
        ] {
            assert_eq!(parse(bad), None, "{}", bad.escape_ascii());
        }
    }
}
