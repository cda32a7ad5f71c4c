//! Members that others do not find where they were, under load: moved, behind a firewall that is open one way,
//! without names. Each is judged as a whole.
//!
//! Each prints how long the cluster or the member took to serve. `PINION_NAMES_DEAD_S` (6) is how long names
//! lead nowhere. With `PINION_TEST_BIN` naming an etcd its times are printed instead.

use std::time::Duration;

use pinion_kit::pb::etcdserverpb as pb;
use pinion_kit::{
    Cluster, PATIENCE, TEST_DEADLINE, block_on, env_number, eventually, free_port, segments, server_is_etcd,
    until,
};
use tokio::time::Instant;

use crate::load::Load;
use crate::namespaces::{By, Wire, first_place, is_possible, name_of};
use crate::{FAST, INSTALLING, judge, moved, seeded};

/// A checkpoint is needed soon after a member has gone.
const SHORT_LOG: [&str; 3] =
    ["--snapshot-catchup-entries=0", "--snapshot-count=500", "--checkpoint-bytes=1048576"];

/// Both sides say so of members whose data directories are younger than what others know of them.
const BEGUN_ANEW: &str = "has begun anew with an empty data directory";

/// Longer than what a leader holds in memory, in writes of a megabyte.
const MISSED_MIB: usize = 72;

/// Asks a member to write more than a leader keeps for one that is away, under a condition that does not hold:
/// it is in the log, and the history that is judged knows nothing of it. Comes back when that member's disk has let go
/// of it: for a while the log is held for whoever may be on its way back.
async fn outgrow_the_log(cluster: &Cluster, member: usize) {
    let (_, newest) = segments_of(cluster, member);
    let client = cluster.client(member).await;
    let put = pb::PutRequest { key: "large".into(), value: vec![b'='; 1 << 20].into(), ..Default::default() };
    let never = pb::Compare {
        result: pb::compare::CompareResult::Greater.into(),
        target: pb::compare::CompareTarget::Version.into(),
        key: "large".into(),
        target_union: Some(pb::compare::TargetUnion::Version(0)),
        ..Default::default()
    };
    let write = pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put)) };
    let txn = pb::TxnRequest { compare: vec![never], success: vec![write], failure: vec![] };
    for _ in 0..MISSED_MIB {
        let answer: pb::TxnResponse =
            eventually(async || client.unary("/etcdserverpb.KV/Txn", &txn).await).await;
        assert!(!answer.succeeded);
    }
    until(PATIENCE, async || newest <= segments_of(cluster, member).0).await;
}

/// The oldest and the newest segment of the log on a member's disk; etcd's is not looked at.
fn segments_of(cluster: &Cluster, member: usize) -> (u32, u32) {
    if server_is_etcd() { (0, 0) } else { segments(&cluster.members[member].launch.data_dir) }
}

#[test]
fn a_member_that_nobody_can_dial_gets_a_checkpoint_over_a_connection_that_it_opens() {
    block_on(TEST_DEADLINE, async {
        let flags = [&FAST[..], &SHORT_LOG[..]].concat();
        // Nobody listens where the third says that it is.
        let nowhere = free_port();
        let mut cluster = Cluster::start_with(3, &flags, |member, launch| {
            launch.advertised_peer_port = (member == 2).then_some(nowhere);
        })
        .await;
        cluster.lead(0).await;
        for round in 0..2 {
            cluster.kill(2);
            outgrow_the_log(&cluster, 0).await;
            cluster.client(0).await.put_kv("round", &round.to_string()).await.unwrap();
            let began = Instant::now();
            cluster.start_again(2).await;
            until(PATIENCE, async || server_is_etcd() || cluster.output(2).contains(INSTALLING)).await;
            println!("a member that nobody can dial serves {:?} after its start", began.elapsed());
            let revision = cluster.settle().await;
            cluster.assert_equal_hashes(revision).await;
        }
        if !server_is_etcd() {
            cluster.server(2).says("dialed a peer that has a checkpoint for it").await;
        }
    });
}

