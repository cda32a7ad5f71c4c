//! `LeaseKeepAlive`: a stream of renewals and the stream of their answers.
//!
//! One task a stream. It takes requests while fewer than `IN_FLIGHT_MAX` are unanswered, submits each at
//! once, and sends what has been answered in the requests' order: all that is ready when the last piece
//! has left goes out as one. So a client that sends one renewal at a time gets each answer at once, one
//! that sends hundreds costs a frame for many, and one that does not read is not read either.
//!
//! An error is the stream's final status, behind the answers before it.
//!
//! Invariants: answers are sent in the order of their requests, one each; what a stream holds is
//! bounded by `IN_FLIGHT_MAX` unanswered requests and `UNSENT_BYTES_MAX` with one batch more of answers.
//! Cost: a renewal allocates what its answer's body takes and nothing else; it has no task and no timer.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use super::account::Account;
use super::end::{CallEnd, Ended};
use super::shown::Shown;
use super::{Head, Recipient, decode};
use crate::pb::etcdserverpb as pb;
use crate::request::{Command, Response};
use crate::rpc::method::Weight;
use crate::rpc::{Status, convert};
use crate::shell::client::Backend;
use crate::shell::client::ClientShard;
use crate::shell::client::responder::{AnswerStream, Request, Requests, Responder};
use crate::shell::client::signal::Signal;
use crate::types::Term;

/// Requests of one stream that are with the backend or wait for the answer to an earlier one. A client
/// renews each lease three times in its life, so this many at once is thousands of leases on a stream.
const IN_FLIGHT_MAX: usize = 64;

/// Answers are gathered behind a piece on its way out up to this size; then the client has to read.
const UNSENT_BYTES_MAX: usize = 2048;

type RenewalAnswer = Result<Renewed, Status>;

/// What a client is told of a renewal.
#[derive(Debug)]
pub(in crate::shell::client) enum Renewed {
    Here(Term, Response),
    /// Elsewhere: the whole message.
    Behind(Bytes),
}

/// The answers to a stream's requests, put in as they come, taken out in order.
#[derive(Default)]
pub(in crate::shell::client) struct Answers {
    queue: RefCell<Queue>,
}

#[derive(Default)]
struct Queue {
    /// Number of the request whose answer is taken next.
    first: u64,
    /// From `first` on; None is unanswered.
    slots: VecDeque<Option<RenewalAnswer>>,
    /// Taken by the answer that is waited for; whatever follows it is found by the same turn.
    waker: Option<Waker>,
}

impl Answers {
    /// Makes a place for the answer to one more request.
    fn add(&self) -> u64 {
        let mut queue = self.queue.borrow_mut();
        queue.slots.push_back(None);
        queue.first + (queue.slots.len() - 1) as u64
    }

    /// The answer to request `number`.
    pub(in crate::shell::client) fn put(&self, number: u64, answer: RenewalAnswer) {
        let mut queue = self.queue.borrow_mut();
        let slot = number.checked_sub(queue.first).and_then(|slot| usize::try_from(slot).ok());
        let slot = slot.expect("an answer is taken after it was put");
        let place = queue.slots.get_mut(slot).expect("a request has a place before it is asked");
        assert!(place.is_none(), "request {number} is answered once");
        *place = Some(answer);
        if slot == 0
            && let Some(waker) = queue.waker.take()
        {
            waker.wake();
        }
    }

    fn take_next(&self) -> Option<RenewalAnswer> {
        let mut queue = self.queue.borrow_mut();
        queue.slots.front()?.as_ref()?;
        queue.first += 1;
        queue.slots.pop_front().flatten()
    }

    fn len(&self) -> usize {
        self.queue.borrow().slots.len()
    }

    fn wake_on_next(&self, cx: &Context<'_>) {
        let mut queue = self.queue.borrow_mut();
        if !queue.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            queue.waker = Some(cx.waker().clone());
        }
    }
}

