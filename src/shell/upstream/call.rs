//! A call that a member was asked: its requests on their way out, its answers as they come.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use h2::client::ResponseFuture;
use h2::{Reason, RecvStream, SendStream};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, TE};
use http::{Request, StatusCode};

use crate::rpc::framing::{PREFIX_BYTES, is_grpc_content_type, percent_decode, put_prefix, timeout_text};
use crate::rpc::{Code, Status, hops, not_older};

const TOKEN: HeaderName = HeaderName::from_static("token");
const HAS_LEADER: HeaderName = HeaderName::from_static("hasleader");
const CLIENT_API_VERSION: HeaderName = HeaderName::from_static("client-api-version");
const NOT_OLDER_THAN: HeaderName = HeaderName::from_static(not_older::NOT_OLDER_THAN);
const HOPS: HeaderName = HeaderName::from_static(hops::HOPS);
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// What a caller has said besides its request.
#[derive(Debug, Clone, Default)]
pub(in crate::shell) struct Said {
    pub token: Option<Bytes>,
    pub needs_leader: bool,
    /// It speaks etcd's API of 3.6 or later.
    pub is_recent: bool,
    /// 0: anything.
    pub not_older_than: i64,
    /// Proxies that it has come through before this one.
    pub hops: u8,
}

impl Said {
    /// The same, as members read it.
    fn put(&self, headers: &mut HeaderMap) {
        // One that cannot be in a header is nobody's.
        if let Some(token) = &self.token
            && let Ok(mut value) = HeaderValue::from_maybe_shared(token.clone())
        {
            value.set_sensitive(true);
            // etcd reads either name; the older is known to all its versions.
            headers.insert(TOKEN, value);
        }
        if self.needs_leader {
            headers.insert(HAS_LEADER, HeaderValue::from_static("true"));
        }
        if self.is_recent {
            headers.insert(CLIENT_API_VERSION, HeaderValue::from_static("3.6"));
        }
        if 0 < self.not_older_than {
            headers.insert(NOT_OLDER_THAN, HeaderValue::from(self.not_older_than));
        }
        headers.insert(HOPS, HeaderValue::from(u16::from(self.hops) + 1));
    }
}

/// What is asked.
#[derive(Debug, Clone)]
pub(in crate::shell) struct Asked {
    pub path: &'static str,
    pub said: Said,
    pub timeout: Option<Duration>,
    pub first: Option<Bytes>,
    /// The first request is the only one.
    pub is_unary: bool,
    /// Where no endpoint answers, it is not waited for one that may.
    pub fails_fast: bool,
}

impl Asked {
    /// The request's head.
    pub(super) fn request(&self, base: &str) -> Result<Request<()>, String> {
        let mut request =
            Request::post(format!("{base}{}", self.path)).body(()).map_err(|error| error.to_string())?;
        let headers = request.headers_mut();
        self.said.put(headers);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(TE, HeaderValue::from_static("trailers"));
        if let Some(timeout) = self.timeout {
            headers.insert(
                GRPC_TIMEOUT,
                HeaderValue::from_str(&timeout_text(timeout.as_millis())).expect("digits and a unit"),
            );
        }
        Ok(request)
    }
}

/// A call counts as under way for as long as this lives.
struct UnderWay(Rc<Cell<usize>>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// A message behind its prefix.
pub(super) fn framed(message: &Bytes) -> Bytes {
    let mut framed = BytesMut::with_capacity(PREFIX_BYTES + message.len());
    put_prefix(&mut framed, false, u32::try_from(message.len()).expect("requests are bounded"));
    framed.put_slice(message);
    framed.freeze()
}

/// What came is no answer of the call.
pub(in crate::shell) fn bad_answer(what: &'static str) -> Status {
    Status { code: Code::Internal, message: what.into() }
}

/// Why a call has no more answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::shell) enum Failure {
    /// The other side did not begin with it.
    Untouched(String),
    /// The connection broke, or what came is no answer. Nobody knows what became of it.
    Broken(String),
    /// The member's own word.
    Status(Status),
}

impl Failure {
    /// What the caller is told.
    pub(in crate::shell) fn status(self) -> Status {
        match self {
            Self::Status(status) => status,
            Self::Untouched(reason) | Self::Broken(reason) => {
                let message = format!("error reading from server: {reason}");
                Status { code: Code::Unavailable, message: message.into() }
            }
        }
    }

    /// Whether another member may have an answer.
    pub(in crate::shell) fn is_members_own(&self) -> bool {
        match self {
            Self::Untouched(_) | Self::Broken(_) => true,
            Self::Status(status) => status.code == Code::Unavailable,
        }
    }
}

