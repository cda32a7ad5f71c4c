//! Watch under load: what every watcher was told is judged against the whole history.
//!
//! A server is written to, compacted, and watched by clients that come late, go away, go on where they
//! stopped, read slowly and ask how far they are (`load.rs`). `pinion_kit::judge::watch` then judges each watcher: in
//! order, nothing twice, nothing missing, no revision by halves, no gap at a new beginning, no bookmark
//! ahead, nothing unasked, creations and previous values right.
//!
//! `PINION_WATCH_EVENTS` (30,000) events at least, in rounds with a new server each, from
//! `PINION_WATCH_SEED` (1) on. The seed fixes what is asked, not how it interleaves.
//! With `PINION_TEST_BIN=/usr/bin/etcd` etcd is judged.
#![allow(unreachable_pub, reason = "a test binary has no other crate to reach")]
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod load;

use std::time::Duration;

use pinion_kit::{block_on, env_number};

use load::{Tally, round};

#[test]
fn every_watcher_is_told_the_history_in_order_once_and_whole() {
    let wanted = env_number("PINION_WATCH_EVENTS", 30_000);
    let first = env_number("PINION_WATCH_SEED", 1);
    let mut sum = Tally::default();
    let mut seed = first;
    while sum.events < wanted {
        println!("round: PINION_WATCH_SEED={seed} PINION_WATCH_EVENTS=1 cargo test --test watch every");
        let tally = block_on(Duration::from_secs(90), round(seed));
        sum.add(&tally);
        seed += 1;
    }
    println!("{} rounds from seed {first}: {sum}", seed - first);
    assert!(sum.resumes > 0 && sum.compactions > 0 && sum.watchers > 0, "the load does too little");
}