impl<B: Backend> ClientShard<B> {
    /// Gives a stream of renewals its task.
    pub(in crate::shell::client) fn spawn_keep_alive(
        self: &Rc<Self>,
        account: &Rc<Account>,
        head: &Head,
        requests: Requests,
        responder: Responder,
    ) {
        let Some(stream) = responder.open() else { return };
        let mut renewals = Renewals {
            shard: Rc::clone(self),
            account: Rc::clone(account),
            client_deadline_ms: head.client_deadline_ms,
            shown: head.shown.clone(),
            server_end: self.end_of_stream(head),
            requests,
            stream,
            answers: Rc::default(),
            leaving: None,
            end: None,
        };
        glommio::spawn_local(async move {
            let end = poll_fn(|cx| renewals.poll(cx)).await;
            renewals.stream.end(end);
        })
        .detach();
    }
}

/// One stream.
struct Renewals<B: Backend> {
    shard: Rc<ClientShard<B>>,
    account: Rc<Account>,
    client_deadline_ms: Option<u64>,
    shown: Option<Shown>,
    server_end: CallEnd,
    requests: Requests,
    /// Gathers the answers that wait for the last piece to leave.
    stream: AnswerStream,
    answers: Rc<Answers>,
    /// Fired when the last piece has left.
    leaving: Option<Rc<Signal>>,
    /// No request is taken any more; this is told behind the answers to those that were.
    end: Option<Result<(), Status>>,
}

impl<B: Backend> Renewals<B> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Ended>> {
        if self.stream.poll_gone(cx).is_ready() {
            return Poll::Ready(Err(Ended::Gone));
        }
        if let Poll::Ready(status) = self.server_end.poll(cx) {
            return Poll::Ready(Err(status.into()));
        }
        self.gather()?;
        self.send(cx)?;
        self.answers.wake_on_next(cx);
        self.take_requests(cx)?;
        if self.answers.len() == 0
            && self.stream.messages().len() == 0
            && let Some(end) = self.end.take()
        {
            return Poll::Ready(end.map_err(Ended::Status));
        }
        Poll::Pending
    }

    /// Gathers the answers that are next.
    fn gather(&mut self) -> Result<(), Ended> {
        while let Some(answer) = self.answers.take_next() {
            match answer {
                Ok(Renewed::Behind(message)) => {
                    let mut messages = self.stream.messages();
                    messages.begin(|_| {}, message.len())?;
                    messages.rest().extend_from_slice(&message);
                    messages.end();
                }
                Ok(Renewed::Here(term, response)) => {
                    let mut messages = self.stream.messages();
                    let headers = &self.shard.headers;
                    messages.begin(|out| headers.put(out, response.revision, term), response.body.len())?;
                    messages.rest().extend_from_slice(&response.body);
                    messages.end();
                }
                Err(status) => {
                    // What was asked behind it is nobody's any more.
                    self.answers = Rc::default();
                    self.end = Some(Err(status));
                    break;
                }
            }
        }
        Ok(())
    }

    /// Sends what is gathered, if the last piece has left.
    fn send(&mut self, cx: &mut Context<'_>) -> Result<(), Ended> {
        let is_leaving = |signal: &Rc<Signal>| signal.poll_fired(cx).is_pending();
        // At the end nothing more is gathered, so nothing is gained by waiting.
        let is_last = self.end.is_some() && self.answers.len() == 0;
        if self.stream.messages().len() == 0 || (self.leaving.as_ref().is_some_and(is_leaving) && !is_last) {
            return Ok(());
        }
        let has_left = self.stream.send_gathered(&self.account)?;
        // For the moment when the next piece may follow.
        if has_left.poll_fired(cx).is_pending() {
            self.leaving = Some(has_left);
        }
        Ok(())
    }

    /// Submits the requests that are there, as many as may be unanswered.
    fn take_requests(&mut self, cx: &mut Context<'_>) -> Result<(), Ended> {
        while self.end.is_none()
            && self.answers.len() < IN_FLIGHT_MAX
            && self.stream.messages().len() < UNSENT_BYTES_MAX
        {
            match self.requests.poll_next(cx) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(Request::Gone)) => return Err(Ended::Gone),
                Poll::Ready(Ok(Request::HalfClosed)) => self.end = Some(Ok(())),
                Poll::Ready(Err(status)) => self.end = Some(Err(status)),
                Poll::Ready(Ok(Request::Message(message))) => self.submit(message),
            }
        }
        self.requests.absorb(cx);
        Ok(())
    }

    fn submit(&mut self, message: Bytes) {
        let bytes = message.len();
        if let Some(upstream) = self.shard.backend.upstream() {
            return match decode::<pb::LeaseKeepAliveRequest>(message) {
                Ok(request) => {
                    let (answers, number) = (Rc::clone(&self.answers), self.answers.add());
                    let renewed = move |answer: Result<Bytes, Status>| {
                        answers.put(number, answer.map(Renewed::Behind));
                    };
                    upstream.renew(request.id, Box::new(renewed));
                }
                Err(status) => self.end = Some(Err(status)),
            };
        }
        match convert::lease_keep_alive(message) {
            Ok(command) if self.shard.identities.revision().is_some() => self.submit_in_name(command, bytes),
            Ok(command) => {
                let recipient =
                    Recipient::InOrder { answers: Rc::clone(&self.answers), number: self.answers.add() };
                let deadline_ms = self.client_deadline_ms;
                self.shard.submit(&self.account, Weight::Light, bytes, deadline_ms, command, recipient);
            }
            Err(status) => self.end = Some(Err(status)),
        }
    }
}

