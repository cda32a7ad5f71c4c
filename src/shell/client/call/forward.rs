//! Calls that a proxy passes on to the members behind it (`shell::upstream`), as they came, and their answers.
//!
//! The front ends, the accounts and the bounds are a member's own. What stands in the place of its roles is a connection
//! to an endpoint: a request goes out byte by byte as it came in, with what its caller has said besides it, and the
//! member's answer or status comes back the same way.
//!
//! | the call | passed on | ends by |
//! |---|---|---|
//! | has one answer | whole; in pieces, if it is long | the client's deadline or ours |
//! | waits for others (`Lock`, `Campaign`) | whole | the client's deadline, its leaving, our stop |
//! | has many answers, or requests | message by message | the same |
//!
//! A call that only reads is asked again elsewhere when a connection breaks or a member says Unavailable, each endpoint
//! once, as long as nothing of an answer has gone out. Any other is asked again only if nobody can have begun with it.
//!
//! Where answers may not go back (`upstream::seen`), a read says what was seen before it began, and an answer that is older
//! all the same is thrown away.
//!
//! Bounds: what a client does not read stays in the window of the member's answer; a request is let out when the window
//! has room for it. A call costs a task.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_lite::future;
use prost::Message as _;

use super::account::Account;
use super::end::Ended;
use super::header::HEADER_BYTES_MAX;
use super::place::{Kind, Place};
use super::relay::Relay;
use super::shown::Shown;
use super::{Head, Recipient, Work, overloaded};
use crate::pb::etcdserverpb as pb;
use crate::pb::etcdserverpb::request_op::Request as RequestUnion;
use crate::rpc::api_version::ApiVersion;
use crate::rpc::framing::{PREFIX_BYTES, read_prefix};
use crate::rpc::method::{AnswerWeight, Becomes, CallShape, Recipe, Weight};
use crate::rpc::{Code, Method, Status, status};
use crate::shell::client::responder::{AnswerStream, Requests, Responder};
use crate::shell::client::signal::Signal;
use crate::shell::client::{Backend, ClientShard, Timer};
use crate::shell::upstream::seen::{ROUNDS_MAX, Seen, no_greater_revision, revision_of};
use crate::shell::upstream::{Advertised, Asked, Call, Failure, Said, Tried, Upstream, bad_answer};

/// An answer of more is passed on in pieces.
const WHOLE_BYTES_MAX: usize = 64 << 10;

/// Between two rounds of members that all were behind.
const BEHIND_PAUSE: Duration = Duration::from_millis(20);

/// What an answer in pieces holds at most, for the account: its window.
const PIECES_BYTES: usize = 256 << 10;

/// What may end a call from this side.
pub(super) struct Patience {
    timer: Option<(Timer, Status)>,
    stop: Option<Rc<Signal>>,
}

impl Patience {
    fn poll(&self, cx: &mut Context<'_>) -> Poll<Status> {
        if let Some((timer, status)) = &self.timer
            && timer.poll_fired(cx).is_ready()
        {
            return Poll::Ready(status.clone());
        }
        match &self.stop {
            Some(stop) => stop.poll_fired(cx).map(|()| status::STOPPED),
            None => Poll::Pending,
        }
    }
}

/// What a client is told that asks where members are: the proxies. Without a header, as by etcd's.
fn members(proxies: &[Advertised]) -> pb::MemberListResponse {
    let member = |proxy: &Advertised| pb::Member {
        name: proxy.name.clone(),
        client_ur_ls: vec![proxy.url.clone()],
        ..Default::default()
    };
    pb::MemberListResponse { header: None, members: proxies.iter().map(member).collect() }
}

/// Whether a call may be asked twice.
fn only_reads(method: Method) -> bool {
    matches!(method.row().becomes, Becomes::Read | Becomes::Recipe(Recipe::Leader | Recipe::Observe))
}

