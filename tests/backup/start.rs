//! A start on the data directory of a real etcd, as it was killed, restored or stopped.

use std::cell::{Cell, RefCell};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::rc::Rc;

use pinion_kit::client::{Client, refusal};
use pinion_kit::pb::etcdserverpb as pb;
use pinion_kit::{
    Launch, Member, Server, TEST_DEADLINE, WorkDir, block_on, copy_tree, env_number, start_all, until,
};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::commands::restore;
use crate::etcds::{self, Etcd};
use crate::fill::{PASSWORD, fill, guard};
use crate::out::snapshot;
use crate::seen::{Seen, seen};

/// The same member on a copy of its directory, as another binary.
fn on_copy(work: &WorkDir, launch: &Launch, name: &str, binary: &Launch) -> Launch {
    let dir = work.join(name);
    copy_tree(&launch.data_dir, &dir);
    Launch { data_dir: dir, binary: binary.binary.clone(), flags: Vec::new(), ..launch.clone() }
}

async fn seen_as(launch: &Launch, is_guarded: bool) -> (Server, Client, Seen) {
    let server = launch.start().await;
    let mut client = server.connect().await;
    if is_guarded {
        client = client.logged_in("root", PASSWORD).await.unwrap();
    }
    let seen = seen(&client, 0).await;
    (server, client, seen)
}

/// An etcd with everything in it, killed while more is written.
async fn killed(etcd: &Etcd, work: &WorkDir, seed: u64, is_guarded: bool) -> Launch {
    let mut random = StdRng::seed_from_u64(seed);
    // With snapshots of its log, and without.
    let count = [30, 100, 100_000][random.random_range(0..3)];
    let launch = etcd.launch(work.join("etcd")).flag(format!("--snapshot-count={count}"));
    let server = launch.start().await;
    let mut client = server.connect().await;
    fill(&client, seed, 150).await;
    if is_guarded {
        guard(&client).await;
        client = client.logged_in("root", PASSWORD).await.unwrap();
    }
    let acknowledged = Rc::new(Cell::new(0));
    let tasks = tokio::task::LocalSet::new();
    tasks
        .run_until(async {
            for task in 0..4 {
                let (client, acknowledged) = (client.clone(), Rc::clone(&acknowledged));
                tokio::task::spawn_local(async move {
                    let mut random = StdRng::seed_from_u64(seed ^ task);
                    loop {
                        let key = format!("load-{}", random.random_range(0..30));
                        let done = match random.random_range(0..10) {
                            0 => {
                                let request =
                                    pb::DeleteRangeRequest { key: key.into(), ..Default::default() };
                                client.delete(&request).await.is_ok()
                            }
                            1 => {
                                let grant = pb::LeaseGrantRequest { id: 0, ttl: 5_000 };
                                client.lease_grant(&grant).await.is_ok()
                            }
                            2 => {
                                let revision = acknowledged.get() / 2;
                                let compaction = pb::CompactionRequest { revision, physical: false };
                                drop(client.compact(&compaction).await);
                                true
                            }
                            _ => client.put_kv(&key, "v").await.is_ok(),
                        };
                        if !done {
                            return;
                        }
                        acknowledged.set(acknowledged.get() + 1);
                    }
                });
            }
            let enough = random.random_range(20..300);
            until(TEST_DEADLINE, async || enough <= acknowledged.get()).await;
            drop(server);
        })
        .await;
    launch
}

#[test]
fn the_directory_of_an_etcd_killed_under_load_goes_on_as_with_etcd() {
    let rounds = env_number("PINION_BACKUP_ROUNDS", 2);
    let first = env_number("PINION_BACKUP_SEED", 1);
    for (etcd, seed) in etcds::all()
        .into_iter()
        .flat_map(|etcd| (first..first + rounds).map(move |seed| (etcd.clone(), seed)))
    {
        println!(
            "PINION_BACKUP_SEED={seed} PINION_BACKUP_ROUNDS=1 cargo test --test backup killed_under_load"
        );
        block_on(TEST_DEADLINE, async {
            let work = WorkDir::new();
            let is_guarded = seed % 2 == 0;
            let launch = killed(&etcd, &work, seed, is_guarded).await;
            let ours = on_copy(&work, &launch, "pinion", &Launch::new(work.join("x")));
            let files = fs::read(ours.data_dir.join("member/snap/db")).unwrap();
            let theirs = Launch { flags: Vec::new(), ..launch };
            let (server, client, there) = seen_as(&theirs, is_guarded).await;
            let members = client.member_list(true).await.unwrap();
            drop(server);
            let (server, client, here) = seen_as(&ours, is_guarded).await;
            assert_eq!(here, there, "seed {seed}, etcd {}", etcd.version);
            let own = client.member_list(true).await.unwrap();
            assert_eq!(own.header.as_ref().unwrap().cluster_id, members.header.as_ref().unwrap().cluster_id);
            let shown = |list: pb::MemberListResponse| -> Vec<_> {
                list.members.into_iter().map(|member| (member.id, member.name, member.peer_ur_ls)).collect()
            };
            assert_eq!(shown(own), shown(members));
            server.says("is imported once").await;
            client.put_kv("key-1", "after").await.unwrap();
            let hash = client.hash_kv(0).await.unwrap().hash;
            drop(server);
            // From now on it is ours, and etcd's files are as they were.
            assert!(fs::read(ours.data_dir.join("member/snap/db")).unwrap() == files);
            let (server, client, again) = seen_as(&ours, is_guarded).await;
            assert_eq!(client.hash_kv(0).await.unwrap().hash, hash);
            assert_eq!(again.revision, here.revision + 1);
            assert!(!server.output().contains("is imported once"), "{}", server.output());
        });
    }
}

