//! The requests of a call that has any number of them, cut out of its body as they come.
//!
//! The call has a task that reads them. The body's flow-control window is given back piece by piece, so a client that sends faster than its
//! requests are taken is held by its own window. An unfinished request is counted in the account.

use std::task::{Context, Poll};

use h2::RecvStream;

use super::request::{framing_status, unpack};
use crate::rpc::Status;
use crate::rpc::framing::Splitter;
use crate::shell::client::call::overloaded;
use crate::shell::client::call::place::Place;
use crate::shell::client::responder::Request;
use crate::shell::client::tally::Received;

/// The requests of a stream.
pub(in crate::shell::client) struct Incoming {
    body: RecvStream,
    splitter: Splitter,
    /// Of a request, inflated or not.
    bytes_max: u32,
    /// Bytes of the stream's window that are not given back yet.
    unreleased: usize,
    gzip: bool,
    end: End,
    /// The call's place in the account.
    place: Place,
    received: Received,
}

/// What is known of the end of a stream of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    NotYet,
    /// Nothing follows what is held.
    HalfClosed,
    Gone,
}

impl Incoming {
    /// Requests of at most `bytes_max` in `body`.
    pub(super) fn new(
        body: RecvStream,
        bytes_max: u32,
        gzip: bool,
        place: Place,
        received: Received,
    ) -> Self {
        let splitter = Splitter::new(bytes_max);
        Self { body, splitter, bytes_max, unreleased: 0, gzip, end: End::NotYet, place, received }
    }

    /// The next request. An error is the call's final status.
    pub(in crate::shell::client) fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Request, Status>> {
        self.absorb(cx);
        if self.end == End::Gone {
            return Poll::Ready(Ok(Request::Gone));
        }
        match self.splitter.take() {
            Ok(Some(message)) => {
                self.release(self.splitter.len());
                let message = unpack(self.gzip, message, self.bytes_max);
                if let Ok(message) = &message {
                    self.received.count(message.len());
                }
                Poll::Ready(message.map(Request::Message))
            }
            Ok(None) if self.end == End::HalfClosed => {
                let splitter = std::mem::replace(&mut self.splitter, Splitter::new(0));
                let ended = splitter.finish().map_err(|error| framing_status(&error));
                Poll::Ready(ended.map(|()| Request::HalfClosed))
            }
            Ok(None) => {
                // A request may be larger than the window.
                self.release(0);
                if !self.place.hold(self.splitter.len()) {
                    return Poll::Ready(Err(overloaded("too many unfinished request bytes")));
                }
                if self.splitter.is_empty() {
                    // A stream that waits for its next request keeps no buffer of the size of its last.
                    self.splitter = Splitter::new(self.bytes_max);
                }
                Poll::Pending
            }
            Err(error) => Poll::Ready(Err(framing_status(&error))),
        }
    }

    /// Takes what has arrived out of `h2`, also while no request may be taken: there each small frame
    /// costs a multiple of its bytes, here only these. They stay within the stream's window, which is
    /// given back when their requests are taken.
    pub(in crate::shell::client) fn absorb(&mut self, cx: &mut Context<'_>) {
        while self.end == End::NotYet {
            match self.body.poll_data(cx) {
                Poll::Ready(Some(Ok(piece))) => {
                    self.unreleased += piece.len();
                    self.splitter.push(&piece);
                }
                Poll::Ready(Some(Err(_))) => self.end = End::Gone,
                Poll::Ready(None) => self.end = End::HalfClosed,
                Poll::Pending => return,
            }
        }
    }

    /// Gives the window back but for `kept` bytes.
    fn release(&mut self, kept: usize) {
        let released = self.unreleased.saturating_sub(kept);
        self.unreleased -= released;
        if 0 < released && self.body.flow_control().release_capacity(released).is_err() {
            self.end = End::Gone;
        }
    }
}