/// Whether a transaction changes nothing, whatever its comparisons come to.
fn only_looks(txn: &pb::TxnRequest) -> bool {
    txn.success.iter().chain(&txn.failure).all(|op| match &op.request {
        Some(RequestUnion::RequestRange(_)) => true,
        Some(RequestUnion::RequestTxn(txn)) => only_looks(txn),
        Some(RequestUnion::RequestPut(_) | RequestUnion::RequestDeleteRange(_)) | None => false,
    })
}

/// Whether a call may wait for what others do.
fn waits(method: Method) -> bool {
    matches!(method.row().becomes, Becomes::Recipe(Recipe::Lock | Recipe::Campaign))
}

/// How large the answer may get.
fn weigh(method: Method, payload: &Bytes) -> Weight {
    match method.row().weight {
        AnswerWeight::Light => Weight::Light,
        AnswerWeight::Point | AnswerWeight::ByOperations => Weight::Point,
        AnswerWeight::Wide | AnswerWeight::ByKeys => Weight::Wide,
        AnswerWeight::ByRange => match pb::RangeRequest::decode(payload.clone()) {
            Ok(range) if !range.range_end.is_empty() && !range.count_only => Weight::Wide,
            _ => Weight::Point,
        },
    }
}

/// What a caller has said besides its request.
fn said(head: &Head) -> Said {
    Said {
        token: match &head.shown {
            Some(Shown::Token(token)) => Some(token.text.clone()),
            Some(Shown::Certificate(_)) | None => None,
        },
        needs_leader: head.needs_leader,
        is_recent: head.api_version == ApiVersion::Recent,
        not_older_than: head.not_older_than,
        hops: head.hops,
    }
}

impl<B: Backend> ClientShard<B> {
    /// Whether what a call shows of who makes it is looked at.
    pub(in crate::shell::client) fn asks_rights(&self) -> bool {
        self.identities.revision().is_some() || self.backend.upstream().is_some()
    }

    /// A call with one request has arrived, and members behind this proxy are to answer it.
    pub(super) fn forward_call(
        self: &Rc<Self>,
        upstream: &Rc<Upstream>,
        account: &Rc<Account>,
        head: &Head,
        payload: Bytes,
        responder: Responder,
    ) {
        if head.method == Method::MemberList
            && let Some(advertised) = &upstream.config().advertised
        {
            if let Err(error) = pb::MemberListRequest::decode(payload) {
                return responder.refuse(&Status::undecodable(&error.to_string()));
            }
            if upstream.config().registry.is_some() {
                return self.spawn_list(upstream, account, responder);
            }
            let members = members(std::slice::from_ref(advertised));
            return responder.answer(account, |_| {}, members.encode_to_vec());
        }
        let bytes_max = upstream.config().send_bytes_max;
        if (bytes_max as usize) < payload.len() {
            return responder.refuse(&Status::sent_too_large(payload.len() as u64, bytes_max.into()));
        }
        if head.method.row().call == CallShape::ServerStream {
            let asked = self.asked(head, Some(payload), true);
            return self.spawn_forward_stream(account, head, asked, None, Kind::Observe, responder);
        }
        if waits(head.method) {
            return self.spawn_forward_wait(upstream, account, head, payload, responder);
        }
        let weight = weigh(head.method, &payload);
        let request_bytes = payload.len();
        let recipient = Recipient::Forward { responder, head: Box::new(head.clone()) };
        self.submit_work(
            account,
            weight,
            request_bytes,
            head.client_deadline_ms,
            Work::Forward(payload),
            recipient,
        );
    }

    /// Tells which proxies are registered.
    fn spawn_list(&self, upstream: &Rc<Upstream>, account: &Rc<Account>, responder: Responder) {
        let Some(place) = Place::begin(&self.places, Kind::Unqueue) else {
            return responder.refuse(&overloaded("too many calls that wait"));
        };
        let (upstream, account) = (Rc::clone(upstream), Rc::clone(account));
        glommio::spawn_local(async move {
            let _place = place;
            let Some(registry) = &upstream.config().registry else { unreachable!("it was looked at before") };
            match upstream.proxies(registry).await {
                Ok(proxies) => responder.answer(&account, |_| {}, members(&proxies).encode_to_vec()),
                Err(status) => responder.refuse(&status),
            }
        })
        .detach();
    }

