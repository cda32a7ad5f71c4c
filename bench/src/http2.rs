//! The client's side of one HTTP/2 connection that carries gRPC calls: bytes in, bytes out.
//!
//! No socket and no clock. `open` appends a unary request to `out`, `open_stream` and `send` a call with
//! many messages; `receive` reads what the server sent and tells a `Sink` about reply bytes and ends of
//! calls; whoever owns the socket moves the bytes.
//!
//! The short cuts that make it cheap, and why each is safe:
//! - A request's header block is copied from the last one for that method, as long as our dynamic table
//!   has not grown since (`Encoder::inserted_count`), because equal bytes then name equal fields.
//! - A reply's header block that was seen before is not decoded again. What a block means is a function
//!   of its bytes and of the dynamic table, so an outcome is remembered together with the decoder's
//!   `changes` and is good while that stands still. A block that itself changes the table moves
//!   `changes`, so it can never be served from memory and the table follows every insertion.
//!
//! Invariants: stream ids are odd and grow by two; DATA never exceeds either window; at most one unary
//! request is cut short by a window (`rest`), and nothing is opened until it is out; `uploads` holds the
//! streams that may still be sent on, each with what its windows hold back.
//! Compatibility: grpc-go (etcd) and the h2 crate; PUSH_PROMISE is refused, unknown frames are skipped.

use std::collections::BTreeMap;

use crate::frame::{
    self, FrameHeader, FrameTooLong, PAYLOAD_BYTES_MAX, Splitter, WINDOW_DEFAULT, WINDOW_MAX, flag, kind,
    setting,
};
use crate::hpack::{Decoder, Encoder, HpackError};

/// A header block and its CONTINUATIONs may be this long: far above what a gRPC server says.
const BLOCK_BYTES_MAX: usize = 64 * 1024;
/// The last id a client may open (RFC 9113 §5.1.1).
const STREAM_MAX: u32 = (1 << 31) - 1;
/// Give receive window back once this much is used: one WINDOW_UPDATE per GiB.
const WINDOW_REFILL: i64 = 1 << 30;
/// Remembered reply blocks; a steady server sends two different ones.
const OUTCOMES_MAX: usize = 8;
/// The code that UNKNOWN has in gRPC: what a call without a status ended with.
pub(crate) const GRPC_UNKNOWN: u32 = 2;

/// The RPCs that the load is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    Range,
    Put,
    Txn,
    Watch,
    LeaseGrant,
    LeaseKeepAlive,
    Status,
    DeleteRange,
    Compact,
    HashKv,
    Snapshot,
    RoleAdd,
    RoleGrantPermission,
    UserAdd,
    UserGrantRole,
    AuthEnable,
    AuthDisable,
    Authenticate,
}

impl Method {
    const COUNT: usize = Self::Authenticate as usize + 1;

    /// The `:path` of the call.
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Range => "/etcdserverpb.KV/Range",
            Self::Put => "/etcdserverpb.KV/Put",
            Self::Txn => "/etcdserverpb.KV/Txn",
            Self::Watch => "/etcdserverpb.Watch/Watch",
            Self::LeaseGrant => "/etcdserverpb.Lease/LeaseGrant",
            Self::LeaseKeepAlive => "/etcdserverpb.Lease/LeaseKeepAlive",
            Self::Status => "/etcdserverpb.Maintenance/Status",
            Self::DeleteRange => "/etcdserverpb.KV/DeleteRange",
            Self::Compact => "/etcdserverpb.KV/Compact",
            Self::HashKv => "/etcdserverpb.Maintenance/HashKV",
            Self::Snapshot => "/etcdserverpb.Maintenance/Snapshot",
            Self::RoleAdd => "/etcdserverpb.Auth/RoleAdd",
            Self::RoleGrantPermission => "/etcdserverpb.Auth/RoleGrantPermission",
            Self::UserAdd => "/etcdserverpb.Auth/UserAdd",
            Self::UserGrantRole => "/etcdserverpb.Auth/UserGrantRole",
            Self::AuthEnable => "/etcdserverpb.Auth/AuthEnable",
            Self::AuthDisable => "/etcdserverpb.Auth/AuthDisable",
            Self::Authenticate => "/etcdserverpb.Auth/Authenticate",
        }
    }
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End<'a> {
    /// The server sent a gRPC status.
    Status { code: u32, message: &'a str },
    /// The server reset the stream with this HTTP/2 error code.
    Reset(u32),
}

