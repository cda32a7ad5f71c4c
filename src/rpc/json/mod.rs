//! JSON of the gateway: protobuf's mapping (proto3 JSON), with the names of the `.proto` files.
//!
//! A request's text becomes the bytes of the message (`read`), the bytes of an answer become text (`write`), both
//! straight, without a message in between, by the tables that the build makes of `proto/` (`schema`). A stream of
//! requests is cut into its messages first (`split`).
//!
//! No kept generator does what etcd's clients need. `pbjson` refuses unknown numbers of enums, `null` and `1e3`;
//! `prost-reflect` does all of it and builds a map for every message. Neither can begin an answer before it has
//! all of it, as a long list needs. The text itself is read by `serde_json`.
//!
//! Compatibility: etcd's gateway. Answers: fields by their proto names, unset ones left out, 64-bit numbers as
//! strings, bytes in standard base64, enums by name and unknown ones by number. Requests: both spellings of a
//! name, unknown fields and unknown names of enums ignored (the latter since 3.5.30), numbers as numbers or strings
//! and also as `1.0` or `1e3`, `null` for "unset", base64 of both alphabets, with padding or without. A field given
//! twice, or two of a `oneof`, are refused as by etcd 3.6.
//! Bounds: `serde_json` goes 128 levels deep; memory is that of the result.

pub mod read;
pub mod schema;
pub mod split;
pub mod write;

pub use read::{Unreadable, read};
pub use schema::{Call, Message};
pub use split::{SplitError, Splitter};
pub use write::{Writer, put_text, write};

#[cfg(test)]
mod tests;
