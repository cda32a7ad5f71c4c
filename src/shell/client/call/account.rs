//! What one connection holds in memory, and what it may do about it.
//!
//! A client decides how much it asks for and how fast it reads, so everything it can make the shard
//! hold is counted here, per connection and for the whole shard:
//!
//! | what | bound | past it |
//! |---|---|---|
//! | requests with the backend | `CALLS_MAX`, `REQUEST_BYTES_MAX` a connection; `SHARD_REQUEST_BYTES_MAX` | the connection is not read |
//! | calls with a task: bodies in pieces, streams | see `place` | `ResourceExhausted` |
//! | large requests | see `turns` | they wait |
//! | header blocks on their way | `HEADER_BYTES_MAX` a connection, `SHARD_HEADER_BYTES_MAX` | `ResourceExhausted` |
//! | commands of `Lock` and `Election` | one a task, on an account of the shard's own | they wait |
//! | requests that wait for room for their answers | `BACKLOG_MAX`, `BACKLOG_BYTES_MAX` a connection | `ResourceExhausted` |
//! | answers not yet taken by the client | `UNSENT_BYTES_MAX` a connection, `SHARD_UNSENT_BYTES_MAX` | requests wait; see below |
//! | bytes that `h2` has written and the socket does not take | 64 KiB a connection, with the answers for the shard | writes wait |
//! | watch responses not yet taken | see `outbox` | the watcher falls behind and holds a position |
//!
//! A connection whose client does not open its flow-control window must still be read, or the window
//! update would never be seen. So requests wait in the backlog there, in order, and the store is not
//! asked. How large an answer will be is not known when it is asked for: each read reserves an
//! estimate, learned from the connection's own last answers of its kind (at once when they grow, by
//! halves when they shrink) and starting high for ranges: the first is alone, then 2, 4, 8 … may be
//! under way. One read is always let through, whatever it reserves.
//!
//! So 20 connections that ask for 50 × 20 MiB each and never read cost one answer each, 400 MiB; and
//! no one else waits for them. What is not bounded: a client that first lowers its estimate with
//! small ranges and then asks for many large ones at once gets `WIDE_CALLS_MAX` of them. When the
//! shard's bound is passed for a while, the connection that has made no progress for longest is closed; past
//! `SHARD_UNSENT_BYTES_LIMIT` it is closed at once.
//!
//! Watch responses have a budget of their own (`outbox`), since a client has its watches and its calls on
//! one connection, and an application that is slow to look at its watches must not find its puts waiting.
//!
//! Invariants: every count falls to zero when the connection ends; a `Body` is counted exactly as long as
//! it is in memory.
//! Cost: O(1) a call.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::IpAddr;
use std::rc::Rc;
use std::task::Waker;

use super::Deferred;
use super::shown::LastShown;
use crate::rpc::method::Weight;
use crate::shell::client::load::ConnectionLoad;
use crate::shell::client::speaks::Speaks;

/// Calls of one connection that are with the backend. A client of etcd has some hundreds.
pub(in crate::shell::client) const CALLS_MAX: usize = 4096;
/// Bytes of those calls' requests: ten of the largest.
pub(super) const REQUEST_BYTES_MAX: usize = 16 << 20;
/// The same for the shard.
pub(super) const SHARD_REQUEST_BYTES_MAX: usize = 128 << 20;

/// Header blocks of one connection that have not ended or that `h2` has not taken.
pub(in crate::shell::client) const HEADER_BYTES_MAX: usize = 64 << 20;
/// The same for the shard.
pub(in crate::shell::client) const SHARD_HEADER_BYTES_MAX: usize = 256 << 20;

/// Header blocks on their way that do not count: part of an ordinary one may be there at any time.
const HEADERS_FREE_BYTES: usize = 4096;

/// Calls that wait for room for their answer.
pub(super) const BACKLOG_MAX: usize = 4096;
/// Bytes of those calls' requests.
pub(super) const BACKLOG_BYTES_MAX: usize = 16 << 20;

/// Bytes of answers that one connection's client has not taken.
pub(in crate::shell::client) const UNSENT_BYTES_MAX: usize = 16 << 20;
/// The same for the shard.
pub(in crate::shell::client) const SHARD_UNSENT_BYTES_MAX: usize = 256 << 20;
/// Whatever the shard's bound lets wait for a while, it holds no more than this and what came last: answers of writing
/// transactions are as long as they are, and nobody can say so before.
pub(in crate::shell::client) const SHARD_UNSENT_BYTES_LIMIT: usize = 2 * SHARD_UNSENT_BYTES_MAX;
/// Reads of more than one key that one connection has with the store.
pub(super) const WIDE_CALLS_MAX: usize = 64;

