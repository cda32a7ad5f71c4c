//! The turns of an HTTP/1 connection: a head, its body, its answer, and the next head.
//!
//! A turn is one poll of the connection's task, as with HTTP/2: what waited is submitted, what the socket has is
//! read and taken, what was answered is gathered and leaves in one system call.
//!
//! | the connection | is bounded by | and ends |
//! |---|---|---|
//! | has said nothing since its last answer, or has not ended its head | `IDLE_MAX` of the shard, the longest first | after `http_idle` |
//! | sends a head | `HEAD_BYTES_MAX`, counted as headers in its account | with 431 |
//! | sends a body | the longest text of a message, counted as an upload; a large one waits for its turn | with 429; `http_idle` after its last byte |
//! | waits for its answer | the call's deadline | |
//! | sends requests of a stream | `web::incoming`: it is not read while they wait | with the call |
//! | does not read | the shard's unread answers: see `account` | when the shard needs its memory |
//!
//! A client that ends its side of the connection has left: its streams and waiting calls are given up. The answer
//! to a call that is under way is still sent, if there is one.
//!
//! Invariants: one exchange at a time; behind a request whose body was not taken to its end nothing is read.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Buf as _;

use super::exchange::{Exchange, Out, Shape, Shared, State};
use super::websocket::{self, Frames, Said};
use crate::rpc::http1::answer::{BodyFraming, CONTINUE, put_head};
use crate::rpc::http1::{Decoder, Head as HttpHead, Length, Parsed, parse};
use crate::rpc::method::CallShape;
use crate::rpc::web::{self, AnswerHead, Ask, Header, Route, TEXT};
use crate::rpc::{Code, Method, Status, status};
use crate::shell::client::call::account::Account;
use crate::shell::client::call::place::Upload;
use crate::shell::client::call::turns::{LARGE_BYTES_MIN, Turn};
use crate::shell::client::call::{Head, overloaded};
use crate::shell::client::connection::Ending;
use crate::shell::client::grpc::h2_io::Io;
use crate::shell::client::responder::{Requests, Responder};
use crate::shell::client::silence::Silence;
use crate::shell::client::speaks::Speaks;
use crate::shell::client::web::gateway::{self, messages_of, text_bytes_max};
use crate::shell::client::web::incoming::{Inbound, Incoming};
use crate::shell::client::web::sink::Sink;
use crate::shell::client::web::taker::Taker;
use crate::shell::client::web::v2;
use crate::shell::client::{Backend, ClientShard};

/// Idle connections of a shard, and those whose head is not whole.
pub(in crate::shell::client) const IDLE_MAX: usize = 4096;

/// Largest head.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// Bytes that are read ahead of the next request while an answer is waited for.
const AHEAD_BYTES_MAX: usize = 16 << 10;

/// Bytes that wait for the socket before more are gathered.
const GATHER_BYTES_MAX: usize = 64 << 10;

/// Bytes read, and requests taken, before others get a turn.
const TURN_BYTES_MAX: usize = 128 << 10;
const TURN_REQUESTS_MAX: usize = 64;

/// Serves a connection to its end. `speaks` is what its listener is for.
pub(in crate::shell::client) async fn serve<B: Backend>(
    shard: &Rc<ClientShard<B>>,
    account: &Rc<Account>,
    io: &RefCell<Io>,
    speaks: Speaks,
) -> Ending {
    let input = io.borrow_mut().take_pushback();
    let idle = Some(shard.begin_idle());
    let since_ms = shard.now_ms();
    let phase = Phase::Head { idle, since_ms, searched: 0 };
    let mut turns = Turns {
        shard,
        account,
        io,
        speaks,
        input,
        phase,
        turn_bytes: 0,
        turn_requests: 0,
        reads_ended: false,
    };
    std::future::poll_fn(|cx| turns.poll(cx)).await
}

/// What a connection is about.
enum Phase {
    /// A head is not whole, or nothing has been said.
    Head {
        idle: Option<Silence>,
        since_ms: u64,
        /// Bytes that were searched for the head's end.
        searched: usize,
    },
    /// The text of a call's one request is not whole.
    Text(Box<Text>),
    /// An answer is waited for, or on its way.
    Answer(Answer),
}

