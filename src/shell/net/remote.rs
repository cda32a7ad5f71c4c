//! The other side of a connection.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// Who is at the other side, as far as the kernel knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::shell) enum Remote {
    Ip(SocketAddr),
    /// A process of this host, by a unix socket. The process is 0 if it is of another namespace.
    Process {
        user: u32,
        process: i32,
    },
}

impl Remote {
    /// Its host's address; None: a unix socket has none.
    pub(in crate::shell) fn ip(self) -> Option<IpAddr> {
        match self {
            Self::Ip(address) => Some(address.ip()),
            Self::Process { .. } => None,
        }
    }

    /// Whom its load is counted for.
    pub(in crate::shell) fn party(self) -> Party {
        match self {
            Self::Ip(address) => Party::Host(address.ip()),
            Self::Process { user, .. } => Party::User(user),
        }
    }
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Process { user, process } => write!(f, "unix:uid={user},pid={process}"),
        }
    }
}

/// Whose connections are counted together: those of a host, or of a user of this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::shell) enum Party {
    Host(IpAddr),
    User(u32),
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(ip) => ip.fmt(f),
            Self::User(user) => write!(f, "unix:uid={user}"),
        }
    }
}
