//! The same seeded stream of requests to a real etcd and to the binary under test, every answer
//! compared field by field; `watch.rs` does so with watches, leases, locks and elections, and
//! `etcdctl.rs` with what the command line tool prints.
//!
//! The etcd is the installed one (`PINION_ETCD_BIN` names another); without one the test says that it
//! was skipped. Identities and terms are masked; where the installed etcd (Debian has 3.4) and the
//! target behaviour (3.7) differ, `compare.rs` lists the difference and its reason, and nothing else.
//!
//! `PINION_WIRE_SEEDS` (3) streams of `PINION_WIRE_OPS` (800) requests from `PINION_WIRE_SEED` (1) on.
//! With `PINION_TEST_BIN=/usr/bin/etcd` etcd is compared with itself: that must be free of differences,
//! or the masks are wrong.
#![allow(unreachable_pub, reason = "a test binary has no other crate to reach")]
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod compare;
mod etcdctl;
mod generate;
mod watch;
mod watch_log;
mod watch_play;
mod watch_script;
mod watch_side;

use std::path::PathBuf;
use std::time::Duration;

use pinion_kit::client::{CallError, Client};
use pinion_kit::pb::etcdserverpb as pb;
use pinion_kit::{Launch, Server, WorkDir, block_on, env_number, installed};

use compare::{Answer, compare};
use generate::{Generator, Request};

/// Historical states compared at the end of each stream.
const HISTORY_SAMPLES: i64 = 40;

#[expect(clippy::disallowed_methods, reason = "which etcd is the reference is asked of the runner")]
fn reference_binary() -> Option<PathBuf> {
    match std::env::var("PINION_ETCD_BIN") {
        Ok(path) => Some(PathBuf::from(path)),
        Err(_) => installed("etcd"),
    }
}

/// The reference and the subject, both fresh.
struct Pair {
    servers: [Server; 2],
    clients: [Client; 2],
}

impl Pair {
    async fn start(reference: &PathBuf, work: &WorkDir) -> Self {
        let quick = |launch: Launch| launch.flag("--heartbeat-interval=10").flag("--election-timeout=100");
        // `Launch` has another name for every member's files, so the two share nothing.
        let reference = quick(Launch::binary(reference, work.join("reference"))).start().await;
        let subject = quick(Launch::new(work.join("subject"))).start().await;
        let clients = [reference.connect().await, subject.connect().await];
        Self { servers: [reference, subject], clients }
    }

    /// Both answers to one request, asked at once.
    async fn ask(&self, request: &Request) -> [Answer; 2] {
        let (reference, subject) =
            tokio::join!(ask(&self.clients[0], request), ask(&self.clients[1], request));
        [reference, subject]
    }

    fn check_alive(&mut self) {
        for (server, name) in self.servers.iter_mut().zip(["the reference", "the subject"]) {
            assert!(server.is_running(), "{name} ended; the last request is in the replay");
        }
    }
}

async fn ask(client: &Client, request: &Request) -> Answer {
    let answer = match request {
        Request::Range(request) => client.range(request).await.map(Answer::Range),
        Request::Put(request) => client.put(request).await.map(Answer::Put),
        Request::Delete(request) => client.delete(request).await.map(Answer::Delete),
        Request::Txn(request) => client.txn(request).await.map(Answer::Txn),
        Request::Compact(request) => client.compact(request).await.map(Answer::Compact),
    };
    match answer {
        Ok(answer) => answer,
        Err(CallError::Status { code, message }) => Answer::Error { code, message },
        // Both must say a real "no"; an end of the connection is never right.
        Err(error) => Answer::Broken(error.to_string()),
    }
}

#[derive(Default)]
struct Tally {
    requests: u64,
    errors: u64,
    txns: u64,
    txn_errors: u64,
    compared_kvs: u64,
}