#[test]
fn a_directory_that_etcds_tool_restored_is_served() {
    for etcd in etcds::all() {
        block_on(TEST_DEADLINE, async {
            let work = WorkDir::new();
            let source = Launch::new(work.join("source"));
            let server = source.start().await;
            let client = server.connect().await;
            fill(&client, 21, 150).await;
            guard(&client).await;
            let client = client.logged_in("root", PASSWORD).await.unwrap();
            let there = seen(&client, 0).await;
            let file = work.join("snapshot.db");
            fs::write(&file, snapshot(&client).await.unwrap()).unwrap();
            let launch = Launch::new(work.join("restored"));
            etcd.restore(&file, &launch);
            let (_server, client, here) = seen_as(&launch, true).await;
            assert_eq!(here, there, "etcd {}", etcd.version);
            // The same as our own restore, whose ids are etcd's.
            let own = Launch { data_dir: work.join("own"), ..launch.clone() };
            let members = client.member_list(true).await.unwrap();
            drop(_server);
            restore(&file, &own);
            let (_server, client, _) = seen_as(&own, true).await;
            let again = client.member_list(true).await.unwrap();
            assert_eq!(again.header.unwrap().cluster_id, members.header.unwrap().cluster_id);
            assert_eq!(again.members[0].id, members.members[0].id);
        });
    }
}

#[test]
fn three_members_killed_under_load_keep_every_acknowledged_put() {
    for etcd in etcds::all() {
        block_on(TEST_DEADLINE, async {
            let work = WorkDir::new();
            let members: Vec<Member> = ["a", "b", "c"].iter().map(|name| Member::new(&work, name)).collect();
            let listed: Vec<&Member> = members.iter().collect();
            let launches: Vec<Launch> = members
                .iter()
                .map(|member| {
                    let launch = member.with("new", &listed).flag("--snapshot-count=60");
                    Launch { binary: etcd.server.clone(), ..launch }
                })
                .collect();
            let servers = start_all(&launches).await;
            let acknowledged = Rc::new(RefCell::new(Vec::new()));
            let tasks = tokio::task::LocalSet::new();
            tasks
                .run_until(async {
                    for (number, server) in servers.iter().enumerate() {
                        let client = server.connect().await;
                        for task in 0..4 {
                            let (client, acknowledged) = (client.clone(), Rc::clone(&acknowledged));
                            tokio::task::spawn_local(async move {
                                for put in 0.. {
                                    let key = format!("{number}-{task}-{put}");
                                    if client.put_kv(&key, &key).await.is_err() {
                                        return;
                                    }
                                    acknowledged.borrow_mut().push(key);
                                }
                            });
                        }
                    }
                    until(TEST_DEADLINE, async || 300 <= acknowledged.borrow().len()).await;
                    drop(servers);
                })
                .await;
            let binary = Launch::new(work.join("x")).binary;
            let ours: Vec<Launch> = launches
                .iter()
                .map(|launch| Launch { binary: binary.clone(), flags: Vec::new(), ..launch.clone() })
                .collect();
            let servers = start_all(&ours).await;
            let client = servers[0].connect().await;
            let acknowledged = acknowledged.take();
            for key in &acknowledged {
                assert_eq!(client.get(key).await.unwrap().unwrap(), key.as_bytes(), "etcd {}", etcd.version);
            }
            let put = client.put_kv("after", "v").await.unwrap().header.unwrap();
            let mut hashes = Vec::new();
            for server in &servers {
                let client = server.connect().await;
                client.get("after").await.unwrap();
                hashes.push(client.hash_kv(put.revision).await.unwrap().hash);
            }
            assert!(hashes.iter().all(|hash| *hash == hashes[0]), "{hashes:?}");
        });
    }
}

#[test]
fn etcd_and_pinion_never_run_on_one_directory_whichever_comes_first_at_whichever_start() {
    for etcd in etcds::all() {
        block_on(TEST_DEADLINE, async {
            let work = WorkDir::new();
            let theirs = etcd.launch(work.join("etcd"));
            drop(theirs.start().await);
            let ours = Launch {
                client_port: pinion_kit::free_port(),
                peer_port: pinion_kit::free_port(),
                binary: Launch::new(work.join("x")).binary,
                ..theirs.clone()
            };
            let member = ours.data_dir.join("member");
            let segment = member.join("wal/0000000000000000-0000000000000000.wal");
            for start in ["the import", "a later start"] {
                let _server = ours.start().await;
                // etcd takes both for itself alone before it does anything.
                let locks = fs::read_to_string("/proc/locks").unwrap();
                for (kind, file) in [("FLOCK", &member.join("snap/db")), ("OFDLCK", &segment)] {
                    let inode = format!(":{} ", fs::metadata(file).unwrap().ino());
                    let is_held = |line: &str| line.contains(kind) && line.contains(&inode);
                    let file = file.display();
                    assert!(locks.lines().any(is_held), "{start}: {file} is free for an etcd:\n{locks}");
                }
            }
            let _server = theirs.start().await;
            ours.start_refused().await.assert_says(&["in use by an etcd that runs"]);
        });
    }
}