/// What an answer costs beside its bytes: `h2`'s stream and its queued frames.
pub(super) const ANSWER_OVERHEAD_BYTES: usize = 1024;

/// The shard's sums.
#[derive(Debug, Default)]
pub(in crate::shell::client) struct Ledger {
    pub(super) request_bytes: Cell<usize>,
    pub(in crate::shell::client) unsent_bytes: Cell<usize>,
    /// Memory in which bytes wait for sockets that take none.
    gathered_bytes: Cell<usize>,
    header_bytes: Cell<usize>,
    reserved_bytes: Cell<usize>,
}

impl Ledger {
    /// Bytes of requests under way, and those that wait for clients.
    pub(in crate::shell::client) fn held_bytes(&self) -> u64 {
        (self.request_bytes.get() + self.unread_bytes()) as u64
    }

    /// Bytes that wait for clients: answers not taken yet, and header blocks without their end.
    pub(in crate::shell::client) fn unread_bytes(&self) -> usize {
        self.unsent_bytes.get() + self.gathered_bytes.get() + self.header_bytes.get()
    }
}

/// Learned size of a kind of answer.
#[derive(Debug)]
struct Estimate(Cell<usize>);

impl Estimate {
    fn learn(&self, bytes: usize) {
        self.0.set(bytes.max(self.0.get() / 2).max(ANSWER_OVERHEAD_BYTES));
    }
}

fn add(cell: &Cell<usize>, n: usize) {
    cell.set(cell.get() + n);
}

fn sub(cell: &Cell<usize>, n: usize) {
    cell.set(cell.get().checked_sub(n).expect("what is taken from an account was put there"));
}

/// One connection's account, shared by its task, its calls and its unsent answers.
pub(in crate::shell::client) struct Account {
    pub(in crate::shell::client) id: u64,
    /// Of the client; unknown for sockets without one.
    pub(in crate::shell::client) address: Option<IpAddr>,
    /// The user that the client's certificate names, where certificates are asked for.
    user: RefCell<Option<Rc<str>>>,
    pub(in crate::shell::client) last_shown: LastShown,
    /// What its requests of HTTP/2 that are not gRPC's may be about; None: there are none.
    pub(in crate::shell::client) web: Cell<Option<Speaks>>,
    ledger: Rc<Ledger>,
    waker: RefCell<Option<Waker>>,
    calls: Cell<usize>,
    wide_calls: Cell<usize>,
    request_bytes: Cell<usize>,
    /// What its uploads hold: see `place`.
    pub(in crate::shell::client) upload_bytes: Rc<Cell<usize>>,
    /// Its uploads that wait for their turn: see `turns`.
    pub(in crate::shell::client) waiting_uploads: Rc<Cell<usize>>,
    unsent_bytes: Cell<usize>,
    gathered_bytes: Cell<usize>,
    /// Header blocks that have not ended or that `h2` has not taken.
    header_bytes: Cell<usize>,
    reserved_bytes: Cell<usize>,
    point: Estimate,
    wide: Estimate,
    backlog: RefCell<VecDeque<Deferred>>,
    backlog_bytes: Cell<usize>,
    has_ended: Cell<bool>,
    /// The task does not read because the account is full.
    pub(in crate::shell::client) is_paused: Cell<bool>,
    /// It is on the shard's list of connections to wake when the backend is ready.
    pub(in crate::shell::client) waits_for_ready: Cell<bool>,
    /// It is among those that rest: see `rest`.
    pub(in crate::shell::client) rests: Cell<bool>,
    /// When the shard's tick has to give the task a turn.
    pub(in crate::shell::client) due_ms: Cell<u64>,
    /// When the client last took bytes.
    pub(in crate::shell::client) progress_ms: Cell<u64>,
    /// When it had to take some, after a time with nothing to take.
    answered_ms: Cell<u64>,
    /// The shard has chosen this connection to be closed.
    pub(in crate::shell::client) is_evicted: Cell<bool>,
    pub(in crate::shell::client) load: ConnectionLoad,
}

/// What a submitted call has taken from its connection's account.
#[derive(Debug, Clone, Copy)]
pub(super) struct Charge {
    pub(super) weight: Weight,
    pub(super) request_bytes: usize,
    reserved_bytes: usize,
}

impl Account {
    pub(in crate::shell::client) fn new(id: u64, ledger: Rc<Ledger>) -> Rc<Self> {
        Self::of_client(id, ledger, None)
    }

