//! Listening sockets, for clients and for peers.

#![expect(unsafe_code, reason = "the runtime takes a listener with options of its own only as a descriptor")]

use std::io;
use std::net::SocketAddr;
use std::os::fd::{FromRawFd as _, IntoRawFd as _};

use glommio::net::TcpListener;
use socket2::{Domain, Protocol, Socket, Type};

/// Connections that the kernel completes before they are accepted; it takes less where
/// `net.core.somaxconn` is lower.
const BACKLOG: i32 = 1024;

/// Listens on `address`. Listeners of one process share an address, and the kernel spreads connections.
///
/// Sharing also works between processes of one user, so whoever starts the member first asks whether
/// somebody listens there. Connections that have ended do not keep the address from anybody: without
/// `SO_REUSEADDR`, which the runtime's own `bind` leaves out, no other program could listen there for a
/// minute after this one.
///
/// # Errors
/// What the kernel answered.
pub(in crate::shell) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    // SAFETY: the descriptor is open, listens, and has no other owner.
    Ok(unsafe { TcpListener::from_raw_fd(socket.into_raw_fd()) })
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn an_address_is_shared_while_in_use_and_free_for_anybody_right_after() {
        glommio::LocalExecutorBuilder::default().make().unwrap().run(async {
            let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
            let address = listener.local_addr().unwrap();
            drop(bind(address).unwrap());
            let mut client = std::net::TcpStream::connect(address).unwrap();
            // Whoever closes first has the connection linger.
            drop(listener.accept().await.unwrap());
            assert_eq!(client.read(&mut [0]).unwrap(), 0);
            drop((client, listener));
            std::net::TcpListener::bind(address).unwrap();
        });
    }
}
