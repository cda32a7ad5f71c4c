//! Options of a peer connection's socket, so that a host that vanished is noticed.
//!
//! A process that ends closes its sockets, and that is heard at once. A host that loses power, or a
//! network that swallows packets, says nothing: unacknowledged bytes and unanswered probes end the
//! connection then.

#![expect(unsafe_code, reason = "socket options that neither std nor the runtime offers")]

use std::io;
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use glommio::net::TcpStream;

/// Between two probes of a silent connection.
const PROBE_SECONDS: libc::c_int = 1;

/// Sets what a peer connection needs. `patience`: how long a host may be silent that ought to answer.
pub(super) fn prepare(stream: &TcpStream, patience: Duration) -> io::Result<()> {
    stream.set_nodelay(true).map_err(io::Error::from)?;
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
        set(stream, level, option, value)?;
    }
    Ok(())
}

fn set(stream: &TcpStream, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of_val(&value)).expect("an int is small");
    // SAFETY: the descriptor is open as long as `stream` is borrowed; the kernel reads `length` bytes
    // of `value`, which lives until the call returns.
    let result = unsafe {
        libc::setsockopt(stream.as_raw_fd(), level, option, std::ptr::from_ref(&value).cast(), length)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Ends both directions. Whoever waits to read or write is woken by it.
pub(super) fn shut(stream: &TcpStream) {
    // SAFETY: the descriptor is open as long as `stream` is borrowed. The answer does not matter: the
    // connection may have ended already.
    unsafe { libc::shutdown(stream.as_raw_fd(), libc::SHUT_RDWR) };
}

/// Tells the other side that no more comes, and still hears it.
pub(super) fn shut_write(stream: &TcpStream) {
    // SAFETY: as above.
    unsafe { libc::shutdown(stream.as_raw_fd(), libc::SHUT_WR) };
}
