//! Questions between members, each with an answer or a reason why there is none.
//!
//! A call is made once and never repeated here: whether a repetition does harm, the caller knows.
//! [`CallError::Unreachable`] says that the question never left, [`CallError::Interrupted`] and
//! [`CallError::TimedOut`] that it may have been acted on.
//! Bounds: `CALLS_MAX` under way in each direction of a connection, a question's and an answer's bytes
//! by the configuration, and every call's time by its caller.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;

use super::Transport;
use super::connection::{Connection, End, FrameReader, framed_bytes};
use super::events::{Allowance, PeerEvent};
use super::link::{DialError, Peer};
use crate::pb::peer as pb;
use crate::peer::frame::put_message;
use crate::peer::{FrameKind, Lane, Refusal};
use crate::shell::net::{TimedOut, within};
use crate::shell::runtime::wake::Wake;
use crate::types::MemberId;

/// Calls under way on one connection.
pub(super) const CALLS_MAX: usize = 256;

/// What a call's framing adds to its body, at most.
pub(super) const ENVELOPE_BYTES_MAX: usize = 2048;

/// Longest reason of a failed call.
const REASON_BYTES_MAX: usize = 1024;

/// A call between members that the transport answers itself: `pinion.peer.v1.OpenStream`. The raft role's calls
/// have other numbers.
pub(super) const CALL_OPEN_STREAM: u32 = 32;

/// How a call was answered. On the wire.
const CODE_OK: u32 = 0;
const CODE_FAILED: u32 = 1;
const CODE_OVERLOADED: u32 = 2;

/// Why a call has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(in crate::shell) enum CallError {
    /// The question was not sent.
    #[error("cannot be reached: {0}")]
    Unreachable(String),
    /// It was sent, or may have been; then the connection ended.
    #[error("the connection ended before the answer: {0}")]
    Interrupted(String),
    #[error("no answer in time")]
    TimedOut,
    /// The other side does not talk to us.
    #[error("refused: {0}")]
    Refused(Refusal),
    /// Too many calls wait, on this side or the other; the question was not acted on.
    #[error("too many calls under way")]
    Overloaded,
    #[error("{0} bytes are too many for a call")]
    TooLarge(usize),
    /// The other side's own word.
    #[error("{0}")]
    Failed(String),
}

impl From<DialError> for CallError {
    fn from(error: DialError) -> Self {
        match error {
            DialError::Refused(refusal) => Self::Refused(refusal),
            other => Self::Unreachable(other.to_string()),
        }
    }
}

/// A caller that waits.
#[derive(Debug, Default)]
pub(super) struct Slot {
    answer: RefCell<Option<Result<Bytes, CallError>>>,
    answered: Wake,
}

/// The calls to one member that wait for their answers.
#[derive(Debug, Default)]
pub(super) struct Calls {
    last_id: Cell<u64>,
    slots: RefCell<BTreeMap<u64, Rc<Slot>>>,
}

impl Calls {
    fn on_answer(&self, response: pb::CallResponse) {
        // A caller may have given up.
        if let Some(slot) = self.slots.borrow_mut().remove(&response.id) {
            slot.answer.replace(Some(result_of(response)));
            slot.answered.ring();
        }
    }

    fn on_end(&self, end: &End) {
        for slot in self.slots.take().into_values() {
            slot.answer.replace(Some(Err(CallError::Interrupted(end.to_string()))));
            slot.answered.ring();
        }
    }
}

/// Forgets a call whose caller stopped waiting.
struct Forget<'a>(&'a Calls, u64);

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.0.slots.borrow_mut().remove(&self.1);
    }
}

