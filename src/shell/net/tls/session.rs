//! A connection's records: what the other side sent as plain bytes, and ours as records.
//!
//! A write takes some bytes, makes records of them, and is ready when the socket has them all. Until then it is
//! pending, and whoever writes offers the same bytes again; so nothing is left behind that nobody would push.
//!
//! Bounds: `CHUNK_BYTES` of records that wait; one read's bytes and one record's, decrypted.

use std::cell::RefCell;
use std::io::{self, Read as _, Write as _};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_lite::io::{AsyncRead as _, AsyncWrite as _};
use glommio::net::TcpStream;
use rustls::Connection;

/// Plain bytes that become records at a time: two of the largest.
const CHUNK_BYTES: usize = 32 * 1024;

/// Bytes of one read of the socket: the largest record, about.
const SCRATCH_BYTES: usize = 16 * 1024;

/// A buffer of records larger than this is given back when it is empty.
const SPARE_BYTES_MAX: usize = 64 * 1024;

thread_local! {
    /// The connections of an executor share one buffer to read into, since at most one of them is at work.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH_BYTES].into_boxed_slice());
    /// And one for records on their way out, which a connection has only while some wait.
    static SPARE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A connection whose handshake is done.
pub(in crate::shell::net) struct Session {
    tls: Connection,
    /// Records that were read and not taken yet, because decrypted bytes wait.
    incoming: Vec<u8>,
    /// Records for the socket.
    outgoing: Vec<u8>,
    sent: usize,
    /// Plain bytes in them that the writer has not been told of.
    taken: usize,
    is_closing: bool,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("outgoing", &(self.outgoing.len() - self.sent))
            .finish_non_exhaustive()
    }
}

impl Session {
    /// Over a handshake that is done, and whose last bytes are sent.
    pub(super) fn new(tls: Connection) -> Self {
        Self { tls, incoming: Vec::new(), outgoing: Vec::new(), sent: 0, taken: 0, is_closing: false }
    }

    /// Reads plain bytes.
    pub(in crate::shell::net) fn poll_read(
        &mut self,
        socket: &mut TcpStream,
        cx: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            match self.tls.reader().read(into) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // The socket's end without a word. Nothing here is delimited by it: HTTP and the members' frames
                // say how long they are, so a cut is seen there.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Poll::Ready(Ok(0)),
                read => return Poll::Ready(read),
            }
            if self.incoming.is_empty() {
                let fed = SCRATCH.with_borrow_mut(|scratch| {
                    let n = ready!(Pin::new(&mut *socket).poll_read(cx, scratch))?;
                    Poll::Ready(self.feed(&scratch[..n]).map(|()| n))
                });
                match ready!(fed) {
                    Ok(0) => return Poll::Ready(Ok(0)),
                    Ok(_) => {}
                    Err(error) => {
                        // The other side is told, if its socket takes it now.
                        self.collect();
                        let _told = self.poll_push(socket, cx);
                        return Poll::Ready(Err(error));
                    }
                }
            } else {
                let incoming = std::mem::take(&mut self.incoming);
                self.feed(&incoming)?;
            }
            if self.tls.wants_write() {
                // An answer to a change of keys. It may also go with the next write.
                self.collect();
                if let Poll::Ready(Err(error)) = self.poll_push(socket, cx) {
                    return Poll::Ready(Err(error));
                }
            }
        }
    }

    /// Takes records in, as many as there is room for.
    fn feed(&mut self, mut records: &[u8]) -> io::Result<()> {
        while !records.is_empty() {
            match self.tls.read_tls(&mut records) {
                // It has said that no more comes.
                Ok(0) => return Ok(()),
                Ok(_) => {}
                // What is decrypted has to be read first.
                Err(_) => {
                    self.incoming = records.to_vec();
                    return Ok(());
                }
            }
            self.tls
                .process_new_packets()
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        }
        Ok(())
    }

    /// Writes plain bytes. Pending: the same ones are to be offered again.
    pub(in crate::shell::net) fn poll_write(
        &mut self,
        socket: &mut TcpStream,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.taken == 0 {
            ready!(self.poll_push(socket, cx))?;
            self.taken = self.tls.writer().write(&bytes[..bytes.len().min(CHUNK_BYTES)])?;
            self.collect();
        }
        ready!(self.poll_push(socket, cx))?;
        assert!(self.taken <= bytes.len(), "a write that was pending offers the same bytes again");
        Poll::Ready(Ok(std::mem::take(&mut self.taken)))
    }

    /// Hands all records to the socket.
    pub(in crate::shell::net) fn poll_flush(
        &mut self,
        socket: &mut TcpStream,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_push(socket, cx))?;
        Pin::new(socket).poll_flush(cx)
    }

    /// Says that no more comes, and ends this direction of the socket.
    pub(in crate::shell::net) fn poll_close(
        &mut self,
        socket: &mut TcpStream,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.is_closing {
            self.is_closing = true;
            self.tls.send_close_notify();
            self.collect();
        }
        ready!(self.poll_push(socket, cx))?;
        Pin::new(socket).poll_close(cx)
    }

    /// Takes the records that wait in `tls`.
    fn collect(&mut self) {
        if self.outgoing.capacity() == 0 {
            self.outgoing = SPARE.take();
        }
        while self.tls.wants_write() {
            self.tls.write_tls(&mut self.outgoing).expect("memory takes all bytes");
        }
    }

    fn poll_push(&mut self, socket: &mut TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.outgoing.len() {
            match ready!(Pin::new(&mut *socket).poll_write(cx, &self.outgoing[self.sent..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => self.sent += n,
            }
        }
        self.sent = 0;
        if self.outgoing.capacity() != 0 {
            let mut own = std::mem::take(&mut self.outgoing);
            own.clear();
            SPARE.with_borrow_mut(|spare| {
                if spare.capacity() < own.capacity() && own.capacity() <= SPARE_BYTES_MAX {
                    *spare = own;
                }
            });
        }
        Poll::Ready(Ok(()))
    }
}
