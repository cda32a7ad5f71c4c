//! A socket as `h2` wants it on the client's side: what is written in one turn leaves in one system call.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use futures_lite::io::{AsyncRead as _, AsyncWrite as _};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Stream;

/// Bytes that wait for the end of a turn at most; `h2` writes a frame at a time.
const GATHERED_BYTES_MAX: usize = 64 << 10;

/// See the module.
pub(in crate::shell) struct H2Socket {
    stream: Stream,
    /// When the other side was last heard.
    last_read: Rc<Cell<Instant>>,
    gathered: Vec<u8>,
    /// How much of that the socket has taken.
    written: usize,
}

impl H2Socket {
    pub(in crate::shell) fn new(stream: Stream, last_read: Rc<Cell<Instant>>) -> Self {
        Self { stream, last_read, gathered: Vec::new(), written: 0 }
    }

    /// Writes what was gathered.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.gathered.len() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.gathered[self.written..]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += written;
        }
        self.written = 0;
        if GATHERED_BYTES_MAX < self.gathered.capacity() {
            self.gathered = Vec::new();
        }
        self.gathered.clear();
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for H2Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = ready!(Pin::new(&mut self.stream).poll_read(cx, into.initialize_unfilled()))?;
        into.advance(read);
        self.last_read.set(Instant::now());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for H2Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if GATHERED_BYTES_MAX <= self.gathered.len() {
            ready!(self.poll_drain(cx))?;
        }
        self.gathered.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.stream).poll_close(cx)
    }
}
