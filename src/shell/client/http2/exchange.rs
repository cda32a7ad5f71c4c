//! One request's answer, written to its stream by whoever answers.

use std::borrow::Cow;
use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, SendStream};
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, CONTENT_LENGTH,
    CONTENT_TYPE, HeaderName, HeaderValue,
};
use http::{Response as HttpResponse, StatusCode};

use crate::rpc::http1::answer::{ALLOWED_HEADERS, ALLOWED_METHODS};
use crate::rpc::web::AnswerHead;
use crate::shell::client::call::account::Account;
use crate::shell::client::call::body::Body;
use crate::shell::client::responder::Gone;

/// What a request is answered on. Dropped without an answer, its stream is reset.
pub(in crate::shell::client) struct Exchange {
    stream: RefCell<SendResponse<Body>>,
    account: Rc<Account>,
    /// The request was HEAD: no body is sent.
    is_headless: bool,
    /// Whose scripts may read the answer.
    origin: Option<Cow<'static, str>>,
}

/// An answer that has begun.
pub(in crate::shell::client) struct Outgoing {
    stream: RefCell<SendStream<Body>>,
    account: Rc<Account>,
}

impl Exchange {
    pub(super) fn new(
        stream: SendResponse<Body>,
        account: &Rc<Account>,
        is_headless: bool,
        origin: Option<Cow<'static, str>>,
    ) -> Self {
        Self { stream: RefCell::new(stream), account: Rc::clone(account), is_headless, origin }
    }

    fn head(&self, head: &AnswerHead) -> HttpResponse<()> {
        let mut response = HttpResponse::new(());
        *response.status_mut() = StatusCode::from_u16(head.status).expect("answers have known statuses");
        let headers = response.headers_mut();
        if !head.content_type.is_empty() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(head.content_type));
        }
        for (name, value) in &head.headers {
            // Some values are a client's words; those that cannot stand in a header are left out.
            let name = HeaderName::from_bytes(name.as_bytes());
            if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(value)) {
                headers.append(name, value);
            }
        }
        if let Some(origin) = self.origin.as_deref().and_then(|origin| HeaderValue::from_str(origin).ok()) {
            headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(ALLOWED_METHODS));
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(ALLOWED_HEADERS));
        }
        response
    }

    /// Answers with a head and the body that `write` appends.
    pub(in crate::shell::client) fn answer(self, head: &AnswerHead, write: impl FnOnce(&mut Vec<u8>)) {
        let mut out = Vec::with_capacity(256);
        write(&mut out);
        let mut response = self.head(head);
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(out.len()));
        let is_over = self.is_headless || out.is_empty();
        // A send that fails has lost its client, who cannot be told.
        let Ok(mut stream) = self.stream.into_inner().send_response(response, is_over) else { return };
        if !is_over {
            stream.send_data(Body::new(&self.account, out.into()), true).ok();
        }
    }

    /// Begins an answer of any number of messages. None: the client has left.
    pub(in crate::shell::client) fn open(self, head: &AnswerHead) -> Option<Outgoing> {
        let response = self.head(head);
        let stream = self.stream.into_inner().send_response(response, false).ok()?;
        Some(Outgoing { stream: RefCell::new(stream), account: self.account })
    }

    /// Whether the client has left. If not, the task is woken when it does.
    pub(in crate::shell::client) fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.stream.borrow_mut().poll_reset(cx).map(drop)
    }
}

impl Outgoing {
    /// Sends a piece.
    pub(in crate::shell::client) fn send(&self, body: Body) -> Result<(), Gone> {
        self.stream.borrow_mut().send_data(body, false).map_err(|_| Gone)
    }

    /// Whether the client has left. If not, the task is woken when it does.
    pub(in crate::shell::client) fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.stream.borrow_mut().poll_reset(cx).map(drop)
    }

    /// Ends the answer well, behind `last`.
    pub(in crate::shell::client) fn end(self, last: Vec<u8>) {
        self.stream.into_inner().send_data(Body::new(&self.account, Bytes::from(last)), true).ok();
    }

    /// Ends it so that the client sees that something is missing.
    pub(in crate::shell::client) fn cut(self) {
        self.stream.into_inner().send_reset(Reason::INTERNAL_ERROR);
    }
}