#[test]
fn two_of_three_members_move_and_move_back_under_load_and_nothing_is_lost() {
    if !is_possible() {
        return;
    }
    let (_, seed, _) = seeded("move_and_move_back", 1);
    block_on(TEST_DEADLINE, async {
        let (mut cluster, wire) = Wire::cluster(&FAST, By::Address).await;
        let load = Load::start(&cluster, 2, Duration::from_millis(10), seed);
        load.wait_write().await;
        let moved_to = |member| first_place(member) + 50;
        for (way, from, to) in [
            ("moved", first_place as fn(usize) -> u8, moved_to as fn(usize) -> u8),
            ("moved back", moved_to, first_place),
        ] {
            for member in [1, 2] {
                cluster.terminate(member).await;
            }
            for member in [1, 2] {
                wire.move_to(&mut cluster, member, from(member), to(member));
                cluster.spawn(member);
            }
            let began = Instant::now();
            load.wait_write().await;
            println!("two of three {way}: a write is accepted {:?} after their start", began.elapsed());
            for member in [1, 2] {
                cluster.wait_ready(member).await;
            }
            println!("two of three {way}: both serve {:?} after their start", began.elapsed());
            let client = cluster.client(0).await;
            for member in [1, 2] {
                moved::update_to(&cluster, &client, member, wire.peer_url(to(member))).await;
            }
        }
        let record = load.finish(&cluster).await;
        judge(&mut cluster, &record).await;
    });
}

#[test]
fn a_member_behind_a_one_way_firewall_takes_part_under_load_and_catches_up_by_a_checkpoint() {
    if !is_possible() {
        return;
    }
    let (_, seed, _) = seeded("one_way_firewall", 1);
    block_on(TEST_DEADLINE, async {
        let flags = [&FAST[..], &SHORT_LOG[..]].concat();
        let (mut cluster, wire) = Wire::cluster(&flags, By::Address).await;
        let load = Load::start(&cluster, 2, Duration::from_millis(10), seed);
        load.wait_write().await;
        wire.shut_in(2, 3);
        let began = Instant::now();
        let client = cluster.client(2).await;
        eventually(async || client.get("shut in").await).await;
        println!(
            "one-way firewall: a linearizable read through the member behind it {:?} after it went up",
            began.elapsed()
        );
        // Nobody waits until the kernel gives up what is on its way into the void.
        let is_said =
            |member| cluster.output(member).contains("what is sent to the peer is not acknowledged");
        until(PATIENCE, async || server_is_etcd() || is_said(0) || is_said(1)).await;
        cluster.lead(2).await;
        load.wait_write().await;
        cluster.lead(0).await;
        cluster.kill(2);
        outgrow_the_log(&cluster, 0).await;
        let began = Instant::now();
        cluster.start_again(2).await;
        println!("one-way firewall: the member serves {:?} after its start", began.elapsed());
        until(PATIENCE, async || server_is_etcd() || cluster.output(2).contains(INSTALLING)).await;
        let record = load.finish(&cluster).await;
        judge(&mut cluster, &record).await;
    });
}