/// Hears what came back. Calls come for streams of this connection only, but perhaps for ones that their
/// owner has given up.
pub(crate) trait Sink {
    /// What follows was read from the socket at this time.
    fn on_time(&mut self, _now_ns: u64) {}
    fn on_data(&mut self, stream: u32, payload: &[u8]);
    fn on_end(&mut self, stream: u32, end: End<'_>);
}

/// The server broke the protocol, or ended the connection; no call on it will be answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ConnectionError {
    #[error("frame of {0} bytes, more than the 16384 agreed")]
    FrameTooLong(usize),
    #[error("malformed {0} frame")]
    Malformed(&'static str),
    #[error("header block: {0}")]
    Hpack(#[from] HpackError),
    #[error("header block of more than {BLOCK_BYTES_MAX} bytes")]
    BlockTooLong,
    #[error("server closed the connection with HTTP/2 error {code}: {debug}")]
    GoAway { code: u32, debug: String },
}

impl From<FrameTooLong> for ConnectionError {
    fn from(FrameTooLong(length): FrameTooLong) -> Self {
        Self::FrameTooLong(length)
    }
}

/// What a header block says that matters to a unary call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Outcome {
    grpc_status: Option<u32>,
    message: String,
}

#[derive(Debug)]
struct KnownBlock {
    changes: u64,
    block: Vec<u8>,
    outcome: Outcome,
}

/// Header frames of one block, until END_HEADERS.
#[derive(Debug)]
struct OpenBlock {
    stream: u32,
    flags: u8,
    block: Vec<u8>,
}

/// What the windows held back of the last request.
#[derive(Debug)]
struct Rest {
    stream: u32,
    payload: Vec<u8>,
    sent: usize,
    window: i64,
}

/// Our half of a stream that stays open.
#[derive(Debug)]
struct Upload {
    window: i64,
    /// What the windows held back.
    waiting: Vec<u8>,
}

/// A request's header block, ready to be copied.
#[derive(Debug, Default)]
struct ReadyBlock {
    inserted_count: usize,
    block: Vec<u8>,
}

/// One connection's state.
#[derive(Debug)]
pub(crate) struct Connection {
    /// Bytes for the server. The owner drains them.
    pub out: Vec<u8>,
    authority: String,
    scheme: &'static str,
    /// The token of the user in whose name all calls are made.
    token: Option<String>,
    encoder: Encoder,
    ready_blocks: [ReadyBlock; Method::COUNT],
    decoder: Decoder,
    known_blocks: Vec<KnownBlock>,
    known_next: usize,
    splitter: Splitter,
    joined: Vec<u8>,
    open_block: Option<OpenBlock>,
    next_stream: u32,
    send_window: i64,
    /// What a new stream of ours may send.
    stream_window: i64,
    receive_window: i64,
    streams_max: u32,
    rest: Option<Rest>,
    uploads: BTreeMap<u32, Upload>,
    is_settled: bool,
    /// The last stream that the server will answer, once it has said so.
    goaway: Option<u32>,
}

impl Connection {
    /// A connection that greets the server and opens its own windows all the way.
    pub(crate) fn new(authority: &str) -> Self {
        Self::with_stream_window(authority, u32::try_from(WINDOW_MAX).expect("31 bits"))
    }

    /// A connection whose every stream may bring `stream_window` bytes until `widen` allows more.
    pub(crate) fn with_stream_window(authority: &str, stream_window: u32) -> Self {
        let mut out = Vec::with_capacity(64 * 1024);
        out.extend_from_slice(frame::PREFACE);
        frame::put_settings(&mut out, &[(setting::INITIAL_WINDOW_SIZE, stream_window)]);
        let widening = u32::try_from(WINDOW_MAX - WINDOW_DEFAULT).expect("31 bits");
        frame::put_window_update(&mut out, 0, widening);
        Self {
            out,
            authority: authority.to_owned(),
            scheme: "http",
            token: None,
            encoder: Encoder::default(),
            ready_blocks: Default::default(),
            decoder: Decoder::new(),
            known_blocks: Vec::new(),
            known_next: 0,
            splitter: Splitter::default(),
            joined: Vec::new(),
            open_block: None,
            next_stream: 1,
            send_window: WINDOW_DEFAULT,
            stream_window: WINDOW_DEFAULT,
            receive_window: WINDOW_MAX,
            streams_max: u32::MAX,
            rest: None,
            uploads: BTreeMap::new(),
            is_settled: false,
            goaway: None,
        }
    }

