//! Heads of HTTP/2 frames, as far as the meter looks at them.

/// Frame types, by their numbers on the wire.
pub(super) mod kind {
    pub(in super::super) const DATA: u8 = 0;
    pub(in super::super) const HEADERS: u8 = 1;
    pub(in super::super) const RST_STREAM: u8 = 3;
    pub(in super::super) const PING: u8 = 6;
    pub(in super::super) const GO_AWAY: u8 = 7;
    pub(in super::super) const CONTINUATION: u8 = 9;
}

/// A frame's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) length: u32,
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
}
