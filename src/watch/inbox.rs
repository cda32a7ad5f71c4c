//! Notices that wait for their turn at a hub, in the order of the store.
//!
//! A batch for a hundred thousand watchers, or of a million events, takes many slices; the notices behind it
//! wait here. They are bounded: once `BYTES_MAX` wait, further batches are kept as a jump, over which the
//! synced watchers fall behind and read history at their own pace.

use std::collections::VecDeque;

use super::{Batch, Event, Notice};

/// Bytes of the batches that wait.
const BYTES_MAX: usize = 32 << 20;

/// What an event costs besides its bytes.
const EVENT_BYTES: usize = 128;

/// Of a batch of more events a sample is added up.
const COUNTED_EVENTS_MAX: usize = 4_096;

/// See the module.
#[derive(Debug)]
pub(super) struct Inbox {
    /// With what each counts as.
    notices: VecDeque<(Notice, usize)>,
    bytes: usize,
    bytes_max: usize,
}

impl Default for Inbox {
    fn default() -> Self {
        Self { notices: VecDeque::new(), bytes: 0, bytes_max: BYTES_MAX }
    }
}

impl Inbox {
    #[cfg(test)]
    pub(super) fn set_bytes_max(&mut self, bytes_max: usize) {
        self.bytes_max = bytes_max;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.notices.is_empty()
    }

    /// Takes a notice in. Returns the events of a batch that is kept as a jump.
    pub(super) fn push(&mut self, notice: Notice) -> Vec<Event> {
        let (Notice::Batch(batch) | Notice::Part { batch, .. }) = &notice else {
            self.notices.push_back((notice, 0));
            return Vec::new();
        };
        if self.bytes < self.bytes_max {
            let bytes = bytes_of(batch);
            self.bytes += bytes;
            self.notices.push_back((notice, bytes));
            return Vec::new();
        }
        let (Notice::Batch(batch) | Notice::Part { batch, .. }) = notice else { return Vec::new() };
        let Batch { after, through, events } = batch;
        if let Some((Notice::Jumped { current, .. }, _)) = self.notices.back_mut() {
            *current = through;
        } else {
            self.notices.push_back((Notice::Jumped { from: after, current: through }, 0));
        }
        events
    }

    pub(super) fn pop(&mut self) -> Option<Notice> {
        let (notice, bytes) = self.notices.pop_front()?;
        self.bytes -= bytes;
        Some(notice)
    }
}

/// What a batch takes, about.
fn bytes_of(batch: &Batch) -> usize {
    let step = batch.events.len() / COUNTED_EVENTS_MAX + 1;
    let counted = batch.events.iter().step_by(step);
    step * counted.map(|event| EVENT_BYTES + event.body.len() + event.previous.len()).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::watch::Token;

    fn batch(after: i64, bytes: usize) -> Notice {
        let body = Bytes::from(vec![0; bytes]);
        let event =
            Event { revision: after + 1, key: Bytes::new(), is_delete: false, body, previous: Bytes::new() };
        Notice::Batch(Batch { after, through: after + 1, events: vec![event] })
    }

    #[test]
    fn batches_beyond_the_bound_are_kept_as_one_jump_until_another_notice_comes_between() {
        let mut inbox = Inbox::default();
        inbox.push(batch(1, BYTES_MAX));
        let standing = |current| Notice::Standing { token: Token(0), current };
        inbox.push(standing(2));
        for after in [2, 3, 4] {
            assert_eq!(inbox.push(batch(after, 10)).len(), 1);
        }
        inbox.push(standing(5));
        inbox.push(batch(5, 10));
        assert_eq!(inbox.pop(), Some(batch(1, BYTES_MAX)));
        // There is room again, and the order stays.
        assert!(inbox.push(batch(6, 10)).is_empty());
        let rest: Vec<_> = std::iter::from_fn(|| inbox.pop()).collect();
        let jumped = |from, current| Notice::Jumped { from, current };
        assert_eq!(rest, [standing(2), jumped(2, 5), standing(5), jumped(5, 6), batch(6, 10)]);
        assert_eq!(inbox.bytes, 0);
    }
}
