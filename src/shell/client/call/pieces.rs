//! Answers in pieces, on their way from the store to the client.
//!
//! Each has a task, which passes on what the store sends and asks it for a piece more whenever one has left.
//! So the store works no faster than the client reads, and a client that does not read holds `PIECES_MAX`
//! pieces here and what its read pins there. Its deadline, a reset or the end of its connection end the read.
//!
//! A task of this shard that asked (`Recipient::Task`) gets the answer whole, as any other.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use super::account::Account;
use super::end::Ended;
use super::place::{Kind, Place};
use super::{Mailbox, Recipient, Submitted, overloaded, snapshot};
use crate::request::{AnswerId, PieceNotice, PieceOrder, Refusal, Response};
use crate::rpc::Status;
use crate::rpc::method::HeaderShape;
use crate::shell::client::Backend;
use crate::shell::client::ClientShard;
use crate::shell::client::responder::{AnswerStream, Responder};
use crate::shell::client::signal::Signal;
use crate::types::limits::{PIECE_BYTES, PIECES_MAX};
use crate::types::{Term, Ticket};

/// The shard's answers in pieces.
#[derive(Default)]
pub(in crate::shell::client) struct Incoming(RefCell<BTreeMap<AnswerId, Rc<Arrived>>>);

/// What has come of one.
#[derive(Default)]
struct Arrived {
    pieces: RefCell<VecDeque<Bytes>>,
    /// Of all pieces, where `Begin` did not tell.
    body_bytes: Cell<u64>,
    end: Cell<Option<Result<(), Refusal>>>,
    waker: RefCell<Option<Waker>>,
}

impl Arrived {
    fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// The next piece; `None` behind the last.
    fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Status>> {
        if let Some(piece) = self.pieces.borrow_mut().pop_front() {
            return Poll::Ready(Ok(Some(piece)));
        }
        match self.end.take() {
            Some(Ok(())) => Poll::Ready(Ok(None)),
            Some(Err(refusal)) => Poll::Ready(Err(refusal.into())),
            None => {
                self.waker.replace(Some(cx.waker().clone()));
                Poll::Pending
            }
        }
    }
}

/// An answer that a task passes on. Dropped early, the store is told.
pub(super) struct Passing<B: Backend> {
    shard: Rc<ClientShard<B>>,
    id: AnswerId,
    arrived: Rc<Arrived>,
    is_complete: Cell<bool>,
}

impl<B: Backend> Passing<B> {
    /// How long a snapshot is. Known when its first piece is there.
    pub(super) fn body_bytes(&self) -> u64 {
        self.arrived.body_bytes.get()
    }

    pub(super) fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Status>> {
        let next = self.arrived.poll_next(cx);
        // The store has forgotten it.
        if matches!(next, Poll::Ready(Ok(None) | Err(_))) {
            self.is_complete.set(true);
        }
        next
    }

    pub(super) fn ask_for_more(&self) {
        self.shard.backend.order_pieces(PieceOrder::More { id: self.id });
    }
}

impl<B: Backend> Drop for Passing<B> {
    fn drop(&mut self) {
        self.shard.incoming.0.borrow_mut().remove(&self.id);
        if !self.is_complete.get() {
            self.shard.backend.order_pieces(PieceOrder::Cancel { id: self.id });
        }
    }
}

impl<B: Backend> ClientShard<B> {
    /// What the store says of an answer in pieces.
    pub fn on_pieces(self: &Rc<Self>, notice: PieceNotice) {
        match notice {
            PieceNotice::Begin { id, ticket, term, revision, body_bytes } => {
                let waiter = self.calls.borrow_mut().take(ticket);
                self.counters.count(|counters| match waiter {
                    Some(_) => counters.replies += 1,
                    None => counters.stale_replies += 1,
                });
                let passing = Passing {
                    shard: Rc::clone(self),
                    id,
                    arrived: Rc::default(),
                    is_complete: Cell::new(false),
                };
                self.incoming.0.borrow_mut().insert(id, Rc::clone(&passing.arrived));
                if let Some(waiter) = waiter {
                    self.begin_to_pass(waiter, passing, term, revision, body_bytes);
                }
            }
            PieceNotice::Piece { id, bytes } => {
                // Whoever waited may have left: then the store knows, or will.
                if let Some(arrived) = self.incoming.0.borrow().get(&id) {
                    arrived.pieces.borrow_mut().push_back(bytes.into());
                    arrived.wake();
                }
            }
            PieceNotice::Length { id, body_bytes } => {
                if let Some(arrived) = self.incoming.0.borrow().get(&id) {
                    arrived.body_bytes.set(body_bytes);
                }
            }
            PieceNotice::End { id, result } => {
                if let Some(arrived) = self.incoming.0.borrow().get(&id) {
                    arrived.end.set(Some(result));
                    arrived.wake();
                }
            }
        }
    }

