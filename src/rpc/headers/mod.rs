//! Request headers as etcd takes them, in front of an HTTP/2 decoder that is stricter.
//!
//! The decoder (the `h2` library) resets a stream, or ends the whole connection, for headers that an etcd
//! server serves or answers with a status. So a `Gate` stands in front of it, follows the client's HPACK
//! blocks and writes those anew that it would not take. All other bytes pass as they are, but for fields that are named by
//! an index and that the decoder need not make anything of.
//!
//! | in a request | etcd 3.5.30 | here |
//! |---|---|---|
//! | `:authority` with any text, empty or missing | served | served; nobody looks at it |
//! | `:scheme` with any text, empty or missing; `:protocol` | served | the same |
//! | `te` other than `trailers`, `keep-alive`, `proxy-connection`, `upgrade`, `transfer-encoding` | served | served without them |
//! | `content-length`, true or not | served | served without it |
//! | HEADERS whose stream depends on itself | served | served; priorities mean nothing |
//! | `connection` | RST_STREAM(PROTOCOL_ERROR) | status Internal |
//! | a pseudo-header twice, behind another field, or unknown; `:status` | RST_STREAM(PROTOCOL_ERROR) | status Internal |
//! | a name that is none (capitals, blank, empty) or a value with a control character | RST_STREAM(PROTOCOL_ERROR) | status Internal |
//! | `host` twice | HTTP 400 and status Internal | status Internal |
//! | `:method` not POST, odd, empty or missing | HTTP 405 and status Internal, which quotes it | the same |
//! | `:path` odd, empty or missing | status Unimplemented, which quotes it | the same |
//! | more metadata than the flag says | served up to 16 MiB | status ResourceExhausted |
//! | more than 16 MiB | the connection ends | the connection ends, ENHANCE_YOUR_CALM |
//! | a block that breaks HPACK | the connection ends | the connection ends, COMPRESSION_ERROR |
//! | trailers | the connection ends | taken, and not looked at; malformed ones reset their stream |
//!
//! Where etcd resets a stream its client gets a status with a text here, since a client library makes of a
//! reset what it likes. A size update behind a field is against HPACK (RFC 7541 section 4.2) though etcd
//! takes it.
//!
//! `huffman`, `field` and `table` are HPACK's, `fault` is what ends a connection, `class` tells what a field is for, `credential` keeps who calls, `block` reads whole blocks
//! and writes them, `gate` finds them in the frames. No crate would do: those that decode HPACK decode
//! everything, with an allocation for each text, and `h2` does not give its own decoder away.

mod block;
mod class;
mod credential;
mod fault;
mod field;
mod gate;
mod huffman;
mod table;

pub use block::{Note, Spared};
pub use credential::Credential;
pub use fault::{Fault, HEADERS_BYTES_ABUSE};
pub use gate::{Aside, FRAME_BYTES_MAX, Gate, NOTES_MAX, REQUEST_BYTES_MIN};

#[cfg(test)]
#[path = "gate_tests.rs"]
pub(crate) mod tests;
