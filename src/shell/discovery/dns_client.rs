//! Asking the servers of `/etc/resolv.conf` for SRV records, which the C library's portable interface
//! does not know.
//!
//! By UDP, and by TCP where the answer is too long for it. A socket is connected to the server that it
//! asks, so the kernel drops what others send; ids come from the system's randomness, and so do ports.
//! Bounds: an answer is 64 KiB at most, a wait as long as resolv.conf says, and all of it ends at the
//! deadline. Blocking sockets: no executor runs yet.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use crate::discovery::MEMBERS_MAX;
use crate::discovery::dns::{Query, SrvAnswer, SrvRecord, UDP_BYTES_MAX};
use crate::discovery::resolv_conf::ResolvConf;

const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Waits are cut into pieces of this length, so that a signal is noticed.
const SLICE: Duration = Duration::from_millis(100);

/// Datagrams that are no answer to the question and are passed over, one question.
const STRAY_MAX: usize = 1_000;

/// Why nobody knows whether there are records.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::shell) enum DnsError {
    #[error("{name} is too long for a DNS name")]
    Name { name: String },
    #[error("{0}")]
    Unanswered(String),
    #[error("stopped while asking DNS")]
    Interrupted,
}

/// One search, up to its deadline.
pub(super) struct DnsClient<'a> {
    conf: ResolvConf,
    deadline: Instant,
    is_interrupted: &'a dyn Fn() -> bool,
}

impl<'a> DnsClient<'a> {
    /// Asks as this host is configured.
    ///
    /// # Errors
    /// If the configuration is there and cannot be read.
    pub(super) fn new(deadline: Instant, is_interrupted: &'a dyn Fn() -> bool) -> io::Result<Self> {
        let conf = match std::fs::read(RESOLV_CONF) {
            Ok(bytes) => ResolvConf::parse(&String::from_utf8_lossy(&bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => ResolvConf::default(),
            Err(error) => return Err(error),
        };
        Ok(Self { conf, deadline, is_interrupted })
    }

    /// The records of `name`; none if a server says that there are none.
    ///
    /// # Errors
    /// [`DnsError`], when no server says anything that counts.
    pub(super) fn srv(&self, name: &str) -> Result<Vec<SrvRecord>, DnsError> {
        for candidate in self.conf.candidates(name) {
            let records = self.srv_of(&candidate)?;
            if !records.is_empty() {
                return Ok(records);
            }
        }
        Ok(Vec::new())
    }

    fn srv_of(&self, name: &str) -> Result<Vec<SrvRecord>, DnsError> {
        let mut failures = Vec::new();
        for _ in 0..self.conf.attempts {
            failures.clear();
            for &server in &self.conf.servers {
                if self.deadline <= Instant::now() {
                    break;
                }
                match self.ask(server, name) {
                    Ok(SrvAnswer::Records(records)) => return Ok(records),
                    Ok(SrvAnswer::Absent) => return Ok(Vec::new()),
                    Ok(SrvAnswer::Failed(reason)) => failures.push(format!("{server}: {reason}")),
                    Ok(other) => failures.push(format!("{server}: {other:?} where nothing more can be done")),
                    Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                        return Err(DnsError::Name { name: name.to_owned() });
                    }
                    Err(error) => failures.push(format!("{server}: {error}")),
                }
                if (self.is_interrupted)() {
                    return Err(DnsError::Interrupted);
                }
            }
        }
        if failures.is_empty() {
            failures.push("no time is left".to_owned());
        }
        Err(DnsError::Unanswered(format!("{name}: {}", failures.join("; "))))
    }

    /// One server's answer, however it is to be asked.
    fn ask(&self, server: SocketAddr, name: &str) -> io::Result<SrvAnswer> {
        let mut has_edns = true;
        let mut is_tcp = self.conf.tcp;
        loop {
            let query = Query::new(name, random()?, has_edns).ok_or(io::ErrorKind::InvalidInput)?;
            let until = self.deadline.min(Instant::now() + self.conf.timeout);
            let answer = if is_tcp {
                self.ask_tcp(server, &query, until)?
            } else {
                self.ask_udp(server, &query, until)?
            };
            match answer {
                SrvAnswer::Truncated if !is_tcp => is_tcp = true,
                SrvAnswer::NoEdns if has_edns => has_edns = false,
                answer => return Ok(answer),
            }
        }
    }

    fn ask_udp(&self, server: SocketAddr, query: &Query, until: Instant) -> io::Result<SrvAnswer> {
        let any = match server {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect(server)?;
        socket.send(&query.encode())?;
        // Longer ones are cut by the kernel, and then are no answer.
        let mut bytes = [0; UDP_BYTES_MAX as usize];
        for _ in 0..STRAY_MAX {
            socket.set_read_timeout(Some(self.slice(until)?))?;
            match socket.recv(&mut bytes) {
                Ok(length) => match query.read(&bytes[..length], MEMBERS_MAX) {
                    SrvAnswer::NotOurs => {}
                    answer => return Ok(answer),
                },
                Err(error) if is_pause(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::other("it sends nothing but what was not asked for"))
    }

    fn ask_tcp(&self, server: SocketAddr, query: &Query, until: Instant) -> io::Result<SrvAnswer> {
        let left = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        let mut stream = TcpStream::connect_timeout(&server, left)?;
        stream.set_write_timeout(Some(left))?;
        let message = query.encode();
        let length = u16::try_from(message.len()).expect("a name has 255 bytes at most");
        stream.write_all(&[&length.to_be_bytes()[..], &message].concat())?;
        let mut length = [0; 2];
        self.read_exact(&mut stream, &mut length, until)?;
        let mut bytes = vec![0; usize::from(u16::from_be_bytes(length))];
        self.read_exact(&mut stream, &mut bytes, until)?;
        Ok(match query.read(&bytes, MEMBERS_MAX) {
            SrvAnswer::NotOurs => SrvAnswer::Failed("it answers another question".to_owned()),
            SrvAnswer::Truncated => SrvAnswer::Failed("its answer is cut even by TCP".to_owned()),
            answer => answer,
        })
    }

    fn read_exact(&self, stream: &mut TcpStream, mut into: &mut [u8], until: Instant) -> io::Result<()> {
        while !into.is_empty() {
            stream.set_read_timeout(Some(self.slice(until)?))?;
            match stream.read(into) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => into = &mut into[read..],
                Err(error) if is_pause(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// How long to wait at a stretch.
    fn slice(&self, until: Instant) -> io::Result<Duration> {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time"));
        }
        if (self.is_interrupted)() {
            return Err(io::Error::other("stopped"));
        }
        Ok(left.min(SLICE))
    }
}

/// The wait is over and nothing has come; it may go on.
fn is_pause(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}

fn random() -> io::Result<u16> {
    let mut bytes = [0; 2];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u16::from_le_bytes(bytes))
}

#[cfg(test)]
#[path = "dns_client_tests.rs"]
mod tests;
