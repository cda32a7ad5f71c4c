//! Touched memory for the store, made by a helper thread (`mvcc::TakesMemory`).
//!
//! The thread sleeps until it is asked. It asks for nothing itself, and a store that finds none goes on with memory
//! that it touches itself: on a machine whose cores are all busy this gains nothing and costs little.

use crossbeam::channel::{self, Receiver, Sender};

use crate::mvcc::TakesMemory;
use crate::shell::runtime::helpers::Helpers;

/// Pieces that are asked for and not made. As many as a log keeps, so each may be asked for at once.
const ASKED_MAX: usize = 16;

/// A helper that touches memory. Dropped, the thread ends.
#[derive(Debug)]
pub(in crate::shell) struct MemorySupply {
    wanted: Sender<usize>,
    made: Receiver<Vec<u8>>,
    asked: usize,
}

impl MemorySupply {
    pub(in crate::shell) fn start(helpers: &Helpers) -> Self {
        let (wanted, orders) = channel::bounded::<usize>(ASKED_MAX);
        let (pieces, made) = channel::bounded(ASKED_MAX);
        helpers.run("memory", move || {
            for bytes in orders {
                let mut piece = vec![0; bytes];
                // Zeroes that come from the kernel are not there yet: each page is written to.
                piece.fill(1);
                std::hint::black_box(&mut piece);
                piece.clear();
                if pieces.send(piece).is_err() {
                    return;
                }
            }
        });
        Self { wanted, made, asked: 0 }
    }

    /// Hands over what was made, and asks for as much as there is room for.
    #[inline]
    pub(in crate::shell) fn refill(&mut self, taker: &mut impl TakesMemory) {
        while 0 < self.asked
            && let Ok(piece) = self.made.try_recv()
        {
            self.asked -= 1;
            taker.supply_memory(piece);
        }
        let (bytes, count) = taker.wanted_memory();
        while self.asked < count.min(ASKED_MAX) && self.wanted.try_send(bytes).is_ok() {
            self.asked += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mvcc::Store;

    #[test]
    fn a_store_writes_into_memory_that_was_supplied() {
        let helpers = Helpers::start().unwrap();
        let (mut supply, mut store) = (MemorySupply::start(&helpers), Store::new());
        let put = |store: &mut Store, count: u64| {
            for number in 0..count {
                let mut txn = store.begin();
                txn.put(&number.to_be_bytes(), &[7; 1_000], 0);
                txn.commit();
            }
        };
        supply.refill(&mut store);
        assert_eq!(supply.asked, 0, "nothing is wanted before the first put");
        put(&mut store, 1);
        supply.refill(&mut store);
        assert_eq!(supply.asked, ASKED_MAX);
        let first = supply.made.recv().unwrap();
        supply.asked -= 1;
        let place = first.as_ptr_range();
        store.supply_memory(first);
        put(&mut store, 500);
        let value = store.get(&499_u64.to_be_bytes(), i64::MAX).unwrap().value.as_ptr();
        assert!(place.start <= value && value.wrapping_sub(place.start as usize) as usize <= 256 << 10);
        // It goes on for as long as it is asked.
        for _ in 0..100 {
            put(&mut store, 300);
            supply.refill(&mut store);
        }
        assert!(supply.asked <= ASKED_MAX);
    }
}
