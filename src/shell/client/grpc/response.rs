//! Answers as HTTP/2: response headers, the framed message, trailers; or trailers alone.
//!
//! The response header of etcd (`ResponseHeader`, field 1 of nearly every message) is put in front of
//! the body here. A small answer is one buffer; a large body stays where the store wrote it and goes
//! out as a second piece.

use std::rc::Rc;

use bytes::Bytes;
use h2::server::SendResponse;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Response as HttpResponse, StatusCode};

use super::gzip;
use crate::rpc::framing::{PREFIX_BYTES, percent_encode, put_prefix};
use crate::rpc::{Code, Status};
use crate::shell::client::call::account::{Account, Body};
use crate::types::proto::{
    INT_FIELD_LEN_MAX, int_field_len, put_int_field, put_message_head, put_uint_field, uint_field_len,
};
use crate::types::{ClusterId, MemberId, Term};

pub(super) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
pub(super) const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
pub(in crate::shell::client) const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");

/// From here on a body is sent as a piece of its own: a copy would cost more than the second frame.
const BODY_APART_BYTES: usize = 8 * 1024;

/// The header's field in every answer.
const HEADER: u8 = 1;
/// Fields of `ResponseHeader`.
const CLUSTER_ID: u8 = 1;
const MEMBER_ID: u8 = 2;
const REVISION: u8 = 3;
const TERM: u8 = 4;
const HEADER_BYTES_MAX: usize = 4 * INT_FIELD_LEN_MAX;

/// Encodes response headers of one member.
pub(in crate::shell::client) struct Headers {
    /// `cluster_id` and `member_id`, encoded.
    identity: Vec<u8>,
}

impl Headers {
    pub(in crate::shell::client) fn new(cluster: ClusterId, member: MemberId) -> Self {
        let mut identity = Vec::new();
        put_uint_field(&mut identity, CLUSTER_ID, cluster.0);
        put_uint_field(&mut identity, MEMBER_ID, member.0);
        Self { identity }
    }

    /// Appends field 1 with the header; its revision is left out where it is 0.
    pub(in crate::shell::client) fn put(&self, out: &mut Vec<u8>, revision: i64, term: Term) {
        let length = self.identity.len() + int_field_len(revision) + uint_field_len(term.0);
        put_message_head(out, HEADER, length);
        out.extend_from_slice(&self.identity);
        put_int_field(out, REVISION, revision);
        put_uint_field(out, TERM, term.0);
    }
}

/// Response headers and trailers of the ordinary case, copied instead of built.
pub(in crate::shell::client) struct Templates {
    headers: HeaderMap,
    ok: HeaderMap,
}

impl Templates {
    pub(in crate::shell::client) fn new() -> Self {
        let mut headers = HeaderMap::with_capacity(1);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        let mut ok = HeaderMap::with_capacity(1);
        ok.insert(GRPC_STATUS, HeaderValue::from_static("0"));
        Self { headers, ok }
    }

    /// Trailers of a call that went well.
    pub(in crate::shell::client) fn ok(&self) -> HeaderMap {
        self.ok.clone()
    }

    fn head(&self, gzip: bool) -> HttpResponse<()> {
        let mut head = HttpResponse::new(());
        *head.headers_mut() = self.headers.clone();
        if gzip {
            head.headers_mut().insert(GRPC_ENCODING, HeaderValue::from_static("gzip"));
        }
        head
    }
}

/// The stream a call is answered on.
pub(in crate::shell::client) type Responder = SendResponse<Body>;

