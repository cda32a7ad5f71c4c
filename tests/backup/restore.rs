//! `pinion snapshot restore` and what looks at files: round trips with real etcds, bad files, crashes.

use std::fs;
use std::time::Duration;

use pinion_kit::client::refusal;
use pinion_kit::pb::etcdserverpb as pb;
use pinion_kit::{Cluster, Launch, Member, TEST_DEADLINE, WorkDir, block_on, env_number, start_all};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::commands::{json, pinion, refused, restore};
use crate::etcds::{self, restore_flags};
use crate::fill::{PASSWORD, fill, fill_many, guard};
use crate::out::snapshot;
use crate::seen::{seen, tree};

#[test]
fn a_round_trip_etcd_to_pinion_to_etcd_keeps_history_leases_users_and_alarms() {
    let rounds = env_number("PINION_BACKUP_ROUNDS", 1);
    let first = env_number("PINION_BACKUP_SEED", 1);
    for (etcd, seed) in etcds::all()
        .into_iter()
        .flat_map(|etcd| (first..first + rounds).map(move |seed| (etcd.clone(), seed)))
    {
        println!("PINION_BACKUP_SEED={seed} PINION_BACKUP_ROUNDS=1 cargo test --test backup round_trip");
        block_on(TEST_DEADLINE, async {
            let work = WorkDir::new();
            let server = etcd.launch(work.join("etcd")).start().await;
            let mut client = server.connect().await;
            fill(&client, seed, 400).await;
            client.alarm(1, 1, 7).await.unwrap();
            guard(&client).await;
            client = client.logged_in("root", PASSWORD).await.unwrap();
            let there = seen(&client, 0).await;
            let file = work.join("etcd.db");
            etcd.save(server.client_port(), &file, Some(&format!("root:{PASSWORD}")));
            drop(server);

            let launch = Launch::new(work.join("pinion"));
            restore(&file, &launch);
            let told = json(&mut pinion(&["snapshot", "status", file.to_str().unwrap()]));
            assert_eq!(told["revision"], there.revision, "{told}");
            assert_eq!(format!("{:x}", told["hash"].as_u64().unwrap()), etcd.status(&file).0);
            let hash = json(&mut pinion(&["hashkv", file.to_str().unwrap()]));
            let dir = launch.data_dir.to_str().unwrap();
            assert_eq!(hash, json(&mut pinion(&["hashkv", dir])));
            let status = json(&mut pinion(&["status", dir]));
            assert_eq!(status["Revision"], there.revision, "{status}");
            assert_eq!(status["AuthEnabled"], true);

            let server = launch.start().await;
            let client = server.connect().await;
            let get = pb::RangeRequest { key: "key-1".into(), ..Default::default() };
            assert_eq!(refusal(client.range(&get).await).0, 3, "passwords are still asked for");
            let client = client.logged_in("root", PASSWORD).await.unwrap();
            assert_eq!(seen(&client, 0).await, there, "seed {seed}, etcd {} to pinion", etcd.version);

            let back = work.join("pinion.db");
            fs::write(&back, snapshot(&client).await.unwrap()).unwrap();
            let again = etcd.launch(work.join("again"));
            etcd.restore(&back, &again);
            let server = again.start().await;
            let client = server.connect().await.logged_in("root", PASSWORD).await.unwrap();
            assert_eq!(seen(&client, 0).await, there, "seed {seed}, pinion to etcd {}", etcd.version);
        });
    }
}

#[test]
fn many_keys_with_their_history_leases_and_users_make_the_round_trip_with_equal_hashes() {
    let Some(etcd) = etcds::all().into_iter().next_back() else { return };
    let keys = env_number("PINION_BACKUP_KEYS", 20_000);
    block_on(TEST_DEADLINE * 5, async {
        let work = WorkDir::new();
        let quota = "--quota-backend-bytes=8000000000";
        let server = etcd.launch(work.join("etcd")).flag(quota).start().await;
        let mut client = server.connect().await;
        fill_many(&client, keys).await;
        guard(&client).await;
        client = client.logged_in("root", PASSWORD).await.unwrap();
        let there = seen(&client, 0).await;
        let file = work.join("etcd.db");
        etcd.save(server.client_port(), &file, Some(&format!("root:{PASSWORD}")));
        drop(server);

        let launch = Launch::new(work.join("pinion"));
        restore(&file, &launch);
        let server = launch.start().await;
        let client = server.connect().await.logged_in("root", PASSWORD).await.unwrap();
        assert!(seen(&client, 0).await == there, "etcd {} to pinion", etcd.version);
        let back = work.join("pinion.db");
        fs::write(&back, snapshot(&client).await.unwrap()).unwrap();
        drop(server);
        let hash = json(&mut pinion(&["hashkv", back.to_str().unwrap()]));

        let again = etcd.launch(work.join("again")).flag(quota);
        etcd.restore(&back, &again);
        let server = again.start().await;
        let client = server.connect().await.logged_in("root", PASSWORD).await.unwrap();
        assert!(seen(&client, 0).await == there, "pinion to etcd {}", etcd.version);
        assert_eq!(hash["Hash"], client.hash_kv(0).await.unwrap().hash);
        println!("{keys} keys, revision {}, {} MB", there.revision, fs::metadata(&back).unwrap().len() >> 20);
    });
}

