//! Clusters of the real binary under load, with members killed, frozen, cut off and restarted; every
//! history is judged by the kit's judges, every member must hold
//! the same in the end.
//!
//! `PINION_CLUSTER_ROUNDS` (3) faults of each test, chosen by `PINION_CLUSTER_SEED` (the process id).
//! The seed repeats the choices, not the interleaving. `PINION_CLUSTER_FAULT=CutLeader` strikes with
//! that one alone, `PINION_CLUSTER_MEMBERS` (3) is the clusters' size. With `PINION_TEST_BIN=/usr/bin/etcd` etcd is judged.
#![allow(unreachable_pub, reason = "a test binary has no other crate to reach")]
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod clocks;
mod disk_faults;
mod failover;
mod faults;
mod hostile_peers;
mod lease_faults;
mod lease_load;
mod load;
mod lock_load;
mod moved;
mod namespaces;
mod network;
mod not_older;
mod reached;
mod rolling;
#[allow(unsafe_code, reason = "ptrace; see the module")]
mod stall;
mod updates;
mod watchers;

use std::time::Duration;

use pinion_kit::judge::history::Event;
use pinion_kit::judge::{leases, order};
use pinion_kit::{
    Cluster, PATIENCE, TEST_DEADLINE, block_on, env_number, eventually, free_port, segments, server_is_etcd,
    until,
};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use failover::{Blow, measure};
use faults::Fault;
use load::{LEASE_SLACK, Load, Record};

/// Times of elections that let a test see many of them.
const FAST: [&str; 3] =
    ["--heartbeat-interval=30", "--election-timeout=300", "--watch-progress-notify-interval=200ms"];

/// Faults on one cluster, after which a new one starts: a history is judged as a whole.
const ROUNDS_PER_CLUSTER: u64 = 10;

#[expect(clippy::disallowed_methods, reason = "which fault strikes is asked of the test's runner")]
fn chosen_fault() -> Option<Fault> {
    let name = std::env::var("PINION_CLUSTER_FAULT").ok()?;
    let known = Fault::ALL.into_iter().find(|fault| format!("{fault:?}") == name);
    Some(known.unwrap_or_else(|| panic!("{name} is none of {:?}", Fault::ALL)))
}

/// Any odd number from 3 on.
fn members_count() -> usize {
    usize::try_from(env_number("PINION_CLUSTER_MEMBERS", 3)).unwrap()
}

fn seeded(test: &str, rounds_default: u64) -> (u64, u64, StdRng) {
    let rounds = env_number("PINION_CLUSTER_ROUNDS", rounds_default);
    let seed = env_number("PINION_CLUSTER_SEED", u64::from(std::process::id()));
    println!(
        "replay: PINION_CLUSTER_SEED={seed} PINION_CLUSTER_ROUNDS={rounds} cargo test --test cluster {test}"
    );
    (rounds, seed, StdRng::seed_from_u64(seed))
}

/// Nothing acknowledged is missing, every answer was right, and all members hold the same.
async fn judge(cluster: &mut Cluster, record: &Record) {
    let revision = cluster.settle().await;
    cluster.assert_equal_hashes(revision).await;
    assert_eq!(record.told.whole_to(), revision, "the watchers of everything were not told all");
    let events: Vec<_> = record.told.events().into_iter().map(Event::from).collect();
    let from = record.compacting + 1;
    let tail = &events[events.partition_point(|event| event.revision < from)..];
    for member in 0..cluster.count() {
        let told = cluster.events(member, from, revision).await;
        assert!(told == tail, "m{member} tells another history than the watchers were told");
    }
    let output = cluster.all_output();
    let tally = order::check(&record.ops, &events).unwrap_or_else(|why| panic!("{why}\n{output}"));
    let moments = record.told.moments();
    let seen = leases::Seen { events: &events, moments: &moments, healed: record.healed, slack: LEASE_SLACK };
    let leases = leases::check(&record.ops, &seen).unwrap_or_else(|why| panic!("{why}\n{output}"));
    let watched = record.told.judge().unwrap_or_else(|why| panic!("{why}\n{output}"));
    let turns = lock_load::check(&record.holds).unwrap_or_else(|why| panic!("{why}\n{output}"));
    cluster.assert_running();
    println!("{} calls: {tally:?}; errors: {:?}", record.ops.len(), record.errors);
    println!("leases: {leases:?}; watchers: {watched:?}; turns under the lock: {turns}");
}

