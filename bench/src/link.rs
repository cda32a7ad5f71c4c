//! One connection with its socket: moves bytes between HTTP/2's state and TCP, through TLS if the endpoint has it.
//!
//! Invariants: nothing here blocks once connected; `written` never passes the bytes that wait.
//! Cost: one write takes all that waits, one read brings all that came; by TLS in pieces of 64 KiB, what rustls holds.

use std::io::{ErrorKind, Read, Write};
use std::time::Duration;

use mio::net::TcpStream;
use rustls::ClientConnection;

use crate::client::{ClientError, Endpoint};
use crate::http2::{Connection, ConnectionError, Sink};
use crate::secure;
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
    /// Bytes of `connection.out` that the socket, or TLS, has taken.
    written: usize,
    tls: Option<Box<Tls>>,
}

/// A session, and room for what a read brings.
#[derive(Debug)]
struct Tls {
    session: ClientConnection,
    raw: Vec<u8>,
}

impl Link {
    /// Connects, blocking until TCP and TLS have; the greeting is sent by the first `flush`.
    pub(crate) fn connect(
        endpoint: &Endpoint,
        connection: Connection,
        clock: Clock,
    ) -> Result<Self, ClientError> {
        let address = endpoint.address;
        let connect = || -> std::io::Result<(TcpStream, Option<Box<Tls>>)> {
            let mut stream = std::net::TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)?;
            stream.set_nodelay(true)?;
            let mut tls = None;
            if let Some(config) = &endpoint.tls {
                stream.set_read_timeout(Some(CONNECT_TIMEOUT))?;
                let mut session = secure::begin(config, endpoint)?;
                while session.is_handshaking() {
                    session.complete_io(&mut stream)?;
                }
                tls = Some(Box::new(Tls { session, raw: vec![0; READ_BYTES] }));
            }
            stream.set_nonblocking(true)?;
            Ok((TcpStream::from_std(stream), tls))
        };
        let (stream, tls) = connect().map_err(|source| ClientError::Connect { address, source })?;
        Ok(Self { connection, stream, is_blocked: false, born_ns: clock.now_ns(), written: 0, tls })
    }

    /// Bytes that the socket has not taken.
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.connection.out.len() - self.written
    }

    pub(crate) fn flush(&mut self) -> Result<(), String> {
        if self.tls.is_some() {
            return self.flush_tls();
        }
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

    fn flush_tls(&mut self) -> Result<(), String> {
        let Some(tls) = &mut self.tls else { return Ok(()) };
        let session = &mut tls.session;
        while !self.is_blocked && (session.wants_write() || self.written < self.connection.out.len()) {
            // It takes as much as it may hold.
            let waiting = &self.connection.out[self.written..];
            self.written += session.writer().write(waiting).map_err(|error| error.to_string())?;
            match session.write_tls(&mut self.stream) {
                Ok(_) => {}
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

    /// Hands on what TLS has decrypted.
    fn take_decrypted(
        connection: &mut Connection,
        session: &mut ClientConnection,
        buffer: &mut [u8],
        sink: &mut impl Sink,
    ) -> Result<(), String> {
        loop {
            match session.reader().read(buffer) {
                Ok(0) => return Err("the server closed the connection".to_owned()),
                Ok(length) => {
                    let received = connection.receive(&buffer[..length], sink);
                    received.map_err(|error: ConnectionError| error.to_string())?;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.to_string()),
            }
        }
    }

    fn read_tls(
        &mut self,
        buffer: &mut [u8],
        reads_max: u32,
        clock: Clock,
        sink: &mut impl Sink,
    ) -> Result<bool, String> {
        let Some(Tls { session, raw }) = self.tls.as_deref_mut() else { return Ok(true) };
        // Bytes that came with the end of the handshake.
        Self::take_decrypted(&mut self.connection, session, buffer, sink)?;
        let mut reads = 0;
        while reads < reads_max {
            match self.stream.read(raw) {
                Ok(0) => return Err("the server closed the connection".to_owned()),
                Ok(length) => {
                    sink.on_time(clock.now_ns());
                    let mut rest = &raw[..length];
                    while !rest.is_empty() {
                        session.read_tls(&mut rest).map_err(|error| error.to_string())?;
                        session.process_new_packets().map_err(|error| error.to_string())?;
                        Self::take_decrypted(&mut self.connection, session, buffer, sink)?;
                    }
                    if length < raw.len() {
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

    /// Reads what has come, `reads_max` times at most. True when the socket is empty: epoll tells of more.
    /// A read that does not fill the buffer has emptied it, so the call that would only say so is saved.
    pub(crate) fn read(
        &mut self,
        buffer: &mut [u8],
        reads_max: u32,
        clock: Clock,
        sink: &mut impl Sink,
    ) -> Result<bool, String> {
        if self.tls.is_some() {
            return self.read_tls(buffer, reads_max, clock, sink);
        }
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
