//! One connection with its socket: moves bytes between HTTP/2's state and TCP.
//!
//! Invariants: nothing here blocks once connected; `written` never passes the bytes that wait.
//! Cost: one write takes all that waits, one read brings all that came.

use std::io::{ErrorKind, Read, Write};
use std::time::Duration;

use mio::net::TcpStream;

use crate::client::{ClientError, Endpoint};
use crate::http2::{Connection, ConnectionError, Sink};
use crate::sys::Clock;

/// What one read takes at most.
pub(crate) const READ_BYTES: usize = 256 * 1024;
/// Stop opening calls while this much waits for the socket.
pub(crate) const OUT_BYTES_MAX: usize = 1 << 20;
/// How long a TCP connection and the server's first SETTINGS may take.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection with its socket.
#[derive(Debug)]
pub(crate) struct Link {
    pub connection: Connection,
    pub stream: TcpStream,
    /// The socket is full: wait until epoll says otherwise.
    pub is_blocked: bool,
    /// When the connection was asked for: the server's greeting is due soon after.
    pub born_ns: u64,
    /// Bytes of `connection.out` that the socket has taken.
    written: usize,
}

impl Link {
    /// Connects, blocking until TCP has; the greeting is sent by the first `flush`.
    pub(crate) fn connect(
        endpoint: &Endpoint,
        connection: Connection,
        clock: Clock,
    ) -> Result<Self, ClientError> {
        let address = endpoint.address;
        let connect = || -> std::io::Result<TcpStream> {
            let stream = std::net::TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            Ok(TcpStream::from_std(stream))
        };
        let stream = connect().map_err(|source| ClientError::Connect { address, source })?;
        Ok(Self { connection, stream, is_blocked: false, born_ns: clock.now_ns(), written: 0 })
    }

    /// Bytes that the socket has not taken.
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.connection.out.len() - self.written
    }

    pub(crate) fn flush(&mut self) -> Result<(), String> {
        while !self.is_blocked && self.written < self.connection.out.len() {
            match self.stream.write(&self.connection.out[self.written..]) {
                Ok(written) => self.written += written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.is_blocked = true,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.to_string()),
            }
        }
        if self.written == self.connection.out.len() {
            self.connection.out.clear();
            self.written = 0;
        }
        Ok(())
    }

    /// Reads what has come, `reads_max` times at most. True when the socket is empty: epoll tells of more.
    /// A read that does not fill the buffer has emptied it, so the call that would only say so is saved.
    pub(crate) fn read(
        &mut self,
        buffer: &mut [u8],
        reads_max: u32,
        clock: Clock,
        sink: &mut impl Sink,
    ) -> Result<bool, String> {
        let mut reads = 0;
        while reads < reads_max {
            match self.stream.read(buffer) {
                Ok(0) => return Err("the server closed the connection".to_owned()),
                Ok(length) => {
                    sink.on_time(clock.now_ns());
                    let received = self.connection.receive(&buffer[..length], sink);
                    received.map_err(|error: ConnectionError| error.to_string())?;
                    if length < buffer.len() {
                        return Ok(true);
                    }
                    reads += 1;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.to_string()),
            }
        }
        Ok(false)
    }
}