    /// A call whose requests are a stream, for members behind this proxy.
    pub(super) fn forward_stream(
        self: &Rc<Self>,
        account: &Rc<Account>,
        head: &Head,
        requests: impl FnOnce(Place) -> Requests,
        kind: Kind,
        responder: Responder,
    ) {
        let Some(place) = Place::begin(&self.places, kind) else {
            return responder.refuse(&overloaded("too many streams"));
        };
        let asked = self.asked(head, None, false);
        self.spawn_forward_stream(account, head, asked, Some(requests(place)), kind, responder);
    }

    fn asked(&self, head: &Head, first: Option<Bytes>, is_unary: bool) -> Asked {
        let left_ms =
            head.client_deadline_ms.map(|deadline_ms| deadline_ms.saturating_sub(self.now_ms()).max(1));
        Asked {
            path: head.method.row().path,
            said: said(head),
            timeout: left_ms.map(Duration::from_millis),
            first,
            is_unary,
            fails_fast: true,
        }
    }

    /// Passes a call on that has its room.
    pub(super) fn forward_now(
        self: &Rc<Self>,
        account: &Rc<Account>,
        weight: Weight,
        (deadline_ms, is_client_deadline): (u64, bool),
        payload: Bytes,
        head: &Head,
        responder: Responder,
    ) {
        let Some(upstream) = self.backend.upstream().cloned() else {
            unreachable!("a member forwards nothing")
        };
        let charge = account.charge(weight, payload.len());
        let status = if is_client_deadline { status::CONTEXT_DEADLINE_EXCEEDED } else { status::TIMED_OUT };
        let patience = Patience { timer: Some((self.set_timer(deadline_ms), status)), stop: None };
        let seen = upstream.config().seen.clone();
        let reads_keys = match head.method {
            Method::Range => true,
            Method::Txn => {
                seen.is_some() && pb::TxnRequest::decode(payload.clone()).is_ok_and(|txn| only_looks(&txn))
            }
            _ => false,
        };
        let is_repeatable = reads_keys || only_reads(head.method);
        let mut asked = self.asked(head, Some(payload), true);
        let mut oldest = 0;
        if let Some(seen) = seen.as_ref().filter(|_| reads_keys) {
            oldest = asked.said.not_older_than.max(seen.revision());
            asked.said.not_older_than = oldest;
        }
        let account = Rc::clone(account);
        glommio::spawn_local(async move {
            let passing = Passing {
                upstream: &upstream,
                account: &account,
                patience: &patience,
                is_repeatable,
                seen,
                oldest,
            };
            let bytes = passing.unary(&asked, responder).await;
            account.settle(charge, bytes);
            if account.wants_turn() {
                account.wake();
            }
        })
        .detach();
    }

    /// Passes a call on whose answer may be long in coming.
    fn spawn_forward_wait(
        self: &Rc<Self>,
        upstream: &Rc<Upstream>,
        account: &Rc<Account>,
        head: &Head,
        payload: Bytes,
        responder: Responder,
    ) {
        let place = Place::begin(&self.places, Kind::Queue)
            .and_then(|mut place| place.grow(2 * payload.len()).then_some(place));
        let Some(place) = place else {
            return responder.refuse(&overloaded("too many calls that wait"));
        };
        let (upstream, account) = (Rc::clone(upstream), Rc::clone(account));
        let (asked, patience) = (self.asked(head, Some(payload), true), self.patience_of_stream(head));
        glommio::spawn_local(async move {
            let _place = place;
            let passing = Passing {
                upstream: &upstream,
                account: &account,
                patience: &patience,
                is_repeatable: false,
                seen: None,
                oldest: 0,
            };
            passing.unary(&asked, responder).await;
        })
        .detach();
    }

    fn patience_of_stream(&self, head: &Head) -> Patience {
        let timer = head.client_deadline_ms.map(|deadline_ms| self.set_timer(deadline_ms));
        Patience {
            timer: timer.map(|timer| (timer, status::CONTEXT_DEADLINE_EXCEEDED)),
            stop: Some(self.signal_at_stop()),
        }
    }