#[test]
fn whatever_fails_no_acknowledged_write_is_lost_and_every_answer_is_linearizable() {
    let (rounds, seed, mut rng) = seeded("whatever", 4);
    block_on(Duration::from_secs(60 + 20 * rounds), async {
        let mut left = rounds;
        let mut deck: Vec<Fault> = Vec::new();
        while left > 0 {
            let here = left.min(ROUNDS_PER_CLUSTER);
            left -= here;
            let (mut cluster, network) = network::cluster(members_count(), &FAST).await;
            let load = Load::start(&cluster, 3, Duration::from_millis(10), seed ^ left);
            for _ in 0..here {
                if deck.is_empty() {
                    deck = Fault::ALL.to_vec();
                }
                let drawn = deck.swap_remove(rng.random_range(0..deck.len()));
                let fault = chosen_fault().unwrap_or(drawn);
                let began = tokio::time::Instant::now();
                fault.strike(&mut cluster, &network, &load, &mut rng).await;
                println!("{fault:?}: {:?}, {} calls so far", began.elapsed(), load.calls());
            }
            let record = load.finish(&cluster).await;
            judge(&mut cluster, &record).await;
        }
    });
}

#[test]
fn writes_are_accepted_soon_after_the_leader_or_a_follower_is_gone() {
    let (rounds, ..) = seeded("soon_after", 1);
    block_on(Duration::from_secs(60 + 30 * rounds), async {
        let mut cluster = Cluster::start(members_count(), &[]).await;
        println!(
            "{rounds} rounds, time to the next accepted write in ms (through any living member, through all)"
        );
        for (blow, most) in [(Blow::KillLeader, 500), (Blow::FreezeLeader, 2_000), (Blow::KillFollower, 300)]
        {
            let outage = measure(&mut cluster, blow, rounds).await;
            let ms = |micros: u64| micros as f64 / 1_000.0;
            let (any, all) = (&outage.any, &outage.all);
            println!(
                "{blow:?}: p50 {:.1} ({:.1}), p99 {:.1} ({:.1}), max {:.1} ({:.1})",
                ms(any.value_at_quantile(0.5)),
                ms(all.value_at_quantile(0.5)),
                ms(any.value_at_quantile(0.99)),
                ms(all.value_at_quantile(0.99)),
                ms(any.max()),
                ms(all.max())
            );
            // A loaded machine in the debug profile is slow, not wrong; a lost message or a tie that
            // nothing breaks costs another election timeout, and shows.
            assert!(
                server_is_etcd() || ms(any.value_at_quantile(0.5)) < 2.0 * f64::from(most),
                "{blow:?} takes too long"
            );
        }
        let revision = cluster.settle().await;
        cluster.assert_equal_hashes(revision).await;
    });
}

#[test]
fn a_rolling_restart_costs_a_call_at_most_one_retry() {
    let (rounds, ..) = seeded("rolling", 1);
    block_on(Duration::from_secs(60 + 30 * rounds), async {
        let mut cluster = Cluster::start(3, &[]).await;
        for _ in 0..rounds {
            let felt = rolling::restart(&mut cluster, 6).await;
            println!("{felt:?}");
            let retried_twice = felt.attempts.range(3..).next();
            assert!(server_is_etcd() || retried_twice.is_none(), "{felt:?}\n{}", cluster.all_output());
        }
        let revision = cluster.settle().await;
        cluster.assert_equal_hashes(revision).await;
    });
}

