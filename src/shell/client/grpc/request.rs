//! A call's way in: from its request headers and its body to `ClientShard::on_call` or `on_stream`.
//!
//! The common call never gets a task: its body is there when its headers are, and it is decoded and submitted
//! in the connection's turn. Only a body that arrives in pieces gets one, and a method that streams.

use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Method as HttpMethod, Request as HttpRequest, StatusCode};

use super::bidi::Incoming;
use super::gzip;
use super::response;
use crate::rpc::api_version::ApiVersion;
use crate::rpc::framing::{Assembler, FramingError, Message, is_grpc_content_type, parse_timeout};
use crate::rpc::headers::{Aside, Credential};
use crate::rpc::method::CallShape;
use crate::rpc::{Code, Method, Status, hops, not_older, status};
use crate::shell::client::call::account::Account;
use crate::shell::client::call::body::Body;
use crate::shell::client::call::identity;
use crate::shell::client::call::place::Upload;
use crate::shell::client::call::shown::Shown;
use crate::shell::client::call::{Head, overloaded};
use crate::shell::client::responder::{Requests, Responder};
use crate::shell::client::speaks::Speaks;
use crate::shell::client::tally::Tally;
use crate::shell::client::upload::{Gather, Torn};
use crate::shell::client::{Backend, ClientShard};

const GRPC_ENCODING: &str = "grpc-encoding";
const GRPC_TIMEOUT: &str = "grpc-timeout";
const HAS_LEADER: &str = "hasleader";
const TOKEN: &str = "token";
const GATEWAY_ACCEPT: &str = "grpcgateway-accept";
const CLIENT_API_VERSION: &str = "client-api-version";

const NS_PER_MS: u64 = 1_000_000;

/// Why request headers are answered at once.
struct Refused {
    http: StatusCode,
    status: Status,
}

impl From<Status> for Refused {
    fn from(status: Status) -> Self {
        Self { http: StatusCode::OK, status }
    }
}

/// The headers that are asked for. A request has few, so they are found by one walk and not by a look-up each.
#[derive(Default)]
struct Asked<'a> {
    is_grpc: bool,
    /// The last one, which is the one that gRPC-Go goes by; so with encoding and `not_older_than`.
    content_type: &'a [u8],
    /// The last one, or the first one that is none.
    timeout_ns: Option<Result<u64, String>>,
    encoding: Option<&'a [u8]>,
    not_older_than: Option<&'a [u8]>,
    hops: Option<&'a [u8]>,
    /// The first one; so with those below.
    api_version: Option<&'a [u8]>,
    has_leader: Option<&'a [u8]>,
    token: Option<&'a [u8]>,
    authorization: Option<&'a [u8]>,
    is_of_gateway: bool,
}

impl<'a> Asked<'a> {
    fn of(headers: &'a HeaderMap) -> Self {
        let mut asked = Self::default();
        for (name, value) in headers {
            let value = value.as_bytes();
            let first = match name.as_str() {
                "content-type" => {
                    asked.is_grpc |= is_grpc_content_type(value);
                    asked.content_type = value;
                    continue;
                }
                GRPC_TIMEOUT => {
                    if !matches!(asked.timeout_ns, Some(Err(_))) {
                        asked.timeout_ns = Some(parse_timeout(value).map_err(|why| why.to_string()));
                    }
                    continue;
                }
                GRPC_ENCODING => {
                    asked.encoding = Some(value);
                    continue;
                }
                not_older::NOT_OLDER_THAN => {
                    asked.not_older_than = Some(value);
                    continue;
                }
                hops::HOPS => {
                    asked.hops = Some(value);
                    continue;
                }
                GATEWAY_ACCEPT => {
                    asked.is_of_gateway = true;
                    continue;
                }
                CLIENT_API_VERSION => &mut asked.api_version,
                HAS_LEADER => &mut asked.has_leader,
                TOKEN => &mut asked.token,
                "authorization" => &mut asked.authorization,
                _ => continue,
            };
            first.get_or_insert(value);
        }
        asked
    }

    /// What shows who calls: `token`, or else `authorization`, or else the connection's certificate. A gateway in front
    /// of this member shows its own certificate, and says by a header that the call is not its own.
    fn shown(&self, kept_aside: Option<&Rc<Credential>>, account: &Account) -> Option<Shown> {
        if let Some(credential) = kept_aside {
            return Some(identity::credential(credential, account));
        }
        if let Some(token) = self.token.or(self.authorization) {
            return Some(identity::token(token, account));
        }
        if self.is_of_gateway { None } else { identity::certificate_of(account) }
    }
}

