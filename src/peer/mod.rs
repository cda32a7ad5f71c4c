//! The conversation between members: bytes and rules, no socket.
//!
//! Two members talk over TCP connections, each opened by the one that wants to send (the *dialer*)
//! and used in one direction but for answers. A connection belongs to a *lane*, so that what is
//! urgent never waits behind what is big: heartbeats do not share a socket with appends, nor appends
//! with a checkpoint.
//!
//! ```text
//! connection   dialer:   preface  Hello    frames of the lane ...        [Goodbye]
//!              acceptor: preface  Welcome  answers, on Call and Bulk     [Goodbye]
//!                        or preface Refusal, and the connection ends
//!
//! preface      "PINION" 0x0a, version of this drawing (1)                8 bytes
//! frame        payload length   u32 LE  |  kind u8  |  0 0 0
//!              CRC-32 of the payload u32 LE  |  CRC-32 of the 12 bytes before (and the seal), u32 LE
//!              payload
//! seal         Hello's session u64 LE  |  Welcome's  |  direction and number of the frame, u64 LE
//! ```
//!
//! Both checksums, because a wrong length would otherwise be believed until that many bytes had come.
//! A frame that fails a check ends its connection: on a stream nothing after it can be trusted.
//!
//! TCP carries every byte once and in order, but not everything between two members is TCP's alone. Raft and
//! the requests in its log stand repetition (`apply::session`); calls need not, and nobody should have to
//! think about it. So what follows the Welcome is *sealed*: its header's checksum covers which connection it
//! belongs to and its number there. A frame that comes again, out of order, or on another connection than
//! it was written for ends that connection. Names of connections are no secret; the seal keeps out
//! accidents, not enemies.
//!
//! Invariants: a decoder holds at most one frame that is not complete, and allocates for it as its
//! bytes arrive, never on the word of its length.
//! Cost: a message is copied once into the buffer that is written, and once out of the one that is
//! read into; a frame's payload is a slice of that buffer.
//! Compatibility: the numbers of `FrameKind`, `Lane` and `RefusalCode` are on the wire, never reused.
//! The version of the conversation is agreed on by Hello and Welcome (`handshake`). Who names no session
//! (a release before seals, a process that joins) gets and sends frames without seal.

pub mod frame;
pub mod handshake;
mod lane;
mod lives;
#[cfg(test)]
mod tests;

pub use frame::{FRAME_HEADER_BYTES, Frame, FrameDecoder, FrameError, FrameKind, PREFACE, Seal};
pub use handshake::{
    Greeting, HANDSHAKE_BYTES_MAX, PEER_URLS_MAX, PeerIdentity, Refusal, RefusalCode, duplicate_of_newer,
    moved_from_wire, moved_to_wire,
};
pub use lane::{Lane, lane_of};
pub use lives::Lives;
