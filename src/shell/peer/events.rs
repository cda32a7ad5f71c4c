//! What the transport has to tell the raft role, in bounded memory.
//!
//! Every connection has an allowance of bytes that wait here; when it is used up the connection is
//! not read until the raft role has taken some, and TCP makes the sender wait.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use super::bulk::BulkReader;
use super::call::IncomingCall;
use super::pages::PageCall;
use crate::peer::{Lane, Refusal};
use crate::raft::Message;
use crate::shell::net::KnownAddresses;
use crate::shell::runtime::mesh::Doorbell;
use crate::shell::runtime::wake::Wake;
use crate::types::MemberId;

/// What happened. Within a lane messages keep their order; what is urgent comes first.
#[derive(Debug)]
pub(in crate::shell) enum PeerEvent {
    /// Checked for its form, its recipient, and its sender.
    Message(Message),
    /// Messages to it get through from now on.
    Up(MemberId),
    /// A new connection carries appends and requests to it: what was given to the last one may be lost.
    Reconnected(MemberId),
    /// They no longer do, or it no longer talks to us; also of one that talked to us and never was
    /// up. `reset`: its kernel closed the connection and it said nothing, so the process has most
    /// likely ended. A redial is under way; another `Up` follows if it was not so.
    Down {
        member: MemberId,
        reset: bool,
    },
    /// A message was not sent, or nobody answers there. Told once until it is taken.
    Unreachable(MemberId),
    /// It does not want to talk to us, and says why. Told once until it changes.
    Refused {
        by: MemberId,
        refusal: Refusal,
    },
    Call(IncomingCall),
    Bulk(BulkReader),
    /// A member was met that `Transport::lives` did not have.
    Met,
    /// Somebody asks by HTTP.
    Page(PageCall),
    /// Names lead elsewhere than was known.
    Resolved(KnownAddresses),
}

/// What one connection has waiting.
#[derive(Debug, Default)]
pub(super) struct Allowance {
    waiting_bytes: Cell<usize>,
    freed: Wake,
}

impl Allowance {
    /// Waits until less than `bytes_max` waits.
    pub(super) async fn room(&self, bytes_max: usize) {
        while bytes_max <= self.waiting_bytes.get() {
            self.freed.rung().await;
        }
    }
}

#[derive(Debug)]
struct Waiting {
    event: PeerEvent,
    charged: Option<(Rc<Allowance>, usize)>,
}

/// The events that wait.
#[derive(Debug)]
pub(super) struct Events {
    urgent: RefCell<VecDeque<Waiting>>,
    /// Renewals of leases among them: they do not wait behind entries.
    calls: RefCell<VecDeque<Waiting>>,
    bulky: RefCell<VecDeque<Waiting>>,
    bell: Doorbell,
}

impl Events {
    pub(super) fn new(bell: Doorbell) -> Self {
        Self { urgent: RefCell::default(), calls: RefCell::default(), bulky: RefCell::default(), bell }
    }

    /// News without a size.
    pub(super) fn tell(&self, event: PeerEvent) {
        self.urgent.borrow_mut().push_back(Waiting { event, charged: None });
        self.bell.ring();
    }

    /// News of `bytes` that came in on `lane`.
    pub(super) fn deliver(&self, lane: Lane, event: PeerEvent, bytes: usize, allowance: &Rc<Allowance>) {
        allowance.waiting_bytes.set(allowance.waiting_bytes.get() + bytes);
        let waiting = Waiting { event, charged: Some((Rc::clone(allowance), bytes)) };
        let queue = match lane {
            Lane::Control => &self.urgent,
            Lane::Call => &self.calls,
            Lane::Append | Lane::Bulk => &self.bulky,
        };
        queue.borrow_mut().push_back(waiting);
        self.bell.ring();
    }

    pub(super) fn take(&self) -> Option<PeerEvent> {
        let next = |queue: &RefCell<VecDeque<Waiting>>| queue.borrow_mut().pop_front();
        let waiting = [&self.urgent, &self.calls, &self.bulky].into_iter().find_map(next)?;
        if let Some((allowance, bytes)) = waiting.charged {
            allowance.waiting_bytes.set(allowance.waiting_bytes.get() - bytes);
            allowance.freed.ring();
        }
        Some(waiting.event)
    }

    #[cfg(test)]
    pub(super) fn bulky_bytes(&self) -> usize {
        let queue = self.bulky.borrow();
        queue.iter().filter_map(|waiting| waiting.charged.as_ref()).map(|(_, bytes)| bytes).sum()
    }

    pub(super) fn is_empty(&self) -> bool {
        [&self.urgent, &self.calls, &self.bulky].into_iter().all(|queue| queue.borrow().is_empty())
    }
}