impl<B: Backend> Renewals<B> {
    /// Asks first whether the lease may be renewed. What waits for that is one of the unanswered requests.
    fn submit_in_name(&self, command: Command, bytes: usize) {
        let (shard, account, shown) = (Rc::clone(&self.shard), Rc::clone(&self.account), self.shown.clone());
        let (answers, number, deadline_ms) =
            (Rc::clone(&self.answers), self.answers.add(), self.client_deadline_ms);
        glommio::spawn_local(async move {
            match shard.in_the_name_of(shown.as_ref(), command).await {
                Ok(command) => {
                    let recipient = Recipient::InOrder { answers, number };
                    shard.submit(&account, Weight::Light, bytes, deadline_ms, command, recipient);
                }
                Err(status) => answers.put(number, Err(status)),
            }
        })
        .detach();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Wakes(AtomicU64);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn answer(revision: i64) -> RenewalAnswer {
        Ok(Renewed::Here(Term(1), Response { revision, ..Default::default() }))
    }

    fn next(answers: &Answers) -> Option<i64> {
        answers.take_next().map(|answer| match answer.unwrap() {
            Renewed::Here(_, response) => response.revision,
            Renewed::Behind(message) => panic!("{message:?}"),
        })
    }

    #[test]
    fn answers_come_out_in_the_order_of_the_requests_and_wake_once_for_the_one_that_is_next() {
        let answers = Answers::default();
        let wakes = Arc::new(Wakes::default());
        let waker = Waker::from(Arc::clone(&wakes));
        answers.wake_on_next(&Context::from_waker(&waker));
        for number in 0..4 {
            assert_eq!(answers.add(), number);
        }
        for number in [2, 1] {
            answers.put(number, answer(number.cast_signed()));
            assert_eq!((next(&answers), wakes.0.load(Ordering::Relaxed)), (None, 0));
        }
        answers.put(0, answer(0));
        answers.put(3, answer(3));
        assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
        assert_eq!([(); 4].map(|()| next(&answers)), [Some(0), Some(1), Some(2), Some(3)]);
        assert_eq!((next(&answers), answers.len(), answers.add()), (None, 0, 4));
    }

    #[test]
    #[should_panic(expected = "answered once")]
    fn second_answer_to_a_request_is_a_bug() {
        let answers = Answers::default();
        answers.add();
        answers.put(0, answer(1));
        answers.put(0, answer(2));
    }
}