    /// The same whose calls say that they come by TLS, and in whose name.
    pub(crate) fn named(mut self, is_tls: bool, token: Option<&str>) -> Self {
        self.scheme = if is_tls { "https" } else { "http" };
        self.token = token.map(str::to_owned);
        self
    }

    /// The server's SETTINGS have come: its limits are known.
    pub(crate) fn is_settled(&self) -> bool {
        self.is_settled
    }

    /// No further request will be taken: the server said goodbye or the stream ids are used up.
    pub(crate) fn is_spent(&self) -> bool {
        self.goaway.is_some() || self.next_stream > STREAM_MAX
    }

    /// The last stream the server will answer after its GOAWAY.
    pub(crate) fn goaway(&self) -> Option<u32> {
        self.goaway
    }

    /// SETTINGS_MAX_CONCURRENT_STREAMS of the server.
    pub(crate) fn streams_max(&self) -> u32 {
        self.streams_max
    }

    /// Whether `open` may be called.
    pub(crate) fn can_open(&self) -> bool {
        self.is_settled && self.rest.is_none() && !self.is_spent()
    }

    /// Appends one call and returns its stream id.
    pub(crate) fn open(&mut self, method: Method, message: &[u8]) -> u32 {
        assert!(self.can_open(), "opened on a connection that is not ready");
        let stream = self.next_stream;
        self.next_stream += 2;
        self.put_headers(method, stream);
        // §5: one byte "not compressed", four bytes of length.
        let length = u32::try_from(message.len()).expect("messages are far below 4 GiB").to_be_bytes();
        let prefix = [0, length[0], length[1], length[2], length[3]];
        let payload_bytes = prefix.len() + message.len();
        let fits = i64::try_from(payload_bytes)
            .is_ok_and(|needed| needed <= self.send_window && needed <= self.stream_window);
        if fits && payload_bytes <= PAYLOAD_BYTES_MAX {
            self.send_window -= i64::try_from(payload_bytes).expect("a frame");
            let header =
                FrameHeader { length: payload_bytes, kind: kind::DATA, flags: flag::END_STREAM, stream };
            header.put(&mut self.out);
            self.out.extend_from_slice(&prefix);
            self.out.extend_from_slice(message);
        } else {
            let mut payload = Vec::with_capacity(payload_bytes);
            payload.extend_from_slice(&prefix);
            payload.extend_from_slice(message);
            self.rest = Some(Rest { stream, payload, sent: 0, window: self.stream_window });
            self.put_rest();
        }
        stream
    }

    /// Opens a call whose messages follow with `send`, and returns its stream id.
    pub(crate) fn open_stream(&mut self, method: Method) -> u32 {
        assert!(self.can_open(), "opened on a connection that is not ready");
        let stream = self.next_stream;
        self.next_stream += 2;
        self.put_headers(method, stream);
        self.uploads.insert(stream, Upload { window: self.stream_window, waiting: Vec::new() });
        stream
    }

    /// Appends one message to a stream that is open, in a DATA frame of its own where the windows let it.
    /// False when the stream has ended.
    pub(crate) fn send(&mut self, stream: u32, message: &[u8]) -> bool {
        let Some(upload) = self.uploads.get_mut(&stream) else { return false };
        let length = u32::try_from(message.len()).expect("messages are far below 4 GiB").to_be_bytes();
        let prefix = [0, length[0], length[1], length[2], length[3]];
        let payload_bytes = prefix.len() + message.len();
        let needed = i64::try_from(payload_bytes).expect("far below 2^63");
        let fits = upload.waiting.is_empty()
            && self.rest.is_none()
            && payload_bytes <= PAYLOAD_BYTES_MAX
            && needed <= self.send_window
            && needed <= upload.window;
        if fits {
            self.send_window -= needed;
            upload.window -= needed;
            FrameHeader { length: payload_bytes, kind: kind::DATA, flags: 0, stream }.put(&mut self.out);
            self.out.extend_from_slice(&prefix);
            self.out.extend_from_slice(message);
        } else {
            upload.waiting.extend_from_slice(&prefix);
            upload.waiting.extend_from_slice(message);
            self.put_waiting();
        }
        true
    }

