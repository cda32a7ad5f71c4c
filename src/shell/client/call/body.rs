//! Bytes on their way out, counted until the front end lets go of them.

use std::rc::Rc;

use bytes::{Buf, Bytes};

use super::account::{ANSWER_OVERHEAD_BYTES, Account};
use super::outbox::Level;
use crate::shell::client::signal::Signal;

/// Counts bytes as unsent.
#[derive(Debug)]
enum Held {
    Answer {
        account: Rc<Account>,
        bytes: usize,
        /// Fired when the body is gone.
        has_left: Option<Rc<Signal>>,
    },
    Watch {
        level: Rc<Level>,
        bytes: usize,
    },
}

impl Drop for Held {
    // Runs inside the front end's library, with its locks held: nothing here may call it.
    fn drop(&mut self) {
        match self {
            Self::Answer { account, bytes, has_left } => {
                if let Some(has_left) = has_left.take() {
                    has_left.fire();
                }
                account.remove_unsent(*bytes);
            }
            Self::Watch { level, bytes } => level.remove(*bytes),
        }
    }
}

/// A piece of an answer, as the front end keeps it.
#[derive(Debug)]
pub(in crate::shell::client) struct Body {
    bytes: Bytes,
    held: Held,
}

impl Body {
    /// Counts `bytes` against `account`, with an answer's overhead.
    pub(in crate::shell::client) fn new(account: &Rc<Account>, bytes: Bytes) -> Self {
        Self::counted(account, bytes, None)
    }

    /// The same, and `has_left` fires when it is gone.
    pub(in crate::shell::client) fn with_signal(
        account: &Rc<Account>,
        bytes: Bytes,
        has_left: &Rc<Signal>,
    ) -> Self {
        Self::counted(account, bytes, Some(Rc::clone(has_left)))
    }

    fn counted(account: &Rc<Account>, bytes: Bytes, has_left: Option<Rc<Signal>>) -> Self {
        let counted = bytes.len() + ANSWER_OVERHEAD_BYTES;
        account.add_unsent(counted);
        Self { bytes, held: Held::Answer { account: Rc::clone(account), bytes: counted, has_left } }
    }

    /// Watch responses, of which `level` counts `counted` bytes already.
    pub(super) fn of_watch(level: &Rc<Level>, bytes: Bytes, counted: usize) -> Self {
        Self { bytes, held: Held::Watch { level: Rc::clone(level), bytes: counted } }
    }
}

impl Buf for Body {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, n: usize) {
        self.bytes.advance(n);
        if let Held::Watch { level, .. } = &self.held {
            level.note_progress();
        }
    }
}
