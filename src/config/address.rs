//! Where a socket is bound, or a connection leads to.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

/// An address of the network, or a socket's file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Address {
    Ip(SocketAddr),
    /// The path as it was given: a relative one is seen from the working directory.
    Socket(Arc<str>),
}

impl Address {
    /// The URL that leads there.
    #[must_use]
    pub fn url(&self, is_tls: bool) -> String {
        let scheme = match (self, is_tls) {
            (Self::Ip(_), false) => "http",
            (Self::Ip(_), true) => "https",
            (Self::Socket(_), false) => "unix",
            (Self::Socket(_), true) => "unixs",
        };
        format!("{scheme}://{self}")
    }

    /// Whether binding both would fail, or would split one address's connections between two services.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Ip(a), Self::Ip(b)) => {
                let is_same_ip = a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified();
                a.port() == b.port() && is_same_ip
            }
            (Self::Socket(a), Self::Socket(b)) => a == b,
            _ => false,
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Ip(address)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Socket(path) => path.fmt(f),
        }
    }
}
