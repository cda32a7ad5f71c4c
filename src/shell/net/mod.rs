//! Sockets, whatever is spoken on them: listeners, connections that were accepted or dialed, and where
//! names lead.

pub(in crate::shell) mod addresses;
mod dial;
pub(in crate::shell) mod listen;
mod resolve;
mod stream;
mod within;

pub(in crate::shell) use dial::Dialer;
pub(in crate::shell) use stream::Stream;
pub(in crate::shell) use within::{TimedOut, within};