impl From<h2::Error> for Failure {
    fn from(error: h2::Error) -> Self {
        match error.reason() {
            Some(Reason::REFUSED_STREAM) => Self::Untouched(error.to_string()),
            // The member, or whoever is before it, had no time left.
            Some(Reason::CANCEL) if error.is_reset() => {
                Self::Status(Status { code: Code::Canceled, message: error.to_string().into() })
            }
            _ => Self::Broken(error.to_string()),
        }
    }
}

enum Answer {
    Head(ResponseFuture),
    Body(RecvStream),
    Ended,
}

/// A call under way. Dropped, it is given up.
pub(in crate::shell) struct Call {
    requests: SendStream<Bytes>,
    answer: Answer,
    _under_way: UnderWay,
}

impl Call {
    /// One that has begun, and is counted in `calls`.
    pub(super) fn new(
        response: ResponseFuture,
        requests: SendStream<Bytes>,
        calls: &Rc<Cell<usize>>,
    ) -> Self {
        calls.set(calls.get() + 1);
        Self { requests, answer: Answer::Head(response), _under_way: UnderWay(Rc::clone(calls)) }
    }

    /// Whether the window has room for another request. The task is woken when it has.
    pub(in crate::shell) fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.requests.reserve_capacity(1);
        if 0 < self.requests.capacity() {
            return Poll::Ready(());
        }
        match self.requests.poll_capacity(cx) {
            // Its end is told where answers are read.
            Poll::Ready(None | Some(Err(_))) | Poll::Pending => Poll::Pending,
            Poll::Ready(Some(Ok(0))) => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Poll::Ready(Some(Ok(_))) => Poll::Ready(()),
        }
    }

    /// Sends another request. That the call has ended is told where answers are read.
    pub(in crate::shell) fn send(&mut self, message: &Bytes) {
        drop(self.requests.send_data(framed(message), false));
    }

    /// There will be no more requests.
    pub(in crate::shell) fn end_requests(&mut self) {
        drop(self.requests.send_data(Bytes::new(), true));
    }

    /// The next bytes of the answers' frames; None: the call has ended well.
    pub(in crate::shell) fn poll_piece(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, Failure>> {
        loop {
            match &mut self.answer {
                Answer::Head(response) => {
                    let (head, body) = ready!(Pin::new(response).poll(cx))?.into_parts();
                    if let Some(status) = status_of(&head.headers) {
                        self.answer = Answer::Ended;
                        return Poll::Ready(ended(status));
                    }
                    check(head.status, &head.headers)?;
                    self.answer = Answer::Body(body);
                }
                Answer::Body(body) => {
                    if let Some(piece) = ready!(body.poll_data(cx)) {
                        return Poll::Ready(Ok(Some(piece?)));
                    }
                    let trailers = ready!(body.poll_trailers(cx))?;
                    self.answer = Answer::Ended;
                    let status = trailers.as_ref().and_then(status_of);
                    let without = || Failure::Broken("an answer without a status".to_owned());
                    return Poll::Ready(status.map_or_else(|| Err(without()), ended));
                }
                Answer::Ended => return Poll::Ready(Ok(None)),
            }
        }
    }

    /// Bytes were passed on: as many more may come.
    pub(in crate::shell) fn release(&mut self, bytes: usize) {
        if let Answer::Body(body) = &mut self.answer {
            // That it has ended is told where answers are read.
            drop(body.flow_control().release_capacity(bytes));
        }
    }
}

fn ended(status: Status) -> Result<Option<Bytes>, Failure> {
    if status.code == Code::Ok { Ok(None) } else { Err(Failure::Status(status)) }
}

/// Whether what answers is gRPC.
fn check(status: StatusCode, headers: &HeaderMap) -> Result<(), Failure> {
    let is_grpc = headers.get_all(CONTENT_TYPE).iter().any(|value| is_grpc_content_type(value.as_bytes()));
    if status == StatusCode::OK && is_grpc {
        return Ok(());
    }
    let code = match status {
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
            Code::Unavailable
        }
        StatusCode::NOT_FOUND => Code::Unimplemented,
        _ => Code::Unknown,
    };
    let message = format!("unexpected HTTP status code received from server: {status}");
    Err(Failure::Status(Status { code, message: message.into() }))
}

/// The status that headers or trailers carry, if they do.
fn status_of(headers: &HeaderMap) -> Option<Status> {
    let number = headers.get(GRPC_STATUS)?;
    let number = number.to_str().ok().and_then(|number| number.parse().ok());
    let code = number.map_or(Code::Unknown, Code::of_number);
    let message = headers.get(GRPC_MESSAGE).map(|value| String::from_utf8_lossy(value.as_bytes()));
    Some(Status { code, message: percent_decode(&message.unwrap_or_default()).into() })
}
