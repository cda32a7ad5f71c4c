//! A call with many messages that is passed on: its requests to a member, the member's answers to its client.
//!
//! Messages go one by one, as they came. A request is let out when the member's window has room for it; the member may send
//! more when the client has taken what there is, so what a client does not read stays with the member.

use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;

use super::account::Account;
use super::end::Ended;
use crate::rpc::framing::Splitter;
use crate::rpc::{Code, Status};
use crate::shell::client::responder::{AnswerStream, Request, Requests};
use crate::shell::client::signal::Signal;
use crate::shell::upstream::{Call, bad_answer};

/// A call with many messages, in the middle.
pub(super) struct Relay {
    call: Call,
    /// None: there are no more.
    requests: Option<Requests>,
    splitter: Splitter,
    /// What was sent last is on its way, and was made of so many bytes.
    leaving: Option<(Rc<Signal>, usize)>,
    unreleased: usize,
    first: Option<Bytes>,
}

impl Relay {
    /// One whose call has begun; `first` are bytes of its answers that have come already.
    pub(super) fn new(
        call: Call,
        requests: Option<Requests>,
        first: Option<Bytes>,
        answer_bytes_max: u32,
    ) -> Self {
        let splitter = Splitter::new(answer_bytes_max);
        Self { call, requests, splitter, leaving: None, unreleased: 0, first }
    }

    /// Passes requests on. Ready: the call is over.
    pub(super) fn poll_requests(&mut self, bytes_max: u32, cx: &mut Context<'_>) -> Poll<Ended> {
        while let Some(requests) = &mut self.requests {
            if self.call.poll_room(cx).is_pending() {
                requests.absorb(cx);
                return Poll::Pending;
            }
            match requests.poll_next(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(Request::Message(message))) if (bytes_max as usize) < message.len() => {
                    return Poll::Ready(
                        Status::sent_too_large(message.len() as u64, bytes_max.into()).into(),
                    );
                }
                Poll::Ready(Ok(Request::Message(message))) => self.call.send(&message),
                Poll::Ready(Ok(Request::HalfClosed)) => {
                    self.call.end_requests();
                    self.requests = None;
                }
                Poll::Ready(Ok(Request::Gone)) => return Poll::Ready(Ended::Gone),
                Poll::Ready(Err(status)) => return Poll::Ready(status.into()),
            }
        }
        Poll::Pending
    }

    /// Passes answers on, as fast as the client takes them.
    pub(super) fn poll_answers(
        &mut self,
        account: &Rc<Account>,
        stream: &mut AnswerStream,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Ended>> {
        loop {
            if let Some((has_left, bytes)) = &self.leaving {
                if has_left.poll_fired(cx).is_pending() {
                    return Poll::Pending;
                }
                self.call.release(*bytes);
                self.leaving = None;
            }
            let piece = match self.first.take() {
                Some(first) => first,
                None => match self.call.poll_piece(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(Some(piece))) => piece,
                    Poll::Ready(Ok(None)) => return Poll::Ready(Ok(())),
                    Poll::Ready(Err(failure)) => return Poll::Ready(Err(failure.status().into())),
                },
            };
            self.unreleased += piece.len();
            self.splitter.push(&piece);
            let mut messages = stream.messages();
            loop {
                let message = match self.splitter.take() {
                    Ok(Some(message)) if !message.compressed => message.payload,
                    Ok(Some(_)) => {
                        return Poll::Ready(Err(
                            bad_answer("a compressed answer that nobody asked for").into()
                        ));
                    }
                    Ok(None) => break,
                    Err(error) => {
                        let message = error.to_string().into();
                        return Poll::Ready(Err(Status { code: Code::ResourceExhausted, message }.into()));
                    }
                };
                messages.make_room(message.len());
                messages.begin(|_| {}, message.len())?;
                messages.rest().extend_from_slice(&message);
                messages.end();
            }
            let bytes = std::mem::take(&mut self.unreleased);
            if messages.len() == 0 {
                // A message may be larger than the window.
                self.call.release(bytes);
                continue;
            }
            self.leaving = Some((stream.send_gathered(account)?, bytes));
        }
    }
}
