//! Listening sockets, for clients and for peers: of TCP, and of unix, whose file `socket_file` looks after.
//!
//! A member holds its addresses from its start on, before anything is on its disk, and listens on each
//! when it can serve there. Nobody else can take a held address. A client that comes meanwhile is refused
//! by the kernel and tries its next endpoint, where a listener that does not accept would let it wait.
//!
//! No address is shared by `SO_REUSEPORT` unless that was asked for: any process of the same user could
//! join, and the kernel would spread clients over two members. `client/reception.rs` spreads connections
//! over the shards of one process.
//!
//! Compatibility: the wildcard of IPv4 takes IPv6 too, as Go's does.

#![expect(unsafe_code, reason = "the runtime takes a listener with options of its own only as a descriptor")]

use std::io;
use std::net::{IpAddr, Ipv6Addr, Shutdown, SocketAddr};
use std::os::fd::{FromRawFd as _, IntoRawFd as _};
use std::time::{Duration, Instant};

use glommio::net::{AcceptedTcpStream, TcpListener};
use socket2::{Domain, Protocol, Socket, Type};

use super::socket_file::{self, SocketFile};
use super::stream::Stream;
use crate::config::Address;

/// Connections that the kernel completes before they are accepted; it takes less where
/// `net.core.somaxconn` is lower.
const BACKLOG: i32 = 1024;

/// How long a taken address may take to become free. The kernel closes the sockets of a killed process
/// a moment after its end, when its rings are torn down; a restart comes sooner.
const PATIENCE: Duration = Duration::from_secs(2);

/// Between two attempts, at least.
const RETRY: Duration = Duration::from_millis(20);

/// An address that this process holds and does not listen on yet.
#[derive(Debug)]
pub(in crate::shell) struct Held {
    address: Address,
    /// Goes before the socket does, so nobody finds a file that leads nowhere.
    file: Option<SocketFile>,
    socket: Socket,
}

impl Held {
    /// As it was asked for.
    pub(in crate::shell) fn address(&self) -> &Address {
        &self.address
    }

    /// Listens from now on. On an executor, which accepts.
    ///
    /// # Errors
    /// What the kernel answered.
    pub(in crate::shell) fn listen(self) -> io::Result<Listening> {
        if self.file.is_none() {
            // Or else connections that ended lately on this port would count as somebody who holds it.
            self.socket.set_reuse_address(true)?;
        }
        self.socket.listen(BACKLOG)?;
        // SAFETY: the descriptor is open, listens, and has no other owner.
        let socket = unsafe { TcpListener::from_raw_fd(self.socket.into_raw_fd()) };
        Ok(Listening { file: self.file, socket })
    }
}

/// An address that is listened on, on one executor. Dropped, it is free, and a socket's file is gone.
#[derive(Debug)]
pub(in crate::shell) struct Listening {
    file: Option<SocketFile>,
    /// The runtime's type for a socket of either family that listens.
    socket: TcpListener,
}

impl Listening {
    /// The next connection.
    ///
    /// # Errors
    /// What the kernel answered.
    pub(in crate::shell) async fn accept(&self) -> io::Result<Accepted> {
        let socket = self.socket.shared_accept().await.map_err(io::Error::from)?;
        Ok(Accepted { socket, is_unix: self.file.is_some() })
    }

    /// Where that is.
    #[cfg(test)]
    pub(in crate::shell) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr().map_err(io::Error::from)
    }
}

/// A connection that is on no executor yet.
#[derive(Debug)]
pub(in crate::shell) struct Accepted {
    socket: AcceptedTcpStream,
    is_unix: bool,
}

impl Accepted {
    /// On this executor from now on.
    pub(in crate::shell) fn bind_to_executor(self) -> Stream {
        let socket = self.socket.bind_to_executor();
        if self.is_unix { Stream::of_unix(socket) } else { Stream::from(socket) }
    }
}

/// Holds `address`. `reuse_port`: together with any process of this user that asks for the same; a unix socket is
/// nobody else's in any case.
///
/// # Errors
/// `AddrInUse` when somebody has it and keeps it; what else the kernel answered.
pub(in crate::shell) fn hold(address: &Address, reuse_port: bool) -> io::Result<Held> {
    let deadline = Instant::now() + PATIENCE;
    // Two that start in the same moment may turn each other away, so they must not try in step.
    let retry = RETRY + Duration::from_micros(u64::from(std::process::id()) * 7_919 % 20_000);
    loop {
        let bound = match address {
            Address::Ip(ip) => bind(*ip, reuse_port).and_then(hold_bound).map(|socket| (socket, None)),
            Address::Socket(path) => socket_file::bind(path).map(|(socket, file)| (socket, Some(file))),
        };
        match bound {
            Ok((socket, file)) => return Ok(Held { address: address.clone(), file, socket }),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                std::thread::sleep(retry);
            }
            Err(error) => return Err(error),
        }
    }
}

/// Binds `address`, or what stands for it on this host.
fn bind(address: SocketAddr, reuse_port: bool) -> io::Result<Socket> {
    let is_missing = |error: &io::Error| {
        matches!(
            error.raw_os_error(),
            Some(libc::EAFNOSUPPORT | libc::EPROTONOSUPPORT | libc::EADDRNOTAVAIL | libc::ENOPROTOOPT)
        )
    };
    if address.is_ipv4() && address.ip().is_unspecified() {
        let both = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), address.port());
        match bind_one(both, reuse_port) {
            // A host without IPv6.
            Err(error) if is_missing(&error) => {}
            other => return other,
        }
    }
    bind_one(address, reuse_port)
}

