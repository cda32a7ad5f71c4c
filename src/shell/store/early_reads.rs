//! Reads that came before what they are to see, as the role takes them in and answers them.

use std::time::Instant;

use super::not_older::Admitted;
use super::{MESSAGES_PER_TURN, StoreRole};
use crate::request::{NotOlder, Query, Read, Refusal};
use crate::types::Ticket;

impl StoreRole {
    /// A query that can be answered now; one that comes too early waits, or is refused.
    pub(super) fn wait_if_older(&mut self, ticket: Ticket, read: Read) -> Option<Read> {
        let Read { linearizable, login, query } = read;
        let Query::NotOlder(later) = query else { return Some(Read { linearizable, login, query }) };
        let NotOlder { revision, query } = *later;
        let read = Read { linearizable, login, query };
        let current = self.machine.store().current_revision();
        match self.not_older.admit(ticket, revision, read, current, Instant::now()) {
            Admitted::Ready(read) => return Some(read),
            Admitted::Waits => {}
            Admitted::Refused => self.refuse(ticket, Refusal::TooManyRequests),
        }
        None
    }

    /// Answers reads that have waited for what is applied now. Whether there are more.
    pub(super) fn read_what_waited(&mut self) -> bool {
        let current = self.machine.store().current_revision();
        let mut left = MESSAGES_PER_TURN;
        while let Some((ticket, read)) = self.not_older.take_ready(current) {
            self.observed.begin();
            let cost = self.read(ticket, read);
            left = left.saturating_sub(1 + cost);
            if left == 0 {
                return true;
            }
        }
        false
    }
}