/// Runs one stream and returns the first difference. `spoil` may change the subject's answer first.
async fn run_stream(
    reference: &PathBuf,
    seed: u64,
    ops: u64,
    tally: &mut Tally,
    mut spoil: impl FnMut(u64, &mut Answer),
) -> Result<(), String> {
    let work = WorkDir::new();
    let mut pair = Pair::start(reference, &work).await;
    let mut generator = Generator::new(seed);
    for number in 0..ops {
        let request = generator.next_request();
        let [reference, mut subject] = pair.ask(&request).await;
        spoil(number, &mut subject);
        tally.requests += 1;
        tally.errors += u64::from(matches!(reference, Answer::Error { .. }));
        tally.compared_kvs += reference.kvs_count();
        if let Request::Txn(_) = &request {
            tally.txns += 1;
            tally.txn_errors += u64::from(matches!(reference, Answer::Error { .. }));
        }
        if [&reference, &subject].iter().any(|answer| matches!(answer, Answer::Broken(_))) {
            pair.check_alive();
        }
        compare(&request, &reference, &subject).map_err(|difference| {
            format!("seed {seed}, request {number}: {difference}\nrequest:   {request:?}\nreference: {reference:?}\nsubject:   {subject:?}")
        })?;
        generator.learn(&request, &reference);
    }
    pair.check_alive();
    // The whole state, now and at revisions that are still readable.
    for sample in 0..=HISTORY_SAMPLES {
        let (from, to) = (generator.compacted.max(1), generator.revision);
        let request = Request::Range(pb::RangeRequest {
            key: b"\0".to_vec().into(),
            range_end: b"\0".to_vec().into(),
            revision: from + (to - from) * sample / HISTORY_SAMPLES,
            ..Default::default()
        });
        let [reference, subject] = pair.ask(&request).await;
        tally.compared_kvs += reference.kvs_count();
        if let Request::Txn(_) = &request {
            tally.txns += 1;
            tally.txn_errors += u64::from(matches!(reference, Answer::Error { .. }));
        }
        if [&reference, &subject].iter().any(|answer| matches!(answer, Answer::Broken(_))) {
            pair.check_alive();
        }
        compare(&request, &reference, &subject).map_err(|difference| {
            format!("seed {seed}, state after the stream: {difference}\n{request:?}")
        })?;
    }
    Ok(())
}

#[test]
fn answers_are_those_of_a_real_etcd() {
    let Some(reference) = reference_binary() else { return };
    let seeds = env_number("PINION_WIRE_SEEDS", 3);
    let ops = env_number("PINION_WIRE_OPS", 800);
    let first = env_number("PINION_WIRE_SEED", 1);
    let mut tally = Tally::default();
    block_on(Duration::from_secs(60 + seeds * (10 + ops / 50)), async {
        for seed in first..first + seeds {
            if let Err(difference) = run_stream(&reference, seed, ops, &mut tally, |_, _| {}).await {
                panic!(
                    "{difference}\nreplay: PINION_WIRE_SEED={seed} PINION_WIRE_SEEDS=1 PINION_WIRE_OPS={ops} \
                     cargo test --test wire answers"
                );
            }
        }
    });
    println!(
        "{seeds} seeds from {first}, {} requests, {} of them answered with an error, {} keys compared; \
         {} transactions, {} of them refused: no difference",
        tally.requests, tally.errors, tally.compared_kvs, tally.txns, tally.txn_errors
    );
    assert!(tally.errors * 50 > tally.requests, "the stream asks too little that is wrong");
    assert!(tally.errors * 2 < tally.requests, "the stream asks too little that is right");
}

/// The comparison must see what it is for: one field of one answer is changed.
#[test]
fn planted_difference_is_seen() {
    let Some(reference) = reference_binary() else { return };
    block_on(pinion_kit::TEST_DEADLINE, async {
        let mut planted = false;
        let spoil = |number: u64, answer: &mut Answer| {
            if let (Answer::Range(range), false, true) = (answer, planted, number > 20)
                && let Some(kv) = range.kvs.first_mut()
            {
                kv.version += 1;
                planted = true;
            }
        };
        let found = run_stream(&reference, 1, 400, &mut Tally::default(), spoil).await;
        let difference = found.expect_err("a version was one too large and nobody noticed");
        assert!(difference.contains("version"), "{difference}");
    });
}
