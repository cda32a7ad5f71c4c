//! An answer before its header is put in front.

use bytes::Bytes;

use super::Rejection;

/// The answer to a request or a read.
///
/// Protobuf fields may come in any order and by parts, so the header, which needs the answering
/// member's identity and term, is put in front of `body` by the client shard without a copy.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Response {
    /// `header.revision`.
    pub revision: i64,
    /// The response message encoded without its `header` field.
    pub body: Vec<u8>,
    /// Where a sliced read goes on; absent when it is complete, and for everything else.
    pub resume: Option<Bytes>,
}

/// What became of a request.
pub type Outcome = Result<Response, Rejection>;