#[test]
fn while_all_names_are_dead_the_cluster_serves_and_members_that_restart_in_turn_serve_again() {
    if !is_possible() {
        return;
    }
    let (_, seed, _) = seeded("names_are_dead", 1);
    let dead = Duration::from_secs(env_number("PINION_NAMES_DEAD_S", 6));
    block_on(TEST_DEADLINE + dead, async {
        let (mut cluster, wire) = Wire::cluster(&FAST, By::Name).await;
        let load = Load::start(&cluster, 2, Duration::from_millis(10), seed);
        load.wait_write().await;
        wire.forget_names(3);
        let until_then = Instant::now() + dead;
        // Connections that live need no name, and a member that comes back is found where it was. The second one
        // that comes back is looked for by one that has not seen any name lead anywhere in its life.
        for member in [2, 1, 0] {
            cluster.kill(member);
            load.wait_write().await;
            let began = Instant::now();
            cluster.start_again(member).await;
            println!("all names dead: m{member} serves {:?} after its start", began.elapsed());
        }
        while Instant::now() < until_then {
            load.wait_write().await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        wire.tell_names(&std::array::from_fn::<_, 3, _>(first_place));
        let record = load.finish(&cluster).await;
        judge(&mut cluster, &record).await;
    });
}

#[test]
fn a_name_that_leads_to_a_stranger_to_oneself_to_many_or_to_ipv6_alone_is_said_and_survived() {
    if server_is_etcd() || !is_possible() {
        return;
    }
    block_on(TEST_DEADLINE, async {
        let (mut cluster, wire) = Wire::cluster(&FAST, By::Name).await;
        let line = |member: usize, place: u8| format!("{} {}\n", wire.address(place), name_of(member));
        let right: String = (0..3).map(|member| line(member, first_place(member))).collect();
        // 100 addresses, of which the last is right; nobody is at the others.
        let many: String = (150..249).map(|place| line(2, place)).collect();
        let cases = [
            // What the file of m0 says of m2.
            ("to a stranger", line(2, first_place(1)), Some("the name or address where")),
            ("to itself", line(2, first_place(0)), Some("the name or address where")),
            ("to 100 addresses", many + &line(2, first_place(2)), None),
            ("to IPv6 alone", format!("2001:db8::2 {}\n", name_of(2)), None),
        ];
        for (way, lines, said) in cases {
            cluster.terminate(0).await;
            wire.write_hosts(&[0], &(line(0, first_place(0)) + &line(1, first_place(1)) + &lines));
            let began = Instant::now();
            cluster.start_again(0).await;
            println!("m2's name leads m0 {way}: m0 serves {:?} after its start", began.elapsed());
            moved::check_all_write(&mut cluster).await;
            if let Some(said) = said {
                until(PATIENCE, async || cluster.output(0).contains(said)).await;
                let lines = cluster.output(0).lines().filter(|line| line.contains(said)).count();
                assert!(
                    lines <= 2,
                    "once as the one that dialed, once as the one that was:\n{}",
                    cluster.output(0)
                );
            }
        }
        cluster.terminate(0).await;
        wire.write_hosts(&[0], &right);
        cluster.start_again(0).await;
        moved::check_all_write(&mut cluster).await;
    });
}

#[test]
fn disks_of_two_lost_while_the_third_is_away_make_no_second_history_and_the_advice_brings_it_back() {
    if !is_possible() || server_is_etcd() {
        return;
    }
    let (_, seed, _) = seeded("disks_of_two", 1);
    block_on(TEST_DEADLINE, async {
        let (mut cluster, wire) = Wire::cluster(&FAST, By::Address).await;
        cluster.client(0).await.put_kv("old", "x").await.unwrap();
        cluster.settle().await;
        (0..3).for_each(|member| cluster.kill(member));
        for member in [1, 2] {
            std::fs::remove_dir_all(&cluster.launch(member).data_dir).unwrap();
            cluster.spawn(member);
        }
        for member in [1, 2] {
            cluster.wait_ready(member).await;
        }
        let load = Load::start(&cluster, 2, Duration::from_millis(10), seed);
        load.wait_write().await;
        cluster.spawn(0);
        for member in 0..3 {
            until(PATIENCE, async || cluster.output(member).contains(BEGUN_ANEW)).await;
        }
        // Some elections long, under load.
        for _write in 0..100 {
            load.wait_write().await;
        }
        assert!(!cluster.output(0).contains("ready to serve"), "{}", cluster.output(0));
        let voter = cluster.client(1).await;
        assert_eq!(voter.get("old").await.unwrap(), None);
        cluster.terminate(0).await;
        cluster.begin_anew(0, &voter, &wire.peer_url(first_place(0))).await;
        cluster.wait_ready(0).await;
        load.wait_write().await;
        let record = load.finish(&cluster).await;
        judge(&mut cluster, &record).await;
    });
}
