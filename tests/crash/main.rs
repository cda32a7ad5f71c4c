//! The real binary, killed at a random moment under load, reopened, and held to what it acknowledged.
//!
//! A kill leaves the page cache alive, so this tests the logic of recovery and not durability; that is
//! what `tests/powercut/` is for.
//!
//! `PINION_CRASH_ROUNDS` (8) kills; `PINION_CRASH_SEED` (the process id) chooses operations and
//! moments. Timing differs from run to run, so a seed repeats the choices and not the interleaving.
//! `PINION_DAMAGE_SAMPLES` (12) damaged copies of a data directory.
#![allow(unreachable_pub, reason = "a test binary has no other crate to reach")]
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod damage;
mod load;

use std::rc::Rc;
use std::time::Duration;

use pinion_kit::judge::ledger::Ledger;
use pinion_kit::{Launch, WorkDir, block_on, env_number, server_is_etcd};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

/// Rounds on one data directory, after which checking every key each time would only cost.
const ROUNDS_PER_DIRECTORY: u64 = 25;

/// How long a round's load runs at most before the kill.
const LOAD_MAX: Duration = Duration::from_millis(400);

fn launch(work: &WorkDir) -> Launch {
    let launch = Launch::new(work.join("data"))
        // Checkpoints and log recycling must happen many times between and during the kills.
        .flag("--snapshot-count=200")
        // A member alone elects itself; how long it waits first is not what is tested here.
        .flag("--heartbeat-interval=10")
        .flag("--election-timeout=100");
    if server_is_etcd() { launch } else { launch.flag("--checkpoint-bytes=1048576") }
}

#[test]
fn every_acknowledged_write_survives_a_kill_and_none_is_there_by_half() {
    let rounds = env_number("PINION_CRASH_ROUNDS", 8);
    let seed = env_number("PINION_CRASH_SEED", u64::from(std::process::id()));
    println!(
        "replay: PINION_CRASH_SEED={seed} PINION_CRASH_ROUNDS={rounds} cargo test --test crash acknowledged"
    );
    let mut rng = StdRng::seed_from_u64(seed);
    block_on(Duration::from_secs(60 + 10 * rounds), async {
        let mut round = 0;
        while round < rounds {
            let work = WorkDir::new();
            let ledger = Ledger::shared();
            let in_directory = ROUNDS_PER_DIRECTORY.min(rounds - round);
            for _ in 0..in_directory {
                one_round(&work, &ledger, &mut rng).await;
                round += 1;
            }
            println!("round {round} of {rounds}: {}", ledger.borrow().summary());
        }
    });
}

/// Starts, checks all that earlier rounds acknowledged, loads, kills.
async fn one_round(work: &WorkDir, ledger: &load::Shared, rng: &mut StdRng) {
    let launch = launch(work);
    // Recovery is interrupted too: it must be repeatable from wherever it was cut.
    if rng.random_ratio(1, 4) {
        let mut server = launch.spawn();
        let moment = Duration::from_micros(rng.random_range(0..80_000));
        tokio::time::sleep(moment).await;
        server.kill();
    }
    let mut server = self::launch(work).start().await;
    load::check(&server, ledger).await;
    let tasks = load::start(&server, Rc::clone(ledger), rng).await;
    let moment = LOAD_MAX.mul_f64(rng.random_range(0.0..1.0));
    tokio::time::sleep(moment).await;
    assert!(server.is_running(), "the server ended by itself under load");
    server.kill();
    for task in tasks {
        task.await.expect("a load task found a wrong answer");
    }
    // Once more, so that the last round is checked as well.
    let server = self::launch(work).start().await;
    load::check(&server, ledger).await;
}