fn refused(http: StatusCode, code: Code, message: String) -> Refused {
    Refused { http, status: Status { code, message: message.into() } }
}

/// Reads the request headers, in the order in which gRPC-Go complains about them. Also tells whether messages
/// may be compressed.
fn read_head<T>(
    request: &HttpRequest<T>,
    aside: Aside,
    now_ms: u64,
    asks_rights: bool,
    account: &Account,
) -> Result<(Head, bool), Refused> {
    let note = aside.note.unwrap_or_default();
    if let Some(refusal) = note.refusal {
        return Err(refusal.into());
    }
    let asked = Asked::of(request.headers());
    if !asked.is_grpc {
        let text = String::from_utf8_lossy(asked.content_type);
        let message = format!("invalid gRPC request content-type {text:?}");
        return Err(refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, Code::InvalidArgument, message));
    }
    let timeout_ns = match &asked.timeout_ns {
        None => None,
        Some(Ok(timeout_ns)) => Some(*timeout_ns),
        Some(Err(why)) => {
            let message = format!("malformed grpc-timeout: {why}");
            return Err(refused(StatusCode::BAD_REQUEST, Code::Internal, message));
        }
    };
    if request.method() != HttpMethod::POST {
        let method = note.method.as_deref().unwrap_or(request.method().as_str());
        let message = format!("Received a HEADERS frame with :method {method:?} which should be POST");
        return Err(refused(StatusCode::METHOD_NOT_ALLOWED, Code::Internal, message));
    }
    // A call that has no time left at this clock's step is not begun.
    if timeout_ns.is_some_and(|timeout_ns| timeout_ns < NS_PER_MS) {
        return Err(status::CONTEXT_DEADLINE_EXCEEDED.into());
    }
    let client_deadline_ms =
        timeout_ns.map(|timeout_ns| now_ms.saturating_add(timeout_ns.div_ceil(NS_PER_MS)));
    let path = request.uri().path_and_query().map_or("", |path| path.as_str());
    let method = Method::find(note.path.as_deref().unwrap_or(path))?;
    let gzip = match asked.encoding {
        None | Some(b"" | b"identity") => false,
        Some(b"gzip") => true,
        Some(other) => {
            let name = String::from_utf8_lossy(other);
            let message = format!("grpc: Decompressor is not installed for grpc-encoding {name:?}");
            return Err(Status { code: Code::Unimplemented, message: message.into() }.into());
        }
    };
    let api_version = ApiVersion::parse(asked.api_version.unwrap_or_default());
    let needs_leader = asked.has_leader == Some(b"true");
    let shown = if asks_rights { asked.shown(aside.credential.as_ref(), account) } else { None };
    let not_older_than = not_older::parse(asked.not_older_than)?;
    let hops = hops::parse(asked.hops);
    Ok((Head { method, client_deadline_ms, needs_leader, api_version, shown, not_older_than, hops }, gzip))
}

/// Whether a request is gRPC's.
fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get_all(CONTENT_TYPE).iter().any(|value| is_grpc_content_type(value.as_bytes()))
}

/// A header that was kept aside.
fn put_back(headers: &mut HeaderMap, credential: &Credential) {
    // The gate takes no other names, and no value that is none.
    if let Ok(name) = HeaderName::from_bytes(&credential.name)
        && let Ok(value) = HeaderValue::from_maybe_shared(credential.value.clone())
    {
        headers.insert(name, value);
    }
}

pub(super) fn framing_status(error: &FramingError) -> Status {
    let code = match error {
        FramingError::TooLarge { .. } => Code::ResourceExhausted,
        _ => Code::Internal,
    };
    Status { code, message: error.to_string().into() }
}

/// A message of which a part has come.
struct Arriving {
    assembler: Assembler,
    responder: response::Responder,
}

impl Gather for Arriving {
    fn push(&mut self, piece: Bytes) -> Result<(), Status> {
        self.assembler.push(piece).map_err(|error| framing_status(&error))
    }

    fn len(&self) -> usize {
        self.assembler.len()
    }

    fn expected(&self) -> usize {
        self.assembler.announced().unwrap_or(0)
    }

    fn on_turn(&mut self) {
        self.assembler.reserve_announced();
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.responder.poll_gone(cx)
    }
}

