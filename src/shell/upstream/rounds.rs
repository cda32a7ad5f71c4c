//! One question for all who ask at once: whoever asks is answered by a round that begins behind it.

use std::cell::{Cell, RefCell};

use crate::shell::runtime::wake::Broadcast;

/// Rounds of a question whose answer is a `T`.
pub(super) struct Rounds<T> {
    begun: Cell<u64>,
    ended: Cell<u64>,
    last: RefCell<Option<T>>,
    news: Broadcast,
}

impl<T> Default for Rounds<T> {
    fn default() -> Self {
        Self {
            begun: Cell::new(0),
            ended: Cell::new(0),
            last: RefCell::new(None),
            news: Broadcast::default(),
        }
    }
}

impl<T: Clone> Rounds<T> {
    /// The answer of the next round. `begin` is called for each that is to begin; it ends by `end`, whoever has left.
    pub(super) async fn next(&self, mut begin: impl FnMut()) -> T {
        let wanted = self.begun.get() + 1;
        loop {
            if wanted <= self.ended.get() {
                return self.last.borrow().clone().expect("a round has ended");
            }
            if self.begun.get() == self.ended.get() {
                self.begun.set(self.begun.get() + 1);
                begin();
            }
            self.news.rung().await;
        }
    }

    /// The round that is under way has its answer.
    pub(super) fn end(&self, answer: T) {
        self.last.replace(Some(answer));
        self.ended.set(self.begun.get());
        self.news.ring();
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_lite::future::{block_on, poll_once};

    use super::*;

    #[test]
    fn whoever_asks_in_the_middle_of_a_round_is_answered_by_the_next_and_all_who_do_by_one() {
        let rounds = Rounds::default();
        let begun = Cell::new(0);
        let begin = || begun.set(begun.get() + 1);
        block_on(async {
            let mut first = pin!(rounds.next(begin));
            assert_eq!(poll_once(first.as_mut()).await, None);
            let (mut second, mut third) = (pin!(rounds.next(begin)), pin!(rounds.next(begin)));
            assert_eq!(poll_once(second.as_mut()).await, None);
            assert_eq!(poll_once(third.as_mut()).await, None);
            rounds.end(1);
            assert_eq!(poll_once(first.as_mut()).await, Some(1));
            assert_eq!((poll_once(second.as_mut()).await, begun.get()), (None, 2));
            assert_eq!((poll_once(third.as_mut()).await, begun.get()), (None, 2));
            rounds.end(2);
            assert_eq!(
                (poll_once(second.as_mut()).await, poll_once(third.as_mut()).await),
                (Some(2), Some(2))
            );
        });
    }
}
