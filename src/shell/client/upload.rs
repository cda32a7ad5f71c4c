//! A request's body by HTTP/2 that comes in pieces: for gRPC and for what else comes by TLS.
//!
//! It has a task, counts as an upload, and waits for its turn when it is large. It ends early with its deadline, when
//! its memory is needed for others (`call::place`), when it is too large, or when its client has left.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::RecvStream;

use super::call::account::Account;
use super::call::overloaded;
use super::call::place::Upload;
use super::call::turns::{LARGE_BYTES_MIN, Turn};
use super::{Backend, ClientShard};
use crate::rpc::{Status, status};

/// Why a request did not become whole.
pub(super) enum Torn {
    /// The client has left.
    Gone,
    Refused(Status),
}

impl From<Status> for Torn {
    fn from(status: Status) -> Self {
        Self::Refused(status)
    }
}

/// Where the pieces are put together.
pub(super) trait Gather {
    /// Takes the next piece.
    ///
    /// # Errors
    /// What the request is refused with.
    fn push(&mut self, piece: Bytes) -> Result<(), Status>;

    /// Bytes that have come.
    fn len(&self) -> usize;

    /// Bytes that it will have, as far as can be told; the most there may be where a long one does not say.
    fn expected(&self) -> usize;

    /// The request has its turn: from now on the bytes to come are its own.
    fn on_turn(&mut self) {}

    /// Whether the client has left. If not, the task is woken when it does.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()>;
}

impl<B: Backend> ClientShard<B> {
    /// Collects the rest of `body` in `gather`, which has its first pieces already. Returns the turn of a large one.
    ///
    /// # Errors
    /// It will not be whole. The last piece has not given its window back then.
    pub(super) async fn collect(
        &self,
        account: &Rc<Account>,
        deadline_ms: Option<u64>,
        body: &mut RecvStream,
        gather: &mut impl Gather,
        mut upload: Upload,
    ) -> Result<Option<Turn>, Torn> {
        let timer = deadline_ms.map(|deadline_ms| self.set_timer(deadline_ms));
        let mut turn: Option<Turn> = None;
        let mut grown = gather.len();
        loop {
            body.flow_control().release_capacity(grown).map_err(|_| Torn::Gone)?;
            if !upload.grow(grown) {
                return Err(overloaded("too many unfinished request bytes").into());
            }
            let expected = gather.expected();
            if turn.is_none() && LARGE_BYTES_MIN < expected {
                turn = Turn::begin(&self.turns, &account.waiting_uploads, expected);
                if turn.is_none() {
                    return Err(overloaded("too many large requests wait on this connection").into());
                }
            }
            let piece = poll_fn(|cx| {
                if timer.as_ref().is_some_and(|timer| timer.poll_fired(cx).is_ready()) {
                    return Poll::Ready(Err(status::CONTEXT_DEADLINE_EXCEEDED.into()));
                }
                if upload.poll_refused(cx).is_ready() {
                    return Poll::Ready(Err(
                        overloaded("unfinished request has not moved for too long").into()
                    ));
                }
                if turn.as_ref().is_some_and(|turn| turn.poll_comes(cx).is_pending()) {
                    // What has come stays in the connection's window, so nothing else tells.
                    return gather.poll_gone(cx).map(|()| Err(Torn::Gone));
                }
                body.poll_data(cx).map(Ok)
            });
            match piece.await? {
                None => return Ok(turn),
                Some(Err(_)) => return Err(Torn::Gone),
                Some(Ok(piece)) => {
                    grown = piece.len();
                    if turn.is_some() {
                        gather.on_turn();
                    }
                    gather.push(piece)?;
                }
            }
        }
    }
}
