//! One request's answer on its way to the connection: written by whoever answers, sent in the connection's turn.
//!
//! Invariants: an exchange is over once; nothing is put in behind its end. Dropped before its end, it is cut, and
//! its connection ends with it, so that the client sees that something is missing.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;

use super::websocket;
use crate::rpc::http1::answer::{BodyFraming, LAST_CHUNK, put_head, put_length};
use crate::rpc::web::AnswerHead;
use crate::shell::client::call::account::Account;
use crate::shell::client::call::body::Body;
use crate::shell::client::responder::Gone;
use crate::shell::client::signal::Signal;
use crate::shell::client::web::part::Part;
use crate::shell::client::web::sink::MessageFraming;

/// How far an answer has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Waiting,
    Open,
    /// All of it is in `out`.
    Over,
    /// It will never be whole.
    Cut,
}

/// How the answer looks on the wire.
#[derive(Debug, Clone)]
pub(super) struct Shape {
    /// HTTP/1.1, whose clients know chunks.
    pub(super) is_current: bool,
    /// The request was HEAD: no body is sent.
    pub(super) is_headless: bool,
    pub(super) is_websocket: bool,
    /// Whose scripts may read it.
    pub(super) origin: Option<Cow<'static, str>>,
}

/// Bytes on their way out.
pub(super) enum Out {
    /// Counted.
    Body(Body),
    /// A few bytes of our own.
    Own(Bytes),
}

/// What the connection and whoever answers share.
pub(super) struct Shared {
    account: Rc<Account>,
    shape: Shape,
    /// The connection goes on behind the answer.
    pub(super) keeps_alive: Cell<bool>,
    pub(super) state: Cell<State>,
    pub(super) out: RefCell<VecDeque<Out>>,
    gone: Signal,
}

impl Shared {
    pub(super) fn new(account: &Rc<Account>, shape: Shape, keeps_alive: bool) -> Rc<Self> {
        Rc::new(Self {
            account: Rc::clone(account),
            shape,
            keeps_alive: Cell::new(keeps_alive),
            state: Cell::new(State::Waiting),
            out: RefCell::default(),
            gone: Signal::default(),
        })
    }

    /// The client has left.
    pub(super) fn leave(&self) {
        self.gone.fire();
    }

    fn put(&self, out: Out) {
        self.out.borrow_mut().push_back(out);
        self.account.wake();
    }

    fn finish(&self) {
        if self.shape.is_websocket {
            self.put(Out::Own(websocket::CLOSE.into()));
        }
        self.state.set(State::Over);
        self.account.wake();
    }
}

/// What a request is answered on. See the module.
pub(in crate::shell::client) struct Exchange {
    shared: Rc<Shared>,
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if self.shared.state.get() != State::Over {
            self.shared.state.set(State::Cut);
            self.shared.account.wake();
        }
    }
}

impl Exchange {
    pub(super) fn new(shared: &Rc<Shared>) -> Self {
        Self { shared: Rc::clone(shared) }
    }

    /// Answers with a head and the body that `write` appends.
    pub(in crate::shell::client) fn answer(
        self,
        account: &Rc<Account>,
        mut head: AnswerHead,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        let shape = &self.shared.shape;
        let mut out = Vec::with_capacity(512);
        if shape.is_websocket {
            write(&mut out);
            websocket::frame_text(&mut out, 0, Part::Whole);
        } else {
            head.origin.clone_from(&shape.origin);
            let at = put_head(&head, BodyFraming::Length, self.shared.keeps_alive.get(), &mut out);
            let start = out.len();
            write(&mut out);
            let length = out.len() - start;
            put_length(&mut out, at, length);
            if shape.is_headless {
                out.truncate(start);
            }
        }
        self.shared.put(Out::Body(Body::new(account, out.into())));
        self.shared.finish();
    }

    /// Begins an answer of any number of messages. False: the client has left.
    pub(in crate::shell::client) fn open(&self, mut head: AnswerHead) -> bool {
        if self.shared.gone.has_fired() {
            return false;
        }
        self.shared.state.set(State::Open);
        let framing = match self.framing() {
            MessageFraming::WebSocket => return true,
            MessageFraming::Chunks => BodyFraming::Chunks,
            MessageFraming::Lines => BodyFraming::UntilClose,
        };
        if framing == BodyFraming::UntilClose {
            self.shared.keeps_alive.set(false);
        }
        head.origin.clone_from(&self.shared.shape.origin);
        let mut out = Vec::with_capacity(256);
        put_head(&head, framing, self.shared.keeps_alive.get(), &mut out);
        self.shared.put(Out::Own(out.into()));
        true
    }

    pub(in crate::shell::client) fn framing(&self) -> MessageFraming {
        let shape = &self.shared.shape;
        match (shape.is_websocket, shape.is_current) {
            (true, _) => MessageFraming::WebSocket,
            (false, true) => MessageFraming::Chunks,
            (false, false) => MessageFraming::Lines,
        }
    }

    /// Sends a piece.
    pub(in crate::shell::client) fn send(&self, body: Body) -> Result<(), Gone> {
        if self.shared.gone.has_fired() {
            return Err(Gone);
        }
        self.shared.put(Out::Body(body));
        Ok(())
    }

    /// Whether the client has left. If not, the task is woken when it does.
    pub(in crate::shell::client) fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.shared.gone.poll_fired(cx)
    }

    /// Ends the answer well, behind `last`.
    pub(in crate::shell::client) fn end(self, last: Bytes) {
        if !last.is_empty() {
            self.shared.put(Out::Own(last));
        }
        if self.framing() == MessageFraming::Chunks {
            self.shared.put(Out::Own(Bytes::from_static(LAST_CHUNK)));
        }
        self.shared.finish();
    }
}