/// Answers with one message made of `head` and `tail`. Returns its size.
///
/// A send that fails has lost its client, who cannot be told; `h2` forgets the stream by itself.
pub(in crate::shell::client) fn send_message(
    templates: &Templates,
    account: &Rc<Account>,
    responder: &mut Responder,
    gzip: bool,
    head: impl FnOnce(&mut Vec<u8>),
    tail: Vec<u8>,
) -> usize {
    let apart = BODY_APART_BYTES <= tail.len() && !gzip;
    let room = PREFIX_BYTES + 2 + HEADER_BYTES_MAX + if apart { 0 } else { tail.len() };
    let mut first = Vec::with_capacity(room);
    first.resize(PREFIX_BYTES, 0);
    head(&mut first);
    let mut length = first.len() - PREFIX_BYTES + tail.len();
    if gzip {
        let packed = gzip::deflate(&[&first[PREFIX_BYTES..], &tail]);
        length = packed.len();
        first.truncate(PREFIX_BYTES);
        first.extend_from_slice(&packed);
    } else if !apart {
        first.extend_from_slice(&tail);
    }
    let Ok(announced) = u32::try_from(length) else {
        send_status(responder, &Status::sent_too_large(length as u64, i32::MAX.unsigned_abs().into()));
        return 0;
    };
    put_prefix(&mut &mut first[..PREFIX_BYTES], gzip, announced);
    let Ok(mut stream) = responder.send_response(templates.head(gzip), false) else { return length };
    let mut sent = stream.send_data(Body::new(account, Bytes::from(first), None), false);
    if apart && sent.is_ok() {
        sent = stream.send_data(Body::new(account, Bytes::from(tail), None), false);
    }
    if sent.is_ok() {
        drop(stream.send_trailers(templates.ok()));
    }
    length
}

/// Response headers of a call that answers with several messages.
pub(in crate::shell::client) fn send_head(
    templates: &Templates,
    responder: &mut Responder,
) -> Option<h2::SendStream<Body>> {
    responder.send_response(templates.head(false), false).ok()
}

/// The trailers that carry `status`.
pub(in crate::shell::client) fn status_trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(2);
    put_status(&mut trailers, status);
    trailers
}

fn put_status(headers: &mut HeaderMap, status: &Status) {
    headers.insert(GRPC_STATUS, HeaderValue::from(u16::from(status.code.number())));
    if !status.message.is_empty() {
        let text = HeaderValue::try_from(percent_encode(&status.message));
        headers.insert(GRPC_MESSAGE, text.expect("percent-encoded text is printable ASCII"));
    }
}

/// Answers with a status alone, which is response headers and trailers in one.
pub(in crate::shell::client) fn send_status(responder: &mut Responder, status: &Status) {
    send_http_status(responder, StatusCode::OK, status);
}

/// The same for a request that is not gRPC's: with an HTTP status that says so too.
pub(in crate::shell::client) fn send_http_status(
    responder: &mut Responder,
    http: StatusCode,
    status: &Status,
) {
    debug_assert!(status.code != Code::Ok, "a call that went well answers with a message");
    let mut head = HttpResponse::new(());
    *head.status_mut() = http;
    let mut headers = HeaderMap::with_capacity(3);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    put_status(&mut headers, status);
    *head.headers_mut() = headers;
    drop(responder.send_response(head, true));
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::pb::etcdserverpb as pb;

    #[test]
    fn header_in_front_of_a_body_decodes_as_one_message_for_extreme_numbers() {
        let numbers = [0, 1, 127, 128, 1 << 14, (1 << 35) - 1, 1 << 35, 1 << 62, i64::MAX];
        for cluster in numbers {
            for revision in numbers {
                for term in numbers {
                    let headers = Headers::new(ClusterId(cluster.cast_unsigned()), MemberId(u64::MAX));
                    let mut bytes = Vec::new();
                    headers.put(&mut bytes, revision, Term(term.cast_unsigned()));
                    assert!(bytes.len() <= 2 + HEADER_BYTES_MAX);
                    let body = pb::DeleteRangeResponse { deleted: 7, ..Default::default() };
                    bytes.extend(body.encode_to_vec());
                    let whole = pb::DeleteRangeResponse::decode(&bytes[..]).unwrap();
                    let header = whole.header.unwrap();
                    assert_eq!(header.cluster_id, cluster.cast_unsigned());
                    assert_eq!(header.member_id, u64::MAX);
                    assert_eq!(header.revision, revision);
                    assert_eq!(header.raft_term, term.cast_unsigned());
                    assert_eq!(whole.deleted, 7);
                }
            }
        }
    }
}
