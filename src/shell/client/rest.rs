//! Connections that have more to read or to send than a turn has room for: they rest until the executor has looked at
//! its sockets.
//!
//! A connection that gave itself the next turn at once would keep the executor from its sockets until everything is
//! sent, megabytes for each client that reads fast. So it joins a queue, and behind each
//! look those in front have their turns until the round is full (`grpc::h2_io`). Whoever hears of its socket or has an
//! answer to send has a turn meanwhile, as always.
//!
//! Invariants: a connection is in the queue at most once; while the queue is not empty, or a round is half full, a task
//! waits for the next look, begins the round, and gives turns.
//! Cost: a timer for each half of a round, and one for each turn that is not the last one of what a connection has to
//! send.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use super::call::account::Account;
use super::{Backend, ClientShard};
use crate::shell::runtime::pace::breathe;

/// See the module.
#[derive(Default)]
pub(super) struct Resting {
    queue: RefCell<VecDeque<Rc<Account>>>,
    is_awaiting_look: Cell<bool>,
}

impl Resting {
    /// Takes a connection in.
    fn push(&self, account: &Rc<Account>) {
        if !account.rests.replace(true) {
            self.queue.borrow_mut().push_back(Rc::clone(account));
        }
    }

    /// Whether a task has to be made that waits for the next look.
    fn needs_task(&self) -> bool {
        !self.is_awaiting_look.replace(true)
    }

    /// Gives the connection that has rested longest its turn. False: there is none.
    fn wake_next(&self) -> bool {
        let next = self.queue.borrow_mut().pop_front();
        let Some(account) = next else {
            self.is_awaiting_look.set(false);
            return false;
        };
        account.rests.set(false);
        account.wake();
        true
    }
}

impl<B: Backend> ClientShard<B> {
    /// Ends a connection's turn. One that has more to do has another behind a look at the sockets, and behind those
    /// that rest already.
    pub(super) fn end_turn(self: &Rc<Self>, account: &Rc<Account>, has_more: bool) {
        if has_more {
            self.counters.count(|counters| counters.rests += u64::from(!account.rests.get()));
            self.resting.push(account);
        } else if !self.buffers.is_look_due() {
            return;
        }
        if self.resting.needs_task() {
            self.await_look();
        }
    }

    fn await_look(self: &Rc<Self>) {
        let shard = Rc::clone(self);
        glommio::spawn_local(async move {
            loop {
                breathe().await;
                shard.buffers.begin_round();
                loop {
                    if !shard.resting.wake_next() {
                        return;
                    }
                    // Behind the turn of the one that was woken.
                    glommio::executor().yield_now().await;
                    if shard.buffers.is_round_over() {
                        break;
                    }
                }
            }
        })
        .detach();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Wake, Waker};

    use super::*;
    use crate::shell::client::call::account::Ledger;

    struct Turns(AtomicUsize);

    impl Wake for Turns {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn connections_that_rest_have_one_turn_each_in_the_order_in_which_they_came() {
        let (resting, ledger) = (Resting::default(), Rc::new(Ledger::default()));
        let connections = [0, 1].map(|id| {
            let (account, turns) =
                (Account::new(id, Rc::clone(&ledger)), Arc::new(Turns(AtomicUsize::new(0))));
            account.set_waker(&Waker::from(Arc::clone(&turns)));
            (account, turns)
        });
        let turns = || [0, 1].map(|at: usize| connections[at].1.0.load(Ordering::Relaxed));
        resting.push(&connections[0].0);
        assert!(resting.needs_task());
        resting.push(&connections[1].0);
        assert!(!resting.needs_task());
        // It is in the queue.
        resting.push(&connections[0].0);
        assert!(resting.wake_next());
        assert_eq!(turns(), [1, 0]);
        // It has more to send: behind the other one.
        resting.push(&connections[0].0);
        assert!(resting.wake_next());
        assert_eq!(turns(), [1, 1]);
        assert!(resting.wake_next());
        assert!(!resting.wake_next());
        assert_eq!(turns(), [2, 1]);
        assert!(resting.needs_task(), "the last one has ended");
    }
}