/// A request whose text comes in pieces.
struct Text {
    taker: Taker,
    shared: Rc<Shared>,
    decoder: Decoder,
    /// When whoever sends it does not wait any more.
    deadline_ms: Option<u64>,
    bytes_max: usize,
    text: Vec<u8>,
    upload: Upload,
    /// Of a text that is, or will be, a large one.
    turn: Option<Turn>,
    moved_ms: u64,
}

/// An answer that is waited for.
struct Answer {
    shared: Rc<Shared>,
    source: Source,
}

/// Where requests come from while an answer is waited for.
enum Source {
    /// The request was whole.
    None,
    /// From the body.
    Body { decoder: Decoder, inbound: Rc<Inbound> },
    /// From a WebSocket. `first` is the call whose one request has not come yet.
    WebSocket { frames: Box<Frames>, inbound: Rc<Inbound>, first: Option<Box<(Head, gateway::Responder)>> },
}

impl Drop for Answer {
    fn drop(&mut self) {
        // Whoever still answers hears that nobody waits.
        self.shared.leave();
        self.source.leave();
    }
}

impl Source {
    fn leave(&self) {
        match self {
            Self::None => {}
            Self::Body { inbound, .. } | Self::WebSocket { inbound, .. } => inbound.leave(),
        }
    }
}

/// What a step has come to.
enum Step {
    /// There may be more to do.
    Done,
    /// Nothing to do until the task is woken.
    Wait,
    End(Ending),
}

struct Turns<'a, B: Backend> {
    shard: &'a Rc<ClientShard<B>>,
    account: &'a Rc<Account>,
    io: &'a RefCell<Io>,
    speaks: Speaks,
    /// Bytes read and not taken.
    input: Vec<u8>,
    phase: Phase,
    turn_bytes: usize,
    turn_requests: usize,
    /// The client has ended its side.
    reads_ended: bool,
}

