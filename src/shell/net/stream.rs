//! A connected socket, whoever connected it: the one type that clients' and peers' bytes go through.
//!
//! What lies below the bytes is this file's business alone, so a front end or a lane does not know it: TCP or a unix
//! socket, with or without TLS.
//!
//! A write that was pending offers the same bytes again; see `tls::session`.

#![expect(unsafe_code, reason = "socket options that neither std nor the runtime offers")]

use std::io;
use std::mem::ManuallyDrop;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd as _, FromRawFd as _};
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_lite::io::{AsyncRead, AsyncWrite};
use glommio::net::TcpStream;

use super::remote::Remote;
use super::tls::Session;
use crate::config::Address;

/// Between two probes of a silent connection.
const PROBE_SECONDS: libc::c_int = 1;

/// A connected socket.
#[derive(Debug)]
pub(in crate::shell) struct Stream {
    /// The runtime's type for a stream socket of either family: it reads and writes both alike.
    socket: TcpStream,
    /// A unix socket, which has no options of TCP.
    is_unix: bool,
    /// Records between the socket and the bytes.
    session: Option<Box<Session>>,
    /// The common name in the certificate that the other side has shown, if that is to be a user's name.
    user: Option<Rc<str>>,
}

impl From<TcpStream> for Stream {
    fn from(socket: TcpStream) -> Self {
        Self { socket, is_unix: false, session: None, user: None }
    }
}

impl Stream {
    /// Over a unix socket.
    pub(super) fn of_unix(socket: TcpStream) -> Self {
        Self { is_unix: true, ..Self::from(socket) }
    }

    /// The same connection behind a handshake.
    pub(super) fn secured(self, session: Session, user: Option<Rc<str>>) -> Self {
        Self { session: Some(Box::new(session)), user, ..self }
    }

    /// Whether it is encrypted.
    pub(in crate::shell) fn is_secured(&self) -> bool {
        self.session.is_some()
    }

    /// The user that the other side's certificate names, maybe an empty one.
    pub(in crate::shell) fn user(&self) -> Option<&Rc<str>> {
        self.user.as_ref()
    }

    /// The other side: its address as people write it, or the process that has made the socket.
    ///
    /// # Errors
    /// When the connection has ended already.
    pub(in crate::shell) fn remote(&self) -> io::Result<Remote> {
        if self.is_unix {
            return self.process();
        }
        self.socket.peer_addr().map(|address| Remote::Ip(plain(address))).map_err(io::Error::from)
    }

    /// This side's address.
    ///
    /// # Errors
    /// When the connection has ended already.
    pub(in crate::shell) fn local(&self) -> io::Result<Address> {
        if self.is_unix {
            // SAFETY: the descriptor is open as long as `socket` is borrowed, and stays its own: nothing closes it
            // here.
            let socket = ManuallyDrop::new(unsafe { UnixStream::from_raw_fd(self.socket.as_raw_fd()) });
            let address = socket.local_addr()?;
            let path = address.as_pathname().unwrap_or("".as_ref()).to_string_lossy();
            return Ok(Address::Socket(path.as_ref().into()));
        }
        self.socket.local_addr().map(|address| Address::Ip(plain(address))).map_err(io::Error::from)
    }

