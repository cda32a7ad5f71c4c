//! What the shard asks for itself, on behalf of a call that takes several commands.
//!
//! Such a command is not forgotten when its client leaves: what it began (a key in a queue, a lease
//! granted) has to be ended, and only its answer tells what it began. So it is counted on an account
//! of the shard's own that never ends, and waits there, in order, when the rings are full.
//!
//! Bounded by the calls that ask: each has a task, which is counted, and one command at a time.

use std::future::poll_fn;
use std::rc::Rc;

use super::{Deferred, Mailbox, Recipient, Work};
use crate::request::{Command, Response};
use crate::rpc::Status;
use crate::rpc::method::Weight;
use crate::shell::client::Backend;
use crate::shell::client::ClientShard;
use crate::types::Term;

impl<B: Backend> ClientShard<B> {
    /// Asks and waits for the answer, within the request timeout.
    pub(in crate::shell::client) async fn ask(&self, command: Command) -> Result<(Term, Response), Status> {
        let mailbox = self.begin_to_ask(command);
        poll_fn(|cx| mailbox.poll_take(cx)).await
    }

    /// Asks. Whoever does not care for the answer drops the mailbox.
    pub(super) fn begin_to_ask(&self, command: Command) -> Rc<Mailbox> {
        let mailbox = Rc::new(Mailbox::default());
        let request_bytes = match &command {
            Command::Propose { body, .. } => body.len(),
            Command::Read(_) | Command::Member(_) | Command::AppendStats => 0,
        };
        let cause = self.loads.on_request(&self.own.load, &command, request_bytes);
        self.own.defer(Deferred {
            weight: Weight::Point,
            request_bytes,
            arrived_ms: self.now_ms(),
            deadline_ms: self.now_ms() + self.config.request_timeout_ms(),
            is_client_deadline: false,
            work: Work::Ask(command),
            recipient: Recipient::Task(Rc::clone(&mailbox)),
            cause,
        });
        self.submit_deferred(&self.own);
        mailbox
    }
}