/// What a member says when a checkpoint has taken the place of its state and log.
const INSTALLING: &str = "installing the leader's checkpoint";

#[test]
fn a_follower_that_was_away_comes_back_by_the_log_while_the_leader_still_has_it() {
    let puts = env_number("PINION_CLUSTER_MISSED", 2_000);
    block_on(Duration::from_secs(60 + puts / 100), async {
        let output = miss(puts, 0, &[], false).await;
        assert!(!output.contains(INSTALLING), "the log was there, and a checkpoint came:\n{output}");
    });
}

/// Segments of the log go whole, and the leader holds 64 MiB and 5,000 entries in memory; fewer writes are
/// made larger so that they come to more than that.
#[test]
fn a_follower_that_was_away_comes_back_by_a_checkpoint_when_the_log_is_gone() {
    let puts = env_number("PINION_CLUSTER_MISSED", 2_000);
    let padding = if puts < 100_000 { 76_000_000 / usize::try_from(puts).unwrap() } else { 0 };
    let flags = ["--snapshot-catchup-entries=0", "--snapshot-count=1000", "--checkpoint-bytes=1048576"];
    block_on(Duration::from_secs(60 + puts / 100), async {
        let output = miss(puts, padding, &flags, true).await;
        assert!(server_is_etcd() || output.contains(INSTALLING), "no checkpoint came:\n{output}");
    });
}

/// Writers beside each other, so that their writes share syncs.
const WRITERS: usize = 8;

