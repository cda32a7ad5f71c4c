//! Whether an address leads back to this process.

use std::net::{IpAddr, SocketAddr, UdpSocket};

/// Whether a connection to `address` would come back to whoever listens at `listen`.
pub(in crate::shell) fn is_own(address: SocketAddr, listen: SocketAddr) -> bool {
    if address.port() != listen.port() {
        return false;
    }
    let (address, listen) = (address.ip().to_canonical(), listen.ip().to_canonical());
    // Only an address of this host can be bound.
    let is_of_host = |ip: IpAddr| UdpSocket::bind((ip, 0)).is_ok();
    address == listen || address.is_unspecified() || (listen.is_unspecified() && is_of_host(address))
}