    fn spawn_forward_stream(
        self: &Rc<Self>,
        account: &Rc<Account>,
        head: &Head,
        asked: Asked,
        requests: Option<Requests>,
        kind: Kind,
        responder: Responder,
    ) {
        let Some(upstream) = self.backend.upstream().cloned() else {
            unreachable!("a member forwards nothing")
        };
        // Requests that are a stream have their place with them.
        let place = match &requests {
            Some(_) => None,
            None => match Place::begin(&self.places, kind) {
                Some(place) => Some(place),
                None => return responder.refuse(&overloaded("too many streams")),
            },
        };
        let (account, patience) = (Rc::clone(account), self.patience_of_stream(head));
        let is_repeatable = requests.is_none() && only_reads(head.method);
        glommio::spawn_local(async move {
            let _place = place;
            let passing = Passing {
                upstream: &upstream,
                account: &account,
                patience: &patience,
                is_repeatable,
                seen: None,
                oldest: 0,
            };
            passing.stream(&asked, requests, responder).await;
        })
        .detach();
    }
}

/// What a call's task goes by.
struct Passing<'a> {
    upstream: &'a Upstream,
    account: &'a Rc<Account>,
    patience: &'a Patience,
    is_repeatable: bool,
    /// What answers of this proxy may not be older than, if that matters.
    seen: Option<Arc<Seen>>,
    /// What this one may not be older than; 0: anything.
    oldest: i64,
}

/// What came of the answer of a call that has one.
enum Outcome {
    Whole(Vec<u8>),
    /// It is long: of so many bytes, of which these have come.
    Begun(u64, Bytes),
}

