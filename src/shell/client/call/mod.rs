//! A call from its request headers to the command that is asked of the member, and back.
//!
//! The common call never gets a task: its body is there when its headers are, it is decoded and
//! submitted in the connection's turn, and its answer is written by whoever brings it. Only a body
//! that arrives in pieces and a method that streams get one.

pub(super) mod account;
mod ask;
mod election;
mod end;
mod keep_alive;
pub(super) mod leadership;
pub(super) mod local_watch;
mod lock;
pub(super) mod outbox;
pub(super) mod place;
mod recipe;
pub(super) mod serial;
pub(super) mod slots;
mod streams;
pub(super) mod watch;

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use h2::{Reason, RecvStream};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Method as HttpMethod, Request as HttpRequest, StatusCode};
use prost::Message as _;

use super::Backend;
use super::ClientShard;
use super::grpc::gzip;
use super::grpc::response::{self, GRPC_ENCODING, Responder};
use crate::pb::{etcdserverpb as pb, health};
use crate::request::{Answer, Command, Outcome, Query, Read, Refusal, Response};
use crate::rpc::api_version::ApiVersion;
use crate::rpc::framing::{Assembler, FramingError, Message, is_grpc_content_type, parse_timeout};
use crate::rpc::headers::Note;
use crate::rpc::method::{Becomes, CallShape, HeaderShape, Weight};
use crate::rpc::{Code, Method, Status, convert, status};
use crate::types::Term;
use account::{Account, Charge};
use keep_alive::Answers;
use leadership::Wait;
use place::Upload;

const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const HAS_LEADER: HeaderName = HeaderName::from_static("hasleader");
const CLIENT_API_VERSION: HeaderName = HeaderName::from_static("client-api-version");

const NS_PER_MS: u64 = 1_000_000;

/// What the request headers say.
pub(super) struct Head {
    pub(super) method: Method,
    /// When the client stops waiting.
    pub(super) client_deadline_ms: Option<u64>,
    pub(super) gzip: bool,
    /// The client wants no service from a member that knows no leader.
    pub(super) needs_leader: bool,
    api_version: ApiVersion,
}

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

/// The last value of a header, which is the one that gRPC-Go goes by.
fn last<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a [u8]> {
    headers.get_all(name).iter().next_back().map(HeaderValue::as_bytes)
}

fn refused(http: StatusCode, code: Code, message: String) -> Refused {
    Refused { http, status: Status { code, message: message.into() } }
}

/// Reads the request headers, in the order in which gRPC-Go complains about them.
fn read_head<T>(request: &HttpRequest<T>, note: Option<Note>, now_ms: u64) -> Result<Head, Refused> {
    let note = note.unwrap_or_default();
    if let Some(refusal) = note.refusal {
        return Err(refusal.into());
    }
    let headers = request.headers();
    if !headers.get_all(CONTENT_TYPE).iter().any(|value| is_grpc_content_type(value.as_bytes())) {
        let text = String::from_utf8_lossy(last(headers, &CONTENT_TYPE).unwrap_or_default());
        let message = format!("invalid gRPC request content-type {text:?}");
        return Err(refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, Code::InvalidArgument, message));
    }
    let mut timeout_ns = None;
    for value in headers.get_all(GRPC_TIMEOUT) {
        match parse_timeout(value.as_bytes()) {
            Ok(ns) => timeout_ns = Some(ns),
            Err(why) => {
                let message = format!("malformed grpc-timeout: {why}");
                return Err(refused(StatusCode::BAD_REQUEST, Code::Internal, message));
            }
        }
    }
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
    let gzip = match last(headers, &GRPC_ENCODING) {
        None | Some(b"" | b"identity") => false,
        Some(b"gzip") => true,
        Some(other) => {
            let name = String::from_utf8_lossy(other);
            let message = format!("grpc: Decompressor is not installed for grpc-encoding {name:?}");
            return Err(Status { code: Code::Unimplemented, message: message.into() }.into());
        }
    };
    let api_version = headers.get(CLIENT_API_VERSION).map_or(&b""[..], |value| value.as_bytes());
    let api_version = ApiVersion::parse(api_version);
    let needs_leader = headers.get(HAS_LEADER).is_some_and(|value| value.as_bytes() == b"true");
    Ok(Head { method, client_deadline_ms, gzip, needs_leader, api_version })
}