    /// The client has shown a certificate.
    pub(in crate::shell::client) fn set_user(&self, user: &Rc<str>) {
        self.user.replace(Some(Rc::clone(user)));
    }

    /// The user that its certificate names, maybe an empty one.
    pub(in crate::shell::client) fn user(&self) -> Option<Rc<str>> {
        self.user.borrow().clone()
    }

    /// Of a connection from this address.
    pub(in crate::shell::client) fn of_client(
        id: u64,
        ledger: Rc<Ledger>,
        address: Option<IpAddr>,
    ) -> Rc<Self> {
        Rc::new(Self {
            id,
            address,
            user: RefCell::new(None),
            last_shown: LastShown::default(),
            web: Cell::new(None),
            ledger,
            waker: RefCell::new(None),
            calls: Cell::new(0),
            wide_calls: Cell::new(0),
            request_bytes: Cell::new(0),
            upload_bytes: Rc::default(),
            waiting_uploads: Rc::default(),
            unsent_bytes: Cell::new(0),
            gathered_bytes: Cell::new(0),
            header_bytes: Cell::new(0),
            reserved_bytes: Cell::new(0),
            point: Estimate(Cell::new(64 << 10)),
            wide: Estimate(Cell::new(UNSENT_BYTES_MAX)),
            backlog: RefCell::new(VecDeque::new()),
            backlog_bytes: Cell::new(0),
            has_ended: Cell::new(false),
            is_paused: Cell::new(false),
            waits_for_ready: Cell::new(false),
            rests: Cell::new(false),
            due_ms: Cell::new(0),
            progress_ms: Cell::new(0),
            answered_ms: Cell::new(0),
            is_evicted: Cell::new(false),
            load: ConnectionLoad::default(),
        })
    }

    pub(in crate::shell::client) fn set_waker(&self, waker: &Waker) {
        let mut slot = self.waker.borrow_mut();
        if !slot.as_ref().is_some_and(|old| old.will_wake(waker)) {
            *slot = Some(waker.clone());
        }
    }

