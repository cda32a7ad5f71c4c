//! A call from its request to the command that is asked of the member, and back.
//!
//! A call knows no transport. A front end brings it with its request and with what it is answered on
//! (`responder`); here it is admitted, accounted for, submitted, waited for and given up. No file of this
//! folder names a front end's library, which `tests/tidy.rs` holds.
//!
//! The common call never gets a task: it is decoded and submitted in the connection's turn, and its answer
//! is written by whoever brings it. A method that streams gets one.

pub(super) mod account;
mod ask;
pub(super) mod body;
mod election;
pub(super) mod end;
mod forward;
pub(super) mod header;
pub(super) mod identity;
mod keep_alive;
mod known_tokens;
pub(super) mod leadership;
pub(super) mod local_watch;
mod lock;
pub(super) mod outbox;
mod password;
pub(super) mod pieces;
pub(super) mod place;
mod recipe;
mod relay;
pub(super) mod revocation;
pub(super) mod serial;
pub(super) mod shown;
pub(super) mod slots;
pub(super) mod slow;
mod snapshot;
mod streams;
pub(super) mod turns;
pub(super) mod watch;

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use prost::Message as _;

use super::Backend;
use super::ClientShard;
use super::responder::{Requests, Responder};
use crate::pb::{etcdserverpb as pb, health};
use crate::request::{Answer, Command, NotOlder, Outcome, Permit, Query, Read, Refusal, Response};
use crate::rpc::api_version::ApiVersion;
use crate::rpc::method::{Becomes, HeaderShape, Weight};
use crate::rpc::{Code, Method, Status, convert, hops, status};
use crate::shell::client::load::Cause;
use crate::types::Term;
use account::{Account, Charge};
use end::CallEnd;
use identity::Identity;
use keep_alive::{Answers, Renewed};
use leadership::Wait;
use place::{Kind, Place};
use shown::Shown;
use slow::{Pace, What};

/// What is known of a call before its request is looked at.
#[derive(Clone)]
pub(super) struct Head {
    pub(super) method: Method,
    /// When the client stops waiting.
    pub(super) client_deadline_ms: Option<u64>,
    /// The client wants no service from a member that knows no leader.
    pub(super) needs_leader: bool,
    pub(super) api_version: ApiVersion,
    /// What shows who calls; see `identity`.
    pub(super) shown: Option<Shown>,
    /// The revision that a read's answer has to be of, or a later one; 0: any.
    pub(super) not_older_than: i64,
    /// Proxies that it has come through.
    pub(super) hops: u8,
}

impl Head {
    /// The revision that the answer to `command` may not be older than. Only what reads the key space has one: a write
    /// is newer than whatever was answered before it.
    fn oldest_for(&self, command: &Command) -> i64 {
        match command {
            Command::Read(Read { query: Query::Range(_) | Query::Txn(_), .. }) => self.not_older_than,
            _ => 0,
        }
    }
}

/// A read that waits until the state has reached `revision`, where that is one. Whether it is permitted is asked
/// when it has waited.
fn not_older(revision: i64, command: Command) -> Command {
    match command {
        Command::Read(Read { linearizable, login, query }) if 0 < revision => {
            let query = Query::NotOlder(Box::new(NotOlder { revision, query }));
            Command::Read(Read { linearizable, login, query })
        }
        command => command,
    }
}

/// The status of a call whose connection makes the shard hold too much already.
pub(super) fn overloaded(what: &'static str) -> Status {
    Status { code: Code::ResourceExhausted, message: what.into() }
}

/// Who gets an answer.
pub(super) enum Recipient {
    /// The stream of a call that has one answer.
    Unary { responder: Responder, header: HeaderShape },
    /// The stream of a snapshot, which comes in pieces.
    Snapshot { responder: Responder, end: CallEnd },
    /// The task of a call that has many.
    Task(Rc<Mailbox>),
    /// The task of a stream of requests, whose answers go out in the requests' order.
    InOrder { answers: Rc<Answers>, number: u64 },
    /// The stream of a call that members behind this proxy answer.
    Forward { responder: Responder, head: Box<Head> },
}