pub(super) fn framing_status(error: &FramingError) -> Status {
    let code = match error {
        FramingError::TooLarge { .. } => Code::ResourceExhausted,
        _ => Code::Internal,
    };
    Status { code, message: error.to_string().into() }
}

/// The status of a call whose connection makes the shard hold too much already.
pub(super) fn overloaded(what: &'static str) -> Status {
    Status { code: Code::ResourceExhausted, message: what.into() }
}

/// Who gets an answer.
pub(super) enum Recipient {
    /// The stream of a call that has one answer.
    Unary { responder: Responder, gzip: bool, header: HeaderShape },
    /// The task of a call that has many.
    Task(Rc<Mailbox>),
    /// The task of a stream of requests, whose answers go out in the requests' order.
    InOrder { answers: Rc<Answers>, number: u64 },
}

/// A command that is ready to be submitted.
pub(super) struct Deferred {
    pub(super) weight: Weight,
    pub(super) request_bytes: usize,
    pub(super) deadline_ms: u64,
    pub(super) is_client_deadline: bool,
    pub(super) command: Command,
    pub(super) recipient: Recipient,
}

/// A call that is with the backend.
pub(super) struct Submitted {
    pub(super) account: Rc<Account>,
    charge: Charge,
    is_client_deadline: bool,
    wait: Wait,
    /// None: the client has left or was told that it took too long; the work still goes on and is
    /// still counted.
    recipient: Option<Recipient>,
}

/// Where a task waits for the answer to its command.
#[derive(Default)]
pub(super) struct Mailbox {
    answer: RefCell<Option<Result<(Term, Response), Status>>>,
    waker: RefCell<Option<Waker>>,
}

