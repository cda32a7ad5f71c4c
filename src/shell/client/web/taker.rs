//! Who gets a request's text once it is whole, whichever transport has collected it: a call or the v2 API.

use std::rc::Rc;
use std::task::{Context, Poll};

use super::gateway::{self, text_bytes_max, text_too_large};
use super::sink::Sink;
use super::v2;
use crate::rpc::nodes::Failure;
use crate::rpc::nodes::form::body_bytes_max;
use crate::rpc::{Status, status};
use crate::shell::client::call::Head;
use crate::shell::client::call::account::Account;
use crate::shell::client::call::turns::Turn;
use crate::shell::client::{Backend, ClientShard};

/// See the module.
pub(in crate::shell::client) enum Taker {
    Call { head: Head, responder: gateway::Responder },
    V2 { request: v2::Request, sink: Sink },
}

impl Taker {
    /// When whoever sends it does not wait any more.
    pub(in crate::shell::client) fn deadline_ms(&self) -> Option<u64> {
        match self {
            Self::Call { head, .. } => head.client_deadline_ms,
            Self::V2 { .. } => None,
        }
    }

    /// How long the text may be.
    pub(in crate::shell::client) fn bytes_max<B: Backend>(&self, shard: &ClientShard<B>) -> usize {
        match self {
            Self::Call { .. } => text_bytes_max(shard.receive_bytes_max),
            Self::V2 { .. } => body_bytes_max(shard.config.request_bytes_max),
        }
    }

    /// What is said of a text of so many bytes, or more.
    pub(in crate::shell::client) fn too_large(&self, bytes: u64, receive_bytes_max: u32) -> Status {
        match self {
            Self::Call { .. } => text_too_large(bytes, receive_bytes_max),
            Self::V2 { .. } => status::REQUEST_TOO_LARGE,
        }
    }

    /// The text is whole.
    pub(in crate::shell::client) fn take<B: Backend>(
        self,
        shard: &Rc<ClientShard<B>>,
        account: &Rc<Account>,
        text: &[u8],
        turn: Option<Turn>,
    ) {
        match self {
            Self::Call { head, mut responder } => {
                responder.turn = turn;
                shard.on_text(account, &head, text, responder);
            }
            Self::V2 { request, sink } => shard.on_v2(account, request, text, turn, sink),
        }
    }

    /// The text will not be whole.
    pub(in crate::shell::client) fn refuse(self, account: &Rc<Account>, status: &Status) {
        match self {
            Self::Call { responder, .. } => responder.refuse(status),
            Self::V2 { sink, .. } => v2::refuse(account, sink, &Failure::of_status(status)),
        }
    }

    /// Whether the client has left. If not, the task is woken when it does.
    pub(in crate::shell::client) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Call { responder, .. } => responder.poll_gone(cx),
            Self::V2 { sink, .. } => sink.poll_gone(cx),
        }
    }
}
