//! Three members of the real binary, one of which falls behind the log that the others keep, so that it
//! must take a checkpoint.
//!
//! A leader keeps 64 MiB of applied log, so a round writes somewhat more than that in large values and
//! compacts most of it away: the log is gone, the state stays small.
//! `PINION_CATCH_UP_KILLS` (3) kills of the member that catches up; `PINION_CATCH_UP_SEED` (the process
//! id) chooses their moments.
#![allow(unreachable_pub, reason = "a test binary has no other crate to reach")]
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use pinion_kit::client::Client;
use pinion_kit::pb::etcdserverpb as pb;
use pinion_kit::{Cluster, Member, TEST_DEADLINE, block_on, env_number, segments, until};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::time::Instant;

/// Everything a test waits for has happened by then.
const DEADLINE: Duration = Duration::from_secs(60);

/// What a round writes: more than the leader keeps of its log.
const ROUND_PUTS: u64 = 72;
const VALUE_BYTES: usize = 1_000_000;

/// Kept of each round when the rest is compacted.
const KEYS: u64 = 6;

/// A member that follows, and one that leads.
async fn follower_and_leader(cluster: &Cluster) -> (usize, usize) {
    let (leader, followers) = cluster.roles().await;
    (followers[0], leader)
}

/// More log than the leader holds in memory, gone from its disk when this returns: a member that was
/// away meanwhile needs a checkpoint.
async fn leave_behind(leader: &Member, client: &Client, round: u64) {
    let (_, before) = segments(&leader.launch.data_dir);
    let revision = write_round(client, round).await;
    compact(client, revision - i64::try_from(KEYS).unwrap()).await;
    until(DEADLINE, async || before <= segments(&leader.launch.data_dir).0).await;
}

/// A database of so many megabytes, whose log is gone from the leader's disk when this returns.
async fn fill(leader: &Member, client: &Client, megabytes: u64) {
    let (_, before) = segments(&leader.launch.data_dir);
    for number in 0..megabytes {
        let (key, value) = (format!("large/{number}").into(), vec![7; VALUE_BYTES].into());
        client.put(&pb::PutRequest { key, value, ..Default::default() }).await.unwrap();
    }
    until(DEADLINE, async || before <= segments(&leader.launch.data_dir).0).await;
}

/// Every member holds the same, once all have everything.
async fn assert_equal(cluster: &mut Cluster) {
    let revision = cluster.settle().await;
    cluster.assert_equal_hashes(revision).await;
}

async fn revision_of(client: &Client) -> i64 {
    // Serializable: this member's own.
    let request = pb::RangeRequest { key: "none".into(), serializable: true, ..Default::default() };
    client.range(&request).await.unwrap().header.unwrap().revision
}

/// More log than a leader keeps, most of it compacted away again; returns the last revision.
async fn write_round(client: &Client, round: u64) -> i64 {
    let tasks: Vec<_> = (0..4_u64)
        .map(|task| {
            let client = client.clone();
            tokio::task::spawn_local(async move {
                let mut last = 0;
                for number in (task..ROUND_PUTS).step_by(4) {
                    let request = pb::PutRequest {
                        key: format!("k{}", number % KEYS).into(),
                        value: vec![u8::try_from(round % 251).unwrap(); VALUE_BYTES].into(),
                        ..Default::default()
                    };
                    last = client.put(&request).await.unwrap().header.unwrap().revision.max(last);
                }
                last
            })
        })
        .collect();
    let mut last = 0;
    for task in tasks {
        last = task.await.unwrap().max(last);
    }
    last
}

async fn compact(client: &Client, revision: i64) {
    client.compact(&pb::CompactionRequest { revision, physical: false }).await.unwrap();
}

/// Checkpoints come often enough that the one to send is young, and nothing is kept behind them.
const FLAGS: [&str; 3] =
    ["--snapshot-count=200", "--checkpoint-bytes=16777216", "--snapshot-catchup-entries=0"];

const INSTALLING: &str = "installing the leader's checkpoint";

/// What the log says on the way, in this order.
const PHASES: [&str; 4] =
    ["data directory open", "receiving a checkpoint", "checkpoint received", INSTALLING];

/// A start that does not come to its phase by then does not come to it at all.
const PHASE_DEADLINE: Duration = Duration::from_secs(2);