    /// Lets a stream bring `bytes` more.
    pub(crate) fn widen(&mut self, stream: u32, bytes: u32) {
        frame::put_window_update(&mut self.out, stream, bytes);
    }

    /// Whether the server's windows hold messages of a stream back.
    pub(crate) fn is_holding_back(&self, stream: u32) -> bool {
        self.uploads.get(&stream).is_some_and(|upload| !upload.waiting.is_empty())
    }

    /// Sends what waits on open streams, as far as the windows allow.
    fn put_waiting(&mut self) {
        if self.rest.is_some() {
            return; // it has waited longer for the connection's window
        }
        for (&stream, upload) in &mut self.uploads {
            let mut sent = 0;
            loop {
                let left = upload.waiting.len() - sent;
                let window = usize::try_from(self.send_window.min(upload.window)).unwrap_or(0);
                let length = left.min(window).min(PAYLOAD_BYTES_MAX);
                if length == 0 {
                    break;
                }
                frame::put_frame(&mut self.out, kind::DATA, 0, stream, &upload.waiting[sent..sent + length]);
                sent += length;
                let length = i64::try_from(length).expect("a frame");
                self.send_window -= length;
                upload.window -= length;
            }
            upload.waiting.drain(..sent);
        }
    }

    /// Gives a call up: the server need not answer it (RST_STREAM with CANCEL).
    pub(crate) fn cancel(&mut self, stream: u32) {
        self.uploads.remove(&stream);
        if self.rest.as_ref().is_some_and(|rest| rest.stream == stream) {
            self.rest = None;
        }
        frame::put_frame(&mut self.out, kind::RST_STREAM, 0, stream, &8_u32.to_be_bytes());
    }

    fn put_headers(&mut self, method: Method, stream: u32) {
        let ready = &mut self.ready_blocks[method as usize];
        if ready.block.is_empty() || ready.inserted_count != self.encoder.inserted_count() {
            ready.block.clear();
            let fields = [
                (":method", "POST"),
                (":scheme", self.scheme),
                (":path", method.path()),
                (":authority", self.authority.as_str()),
                ("content-type", "application/grpc"),
                ("user-agent", "pinion-bench"),
                ("te", "trailers"),
                ("token", self.token.as_deref().unwrap_or_default()),
            ];
            let fields = if self.token.is_some() { &fields[..] } else { &fields[..fields.len() - 1] };
            let is_repeatable = self.encoder.encode(fields, &mut ready.block);
            frame::put_frame(&mut self.out, kind::HEADERS, flag::END_HEADERS, stream, &ready.block);
            if is_repeatable {
                ready.inserted_count = self.encoder.inserted_count();
            } else {
                ready.block.clear();
            }
            return;
        }
        frame::put_frame(&mut self.out, kind::HEADERS, flag::END_HEADERS, stream, &ready.block);
    }

    /// Sends as much of the cut request as the windows allow.
    fn put_rest(&mut self) {
        let Some(rest) = &mut self.rest else { return };
        loop {
            let left = rest.payload.len() - rest.sent;
            let window = usize::try_from(self.send_window.min(rest.window)).unwrap_or(0);
            let length = left.min(window).min(PAYLOAD_BYTES_MAX);
            if length == 0 {
                return;
            }
            let flags = if length == left { flag::END_STREAM } else { 0 };
            let chunk = &rest.payload[rest.sent..rest.sent + length];
            frame::put_frame(&mut self.out, kind::DATA, flags, rest.stream, chunk);
            rest.sent += length;
            let length = i64::try_from(length).expect("a frame");
            self.send_window -= length;
            rest.window -= length;
            if flags != 0 {
                self.rest = None;
                return;
            }
        }
    }

