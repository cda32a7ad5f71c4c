//! How a call with a task ends, and what may end it from the server's side while it waits: its deadline, the
//! server's stop, and, if the client wants a leader, the lack of one.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};

use futures_lite::future;

use super::Head;
use super::leadership::LeaderWish;
use crate::rpc::{Status, status};
use crate::shell::client::Backend;
use crate::shell::client::ClientShard;
use crate::shell::client::Timer;
use crate::shell::client::responder::Gone;
use crate::shell::client::signal::Signal;

/// How a call with a task ended, when not by its last message.
#[derive(Debug)]
pub(in crate::shell::client) enum Ended {
    /// The client is told, behind what was sent.
    Status(Status),
    /// The client has left.
    Gone,
    /// The shard needs its memory: at once, and what is unsent is thrown away.
    Crowded,
}

impl From<Status> for Ended {
    /// A status that is told as it is.
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

impl From<Gone> for Ended {
    fn from(Gone: Gone) -> Self {
        Self::Gone
    }
}

/// What ends a call from the server's side.
pub(in crate::shell::client) struct CallEnd {
    deadline: Option<Timer>,
    stop: Rc<Signal>,
    leader: LeaderWish,
}

impl<B: Backend> ClientShard<B> {
    /// What ends a stream.
    pub(super) fn end_of_stream(&self, head: &Head) -> CallEnd {
        CallEnd { leader: self.leadership.wish(head.needs_leader), ..self.end_of_unary(head) }
    }

    /// What ends a call with one answer: whether there is a leader was asked when it came.
    pub(super) fn end_of_unary(&self, head: &Head) -> CallEnd {
        CallEnd {
            deadline: head.client_deadline_ms.map(|deadline_ms| self.set_timer(deadline_ms)),
            stop: self.signal_at_stop(),
            leader: self.leadership.wish(false),
        }
    }

    /// What `work` comes to, for a call with one answer.
    ///
    /// # Errors
    /// Its own; or the client's deadline, ours, or the server's stop came first. The work is given up then: a
    /// password that still waits for its turn is not compared, a command that was proposed may take effect.
    pub(super) async fn in_time<T>(
        &self,
        head: &Head,
        work: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, Status> {
        let end = self.end_of_unary(head);
        let own = self.set_timer(self.now_ms() + self.config.request_timeout_ms());
        let ended = poll_fn(|cx| match end.poll(cx) {
            Poll::Pending => own.poll_fired(cx).map(|()| Err(status::TIMED_OUT)),
            Poll::Ready(status) => Poll::Ready(Err(status)),
        });
        future::or(work, ended).await
    }
}

impl CallEnd {
    /// What the client is told, when the call is to end.
    pub(in crate::shell::client) fn poll(&self, cx: &mut Context<'_>) -> Poll<Status> {
        if self.deadline.as_ref().is_some_and(|timer| timer.poll_fired(cx).is_ready()) {
            return Poll::Ready(status::CONTEXT_DEADLINE_EXCEEDED);
        }
        if self.stop.poll_fired(cx).is_ready() {
            return Poll::Ready(status::STOPPED);
        }
        self.leader.poll_lost(cx)
    }
}