#[test]
fn a_member_that_was_away_takes_a_checkpoint_and_is_killed_at_any_moment_of_it_without_harm() {
    let kills = env_number("PINION_CATCH_UP_KILLS", 3);
    let seed = env_number("PINION_CATCH_UP_SEED", u64::from(std::process::id()));
    println!(
        "replay: PINION_CATCH_UP_SEED={seed} PINION_CATCH_UP_KILLS={kills} cargo test --test catch_up away"
    );
    let mut rng = StdRng::seed_from_u64(seed);
    block_on(Duration::from_secs(60 + 10 * kills), async {
        let mut cluster = Cluster::start(3, &FLAGS).await;
        let (away, leader) = follower_and_leader(&cluster).await;
        let client = cluster.client(leader).await;
        cluster.kill(away);
        leave_behind(&cluster.members[leader], &client, 0).await;
        let mut installed = 0;
        for _ in 0..kills {
            let server = cluster.members[away].spawn();
            let phase = PHASES[rng.random_range(0..PHASES.len())];
            let deadline = Instant::now() + PHASE_DEADLINE;
            // Not every start comes to every phase: one that has installed needs no second time.
            while !server.output().contains(phase) && Instant::now() < deadline {
                assert!(server.is_running(), "it ended by itself:\n{}", server.output());
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            tokio::time::sleep(Duration::from_micros(rng.random_range(0..60_000))).await;
            server.kill();
            let output = server.output();
            let reached = PHASES.iter().rev().find(|phase| output.contains(**phase));
            println!("killed after {:?}", reached.unwrap_or(&"nothing"));
            // So that the next one needs a checkpoint again.
            if output.contains(INSTALLING) {
                installed += 1;
                leave_behind(&cluster.members[leader], &client, installed).await;
            }
        }
        let started = Instant::now();
        cluster.start_again(away).await;
        println!("caught up {:?} after its start; {installed} installed before", started.elapsed());
        assert_equal(&mut cluster).await;
        // Once more, from what is on its disk.
        cluster.kill(away);
        cluster.start_again(away).await;
        assert_equal(&mut cluster).await;
    });
}

#[test]
fn watchers_of_a_member_that_was_frozen_get_every_change_once_though_it_took_a_checkpoint() {
    block_on(TEST_DEADLINE, async {
        let mut cluster = Cluster::start(3, &FLAGS).await;
        let (frozen, leader) = follower_and_leader(&cluster).await;
        let client = cluster.client(leader).await;
        let (mut requests, mut answers) = cluster.client(frozen).await.watch().await.unwrap();
        let (key, range_end) = ("s/".into(), "s0".into());
        requests.create(pb::WatchCreateRequest { key, range_end, ..Default::default() }).unwrap();
        assert!(answers.next().await.unwrap().unwrap().created);
        let mut expected = Vec::new();
        for number in 0..20 {
            let put = client.put_kv(&format!("s/{number}"), "before").await.unwrap();
            expected.push(put.header.unwrap().revision);
        }
        let started = Instant::now();
        cluster.signal(frozen, "STOP");
        let leaders_dir = &cluster.launch(leader).data_dir;
        let (_, opened) = segments(leaders_dir);
        for number in 0..20 {
            let put = client.put_kv(&format!("s/{number}"), "away").await.unwrap();
            expected.push(put.header.unwrap().revision);
        }
        // More than the leader's queue for it and the sockets between them hold: that it will get.
        for round in 0..3 {
            write_round(&client, round).await;
        }
        until(DEADLINE, async || opened <= segments(leaders_dir).0).await;
        cluster.signal(frozen, "CONT");
        let thawed = Instant::now();
        // What the others wrote is gone from their logs: whatever this member is told now is in its checkpoint.
        for number in 0..20 {
            let put = client.put_kv(&format!("s/{number}"), "after").await.unwrap();
            expected.push(put.header.unwrap().revision);
        }
        let mut found = Vec::new();
        while found.len() < expected.len() {
            let answer = answers.next().await.unwrap().unwrap();
            assert!(!answer.canceled, "{answer:?}");
            found.extend(answer.events.iter().map(|event| event.kv.as_ref().unwrap().mod_revision));
        }
        println!("frozen for {:?}, up to date {:?} later", thawed - started, thawed.elapsed());
        assert_eq!(found, expected);
        // Or it caught up by its log.
        cluster.server(frozen).says(INSTALLING).await;
        assert_equal(&mut cluster).await;
    });
}

#[test]
fn a_member_whose_data_was_wiped_is_stopped_with_what_to_do() {
    block_on(DEADLINE, async {
        let mut cluster = Cluster::start(3, &FLAGS).await;
        let (wiped, leader) = follower_and_leader(&cluster).await;
        let client = cluster.client(leader).await;
        for number in 0..20 {
            client.put_kv(&format!("k{number}"), "v").await.unwrap();
        }
        let revision = revision_of(&client).await;
        let own = cluster.client(wiped).await;
        until(DEADLINE, async || revision <= revision_of(&own).await).await;
        cluster.kill(wiped);
        std::fs::remove_dir_all(&cluster.launch(wiped).data_dir).unwrap();
        cluster.spawn(wiped);
        let exit = cluster.wait_exit(wiped).await;
        assert_eq!(exit.status.code(), Some(1), "{}", exit.output);
        exit.assert_says(&[
            "has already been bootstrapped",
            "its data was lost",
            "Remove it from the cluster",
        ]);
        // The others go on.
        client.put_kv("k", "v").await.unwrap();
    });
}

#[test]
fn puts_go_on_and_the_leaders_memory_stays_flat_while_a_checkpoint_is_streamed() {
    let megabytes = env_number("PINION_CATCH_UP_MB", 80);
    block_on(Duration::from_secs(60 + megabytes / 4), async {
        let mut cluster = Cluster::start(3, &FLAGS).await;
        let (away, leader) = follower_and_leader(&cluster).await;
        let client = cluster.client(leader).await;
        cluster.kill(away);
        fill(&cluster.members[leader], &client, megabytes).await;
        let checkpoints = |output: &str| output.matches("checkpoint written").count();
        // One after the last put, which an idle member writes by itself.
        let written = checkpoints(&cluster.output(leader));
        let deadline = Instant::now() + Duration::from_secs(5);
        while checkpoints(&cluster.output(leader)) == written && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let quiet = put_until(&client, Instant::now() + Duration::from_secs(1), || false).await;
        let before = cluster.server(leader).resident_bytes();
        cluster.spawn(away);
        let (mut peak, leader) = (before, cluster.server(leader));
        let busy = put_until(&client, Instant::now() + DEADLINE, || {
            peak = peak.max(leader.resident_bytes());
            cluster.output(away).contains(INSTALLING)
        })
        .await;
        println!("puts without a transfer: {quiet}\nputs with one of {megabytes} MB: {busy}");
        println!("leader's memory: {} MB, at most {} MB more", before >> 20, (peak - before) >> 20);
        assert!(peak - before < megabytes * 500_000, "it grew with the checkpoint: {before} to {peak}");
        cluster.wait_ready(away).await;
        assert_equal(&mut cluster).await;
    });
}

/// The log that a leader keeps behind its checkpoint is more than it holds in memory.
#[test]
fn a_member_that_missed_more_than_memory_holds_comes_back_by_the_log_on_the_disk() {
    block_on(DEADLINE, async {
        let mut cluster = Cluster::start(3, &FLAGS[..2]).await;
        let (away, leader) = follower_and_leader(&cluster).await;
        let client = cluster.client(leader).await;
        cluster.kill(away);
        write_round(&client, 0).await;
        let started = Instant::now();
        cluster.start_again(away).await;
        assert_equal(&mut cluster).await;
        println!("{ROUND_PUTS} MB behind: equal {:?} after its start", started.elapsed());
        let output = cluster.output(away);
        assert!(!output.contains(INSTALLING), "the log was there, and a checkpoint came:\n{output}");
    });
}

/// The database is streamed while the leader writes more than it holds in memory, and more than the log
/// would keep behind its next checkpoint if nobody were catching up.
#[test]
fn a_member_catches_up_with_a_large_database_while_the_leader_is_written_to_at_full_speed() {
    let megabytes = env_number("PINION_CATCH_UP_MB", 80);
    block_on(Duration::from_secs(120 + megabytes / 2), async {
        // Compactions do not keep up with the writers, so the database grows.
        let mut cluster = Cluster::start(3, &[&FLAGS[..], &["--quota-backend-bytes=-1"]].concat()).await;
        let (away, leader) = follower_and_leader(&cluster).await;
        let client = cluster.client(leader).await;
        cluster.kill(away);
        fill(&cluster.members[leader], &client, megabytes).await;
        let (stop, written) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(0_u64)));
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (client, stop, written) = (client.clone(), Rc::clone(&stop), Rc::clone(&written));
                tokio::task::spawn_local(write_until(client, writer, stop, written))
            })
            .collect();
        // What writing alone costs in memory, for comparison.
        let mut before = cluster.server(leader).resident_bytes_own();
        let alone = Instant::now() + Duration::from_secs(env_number("PINION_CATCH_UP_ALONE_S", 1));
        while Instant::now() < alone {
            tokio::time::sleep(Duration::from_millis(20)).await;
            before = before.max(cluster.server(leader).resident_bytes_own());
        }
        let mut peak = before;
        let database = client.status().await.unwrap().db_size;
        let (started, already) = (Instant::now(), written.get());
        cluster.spawn(away);
        // It has come up when it holds what the others held a moment ago, not only some day.
        let mut lag = i64::MAX;
        while lag > LAG_MAX {
            tokio::time::sleep(Duration::from_millis(20)).await;
            peak = peak.max(cluster.server(leader).resident_bytes_own());
            let newest = revision_of(&client).await;
            let port = cluster.client_port(away);
            let Ok(own) = Client::connect(port).await else { continue };
            let request = pb::RangeRequest { key: "none".into(), serializable: true, ..Default::default() };
            if let Ok(answer) = own.range(&request).await {
                lag = newest - answer.header.unwrap().revision;
            }
        }
        let (took, meanwhile) = (started.elapsed(), written.get() - already);
        let database = (client.status().await.unwrap().db_size - database) >> 20;
        stop.set(true);
        for writer in writers {
            writer.await.unwrap();
        }
        let output = cluster.server(away).says(INSTALLING).await;
        let installed = output.matches(INSTALLING).count();
        println!(
            "{megabytes} MB and {} MB written meanwhile ({:.1} MB/s): caught up {took:?} after its start, \
             with {installed} checkpoint(s); leader's memory {} MB before, at most {} MB more, of which \
             the database {database}",
            meanwhile >> 20,
            (meanwhile >> 20) as f64 / took.as_secs_f64(),
            before >> 20,
            (peak - before) >> 20
        );
        assert_eq!(installed, 1, "a leader that is written to overtook its own checkpoint:\n{output}");
        cluster.wait_ready(away).await;
        assert_equal(&mut cluster).await;
    });
}

