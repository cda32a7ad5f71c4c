//! Sockets, whatever is spoken on them: listeners, and where names lead.

pub(in crate::shell) mod addresses;
pub(in crate::shell) mod listen;