/// A member with a history, and the file of its snapshot.
async fn saved(work: &WorkDir, seed: u64, steps: usize) -> (std::path::PathBuf, crate::seen::Seen) {
    let server = Launch::new(work.join("source")).start().await;
    let client = server.connect().await;
    fill(&client, seed, steps).await;
    let file = work.join("snapshot.db");
    fs::write(&file, snapshot(&client).await.unwrap()).unwrap();
    (file, seen(&client, 0).await)
}

#[test]
fn three_members_restored_from_one_file_are_a_cluster_with_etcds_ids() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let (file, there) = saved(&work, 5, 200).await;
        let members: Vec<Member> = ["a", "b", "c"].iter().map(|name| Member::new(&work, name)).collect();
        let listed: Vec<&Member> = members.iter().collect();
        let launches: Vec<Launch> = members.iter().map(|member| member.with("existing", &listed)).collect();
        launches.iter().for_each(|launch| drop(restore(&file, launch)));
        let servers = start_all(&launches).await;
        let clients = [servers[0].connect().await, servers[1].connect().await, servers[2].connect().await];
        for client in &clients {
            assert_eq!(seen(client, there.revision).await, there);
        }
        let told = clients[0].member_list(true).await.unwrap();
        clients[1].put_kv("key-1", "after").await.unwrap();
        assert_eq!(clients[2].get("key-1").await.unwrap().unwrap(), "after");
        drop(servers);
        // The ids are those that etcd's tool computes.
        for etcd in etcds::all() {
            let mut launch = etcd.launch(work.join(&etcd.version)).named("a");
            (launch.peer_port, launch.initial_cluster) =
                (launches[0].peer_port, launches[0].initial_cluster.clone());
            etcd.restore(&file, &launch);
            let wal =
                fs::read(launch.data_dir.join("member/wal/0000000000000000-0000000000000000.wal")).unwrap();
            for member in &told.members {
                let id = format!("\"id\":{}", member.id);
                assert!(wal.windows(id.len()).any(|bytes| bytes == id.as_bytes()), "{id}");
            }
        }
    });
}

#[test]
fn a_raised_revision_is_compacted_and_new_revisions_come_behind_it() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let (file, there) = saved(&work, 6, 100).await;
        let launch = Launch::new(work.join("raised"));
        let bump = ["--bump-revision=1000000", "--mark-compacted"];
        etcds::run(pinion(&["snapshot", "restore"]).arg(&file).args(restore_flags(&launch)).args(bump));
        let server = launch.start().await;
        let client = server.connect().await;
        let raised = there.revision + 1_000_000;
        let told = client.hash_kv(0).await.unwrap();
        assert_eq!((told.compact_revision, told.header.unwrap().revision), (raised, raised));
        let old = pb::RangeRequest { key: "key-1".into(), revision: there.revision, ..Default::default() };
        assert_eq!(refusal(client.range(&old).await).0, 11);
        let put = client.put_kv("key-1", "v").await.unwrap();
        assert_eq!(put.header.unwrap().revision, raised + 1);
    });
}

#[test]
fn bad_files_and_directories_are_refused_by_name_and_leave_nothing() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let (file, _) = saved(&work, 7, 60).await;
        let whole = fs::read(&file).unwrap();
        let mut number = 0;
        let mut check = |bytes: &[u8], extra: &[&str], words: &str| {
            number += 1;
            let bad = work.join(&format!("bad-{number}.db"));
            fs::write(&bad, bytes).unwrap();
            let launch = Launch::new(work.join(&format!("target-{number}")));
            let mut command = pinion(&["snapshot", "restore"]);
            let said = refused(command.arg(&bad).args(restore_flags(&launch)).args(extra));
            assert!(said.contains(words), "{words:?}: {said}");
            assert!(!launch.data_dir.exists(), "{said}");
        };
        check(&whole[..whole.len() - 32], &[], "missing hash");
        check(&whole[..whole.len() - 512], &[], "expected sha256");
        check(&whole[..whole.len() / 2], &["--skip-hash-check"], "cut short");
        check(b"", &[], "missing hash");
        check(b"", &["--skip-hash-check"], "no bbolt file");
        check(&[7; 10_000], &["--skip-hash-check"], "no bbolt file");
        let mut flipped = whole.clone();
        flipped[whole.len() / 3] ^= 4;
        check(&flipped, &[], "expected sha256");
        let mut later = whole.clone();
        let at = later.windows(5).position(|bytes| bytes == b"3.7.0").unwrap();
        later[at + 2] = b'8';
        let at = later.windows(19).position(|bytes| bytes == b"storageVersion3.7.0");
        if let Some(at) = at {
            later[at + 16] = b'8';
        }
        check(&later, &["--skip-hash-check"], "3.8.0");
        // A database without its hash is taken if that is wanted.
        let copy = work.join("copy.db");
        fs::write(&copy, &whole[..whole.len() - 32]).unwrap();
        let launch = Launch::new(work.join("copied"));
        etcds::run(
            pinion(&["snapshot", "restore", "--skip-hash-check"]).arg(&copy).args(restore_flags(&launch)),
        );
        // What is there stays.
        let before = tree(&launch.data_dir);
        let again = refused(pinion(&["snapshot", "restore"]).arg(&file).args(restore_flags(&launch)));
        assert!(again.contains("not empty"), "{again}");
        assert_eq!(tree(&launch.data_dir), before);
        let missing = refused(
            pinion(&["snapshot", "restore", "/nonexistent/file"]).args(["--data-dir=/nonexistent/x"]),
        );
        assert!(missing.contains("/nonexistent/file"), "{missing}");
        let status = refused(&mut pinion(&["status", work.join("nothing").to_str().unwrap()]));
        assert!(status.contains("nothing"), "{status}");
    });
}