/// Calls under way while a member catches up, and what each writes.
const WRITERS: u64 = 16;
const WRITE_BYTES: usize = 16 << 10;

/// Revisions that a member which has caught up may lack: what is on its way.
const LAG_MAX: i64 = 500;

/// Puts as fast as they are answered; the oldest revisions are compacted away now and then.
async fn write_until(client: Client, writer: u64, stop: Rc<Cell<bool>>, written: Rc<Cell<u64>>) {
    let mut round = 0_u64;
    while !stop.get() {
        round += 1;
        let key = format!("busy/{writer}/{}", round % 16).into();
        let value = vec![u8::try_from(round % 251).unwrap(); WRITE_BYTES].into();
        let put = client.put(&pb::PutRequest { key, value, ..Default::default() }).await.unwrap();
        written.set(written.get() + WRITE_BYTES as u64);
        if writer == 0 && round.is_multiple_of(64) {
            compact(&client, put.header.unwrap().revision - 512.min(put.header.unwrap().revision - 1)).await;
        }
    }
}

/// Small puts, one at a time, until `is_over` (asked now and then); how long they took.
async fn put_until(client: &Client, deadline: Instant, mut is_over: impl FnMut() -> bool) -> String {
    let mut took = Vec::new();
    while Instant::now() < deadline && (took.len() % 16 != 15 || !is_over()) {
        let started = Instant::now();
        client.put_kv("small", "value").await.unwrap();
        took.push(started.elapsed());
    }
    took.sort_unstable();
    let at = |part: usize| took[(took.len() - 1) * part / 1000];
    format!("{} puts, p50 {:?}, p99 {:?}, longest {:?}", took.len(), at(500), at(990), at(1000))
}
