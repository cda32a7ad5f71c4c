//! One call at a time, blocking: the few questions asked outside the load, such as "how many keys are
//! there" and "do you answer yet".

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use prost::Message;

use crate::client::{ClientError, Endpoint};
use crate::http2::{End, Method, Sink};
use crate::messages;
use crate::secure::{Blocking, Speaks};
use crate::workload::{RangeReply, count_request, probe_request};

struct Reply {
    bytes: Vec<u8>,
    /// Or else they are counted alone.
    keeps_bytes: bool,
    received: u64,
    end: Option<Result<(), String>>,
}

impl Sink for Reply {
    fn on_data(&mut self, _stream: u32, payload: &[u8]) {
        self.received += payload.len() as u64;
        if self.keeps_bytes {
            self.bytes.extend_from_slice(payload);
        }
    }

    fn on_end(&mut self, _stream: u32, end: End<'_>) {
        self.end = Some(match end {
            End::Status { code: 0, .. } => Ok(()),
            End::Status { code, message } => Err(format!("grpc-status {code}: {message}")),
            End::Reset(code) => Err(format!("stream reset with HTTP/2 error {code}")),
        });
    }
}

/// Makes one call on a connection of its own and returns the reply's protobuf bytes.
pub(crate) fn call(
    endpoint: &Endpoint,
    method: Method,
    message: &[u8],
    timeout: Duration,
) -> Result<Vec<u8>, ClientError> {
    // The gRPC prefix: one byte of flags, four of length.
    let mut bytes = exchange(endpoint, method, message, timeout, true)?.bytes;
    Ok(bytes.split_off(bytes.len().min(5)))
}

/// Makes one call on a connection of its own, lets its reply pass, however many messages that has, and returns how many
/// bytes they were.
pub(crate) fn drain(
    endpoint: &Endpoint,
    method: Method,
    message: &[u8],
    timeout: Duration,
) -> Result<u64, ClientError> {
    Ok(exchange(endpoint, method, message, timeout, false)?.received)
}

fn exchange(
    endpoint: &Endpoint,
    method: Method,
    message: &[u8],
    timeout: Duration,
    keeps_bytes: bool,
) -> Result<Reply, ClientError> {
    let address = endpoint.address;
    let give_up = Instant::now() + timeout;
    let mut stream = Blocking::connect(endpoint, timeout, Speaks::Http2)
        .map_err(|source| ClientError::Connect { address, source })?;
    let io = |source| ClientError::Io { operation: "call", source };
    let mut connection = endpoint.connection();
    let mut reply = Reply { bytes: Vec::new(), keeps_bytes, received: 0, end: None };
    let mut buffer = vec![0; 64 * 1024];
    let mut is_sent = false;
    loop {
        if !is_sent && connection.can_open() {
            connection.open(method, message);
            is_sent = true;
        }
        stream.write_all(&connection.out).map_err(io)?;
        connection.out.clear();
        match reply.end.take() {
            Some(Ok(())) => return Ok(reply),
            Some(Err(text)) => return Err(ClientError::Call(text)),
            None => {}
        }
        let left = give_up.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ClientError::Call(format!("no reply within {timeout:?}")));
        }
        stream.set_read_timeout(left).map_err(io)?;
        let length = stream.read(&mut buffer).map_err(io)?;
        if length == 0 {
            return Err(ClientError::Call("the server closed the connection".to_owned()));
        }
        connection.receive(&buffer[..length], &mut reply)?;
    }
}

/// How many keys of ours the server holds.
pub(crate) fn count_keys(endpoint: &Endpoint, timeout: Duration) -> Result<u64, ClientError> {
    let reply = call(endpoint, Method::Range, &count_request(), timeout)?;
    let reply = RangeReply::decode(&reply[..]).map_err(|error| ClientError::Call(error.to_string()))?;
    u64::try_from(reply.count).map_err(|error| ClientError::Call(error.to_string()))
}

/// The store's revision.
pub(crate) fn revision(endpoint: &Endpoint, timeout: Duration) -> Result<i64, ClientError> {
    revision_of(endpoint, Method::Range, &probe_request(), timeout)
}

/// The revision that an answer's header has.
pub(crate) fn revision_of(
    endpoint: &Endpoint,
    method: Method,
    message: &[u8],
    timeout: Duration,
) -> Result<i64, ClientError> {
    let reply = call(endpoint, method, message, timeout)?;
    messages::read_header_revision(&reply).map_err(|error| ClientError::Call(error.to_string()))
}

/// The member's own id, and its leader's; 0 is nobody.
pub(crate) fn status(endpoint: &Endpoint, timeout: Duration) -> Result<(u64, u64), ClientError> {
    let reply = call(endpoint, Method::Status, &[], timeout)?;
    messages::read_status(&reply).map_err(|error| ClientError::Call(error.to_string()))
}

/// One linearizable get: succeeds once the server can answer clients, be it that it asks who they are.
pub(crate) fn probe(endpoint: &Endpoint, timeout: Duration) -> Result<(), ClientError> {
    match call(endpoint, Method::Range, &probe_request(), timeout) {
        Err(ClientError::Call(text)) if text.contains("user name is empty") => Ok(()),
        told => told.map(|_| ()),
    }
}