#[test]
fn a_directory_in_use_is_not_looked_at_and_one_that_was_is_as_it_was() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let launch = Launch::new(work.join("pinion"));
        let server = launch.start().await;
        let client = server.connect().await;
        fill(&client, 8, 100).await;
        let there = client.hash_kv(0).await.unwrap();
        let dir = launch.data_dir.to_str().unwrap().to_owned();
        for command in ["status", "hashkv"] {
            let said = refused(&mut pinion(&[command, &dir]));
            assert!(said.contains("in use"), "{said}");
        }
        drop(server);
        let before = tree(&launch.data_dir);
        let hash = json(&mut pinion(&["hashkv", &dir]));
        assert_eq!(hash["Hash"], there.hash, "{hash}");
        let status = json(&mut pinion(&["status", &dir]));
        assert_eq!(status["Revision"], there.header.unwrap().revision, "{status}");
        assert!(tree(&launch.data_dir) == before, "looking changes nothing");
    });
}

#[test]
fn a_restore_that_is_killed_at_any_moment_leaves_a_whole_directory_or_none_that_starts() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let (file, there) = saved(&work, 9, 600).await;
        let began = tokio::time::Instant::now();
        restore(&file, &Launch::new(work.join("whole")));
        let took = began.elapsed();
        let seed = env_number("PINION_BACKUP_SEED", 1);
        let mut random = StdRng::seed_from_u64(seed);
        let (mut none, mut refusals, mut whole) = (0, 0, 0);
        for round in 0..env_number("PINION_BACKUP_KILLS", 12) {
            let launch = Launch::new(work.join(&format!("killed-{round}")));
            let mut command = pinion(&["snapshot", "restore"]);
            let mut child = command
                .arg(&file)
                .args(restore_flags(&launch))
                .stderr(std::process::Stdio::null())
                .spawn()
                .unwrap();
            let after = took.mul_f64(random.random_range(0.2..1.1));
            tokio::time::sleep(after.max(Duration::from_millis(1))).await;
            child.kill().unwrap();
            child.wait().unwrap();
            if !launch.data_dir.exists() {
                none += 1;
                continue;
            }
            if launch.data_dir.join("UNFINISHED").exists() {
                let exit = launch.start_refused().await;
                exit.assert_says(&["restore was begun", "did not end"]);
                refusals += 1;
                continue;
            }
            let names = fs::read_dir(&launch.data_dir).unwrap().count();
            if !launch.data_dir.join("IDENTITY").exists() {
                assert!(names <= 2, "nothing but the lock is there before the mark");
                none += 1;
                continue;
            }
            let server = launch.start().await;
            let client = server.connect().await;
            assert_eq!(seen(&client, 0).await, there, "seed {seed}, round {round}");
            whole += 1;
        }
        println!("{none} not begun, {refusals} refused, {whole} whole");
    });
}

#[test]
fn a_snapshot_of_any_member_of_a_cluster_is_that_of_all() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let mut cluster = Cluster::start(3, &[]).await;
        let client = cluster.client(0).await;
        fill(&client, 10, 150).await;
        let revision = cluster.settle().await;
        for member in 0..3 {
            let file = work.join(&format!("{member}.db"));
            fs::write(&file, snapshot(&cluster.client(member).await).await.unwrap()).unwrap();
            let hash = json(&mut pinion(&["hashkv", file.to_str().unwrap()]));
            let there = client.hash_kv(revision).await.unwrap();
            assert_eq!(
                (&hash["Hash"], &hash["HashRevision"]),
                (&there.hash.into(), &revision.into()),
                "{hash}"
            );
        }
    });
}