    fn begin_to_pass(
        self: &Rc<Self>,
        waiter: Submitted,
        passing: Passing<B>,
        term: Term,
        revision: i64,
        body_bytes: u64,
    ) {
        let Submitted { account, charge, recipient, .. } = waiter;
        account.settle(charge, Some(PIECES_MAX * PIECE_BYTES));
        if account.wants_turn() {
            account.wake();
        }
        let Some(recipient) = recipient.filter(|_| !account.has_ended()) else { return };
        match recipient {
            Recipient::Unary { responder, header } => {
                let Some(place) = Place::begin(&self.places, Kind::Pieces) else {
                    return responder.refuse(&overloaded("too many long answers"));
                };
                let mut head = Vec::new();
                match header {
                    HeaderShape::Full => self.headers.put(&mut head, revision, term),
                    HeaderShape::NoRevision => self.headers.put(&mut head, 0, term),
                    HeaderShape::Absent => {}
                }
                glommio::spawn_local(async move {
                    let _place = place;
                    pass_on(&passing, &account, responder, &head, body_bytes).await;
                })
                .detach();
            }
            Recipient::Task(mailbox) => {
                glommio::spawn_local(collect(passing, mailbox, term, revision)).detach();
            }
            Recipient::Snapshot { responder, end } => {
                let Some(place) = Place::begin(&self.places, Kind::Pieces) else {
                    return responder.refuse(&overloaded("too many long answers"));
                };
                glommio::spawn_local(async move {
                    let _place = place;
                    snapshot::pass_on(&passing, &account, responder, &end).await;
                })
                .detach();
            }
            Recipient::InOrder { .. } => unreachable!("a keep-alive is answered in one piece"),
            Recipient::Forward { .. } => unreachable!("the backend is not asked for what is passed on"),
        }
    }

    /// Tells the store that nobody waits for these reads any more.
    pub(super) fn forget_reads(&self, tickets: impl IntoIterator<Item = Ticket>) {
        for ticket in tickets {
            self.backend.order_pieces(PieceOrder::Forget { ticket });
        }
    }
}

/// Passes an answer on to a client.
async fn pass_on<B: Backend>(
    passing: &Passing<B>,
    account: &Rc<Account>,
    responder: Responder,
    head: &[u8],
    body_bytes: u64,
) {
    let Some(mut stream) = responder.open() else { return };
    let end = match stream.begin_in_pieces(account, |out| out.extend_from_slice(head), body_bytes) {
        Ok(()) => pass_pieces(passing, account, &mut stream).await,
        Err(ended) => Err(ended),
    };
    stream.end(end);
}

async fn pass_pieces<B: Backend>(
    passing: &Passing<B>,
    account: &Rc<Account>,
    stream: &mut AnswerStream,
) -> Result<(), Ended> {
    let mut leaving = VecDeque::<Rc<Signal>>::new();
    poll_fn(|cx| {
        if stream.poll_gone(cx).is_ready() {
            return Poll::Ready(Err(Ended::Gone));
        }
        while leaving.front().is_some_and(|has_left| has_left.poll_fired(cx).is_ready()) {
            leaving.pop_front();
            passing.ask_for_more();
        }
        loop {
            match passing.poll_next(cx) {
                Poll::Ready(Ok(Some(piece))) => match stream.send_piece(account, piece) {
                    Ok(has_left) => leaving.push_back(has_left),
                    Err(gone) => return Poll::Ready(Err(gone.into())),
                },
                Poll::Ready(Ok(None)) => return Poll::Ready(Ok(())),
                Poll::Ready(Err(status)) => return Poll::Ready(Err(status.into())),
                Poll::Pending => break,
            }
        }
        // What was sent just now may have left at once.
        if leaving.front().is_some_and(|has_left| has_left.poll_fired(cx).is_ready()) {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    })
    .await
}

/// Puts an answer together for a task.
async fn collect<B: Backend>(passing: Passing<B>, mailbox: Rc<Mailbox>, term: Term, revision: i64) {
    let mut body = Vec::new();
    let whole = loop {
        match poll_fn(|cx| passing.poll_next(cx)).await {
            Ok(Some(piece)) => {
                body.extend_from_slice(&piece);
                passing.ask_for_more();
            }
            Ok(None) => break Ok((term, Response { revision, body, resume: None })),
            Err(status) => break Err(status),
        }
    };
    mailbox.put(whole);
}