/// What is asked of the backend.
pub(super) enum Work {
    Ask(Command),
    /// The request of a call that is passed on as it came.
    Forward(Bytes),
}

impl Work {
    fn wait(&self) -> Wait {
        match self {
            Self::Ask(command) => Wait::of(command),
            Self::Forward(_) => Wait::Read,
        }
    }
}

/// A command that is ready to be submitted.
pub(super) struct Deferred {
    pub(super) weight: Weight,
    pub(super) request_bytes: usize,
    pub(super) arrived_ms: u64,
    pub(super) deadline_ms: u64,
    pub(super) is_client_deadline: bool,
    pub(super) work: Work,
    pub(super) recipient: Recipient,
    pub(super) cause: Cause,
}

/// A command that is to be submitted in somebody's name.
struct Permitting {
    weight: Weight,
    request_bytes: usize,
    client_deadline_ms: Option<u64>,
    not_older_than: i64,
    command: Command,
    recipient: Recipient,
}

/// Whether somebody else than the state machine carries the command out, so that its right is asked beforehand.
fn needs_permit(command: &Command) -> bool {
    match command {
        Command::Member(_) => true,
        Command::Read(read) => read.query.is_for_leader(),
        Command::Propose { .. } | Command::AppendStats => false,
    }
}

/// A call that is with the backend.
pub(super) struct Submitted {
    pub(super) account: Rc<Account>,
    charge: Charge,
    is_client_deadline: bool,
    pub(super) wait: Wait,
    pace: Pace,
    cause: Cause,
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
    /// Whether this member, as it stands, serves the call at all.
    fn admit(&self, head: &Head) -> Result<(), Status> {
        if hops::HOPS_MAX <= head.hops && self.backend.upstream().is_some() {
            return Err(hops::circle());
        }
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

    /// A call whose requests are a stream has arrived. `requests` gets the call's place, for what an
    /// unfinished request holds.
    pub(super) fn on_stream(
        self: &Rc<Self>,
        account: &Rc<Account>,
        head: &Head,
        requests: impl FnOnce(Place) -> Requests,
        responder: Responder,
    ) {
        if let Err(status) = self.admit(head) {
            return responder.refuse(&status);
        }
        let is_watch = head.method.row().becomes == Becomes::Watch;
        let kind = if is_watch { Kind::Watch } else { Kind::KeepAlive };
        // What somebody may read only the members know, at each moment: streams with a token are passed on.
        let is_nobodys = !matches!(head.shown, Some(Shown::Token(_)));
        // So are those of another proxy, which has joined them: a circle of proxies is seen by a call that goes round.
        let is_a_clients = is_nobodys && head.hops == 0;
        let is_joined = is_a_clients && (!is_watch || self.backend.joins_watches());
        if self.backend.upstream().is_some() && !is_joined {
            return self.forward_stream(account, head, requests, kind, responder);
        }
        let Some(place) = Place::begin(&self.places, kind) else {
            return responder.refuse(&overloaded("too many streams"));
        };
        if is_watch {
            self.spawn_watch(head, requests(place), responder);
        } else {
            self.spawn_keep_alive(account, head, requests(place), responder);
        }
    }

    /// A call with one request has arrived, the request with it.
    pub(super) fn on_call(
        self: &Rc<Self>,
        account: &Rc<Account>,
        head: &Head,
        payload: Bytes,
        responder: Responder,
    ) {
        if let Err(status) = self.admit(head) {
            return responder.refuse(&status);
        }
        let row = head.method.row();
        if let Some(upstream) = self.backend.upstream()
            && !row.is_of_health()
        {
            return self.forward_call(&Rc::clone(upstream), account, head, payload, responder);
        }
        let request_bytes = payload.len();
        let command = match row.becomes {
            Becomes::Command(_) | Becomes::Read | Becomes::Member => {
                convert::command(head.method, payload, &self.limits, || self.lease_ids.positive())
            }
            Becomes::Recipe(recipe) => return self.spawn_recipe(account, recipe, head, payload, responder),
            Becomes::Password(password) => {
                return self.spawn_password(account, password, head, payload, responder);
            }
            Becomes::Here if head.method.row().needs_admin && self.identities.revision().is_some() => {
                return self.spawn_admin_call(account, head, payload, responder);
            }
            Becomes::Here => return self.answer_here(account, head, payload, responder),
            Becomes::Watch | Becomes::LeaseStream => {
                unreachable!("a stream of requests has a task and is never collected")
            }
        };
        match command {
            Ok(Command::Read(Read { linearizable: true, .. })) if self.leadership.is_learner() => {
                responder.refuse(&head.api_version.refusal_of_learner());
            }
            Ok(_) if head.api_version == ApiVersion::Malformed => {
                responder.refuse(&status::INVALID_CLIENT_API_VERSION);
            }
            Ok(Command::Read(Read { linearizable, query: Query::RangeSlice(first), .. })) => {
                self.spawn_range_stream(account, head, linearizable, *first, responder);
            }
            Ok(command) => {
                let recipient = match command {
                    Command::Read(Read { query: Query::Snapshot, .. }) => {
                        Recipient::Snapshot { responder, end: self.end_of_stream(head) }
                    }
                    _ => Recipient::Unary { responder, header: row.header },
                };
                let call = Permitting {
                    weight: row.weigh(&command),
                    request_bytes,
                    client_deadline_ms: head.client_deadline_ms,
                    not_older_than: head.oldest_for(&command),
                    command,
                    recipient,
                };
                self.submit_in_name(account, head, call);
            }
            Err(status) => responder.refuse(&status),
        }
    }

    /// Submits a command in the name of whoever calls: at once where that can be said at once.
    fn submit_in_name(self: &Rc<Self>, account: &Rc<Account>, head: &Head, mut call: Permitting) {
        if !head.method.row().is_for_all {
            match self.identify_on(account, head.shown.as_ref()) {
                Ok(Identity::Unasked) => {}
                Ok(Identity::Login(login)) if !needs_permit(&call.command) => {
                    call.command = identity::guarded(call.command, login);
                }
                Ok(Identity::Login(_) | Identity::Unknown) => {
                    return self.spawn_identification(account, head, call);
                }
                Err(status) => return self.answer(account, call.recipient, Err(status)),
            }
        }
        self.submit_permitted(account, call);
    }

    fn submit_permitted(&self, account: &Rc<Account>, call: Permitting) {
        let Permitting { weight, request_bytes, client_deadline_ms, not_older_than, command, recipient } =
            call;
        let command = not_older(not_older_than, command);
        self.submit(account, weight, request_bytes, client_deadline_ms, command, recipient);
    }

    /// Asks who calls, and what is not asked of the state machine, and submits the command then.
    fn spawn_identification(self: &Rc<Self>, account: &Rc<Account>, head: &Head, mut call: Permitting) {
        let place = match self.place_to_identify(call.request_bytes) {
            Ok(place) => place,
            Err(status) => return self.answer(account, call.recipient, Err(status)),
        };
        let (shard, account, head) = (Rc::clone(self), Rc::clone(account), head.clone());
        glommio::spawn_local(async move {
            let _place = place;
            let named = shard.in_the_name_of(head.shown.as_ref(), call.command);
            match shard.in_time(&head, named).await {
                Ok(command) => {
                    call.command = command;
                    shard.submit_permitted(&account, call);
                }
                Err(status) => shard.answer(&account, call.recipient, Err(status)),
            }
        })
        .detach();
    }

    /// A place for a call that waits until it is known who makes it, and for its bytes.
    pub(super) fn place_to_identify(&self, bytes: usize) -> Result<Place, Status> {
        Place::begin(&self.places, Kind::Login)
            .and_then(|mut place| place.grow(bytes).then_some(place))
            .ok_or_else(|| overloaded("too many calls wait for a look at who makes them"))
    }

    /// Answers a call that needs nobody else, if whoever makes it runs the cluster.
    fn spawn_admin_call(
        self: &Rc<Self>,
        account: &Rc<Account>,
        head: &Head,
        payload: Bytes,
        responder: Responder,
    ) {
        let place = match self.place_to_identify(payload.len()) {
            Ok(place) => place,
            Err(status) => return responder.refuse(&status),
        };
        let (shard, account, head) = (Rc::clone(self), Rc::clone(account), head.clone());
        glommio::spawn_local(async move {
            let _place = place;
            let permitted = shard.in_time(&head, async {
                match shard.login(head.shown.as_ref()).await? {
                    Some(login) => shard.permit(login, Permit::Admin).await,
                    None => Ok(()),
                }
            });
            match permitted.await {
                Ok(()) => shard.answer_here(&account, &head, payload, responder),
                Err(status) => responder.refuse(&status),
            }
        })
        .detach();
    }

    /// Answers a call that needs nobody else.
    fn answer_here(
        self: &Rc<Self>,
        account: &Rc<Account>,
        head: &Head,
        payload: Bytes,
        responder: Responder,
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
            Ok(body) => responder.answer(account, |_| {}, body),
            Err(status) => responder.refuse(&status),
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
        self.submit_work(account, weight, request_bytes, client_deadline_ms, Work::Ask(command), recipient);
    }

    /// The same, whoever is to do it.
    fn submit_work(
        &self,
        account: &Rc<Account>,
        weight: Weight,
        request_bytes: usize,
        client_deadline_ms: Option<u64>,
        work: Work,
        recipient: Recipient,
    ) {
        let own_ms = self.now_ms() + self.config.request_timeout_ms();
        let is_client_deadline = client_deadline_ms.is_some_and(|client| client < own_ms);
        let deadline_ms = client_deadline_ms.map_or(own_ms, |client| client.min(own_ms));
        let arrived_ms = self.now_ms();
        let cause = match &work {
            Work::Ask(command) => self.loads.on_request(&account.load, command, request_bytes),
            Work::Forward(_) => self.loads.on_forward(&account.load, request_bytes),
        };
        let call = Deferred {
            weight,
            request_bytes,
            arrived_ms,
            deadline_ms,
            is_client_deadline,
            work,
            recipient,
            cause,
        };
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
        let Deferred {
            weight,
            request_bytes,
            arrived_ms,
            deadline_ms,
            is_client_deadline,
            work,
            recipient,
            cause,
        } = call;
        let (command, recipient) = match (work, recipient) {
            (Work::Ask(command), recipient) => (command, recipient),
            (Work::Forward(payload), Recipient::Forward { responder, head }) => {
                let shard = self.itself.upgrade().expect("whoever calls it holds it");
                let deadline = (deadline_ms, is_client_deadline);
                return shard.forward_now(account, weight, deadline, payload, &head, responder);
            }
            (Work::Forward(_), _) => unreachable!("what is passed on has its recipient"),
        };
        let charge = account.charge(weight, request_bytes);
        let waiter = Submitted {
            account: Rc::clone(account),
            charge,
            is_client_deadline,
            wait: Wait::of(&command),
            pace: Pace { what: What::of(&command), arrived_ms, submitted_ms: self.now_ms() },
            cause,
            recipient: Some(recipient),
        };
        let ticket = self.calls.borrow_mut().insert(deadline_ms, waiter);
        let Err(command) = self.backend.submit(ticket, command) else { return };
        let waiter = self.calls.borrow_mut().take(ticket).expect("the backend did not take the ticket");
        account.settle(charge, None);
        self.set_blocked();
        let recipient = waiter.recipient.expect("it was put there above");
        let call = Deferred {
            weight,
            request_bytes,
            arrived_ms,
            deadline_ms,
            is_client_deadline,
            work: Work::Ask(command),
            recipient,
            cause,
        };
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
        let Submitted { account, charge, recipient, pace, wait, cause, .. } = waiter;
        // Whoever was told that it took too long was counted then.
        if wait == Wait::Write && result.is_err() && recipient.is_some() {
            self.proposals_failed.increment();
        }
        let answer = match result {
            Ok(Answer { term, outcome }) => match outcome {
                Outcome::Ok(response) => Ok((term, response)),
                Outcome::Err(rejection) => Err(Status::from(&rejection)),
            },
            Err(refusal) => Err(Status::from(refusal)),
        };
        if let Ok((_, response)) = &answer {
            self.loads.on_answer(&account.load, cause, &response.body);
        }
        let bytes = answer.as_ref().ok().map(|(_, response)| response.body.len());
        account.settle(charge, bytes);
        if self.slow.is_slow(&pace, self.now_ms()) {
            self.counters.count(|counters| counters.slow += 1);
            self.slow.tell(&pace, wait, self.now_ms(), bytes);
        }
        if let Some(recipient) = recipient {
            account.on_answer(self.now_ms());
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
            (Recipient::InOrder { answers, number }, answer) => {
                answers.put(number, answer.map(|(term, response)| Renewed::Here(term, response)));
            }
            (Recipient::Unary { responder, .. } | Recipient::Snapshot { responder, .. }, Err(status)) => {
                responder.refuse(&status);
            }
            (Recipient::Forward { responder, .. }, Err(status)) => responder.refuse(&status),
            (Recipient::Snapshot { .. }, Ok(_)) => unreachable!("a snapshot comes in pieces"),
            (Recipient::Forward { .. }, Ok(_)) => unreachable!("what is passed on is answered by its task"),
            (Recipient::Unary { responder, header }, Ok((term, response))) => {
                let head = |out: &mut Vec<u8>| match header {
                    HeaderShape::Full => self.headers.put(out, response.revision, term),
                    HeaderShape::NoRevision => self.headers.put(out, 0, term),
                    HeaderShape::Absent => {}
                };
                responder.answer(account, head, response.body);
            }
        }
    }

    /// Ends the waits that are over. What is with the backend stays counted until its answer comes,
    /// or for one more timeout: the backend has given it up by then.
    pub(super) fn expire_calls(&self) {
        let now_ms = self.now_ms();
        let mut late = Vec::new();
        let mut forgotten = Vec::new();
        self.calls.borrow_mut().expire(now_ms, |ticket, mut waiter| match waiter.recipient.take() {
            Some(recipient) => {
                forgotten.extend((waiter.charge.weight == Weight::Wide).then_some(ticket));
                late.push((Rc::clone(&waiter.account), recipient, waiter.is_client_deadline, waiter.wait));
                Some((now_ms + self.config.request_timeout_ms(), waiter))
            }
            None => {
                waiter.account.settle(waiter.charge, None);
                None
            }
        });
        self.forget_reads(forgotten);
        for (account, recipient, is_client_deadline, wait) in late {
            self.counters.count(|counters| counters.timeouts += 1);
            self.proposals_failed.add(u64::from(wait == Wait::Write && !is_client_deadline));
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
            let status = self.timeout_status(call.is_client_deadline, call.work.wait());
            self.answer(account, call.recipient, Err(status));
        }
    }

    fn timeout_status(&self, is_client_deadline: bool, wait: Wait) -> Status {
        // Whoever gets it in time asks another member.
        if is_client_deadline && wait != Wait::NotOlder {
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
        let (mut gone, mut forgotten) = (Vec::new(), Vec::new());
        self.calls.borrow_mut().replace_each(|ticket, mut waiter| {
            if waiter.account.id == account.id {
                forgotten.extend((waiter.charge.weight == Weight::Wide).then_some(ticket));
                gone.push(waiter.recipient.take());
            }
            waiter
        });
        self.forget_reads(forgotten);
    }
}

pub(super) fn decode<M: prost::Message + Default>(payload: Bytes) -> Result<M, Status> {
    M::decode(payload).map_err(|error| Status::undecodable(&error.to_string()))
}
