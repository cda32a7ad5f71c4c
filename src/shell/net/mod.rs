//! Sockets, whatever is spoken on them: listeners, connections that were accepted or dialed, where names
//! lead, and what strangers may have the log say.

pub(in crate::shell) mod addresses;
mod dial;
mod h2_socket;
pub(in crate::shell) mod listen;
mod own_address;
pub(in crate::shell) mod quiet;
mod remote;
mod resolve;
mod socket_file;
mod stream;
pub(in crate::shell) mod tls;
mod within;

pub(in crate::shell) use dial::Dialer;
pub(in crate::shell) use h2_socket::H2Socket;
pub(in crate::shell) use own_address::is_own;
pub(in crate::shell) use remote::{Party, Remote};
pub(in crate::shell) use resolve::KnownAddresses;
pub(in crate::shell) use stream::Stream;
pub(in crate::shell) use within::{TimedOut, within};