    /// Reads what the server sent.
    pub(crate) fn receive(&mut self, mut bytes: &[u8], sink: &mut impl Sink) -> Result<(), ConnectionError> {
        let mut splitter = std::mem::take(&mut self.splitter);
        let mut joined = std::mem::take(&mut self.joined);
        while let Some((header, payload)) = splitter.next(&mut bytes, &mut joined)? {
            self.on_frame(header, payload, sink)?;
        }
        self.splitter = splitter;
        self.joined = joined;
        Ok(())
    }

    fn on_frame(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
        sink: &mut impl Sink,
    ) -> Result<(), ConnectionError> {
        if self.open_block.is_some() && header.kind != kind::CONTINUATION {
            return Err(ConnectionError::Malformed("HEADERS without its CONTINUATION"));
        }
        match header.kind {
            kind::DATA => self.on_data(&header, payload, sink),
            kind::HEADERS => {
                let block = frame::unpadded(&header, payload).ok_or(ConnectionError::Malformed("HEADERS"))?;
                if header.flags & flag::END_HEADERS != 0 {
                    return self.on_block(header.stream, header.flags, block, sink);
                }
                self.open_block =
                    Some(OpenBlock { stream: header.stream, flags: header.flags, block: block.to_vec() });
                Ok(())
            }
            kind::CONTINUATION => {
                let open = self.open_block.take().filter(|open| open.stream == header.stream);
                let mut open = open.ok_or(ConnectionError::Malformed("CONTINUATION"))?;
                open.block.extend_from_slice(payload);
                if open.block.len() > BLOCK_BYTES_MAX {
                    return Err(ConnectionError::BlockTooLong);
                }
                if header.flags & flag::END_HEADERS != 0 {
                    return self.on_block(open.stream, open.flags, &open.block, sink);
                }
                self.open_block = Some(open);
                Ok(())
            }
            kind::RST_STREAM => {
                let code = frame::word(payload).ok_or(ConnectionError::Malformed("RST_STREAM"))?;
                if self.rest.as_ref().is_some_and(|rest| rest.stream == header.stream) {
                    self.rest = None;
                }
                self.uploads.remove(&header.stream);
                sink.on_end(header.stream, End::Reset(code));
                Ok(())
            }
            kind::SETTINGS => self.on_settings(&header, payload),
            kind::PUSH_PROMISE => Err(ConnectionError::Malformed("PUSH_PROMISE")),
            kind::PING => {
                if header.flags & flag::ACK == 0 {
                    frame::put_frame(&mut self.out, kind::PING, flag::ACK, 0, payload);
                }
                Ok(())
            }
            kind::GOAWAY => {
                let malformed = ConnectionError::Malformed("GOAWAY");
                let last = frame::word(payload).ok_or(malformed.clone())? & STREAM_MAX;
                let code = payload.get(4..).and_then(frame::word).ok_or(malformed)?;
                if code != 0 {
                    let debug = String::from_utf8_lossy(&payload[8..]).into_owned();
                    return Err(ConnectionError::GoAway { code, debug });
                }
                self.goaway = Some(self.goaway.map_or(last, |before| before.min(last)));
                Ok(())
            }
            kind::WINDOW_UPDATE => {
                let increment = frame::word(payload).ok_or(ConnectionError::Malformed("WINDOW_UPDATE"))?;
                let increment = i64::from(increment & STREAM_MAX);
                if header.stream == 0 {
                    self.send_window += increment;
                } else if let Some(rest) = &mut self.rest
                    && rest.stream == header.stream
                {
                    rest.window += increment;
                } else if let Some(upload) = self.uploads.get_mut(&header.stream) {
                    upload.window += increment;
                }
                self.put_rest();
                self.put_waiting();
                Ok(())
            }
            _ => Ok(()), // §5.5: frames of an unknown type are ignored
        }
    }

    fn on_data(
        &mut self,
        header: &FrameHeader,
        payload: &[u8],
        sink: &mut impl Sink,
    ) -> Result<(), ConnectionError> {
        // Padding counts against the window too (§6.1). A stream's window is its owner's to refill
        // (`widen`): a unary call has no use for more than 2 GiB.
        self.receive_window -= i64::try_from(header.length).expect("a frame");
        if self.receive_window < WINDOW_MAX - WINDOW_REFILL {
            let increment = u32::try_from(WINDOW_MAX - self.receive_window).expect("31 bits");
            frame::put_window_update(&mut self.out, 0, increment);
            self.receive_window = WINDOW_MAX;
        }
        sink.on_data(
            header.stream,
            frame::unpadded(header, payload).ok_or(ConnectionError::Malformed("DATA"))?,
        );
        if header.flags & flag::END_STREAM != 0 {
            self.uploads.remove(&header.stream);
            sink.on_end(
                header.stream,
                End::Status { code: GRPC_UNKNOWN, message: "reply ended without trailers" },
            );
        }
        Ok(())
    }