fn result_of(response: pb::CallResponse) -> Result<Bytes, CallError> {
    match response.code {
        CODE_OK => Ok(response.body),
        CODE_OVERLOADED => Err(CallError::Overloaded),
        _ => Err(CallError::Failed(response.reason)),
    }
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

impl From<TimedOut> for CallError {
    fn from(_: TimedOut) -> Self {
        Self::TimedOut
    }
}

impl Transport {
    /// Asks a member. A connection that is down is dialed at once, and waited for.
    pub(in crate::shell) async fn call(
        &self,
        member: MemberId,
        kind: u32,
        body: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, CallError> {
        let peer = self.peer(member);
        let peer = peer.ok_or_else(|| CallError::Unreachable(format!("member {member} is not known")))?;
        within(timeout, self.call_peer(&peer, kind, body, timeout)).await
    }

    async fn call_peer(
        &self,
        peer: &Peer,
        kind: u32,
        body: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, CallError> {
        self.check_call(&body)?;
        let connection = match self.way_to(peer, Lane::Call) {
            Some(connection) => connection,
            None => peer.link(Lane::Call).connected().await?,
        };
        let calls = &peer.calls;
        if CALLS_MAX <= calls.slots.borrow().len() {
            return Err(CallError::Overloaded);
        }
        let id = calls.last_id.get() + 1;
        calls.last_id.set(id);
        let request = pb::CallRequest { id, kind, timeout_ms: millis(timeout), body };
        let slot = Rc::<Slot>::default();
        calls.slots.borrow_mut().insert(id, Rc::clone(&slot));
        let _forget = Forget(calls, id);
        let is_queued = connection.queue(self.config.queue_bytes_max, |outbox| {
            put_message(outbox, FrameKind::CallRequest, &request);
        });
        drop(request);
        if !is_queued {
            return Err(CallError::Overloaded);
        }
        slot.answered.rung().await;
        slot.answer.take().expect("the bell rings behind the answer")
    }

    fn check_call(&self, body: &Bytes) -> Result<(), CallError> {
        if self.config.call_bytes_max < body.len() {
            return Err(CallError::TooLarge(body.len()));
        }
        Ok(())
    }

    pub(super) fn call_frame_bytes_max(&self) -> usize {
        self.config.call_bytes_max + ENVELOPE_BYTES_MAX
    }

    /// Whoever waits on a connection that has ended hears it.
    pub(super) fn end_calls(calls: &Calls, end: &End) {
        calls.on_end(end);
    }

    /// Takes questions and answers off a connection, as far as it is for them.
    pub(super) async fn read_calls(
        self: &Rc<Self>,
        from: MemberId,
        reads: Reads,
        connection: &Rc<Connection>,
        mut reader: FrameReader,
    ) -> End {
        reader.set_payload_bytes_max(self.call_frame_bytes_max());
        let allowance = Rc::<Allowance>::default();
        let under_way = Rc::<Cell<usize>>::default();
        loop {
            allowance.room(self.config.inbound_bytes_max).await;
            let frame = match reader.next().await {
                Ok(frame) => frame,
                Err(end) => return end,
            };
            match (frame.kind, &reads.answers_to) {
                (FrameKind::CallRequest, _) if reads.requests => {}
                (FrameKind::CallResponse, Some(peer)) => {
                    match pb::CallResponse::decode(frame.payload) {
                        Ok(response) => peer.calls.on_answer(response),
                        Err(error) => return End::Malformed(format!("answer does not decode: {error}")),
                    }
                    continue;
                }
                (kind, _) => return End::Malformed(format!("{kind:?} frame on the call lane")),
            }
            let bytes = frame.payload.len();
            let request = match pb::CallRequest::decode(frame.payload) {
                Ok(request) => request,
                Err(error) => return End::Malformed(format!("call does not decode: {error}")),
            };
            let reply = Reply {
                connection: Rc::downgrade(connection),
                id: request.id,
                under_way: Rc::clone(&under_way),
                bytes_max: self.config.call_bytes_max,
                queue_bytes_max: self.config.queue_bytes_max,
                is_answered: false,
            };
            under_way.set(under_way.get() + 1);
            if CALLS_MAX < under_way.get() {
                reply.answer(CODE_OVERLOADED, "", Bytes::new());
                continue;
            }
            if request.kind == CALL_OPEN_STREAM {
                self.open_for_stream(from, request.body, reply);
                continue;
            }
            let call = IncomingCall { from, kind: request.kind, body: request.body, reply };
            self.events.deliver(Lane::Call, PeerEvent::Call(call), bytes, &allowance);
        }
    }
}

/// The use of a connection of the call lane.
pub(super) struct Reads {
    /// Whose answers come.
    pub answers_to: Option<Rc<Peer>>,
    pub requests: bool,
}

impl Reads {
    /// For a connection whose dialer takes no questions.
    pub(super) const REQUESTS: Self = Self { answers_to: None, requests: true };
}

/// A question of another process.
#[derive(Debug)]
pub(in crate::shell) struct IncomingCall {
    /// 0: a process without identity.
    pub from: MemberId,
    pub kind: u32,
    pub body: Bytes,
    pub reply: Reply,
}

/// Takes the answer to one question. Dropped, it says that there is none.
#[derive(Debug)]
pub(in crate::shell) struct Reply {
    connection: Weak<Connection>,
    id: u64,
    under_way: Rc<Cell<usize>>,
    bytes_max: usize,
    queue_bytes_max: usize,
    is_answered: bool,
}

impl Reply {
    pub(in crate::shell) fn succeed(self, body: Bytes) {
        if self.bytes_max < body.len() {
            let reason = format!("an answer of {} bytes is too large", body.len());
            self.fail(&reason);
        } else {
            self.answer(CODE_OK, "", body);
        }
    }

    pub(in crate::shell) fn fail(self, reason: &str) {
        self.answer(CODE_FAILED, reason, Bytes::new());
    }

    fn answer(mut self, code: u32, reason: &str, body: Bytes) {
        self.send(code, reason, body);
    }

    fn send(&mut self, code: u32, reason: &str, body: Bytes) {
        if std::mem::replace(&mut self.is_answered, true) {
            return;
        }
        self.under_way.set(self.under_way.get() - 1);
        let Some(connection) = self.connection.upgrade() else { return };
        let end = (0..=reason.len().min(REASON_BYTES_MAX)).rev().find(|end| reason.is_char_boundary(*end));
        let reason = reason[..end.unwrap_or(0)].to_owned();
        let response = pb::CallResponse { id: self.id, code, reason, body };
        let is_queued = connection.queue(self.queue_bytes_max, |outbox| {
            put_message(outbox, FrameKind::CallResponse, &response);
        });
        // The caller does not read its answers; what would wait for it is bounded by a few bytes each.
        if !is_queued && connection.queued_bytes() < 2 * self.queue_bytes_max + framed_bytes(CALLS_MAX) {
            let overloaded = pb::CallResponse { id: self.id, code: CODE_OVERLOADED, ..Default::default() };
            connection.queue_message(FrameKind::CallResponse, &overloaded);
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.send(CODE_FAILED, "the call was dropped", Bytes::new());
    }
}
