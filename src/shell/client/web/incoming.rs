//! The requests of a call that has any number of them, as JSON objects one behind the other.
//!
//! The transport puts the body's bytes in as they come, and stops reading while more waits here than the call
//! takes. An unfinished request is counted in the call's place.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::gateway::{self, text_bytes_max};
use crate::rpc::json::{self, Splitter};
use crate::rpc::{Code, Status};
use crate::shell::client::call::account::Account;
use crate::shell::client::call::overloaded;
use crate::shell::client::call::place::Place;
use crate::shell::client::responder::Request;
use crate::shell::client::tally::Received;

/// Text that waits before the transport stops reading. A request may be larger, if it is the only one.
const WAITING_BYTES_MAX: usize = 64 << 10;

/// What is known of the end of a stream of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    NotYet,
    HalfClosed,
    Gone,
}

/// Where the transport puts the bytes of a body.
pub(in crate::shell::client) struct Inbound {
    splitter: RefCell<Splitter>,
    /// The bytes are no requests: told behind those that were.
    fault: RefCell<Option<Status>>,
    end: Cell<End>,
    waker: RefCell<Option<Waker>>,
    /// The task that puts bytes in and waits for room.
    giver: RefCell<Option<Waker>>,
    /// Nobody takes requests any more.
    is_left: Cell<bool>,
}

impl Inbound {
    pub(in crate::shell::client) fn new(receive_bytes_max: u32) -> Rc<Self> {
        Rc::new(Self {
            splitter: RefCell::new(Splitter::new(text_bytes_max(receive_bytes_max))),
            fault: RefCell::new(None),
            end: Cell::new(End::NotYet),
            waker: RefCell::new(None),
            giver: RefCell::new(None),
            is_left: Cell::new(false),
        })
    }

    /// Whether more of the body may come.
    pub(in crate::shell::client) fn has_room(&self) -> bool {
        let splitter = self.splitter.borrow();
        splitter.len() < WAITING_BYTES_MAX || !splitter.has_whole()
    }

    /// Waits until more of the body may come, or nobody takes it any more. For a transport that has a task to put it
    /// in.
    pub(in crate::shell::client) fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.has_room() || self.is_left.get() {
            return Poll::Ready(());
        }
        self.giver.replace(Some(cx.waker().clone()));
        Poll::Pending
    }

    /// Whether nobody takes requests any more.
    pub(in crate::shell::client) fn is_left(&self) -> bool {
        self.is_left.get()
    }

    /// Puts bytes in.
    pub(in crate::shell::client) fn push(&self, bytes: &[u8]) {
        if self.fault.borrow().is_none()
            && let Err(error) = self.splitter.borrow_mut().push(bytes)
        {
            let code = if matches!(error, json::SplitError::TooLarge { .. }) {
                Code::ResourceExhausted
            } else {
                Code::InvalidArgument
            };
            self.fault.replace(Some(Status { code, message: error.to_string().into() }));
        }
        self.wake();
    }

    /// The client sends no more.
    pub(in crate::shell::client) fn close(&self) {
        if self.end.get() == End::NotYet {
            self.end.set(End::HalfClosed);
            self.wake();
        }
    }

    /// The client has left.
    pub(in crate::shell::client) fn leave(&self) {
        self.end.set(End::Gone);
        self.wake();
    }

    /// The next request's text, if it is whole.
    pub(in crate::shell::client) fn take(&self) -> Option<Vec<u8>> {
        self.splitter.borrow_mut().take()
    }

    /// Why there is no next request, if there will never be one.
    pub(in crate::shell::client) fn fault(&self) -> Option<Status> {
        self.fault.borrow().clone()
    }

    fn wake_giver(&self) {
        if let Some(giver) = self.giver.take() {
            giver.wake();
        }
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// The requests of a stream.
pub(in crate::shell::client) struct Incoming {
    inbound: Rc<Inbound>,
    /// Its connection reads on when there is room.
    account: Rc<Account>,
    request: &'static json::Message,
    receive_bytes_max: u32,
    /// The call's place in the account.
    place: Place,
    received: Received,
}

impl Incoming {
    pub(in crate::shell::client) fn new(
        inbound: &Rc<Inbound>,
        account: &Rc<Account>,
        request: &'static json::Message,
        receive_bytes_max: u32,
        place: Place,
        received: Received,
    ) -> Self {
        let (inbound, account) = (Rc::clone(inbound), Rc::clone(account));
        Self { inbound, account, request, receive_bytes_max, place, received }
    }

    /// The next request. An error is the call's final status.
    pub(in crate::shell::client) fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Request, Status>> {
        let inbound = &self.inbound;
        if inbound.end.get() == End::Gone {
            return Poll::Ready(Ok(Request::Gone));
        }
        let had_room = inbound.has_room();
        if let Some(text) = inbound.take() {
            if !had_room && inbound.has_room() {
                self.account.wake();
                inbound.wake_giver();
            }
            let message = gateway::read_message(self.request, &text, self.receive_bytes_max);
            if let Ok(message) = &message {
                self.received.count(message.len());
            }
            return Poll::Ready(message.map(Request::Message));
        }
        if let Some(status) = inbound.fault() {
            return Poll::Ready(Err(status));
        }
        if inbound.end.get() == End::HalfClosed {
            let ended = inbound.splitter.borrow().finish();
            let status = |error: json::SplitError| Status {
                code: Code::InvalidArgument,
                message: error.to_string().into(),
            };
            return Poll::Ready(ended.map(|()| Request::HalfClosed).map_err(status));
        }
        if !self.place.hold(inbound.splitter.borrow().len()) {
            return Poll::Ready(Err(overloaded("too many unfinished request bytes")));
        }
        inbound.waker.replace(Some(cx.waker().clone()));
        Poll::Pending
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.inbound.is_left.set(true);
        self.inbound.wake_giver();
    }
}
