//! Turns of large requests: how many may be with the shard at once, by their bytes.
//!
//! A request of 50 MiB is held by the shard, the raft role, the log's memory and the state machine on its way. A
//! hundred clients that send one at once must not cost a hundred times that, nor be told to come again: each waits,
//! with what its flow-control window let through, until it is its turn, in the order in which they came. A turn lasts
//! until the request is answered.
//!
//! Bounds: `TURN_BYTES_MAX` of requests with a turn, or one; `WAITING_MAX` a connection that wait for one, so that the
//! bytes which they keep in the connection's window leave room for others.
//! Not bounded: the time that an upload with a turn takes, as long as it moves (`place`).

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll};

use crate::shell::client::signal::Signal;

/// A request that announces more needs a turn.
pub(in crate::shell::client) const LARGE_BYTES_MIN: usize = 2 << 20;

/// Bytes of requests that have their turn in one shard.
const TURN_BYTES_MAX: usize = 64 << 20;

/// Uploads of one connection that wait.
pub(in crate::shell::client) const WAITING_MAX: usize = 4;

/// A shard's turns.
#[derive(Debug, Default)]
pub(in crate::shell::client) struct Turns {
    bytes: Cell<usize>,
    waiting: RefCell<VecDeque<(usize, Rc<Signal>)>>,
}

impl Turns {
    fn admit(&self) {
        let mut waiting = self.waiting.borrow_mut();
        while let Some((bytes, signal)) = waiting.pop_front_if(|(bytes, _)| {
            let held = self.bytes.get();
            held == 0 || held + *bytes <= TURN_BYTES_MAX
        }) {
            self.bytes.set(self.bytes.get() + bytes);
            signal.fire();
        }
    }
}

/// A large request's turn, or its place in the queue.
#[derive(Debug)]
pub(in crate::shell::client) struct Turn {
    turns: Rc<Turns>,
    bytes: usize,
    comes: Rc<Signal>,
    /// Uploads of its connection that wait, while this is one of them.
    waiting: RefCell<Option<Rc<Cell<usize>>>>,
}

impl Turn {
    /// Joins the queue with a request of so many bytes. None: `WAITING_MAX` of the connection wait already.
    pub(in crate::shell::client) fn begin(
        turns: &Rc<Turns>,
        waiting_count: &Rc<Cell<usize>>,
        bytes: usize,
    ) -> Option<Self> {
        let comes = Rc::<Signal>::default();
        turns.waiting.borrow_mut().push_back((bytes, Rc::clone(&comes)));
        waiting_count.set(waiting_count.get() + 1);
        let waiting = RefCell::new(Some(Rc::clone(waiting_count)));
        let turn = Self { turns: Rc::clone(turns), bytes, comes, waiting };
        turns.admit();
        (turn.has_come() || waiting_count.get() <= WAITING_MAX).then_some(turn)
    }

    /// Waits for it.
    pub(in crate::shell::client) fn poll_comes(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.has_come() { Poll::Ready(()) } else { self.comes.poll_fired(cx) }
    }

    fn has_come(&self) -> bool {
        let has_come = self.comes.has_fired();
        if has_come {
            self.wait_no_more();
        }
        has_come
    }

    fn wait_no_more(&self) {
        if let Some(count) = self.waiting.take() {
            count.set(count.get() - 1);
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.wait_no_more();
        if self.comes.has_fired() {
            self.turns.bytes.set(self.turns.bytes.get() - self.bytes);
        } else {
            self.turns.waiting.borrow_mut().retain(|(_, signal)| !Rc::ptr_eq(signal, &self.comes));
        }
        self.turns.admit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    fn turn(turns: &Rc<Turns>, connection: &Rc<Cell<usize>>, mib: usize) -> Option<Turn> {
        Turn::begin(turns, connection, mib * MIB)
    }

    #[test]
    fn large_requests_have_their_turns_in_order_and_one_is_always_let_through() {
        let (turns, connection) = (Rc::<Turns>::default(), Rc::<Cell<usize>>::default());
        let first = turn(&turns, &connection, 100).unwrap();
        assert!(first.has_come(), "however large it is");
        let [second, third, fourth] = [40, 20, 30].map(|mib| turn(&turns, &connection, mib).unwrap());
        let come = || [&second, &third].map(Turn::has_come);
        assert_eq!((come(), fourth.has_come(), connection.get()), ([false; 2], false, 3));
        drop(first);
        assert_eq!((come(), fourth.has_come(), connection.get()), ([true; 2], false, 1));
        drop(fourth);
        assert_eq!(connection.get(), 0);
        drop((second, third));
        assert_eq!((turns.bytes.get(), turns.waiting.borrow().len()), (0, 0));
    }

    #[test]
    fn what_waits_on_one_connection_is_bounded_and_others_are_let_in() {
        let (turns, connection) = (Rc::<Turns>::default(), Rc::<Cell<usize>>::default());
        let _first = turn(&turns, &connection, 64).unwrap();
        let waiting: Vec<Turn> = (0..WAITING_MAX).map(|_| turn(&turns, &connection, 50).unwrap()).collect();
        assert!(turn(&turns, &connection, 50).is_none());
        assert_eq!(connection.get(), WAITING_MAX, "the refused one left nothing");
        let _other = turn(&turns, &Rc::default(), 50).unwrap();
        drop(waiting);
        assert_eq!((connection.get(), turns.waiting.borrow().len()), (0, 1));
    }
}
