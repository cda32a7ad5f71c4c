//! Work on several cores at a time, for a start: nothing else runs on them then.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::mvcc::SideBySide;

/// Threads at most: memory is what they wait for then.
const WIDTH_MAX: usize = 16;

/// The cores that this thread may run on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cores(usize);

impl Cores {
    pub(super) fn allowed() -> Self {
        Self(std::thread::available_parallelism().map_or(1, usize::from).min(WIDTH_MAX))
    }
}

impl SideBySide for Cores {
    fn width(&self) -> usize {
        self.0
    }

    fn run(&self, count: usize, work: &(dyn Fn(usize) + Sync)) {
        let next = AtomicUsize::new(0);
        let take_all = || {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if count <= number {
                    return;
                }
                work(number);
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..self.0.min(count) {
                let helper = std::thread::Builder::new().name("load".to_owned());
                // Without a thread this one does it all.
                if helper.spawn_scoped(scope, take_all).is_err() {
                    break;
                }
            }
            take_all();
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_piece_is_done_once_however_many_cores_there_are() {
        for cores in [1, 2, 7] {
            for count in [0, 1, 2, 100] {
                let done: Vec<_> = (0..count).map(|_| AtomicUsize::new(0)).collect();
                Cores(cores).run(count, &|number| {
                    done[number].fetch_add(1, Ordering::Relaxed);
                });
                assert!(done.iter().all(|done| done.load(Ordering::Relaxed) == 1), "{count} on {cores}");
            }
        }
    }
}
