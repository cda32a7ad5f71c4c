//! Heads of HTTP/2 frames, as far as the meter looks at them.

/// Frame types, by their numbers on the wire.
pub(in crate::shell::client) mod kind {
    pub(in crate::shell::client) const DATA: u8 = 0;
    pub(in crate::shell::client) const HEADERS: u8 = 1;
    pub(in crate::shell::client) const RST_STREAM: u8 = 3;
    pub(in crate::shell::client) const PING: u8 = 6;
    pub(in crate::shell::client) const GO_AWAY: u8 = 7;
    pub(in crate::shell::client) const CONTINUATION: u8 = 9;
}

/// A frame's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::shell::client) struct Head {
    pub(in crate::shell::client) length: u32,
    pub(in crate::shell::client) kind: u8,
    pub(in crate::shell::client) flags: u8,
    pub(in crate::shell::client) stream: u32,
}
