//! Proposals on their way through this member to the leader, while there is none or it cannot be reached.
//!
//! A member hands its requests to the leader in a `Propose` message. Whoever gets one that it can neither
//! append nor pass on keeps it here and tries again: a leader that is handing over, a member that does not
//! know the new leader yet, a sender without a connection. So a change of leadership that nobody's death
//! caused costs no request its answer.
//!
//! Only a message that certainly went nowhere comes here: raft gave it back, or no byte of it was given to
//! a socket. One that may have arrived is never sent again, since its requests could be applied twice.
//!
//! Invariants: what is kept is in no log and on no connection; it leaves in the order in which it came.
//! Bounds: bytes by the caller, age by its request timeout: later nobody waits for the answer.

use std::collections::VecDeque;

use crate::raft::Message;

/// See the module.
#[derive(Debug)]
pub(super) struct PassedOn {
    waiting: VecDeque<(Message, u64)>,
    bytes: usize,
    bytes_max: usize,
    /// One could not be sent: none is tried before this tick.
    paused_until: u64,
}

impl PassedOn {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { waiting: VecDeque::new(), bytes: 0, bytes_max, paused_until: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Keeps a message, behind all others. Gives it back when there is no room.
    pub(super) fn push(&mut self, message: Message, tick: u64) -> Option<Message> {
        let bytes = message.entry_bytes();
        if !self.waiting.is_empty() && self.bytes_max < self.bytes + bytes {
            return Some(message);
        }
        self.bytes += bytes;
        self.waiting.push_back((message, tick));
        None
    }

    /// Nothing is tried in this tick any more.
    pub(super) fn pause(&mut self, tick: u64) {
        self.paused_until = tick + 1;
    }

    /// Another leader may be reached where the last one was not.
    pub(super) fn resume(&mut self) {
        self.paused_until = 0;
    }

    /// The next one to try, with the tick it came at.
    pub(super) fn take(&mut self, tick: u64) -> Option<(Message, u64)> {
        if tick < self.paused_until {
            return None;
        }
        let (message, came) = self.waiting.pop_front()?;
        self.bytes -= message.entry_bytes();
        Some((message, came))
    }

    /// It still goes nowhere.
    pub(super) fn put_back(&mut self, message: Message, came: u64) {
        self.bytes += message.entry_bytes();
        self.waiting.push_front((message, came));
    }

    /// Takes out those that came before `tick`.
    pub(super) fn take_older_than(&mut self, tick: u64) -> Vec<Message> {
        let mut old = Vec::new();
        while self.waiting.front().is_some_and(|(_, came)| *came < tick) {
            let (message, _) = self.waiting.pop_front().expect("it was there a line above");
            self.bytes -= message.entry_bytes();
            old.push(message);
        }
        old
    }
}