impl<B: Backend> Turns<'_, B> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ending> {
        let now_ms = self.shard.now_ms();
        self.account.set_waker(cx.waker());
        self.io.borrow_mut().start_turn(now_ms);
        (self.turn_bytes, self.turn_requests) = (0, 0);
        if self.account.is_evicted.get() {
            return Poll::Ready(if self.shard.is_stopping() { Ending::Stopped } else { Ending::Evicted });
        }
        if self.io.borrow().is_write_blocked() && self.drain(cx).is_err() {
            return Poll::Ready(Ending::Finished);
        }
        self.shard.backend.hold();
        self.shard.submit_deferred(self.account);
        let ended = loop {
            match self.step(cx, now_ms) {
                Step::Done => {}
                Step::Wait => break None,
                Step::End(ending) => break Some(ending),
            }
        };
        // Before the answers are written: others work meanwhile.
        self.shard.backend.release();
        if self.drain(cx).is_err() {
            return Poll::Ready(Ending::Finished);
        }
        if let Some(ending) = ended {
            return Poll::Ready(ending);
        }
        // Bodies have left in this turn, maybe those of watch streams that were full.
        self.shard.settle_rooms();
        match self.set_due(now_ms) {
            true => Poll::Pending,
            false => Poll::Ready(Ending::Evicted),
        }
    }

    fn step(&mut self, cx: &mut Context<'_>, now_ms: u64) -> Step {
        match &self.phase {
            Phase::Head { .. } => self.on_head(cx, now_ms),
            Phase::Text(_) => self.on_text(cx, now_ms),
            Phase::Answer(_) => self.on_answer(cx, now_ms),
        }
    }

    fn drain(&self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.io.borrow_mut().poll_drain(cx) {
            Poll::Ready(done) => done,
            Poll::Pending => Ok(()),
        }
    }

    /// Reads more input. None: there is none now.
    fn read(&mut self, cx: &mut Context<'_>) -> Option<io::Result<usize>> {
        if TURN_BYTES_MAX <= self.turn_bytes {
            cx.waker().wake_by_ref();
            return None;
        }
        match self.io.borrow_mut().poll_append_read(cx, &mut self.input) {
            Poll::Pending => None,
            Poll::Ready(Ok(n)) => {
                self.turn_bytes += n;
                self.reads_ended |= n == 0;
                Some(Ok(n))
            }
            Poll::Ready(Err(error)) => Some(Err(error)),
        }
    }

    fn idle_ms(&self) -> u64 {
        crate::shell::client::millis(self.shard.config.http_idle)
    }

    /// Says when the next turn is due if nothing happens, and counts what is held. False: it is too much.
    fn set_due(&self, now_ms: u64) -> bool {
        let io = self.io.borrow();
        self.account.progress_ms.set(io.last_write_ms);
        self.account.note_gathered(io.blocked_bytes());
        let due_ms = match &self.phase {
            Phase::Head { since_ms, .. } => since_ms + self.idle_ms(),
            Phase::Text(text) => {
                let idle_ms = text.moved_ms + self.idle_ms();
                text.deadline_ms.map_or(idle_ms, |deadline_ms| deadline_ms.min(idle_ms))
            }
            Phase::Answer(_) => u64::MAX,
        };
        self.account.due_ms.set(due_ms.max(now_ms + 1));
        self.account.note_headers(self.input.capacity())
    }

    /// Waits for a head, and takes it.
    fn on_head(&mut self, cx: &mut Context<'_>, now_ms: u64) -> Step {
        // Empty lines in front of a request are passed over.
        let blank = self.input.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        self.input.drain(..blank);
        let idle_ms = self.idle_ms();
        let Phase::Head { idle, since_ms, searched } = &mut self.phase else { unreachable!("by `step`") };
        if idle.as_ref().is_some_and(|idle| idle.poll_dropped(cx).is_ready()) {
            return Step::End(Ending::Finished);
        }
        if *since_ms + idle_ms <= now_ms {
            return match self.input.is_empty() {
                true => Step::End(Ending::Finished),
                false => self.refuse_plainly(408, "the head of a request did not come to its end"),
            };
        }
        let is_full = self.shard.is_blocked() || self.account.is_full();
        self.account.is_paused.set(is_full);
        if is_full {
            if self.shard.is_blocked() {
                self.shard.wait_until_ready(self.account);
            }
            return Step::Wait;
        }
        let from = searched.saturating_sub(3);
        *searched = self.input.len();
        if has_head_end(&self.input[from..]) {
            if TURN_REQUESTS_MAX <= self.turn_requests {
                *searched = from;
                cx.waker().wake_by_ref();
                return Step::Wait;
            }
            self.turn_requests += 1;
            return self.begin();
        }
        if self.shard.is_stopping() {
            return Step::End(Ending::Finished);
        }
        if HEAD_BYTES_MAX <= self.input.len() {
            return self.refuse_plainly(431, "the head of a request is too large");
        }
        let was_empty = self.input.is_empty();
        match self.read(cx) {
            None => Step::Wait,
            Some(Ok(1..)) => {
                // The time for a head begins with its first byte.
                if was_empty && let Phase::Head { since_ms, .. } = &mut self.phase {
                    *since_ms = now_ms;
                }
                Step::Done
            }
            Some(_) => Step::End(Ending::Finished),
        }
    }

    /// Answers with a text and ends the connection: where the next request begins is not known.
    fn refuse_plainly(&mut self, status: u16, why: &str) -> Step {
        let head = AnswerHead::new(status, TEXT);
        let mut out = Vec::new();
        let at = put_head(&head, BodyFraming::Length, false, &mut out);
        let start = out.len();
        out.extend_from_slice(why.as_bytes());
        out.push(b'\n');
        let length = out.len() - start;
        crate::rpc::http1::answer::put_length(&mut out, at, length);
        self.io.borrow_mut().append(&out);
        Step::End(Ending::Finished)
    }

    /// Takes the head that `input` begins with.
    fn begin(&mut self) -> Step {
        let input = std::mem::take(&mut self.input);
        let mut headers: Vec<Header<'_>> = Vec::with_capacity(12);
        match parse(&input, &mut headers) {
            Err(malformed) => self.refuse_plainly(malformed.status(), &malformed.to_string()),
            Ok(Parsed::Partial) => {
                // The empty line was none, or another is needed.
                self.input = input;
                Step::Done
            }
            Ok(Parsed::Whole(mut head, length)) => {
                head.ask.is_secured = self.io.borrow().is_secured();
                head.ask.is_named = self.shard.is_named_in_vain(self.account);
                self.shard.counters.count(|counters| counters.requests += 1);
                let mut rest = &input[length..];
                let step = self.on_request(&head, &mut rest);
                self.input = rest.to_vec();
                step
            }
        }
    }

    /// A request's head has arrived, and `rest` behind it, of which its body is taken.
    fn on_request(&mut self, http: &HttpHead<'_>, rest: &mut &[u8]) -> Step {
        let ask = &http.ask;
        let rules = Rc::clone(&self.shard.web_rules);
        if self.speaks == Speaks::Grpc {
            return self.refuse_plainly(404, "this address serves gRPC; HTTP has addresses of its own here");
        }
        if http.wants_websocket
            && self.speaks != Speaks::Metrics
            && let Some(method) = web::call_of(ask, &rules)
        {
            return self.upgrade(ask, method);
        }
        let shape = Shape {
            is_current: http.is_current,
            is_headless: ask.method == "HEAD",
            is_websocket: false,
            // The addresses of metrics are for programs.
            origin: if self.speaks == Speaks::Metrics { None } else { rules.origin_for(ask) },
        };
        let shared = Shared::new(self.account, shape, http.keeps_alive && !self.shard.is_stopping());
        let route = match self.speaks {
            Speaks::Metrics => Route::Page(ask.path.into()),
            _ => web::route(ask, &rules),
        };
        if let Route::Call(method) = route {
            return self.on_call(http, method, shared, rest);
        }
        if let Route::V2(path) = route {
            let request = v2::Request::of(ask, path);
            let taker = Taker::V2 { request, sink: Sink::Http1(Exchange::new(&shared)) };
            return self.collect(http, taker, shared, rest);
        }
        // A body that is there is passed over, another ends the connection.
        match http.length {
            Length::Exact(bytes) if bytes <= rest.len() as u64 => {
                *rest = &rest[usize::try_from(bytes).expect("it is less than what is there")..];
            }
            _ => shared.keeps_alive.set(false),
        }
        if route == Route::Malformed {
            shared.keeps_alive.set(false);
        }
        let sink = Sink::Http1(Exchange::new(&shared));
        self.shard.on_other(self.account, ask, route, self.speaks == Speaks::Metrics, sink);
        self.phase = Phase::Answer(Answer { shared, source: Source::None });
        Step::Done
    }

    /// A call through the gateway.
    fn on_call(&mut self, http: &HttpHead<'_>, method: Method, shared: Rc<Shared>, rest: &mut &[u8]) -> Step {
        let sink = Sink::Http1(Exchange::new(&shared));
        let responder = gateway::Responder::new(sink, self.account, method, &self.shard.tallies);
        let receive_bytes_max = self.shard.receive_bytes_max;
        let head = gateway::read_head(
            &http.ask,
            method,
            self.shard.now_ms(),
            self.shard.asks_rights(),
            self.account,
        );
        let is_whole = matches!(http.length, Length::Exact(bytes) if bytes <= rest.len() as u64);
        let head = match head {
            Ok(head) => head,
            Err(status) => {
                match http.length {
                    Length::Exact(bytes) if is_whole => {
                        *rest = &rest[usize::try_from(bytes).expect("it is there")..];
                    }
                    _ => shared.keeps_alive.set(false),
                }
                responder.refuse(&status);
                self.phase = Phase::Answer(Answer { shared, source: Source::None });
                return Step::Done;
            }
        };
        if method.row().call == CallShape::BothWays {
            if http.expects_continue && rest.is_empty() && !is_whole {
                self.io.borrow_mut().append(CONTINUE);
            }
            let inbound = Inbound::new(receive_bytes_max);
            self.on_stream(&head, method, responder, &inbound);
            let decoder = Decoder::new(http.length);
            self.phase = Phase::Answer(Answer { shared, source: Source::Body { decoder, inbound } });
            return Step::Done;
        }
        self.collect(http, Taker::Call { head, responder }, shared, rest)
    }

    /// Gives a request's text to whoever takes it, at once or when all of it has come.
    fn collect(&mut self, http: &HttpHead<'_>, taker: Taker, shared: Rc<Shared>, rest: &mut &[u8]) -> Step {
        let (deadline_ms, bytes_max) = (taker.deadline_ms(), taker.bytes_max(self.shard));
        let is_whole = matches!(http.length, Length::Exact(bytes) if bytes <= rest.len() as u64);
        if http.expects_continue && rest.is_empty() && !is_whole {
            self.io.borrow_mut().append(CONTINUE);
        }
        if let Length::Exact(bytes) = http.length
            && is_whole
        {
            let (text, behind) = rest.split_at(usize::try_from(bytes).expect("it is there"));
            *rest = behind;
            taker.take(self.shard, self.account, text, None);
            self.phase = Phase::Answer(Answer { shared, source: Source::None });
            return Step::Done;
        }
        let announced = match http.length {
            Length::Exact(bytes) => bytes,
            Length::Chunked => 0,
        };
        if bytes_max as u64 <= announced {
            let status = taker.too_large(announced, self.shard.receive_bytes_max);
            return self.refuse_unread(shared, taker, &status);
        }
        let Some(upload) = Upload::begin(&self.shard.places, &self.account.upload_bytes) else {
            return self.refuse_unread(shared, taker, &overloaded("too many unfinished requests"));
        };
        let decoder = Decoder::new(http.length);
        let moved_ms = self.shard.now_ms();
        let text = Text {
            taker,
            shared,
            decoder,
            deadline_ms,
            bytes_max,
            text: Vec::new(),
            upload,
            turn: None,
            moved_ms,
        };
        self.phase = Phase::Text(Box::new(text));
        Step::Done
    }

    /// Refuses a request whose body is not read, and ends the connection behind the answer.
    fn refuse_unread(&mut self, shared: Rc<Shared>, taker: Taker, status: &Status) -> Step {
        shared.keeps_alive.set(false);
        taker.refuse(self.account, status);
        self.phase = Phase::Answer(Answer { shared, source: Source::None });
        Step::Done
    }

    fn on_stream(&self, head: &Head, method: Method, responder: gateway::Responder, inbound: &Rc<Inbound>) {
        let (request, bytes_max) = (messages_of(method).request, self.shard.receive_bytes_max);
        let received = responder.tally.received_of();
        let requests =
            |place| Requests::Web(Incoming::new(inbound, self.account, request, bytes_max, place, received));
        self.shard.on_stream(self.account, head, requests, Responder::Web(responder));
    }

    /// Begins a WebSocket.
    fn upgrade(&mut self, ask: &Ask<'_>, method: Method) -> Step {
        let mut accepted = match websocket::accept(ask) {
            Ok(accepted) => accepted,
            Err(refusal) => {
                return self.refuse_plainly(refusal.status, "this is no handshake of WebSocket 13");
            }
        };
        accepted.origin = self.shard.web_rules.origin_for(ask);
        let mut out = Vec::new();
        put_head(&accepted, BodyFraming::Upgrade, true, &mut out);
        self.io.borrow_mut().append(&out);
        let shape = Shape { is_current: true, is_headless: false, is_websocket: true, origin: None };
        let shared = Shared::new(self.account, shape, false);
        let sink = Sink::Http1(Exchange::new(&shared));
        let responder = gateway::Responder::new(sink, self.account, method, &self.shard.tallies);
        let receive_bytes_max = self.shard.receive_bytes_max;
        let (inbound, frames) =
            (Inbound::new(receive_bytes_max), Box::new(Frames::new(text_bytes_max(receive_bytes_max))));
        let mut first = None;
        let asks_rights = self.shard.asks_rights();
        match gateway::read_head(ask, method, self.shard.now_ms(), asks_rights, self.account) {
            Err(status) => responder.refuse(&status),
            Ok(head) if method.row().call == CallShape::BothWays => {
                self.on_stream(&head, method, responder, &inbound);
            }
            Ok(head) => first = Some(Box::new((head, responder))),
        }
        self.phase = Phase::Answer(Answer { shared, source: Source::WebSocket { frames, inbound, first } });
        Step::Done
    }

    /// Collects the text of a call's one request.
    fn on_text(&mut self, cx: &mut Context<'_>, now_ms: u64) -> Step {
        let idle_ms = self.idle_ms();
        let Phase::Text(part) = &mut self.phase else { unreachable!("by `step`") };
        // Its length is not always told; then it may become the longest.
        let expected = match part.decoder.announced() {
            0 if LARGE_BYTES_MIN < part.text.len() => part.bytes_max,
            announced => usize::try_from(announced).unwrap_or(usize::MAX).saturating_add(part.text.len()),
        };
        if part.turn.is_none() && LARGE_BYTES_MIN < expected && !part.decoder.is_over() {
            part.turn = Turn::begin(&self.shard.turns, &self.account.waiting_uploads, expected);
            // One connection has one upload by HTTP/1, so there is always room for it to wait.
        }
        let Text { decoder, text, .. } = &mut **part;
        let before = text.len();
        let mut input = &self.input[..];
        let decoded = decoder.decode(&mut input, &mut |bytes| text.extend_from_slice(bytes));
        let taken = self.input.len() - input.len();
        self.input.drain(..taken);
        if 0 < taken {
            part.moved_ms = now_ms;
        }
        let grown = part.text.len() - before;
        let refusal = if let Err(error) = decoded {
            Some(Status { code: Code::InvalidArgument, message: error.to_string().into() })
        } else if part.bytes_max < part.text.len() {
            Some(part.taker.too_large(part.text.len() as u64, self.shard.receive_bytes_max))
        } else if !part.upload.grow(grown) {
            Some(overloaded("too many unfinished request bytes"))
        } else if part.upload.poll_refused(cx).is_ready() {
            Some(overloaded("unfinished request has not moved for too long"))
        } else if part.deadline_ms.is_some_and(|deadline_ms| deadline_ms <= now_ms) {
            Some(status::CONTEXT_DEADLINE_EXCEEDED)
        } else if part.moved_ms + idle_ms <= now_ms {
            Some(overloaded("unfinished request has not moved for too long"))
        } else {
            None
        };
        let is_over = part.decoder.is_over();
        if refusal.is_some() || is_over {
            let next = Phase::Head { idle: None, since_ms: now_ms, searched: 0 };
            let Phase::Text(part) = std::mem::replace(&mut self.phase, next) else {
                unreachable!("as above")
            };
            let Text { taker, shared, text, turn, .. } = *part;
            if let Some(status) = refusal {
                return self.refuse_unread(shared, taker, &status);
            }
            taker.take(self.shard, self.account, &text, turn);
            self.phase = Phase::Answer(Answer { shared, source: Source::None });
            return Step::Done;
        }
        if part.turn.as_ref().is_some_and(|turn| turn.poll_comes(cx).is_pending()) {
            // What was read is kept; the client is held by the socket's window.
            part.moved_ms = now_ms;
            return Step::Wait;
        }
        match self.read(cx) {
            None => Step::Wait,
            Some(Ok(1..)) => Step::Done,
            Some(_) => Step::End(Ending::Finished),
        }
    }

    /// Sends what was answered, and hears the client meanwhile.
    fn on_answer(&mut self, cx: &mut Context<'_>, now_ms: u64) -> Step {
        if self.shard.is_stopping() {
            let Phase::Answer(answer) = &self.phase else { unreachable!("by `step`") };
            answer.shared.keeps_alive.set(false);
        }
        if let Some(step) = self.send(cx, now_ms) {
            return step;
        }
        if !self.reads_ended {
            return self.hear(cx);
        }
        Step::Wait
    }

    /// Gathers what was answered. None: the answer goes on.
    fn send(&mut self, cx: &mut Context<'_>, now_ms: u64) -> Option<Step> {
        let Phase::Answer(Answer { shared, source }) = &self.phase else { unreachable!("by `step`") };
        let mut out = shared.out.borrow_mut();
        while let Some(first) = out.front_mut() {
            let mut io = self.io.borrow_mut();
            if GATHER_BYTES_MAX <= io.gathered() {
                match io.poll_drain(cx) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(_)) => return Some(Step::End(Ending::Finished)),
                    Poll::Pending => return Some(Step::Wait),
                }
            }
            let room = GATHER_BYTES_MAX - io.gathered();
            let is_whole = match first {
                Out::Own(bytes) => {
                    io.append(bytes);
                    true
                }
                Out::Body(body) => {
                    let n = body.remaining().min(room);
                    io.append(&body.chunk()[..n]);
                    body.advance(n);
                    body.remaining() == 0
                }
            };
            if is_whole {
                let first = out.pop_front();
                drop(io);
                // A body that goes may wake whoever waits for its end; nothing is borrowed for that.
                drop(out);
                drop(first);
                out = shared.out.borrow_mut();
            }
        }
        drop(out);
        match shared.state.get() {
            State::Waiting | State::Open => None,
            State::Cut => Some(Step::End(Ending::Finished)),
            State::Over => {
                let is_read = match source {
                    Source::None => true,
                    Source::Body { decoder, .. } => decoder.is_over(),
                    Source::WebSocket { .. } => false,
                };
                if !is_read || !shared.keeps_alive.get() || self.reads_ended {
                    // However long the client takes for the rest.
                    return Some(match self.io.borrow_mut().poll_drain(cx) {
                        Poll::Pending => Step::Wait,
                        Poll::Ready(_) => Step::End(Ending::Finished),
                    });
                }
                let idle = Some(self.shard.begin_idle());
                self.phase = Phase::Head { idle, since_ms: now_ms, searched: 0 };
                Some(Step::Done)
            }
        }
    }

    /// Reads what the client says while its answer is waited for.
    fn hear(&mut self, cx: &mut Context<'_>) -> Step {
        if self.put_input() {
            return Step::Done;
        }
        let Phase::Answer(Answer { shared, source }) = &self.phase else { unreachable!("by `step`") };
        let has_room = match source {
            Source::None => true,
            Source::Body { inbound, .. } | Source::WebSocket { inbound, .. } => inbound.has_room(),
        };
        if !has_room || AHEAD_BYTES_MAX <= self.input.len() {
            return Step::Wait;
        }
        let shared = Rc::clone(shared);
        match self.read(cx) {
            None => Step::Wait,
            Some(Ok(1..)) => Step::Done,
            Some(ended) => {
                shared.leave();
                let Phase::Answer(Answer { source, .. }) = &self.phase else { unreachable!("by `step`") };
                source.leave();
                match (ended, source) {
                    // Whoever answers may have something to say yet; the connection ends behind it.
                    (Ok(_), Source::None) => Step::Done,
                    _ => Step::End(Ending::Finished),
                }
            }
        }
    }

    /// Gives input to the call that takes requests. True: the answer may have moved.
    fn put_input(&mut self) -> bool {
        let Phase::Answer(Answer { shared, source }) = &mut self.phase else { unreachable!("by `step`") };
        match source {
            Source::None => false,
            Source::Body { decoder, inbound } => {
                let mut input = &self.input[..];
                let decoded = decoder.decode(&mut input, &mut |bytes| inbound.push(bytes));
                let taken = self.input.len() - input.len();
                self.input.drain(..taken);
                if decoded.is_err() {
                    shared.keeps_alive.set(false);
                    inbound.leave();
                    shared.leave();
                } else if decoder.is_over() {
                    inbound.close();
                }
                // The call's task has to have its turn first.
                false
            }
            Source::WebSocket { frames, inbound, first } => {
                let mut replies = Vec::new();
                let mut has_left = false;
                while inbound.has_room() && !has_left {
                    match frames.read(&mut self.input, &mut replies) {
                        None => break,
                        Some(Said::Text(text)) => inbound.push(&text),
                        Some(Said::Left) => has_left = true,
                    }
                }
                let has_replies = !replies.is_empty();
                if has_replies {
                    shared.out.borrow_mut().push_back(Out::Own(replies.into()));
                }
                if let Some(call) = first.take() {
                    match (inbound.take(), inbound.fault()) {
                        (Some(text), _) => {
                            let (head, responder) = *call;
                            self.shard.on_text(self.account, &head, &text, responder);
                            return true;
                        }
                        (None, Some(status)) => {
                            call.1.refuse(&status);
                            return true;
                        }
                        (None, None) => *first = Some(call),
                    }
                }
                if has_left {
                    inbound.leave();
                    shared.leave();
                    *first = None;
                    shared.state.set(State::Cut);
                    return true;
                }
                has_replies
            }
        }
    }
}

/// Whether the end of a head is among these bytes.
fn has_head_end(bytes: &[u8]) -> bool {
    bytes.windows(2).any(|end| end == b"\n\n") || bytes.windows(3).any(|end| end == b"\n\r\n")
}