fn bind_one(address: SocketAddr, reuse_port: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        // Whatever `net.ipv6.bindv6only` says.
        socket.set_only_v6(false)?;
    }
    // Connections that have ended do not keep the address from anybody: without this no program could
    // listen there for a minute after this one.
    socket.set_reuse_address(true)?;
    if reuse_port {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Makes a bound address this process's own, without listening.
///
/// With `SO_REUSEADDR` an address may be bound by many, but only one of them may listen: so this listens,
/// withdraws the option, under which from then on nobody else may even bind, and ends listening. The
/// kernel keeps the address of a socket that was bound to it on purpose. Whoever connects in between is
/// reset.
fn hold_bound(socket: Socket) -> io::Result<Socket> {
    socket.listen(1)?;
    socket.set_reuse_address(false)?;
    socket.shutdown(Shutdown::Read)?;
    Ok(socket)
}

/// Listens on `address` at once.
///
/// # Errors
/// What the kernel answered.
#[cfg(test)]
pub(in crate::shell) fn listen(address: SocketAddr) -> io::Result<Listening> {
    // The kernel keeps no port that it has chosen itself when a socket ends listening, so nothing is held.
    let socket = bind(address, false)?;
    Held { address: address.into(), file: None, socket }.listen()
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::net::{Ipv4Addr, TcpStream};

    use super::*;
    use crate::shell::net::Remote;

    const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn on_an_executor<T>(work: impl Future<Output = T>) -> T {
        glommio::LocalExecutorBuilder::default().make().unwrap().run(work)
    }

    /// A port that is free, and that the kernel gives to nobody who does not ask for it.
    fn free_port() -> u16 {
        let start = 2_400 + u16::try_from(std::process::id() % 1_500).unwrap();
        let is_free = |port: &u16| std::net::TcpListener::bind((Ipv6Addr::UNSPECIFIED, *port)).is_ok();
        static TAKEN: std::sync::atomic::AtomicU16 = std::sync::atomic::AtomicU16::new(0);
        let next = || start + TAKEN.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        std::iter::repeat_with(next).find(is_free).unwrap()
    }

    fn is_in_use<T>(result: io::Result<T>) -> bool {
        result.is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse)
    }

    /// What another process of the same user may try.
    fn join(address: SocketAddr) -> io::Result<Socket> {
        let socket = bind_one(address, true)?;
        socket.listen(1)?;
        Ok(socket)
    }

    #[test]
    fn a_held_address_refuses_clients_and_everybody_who_would_share_it() {
        on_an_executor(async {
            let address = SocketAddr::new(LOCAL, free_port());
            let held = hold(&address.into(), false).unwrap();
            let refused = TcpStream::connect(address).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
            let anywhere = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), address.port());
            let both = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), address.port());
            for address in [address, anywhere, both] {
                assert!(is_in_use(bind(address, false).and_then(hold_bound)), "{address} while held");
                assert!(is_in_use(join(address)), "{address} by SO_REUSEPORT while held");
            }
            let listener = held.listen().unwrap();
            for address in [address, anywhere, both] {
                assert!(is_in_use(bind(address, false).and_then(hold_bound)), "{address} while served");
                assert!(is_in_use(join(address)), "{address} by SO_REUSEPORT while served");
            }
            drop(TcpStream::connect(address).unwrap());
            drop(listener);
        });
    }

    #[test]
    fn an_address_is_shared_where_both_ask_for_it() {
        on_an_executor(async {
            let address = SocketAddr::new(LOCAL, free_port());
            let first = hold(&address.into(), true).unwrap();
            let second = hold(&address.into(), true).unwrap();
            assert!(is_in_use(bind(address, false).and_then(hold_bound)), "a third that does not ask");
            drop((first.listen().unwrap(), second.listen().unwrap()));
        });
    }

    #[test]
    fn an_address_is_free_for_anybody_right_after_its_last_connection() {
        on_an_executor(async {
            let address = SocketAddr::new(LOCAL, free_port());
            let listener = hold(&address.into(), false).unwrap().listen().unwrap();
            let mut client = TcpStream::connect(address).unwrap();
            // Whoever closes first has the connection linger.
            drop(listener.accept().await.unwrap().bind_to_executor());
            assert_eq!(client.read(&mut [0]).unwrap(), 0);
            drop((client, listener));
            drop(std::net::TcpListener::bind(address).unwrap());
            drop(hold(&address.into(), false).unwrap().listen().unwrap());
        });
    }

    #[test]
    fn the_wildcard_of_ipv4_takes_ipv6_too() {
        on_an_executor(async {
            let port = free_port();
            let anywhere = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port);
            let listener = hold(&anywhere.into(), false).unwrap();
            let listener = listener.listen().unwrap();
            let four = TcpStream::connect((LOCAL, port)).unwrap();
            let accepted = listener.accept().await.unwrap();
            let remote = accepted.bind_to_executor().remote().unwrap();
            assert_eq!(remote, Remote::Ip(four.local_addr().unwrap()), "named as people write it");
            TcpStream::connect((Ipv6Addr::LOCALHOST, port)).unwrap();
        });
    }
}