impl Mailbox {
    fn put(&self, answer: Result<(Term, Response), Status>) {
        self.answer.replace(Some(answer));
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    pub(super) fn poll_take(&self, cx: &mut Context<'_>) -> Poll<Result<(Term, Response), Status>> {
        if let Some(answer) = self.answer.take() {
            return Poll::Ready(answer);
        }
        self.waker.replace(Some(cx.waker().clone()));
        Poll::Pending
    }
}

impl<B: Backend> ClientShard<B> {
    /// A request's headers have arrived, and often its body too.
    pub(super) fn on_request(
        self: &Rc<Self>,
        account: &Rc<Account>,
        cx: &mut Context<'_>,
        request: HttpRequest<RecvStream>,
        note: Option<Note>,
        mut responder: Responder,
    ) {
        self.counters.count(|counters| counters.requests += 1);
        let head = match read_head(&request, note, self.now_ms()) {
            Ok(head) => head,
            Err(refused) => {
                return response::send_http_status(&mut responder, refused.http, &refused.status);
            }
        };
        let mut body = request.into_body();
        if head.method.row().call == CallShape::BothWays {
            if let Err(status) = self.admit(&head) {
                return response::send_status(&mut responder, &status);
            }
            return self.spawn_bidi(account, &head, body, responder);
        }
        let mut assembler = Assembler::new(self.receive_bytes_max);
        loop {
            match body.poll_data(cx) {
                Poll::Ready(Some(Ok(piece))) => {
                    if let Err(error) = assembler.push(piece) {
                        return response::send_status(&mut responder, &framing_status(&error));
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

    /// Whether this member, as it stands, serves the call at all.
    fn admit(&self, head: &Head) -> Result<(), Status> {
        if self.leadership.is_learner() && !head.method.row().suits_learner {
            return Err(head.api_version.refusal_of_learner());
        }
        // A learner looks at a range first: it may be one that it does not serve.
        let is_judged_later = self.leadership.is_learner() && head.method == Method::Range;
        if head.api_version == ApiVersion::Malformed && !is_judged_later {
            return Err(status::INVALID_CLIENT_API_VERSION);
        }
        if head.needs_leader && self.leadership.is_leaderless() {
            return Err(status::NO_LEADER);
        }
        Ok(())
    }

    /// Gives a body that comes in pieces a task of its own.
    fn spawn_upload(
        self: &Rc<Self>,
        account: &Rc<Account>,
        head: Head,
        body: RecvStream,
        assembler: Assembler,
        mut responder: Responder,
    ) {
        let Some(upload) = Upload::begin(&self.places, &account.upload_bytes) else {
            return response::send_status(&mut responder, &overloaded("too many unfinished requests"));
        };
        let (shard, account) = (Rc::clone(self), Rc::clone(account));
        glommio::spawn_local(async move {
            match shard.collect(&head, body, assembler, upload).await {
                Some(Ok(assembler)) => shard.on_body(&account, &head, assembler, responder),
                Some(Err(status)) => response::send_status(&mut responder, &status),
                // The client gave up: say so to h2, which forgets the stream.
                None => responder.send_reset(Reason::CANCEL),
            }
        })
        .detach();
    }

    /// Collects the rest of a body. None: the stream is gone.
    async fn collect(
        &self,
        head: &Head,
        mut body: RecvStream,
        mut assembler: Assembler,
        mut upload: Upload,
    ) -> Option<Result<Assembler, Status>> {
        let alarm = head.client_deadline_ms.map(|deadline_ms| self.set_alarm(deadline_ms));
        if body.flow_control().release_capacity(assembler.len()).is_err() {
            return None;
        }
        if !upload.grow(assembler.len()) {
            return Some(Err(overloaded("too many unfinished request bytes")));
        }
        loop {
            let piece = poll_fn(|cx| {
                if alarm.as_ref().is_some_and(|alarm| alarm.poll_fired(cx).is_ready()) {
                    return Poll::Ready(Err(status::CONTEXT_DEADLINE_EXCEEDED));
                }
                if upload.poll_refused(cx).is_ready() {
                    return Poll::Ready(Err(overloaded("unfinished request has not moved for too long")));
                }
                body.poll_data(cx).map(Ok)
            });
            let piece = match piece.await {
                Ok(Some(Ok(piece))) => piece,
                Ok(None) => return Some(Ok(assembler)),
                Ok(Some(Err(_))) => return None,
                Err(status) => return Some(Err(status)),
            };
            let bytes = piece.len();
            if let Err(error) = assembler.push(piece) {
                return Some(Err(framing_status(&error)));
            }
            if !upload.grow(bytes) {
                return Some(Err(overloaded("too many unfinished request bytes")));
            }
            if body.flow_control().release_capacity(bytes).is_err() {
                return None;
            }
        }
    }

    /// A request is there in full.
    fn on_body(
        self: &Rc<Self>,
        account: &Rc<Account>,
        head: &Head,
        assembler: Assembler,
        mut responder: Responder,
    ) {
        let message = assembler.finish().map_err(|error| framing_status(&error));
        match message.and_then(|message| self.unpack(head.gzip, message)) {
            Ok(payload) => self.dispatch(account, head, payload, responder),
            Err(status) => response::send_status(&mut responder, &status),
        }
    }

    pub(super) fn unpack(&self, gzip: bool, message: Message) -> Result<Bytes, Status> {
        match (message.compressed, gzip) {
            (false, _) => Ok(message.payload),
            (true, true) => gzip::inflate(&message.payload, self.receive_bytes_max).map(Bytes::from),
            (true, false) => Err(Status {
                code: Code::Internal,
                message: "grpc: compressed flag set with identity or empty encoding".into(),
            }),
        }
    }

    fn dispatch(
        self: &Rc<Self>,
        account: &Rc<Account>,
        head: &Head,
        payload: Bytes,
        mut responder: Responder,
    ) {
        if let Err(status) = self.admit(head) {
            return response::send_status(&mut responder, &status);
        }
        let request_bytes = payload.len();
        let row = head.method.row();
        let command = match row.becomes {
            Becomes::Command(_) | Becomes::Read | Becomes::Member => {
                convert::command(head.method, payload, &self.limits, || self.lease_ids.positive())
            }
            Becomes::Recipe(recipe) => return self.spawn_recipe(account, recipe, head, payload, responder),
            Becomes::Here => return self.answer_here(account, head, payload, responder),
            Becomes::Watch | Becomes::LeaseStream => {
                unreachable!("a stream of requests has a task and is never collected")
            }
            Becomes::NotYet => unreachable!("it was not found"),
        };
        match command {
            Ok(Command::Read(Read { linearizable: true, .. })) if self.leadership.is_learner() => {
                response::send_status(&mut responder, &head.api_version.refusal_of_learner());
            }
            Ok(_) if head.api_version == ApiVersion::Malformed => {
                response::send_status(&mut responder, &status::INVALID_CLIENT_API_VERSION);
            }
            Ok(Command::Read(Read { linearizable, query: Query::RangeSlice(first) })) => {
                self.spawn_range_stream(account, head, linearizable, *first, responder);
            }
            Ok(command) => {
                let weight = row.weigh(&command);
                let recipient = Recipient::Unary { responder, gzip: head.gzip, header: row.header };
                self.submit(account, weight, request_bytes, head.client_deadline_ms, command, recipient);
            }
            Err(status) => response::send_status(&mut responder, &status),
        }
    }

    /// Answers a call that needs nobody else.
    fn answer_here(
        self: &Rc<Self>,
        account: &Rc<Account>,
        head: &Head,
        payload: Bytes,
        mut responder: Responder,
    ) {
        let body = match head.method {
            // There is nothing to defragment.
            Method::Defragment => decode::<pb::DefragmentRequest>(payload).map(|_| Vec::new()),
            Method::HealthCheck => match decode::<health::HealthCheckRequest>(payload) {
                Ok(request) if request.service.is_empty() => {
                    Ok(streams::health_response(true).encode_to_vec())
                }
                Ok(_) => Err(status::UNKNOWN_HEALTH_SERVICE),
                Err(status) => Err(status),
            },
            Method::HealthList => {
                decode::<health::HealthListRequest>(payload).map(|_| streams::health_list().encode_to_vec())
            }
            Method::HealthWatch => match decode(payload) {
                Ok(request) => return self.spawn_health_watch(account, head, &request, responder),
                Err(status) => Err(status),
            },
            other => unreachable!("{other:?} is not answered here"),
        };
        match body {
            Ok(body) => {
                response::send_message(&self.templates, account, &mut responder, head.gzip, |_| {}, body);
            }
            Err(status) => response::send_status(&mut responder, &status),
        }
    }

    /// Submits a command, or queues it until there is room for its answer.
    pub(super) fn submit(
        &self,
        account: &Rc<Account>,
        weight: Weight,
        request_bytes: usize,
        client_deadline_ms: Option<u64>,
        command: Command,
        recipient: Recipient,
    ) {
        let own_ms = self.now_ms() + self.config.request_timeout_ms();
        let is_client_deadline = client_deadline_ms.is_some_and(|client| client < own_ms);
        let deadline_ms = client_deadline_ms.map_or(own_ms, |client| client.min(own_ms));
        let call = Deferred { weight, request_bytes, deadline_ms, is_client_deadline, command, recipient };
        // A small answer overtakes reads that wait; it waits itself only where nothing may leave.
        let in_turn = weight == Weight::Light || account.backlog_len() == 0;
        let may_leave = in_turn && !self.is_blocked() && !account.is_full() && account.may_ask(weight);
        if may_leave {
            self.submit_now(account, call);
        } else if account.may_defer(request_bytes) {
            account.defer(call);
        } else {
            self.answer(account, call.recipient, Err(overloaded("too many unread responses")));
        }
    }

    /// Gives a command to the backend. When the rings are full the call waits at the head of its
    /// connection's queue, and no connection of the shard is read until `ready`.
    fn submit_now(&self, account: &Rc<Account>, call: Deferred) {
        let Deferred { weight, request_bytes, deadline_ms, is_client_deadline, command, recipient } = call;
        let charge = account.charge(weight, request_bytes);
        let waiter = Submitted {
            account: Rc::clone(account),
            charge,
            is_client_deadline,
            wait: Wait::of(&command),
            recipient: Some(recipient),
        };
        let ticket = self.calls.borrow_mut().insert(deadline_ms, waiter);
        let Err(command) = self.backend.submit(ticket, command) else { return };
        let waiter = self.calls.borrow_mut().take(ticket).expect("the backend did not take the ticket");
        account.settle(charge, None);
        self.set_blocked();
        let recipient = waiter.recipient.expect("it was put there above");
        let call = Deferred { weight, request_bytes, deadline_ms, is_client_deadline, command, recipient };
        account.defer_first(call);
    }

    /// Submits what the connection's queue may submit now.
    pub(super) fn submit_deferred(&self, account: &Rc<Account>) {
        while let Some(weight) = account.next_deferred() {
            if self.is_blocked() || account.is_full() || !account.may_ask(weight) {
                return;
            }
            let call = account.take_deferred().expect("there is a next one");
            self.submit_now(account, call);
        }
    }

    /// An answer has come from the member.
    pub(super) fn on_answer(&self, waiter: Submitted, result: Result<Answer, Refusal>) {
        let Submitted { account, charge, recipient, .. } = waiter;
        let answer = match result {
            Ok(Answer { term, outcome }) => match outcome {
                Outcome::Ok(response) => Ok((term, response)),
                Outcome::Err(rejection) => Err(Status::from(&rejection)),
            },
            Err(refusal) => Err(Status::from(refusal)),
        };
        let bytes = answer.as_ref().ok().map(|(_, response)| response.body.len());
        account.settle(charge, bytes);
        if let Some(recipient) = recipient {
            self.answer(&account, recipient, answer);
        }
        if account.wants_turn() {
            account.wake();
        }
    }

    fn answer(&self, account: &Rc<Account>, recipient: Recipient, answer: Result<(Term, Response), Status>) {
        if account.has_ended() {
            return;
        }
        match (recipient, answer) {
            (Recipient::Task(mailbox), answer) => mailbox.put(answer),
            (Recipient::InOrder { answers, number }, answer) => answers.put(number, answer),
            (Recipient::Unary { mut responder, .. }, Err(status)) => {
                response::send_status(&mut responder, &status);
            }
            (Recipient::Unary { mut responder, gzip, header }, Ok((term, response))) => {
                let head = |out: &mut Vec<u8>| match header {
                    HeaderShape::Full => self.headers.put(out, response.revision, term),
                    HeaderShape::NoRevision => self.headers.put(out, 0, term),
                    HeaderShape::Absent => {}
                };
                response::send_message(&self.templates, account, &mut responder, gzip, head, response.body);
            }
        }
    }

    /// Ends the waits that are over. What is with the backend stays counted until its answer comes,
    /// or for one more timeout: the backend has given it up by then.
    pub(super) fn expire_calls(&self) {
        let now_ms = self.now_ms();
        let mut late = Vec::new();
        self.calls.borrow_mut().expire(now_ms, |mut waiter| match waiter.recipient.take() {
            Some(recipient) => {
                late.push((Rc::clone(&waiter.account), recipient, waiter.is_client_deadline, waiter.wait));
                Some((now_ms + self.config.request_timeout_ms(), waiter))
            }
            None => {
                waiter.account.settle(waiter.charge, None);
                None
            }
        });
        for (account, recipient, is_client_deadline, wait) in late {
            self.counters.count(|counters| counters.timeouts += 1);
            self.answer(&account, recipient, Err(self.timeout_status(is_client_deadline, wait)));
        }
    }

    /// Ends the waits of queued calls that are over.
    pub(super) fn expire_deferred(&self, account: &Rc<Account>) {
        // What the shard asks for itself has no client to wait for.
        if !Rc::ptr_eq(account, &self.own) && !self.is_blocked() && account.waits_for_client() {
            account.put_off(self.now_ms() + self.config.request_timeout_ms());
        }
        for call in account.take_expired(self.now_ms()) {
            self.counters.count(|counters| counters.timeouts += 1);
            let status = self.timeout_status(call.is_client_deadline, Wait::of(&call.command));
            self.answer(account, call.recipient, Err(status));
        }
    }

    fn timeout_status(&self, is_client_deadline: bool, wait: Wait) -> Status {
        if is_client_deadline {
            return status::CONTEXT_DEADLINE_EXCEEDED;
        }
        // It waited for exactly the request timeout.
        self.leadership.timed_out(wait, self.now_ms().saturating_sub(self.config.request_timeout_ms()))
    }

    /// A connection has ended: nobody waits for its answers.
    pub(super) fn forget_calls(&self, account: &Rc<Account>) {
        if account.calls() == 0 {
            return;
        }
        let mut gone = Vec::new();
        self.calls.borrow_mut().replace_each(|mut waiter| {
            if waiter.account.id == account.id {
                gone.push(waiter.recipient.take());
            }
            waiter
        });
    }
}

pub(super) fn decode<M: prost::Message + Default>(payload: Bytes) -> Result<M, Status> {
    M::decode(payload).map_err(|error| Status::undecodable(&error.to_string()))
}