impl Passing<'_> {
    /// Whether the caller has left, or is to be told that it waited long enough.
    fn poll_ended(&self, responder: &mut Responder, cx: &mut Context<'_>) -> Poll<Ended> {
        if responder.poll_gone(cx).is_ready() {
            return Poll::Ready(Ended::Gone);
        }
        self.patience.poll(cx).map(Ended::Status)
    }

    /// A call at the next endpoint.
    async fn begin(
        &self,
        asked: &Asked,
        tried: &mut Tried,
        responder: &mut Responder,
    ) -> Result<Call, Ended> {
        let begun = async { self.upstream.begin(asked, tried).await.map_err(Ended::Status) };
        let ended = poll_fn(|cx| self.poll_ended(responder, cx).map(Err));
        future::or(begun, ended).await
    }

    /// Whether a call that failed is to be asked elsewhere.
    fn goes_on(&self, failure: &Failure, tried: &Tried) -> bool {
        let may = match failure {
            Failure::Untouched(_) => true,
            failure => self.is_repeatable && failure.is_members_own(),
        };
        may && self.upstream.has_another(tried)
    }

    /// Passes a call with one answer on. Tells how large the answer was, if there was one.
    async fn unary(&self, asked: &Asked, mut responder: Responder) -> Option<usize> {
        let mut tried = Tried::default();
        let mut rounds_left = ROUNDS_MAX;
        loop {
            let mut call = match self.begin(asked, &mut tried, &mut responder).await {
                Ok(call) => call,
                Err(ended) => return end(responder, ended),
            };
            let outcome = match self.collect(&mut call, &mut responder).await {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(failure)) if self.goes_on(&failure, &tried) => continue,
                Ok(Err(failure)) => return end(responder, Ended::Status(failure.status())),
                Err(ended) => return end(responder, ended),
            };
            if self.is_too_old(&outcome) {
                if self.upstream.has_another(&tried) {
                    continue;
                }
                // All have said something older.
                rounds_left -= 1;
                if rounds_left == 0 {
                    return end(responder, Ended::Status(no_greater_revision()));
                }
                tried = Tried::default();
                if let Err(ended) = self.rest(&mut responder).await {
                    return end(responder, ended);
                }
                continue;
            }
            match outcome {
                Outcome::Whole(body) => {
                    let bytes = body.len();
                    if !self.account.has_ended() {
                        responder.answer(self.account, |_| {}, body);
                    }
                    return Some(bytes);
                }
                Outcome::Begun(bytes, first) => {
                    self.pass_on(call, bytes, first, responder).await;
                    return Some(PIECES_BYTES);
                }
            }
        }
    }

    /// Whether an answer is older than what was seen before its call began. One that is not is seen from now on.
    fn is_too_old(&self, outcome: &Outcome) -> bool {
        let Some(seen) = &self.seen else { return false };
        let begins = match outcome {
            Outcome::Whole(body) => &body[..],
            Outcome::Begun(_, first) => &first[..],
        };
        let Some(revision) = revision_of(begins) else { return false };
        if revision < self.oldest {
            return true;
        }
        seen.note(revision);
        false
    }

    /// Gives members that are behind a moment.
    async fn rest(&self, responder: &mut Responder) -> Result<(), Ended> {
        let slept = async {
            glommio::timer::sleep(BEHIND_PAUSE).await;
            Ok(())
        };
        future::or(slept, poll_fn(|cx| self.poll_ended(responder, cx).map(Err))).await
    }

    async fn next_piece(
        &self,
        call: &mut Call,
        responder: &mut Responder,
    ) -> Result<Result<Option<Bytes>, Failure>, Ended> {
        poll_fn(|cx| {
            if let Poll::Ready(piece) = call.poll_piece(cx) {
                return Poll::Ready(Ok(piece));
            }
            self.poll_ended(responder, cx).map(Err)
        })
        .await
    }

    /// The answer, or the beginning of a long one.
    async fn collect(
        &self,
        call: &mut Call,
        responder: &mut Responder,
    ) -> Result<Result<Outcome, Failure>, Ended> {
        let bytes_max = self.upstream.config().receive_bytes_max;
        let mut head = BytesMut::new();
        let mut body = Vec::new();
        let mut announced = None;
        loop {
            let piece = match self.next_piece(call, responder).await? {
                Ok(Some(piece)) => piece,
                Ok(None) if announced == Some(body.len()) => return Ok(Ok(Outcome::Whole(body))),
                Ok(None) => return Err(bad_answer("the member's answer is not whole").into()),
                Err(failure) => return Ok(Err(failure)),
            };
            let mut taken = piece.len();
            let rest = if announced.is_some() {
                piece
            } else {
                head.extend_from_slice(&piece);
                let Some(prefix) = head.first_chunk::<PREFIX_BYTES>() else { continue };
                let (compressed, length) = read_prefix(*prefix, bytes_max).map_err(|error| Status {
                    code: Code::ResourceExhausted,
                    message: error.to_string().into(),
                })?;
                if compressed {
                    return Err(bad_answer("a compressed answer that nobody asked for").into());
                }
                let length = length as usize;
                let is_long = WHOLE_BYTES_MAX < length;
                if is_long && head.len() < PREFIX_BYTES + HEADER_BYTES_MAX {
                    continue;
                }
                taken = head.len();
                let rest = head.split_off(PREFIX_BYTES).freeze();
                if is_long {
                    call.release(PREFIX_BYTES);
                    return Ok(Ok(Outcome::Begun(length as u64, rest)));
                }
                announced = Some(length);
                body.reserve_exact(length);
                rest
            };
            if announced.is_some_and(|announced| announced < body.len() + rest.len()) {
                return Err(bad_answer("the member's answer is longer than it said").into());
            }
            body.extend_from_slice(&rest);
            call.release(taken);
        }
    }

    /// Passes a long answer on.
    async fn pass_on(&self, mut call: Call, bytes: u64, first: Bytes, responder: Responder) {
        let Some(mut stream) = responder.open() else { return };
        let passed = match stream.begin_in_pieces(self.account, |_| {}, bytes) {
            Ok(()) => self.pass_pieces(&mut call, bytes, first, &mut stream).await,
            Err(ended) => Err(ended),
        };
        stream.end(passed);
    }

    async fn pass_pieces(
        &self,
        call: &mut Call,
        bytes: u64,
        first: Bytes,
        stream: &mut AnswerStream,
    ) -> Result<(), Ended> {
        let mut leaving = VecDeque::<(Rc<Signal>, usize)>::new();
        let mut left = bytes;
        let mut next = Some(first);
        poll_fn(|cx| {
            if stream.poll_gone(cx).is_ready() {
                return Poll::Ready(Err(Ended::Gone));
            }
            if let Poll::Ready(status) = self.patience.poll(cx) {
                return Poll::Ready(Err(status.into()));
            }
            loop {
                while leaving.front().is_some_and(|(has_left, _)| has_left.poll_fired(cx).is_ready()) {
                    let (_, bytes) = leaving.pop_front().expect("it is there");
                    call.release(bytes);
                }
                let piece = match next.take() {
                    Some(first) => Some(first),
                    None => match call.poll_piece(cx) {
                        Poll::Pending => return Poll::Pending,
                        Poll::Ready(Ok(piece)) => piece,
                        Poll::Ready(Err(failure)) => return Poll::Ready(Err(failure.status().into())),
                    },
                };
                let Some(piece) = piece else {
                    let is_whole = left == 0;
                    let short = || bad_answer("the member's answer is not whole").into();
                    return Poll::Ready(if is_whole { Ok(()) } else { Err(short()) });
                };
                let piece_bytes = piece.len();
                let Some(after) = left.checked_sub(piece_bytes as u64) else {
                    return Poll::Ready(Err(bad_answer("the member's answer is longer than it said").into()));
                };
                left = after;
                match stream.send_piece(self.account, piece) {
                    Ok(has_left) => leaving.push_back((has_left, piece_bytes)),
                    Err(gone) => return Poll::Ready(Err(gone.into())),
                }
            }
        })
        .await
    }

    /// Passes a call with many answers on, and its requests where they are many.
    async fn stream(&self, asked: &Asked, requests: Option<Requests>, mut responder: Responder) {
        let mut tried = Tried::default();
        let is_open_at_once = requests.is_some();
        let mut call = match self.begin(asked, &mut tried, &mut responder).await {
            Ok(call) => call,
            Err(ended) => {
                end(responder, ended);
                return;
            }
        };
        // Whoever asks once hears of a refusal alone, or of answers.
        let mut first = None;
        while !is_open_at_once && first.is_none() {
            match self.next_piece(&mut call, &mut responder).await {
                Ok(Ok(Some(piece))) => first = Some(piece),
                Ok(Ok(None)) => break,
                Ok(Err(failure)) if self.goes_on(&failure, &tried) => {
                    call = match self.begin(asked, &mut tried, &mut responder).await {
                        Ok(call) => call,
                        Err(ended) => {
                            end(responder, ended);
                            return;
                        }
                    };
                }
                Ok(Err(failure)) => {
                    end(responder, Ended::Status(failure.status()));
                    return;
                }
                Err(ended) => {
                    end(responder, ended);
                    return;
                }
            }
        }
        let Some(mut stream) = responder.open() else { return };
        let bytes_max = self.upstream.config().receive_bytes_max;
        let mut relay = Relay::new(call, requests, first, bytes_max);
        let ended = poll_fn(|cx| {
            if stream.poll_gone(cx).is_ready() {
                return Poll::Ready(Err(Ended::Gone));
            }
            if let Poll::Ready(status) = self.patience.poll(cx) {
                return Poll::Ready(Err(status.into()));
            }
            if let Poll::Ready(ended) = relay.poll_requests(self.upstream.config().send_bytes_max, cx) {
                return Poll::Ready(Err(ended));
            }
            relay.poll_answers(self.account, &mut stream, cx)
        })
        .await;
        stream.end(ended);
    }
}

/// Ends a call that has no answer.
fn end(responder: Responder, ended: Ended) -> Option<usize> {
    match ended {
        Ended::Status(status) => responder.refuse(&status),
        Ended::Gone | Ended::Crowded => responder.abandon(),
    }
    None
}