#[test]
fn a_log_of_its_own_directory_is_read_there_and_asked_for_where_it_is_not_given() {
    for etcd in etcds::all() {
        block_on(TEST_DEADLINE, async {
            let work = WorkDir::new();
            let wal = work.join("log");
            let launch = etcd.launch(work.join("etcd")).flag(format!("--wal-dir={}", wal.display()));
            let server = launch.start().await;
            let client = server.connect().await;
            fill(&client, 22, 60).await;
            let there = seen(&client, 0).await;
            drop(server);
            let binary = Launch::new(work.join("x")).binary;
            let without = Launch { binary: binary.clone(), flags: Vec::new(), ..launch.clone() };
            without.start_refused().await.assert_says(&["--wal-dir", "no log"]);
            let ours = Launch { binary, ..launch };
            let (_server, _, here) = seen_as(&ours, false).await;
            assert_eq!(here, there, "etcd {}", etcd.version);
        });
    }
}

/// Changes a file of a copy of the directory, and starts on it.
async fn refused_with(
    work: &WorkDir,
    launch: &Launch,
    name: &str,
    change: impl FnOnce(&Path),
    words: &[&str],
) {
    let ours = on_copy(work, launch, name, &Launch::new(work.join("x")));
    change(&ours.data_dir.join("member"));
    ours.start_refused().await.assert_says(words);
    assert!(!ours.data_dir.join("checkpoint").exists(), "{name}: nothing was begun");
}

#[test]
fn damage_a_running_etcd_and_what_is_not_known_are_refused_by_name() {
    for etcd in etcds::all() {
        block_on(TEST_DEADLINE, async {
            let work = WorkDir::new();
            let launch = etcd.launch(work.join("etcd"));
            let server = launch.start().await;
            let client = server.connect().await;
            fill(&client, 23, 60).await;
            let running = Launch {
                client_port: pinion_kit::free_port(),
                peer_port: pinion_kit::free_port(),
                binary: Launch::new(work.join("x")).binary,
                ..launch.clone()
            };
            running.start_refused().await.assert_says(&["in use"]);
            drop(server);
            let segment = |member: &Path| member.join("wal/0000000000000000-0000000000000000.wal");
            let flip = |path: &Path, at: usize| {
                let mut bytes = fs::read(path).unwrap();
                bytes[at] ^= 1;
                fs::write(path, bytes).unwrap();
            };
            refused_with(
                &work,
                &launch,
                "flipped",
                |member| flip(&segment(member), 600),
                &["sum is wrong", ".wal"],
            )
            .await;
            refused_with(
                &work,
                &launch,
                "no-log",
                |member| fs::remove_file(segment(member)).unwrap(),
                &["--wal-dir"],
            )
            .await;
            refused_with(
                &work,
                &launch,
                "cut",
                |member| fs::write(segment(member), &fs::read(segment(member)).unwrap()[..2_000]).unwrap(),
                &["the log ends with"],
            )
            .await;
            refused_with(
                &work,
                &launch,
                "no-database",
                |member| fs::write(member.join("snap/db"), [0; 4_096]).unwrap(),
                &["no database"],
            )
            .await;
            refused_with(
                &work,
                &launch,
                "cut-database",
                |member| {
                    let db = member.join("snap/db");
                    fs::write(&db, &fs::read(&db).unwrap()[..12_000]).unwrap();
                },
                &["cut short"],
            )
            .await;
        });
    }
}

#[test]
fn an_import_that_is_killed_at_any_moment_is_begun_anew() {
    let Some(etcd) = etcds::all().into_iter().next_back() else { return };
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let launch = killed(&etcd, &work, 24, false).await;
        let binary = Launch::new(work.join("x"));
        let whole = on_copy(&work, &launch, "whole", &binary);
        let (server, _, there) = seen_as(&whole, false).await;
        drop(server);
        let mut random = StdRng::seed_from_u64(env_number("PINION_BACKUP_SEED", 1));
        let ours = on_copy(&work, &launch, "killed", &binary);
        for _ in 0..env_number("PINION_BACKUP_KILLS", 8) {
            let server = ours.spawn();
            tokio::time::sleep(std::time::Duration::from_millis(random.random_range(5..600))).await;
            drop(server);
        }
        let (_server, client, here) = seen_as(&ours, false).await;
        assert_eq!(here, there);
        client.put_kv("key-1", "after").await.unwrap();
        let missing = pb::RangeRequest { key: "key-1".into(), revision: 1 << 40, ..Default::default() };
        assert_eq!(refusal(client.range(&missing).await).0, 11);
    });
}