impl<B: Backend> ClientShard<B> {
    /// A request's headers have arrived, and often its body too.
    pub(in crate::shell::client) fn on_request(
        self: &Rc<Self>,
        account: &Rc<Account>,
        cx: &mut Context<'_>,
        mut request: HttpRequest<RecvStream>,
        aside: Aside,
        stream: SendResponse<Body>,
    ) {
        if let Some(speaks) = account.web.get()
            && (speaks != Speaks::All || !is_grpc(request.headers()))
        {
            if let Some(credential) = &aside.credential {
                put_back(request.headers_mut(), credential);
            }
            return self.on_web_request(account, cx, speaks, request, aside.note, stream);
        }
        self.counters.count(|counters| counters.requests += 1);
        let mut responder = response::Responder::new(stream, &self.templates);
        let (head, gzip) = match read_head(&request, aside, self.now_ms(), self.asks_rights(), account) {
            Ok(read) => read,
            Err(refused) => return responder.refuse_http(refused.http, &refused.status),
        };
        responder.gzip = gzip;
        let tally = Tally::begin(&self.tallies, head.method, head.api_version);
        let mut body = request.into_body();
        if head.method.row().call == CallShape::BothWays {
            let received = tally.received_of();
            responder.tally = Some(tally);
            let requests =
                |place| Requests::Grpc(Incoming::new(body, self.receive_bytes_max, gzip, place, received));
            return self.on_stream(account, &head, requests, Responder::Grpc(responder));
        }
        responder.tally = Some(tally);
        let mut assembler = Assembler::new(self.receive_bytes_max);
        loop {
            match body.poll_data(cx) {
                Poll::Ready(Some(Ok(piece))) => {
                    if let Err(error) = assembler.push(piece) {
                        return responder.refuse(&framing_status(&error));
                    }
                    // The window these bytes took is not given back here: h2 does it when the call
                    // ends, so a connection's window also bounds what it has in flight.
                    if body.is_end_stream() {
                        break;
                    }
                }
                Poll::Ready(None) => break,
                // Reset by the client.
                Poll::Ready(Some(Err(_))) => return,
                Poll::Pending => return self.spawn_upload(account, head, body, assembler, responder),
            }
        }
        drop(body);
        self.on_body(account, &head, assembler, responder);
    }

    /// Gives a body that comes in pieces a task of its own.
    fn spawn_upload(
        self: &Rc<Self>,
        account: &Rc<Account>,
        head: Head,
        mut body: RecvStream,
        assembler: Assembler,
        responder: response::Responder,
    ) {
        let Some(upload) = Upload::begin(&self.places, &account.upload_bytes) else {
            return responder.refuse(&overloaded("too many unfinished requests"));
        };
        let (shard, account) = (Rc::clone(self), Rc::clone(account));
        glommio::spawn_local(async move {
            let mut arriving = Arriving { assembler, responder };
            let collected =
                shard.collect(&account, head.client_deadline_ms, &mut body, &mut arriving, upload).await;
            drop(body);
            let Arriving { assembler, mut responder } = arriving;
            match collected {
                Ok(turn) => {
                    responder.turn = turn;
                    shard.on_body(&account, &head, assembler, responder);
                }
                Err(Torn::Refused(status)) => responder.refuse(&status),
                // Say so to h2, which forgets the stream.
                Err(Torn::Gone) => responder.abandon(),
            }
        })
        .detach();
    }

    /// A request is there in full.
    fn on_body(
        self: &Rc<Self>,
        account: &Rc<Account>,
        head: &Head,
        assembler: Assembler,
        responder: response::Responder,
    ) {
        let message = assembler.finish().map_err(|error| framing_status(&error));
        match message.and_then(|message| unpack(responder.gzip, message, self.receive_bytes_max)) {
            Ok(payload) => {
                if let Some(tally) = &responder.tally {
                    tally.received(payload.len());
                }
                self.on_call(account, head, payload, Responder::Grpc(responder));
            }
            Err(status) => responder.refuse(&status),
        }
    }
}

/// The message as it was before it was compressed, of at most `bytes_max`.
pub(super) fn unpack(gzip: bool, message: Message, bytes_max: u32) -> Result<Bytes, Status> {
    match (message.compressed, gzip) {
        (false, _) => Ok(message.payload),
        (true, true) => gzip::inflate(&message.payload, bytes_max).map(Bytes::from),
        (true, false) => Err(Status {
            code: Code::Internal,
            message: "grpc: compressed flag set with identity or empty encoding".into(),
        }),
    }
}
