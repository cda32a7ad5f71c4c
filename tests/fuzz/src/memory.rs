//! How much a decoder allocates: the claim "memory follows the bytes that came" made testable.
//!
//! A counting allocator stands in front of the system's. The count is per process, so `bounded`
//! means something where one thread works at a time, as under the fuzzing engine; plain tests run
//! several threads and get a bound that is looser by what the others hold.
#![expect(unsafe_code, reason = "an allocator is an unsafe trait")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call goes to the system's allocator with the very arguments; counting touches no block.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        // SAFETY: the caller keeps `alloc`'s contract, which is passed on unchanged.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        // SAFETY: as in `alloc`. Passed on, since the system need not touch fresh zero pages.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        grow(size);
        HELD.fetch_sub(layout.size(), Relaxed);
        // SAFETY: `block` came from `System` through `alloc`, with this layout.
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Relaxed);
        // SAFETY: `block` came from `System` through `alloc`, with this layout.
        unsafe { System.dealloc(block, layout) }
    }
}

fn grow(bytes: usize) {
    let held = HELD.fetch_add(bytes, Relaxed) + bytes;
    PEAK.fetch_max(held, Relaxed);
}

/// Runs `work`, which must not hold more than `bytes_max` at any moment beside what was held before.
pub fn bounded<R>(bytes_max: usize, work: impl FnOnce() -> R) -> R {
    /// Tests of this package that run beside each other hold less than this.
    const NEIGHBOURS_BYTES: usize = if cfg!(test) { 256 << 20 } else { 0 };
    let before = HELD.load(Relaxed);
    PEAK.store(before, Relaxed);
    let result = work();
    let grown = PEAK.load(Relaxed).saturating_sub(before);
    assert!(grown <= bytes_max + NEIGHBOURS_BYTES, "held {grown} bytes, more than {bytes_max}");
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "more than 1000")]
    fn an_allocation_above_the_bound_is_seen_though_it_is_gone_at_the_end() {
        bounded(1_000, || drop(std::hint::black_box(vec![1_u8; 512 << 20])));
    }
}