/// A follower misses so many writes and comes back, once the leader's disk has let go of them if that is waited for;
/// what it says meanwhile.
async fn miss(puts: u64, padding: usize, flags: &[&str], until_gone: bool) -> String {
    let mut cluster = Cluster::start(3, flags).await;
    let leader = cluster.leader().await;
    let away = (leader + 1) % 3;
    cluster.kill(away);
    let newest = if server_is_etcd() { 0 } else { segments(&cluster.members[leader].launch.data_dir).1 };
    let client = cluster.server(leader).connect().await;
    let began = tokio::time::Instant::now();
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let client = client.clone();
            tokio::task::spawn_local(async move {
                for number in (0..puts).skip(writer).step_by(WRITERS) {
                    let value = format!("v{number}{}", "=".repeat(padding));
                    client.put_kv(&format!("k{}", number % 100), &value).await.unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let wrote = began.elapsed();
    if until_gone && !server_is_etcd() {
        // For a while the log is held for whoever may be on its way back.
        until(PATIENCE, async || newest <= segments(&cluster.members[leader].launch.data_dir).0).await;
    }
    cluster.spawn(away);
    let began = tokio::time::Instant::now();
    let revision = cluster.settle().await;
    println!("{puts} writes behind, made in {wrote:?}: equal {:?} after its start", began.elapsed());
    assert_eq!(revision, i64::try_from(puts).unwrap() + 1);
    cluster.assert_equal_hashes(revision).await;
    // All of it: a process that ends waits for its log.
    cluster.members[away].terminate().await.output
}

#[test]
fn two_of_three_members_come_back_under_other_addresses_and_the_cluster_serves_before_it_is_told() {
    block_on(TEST_DEADLINE, async {
        let mut cluster = Cluster::start(3, &FAST).await;
        cluster.client(0).await.put_kv("before", "x").await.unwrap();
        for member in [1, 2] {
            cluster.terminate(member).await;
        }
        for member in [1, 2] {
            moved::move_and_spawn(&mut cluster, member);
        }
        for member in [1, 2] {
            cluster.wait_ready(member).await;
        }
        let client = cluster.client(0).await;
        // Whoever leads: the two know of each other by the one that stayed alone.
        for leader in [1, 2, 0] {
            cluster.lead(leader).await;
            moved::check_all_write(&mut cluster).await;
        }
        for member in [1, 2] {
            moved::update(&cluster, &client, member).await;
        }
        // By the list alone: the one that stayed is the only one that dials them at first.
        cluster.terminate(0).await;
        cluster.start_again(0).await;
        moved::check_all_write(&mut cluster).await;
    });
}

#[test]
fn two_members_that_began_anew_serve_and_the_third_of_the_old_history_is_refused_with_the_reason() {
    if server_is_etcd() {
        return;
    }
    for restarts in [0, 2] {
        block_on(TEST_DEADLINE, async {
            let mut cluster = Cluster::start(3, &FAST).await;
            for _restart in 0..restarts {
                for member in 0..3 {
                    cluster.terminate(member).await;
                }
                (0..3).for_each(|member| cluster.spawn(member));
                for member in 0..3 {
                    cluster.wait_ready(member).await;
                }
            }
            cluster.client(0).await.put_kv("old", "x").await.unwrap();
            cluster.settle().await;
            for member in 0..3 {
                cluster.terminate(member).await;
            }
            for member in [1, 2] {
                std::fs::remove_dir_all(&cluster.launch(member).data_dir).unwrap();
                cluster.spawn(member);
            }
            for member in [1, 2] {
                cluster.wait_ready(member).await;
            }
            let client = cluster.client(1).await;
            client.put_kv("new", "x").await.unwrap();
            cluster.spawn(0);
            let reason = "has begun anew with an empty data directory";
            for member in 0..3 {
                until(PATIENCE, async || cluster.output(member).contains(reason)).await;
            }
            // For more than an election.
            for round in 0..100 {
                client.put_kv("new", &format!("{round}")).await.unwrap();
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            assert!(!cluster.output(0).contains("ready to serve"), "{}", cluster.output(0));
            assert_eq!(client.get("old").await.unwrap(), None);
        });
    }
}

#[test]
fn a_new_cluster_is_not_forced_while_a_quorum_answers_and_leaves_the_others_alive() {
    if server_is_etcd() {
        return;
    }
    block_on(TEST_DEADLINE, async {
        let mut cluster = Cluster::start(3, &FAST).await;
        cluster.client(0).await.put_kv("key", "x").await.unwrap();
        cluster.terminate(0).await;
        let forced = cluster.launch(0).clone().flag("--force-new-cluster");
        let exit = forced.start_refused().await;
        exit.assert_says(&["are a quorum with this one", "--force-new-cluster-against-quorum"]);
        // One that is left with a single other one is still half of a quorum.
        cluster.terminate(2).await;
        let exit = forced.start_refused().await;
        exit.assert_says(&["are a quorum with this one"]);
        cluster.start_again(2).await;
        cluster.start_again(0).await;
        moved::check_all_write(&mut cluster).await;
        // Who means it gets it.
        cluster.terminate(0).await;
        let meant = forced.clone().flag("--force-new-cluster-against-quorum").start().await;
        assert_eq!(meant.connect().await.member_list(true).await.unwrap().members.len(), 1);
        drop(meant);
        // And who is alone needs no second flag.
        cluster.kill(1);
        cluster.kill(2);
        let alone = forced.start().await;
        assert_eq!(alone.connect().await.get("key").await.unwrap().as_deref(), Some(&b"x"[..]));
    });
}

#[test]
fn a_member_that_can_be_reached_in_one_direction_only_takes_part_and_makes_a_quorum() {
    if server_is_etcd() {
        return;
    }
    block_on(TEST_DEADLINE, async {
        let mut cluster = Cluster::start_with(3, &FAST, |member, launch| {
            if member == 2 {
                // Nobody listens there.
                launch.advertised_peer_port = Some(free_port());
            }
        })
        .await;
        moved::check_all_write(&mut cluster).await;
        cluster.kill(0);
        let client = cluster.client(2).await;
        eventually(async || client.put_kv("by two of three", "x").await).await;
        eventually(async || cluster.members[1].client().await.get("by two of three").await).await;
        cluster.start_again(0).await;
        moved::check_all_write(&mut cluster).await;
    });
}
