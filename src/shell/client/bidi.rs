//! Calls whose requests are a stream: `Watch` and `LeaseKeepAlive`.
//!
//! Each has a task that reads its requests; `Incoming` cuts them out of the body as they come. The
//! body's flow-control window is given back piece by piece, so a client that sends faster than its
//! requests are taken is held by its own window. An unfinished request is counted in the account.

use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;

use super::account::Account;
use super::call::{Head, Upload, framing_status, overloaded};
use super::response::{self, Responder};
use super::services::BidiMethod;
use super::{Backend, ClientShard};
use crate::rpc::Status;
use crate::rpc::framing::Splitter;

/// What a stream of requests brings next.
pub(super) enum Request {
    /// One request message.
    Message(Bytes),
    /// The client will send no more; it may still read.
    HalfClosed,
    /// The client has left.
    Gone,
}

/// The requests of a stream.
pub(super) struct Incoming {
    body: RecvStream,
    splitter: Splitter,
    gzip: bool,
    /// Nothing follows.
    is_over: bool,
    /// The call's place in the account.
    place: Upload,
}

impl<B: Backend> ClientShard<B> {
    /// Gives a stream of requests its task.
    pub(super) fn spawn_bidi(
        self: &Rc<Self>,
        account: &Rc<Account>,
        method: BidiMethod,
        head: &Head,
        body: RecvStream,
        mut responder: Responder,
    ) {
        let Some(place) = Upload::begin(account) else {
            return response::send_status(&mut responder, &overloaded("too many unfinished requests"));
        };
        let incoming = Incoming {
            body,
            splitter: Splitter::new(self.receive_bytes_max),
            gzip: head.gzip,
            is_over: false,
            place,
        };
        match method {
            BidiMethod::Watch => self.spawn_watch(account, head, incoming, responder),
            BidiMethod::LeaseKeepAlive => self.spawn_keep_alive(account, head, incoming, responder),
        }
    }
}

impl Incoming {
    /// The next request. An error is the call's final status.
    pub(super) fn poll_next<B: Backend>(
        &mut self,
        shard: &ClientShard<B>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Request, Status>> {
        loop {
            match self.splitter.take() {
                Ok(Some(message)) => {
                    return Poll::Ready(shard.unpack(self.gzip, message).map(Request::Message));
                }
                Ok(None) if self.is_over => {
                    let splitter = std::mem::replace(&mut self.splitter, Splitter::new(0));
                    let ended = splitter.finish().map_err(|error| framing_status(&error));
                    return Poll::Ready(ended.map(|()| Request::HalfClosed));
                }
                Ok(None) => {}
                Err(error) => return Poll::Ready(Err(framing_status(&error))),
            }
            if !self.place.hold(self.splitter.len()) {
                return Poll::Ready(Err(overloaded("too many unfinished request bytes")));
            }
            if self.splitter.is_empty() {
                // A stream that waits for its next request keeps no buffer of the size of its last.
                self.splitter = Splitter::new(shard.receive_bytes_max);
            }
            match ready!(self.body.poll_data(cx)) {
                Some(Ok(piece)) => {
                    self.splitter.push(&piece);
                    if self.body.flow_control().release_capacity(piece.len()).is_err() {
                        return Poll::Ready(Ok(Request::Gone));
                    }
                }
                Some(Err(_)) => return Poll::Ready(Ok(Request::Gone)),
                None => self.is_over = true,
            }
        }
    }
}