    /// Gives the connection's task a turn.
    pub(in crate::shell::client) fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.has_ended.get()
    }

    /// The connection is gone: what waited goes with it.
    pub(in crate::shell::client) fn end(&self) {
        self.has_ended.set(true);
        self.waker.replace(None);
        self.note_gathered(0);
        self.note_headers(0);
        // The deferred calls hold streams, which may hold bodies, which hold this account.
        let backlog = self.backlog.take();
        self.backlog_bytes.set(0);
        drop(backlog);
    }

    /// Whether the connection has as much with the backend as it may.
    pub(in crate::shell::client) fn is_full(&self) -> bool {
        CALLS_MAX <= self.calls.get()
            || REQUEST_BYTES_MAX <= self.request_bytes.get()
            || (SHARD_REQUEST_BYTES_MAX <= self.ledger.request_bytes.get() && 0 < self.calls.get())
    }

    /// The connection's task could do more once a call is settled.
    pub(super) fn wants_turn(&self) -> bool {
        self.is_paused.get() || !self.backlog.borrow().is_empty()
    }

    /// Calls that are with the backend.
    pub(in crate::shell::client) fn calls(&self) -> usize {
        self.calls.get()
    }

    /// So much memory holds bytes that the socket does not take.
    pub(in crate::shell::client) fn note_gathered(&self, bytes: usize) {
        let before = self.gathered_bytes.replace(bytes);
        add(&self.ledger.gathered_bytes, bytes);
        sub(&self.ledger.gathered_bytes, before);
    }

    /// So much memory holds header blocks on their way. False: that is too much.
    pub(in crate::shell::client) fn note_headers(&self, bytes: usize) -> bool {
        let bytes = bytes.saturating_sub(HEADERS_FREE_BYTES);
        let before = self.header_bytes.replace(bytes);
        add(&self.ledger.header_bytes, bytes);
        sub(&self.ledger.header_bytes, before);
        bytes <= before
            || (bytes <= HEADER_BYTES_MAX && self.ledger.header_bytes.get() <= SHARD_HEADER_BYTES_MAX)
    }

    /// What closing the connection would free at least.
    pub(in crate::shell::client) fn unread_bytes(&self) -> usize {
        self.unsent_bytes.get() + self.gathered_bytes.get() + self.header_bytes.get()
    }

    /// Has the connection closed, in its next turn.
    pub(in crate::shell::client) fn evict(&self) {
        self.is_evicted.set(true);
        self.wake();
    }

    /// An answer comes at `now_ms`.
    pub(super) fn on_answer(&self, now_ms: u64) {
        if self.unread_bytes() == 0 {
            self.answered_ms.set(now_ms);
        }
    }

    /// Since when the client takes nothing of what waits for it.
    pub(in crate::shell::client) fn idle_since_ms(&self) -> u64 {
        self.progress_ms.get().max(self.answered_ms.get())
    }

    fn estimate(&self, weight: Weight) -> usize {
        match weight {
            Weight::Light => ANSWER_OVERHEAD_BYTES,
            Weight::Point => self.point.0.get(),
            Weight::Wide => self.wide.0.get(),
        }
    }

    /// Whether there is room for the answer to another call.
    pub(super) fn may_ask(&self, weight: Weight) -> bool {
        let own = self.unsent_bytes.get() + self.reserved_bytes.get();
        if own == 0 {
            return true;
        }
        if !self.has_own_room(weight) {
            return false;
        }
        let estimate = self.estimate(weight);
        // Small answers of honest clients pass even when others have filled the shard.
        weight == Weight::Light
            || own + estimate <= 64 << 10
            || self.ledger.unsent_bytes.get() + self.ledger.reserved_bytes.get() + estimate
                <= SHARD_UNSENT_BYTES_MAX
    }

    /// A call goes to the backend.
    pub(super) fn charge(&self, weight: Weight, request_bytes: usize) -> Charge {
        let reserved_bytes = self.estimate(weight);
        add(&self.calls, 1);
        add(&self.wide_calls, usize::from(weight == Weight::Wide));
        add(&self.request_bytes, request_bytes);
        add(&self.ledger.request_bytes, request_bytes);
        add(&self.reserved_bytes, reserved_bytes);
        add(&self.ledger.reserved_bytes, reserved_bytes);
        Charge { weight, request_bytes, reserved_bytes }
    }

    /// A call came back, with an answer of `answer_bytes` if it was answered.
    pub(super) fn settle(&self, charge: Charge, answer_bytes: Option<usize>) {
        sub(&self.calls, 1);
        sub(&self.wide_calls, usize::from(charge.weight == Weight::Wide));
        sub(&self.request_bytes, charge.request_bytes);
        sub(&self.ledger.request_bytes, charge.request_bytes);
        sub(&self.reserved_bytes, charge.reserved_bytes);
        sub(&self.ledger.reserved_bytes, charge.reserved_bytes);
        if let Some(bytes) = answer_bytes {
            match charge.weight {
                Weight::Light => {}
                Weight::Point => self.point.learn(bytes),
                Weight::Wide => self.wide.learn(bytes),
            }
        }
    }

    /// Bytes of an answer are on their way out.
    pub(super) fn add_unsent(&self, bytes: usize) {
        add(&self.unsent_bytes, bytes);
        add(&self.ledger.unsent_bytes, bytes);
    }

    /// Bytes of an answer have left, or never will. Calls nothing: a wake only queues the task.
    pub(super) fn remove_unsent(&self, bytes: usize) {
        sub(&self.unsent_bytes, bytes);
        sub(&self.ledger.unsent_bytes, bytes);
        if self.next_deferred().is_some() {
            self.wake();
        }
    }

    /// Calls that wait.
    pub(super) fn backlog_len(&self) -> usize {
        self.backlog.borrow().len()
    }

    /// Whether a call of so many bytes may wait.
    pub(super) fn may_defer(&self, request_bytes: usize) -> bool {
        self.backlog.borrow().len() < BACKLOG_MAX
            && self.backlog_bytes.get() + request_bytes <= BACKLOG_BYTES_MAX
    }

    /// Puts a call at the end of the queue.
    pub(super) fn defer(&self, call: Deferred) {
        add(&self.backlog_bytes, call.request_bytes);
        self.backlog.borrow_mut().push_back(call);
    }

    /// Puts a call back that was taken from the front.
    pub(super) fn defer_first(&self, call: Deferred) {
        add(&self.backlog_bytes, call.request_bytes);
        self.backlog.borrow_mut().push_front(call);
    }

    /// Takes the calls whose deadline has passed.
    pub(super) fn take_expired(&self, now_ms: u64) -> Vec<Deferred> {
        let mut backlog = self.backlog.borrow_mut();
        if !backlog.iter().any(|call| call.deadline_ms <= now_ms) {
            return Vec::new();
        }
        let (expired, rest): (Vec<_>, Vec<_>) =
            backlog.drain(..).partition(|call| call.deadline_ms <= now_ms);
        backlog.extend(rest);
        for call in &expired {
            sub(&self.backlog_bytes, call.request_bytes);
        }
        expired
    }

    /// Puts the deadlines off that are not the client's: it is what the calls wait for.
    pub(super) fn put_off(&self, deadline_ms: u64) {
        for call in self.backlog.borrow_mut().iter_mut().filter(|call| !call.is_client_deadline) {
            call.deadline_ms = deadline_ms;
        }
    }

    /// Whether the next call waits for nothing but its own client, who has to take answers first.
    pub(super) fn waits_for_client(&self) -> bool {
        !self.is_full()
            && 0 < self.unsent_bytes.get()
            && self.next_deferred().is_some_and(|weight| !self.has_own_room(weight))
    }

    /// Whether the connection's own bounds leave room for the answer to another call.
    fn has_own_room(&self, weight: Weight) -> bool {
        let own = self.unsent_bytes.get() + self.reserved_bytes.get();
        let is_many = weight == Weight::Wide && WIDE_CALLS_MAX <= self.wide_calls.get();
        own == 0 || (own + self.estimate(weight) <= UNSENT_BYTES_MAX && !is_many)
    }

    /// Weight of the call that is next.
    pub(super) fn next_deferred(&self) -> Option<Weight> {
        self.backlog.borrow().front().map(|call| call.weight)
    }

    /// Takes the call that is next.
    pub(super) fn take_deferred(&self) -> Option<Deferred> {
        let call = self.backlog.borrow_mut().pop_front()?;
        sub(&self.backlog_bytes, call.request_bytes);
        Some(call)
    }
}

impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Account").field("id", &self.id).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::body::Body;
    use super::*;

    fn account() -> (Rc<Account>, Rc<Ledger>) {
        let ledger = Rc::new(Ledger::default());
        (Account::new(1, Rc::clone(&ledger)), ledger)
    }

    #[test]
    fn first_range_is_alone_and_small_answers_open_the_way_for_many() {
        let (account, _) = account();
        assert!(account.may_ask(Weight::Wide));
        let charge = account.charge(Weight::Wide, 10);
        assert!(!account.may_ask(Weight::Wide));
        assert!(!account.may_ask(Weight::Wide));
        account.settle(charge, Some(1000));
        for _ in 0..20 {
            let charge = account.charge(Weight::Wide, 10);
            account.settle(charge, Some(1000));
        }
        for _ in 0..WIDE_CALLS_MAX {
            assert!(account.may_ask(Weight::Wide));
            account.charge(Weight::Wide, 10);
        }
        assert!(!account.may_ask(Weight::Wide));
    }

    #[test]
    fn unsent_answer_blocks_further_reads_and_its_end_frees_them() {
        let (account, ledger) = account();
        let body = Body::new(&account, Bytes::from(vec![0; 20 << 20]));
        assert!(!account.may_ask(Weight::Point));
        assert!(!account.may_ask(Weight::Light));
        drop(body);
        assert!(account.may_ask(Weight::Wide));
        assert_eq!((account.unread_bytes(), ledger.unread_bytes()), (0, 0));
    }

    #[test]
    fn full_shard_stops_large_reads_of_others_but_not_small_ones() {
        let (hog, ledger) = account();
        let other = Account::new(2, Rc::clone(&ledger));
        let _body = Body::new(&hog, Bytes::from(vec![0; SHARD_UNSENT_BYTES_MAX]));
        assert!(other.may_ask(Weight::Wide), "one is always let through");
        other.charge(Weight::Light, 1);
        assert!(!other.may_ask(Weight::Wide));
        assert!(other.may_ask(Weight::Light));
    }

    #[test]
    fn large_answer_raises_the_estimate_at_once() {
        let (account, _) = account();
        for _ in 0..20 {
            let charge = account.charge(Weight::Point, 10);
            account.settle(charge, Some(10));
        }
        assert_eq!(account.estimate(Weight::Point), ANSWER_OVERHEAD_BYTES);
        let charge = account.charge(Weight::Point, 10);
        account.settle(charge, Some(1 << 20));
        assert_eq!(account.estimate(Weight::Point), 1 << 20);
    }

    #[test]
    fn settled_calls_leave_nothing_behind() {
        let (account, ledger) = account();
        let charges: Vec<Charge> = (0..100).map(|n| account.charge(Weight::Light, n)).collect();
        for charge in charges {
            account.settle(charge, None);
        }
        assert_eq!(account.calls(), 0);
        assert_eq!((ledger.request_bytes.get(), ledger.reserved_bytes.get()), (0, 0));
    }
}