    /// Who has made the other end of a unix socket.
    fn process(&self) -> io::Result<Remote> {
        let mut found = libc::ucred { pid: 0, uid: 0, gid: 0 };
        let mut length = libc::socklen_t::try_from(size_of_val(&found)).expect("three numbers are small");
        // SAFETY: the descriptor is open as long as `socket` is borrowed; the kernel writes at most `length` bytes of
        // `found`, which outlives the call.
        let result = unsafe {
            let found = std::ptr::from_mut(&mut found).cast();
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERCRED,
                found,
                &raw mut length,
            )
        };
        match result {
            0 => Ok(Remote::Process { user: found.uid, process: found.pid }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Sends small pieces at once. A unix socket does anyway.
    ///
    /// # Errors
    /// What the kernel answered.
    pub(in crate::shell) fn set_nodelay(&self) -> io::Result<()> {
        if self.is_unix {
            return Ok(());
        }
        self.socket.set_nodelay(true).map_err(io::Error::from)
    }

    /// Sets what a connection between members needs, so that a host that vanished is noticed. A process
    /// that ends closes its sockets, and that is heard at once. A host that loses power, or a network that
    /// swallows packets, says nothing: unacknowledged bytes and unanswered probes end the connection after
    /// `patience`, and so does a write that makes no progress. A unix socket has no network between its ends.
    ///
    /// # Errors
    /// What the kernel answered.
    pub(in crate::shell) fn expect_answers(&self, patience: Duration) -> io::Result<()> {
        self.socket.set_write_timeout(Some(patience)).map_err(io::Error::from)?;
        if self.is_unix {
            return Ok(());
        }
        self.set_nodelay()?;
        let idle = i32::try_from(patience.as_secs()).unwrap_or(i32::MAX).max(1);
        let millis = i32::try_from(patience.as_millis()).unwrap_or(i32::MAX).max(1);
        let tcp = libc::IPPROTO_TCP;
        for (level, option, value) in [
            (libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1),
            (tcp, libc::TCP_KEEPIDLE, idle),
            (tcp, libc::TCP_KEEPINTVL, PROBE_SECONDS),
            (tcp, libc::TCP_KEEPCNT, 3),
            (tcp, libc::TCP_USER_TIMEOUT, millis),
        ] {
            self.set(level, option, value)?;
        }
        Ok(())
    }

    /// Sends small pieces at once, and asks a silent other side now and then whether it is there: Go's defaults for
    /// every connection.
    ///
    /// # Errors
    /// What the kernel answered.
    pub(in crate::shell) fn keep_alive(&self) -> io::Result<()> {
        const SECONDS: libc::c_int = 15;
        const PROBES: libc::c_int = 9;
        if self.is_unix {
            return Ok(());
        }
        self.set_nodelay()?;
        let tcp = libc::IPPROTO_TCP;
        for (level, option, value) in [
            (libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1),
            (tcp, libc::TCP_KEEPIDLE, SECONDS),
            (tcp, libc::TCP_KEEPINTVL, SECONDS),
            (tcp, libc::TCP_KEEPCNT, PROBES),
        ] {
            self.set(level, option, value)?;
        }
        Ok(())
    }

    /// Bounds how long a read may wait; None for ever.
    ///
    /// # Errors
    /// For a time of zero.
    pub(in crate::shell) fn set_read_timeout(&self, patience: Option<Duration>) -> io::Result<()> {
        self.socket.set_read_timeout(patience).map_err(io::Error::from)
    }

    /// Ends both directions. Whoever waits to read or write is woken by it.
    pub(in crate::shell) fn shut(&self) {
        // SAFETY: the descriptor is open as long as `socket` is borrowed. The answer does not matter: the
        // connection may have ended already.
        unsafe { libc::shutdown(self.socket.as_raw_fd(), libc::SHUT_RDWR) };
    }

    /// Tells the other side that no more comes, and still hears it.
    pub(in crate::shell) fn shut_write(&self) {
        // SAFETY: as above.
        unsafe { libc::shutdown(self.socket.as_raw_fd(), libc::SHUT_WR) };
    }

    /// Whether the kernel has sent bytes again, twice at least, and has heard nothing at all since the first time:
    /// some 600 ms on a short way. A reader that is only slow, or drops what it has no room for, does acknowledge
    /// what is sent again. False where it cannot be told.
    pub(in crate::shell) fn is_unheard(&self) -> bool {
        // The head of `tcp_info`: retransmissions without progress, and milliseconds since data was sent last and
        // since anything was acknowledged last.
        const RETRANSMITS: usize = 2;
        const LAST_DATA_SENT: usize = 44;
        const LAST_ACK_RECEIVED: usize = 56;
        const RETRANSMITS_MIN: u8 = 2;
        /// An answer to what was sent again comes sooner.
        const ANSWER_MS: u32 = 100;
        let mut info = [0_u8; 60];
        let mut length = libc::socklen_t::try_from(info.len()).expect("sixty is small");
        // SAFETY: the descriptor is open as long as `socket` is borrowed; the kernel writes at most `length` bytes
        // into `info`, and both live until the call returns.
        let result = unsafe {
            let (info, length) = (info.as_mut_ptr().cast(), std::ptr::from_mut(&mut length));
            libc::getsockopt(self.socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, info, length)
        };
        #[expect(clippy::host_endian_bytes, reason = "the kernel's own words")]
        let word = |at: usize| u32::from_ne_bytes([info[at], info[at + 1], info[at + 2], info[at + 3]]);
        result == 0
            && usize::try_from(length) == Ok(info.len())
            && RETRANSMITS_MIN <= info[RETRANSMITS]
            && word(LAST_DATA_SENT).saturating_add(ANSWER_MS) <= word(LAST_ACK_RECEIVED)
    }

    fn set(&self, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
        let length = libc::socklen_t::try_from(size_of_val(&value)).expect("an int is small");
        // SAFETY: the descriptor is open as long as `socket` is borrowed; the kernel reads `length` bytes
        // of `value`, which lives until the call returns.
        let result = unsafe {
            let value = std::ptr::from_ref(&value).cast();
            libc::setsockopt(self.socket.as_raw_fd(), level, option, value, length)
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

/// An address of IPv4 on a socket for both families is one of IPv4.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let Self { socket, session, .. } = self.get_mut();
        match session {
            Some(session) => session.poll_read(socket, cx, into),
            None => Pin::new(socket).poll_read(cx, into),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Self { socket, session, .. } = self.get_mut();
        match session {
            Some(session) => session.poll_write(socket, cx, bytes),
            None => Pin::new(socket).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { socket, session, .. } = self.get_mut();
        match session {
            Some(session) => session.poll_flush(socket, cx),
            None => Pin::new(socket).poll_flush(cx),
        }
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { socket, session, .. } = self.get_mut();
        match session {
            Some(session) => session.poll_close(socket, cx),
            None => Pin::new(socket).poll_close(cx),
        }
    }
}