    fn on_block(
        &mut self,
        stream: u32,
        flags: u8,
        block: &[u8],
        sink: &mut impl Sink,
    ) -> Result<(), ConnectionError> {
        let changes = self.decoder.changes();
        let known = self.known_blocks.iter().find(|known| known.changes == changes && known.block == block);
        let decoded;
        let outcome = if let Some(known) = known {
            &known.outcome
        } else {
            decoded = self.decode(block)?;
            if self.decoder.changes() == changes {
                let known = KnownBlock { changes, block: block.to_vec(), outcome: decoded.clone() };
                if self.known_blocks.len() < OUTCOMES_MAX {
                    self.known_blocks.push(known);
                } else {
                    self.known_blocks[self.known_next % OUTCOMES_MAX] = known;
                    self.known_next += 1;
                }
            }
            &decoded
        };
        if flags & flag::END_STREAM != 0 {
            self.uploads.remove(&stream);
            let code = outcome.grpc_status.unwrap_or(GRPC_UNKNOWN);
            sink.on_end(stream, End::Status { code, message: &outcome.message });
        }
        Ok(())
    }

    fn decode(&mut self, block: &[u8]) -> Result<Outcome, HpackError> {
        let mut outcome = Outcome::default();
        let mut http_status = String::new();
        self.decoder.decode(block, |name, value| match name {
            b"grpc-status" => {
                // An unreadable code is UNKNOWN, as grpc-go has it.
                let code = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                outcome.grpc_status = Some(code.unwrap_or(GRPC_UNKNOWN));
            }
            b"grpc-message" => outcome.message = percent_decoded(value),
            b":status" => http_status = String::from_utf8_lossy(value).into_owned(),
            _ => {}
        })?;
        if outcome.grpc_status.is_none() && outcome.message.is_empty() {
            outcome.message = format!("no grpc-status; HTTP status {http_status:?}");
        }
        Ok(outcome)
    }

    fn on_settings(&mut self, header: &FrameHeader, payload: &[u8]) -> Result<(), ConnectionError> {
        if header.flags & flag::ACK != 0 {
            return Ok(());
        }
        if !payload.len().is_multiple_of(6) {
            return Err(ConnectionError::Malformed("SETTINGS"));
        }
        for (id, value) in frame::settings(payload) {
            match id {
                setting::HEADER_TABLE_SIZE => {
                    self.encoder.on_table_bytes_max(usize::try_from(value).expect("32 bits fit"));
                    self.ready_blocks = Default::default();
                }
                setting::MAX_CONCURRENT_STREAMS => self.streams_max = value,
                setting::INITIAL_WINDOW_SIZE => {
                    let window = i64::from(value);
                    if let Some(rest) = &mut self.rest {
                        rest.window += window - self.stream_window; // may go below zero (§6.9.2)
                    }
                    for upload in self.uploads.values_mut() {
                        upload.window += window - self.stream_window;
                    }
                    self.stream_window = window;
                }
                _ => {} // the default frame size suits us; the rest concerns pushes and header limits
            }
        }
        frame::put_frame(&mut self.out, kind::SETTINGS, flag::ACK, 0, &[]);
        self.is_settled = true;
        self.put_rest();
        self.put_waiting();
        Ok(())
    }
}

/// `grpc-message` is percent-encoded (gRPC's HTTP/2 mapping); a stray `%` stands for itself.
fn percent_decoded(text: &[u8]) -> String {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        let digit = |slot: usize| after.get(slot).and_then(|&byte| char::from(byte).to_digit(16));
        if first == b'%'
            && let (Some(high), Some(low)) = (digit(0), digit(1))
        {
            decoded.push(u8::try_from(high << 4 | low).expect("two hex digits"));
            rest = &after[2..];
        } else {
            decoded.push(first);
            rest = after;
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests;
